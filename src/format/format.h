/* Weight formats: one table describes them, in format.c. Everything else asks what a format is like, never which one it
 * is; a format is added by a member of `enum format`, a row of the table and DQT_FORMAT_* in dqt.h. */
#ifndef DQT_FORMAT_FORMAT_H
#define DQT_FORMAT_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/rng.h"
#include "dqt.h"
#include "format/planes.h"

/* In no order that means anything. The numbers of files and of the interface are the table's public ones. */
enum format {
    FORMAT_F32,
    FORMAT_BF16,
    FORMAT_INT8,
    FORMAT_INT6,
    FORMAT_INT5,
    FORMAT_INT4,
    FORMAT_INT3,
    FORMAT_INT2,
    FORMAT_TERNARY
};

size_t format_count(void); /* formats are 0 .. format_count() - 1 */

/* DQT_FORMAT_* other than SAME to a format; false: there is none. */
bool format_from_public(int32_t number, enum format *out);
int32_t format_public(enum format format);

const char *format_name(enum format format);
const char *format_public_name(int32_t number); /* "unknown" where there is none */

/* Integer codes with a scale; else floats of format_float_bytes. */
bool format_is_code(enum format format);
size_t format_float_bytes(enum format format);            /* of an element: 4 for f32, 2 for bf16; 0 for codes */
const struct packing *format_packing(enum format format); /* NULL for floats */
int format_min(enum format format);                       /* Qn; 0 for floats */
int format_max(enum format format);                       /* Qp; 0 for floats */

/* a holds fewer different values than b. */
bool format_fewer_values(enum format a, enum format b);

/* Bytes of a pack block of 64 codes; 0 for floats. Rows start at whole blocks, the last one is padded with code 0;
 * float rows are plain and not padded. */
size_t format_block_bytes(enum format format);
size_t format_row_bytes(enum format format, size_t cols);

/* DQT_SCALE_*: what AUTO stands for where weights have this format (measured, docs/results.md); and the rule for
 * weights that are re-quantised to it for computing, of a tensor whose own rule is `rule`. */
int format_default_scale_rule(enum format format);
int format_compute_scale_rule(enum format format, int rule);
/* Codes whose scale is the mean magnitude of the weights by definition: those of BitNet b1.58. */
bool format_has_mean_scale(enum format format);

/* Of codes: what normally distributed weights lose to them with the one scale of least error, as the root of the mean
 * squared error over that of the mean square. */
double format_normal_error(enum format format);

/* DQT_GGUF_* types that hold the format's weights exactly, the one to choose first first; ends with DQT_GGUF_AUTO. */
const int *format_gguf_types(enum format format);

static inline float bf16_to_f32(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Nearest, ties to even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

/* Stochastic: adds 16 random bits below the kept ones. Finite input may round up to infinity only at the very top. */
static inline uint16_t f32_to_bf16_stochastic(float f, uint32_t random) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7f800000u) == 0x7f800000u) return f32_to_bf16(f);
    return (uint16_t)((u + (random >> 16)) >> 16);
}

/* in[count] rounded to bf16: stochastically with the numbers of elements first, first + 1, ... or, rng NULL, to
 * nearest. */
void bf16_store(const float *in, size_t count, uint64_t first, const struct rng *rng, uint16_t *out);

#endif
