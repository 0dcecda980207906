/* NEON: packed codes to rows and panels, activations to codes. */
typedef int unpack_neon_translation_unit; /* not empty elsewhere */

#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "format/format.h"
#include "kernels/kernels_neon.h"

/* 16 bits to 16 bytes of 0 or 1. */
static inline uint8x16_t spread_bits(const uint8_t *p) {
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t v = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1]));
    return vandq_u8(vtstq_u8(v, vld1q_u8(bit)), vdupq_n_u8(1));
}

/* One plane of a block (format/planes.h). */
static inline void unpack_plane(enum plane plane, const uint8_t *p, uint8x16_t out[4]) {
    switch (plane) {
    case PLANE_BITS:
        for (int i = 0; i < 4; i++)
            out[i] = spread_bits(p + 2 * i);
        return;
    case PLANE_CRUMBS: {
        const uint8x16_t v = vld1q_u8(p), mask = vdupq_n_u8(3);
        out[0] = vandq_u8(v, mask);
        out[1] = vandq_u8(vshrq_n_u8(v, 2), mask);
        out[2] = vandq_u8(vshrq_n_u8(v, 4), mask);
        out[3] = vshrq_n_u8(v, 6);
        return;
    }
    case PLANE_NIBBLES:
        for (int i = 0; i < 2; i++) {
            const uint8x16_t v = vld1q_u8(p + 16 * i);
            out[i] = vandq_u8(v, vdupq_n_u8(15));
            out[2 + i] = vshrq_n_u8(v, 4);
        }
        return;
    case PLANE_BYTES: break;
    }
    for (int i = 0; i < 4; i++)
        out[i] = vld1q_u8(p + 16 * i);
}

/* One block minus the packing's bias. */
static inline void unpack_block(const struct packing *p, const uint8_t *packed, uint8x16_t out[4]) {
    unpack_plane(p->planes[0].plane, packed, out);
    for (int n = 1; n < p->num_planes; n++) {
        const int8x16_t shift = vdupq_n_s8((int8_t)p->planes[n].shift);
        uint8x16_t v[4];
        packed += plane_bytes(p->planes[n - 1].plane);
        unpack_plane(p->planes[n].plane, packed, v);
        for (int i = 0; i < 4; i++)
            out[i] = vorrq_u8(out[i], vshlq_u8(v[i], shift));
    }
}

void unpack_neon(const struct packing *p, const uint8_t *packed, size_t blocks, int8_t *codes) {
    const size_t block_bytes = packing_block_bytes(p);
    const uint8x16_t bias = vdupq_n_u8((uint8_t)p->bias);
    for (size_t b = 0; b < blocks; b++) {
        uint8x16_t v[4];
        unpack_block(p, packed + b * block_bytes, v);
        for (int i = 0; i < 4; i++)
            vst1q_s8(codes + b * PACK_BLOCK + 16 * i, vreinterpretq_s8_u8(vaddq_u8(v[i], bias)));
    }
}

/* [K / 8][16][8] or [K / 4][16][4] bytes, or [K / 2][16][2] 16-bit numbers. Values without their bias are below 128,
 * plain bytes are signed and stay as they are: both extend as signed. */
void gemm_pack_b_packed_neon(const struct gemm_engine *e, const struct packing *p, const uint8_t *src, size_t stride,
                             size_t n, size_t blocks, void *panel) {
    const size_t block_bytes = packing_block_bytes(p), groups = PACK_BLOCK / e->group;
    const bool eight = e->group * e->size == 8; /* bytes of a group, or four */
    DQT_ASSERT(e->bytes_bias == 0 && (packing_is_bytes(p) || packing_range(p) < 128));
    for (size_t i = 0; i < PANEL; i++) {
        const uint8_t *row = src + (i < n ? i : n - 1) * stride;
        unsigned char *out = (unsigned char *)panel + e->group * e->size * i;
        for (size_t b = 0; b < blocks; b++) {
            unsigned char codes[2 * PACK_BLOCK];
            uint8x16_t v[4];
            unpack_block(p, row + b * block_bytes, v);
            for (int j = 0; j < 4; j++) {
                if (e->size == 1) {
                    vst1q_u8(codes + 16 * j, v[j]);
                } else {
                    vst1q_u8(codes + 32 * j, vreinterpretq_u8_s16(vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(v[j])))));
                    vst1q_u8(codes + 32 * j + 16, vreinterpretq_u8_s16(vmovl_high_s8(vreinterpretq_s8_u8(v[j]))));
                }
            }
            if (eight) {
                for (size_t g = 0; g < groups; g++, out += PANEL * 8)
                    memcpy(out, codes + 8 * g, 8);
            } else {
                for (size_t g = 0; g < groups; g++, out += PANEL * 4)
                    memcpy(out, codes + 4 * g, 4);
            }
        }
    }
}

/* Four codes times a scale, as f32 that hold bf16 values (nearest, ties to even) where `rounds`. */
static inline void store_scaled(float *out, int32x4_t codes, float scale, bool rounds) {
    const float32x4_t v = vmulq_n_f32(vcvtq_f32_s32(codes), scale);
    const uint32x4_t u = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t r = vaddq_u32(u, vaddq_u32(vdupq_n_u32(0x7fff), odd));
    vst1q_f32(out, rounds ? vreinterpretq_f32_u32(vandq_u32(r, vdupq_n_u32(0xffff0000u))) : v);
}

void gemm_pack_b_codes_neon(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k, const float *scale,
                            size_t ld_scale, void *panel) {
    const bool rounds = scale && e->emulates_bf16; /* codes alone are exact */
    float *out = panel;
    for (size_t c = 0; c < k; c++, out += PANEL) {
        const float factor = scale ? scale[c * ld_scale] : 1.0f;
        const int8x16_t v = vld1q_s8(src + c * ld);
        const int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_high_s8(v);
        store_scaled(out, vmovl_s16(vget_low_s16(low)), factor, rounds);
        store_scaled(out + 4, vmovl_high_s16(low), factor, rounds);
        store_scaled(out + 8, vmovl_s16(vget_low_s16(high)), factor, rounds);
        store_scaled(out + 12, vmovl_high_s16(high), factor, rounds);
    }
}

float quantize_neon(const float *x, size_t cols, int8_t *codes) {
    int32x4_t most = vreinterpretq_s32_f32(vdupq_n_f32(1e-5f));
    size_t c = 0;
    for (; c + 4 <= cols; c += 4)
        most = vmaxq_s32(vreinterpretq_s32_f32(vabsq_f32(vld1q_f32(x + c))), most);
    int32_t tail, largest = vmaxvq_s32(most);
    for (; c < cols; c++) {
        memcpy(&tail, x + c, sizeof tail);
        tail &= INT32_MAX;
        largest = tail > largest ? tail : largest;
    }
    float amax;
    memcpy(&amax, &largest, sizeof amax);
    if (!isfinite(amax)) {
        memset(codes, 0, cols);
        return NAN;
    }
    const float factor = 127.0f / amax;
    for (c = 0; c < cols; c += 4) {
        float in[4] = {0};
        const size_t count = cols - c < 4 ? cols - c : 4;
        memcpy(in, x + c, count * sizeof *in);
        const float32x4_t v = vmulq_n_f32(vld1q_f32(in), factor);
        const int32x4_t q = vcvtnq_s32_f32(v); /* nearest even, within -127..127 */
        const int16x4_t w = vqmovn_s32(q);
        int8_t out[8];
        vst1_s8(out, vqmovn_s16(vcombine_s16(w, w)));
        memcpy(codes + c, out, count);
    }
    return amax / 127.0f;
}
#endif
