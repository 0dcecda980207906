/* AMX: a block is 32 rows x 32 columns, four 16 x 16 tiles of sums; each step of 64 bytes of K loads two tiles of A
 * and two of B for four tile products. Tiles 0-3: sums, 4-5: A, 6-7: B. Layout of partial sums: per pair of panels
 * four tiles. */
typedef int gemm_amx_unit; /* not empty elsewhere */

#if defined(__x86_64__) && !defined(_WIN32) /* gcc's tile loads take their stride as a long: 32 bits there */
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AMX)
#include "kernels/gemm_epilogue_avx512.h"
#include "kernels/gemm_transpose_avx512.h"
#include "kernels/kernels_amx.h"
#include "kernels/kernels_avx512.h"

enum {
    TILE = 1024,
    ROWS = 32,
    KC_BYTES = 32 << 10 /* of 48 KiB of L1 */
};

struct tile_config { /* Intel SDM vol. 1, 18.3 */
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
};

/* Constant data: gcc's _tile_loadconfig does not tell the compiler that all 64 bytes are read. */
static const struct tile_config config = {
    .palette = 1, .bytes_per_row = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
/* 32 elements of K: half of A's rows, half of B's tile. */
static const struct tile_config half_config = {
    .palette = 1, .bytes_per_row = {64, 64, 64, 64, 32, 32, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 8, 8}};

static void begin(void) {
    _tile_loadconfig(&config);
}

static void end(void) {
    _tile_release();
    _mm_sfence(); /* streamed results */
}

/* Not to displace what is read from L1 again and again. */
static inline void load_sums(const unsigned char *sums) {
    _tile_stream_loadd(0, sums, 64);
    _tile_stream_loadd(1, sums + TILE, 64);
    _tile_stream_loadd(2, sums + 2 * TILE, 64);
    _tile_stream_loadd(3, sums + 3 * TILE, 64);
}

/* The 2 x 2 tiles; distances in bytes. */
static inline void store_tiles(void *to, size_t row, size_t right, size_t down) {
    unsigned char *p = to;
    _tile_stored(0, p, row);
    _tile_stored(1, p + right, row);
    _tile_stored(2, p + down, row);
    _tile_stored(3, p + down + right, row);
}

static inline void zero_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* Complete 32 x 32 sums on their way from tiles to y. */
struct done {
    const unsigned char *sums; /* NULL: none */
    float *y;
    size_t n, m;
    struct columns16 c0, c1;
    enum epilogue_store how;
};

static inline void epilogue_rows(const struct epilogue *epilogue, const struct done *d, size_t row, size_t last,
                                 bool integer, enum epilogue_store how) {
    const struct columns16 c0 = d->c0, c1 = d->c1;
    struct epilogue f = *epilogue;
    f.y = d->y;
    for (size_t i = row; i < last; i++) {
        const unsigned char *from = d->sums + i / 16 * 2 * TILE + i % 16 * 64;
        if (integer) {
            epilogue_int(&f, i, d->n, c0, _mm512_load_si512(from), how);
            epilogue_int(&f, i, d->n + PANEL, c1, _mm512_load_si512(from + TILE), how);
        } else {
            epilogue_float(&f, i, d->n, c0, _mm512_load_ps(from), how);
            epilogue_float(&f, i, d->n + PANEL, c1, _mm512_load_ps(from + TILE), how);
        }
    }
}

/* `integer` is a constant where this is inlined. The block of A is read from L1; what moves past it comes from L2 and
 * must not displace it there. While the tile unit works on 32 x 32 sums, the vector units run the epilogue of those
 * before them, a few rows a step. */
static inline void multiply(const struct gemm_block *b, bool integer) {
    DQT_ASSERT(b->k > 0 && b->k % (integer ? 64 : 32) == 0 && b->m > 0 && b->m <= ROWS && b->n > 0);
    DQT_ASSERT((uintptr_t)b->a % 64 == 0 && (uintptr_t)b->b % 64 == 0 && (uintptr_t)b->partial % 64 == 0);
    const size_t steps = b->k / (integer ? 64 : 32), rows_per_step = (ROWS + steps - 1) / steps;
    const size_t count = (b->n + 31) / 32, panel_stride = b->panel_stride; /* of 32 x 32 sums */
    const bool first = b->first, last = b->last, accumulate = b->accumulate;
    const bool plain = !integer && !b->row_scale && !b->col_scale && !accumulate; /* tiles go straight to y */
    const struct epilogue f = epilogue_begin(b);
    const char *prefetch = b->prefetch, *const prefetch_end =
                                            b->prefetch_bytes ? prefetch + b->prefetch_bytes : prefetch;
    const size_t prefetch_per_step = (b->prefetch_bytes / 64 + count * steps - 1) / (count * steps);
    struct done d = {.sums = NULL};
    for (size_t t = 0; t < count; t++) {
        const unsigned char *a = b->a;
        const unsigned char *b0 = (const unsigned char *)b->b + 2 * t * panel_stride, *b1 = b0 + panel_stride;
        const size_t cell = first && last ? t % 2 : t; /* sums that are not kept: two cells, in turn, stay in L1 */
        unsigned char *sums = (unsigned char *)b->partial + cell * 4 * TILE;
        if (first) {
            zero_sums();
        } else {
            load_sums(sums);
        }
        for (size_t s = 0, row = 0; s < steps; s++, a += 2 * TILE, b0 += TILE, b1 += TILE) {
            _tile_stream_loadd(6, b0, 64);
            _tile_loadd(4, a, 64);
            _tile_stream_loadd(7, b1, 64);
            _tile_loadd(5, a + TILE, 64);
            if (integer) {
                _tile_dpbssd(0, 4, 6);
                _tile_dpbssd(1, 4, 7);
                _tile_dpbssd(2, 5, 6);
                _tile_dpbssd(3, 5, 7);
            } else {
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            for (size_t i = 0; i < prefetch_per_step && prefetch < prefetch_end; i++, prefetch += 64)
                _mm_prefetch(prefetch, _MM_HINT_T1);
            if (d.sums && row < d.m) {
                const size_t end = row + rows_per_step < d.m ? row + rows_per_step : d.m;
                switch (d.how) {
                case EPILOGUE_STREAM: epilogue_rows(&f, &d, row, end, integer, EPILOGUE_STREAM); break;
                case EPILOGUE_WHOLE: epilogue_rows(&f, &d, row, end, integer, EPILOGUE_WHOLE); break;
                case EPILOGUE_PARTIAL: epilogue_rows(&f, &d, row, end, integer, EPILOGUE_PARTIAL);
                }
                row = end;
            }
        }
        const size_t n = t * 32;
        d.sums = NULL;
        if (last && plain && b->m >= ROWS && b->n - n >= 32) {
            store_tiles(f.y + n, f.ld_y * 4, 64, f.ld_y * 64);
            continue;
        }
        store_tiles(sums, 64, TILE, 2 * TILE);
        if (last) {
            d.sums = sums;
            d.y = f.y;
            d.m = b->m;
            d.n = n;
            d.c0 = columns_load(b, n);
            d.c1 = columns_load(b, n + PANEL);
            d.how = n + 32 > b->n || accumulate ? EPILOGUE_PARTIAL : b->stream ? EPILOGUE_STREAM : EPILOGUE_WHOLE;
        }
    }
    if (d.sums) epilogue_rows(&f, &d, 0, d.m, integer, EPILOGUE_PARTIAL);
}

static void gebp_int8(const struct gemm_block *b) {
    multiply(b, true);
}

static void gebp_bf16(const struct gemm_block *b) {
    multiply(b, false);
}

/* Groups of K on their way from tiles to the float totals[32][32] of 32 x 32 results. */
struct group_sums {
    _Alignas(64) unsigned char sums[2][4 * TILE]; /* of groups in turn */
    const float *scale;                           /* [groups][PANEL], and of the next panel */
    size_t scale_stride;
    float *totals;
};

/* Rows [row, row + count) of group g. */
static inline void add_rows(const struct group_sums *p, size_t g, size_t row, size_t count) {
    const float *scale = p->scale + g * PANEL;
    const __m512 s0 = _mm512_loadu_ps(scale), s1 = _mm512_loadu_ps(scale + p->scale_stride);
    for (size_t i = row; i < row + count; i++) {
        const unsigned char *from = p->sums[g % 2] + i / 16 * 2 * TILE + i % 16 * 64;
        float *to = p->totals + i * 2 * PANEL;
        const __m512 v0 = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(from)), s0);
        const __m512 v1 = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(from + TILE)), s1);
        _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), v0));
        _mm512_store_ps(to + PANEL, _mm512_add_ps(_mm512_load_ps(to + PANEL), v1));
    }
}

/* Sums of group g in tiles 0 to 3; a and b0 are at its first k. Of a group of 32 A has rows of half 64 bytes. Meanwhile
 * the tiles of group g - 1 are stored, each before it is needed, and those of g - 2, stored before, are added: the tile
 * unit, the stores and the vector units work side by side. */
static inline void multiply_group(const unsigned char *a, const unsigned char *b0, size_t panel_stride, size_t steps,
                                  size_t g, struct group_sums *p) {
    const size_t rows = ROWS / (4 * steps);
    unsigned char *before = p->sums[(g + 1) % 2];
#define TILE_STEP(tile, a_tile, b_tile)                                                                                \
    do {                                                                                                               \
        if (s == 0 && g > 0) _tile_stored(tile, before + tile * TILE, 64);                                             \
        if (s == 0) _tile_zero(tile);                                                                                  \
        _tile_dpbssd(tile, a_tile, b_tile);                                                                            \
        if (g > 1) add_rows(p, g - 2, (4 * s + tile) * rows, rows);                                                    \
    } while (0)
    for (size_t s = 0; s < steps; s++, a += 2 * TILE, b0 += TILE) {
        _tile_stream_loadd(6, b0, 64);
        _tile_loadd(4, a, 64);
        TILE_STEP(0, 4, 6);
        _tile_stream_loadd(7, b0 + panel_stride, 64);
        TILE_STEP(1, 4, 7);
        _tile_loadd(5, a + TILE, 64);
        TILE_STEP(2, 5, 6);
        TILE_STEP(3, 5, 7);
    }
#undef TILE_STEP
}

/* partial: [n / 32][32][32] floats. */
static void gebp_groups(const struct gemm_block *b) {
    DQT_ASSERT(b->m > 0 && b->m <= ROWS && b->n > 0 && b->k > 0 && b->k % b->group == 0);
    DQT_ASSERT(b->group == 32 || b->group == 64 || b->group == 128 || b->group == 256);
    DQT_ASSERT((uintptr_t)b->a % 64 == 0 && (uintptr_t)b->b % 64 == 0 && (uintptr_t)b->partial % 64 == 0);
    const size_t group = b->group, groups = b->k / group, steps = (group + 63) / 64;
    struct group_sums p;
    p.scale_stride = b->group_scale_stride;
    const struct epilogue f = epilogue_begin(b);
    const char *prefetch = b->prefetch, *const prefetch_end = prefetch ? prefetch + b->prefetch_bytes : NULL;
    const size_t prefetch_share = b->prefetch_bytes / ((b->n + 31) / 32) + 64;
    if (group == 32) _tile_loadconfig(&half_config);
    for (size_t n = 0; n < b->n; n += 2 * PANEL) {
        for (size_t i = 0; i < prefetch_share && prefetch < prefetch_end; i += 64, prefetch += 64)
            _mm_prefetch(prefetch, _MM_HINT_T1);
        const unsigned char *b0 = (const unsigned char *)b->b + n / PANEL * b->panel_stride;
        p.scale = b->group_scale + n / PANEL * p.scale_stride;
        p.totals = (float *)b->partial + (b->first && b->last ? 0 : n * ROWS);
        for (size_t i = 0; b->first && i < ROWS * 2 * PANEL; i += 16)
            _mm512_store_ps(p.totals + i, _mm512_set1_ps(-0.0f)); /* to which any number can be added */
        for (size_t g = 0, k = 0; g < groups; g++, k += group, b0 += group * PANEL)
            multiply_group((const unsigned char *)b->a + k / 64 * 2 * TILE + k % 64, b0, b->panel_stride, steps, g, &p);
        store_tiles(p.sums[(groups - 1) % 2], 64, TILE, 2 * TILE);
        if (groups > 1) add_rows(&p, groups - 2, 0, ROWS);
        add_rows(&p, groups - 1, 0, ROWS);
        if (!b->last) continue;
        const struct columns16 c0 = {first_lanes(b->n - n), _mm512_set1_ps(1.0f)};
        const struct columns16 c1 = {first_lanes(b->n - n > PANEL ? b->n - n - PANEL : 0), _mm512_set1_ps(1.0f)};
        for (size_t i = 0; i < b->m; i++) {
            epilogue_float(&f, i, n, c0, _mm512_load_ps(p.totals + i * 2 * PANEL), EPILOGUE_PARTIAL);
            epilogue_float(&f, i, n + PANEL, c1, _mm512_load_ps(p.totals + i * 2 * PANEL + PANEL), EPILOGUE_PARTIAL);
        }
    }
    if (group == 32) _tile_loadconfig(&config);
}

/* [K / 64][32][64 bytes]: 1 KiB tiles. */
static void pack_a_codes(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                         int32_t *sums) {
    (void)e;
    const __m512i ones = _mm512_set1_epi8(1);
    unsigned char *to = out;
    for (size_t i = 0; i < ROWS; i++, to += 64) {
        __m512i sum = _mm512_setzero_si512();
        for (size_t c = 0; c < k; c += 64) {
            const __m512i v = i < m ? _mm512_loadu_si512(src + i * ld + c) : _mm512_setzero_si512();
            sum = _mm512_dpbusd_epi32(sum, ones, v);
            _mm512_store_si512(to + c * ROWS, v);
        }
        sums[i] += _mm512_reduce_add_epi32(sum);
    }
}

static inline __m512 load_scaled(const float *src, const float *k_scale, __mmask16 mask) {
    const __m512 v = _mm512_maskz_loadu_ps(mask, src);
    return k_scale ? _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, k_scale)) : v;
}

/* [K / 32][32][32]. */
static void pack_a(const struct gemm_engine *e, const float *src, size_t ld, size_t m, size_t k, const float *k_scale,
                   void *out) {
    (void)e;
    unsigned char *to = out;
    for (size_t i = 0; i < ROWS; i++, to += 64) {
        for (size_t c = 0; c < k; c += 32) {
            __m512 low = _mm512_setzero_ps(), high = low;
            if (i < m) {
                const __mmask16 m0 = first_lanes(k - c), m1 = first_lanes(k - c > 16 ? k - c - 16 : 0);
                const float *s = src + i * ld + c;
                low = load_scaled(s, k_scale ? k_scale + c : NULL, m0);
                if (m1) high = load_scaled(s + 16, k_scale ? k_scale + c + 16 : NULL, m1);
            }
            _mm512_store_si512(to + c * ROWS * 2, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    }
}

/* Two rows of floats to dwords of bf16 pairs (first row low). */
static inline __m512i pair(__m512 low, __m512 high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

static inline __m512 row_scaled(const float *src, size_t ld, size_t c, size_t k, const float *k_scale, __mmask16 mask) {
    if (c >= k || !mask) return _mm512_setzero_ps();
    const __m512 v = _mm512_maskz_loadu_ps(mask, src + c * ld);
    return k_scale ? _mm512_maskz_mul_ps(mask, v, _mm512_set1_ps(k_scale[c])) : v;
}

static void pack_a_transposed(const struct gemm_engine *e, const float *src, size_t ld, size_t m, size_t k,
                              const float *k_scale, void *out) {
    (void)e;
    unsigned char *to = out;
    for (size_t c = 0; c < k; c += 32) {
        for (size_t half = 0; half < 2; half++, to += TILE) {
            const __mmask16 mask = first_lanes(m > half * 16 ? m - half * 16 : 0);
            __m512i r[16];
            for (size_t i = 0; i < 16; i++)
                r[i] = pair(row_scaled(src + half * 16, ld, c + 2 * i, k, k_scale, mask),
                            row_scaled(src + half * 16, ld, c + 2 * i + 1, k, k_scale, mask));
            transpose16(r);
            for (size_t i = 0; i < 16; i++)
                _mm512_store_si512(to + i * 64, r[i]);
        }
    }
}

/* [K / 2][16][2] from rows of K: src[k][ld]. */
static void pack_b(const struct gemm_engine *e, const float *src, size_t ld, size_t n, size_t k, void *panel) {
    const __mmask16 mask = first_lanes(n);
    const size_t padded = (k + e->k_align - 1) / e->k_align * e->k_align;
    unsigned char *to = panel;
    for (size_t c = 0; c < padded; c += 2, to += 64)
        _mm512_store_si512(to, pair(row_scaled(src, ld, c, k, NULL, mask), row_scaled(src, ld, c + 1, k, NULL, mask)));
}

/* The same from columns: src[n][ld]. */
static void pack_b_transposed(const struct gemm_engine *e, const float *src, size_t ld, size_t n, size_t k,
                              void *panel) {
    (void)e;
    unsigned char *to = panel;
    for (size_t c = 0; c < k; c += 32, to += TILE) {
        const __mmask16 m0 = first_lanes(k - c), m1 = first_lanes(k - c > 16 ? k - c - 16 : 0);
        __m512i r[16];
        for (size_t i = 0; i < 16; i++) {
            __m512 low = _mm512_setzero_ps(), high = low;
            if (i < n) {
                low = _mm512_maskz_loadu_ps(m0, src + i * ld + c);
                if (m1) high = _mm512_maskz_loadu_ps(m1, src + i * ld + c + 16);
            }
            r[i] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        }
        transpose16(r);
        for (size_t i = 0; i < 16; i++)
            _mm512_store_si512(to + i * 64, r[i]);
    }
}

const struct gemm_engine gemm_int8_amx = {.rows = ROWS,
                                          .columns = 2 * PANEL,
                                          .group = 4,
                                          .size = 1,
                                          .k_align = 64,
                                          .kc_bytes = KC_BYTES,
                                          .signed_codes = true,
                                          .max_range = 255,
                                          .begin = begin,
                                          .end = end,
                                          .gebp = gebp_int8,
                                          .gebp_groups = gebp_groups,
                                          .pack_a_codes = pack_a_codes,
                                          .pack_b_packed = gemm_pack_b_signed_avx512};
const struct gemm_engine gemm_bf16_amx = {.rows = ROWS,
                                          .columns = 2 * PANEL,
                                          .group = 2,
                                          .size = 2,
                                          .k_align = 32,
                                          .kc_bytes = KC_BYTES,
                                          .begin = begin,
                                          .end = end,
                                          .gebp = gebp_bf16,
                                          .pack_a = pack_a,
                                          .pack_a_transposed = pack_a_transposed,
                                          .pack_b = pack_b,
                                          .pack_b_transposed = pack_b_transposed,
                                          .pack_b_codes = gemm_pack_b_codes_bf16_avx512};

TARGET_END
#endif
