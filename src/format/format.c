#include "format/format.h"

#include <limits.h>

#include "core/size.h"

enum { MAX_GGUF_TYPES = 6 };

/* code = (sum of planes) + bias; a scale of such a format is a tensor's, a row's or a group's. */
struct row {
    const char *name;
    int32_t number;      /* DQT_FORMAT_* */
    int float_bytes;     /* 0: codes, packed as `packing` says */
    int scale_rule;      /* what DQT_SCALE_AUTO stands for */
    bool mean_compute;   /* re-quantising to it takes AbsMean whatever the rule but MSE (BitNet b1.58, section 2) */
    double normal_error; /* format_normal_error: integrated numerically */
    int gguf[MAX_GGUF_TYPES];
    struct packing packing;
};

static const struct row table[] = {
    [FORMAT_F32] = {.name = "f32",
                    .number = DQT_FORMAT_F32,
                    .float_bytes = 4,
                    .scale_rule = DQT_SCALE_ABSMEAN,
                    .gguf = {DQT_GGUF_F32}},
    [FORMAT_BF16] = {.name = "bf16",
                     .number = DQT_FORMAT_BF16,
                     .float_bytes = 2,
                     .scale_rule = DQT_SCALE_ABSMEAN,
                     .gguf = {DQT_GGUF_F16}},
    [FORMAT_INT8] = {.name = "int8",
                     .number = DQT_FORMAT_INT8,
                     .scale_rule = DQT_SCALE_SIGMA,
                     .normal_error = 0.00936,
                     .gguf = {DQT_GGUF_Q8_0},
                     .packing = {-128, 127, 0, 1, {{PLANE_BYTES, 0}}}},
    [FORMAT_INT6] = {.name = "int6",
                     .number = DQT_FORMAT_INT6,
                     .scale_rule = DQT_SCALE_ABSMEAN,
                     .normal_error = 0.0323,
                     .gguf = {DQT_GGUF_Q8_0},
                     .packing = {-32, 31, -32, 2, {{PLANE_NIBBLES, 0}, {PLANE_CRUMBS, 4}}}},
    [FORMAT_INT5] = {.name = "int5",
                     .number = DQT_FORMAT_INT5,
                     .scale_rule = DQT_SCALE_ABSMEAN,
                     .normal_error = 0.0594,
                     .gguf = {DQT_GGUF_Q5_0, DQT_GGUF_Q8_0},
                     .packing = {-16, 15, -16, 2, {{PLANE_NIBBLES, 0}, {PLANE_BITS, 4}}}},
    [FORMAT_INT4] = {.name = "int4",
                     .number = DQT_FORMAT_INT4,
                     .scale_rule = DQT_SCALE_ABSMEAN,
                     .normal_error = 0.1089,
                     .gguf = {DQT_GGUF_Q4_0, DQT_GGUF_Q5_0, DQT_GGUF_Q8_0},
                     .packing = {-8, 7, -8, 1, {{PLANE_NIBBLES, 0}}}},
    [FORMAT_INT3] = {.name = "int3",
                     .number = DQT_FORMAT_INT3,
                     .scale_rule = DQT_SCALE_ABSMEAN,
                     .normal_error = 0.2016,
                     .gguf = {DQT_GGUF_Q4_0, DQT_GGUF_Q5_0, DQT_GGUF_Q8_0},
                     .packing = {-4, 3, -4, 2, {{PLANE_CRUMBS, 0}, {PLANE_BITS, 2}}}},
    [FORMAT_INT2] = {.name = "int2",
                     .number = DQT_FORMAT_INT2,
                     .scale_rule = DQT_SCALE_ABSMEAN,
                     .normal_error = 0.3866,
                     .gguf = {DQT_GGUF_Q4_0, DQT_GGUF_Q5_0, DQT_GGUF_Q8_0},
                     .packing = {-2, 1, -2, 1, {{PLANE_CRUMBS, 0}}}},
    [FORMAT_TERNARY] = {.name = "ternary",
                        .number = DQT_FORMAT_TERNARY,
                        .scale_rule = DQT_SCALE_ABSMEAN,
                        .mean_compute = true,
                        .normal_error = 0.4361,
                        .gguf = {DQT_GGUF_TQ2_0, DQT_GGUF_TQ1_0, DQT_GGUF_Q4_0, DQT_GGUF_Q5_0, DQT_GGUF_Q8_0},
                        .packing = {-1, 1, -1, 1, {{PLANE_CRUMBS, 0}}}},
};

const struct packing plain_bytes = {-128, 127, 0, 1, {{PLANE_BYTES, 0}}};

size_t format_count(void) {
    return sizeof table / sizeof *table;
}

static const struct row *row(enum format format) {
    DQT_ASSERT((size_t)format < format_count());
    return &table[format];
}

bool format_from_public(int32_t number, enum format *out) {
    for (size_t i = 0; i < format_count() && number != DQT_FORMAT_SAME; i++)
        if (table[i].number == number) {
            *out = (enum format)i;
            return true;
        }
    return false;
}

int32_t format_public(enum format format) {
    return row(format)->number;
}

const char *format_name(enum format format) {
    return row(format)->name;
}

const char *format_public_name(int32_t number) {
    enum format format;
    return format_from_public(number, &format) ? format_name(format) : "unknown";
}

bool format_is_code(enum format format) {
    return row(format)->float_bytes == 0;
}

size_t format_float_bytes(enum format format) {
    return (size_t)row(format)->float_bytes;
}

const struct packing *format_packing(enum format format) {
    return format_is_code(format) ? &row(format)->packing : NULL;
}

int format_min(enum format format) {
    return row(format)->packing.min;
}

int format_max(enum format format) {
    return row(format)->packing.max;
}

/* Different values; of floats, more than of any codes. */
static int values(enum format format) {
    return format_is_code(format) ? packing_range(&row(format)->packing) + 1 : INT_MAX - 4 + row(format)->float_bytes;
}

bool format_fewer_values(enum format a, enum format b) {
    return values(a) < values(b);
}

size_t format_block_bytes(enum format format) {
    return packing_block_bytes(&row(format)->packing);
}

size_t format_row_bytes(enum format format, size_t cols) {
    if (!format_is_code(format)) return cols * format_float_bytes(format);
    return ceil_div(cols, PACK_BLOCK) * format_block_bytes(format);
}

int format_default_scale_rule(enum format format) {
    return row(format)->scale_rule;
}

int format_compute_scale_rule(enum format format, int rule) {
    return row(format)->mean_compute && rule != DQT_SCALE_MSE ? DQT_SCALE_ABSMEAN : rule;
}

bool format_has_mean_scale(enum format format) {
    return row(format)->mean_compute;
}

double format_normal_error(enum format format) {
    DQT_ASSERT(format_is_code(format));
    return row(format)->normal_error;
}

const int *format_gguf_types(enum format format) {
    return row(format)->gguf;
}

void bf16_store(const float *in, size_t count, uint64_t first, const struct rng *rng, uint16_t *out) {
    uint32_t words[4];
    for (size_t k = 0; k < count; k++) {
        const uint64_t element = first + k;
        if (rng && (k == 0 || element % 4 == 0)) rng_block(rng, element / 4, words);
        out[k] = rng ? f32_to_bf16_stochastic(in[k], words[element % 4]) : f32_to_bf16(in[k]);
    }
}
