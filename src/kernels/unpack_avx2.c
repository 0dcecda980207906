/* AVX2: packed codes to rows and panels, activations to codes. As unpack_avx512.c, with half the width. */
typedef int unpack_avx2_translation_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "format/format.h"
#include "kernels/kernels_avx2.h"
#include "kernels/round_bf16_avx2.h"

static inline __m256i load(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void store(void *p, __m256i v) {
    _mm256_storeu_si256((__m256i *)p, v);
}

/* 32 bits to 32 bytes of 0 or 1. */
static inline __m256i spread_bits(uint32_t bits) {
    const __m256i order = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3,
                                           3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), order), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(1));
}

/* One plane of a block (format/planes.h). */
static inline void unpack_plane(enum plane plane, const uint8_t *p, __m256i out[2]) {
    switch (plane) {
    case PLANE_BITS: {
        uint32_t bits[2];
        memcpy(bits, p, sizeof bits);
        out[0] = spread_bits(bits[0]);
        out[1] = spread_bits(bits[1]);
        return;
    }
    case PLANE_CRUMBS: {
        const __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
        const __m256i mask = _mm256_set1_epi8(3);
        out[0] = _mm256_and_si256(_mm256_srlv_epi32(v, _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2)), mask);
        out[1] = _mm256_and_si256(_mm256_srlv_epi32(v, _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6)), mask);
        return;
    }
    case PLANE_NIBBLES: {
        const __m256i v = load(p), mask = _mm256_set1_epi8(15);
        out[0] = _mm256_and_si256(v, mask);
        out[1] = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
        return;
    }
    case PLANE_BYTES: break;
    }
    out[0] = load(p);
    out[1] = load(p + 32);
}

/* One block minus the packing's bias. Shifts stay within bytes: v is below 128. */
static inline void unpack_block(const struct packing *p, const uint8_t *packed, __m256i out[2]) {
    unpack_plane(p->planes[0].plane, packed, out);
    for (int i = 1; i < p->num_planes; i++) {
        const __m128i shift = _mm_cvtsi32_si128(p->planes[i].shift);
        __m256i v[2];
        packed += plane_bytes(p->planes[i - 1].plane);
        unpack_plane(p->planes[i].plane, packed, v);
        out[0] = _mm256_or_si256(out[0], _mm256_sll_epi16(v[0], shift));
        out[1] = _mm256_or_si256(out[1], _mm256_sll_epi16(v[1], shift));
    }
}

/* As unpack_avx512.c's. */
static inline void unpack_run(enum plane plane, const uint8_t *packed, size_t block_bytes, size_t blocks, __m256i bias,
                              __m128i shift, bool add, int8_t *codes) {
    for (size_t b = 0; b < blocks; b++, codes += PACK_BLOCK) {
        __m256i v[2];
        unpack_plane(plane, packed + b * block_bytes, v);
        for (int i = 0; i < 2; i++)
            store(codes + 32 * i, add ? _mm256_add_epi8(load(codes + 32 * i), _mm256_sll_epi16(v[i], shift))
                                      : _mm256_add_epi8(v[i], bias));
    }
}

void unpack_avx2(const struct packing *p, const uint8_t *packed, size_t blocks, int8_t *codes) {
    const size_t block_bytes = packing_block_bytes(p);
    const __m256i bias = _mm256_set1_epi8((char)p->bias);
    for (int i = 0; i < p->num_planes; i++) {
        const __m128i shift = _mm_cvtsi32_si128(p->planes[i].shift);
        const bool add = i > 0;
        switch (p->planes[i].plane) { /* outside of the loop over blocks */
        case PLANE_BITS: unpack_run(PLANE_BITS, packed, block_bytes, blocks, bias, shift, add, codes); break;
        case PLANE_CRUMBS: unpack_run(PLANE_CRUMBS, packed, block_bytes, blocks, bias, shift, add, codes); break;
        case PLANE_NIBBLES: unpack_run(PLANE_NIBBLES, packed, block_bytes, blocks, bias, shift, add, codes); break;
        case PLANE_BYTES: unpack_run(PLANE_BYTES, packed, block_bytes, blocks, bias, shift, add, codes); break;
        }
        packed += plane_bytes(p->planes[i].plane);
    }
}

/* 16 bytes of each of 8 rows: out[j] has dword j of row n in dword n. */
static inline void gather4(const uint8_t *const rows[8], size_t offset, __m256i out[4]) {
    __m256i z[4];
    for (int i = 0; i < 4; i++) /* lane l of z[i]: row 4 l + i */
        z[i] = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(rows[i] + offset))),
            _mm_loadu_si128((const __m128i *)(const void *)(rows[4 + i] + offset)), 1);
    const __m256i t0 = _mm256_unpacklo_epi32(z[0], z[1]), t1 = _mm256_unpackhi_epi32(z[0], z[1]);
    const __m256i t2 = _mm256_unpacklo_epi32(z[2], z[3]), t3 = _mm256_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm256_unpacklo_epi64(t0, t2);
    out[1] = _mm256_unpackhi_epi64(t0, t2);
    out[2] = _mm256_unpacklo_epi64(t1, t3);
    out[3] = _mm256_unpackhi_epi64(t1, t3);
}

/* Eight of a panel's rows; beyond the n valid ones the last is repeated. */
static inline void eight_rows(const uint8_t *src, size_t stride, size_t n, size_t first, const uint8_t *rows[8]) {
    for (size_t i = 0; i < 8; i++)
        rows[i] = src + (first + i < n ? first + i : n - 1) * stride;
}

/* One block of eight rows, unpacked: rows of bytes. */
static inline void unpack_rows(const struct packing *p, const uint8_t *const rows[8], size_t offset,
                               uint8_t codes[8][PACK_BLOCK], const uint8_t *code_rows[8]) {
    for (size_t i = 0; i < 8; i++) {
        __m256i v[2];
        unpack_block(p, rows[i] + offset, v);
        store(codes[i], v[0]);
        store(codes[i] + 32, v[1]);
        code_rows[i] = codes[i];
    }
}

/* 64 bytes of each row minus the bias. */
static inline void panel_bytes(const uint8_t *const rows[8], size_t offset, __m256i bias, uint8_t *out) {
    for (size_t h = 0; h < 4; h++) {
        __m256i d[4];
        gather4(rows, offset + 16 * h, d);
        for (size_t j = 0; j < 4; j++)
            store(out + (4 * h + j) * 64, _mm256_sub_epi8(d[j], bias));
    }
}

/* A block that is one plane, transposed as packed bytes: 4 (2 bits) or 2 (4 bits) times fewer than the values. */
static inline void panel_plane(enum plane plane, const uint8_t *const rows[8], size_t offset, __m256i bias,
                               uint8_t *out) {
    const __m256i mask2 = _mm256_set1_epi8(3), mask4 = _mm256_set1_epi8(15);
    __m256i d[4];
    switch (plane) {
    case PLANE_CRUMBS:
        gather4(rows, offset, d);
        for (int p = 0; p < 4; p++)
            for (int j = 0; j < 4; j++)
                store(out + (4 * p + j) * 64, _mm256_and_si256(_mm256_srli_epi32(d[j], 2 * p), mask2));
        break;
    case PLANE_NIBBLES:
        for (size_t h = 0; h < 2; h++) {
            gather4(rows, offset + 16 * h, d);
            for (size_t j = 0; j < 4; j++) {
                store(out + (4 * h + j) * 64, _mm256_and_si256(d[j], mask4));
                store(out + (8 + 4 * h + j) * 64, _mm256_and_si256(_mm256_srli_epi32(d[j], 4), mask4));
            }
        }
        break;
    case PLANE_BYTES: panel_bytes(rows, offset, bias, out); break;
    case PLANE_BITS: DQT_ASSERT(plane != PLANE_BITS); break; /* unpacked first */
    }
}

static inline void panel_run(enum plane plane, const uint8_t *const rows[8], size_t block_bytes, size_t blocks,
                             __m256i bias, uint8_t *out) {
    for (size_t b = 0; b < blocks; b++, out += PACK_BLOCK * PANEL)
        panel_plane(plane, rows, b * block_bytes, bias, out);
}

/* [K / 4][16][4] bytes. */
void gemm_pack_b_packed_avx2(const struct gemm_engine *e, const struct packing *p, const uint8_t *src, size_t stride,
                             size_t n, size_t blocks, void *panel) {
    const __m256i bias = _mm256_set1_epi8((char)e->bytes_bias);
    const size_t block_bytes = packing_block_bytes(p);
    for (size_t half = 0; half < 2; half++) {
        const uint8_t *rows[8];
        uint8_t *out = (uint8_t *)panel + half * 32;
        eight_rows(src, stride, n, 8 * half, rows);
        switch (p->num_planes == 1 ? p->planes[0].plane : PLANE_BITS) { /* outside of the loop over blocks */
        case PLANE_CRUMBS: panel_run(PLANE_CRUMBS, rows, block_bytes, blocks, bias, out); break;
        case PLANE_NIBBLES: panel_run(PLANE_NIBBLES, rows, block_bytes, blocks, bias, out); break;
        case PLANE_BYTES: panel_run(PLANE_BYTES, rows, block_bytes, blocks, bias, out); break;
        case PLANE_BITS: /* and sums of planes */
            for (size_t b = 0; b < blocks; b++, out += PACK_BLOCK * PANEL) {
                uint8_t codes[8][PACK_BLOCK];
                const uint8_t *code_rows[8];
                unpack_rows(p, rows, b * block_bytes, codes, code_rows);
                panel_bytes(code_rows, 0, _mm256_setzero_si256(), out);
            }
            break;
        }
    }
}

/* [K / 2][16][2] 16-bit numbers: a dword of four bytes makes two of two. Values are below 128 or plain bytes, which are
 * signed. */
static inline void panel_shorts(const uint8_t *const rows[8], size_t offset, uint8_t *out) {
    const __m256i first = _mm256_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1, 1, -1,
                                           4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13);
    const __m256i second = _mm256_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1, 2, -1, 3,
                                            -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15);
    for (size_t q = 0; q < 4; q++) {
        __m256i d[4];
        gather4(rows, offset + q * 16, d);
        for (size_t j = 0; j < 4; j++, out += 128) {
            store(out, _mm256_srai_epi16(_mm256_shuffle_epi8(d[j], first), 8));
            store(out + 64, _mm256_srai_epi16(_mm256_shuffle_epi8(d[j], second), 8));
        }
    }
}

void gemm_pack_b_packed16_avx2(const struct gemm_engine *e, const struct packing *p, const uint8_t *src, size_t stride,
                               size_t n, size_t blocks, void *panel) {
    const size_t block_bytes = packing_block_bytes(p);
    (void)e;
    DQT_ASSERT(e->bytes_bias == 0 && (packing_is_bytes(p) || packing_range(p) < 128));
    for (size_t half = 0; half < 2; half++) {
        const uint8_t *rows[8];
        uint8_t *out = (uint8_t *)panel + half * 32;
        eight_rows(src, stride, n, 8 * half, rows);
        for (size_t b = 0; b < blocks; b++, out += 2 * PACK_BLOCK * PANEL) {
            if (packing_is_bytes(p)) {
                panel_shorts(rows, b * block_bytes, out);
            } else {
                uint8_t codes[8][PACK_BLOCK];
                const uint8_t *code_rows[8];
                unpack_rows(p, rows, b * block_bytes, codes, code_rows);
                panel_shorts(code_rows, 0, out);
            }
        }
    }
}

void gemm_pack_b_codes_avx2(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k, const float *scale,
                            size_t ld_scale, void *panel) {
    const bool rounds = scale && e->emulates_bf16; /* codes alone are exact */
    float *out = panel;
    for (size_t c = 0; c < k; c++, out += PANEL) {
        const __m256 factor = _mm256_set1_ps(scale ? scale[c * ld_scale] : 1.0f);
        for (size_t i = 0; i < PANEL; i += 8) {
            int64_t eight;
            memcpy(&eight, src + c * ld + i, sizeof eight);
            const __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(eight))), factor);
            _mm256_storeu_ps(out + i, rounds ? round_to_bf16(v) : v);
        }
    }
}

float quantize_avx2(const float *x, size_t cols, int8_t *codes) {
    const __m256i sign = _mm256_set1_epi32(INT32_MIN);
    __m256i most = _mm256_castps_si256(_mm256_set1_ps(1e-5f));
    size_t c = 0;
    for (; c + 8 <= cols; c += 8)
        most = _mm256_max_epi32(_mm256_andnot_si256(sign, _mm256_loadu_si256((const __m256i *)(x + c))), most);
    int32_t bits[8], tail, largest = 0;
    _mm256_storeu_si256((__m256i *)bits, most);
    for (int i = 0; i < 8; i++)
        largest = bits[i] > largest ? bits[i] : largest;
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
    const __m256 factor = _mm256_set1_ps(127.0f / amax);
    for (c = 0; c < cols; c += 8) {
        float in[8] = {0};
        const size_t count = cols - c < 8 ? cols - c : 8;
        if (count < 8) memcpy(in, x + c, count * sizeof *in);
        const __m256 v = count < 8 ? _mm256_loadu_ps(in) : _mm256_loadu_ps(x + c);
        const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(v, factor)); /* nearest even, within -127..127 */
        const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        const int64_t eight = _mm_cvtsi128_si64(_mm_packs_epi16(w, w));
        memcpy(codes + c, &eight, count);
    }
    return amax / 127.0f;
}

TARGET_END
#endif
