/* AVX-512: packed codes to rows and panels, activations to codes. Planes lie in 16-byte lanes
 * (format/planes.h), so one variable shift and one mask make 64 consecutive values. Panels want the transpose of 16
 * rows in groups of 4 codes; it is done on the packed bytes, 4 (2 bits) or 2 (4 bits) times fewer than the codes. */
typedef int unpack_avx512_translation_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX512)
#include "format/format.h"
#include "kernels/gemm_transpose_avx512.h"
#include "kernels/kernels_avx512.h"

/* One plane of a block (format/planes.h). */
static inline __m512i unpack_plane(enum plane plane, const uint8_t *p) {
    switch (plane) {
    case PLANE_BITS: {
        uint64_t bits;
        memcpy(&bits, p, sizeof bits);
        return _mm512_maskz_mov_epi8(bits, _mm512_set1_epi8(1));
    }
    case PLANE_CRUMBS: {
        const __m512i v = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
        const __m512i shift =
            _mm512_set_epi64(0x600000006, 0x600000006, 0x400000004, 0x400000004, 0x200000002, 0x200000002, 0, 0);
        return _mm512_and_si512(_mm512_srlv_epi32(v, shift), _mm512_set1_epi8(3));
    }
    case PLANE_NIBBLES: {
        const __m512i v = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)p));
        const __m512i shift = _mm512_set_epi64(0x400000004, 0x400000004, 0x400000004, 0x400000004, 0, 0, 0, 0);
        return _mm512_and_si512(_mm512_srlv_epi32(v, shift), _mm512_set1_epi8(15));
    }
    case PLANE_BYTES: break;
    }
    return _mm512_loadu_si512(p);
}

/* One plane of consecutive blocks, `block_bytes` apart: value + bias, or (`add`) added to the codes, shifted. Values
 * and their shifts stay within bytes. */
static inline void unpack_run(enum plane plane, const uint8_t *packed, size_t block_bytes, size_t blocks, __m512i bias,
                              __m128i shift, bool add, int8_t *codes) {
    for (size_t b = 0; b < blocks; b++, codes += PACK_BLOCK) {
        const __m512i v = unpack_plane(plane, packed + b * block_bytes);
        if (add) {
            _mm512_storeu_si512(codes, _mm512_add_epi8(_mm512_loadu_si512(codes), _mm512_sll_epi16(v, shift)));
        } else {
            _mm512_storeu_si512(codes, _mm512_add_epi8(v, bias));
        }
    }
}

void unpack_avx512(const struct packing *p, const uint8_t *packed, size_t blocks, int8_t *codes) {
    const size_t block_bytes = packing_block_bytes(p);
    const __m512i bias = _mm512_set1_epi8((char)p->bias);
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

/* 16 bytes of each of 16 rows: out[j] has dword j of row n in dword n. */
static inline void gather4(const uint8_t *const rows[16], size_t offset, __m512i out[4]) {
    __m512i z[4];
    for (int i = 0; i < 4; i++) { /* lane l of z[i]: row 4 l + i */
        z[i] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)(rows[i] + offset)));
        for (int l = 1; l < 4; l++) {
            const __m128i r = _mm_loadu_si128((const __m128i *)(const void *)(rows[4 * l + i] + offset));
            z[i] = _mm512_mask_broadcast_i32x4(z[i], (__mmask16)(0xf << 4 * l), r);
        }
    }
    const __m512i t0 = _mm512_unpacklo_epi32(z[0], z[1]), t1 = _mm512_unpackhi_epi32(z[0], z[1]);
    const __m512i t2 = _mm512_unpacklo_epi32(z[2], z[3]), t3 = _mm512_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm512_unpacklo_epi64(t0, t2);
    out[1] = _mm512_unpackhi_epi64(t0, t2);
    out[2] = _mm512_unpacklo_epi64(t1, t3);
    out[3] = _mm512_unpackhi_epi64(t1, t3);
}

/* How a plane of a block of 16 rows goes to a panel. */
struct put {
    __m128i shift;
    bool add;     /* to what other planes have put there */
    bool is_last; /* of the planes, where codes shall be signed: */
    __m512i bias; /* is added */
};

/* Four consecutive values of 16 rows, one row a dword. */
static inline void put_values(uint8_t *out, __m512i v, const struct put *how) {
    if (how->add) v = _mm512_or_si512(_mm512_loadu_si512(out), _mm512_sll_epi32(v, how->shift));
    if (how->is_last) v = _mm512_add_epi8(v, how->bias);
    _mm512_storeu_si512(out, v);
}

/* One plane of a block of 16 rows; plain bytes, always the only plane, as if they were minus a bias of -128. */
static inline void panel_plane(enum plane plane, const uint8_t *const rows[16], size_t offset, const struct put *how,
                               uint8_t *out) {
    const __m512i mask1 = _mm512_set1_epi8(1), mask2 = _mm512_set1_epi8(3), mask4 = _mm512_set1_epi8(15);
    __m512i d[4];
    switch (plane) {
    case PLANE_BITS: { /* four bits to four bytes: b0 + b1 2^8 + ... */
        const __m512i spread = _mm512_set1_epi32(0x204081);
        uint32_t words[2][16]; /* bits 0-31 and 32-63 of each row */
        for (size_t i = 0; i < 16; i++) {
            memcpy(&words[0][i], rows[i] + offset, 4);
            memcpy(&words[1][i], rows[i] + offset + 4, 4);
        }
        for (size_t w = 0; w < 2; w++) {
            const __m512i bits = _mm512_loadu_si512(words[w]);
            for (size_t j = 0; j < 8; j++) {
                const __m512i four =
                    _mm512_and_si512(_mm512_srli_epi32(bits, (unsigned)(4 * j)), _mm512_set1_epi32(15));
                put_values(out + (8 * w + j) * 64, _mm512_and_si512(_mm512_mullo_epi32(four, spread), mask1), how);
            }
        }
        break;
    }
    case PLANE_CRUMBS:
        gather4(rows, offset, d);
        for (size_t p = 0; p < 4; p++)
            for (size_t j = 0; j < 4; j++)
                put_values(out + (4 * p + j) * 64, _mm512_and_si512(_mm512_srli_epi32(d[j], (unsigned)(2 * p)), mask2),
                           how);
        break;
    case PLANE_NIBBLES:
        for (size_t h = 0; h < 2; h++) {
            gather4(rows, offset + 16 * h, d);
            for (size_t j = 0; j < 4; j++) {
                put_values(out + (4 * h + j) * 64, _mm512_and_si512(d[j], mask4), how);
                put_values(out + (8 + 4 * h + j) * 64, _mm512_and_si512(_mm512_srli_epi32(d[j], 4), mask4), how);
            }
        }
        break;
    case PLANE_BYTES:
        for (size_t h = 0; h < 4; h++) {
            gather4(rows, offset + 16 * h, d);
            for (size_t j = 0; j < 4; j++)
                put_values(out + (4 * h + j) * 64, _mm512_xor_si512(d[j], _mm512_set1_epi8((char)0x80)), how);
        }
        break;
    }
}

/* [K / 4][16][4] codes, `signed_codes` (a constant where this is inlined) as they are, else minus the packing's bias,
 * -128 for plain bytes. */
static inline void pack_panel(const struct packing *p, const uint8_t *src, size_t stride, size_t n, size_t blocks,
                              bool signed_codes, uint8_t *out) {
    const uint8_t *rows[16];
    size_t offset = 0;
    DQT_ASSERT(n > 0);
    for (size_t i = 0; i < 16; i++)
        rows[i] = src + (i < n ? i : n - 1) * stride;
    struct put how = {.bias = _mm512_set1_epi8(packing_is_bytes(p) ? (char)0x80 : (char)p->bias)};
    for (size_t b = 0; b < blocks; b++, out += PACK_BLOCK * PANEL) {
        how.add = false;
        how.is_last = signed_codes && p->num_planes == 1;
        panel_plane(p->planes[0].plane, rows, offset, &how, out);
        offset += plane_bytes(p->planes[0].plane);
        how.add = true;
        for (int i = 1; i < p->num_planes; i++) {
            how.shift = _mm_cvtsi32_si128(p->planes[i].shift);
            how.is_last = signed_codes && i == p->num_planes - 1;
            panel_plane(p->planes[i].plane, rows, offset, &how, out);
            offset += plane_bytes(p->planes[i].plane);
        }
    }
}

void gemm_pack_b_packed_avx512(const struct gemm_engine *e, const struct packing *p, const uint8_t *src, size_t stride,
                               size_t n, size_t blocks, void *panel) {
    (void)e;
    DQT_ASSERT(!e->signed_codes && e->bytes_bias == -128 && e->group == 4 && e->size == 1);
    pack_panel(p, src, stride, n, blocks, false, panel);
}

void gemm_pack_b_signed_avx512(const struct gemm_engine *e, const struct packing *p, const uint8_t *src, size_t stride,
                               size_t n, size_t blocks, void *panel) {
    (void)e;
    DQT_ASSERT(e->signed_codes && e->group == 4 && e->size == 1);
    pack_panel(p, src, stride, n, blocks, true, panel);
}

/* f32 that holds bf16 values: nearest, ties to even, as f32_to_bf16 for numbers; NaN stays NaN. */
static inline __m512i rounded_bits(__m512 v) {
    const __m512i u = _mm512_castps_si512(v), one = _mm512_set1_epi32(1);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), one);
    const __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_and_si512(_mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000)),
                            _mm512_set1_epi32((int)0xffff0000));
}

/* 16 codes times a scale (NULL: 1) as f32, that hold bf16 values where `rounds`: codes alone are exact. */
static inline __m512i scaled_codes(const int8_t *src, const float *scale, bool rounds) {
    const __m512 v = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)src)));
    if (!scale) return _mm512_castps_si512(v);
    const __m512 scaled = _mm512_mul_ps(v, _mm512_set1_ps(*scale));
    return rounds ? rounded_bits(scaled) : _mm512_castps_si512(scaled);
}

/* [K / 2][16][2] bf16: the upper halves of floats. */
void gemm_pack_b_codes_bf16_avx512(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k,
                                   const float *scale, size_t ld_scale, void *panel) {
    const size_t padded = (k + e->k_align - 1) / e->k_align * e->k_align;
    unsigned char *out = panel;
    for (size_t c = 0; c < padded; c += 2, out += 64) {
        __m512i low = _mm512_setzero_si512(), high = low;
        if (c < k) low = scaled_codes(src + c * ld, scale ? scale + c * ld_scale : NULL, true);
        if (c + 1 < k) high = scaled_codes(src + (c + 1) * ld, scale ? scale + (c + 1) * ld_scale : NULL, true);
        _mm512_storeu_si512(out, _mm512_or_si512(high, _mm512_srli_epi32(low, 16)));
    }
}

void gemm_pack_b_codes_avx512(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k, const float *scale,
                              size_t ld_scale, void *panel) {
    float *out = panel;
    for (size_t c = 0; c < k; c++)
        _mm512_storeu_si512(out + c * PANEL,
                            scaled_codes(src + c * ld, scale ? scale + c * ld_scale : NULL, e->emulates_bf16));
}

/* 16 rows of 16 floats from src[rows][ld], scaled and emulates_bf16 as asked, transposed. */
static inline void load_transposed(const float *src, size_t ld, size_t rows, __mmask16 mask, const float *k_scale,
                                   bool emulates_bf16, __m512i r[16]) {
    const __m512 scale = k_scale ? _mm512_maskz_loadu_ps(mask, k_scale) : _mm512_set1_ps(1.0f);
    for (size_t i = 0; i < 16; i++) {
        __m512 v = i < rows ? _mm512_maskz_loadu_ps(mask, src + i * ld) : _mm512_setzero_ps();
        if (k_scale && i < rows) v = _mm512_mul_ps(v, scale);
        r[i] = emulates_bf16 ? rounded_bits(v) : _mm512_castps_si512(v);
    }
    transpose16(r);
}

/* [K][rows] for engines of at most 16 rows. */
void gemm_pack_a_avx512(const struct gemm_engine *e, const float *src, size_t ld, size_t m, size_t k,
                        const float *k_scale, void *out) {
    const __mmask16 rows = first_lanes(e->rows);
    float *to = out;
    for (size_t c = 0; c < k; c += 16) {
        __m512i r[16];
        load_transposed(src + c, ld, m, first_lanes(k - c), k_scale ? k_scale + c : NULL, e->emulates_bf16, r);
        for (size_t i = 0; i < 16 && c + i < k; i++, to += e->rows)
            _mm512_mask_storeu_epi32(to, rows, r[i]);
    }
}

void gemm_pack_a_transposed_avx512(const struct gemm_engine *e, const float *src, size_t ld, size_t m, size_t k,
                                   const float *k_scale, void *out) {
    const __mmask16 rows = first_lanes(e->rows), valid = first_lanes(m);
    float *to = out;
    for (size_t c = 0; c < k; c++, to += e->rows) {
        __m512 v = _mm512_maskz_loadu_ps(valid, src + c * ld);
        if (k_scale) v = _mm512_maskz_mul_ps(valid, v, _mm512_set1_ps(k_scale[c]));
        _mm512_mask_storeu_epi32(to, rows, e->emulates_bf16 ? rounded_bits(v) : _mm512_castps_si512(v));
    }
}

/* [K][16]. */
void gemm_pack_b_avx512(const struct gemm_engine *e, const float *src, size_t ld, size_t n, size_t k, void *panel) {
    const __mmask16 mask = first_lanes(n);
    float *to = panel;
    for (size_t c = 0; c < k; c++) {
        const __m512 v = _mm512_maskz_loadu_ps(mask, src + c * ld);
        _mm512_storeu_si512(to + c * PANEL, e->emulates_bf16 ? rounded_bits(v) : _mm512_castps_si512(v));
    }
}

void gemm_pack_b_transposed_avx512(const struct gemm_engine *e, const float *src, size_t ld, size_t n, size_t k,
                                   void *panel) {
    float *to = panel;
    for (size_t c = 0; c < k; c += 16) {
        __m512i r[16];
        load_transposed(src + c, ld, n, first_lanes(k - c), NULL, e->emulates_bf16, r);
        for (size_t i = 0; i < 16 && c + i < k; i++, to += PANEL)
            _mm512_storeu_si512(to, r[i]);
    }
}

float quantize_avx512(const float *x, size_t cols, int8_t *codes) {
    __m512i most = _mm512_castps_si512(_mm512_set1_ps(1e-5f));
    for (size_t c = 0; c < cols; c += 16) {
        const __mmask16 mask = (__mmask16)(cols - c >= 16 ? 0xffff : (1u << (cols - c)) - 1);
        most = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(_mm512_maskz_loadu_ps(mask, x + c))), most);
    }
    const int32_t largest = _mm512_reduce_max_epi32(most);
    float amax;
    memcpy(&amax, &largest, sizeof amax);
    if (!isfinite(amax)) {
        memset(codes, 0, cols);
        return NAN;
    }
    const __m512 factor = _mm512_set1_ps(127.0f / amax);
    for (size_t c = 0; c < cols; c += 16) { /* rounds to nearest even, within -127..127 */
        const __mmask16 mask = (__mmask16)(cols - c >= 16 ? 0xffff : (1u << (cols - c)) - 1);
        const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + c), factor));
        _mm512_mask_cvtsepi32_storeu_epi8(codes + c, mask, q);
    }
    return amax / 127.0f;
}

TARGET_END
#endif
