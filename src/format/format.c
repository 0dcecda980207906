#include "format/format.h"

static const struct {
    const char *name;
    int unit_bytes, min, max;
} table[] = {
    [DQT_FORMAT_F32] = {"f32", 0, 0, 0},           [DQT_FORMAT_BF16] = {"bf16", 0, 0, 0},
    [DQT_FORMAT_INT8] = {"int8", 64, -128, 127},   [DQT_FORMAT_INT4] = {"int4", 32, -8, 7},
    [DQT_FORMAT_INT3] = {"int3", 24, -4, 3},       [DQT_FORMAT_INT2] = {"int2", 16, -2, 1},
    [DQT_FORMAT_TERNARY] = {"ternary", 16, -1, 1},
};

size_t format_unit_bytes(int format) {
    return (size_t)table[format].unit_bytes;
}

size_t format_row_bytes(int format, size_t cols) {
    if (format == DQT_FORMAT_F32) return cols * 4;
    if (format == DQT_FORMAT_BF16) return cols * 2;
    return (cols + UNIT - 1) / UNIT * format_unit_bytes(format);
}

int format_min(int format) {
    return table[format].min;
}

int format_max(int format) {
    return table[format].max;
}

const char *format_name(int format) {
    return format_valid(format) ? table[format].name : "unknown";
}

void unit_unpack(int format, const uint8_t *packed, int8_t codes[UNIT]) {
    const int low = format_min(format);
    switch (format) {
    case DQT_FORMAT_INT8: memcpy(codes, packed, UNIT); break;
    case DQT_FORMAT_INT4:
        for (int b = 0; b < 32; b++) {
            codes[b] = (int8_t)((packed[b] & 15) + low);
            codes[32 + b] = (int8_t)((packed[b] >> 4) + low);
        }
        break;
    default: /* INT3, INT2, TERNARY: two bits in planes of 16, a third one in a bit mask */
        for (int k = 0; k < UNIT; k++) {
            int u = packed[k % 16] >> (2 * (k / 16)) & 3;
            if (format == DQT_FORMAT_INT3) u |= (packed[16 + k / 8] >> (k % 8) & 1) << 2;
            codes[k] = (int8_t)(u + low);
        }
    }
}

void unit_pack(int format, const int8_t codes[UNIT], uint8_t *packed) {
    const int low = format_min(format);
    if (format == DQT_FORMAT_INT8) {
        memcpy(packed, codes, UNIT);
        return;
    }
    memset(packed, 0, format_unit_bytes(format));
    for (int k = 0; k < UNIT; k++) {
        unsigned u = (unsigned)(codes[k] - low);
        if (format == DQT_FORMAT_INT4) {
            packed[k % 32] |= (uint8_t)(u << (4 * (k / 32)));
        } else {
            packed[k % 16] |= (uint8_t)((u & 3) << (2 * (k / 16)));
            if (format == DQT_FORMAT_INT3) packed[16 + k / 8] |= (uint8_t)((u >> 2) << (k % 8));
        }
    }
}

void bf16_store(const float *in, size_t count, uint64_t first, const struct rng *rng, uint16_t *out) {
    uint32_t words[4];
    for (size_t k = 0; k < count; k++) {
        const uint64_t element = first + k;
        if (rng && (k == 0 || element % 4 == 0)) rng_block(rng, element / 4, words);
        out[k] = rng ? f32_to_bf16_stochastic(in[k], words[element % 4]) : f32_to_bf16(in[k]);
    }
}
