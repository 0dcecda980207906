/* A matrix in one of the paper's storage environments, F32, BF16 or FP8: the gradient buffer of a parameter, and the
 * saved input of a recomputed block. */
#ifndef DQT_SRC_FORMAT_GRADIENT_H
#define DQT_SRC_FORMAT_GRADIENT_H

#include "core/memory.h"
#include "core/rng.h"

struct gradient {
    int format; /* DQT_FLOAT_* */
    size_t rows, cols;
    void *data;       /* [rows][cols] of 4, 2 or 1 bytes */
    float *row_scale; /* FP8: power of two per row; NULL otherwise */
};

/* Places the buffers of g (format, rows and cols are set) in the arena. */
void gradient_place(struct gradient *g, struct arena *a);

void gradient_zero(struct gradient *g);

/* Adds tile[rows][ld] to rows [row, row + rows). F32: plain. BF16, FP8: decode, add, round stochastically with numbers
 * of (rng, element index). scratch: cols floats (unused for F32). Rows may be added from several threads if they
 * differ. */
void gradient_add_rows(struct gradient *g, const struct rng *rng, size_t row, size_t rows, const float *tile, size_t ld,
                       float *scratch);

/* Rows as floats, out[rows][cols]. */
void gradient_read_rows(const struct gradient *g, size_t row, size_t rows, float *out);
/* Sets rows; where the format needs rounding, stochastically with numbers of (rng, element index), or with rng NULL to
 * nearest. */
void gradient_write_rows(struct gradient *g, const struct rng *rng, size_t row, size_t rows, const float *in);

#endif
