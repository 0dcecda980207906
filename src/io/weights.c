#include "io/weights.h"

#include <float.h>
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

bool scales_valid(const dqt_tensor *t) {
    const float most = FLT_MAX / (float)(format_max(t->storage) + 1);
    for (size_t i = 0; i < t->num_scales; i++)
        if (!(t->scales[i] >= FLT_MIN && t->scales[i] <= most)) return false;
    return true;
}

bool codes_valid(const dqt_tensor *t) {
    const int low = format_min(t->storage), high = format_max(t->storage);
    const size_t unit = format_unit_bytes(t->storage);
    int8_t codes[UNIT];
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->cols; c += UNIT) {
            unit_unpack(t->storage, tensor_row(t, r) + c / UNIT * unit, codes);
            for (size_t k = 0; k < UNIT; k++)
                if (codes[k] < low || codes[k] > high || (c + k >= t->cols && codes[k])) return false;
        }
    return true;
}

dqt_status write_codes(struct sink *s, const dqt_tensor *t) {
    const size_t unit = format_unit_bytes(t->storage), tail = t->cols % UNIT;
    for (size_t r = 0; r < t->rows; r++) {
        const unsigned char *row = tensor_row(t, r);
        TRY(sink_bytes(s, row, t->row_bytes - (tail ? unit : 0)));
        if (!tail) continue;
        int8_t codes[UNIT];
        unsigned char packed[UNIT];
        unit_unpack(t->storage, row + t->row_bytes - unit, codes);
        memset(codes + tail, 0, UNIT - tail);
        unit_pack(t->storage, codes, packed);
        TRY(sink_bytes(s, packed, unit));
    }
    return DQT_OK;
}
