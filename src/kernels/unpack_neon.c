/* NEON: packed codes to rows and panels, activations to codes, dot products of few tokens. */
typedef int unpack_neon_unit; /* not empty elsewhere */

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#include "format/format.h"
#include "kernels/kernels_neon.h"

/* 16 bits to 16 bytes of 0 or 4. */
static inline uint8x16_t third_bits(const uint8_t *p) {
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t v = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1]));
    return vandq_u8(vtstq_u8(v, vld1q_u8(bit)), vdupq_n_u8(4));
}

/* One unit minus the format's bias: 0 .. 2^bits - 1; INT8 as it is. */
static inline void unpack_unit(int format, const uint8_t *p, uint8x16_t out[4]) {
    if (format == DQT_FORMAT_INT8) {
        for (int i = 0; i < 4; i++)
            out[i] = vld1q_u8(p + 16 * i);
    } else if (format == DQT_FORMAT_INT4) {
        for (int i = 0; i < 2; i++) {
            const uint8x16_t v = vld1q_u8(p + 16 * i);
            out[i] = vandq_u8(v, vdupq_n_u8(15));
            out[2 + i] = vshrq_n_u8(v, 4);
        }
    } else {
        const uint8x16_t v = vld1q_u8(p), mask = vdupq_n_u8(3);
        out[0] = vandq_u8(v, mask);
        out[1] = vandq_u8(vshrq_n_u8(v, 2), mask);
        out[2] = vandq_u8(vshrq_n_u8(v, 4), mask);
        out[3] = vshrq_n_u8(v, 6);
        if (format == DQT_FORMAT_INT3)
            for (int i = 0; i < 4; i++)
                out[i] = vorrq_u8(out[i], third_bits(p + 16 + 2 * i));
    }
}

void unpack_neon(int format, const uint8_t *packed, size_t units, int8_t *codes) {
    const size_t unit_bytes = format_unit_bytes(format);
    const uint8x16_t bias = vdupq_n_u8((uint8_t)(format == DQT_FORMAT_INT8 ? 0 : -format_min(format)));
    for (size_t u = 0; u < units; u++) {
        uint8x16_t v[4];
        unpack_unit(format, packed + u * unit_bytes, v);
        for (int i = 0; i < 4; i++)
            vst1q_s8(codes + u * UNIT + 16 * i, vreinterpretq_s8_u8(vsubq_u8(v[i], bias)));
    }
}

/* [K / 4][16][4] bytes, INT8 codes as they are; or [K / 2][16][2] 16-bit numbers. Both are groups of four bytes. */
void gemm_pack_b_packed_neon(const struct gemm_engine *e, int format, const uint8_t *src, size_t stride, size_t n,
                             size_t units, void *panel) {
    const size_t unit_bytes = format_unit_bytes(format), groups = UNIT * e->size / 4;
    for (size_t i = 0; i < PANEL; i++) {
        const uint8_t *row = src + (i < n ? i : n - 1) * stride;
        unsigned char *out = (unsigned char *)panel + 4 * i;
        for (size_t u = 0; u < units; u++) {
            unsigned char codes[2 * UNIT];
            uint8x16_t v[4];
            unpack_unit(format, row + u * unit_bytes, v);
            for (int j = 0; j < 4; j++) {
                if (e->size == 1) {
                    vst1q_u8(codes + 16 * j, v[j]);
                } else { /* codes minus their bias are not negative, INT8 codes are signed: both extend as signed */
                    vst1q_u8(codes + 32 * j, vreinterpretq_u8_s16(vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(v[j])))));
                    vst1q_u8(codes + 32 * j + 16, vreinterpretq_u8_s16(vmovl_high_s8(vreinterpretq_s8_u8(v[j]))));
                }
            }
            for (size_t g = 0; g < groups; g++, out += PANEL * 4)
                memcpy(out, codes + 4 * g, 4);
        }
    }
}

void gemm_pack_b_codes_neon(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k, void *panel) {
    (void)e;
    float *out = panel;
    for (size_t c = 0; c < k; c++, out += PANEL) {
        const int8x16_t v = vld1q_s8(src + c * ld);
        const int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_high_s8(v);
        vst1q_f32(out, vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))));
        vst1q_f32(out + 4, vcvtq_f32_s32(vmovl_high_s16(low)));
        vst1q_f32(out + 8, vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))));
        vst1q_f32(out + 12, vcvtq_f32_s32(vmovl_high_s16(high)));
    }
}

int32_t dot_codes_neon(const int8_t *a, const int8_t *b, size_t n) {
    int32x4_t s0 = vdupq_n_s32(0), s1 = s0;
    for (size_t i = 0; i < n; i += 16) {
        const int8x16_t x = vld1q_s8(a + i), y = vld1q_s8(b + i);
        s0 = vpadalq_s16(s0, vmull_s8(vget_low_s8(x), vget_low_s8(y))); /* one product fits 16 bits: 128 * 128 */
        s1 = vpadalq_s16(s1, vmull_high_s8(x, y));
    }
    return vaddvq_s32(vaddq_s32(s0, s1));
}

/* Where plain C would be `v > amax ? v : amax`: NaN is ignored. */
float quantize_neon(const float *x, size_t cols, int8_t *codes) {
    float32x4_t most = vdupq_n_f32(1e-5f);
    size_t c = 0;
    for (; c + 4 <= cols; c += 4) {
        const float32x4_t v = vabsq_f32(vld1q_f32(x + c));
        most = vbslq_f32(vcgtq_f32(v, most), v, most);
    }
    float amax = vmaxvq_f32(most);
    for (; c < cols; c++) {
        const float v = x[c] < 0 ? -x[c] : x[c];
        amax = v > amax ? v : amax;
    }
    const float factor = 127.0f / amax;
    for (c = 0; c < cols; c += 4) {
        float in[4] = {0};
        const size_t count = cols - c < 4 ? cols - c : 4;
        memcpy(in, x + c, count * sizeof *in);
        const float32x4_t v = vmulq_n_f32(vld1q_f32(in), factor);
        /* nearest even; NaN: -128 */
        const int32x4_t q = vbslq_s32(vceqq_f32(v, v), vcvtnq_s32_f32(v), vdupq_n_s32(-128));
        const int16x4_t w = vqmovn_s32(q);
        int8_t out[8];
        vst1_s8(out, vqmovn_s16(vcombine_s16(w, w)));
        memcpy(codes + c, out, count);
    }
    return amax / 127.0f;
}
#endif
