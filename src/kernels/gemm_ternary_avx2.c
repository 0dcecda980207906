/* Ternary codes with AVX2, by tables: of 4 activations there are 81 sums with signs -1, 0, 1. They are made once for 32
 * rows of A, 16 bits each, 64 bytes a sum; 4 codes of a column of B pick one, and one addition is 64 products where
 * vpmaddubsw and vpaddw are 32 together. (After the method of Arlazarov, Dinic, Kronrod and Faradzev, 1970.) */
typedef int gemm_ternary_avx2_unit; /* not empty elsewhere */

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_AVX2)
#include "core/size.h"
#include "kernels/gemm_epilogue_avx2.h"
#include "kernels/kernels_avx2.h"
#include "kernels/kernels_scalar.h"

/* Tables of TABLES groups of 4 elements of K, 20 KiB, stay in L1 while all columns are multiplied. */
enum { ROWS = 32, SUMS = 81, TABLES = 4, DEPTH = 4 * TABLES, MOST_K = 192, LOG_BYTES = 6, SUM_BYTES = 1 << LOG_BYTES };
_Static_assert(MOST_K * 128 <= INT16_MAX, "sums of a call");
_Static_assert(MOST_K % GEMM_K_ALIGN == 0 && GEMM_K_ALIGN % DEPTH == 0, "whole tables");
_Static_assert(SUM_BYTES == 2 * ROWS && TABLES == sizeof(uint32_t), "an entry; a byte for each table");

typedef int16_t table[SUMS][ROWS];

/* A panel has [K / 64][64 / DEPTH][16][TABLES] bytes; the rest of what 64 elements have is free. */
static inline size_t panel_at(size_t k) {
    return k / PACK_BLOCK * PACK_BLOCK * PANEL + k % PACK_BLOCK / DEPTH * PANEL * TABLES;
}

/* Element j of 4 of 16 rows, from [16][4] bytes. Rows come as 0-3, 8-11, 4-7, 12-15, which widen_sums undoes. */
static inline __m256i column_of(const int8_t *a, int j) {
    const __m256i low = _mm256_slli_epi32(load_int(a), 24 - 8 * j);
    const __m256i high = _mm256_slli_epi32(load_int(a + 32), 24 - 8 * j);
    return _mm256_packs_epi32(_mm256_srai_epi32(low, 24), _mm256_srai_epi32(high, 24));
}

/* 16-bit numbers of all rows. */
struct rows {
    __m256i low, high;
};

static inline struct rows add_rows(struct rows a, struct rows b) {
    return (struct rows){_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
}

static inline int16_t *store_rows(int16_t *out, struct rows r) {
    store_int(out, r.low);
    store_int(out + 16, r.high);
    return out + ROWS;
}

/* a: [ROWS][4]. Entry u0 + 3 u1 + 9 u2 + 27 u3 is of codes u - 1. */
static void make_table(const int8_t *a, table t) {
    struct rows x[4], sum[3];
    int16_t *out = t[0];
    for (int j = 0; j < 4; j++)
        x[j] = (struct rows){column_of(a, j), column_of(a + 64, j)};
    sum[2] = add_rows(add_rows(x[0], x[1]), add_rows(x[2], x[3]));
    sum[2].low = _mm256_sub_epi16(_mm256_setzero_si256(), sum[2].low);
    sum[2].high = _mm256_sub_epi16(_mm256_setzero_si256(), sum[2].high);
    for (int u3 = 0; u3 < 3; u3++, sum[2] = add_rows(sum[2], x[3])) {
        sum[1] = sum[2];
        for (int u2 = 0; u2 < 3; u2++, sum[1] = add_rows(sum[1], x[2])) {
            sum[0] = sum[1];
            for (int u1 = 0; u1 < 3; u1++, sum[0] = add_rows(sum[0], x[1])) {
                const struct rows one = add_rows(sum[0], x[0]);
                out = store_rows(store_rows(store_rows(out, sum[0]), one), add_rows(one, x[0]));
            }
        }
    }
}

/* Where a table has the sums of byte i of four. */
static inline const char *entry_of(const table t, uint32_t four, int i) {
    const uint32_t at = 8 * i > LOG_BYTES ? four >> (8 * i - LOG_BYTES) : four << (LOG_BYTES - 8 * i);
    return (const char *)t + (at & (UINT32_C(0x7f) << LOG_BYTES));
}

/* Adds the tables' sums of 16 columns to sums[16][ROWS]. b: [16][TABLES] bytes. */
static inline void add_sums(const table *tables, const char *b, bool first, int16_t *sums) {
    for (size_t c = 0; c < PANEL; c++, b += TABLES, sums += ROWS) {
        uint32_t four;
        memcpy(&four, b, sizeof four);
        __m256i low = first ? _mm256_setzero_si256() : load_int(sums);
        __m256i high = first ? _mm256_setzero_si256() : load_int(sums + 16);
        for (int i = 0; i < TABLES; i++) {
            const char *entry = entry_of(tables[i], four, i);
            low = _mm256_add_epi16(low, load_int(entry));
            high = _mm256_add_epi16(high, load_int(entry + SUM_BYTES / 2));
        }
        store_int(sums, low);
        store_int(sums + 16, high);
    }
}

/* Adds to total[ROWS], in the order of rows. */
static inline void widen_sums(const int16_t *sums, bool first, int32_t *total) {
    for (size_t r = 0; r < ROWS; r += 16) {
        const __m256i s = load_int(sums + r);
        __m256i low = _mm256_srai_epi32(_mm256_unpacklo_epi16(s, s), 16);
        __m256i high = _mm256_srai_epi32(_mm256_unpackhi_epi16(s, s), 16);
        if (!first) {
            low = _mm256_add_epi32(low, load_int(total + r));
            high = _mm256_add_epi32(high, load_int(total + r + 8));
        }
        store_int(total + r, low);
        store_int(total + r + 8, high);
    }
}

/* total[8 columns][ROWS] to rows i .. i + 7 of 8 columns. */
static inline void transpose8(const int32_t *total, size_t i, __m256i out[8]) {
    __m256i v[8], w[8];
    for (size_t c = 0; c < 8; c += 2) {
        const __m256i a = load_int(total + c * ROWS + i), b = load_int(total + (c + 1) * ROWS + i);
        v[c] = _mm256_unpacklo_epi32(a, b);
        v[c + 1] = _mm256_unpackhi_epi32(a, b);
    }
    for (size_t c = 0; c < 8; c += 4) {
        w[c] = _mm256_unpacklo_epi64(v[c], v[c + 2]);
        w[c + 1] = _mm256_unpackhi_epi64(v[c], v[c + 2]);
        w[c + 2] = _mm256_unpacklo_epi64(v[c + 1], v[c + 3]);
        w[c + 3] = _mm256_unpackhi_epi64(v[c + 1], v[c + 3]);
    }
    for (size_t r = 0; r < 4; r++) {
        out[r] = _mm256_permute2x128_si256(w[r], w[r + 4], 0x20);
        out[r + 4] = _mm256_permute2x128_si256(w[r], w[r + 4], 0x31);
    }
}

/* Sums [n up to a multiple of 16][ROWS] into y. */
static void finish(const struct gemm_block *b, const struct epilogue *f) {
    const int32_t *total = b->partial;
    for (size_t n = 0; n < b->n; n += 8, total += 8 * ROWS) {
        if (n + 8 > b->n) {
            for (size_t c = 0; n + c < b->n; c++)
                for (size_t i = 0; i < b->m; i++)
                    epilogue_one(f, i, n + c, epilogue_number_int(f, i, total[c * ROWS + i]));
            return;
        }
        for (size_t i = 0; i < b->m; i += 8) {
            __m256i rows[8];
            transpose8(total, i, rows);
            for (size_t r = 0; r < size_min(8, b->m - i); r++)
                epilogue8_int(f, i + r, n, rows[r]);
        }
    }
}

/* partial: totals [columns][ROWS], then 16-bit sums of this call of the same shape. */
static void block_ternary(const struct gemm_block *b) {
    DQT_ASSERT(b->m > 0 && b->m <= ROWS && b->n > 0 && b->k % DEPTH == 0 && b->k <= MOST_K && block_is_aligned(b));
    _Alignas(64) table tables[TABLES];
    const struct epilogue f = epilogue_begin(b);
    const size_t columns = round_up(b->n, PANEL);
    int32_t *total = b->partial;
    int16_t *sums = (int16_t *)(void *)(total + columns * ROWS);
    for (size_t k = 0; k < b->k; k += DEPTH) {
        const char *panel = (const char *)b->b + panel_at(k);
        for (size_t i = 0; i < TABLES; i++)
            make_table((const int8_t *)b->a + (k + 4 * i) * ROWS, tables[i]);
        for (size_t n = 0; n < columns; n += PANEL, panel += b->panel_stride)
            add_sums((const table *)tables, panel, k == 0, sums + n * ROWS);
    }
    for (size_t n = 0; n < columns; n++)
        widen_sums(sums + n * ROWS, b->first, total + n * ROWS);
    if (b->last) finish(b, &f);
}

/* Of [K / 4][16][4] codes without their bias to numbers of entries; four groups of K become one. */
static void pack_b_entries(const struct gemm_engine *e, const struct packing *p, const uint8_t *src, size_t stride,
                           size_t n, size_t blocks, void *panel) {
    const __m256i digits = _mm256_set1_epi32(0x1b090301), ones = _mm256_set1_epi16(1);
    const __m256i most = _mm256_set1_epi8(2); /* 2 bits that are no code stay within the table */
    DQT_ASSERT(p->min == -1 && p->max == 1 && !packing_is_bytes(p));
    gemm_pack_b_packed_avx2(e, p, src, stride, n, blocks, panel);
    for (size_t k = 0; k < blocks * PACK_BLOCK; k += DEPTH) {
        const char *from = (const char *)panel + k * PANEL;
        for (size_t half = 0; half < 64; half += 32) {
            __m256i four = _mm256_setzero_si256();
            for (int i = 0; i < TABLES; i++) {
                const __m256i u = _mm256_min_epu8(load_int(from + 64 * i + half), most);
                const __m256i pairs = _mm256_maddubs_epi16(u, digits);
                four = _mm256_or_si256(four, _mm256_slli_epi32(_mm256_madd_epi16(pairs, ones), 8 * i));
            }
            store_int((char *)panel + panel_at(k) + half, four);
        }
    }
}

const struct gemm_engine gemm_ternary_avx2 = {.rows = ROWS,
                                              .extra_rows = ROWS / 2,
                                              .columns = PANEL,
                                              .group = 4,
                                              .size = 1,
                                              .k_align = 4,
                                              .kc_bytes = MOST_K * ROWS,
                                              .signed_codes = true,
                                              .max_range = 2,
                                              .gebp = block_ternary,
                                              .pack_a_codes = gemm_pack_a_codes,
                                              .pack_b_packed = pack_b_entries};

TARGET_END
#endif
