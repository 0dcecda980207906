/* Gradients, and changes of float weights, on the wire: rows of floats as F32, BF16 or INT8. BF16 and INT8 are rounded
 * stochastically, so that the mean is kept; INT8 has a float scale for each block of 128 columns. The random numbers
 * are Philox4x32-10 (Salmon et al., SC 2011), a function of (seed, step, parameter, rank, row, column): a run that is
 * repeated has the same bits. A block with a number that is not finite comes out as NaN. */
#ifndef WIRE_H
#define WIRE_H

#include <stddef.h>
#include <stdint.h>

enum wire_format { WIRE_F32 = 1, WIRE_BF16 = 2, WIRE_INT8 = 3 };

/* What the random numbers of a parameter's gradient depend on. */
struct wire_key {
    uint64_t seed, step;
    size_t parameter;
    int rank; /* of the one that sends */
};

/* Bytes of a row of `cols` numbers. */
size_t wire_row_bytes(enum wire_format format, size_t cols);

/* gradient[cols] of row number `row` of its parameter, to wire_row_bytes bytes. */
void wire_pack_row(enum wire_format format, const struct wire_key *key, size_t row, const float *gradient, size_t cols,
                   unsigned char *bytes);

/* The same bytes as numbers, added to sum[cols]. */
void wire_add_row(enum wire_format format, const unsigned char *bytes, size_t cols, float *sum);

/* Rows side by side. `threads` share them where the programs are built with OpenMP; the bits do not depend on it. */
struct wire_rows {
    enum wire_format format;
    size_t first, count, cols; /* rows [first, first + count) of their parameter */
    int threads;
};

/* gradient[count][cols] to count * wire_row_bytes bytes. */
void wire_pack_rows(const struct wire_rows *rows, const struct wire_key *key, const float *gradient,
                    unsigned char *bytes);

/* The same bytes as numbers, added to sum[count][cols]. */
void wire_add_rows(const struct wire_rows *rows, const unsigned char *bytes, float *sum);

/* sum[count][cols] of as many messages as there are, in their order; one begins `apart` bytes after the other. */
void wire_sum_rows(const struct wire_rows *rows, size_t messages, const unsigned char *bytes, size_t apart, float *sum);

#endif
