/* The instances of kernels/update_template.h. */
#ifndef DQT_KERNELS_UPDATE_ISA_H
#define DQT_KERNELS_UPDATE_ISA_H

#include "kernels/update_kernels.h"

void update_row_scalar(const struct update_plan *p, const struct update_row *row, struct update_result *result);
double update_sum_squares_scalar(const float *g, size_t count);
void update_add_squares_scalar(const float *g, size_t count, float factor, float *sums);

void update_row_avx2(const struct update_plan *p, const struct update_row *row, struct update_result *result);
double update_sum_squares_avx2(const float *g, size_t count);
void update_add_squares_avx2(const float *g, size_t count, float factor, float *sums);

void update_row_avx512(const struct update_plan *p, const struct update_row *row, struct update_result *result);
double update_sum_squares_avx512(const float *g, size_t count);
void update_add_squares_avx512(const float *g, size_t count, float factor, float *sums);

#endif
