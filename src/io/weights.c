#include "io/weights.h"

#include <math.h>

#include "core/status.h"

bool numbers_valid(const void *data, size_t count, size_t size, bool negative) {
    for (size_t i = 0; i < count; i++) {
        double x;
        if (size == 8) {
            x = ((const double *)data)[i];
        } else {
            x = (double)(size == 4 ? ((const float *)data)[i] : bf16_to_f32(((const uint16_t *)data)[i]));
        }
        if (!isfinite(x) || (!negative && x < 0)) return false;
    }
    return true;
}

uint64_t weights_digest(const float *weights, size_t count) {
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ f32_bits(weights[i] + 0.0f)) * 1099511628211u;
    return hash;
}

bool scales_valid(const dqt_tensor *t) {
    for (size_t i = 0; i < t->num_scales; i++)
        if (!tensor_scale_valid(t, t->half_scales ? f16_to_f32(t->half_scales[i]) : t->scales[i])) return false;
    return true;
}

bool codes_valid(const dqt_tensor *t) {
    const int low = format_min(t->storage), high = format_max(t->storage);
    const struct packing *packing = format_packing(t->storage);
    const size_t block_bytes = packing_block_bytes(packing);
    int8_t codes[PACK_BLOCK];
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->cols; c += PACK_BLOCK) {
            block_unpack(packing, tensor_row(t, r) + c / PACK_BLOCK * block_bytes, codes);
            for (size_t k = 0; k < PACK_BLOCK; k++)
                if (codes[k] < low || codes[k] > high || (c + k >= t->cols && codes[k])) return false;
        }
    return true;
}

dqt_status write_scales(struct sink *s, const dqt_tensor *t) {
    return t->half_scales ? sink_elements(s, t->half_scales, t->num_scales, 2)
                          : sink_elements(s, t->scales, t->num_scales, 4);
}

dqt_status read_scales(struct source *s, dqt_tensor *t) {
    return t->half_scales ? source_elements(s, t->half_scales, t->num_scales, 2)
                          : source_elements(s, t->scales, t->num_scales, 4);
}

dqt_status write_codes(struct sink *s, const dqt_tensor *t) {
    const struct packing *packing = format_packing(t->storage);
    const size_t block_bytes = packing_block_bytes(packing), tail = t->cols % PACK_BLOCK;
    for (size_t r = 0; r < t->rows; r++) {
        const unsigned char *row = tensor_row(t, r);
        TRY(sink_bytes(s, row, t->row_bytes - (tail ? block_bytes : 0)));
        if (!tail) continue;
        int8_t codes[PACK_BLOCK];
        unsigned char packed[PACK_BLOCK];
        block_unpack(packing, row + t->row_bytes - block_bytes, codes);
        memset(codes + tail, 0, PACK_BLOCK - tail);
        block_pack(packing, codes, packed);
        TRY(sink_bytes(s, packed, block_bytes));
    }
    return DQT_OK;
}
