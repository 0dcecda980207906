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
#include "kernels/prefetch.h"

/* Tables of TABLES groups of 4 elements of K, 20 KiB, stay in L1 while all columns are multiplied. A byte of packed
 * codes is a group: elements g, 16 + g, 32 + g and 48 + g of a block of 64 are group g. */
enum { ROWS = 32, SUMS = 81, TABLES = 4, DEPTH = 4 * TABLES, GROUPS = PACK_BLOCK / 4, MOST_K = 256 };
enum { LOG_BYTES = 6, SUM_BYTES = 1 << LOG_BYTES };
_Static_assert(MOST_K * 127 <= INT16_MAX, "sums of a call");
_Static_assert(MOST_K % GEMM_K_ALIGN == 0 && GEMM_K_ALIGN % DEPTH == 0, "whole tables");
_Static_assert(SUM_BYTES == 2 * ROWS && TABLES == sizeof(uint64_t) / sizeof(uint16_t), "an entry; a word of places");

typedef int16_t table[SUMS][ROWS];
_Static_assert(TABLES * sizeof(table) <= UINT16_MAX, "places");

/* A panel has [K / 64][64 / DEPTH][16][TABLES] places of entries, in bytes from the first table on; the rest of what 64
 * elements have is free. */
enum { STEP_BYTES = PANEL * TABLES * sizeof(uint16_t) };
static inline size_t panel_at(size_t k) {
    return k / PACK_BLOCK * PACK_BLOCK * PANEL + k % PACK_BLOCK / DEPTH * STEP_BYTES;
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

/* Adds the tables' sums of 16 columns to sums[16][ROWS]. places: [16][TABLES]. */
static inline void add_sums(const table *tables, const char *places, bool first, int16_t *sums) {
    for (size_t c = 0; c < PANEL; c++, places += TABLES * sizeof(uint16_t), sums += ROWS) {
        uint64_t four;
        memcpy(&four, places, sizeof four);
        __m256i low = first ? _mm256_setzero_si256() : load_int(sums);
        __m256i high = first ? _mm256_setzero_si256() : load_int(sums + 16);
        for (int i = 0; i < TABLES; i++) {
            const char *entry = (const char *)tables + (four >> 16 * i & UINT16_MAX);
            low = _mm256_add_epi16(low, load_int(entry));
            high = _mm256_add_epi16(high, load_int(entry + SUM_BYTES / 2));
        }
        store_int(sums, low);
        store_int(sums + 16, high);
    }
}

/* Rows i to i + 7 of a column, in order: the total before and the sums of this call. */
static inline __m256i widened(const int16_t *sums, bool first, const int32_t *total, size_t i) {
    const __m256i s = load_int(sums + i / 16 * 16);
    const __m256i pairs = i % 16 ? _mm256_unpackhi_epi16(s, s) : _mm256_unpacklo_epi16(s, s);
    const __m256i sum = _mm256_srai_epi32(pairs, 16);
    return first ? sum : _mm256_add_epi32(sum, load_int(total + i));
}

/* Rows i to i + 7 of 8 columns of [ROWS] numbers: out[r] has row i + r of all columns. */
static inline void transposed(const int16_t *sums, bool first, const int32_t *total, size_t i, __m256i out[8]) {
    for (size_t c = 0; c < 8; c++)
        out[c] = widened(sums + c * ROWS, first, total + c * ROWS, i);
    transpose_ints(out);
}

/* One column, row by row. */
static void finish_column(const struct gemm_block *b, const struct epilogue *f, const int16_t *sums,
                          const int32_t *total, size_t n) {
    int32_t column[ROWS];
    for (size_t i = 0; i < ROWS; i += 8)
        store_int(column + i, widened(sums, b->first, total, i));
    for (size_t i = 0; i < b->m; i++)
        epilogue_one(f, i, n, epilogue_number_int(f, i, column[i]));
}

/* Sums [n up to a multiple of 16][ROWS] into y, whose lines have 16 columns. first is a constant where this is inlined.
 */
static inline void finish(const struct gemm_block *b, const struct epilogue *f, bool first, const int16_t *sums) {
    const int32_t *total = b->partial;
    size_t n = 0;
    for (; n + PANEL <= b->n; n += PANEL, sums += PANEL * ROWS, total += PANEL * ROWS) {
        for (size_t i = 0; i < b->m; i += 8) {
            __m256i left[8], right[8];
            transposed(sums, first, total, i, left);
            transposed(sums + 8 * ROWS, first, total + 8 * ROWS, i, right);
            for (size_t r = 0; r < size_min(8, b->m - i); r++) {
                epilogue8_int(f, i + r, n, left[r]);
                epilogue8_int(f, i + r, n + 8, right[r]);
            }
        }
    }
    for (; n < b->n; n++, sums += ROWS, total += ROWS)
        finish_column(b, f, sums, total, n);
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
        for (size_t n = 0; n < columns; n += PANEL, panel += b->panel_stride) {
            for (size_t i = 0; i < STEP_BYTES && n + PANEL < columns; i += 64) /* panels are pages apart */
                _mm_prefetch(panel + b->panel_stride + i, _MM_HINT_T0);
            add_sums((const table *)tables, panel, k == 0, sums + n * ROWS);
        }
    }
    if (b->last) {
        if (b->first) {
            finish(b, &f, true, sums);
        } else {
            finish(b, &f, false, sums);
        }
        return;
    }
    for (size_t n = 0; n < columns; n++)
        for (size_t i = 0; i < ROWS; i += 8)
            store_int(total + n * ROWS + i, widened(sums + n * ROWS, b->first, total + n * ROWS, i));
}

/* ---- Packing ------------------------------------------------------------------------------------------------- */

static inline __m256i load_two(const void *low, const void *high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                   _mm_loadu_si128((const __m128i *)high), 1);
}

/* 64 codes of 8 rows to out[GROUPS][ROWS][4]. Lane l has rows 4 l to 4 l + 3. */
static inline void pack_eight_rows(const int8_t *const rows[8], int8_t *out) {
    __m256i q[4][4]; /* [group / 4][row of a lane] */
    for (size_t i = 0; i < 4; i++) {
        __m256i v[4];
        for (size_t j = 0; j < 4; j++)
            v[j] = load_two(rows[i] + GROUPS * j, rows[4 + i] + GROUPS * j);
        const __m256i a = _mm256_unpacklo_epi8(v[0], v[1]), b = _mm256_unpackhi_epi8(v[0], v[1]);
        const __m256i c = _mm256_unpacklo_epi8(v[2], v[3]), d = _mm256_unpackhi_epi8(v[2], v[3]);
        q[0][i] = _mm256_unpacklo_epi16(a, c);
        q[1][i] = _mm256_unpackhi_epi16(a, c);
        q[2][i] = _mm256_unpacklo_epi16(b, d);
        q[3][i] = _mm256_unpackhi_epi16(b, d);
    }
    for (size_t t = 0; t < 4; t++, out += 4 * ROWS * 4) {
        const __m256i a = _mm256_unpacklo_epi32(q[t][0], q[t][1]), b = _mm256_unpackhi_epi32(q[t][0], q[t][1]);
        const __m256i c = _mm256_unpacklo_epi32(q[t][2], q[t][3]), d = _mm256_unpackhi_epi32(q[t][2], q[t][3]);
        store_int(out, _mm256_unpacklo_epi64(a, c));
        store_int(out + ROWS * 4, _mm256_unpackhi_epi64(a, c));
        store_int(out + 2 * ROWS * 4, _mm256_unpacklo_epi64(b, d));
        store_int(out + 3 * ROWS * 4, _mm256_unpackhi_epi64(b, d));
    }
}

/* Codes of B have no bias, so sums stay as they are. */
static void pack_a_groups(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t m, size_t k, void *out,
                          int32_t *sums) {
    static const int8_t zeros[PACK_BLOCK];
    (void)e;
    (void)sums;
    DQT_ASSERT(k % PACK_BLOCK == 0);
    for (size_t i = 0; i < ROWS; i += 8) {
        for (size_t c = 0; c < k; c += PACK_BLOCK) {
            const int8_t *rows[8];
            for (size_t r = 0; r < 8; r++)
                rows[r] = i + r < m ? src + (i + r) * ld + c : zeros;
            pack_eight_rows(rows, (int8_t *)out + c * ROWS + i * 4);
        }
    }
}

/* 16 numbers of entries, of groups of which every fourth has the same table, to their places. */
static inline __m256i places_of(__m128i entries) {
    enum { T = sizeof(table) };
    const __m256i begin = _mm256_set1_epi64x((int64_t)3 * T << 48 | (int64_t)2 * T << 32 | (int64_t)T << 16);
    return _mm256_add_epi16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(entries), LOG_BYTES), begin);
}

/* The entries of 16 packed bytes; 2 bits that are no code stay within the table. */
static inline __m128i entries_of(const uint8_t *packed) {
    const __m128i half = _mm_set1_epi8(15), x = _mm_loadu_si128((const __m128i *)(const void *)packed);
    const __m128i first = _mm_setr_epi8(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 6, 7, 8, 8);
    const __m128i second = _mm_setr_epi8(0, 9, 18, 18, 27, 36, 45, 45, 54, 63, 72, 72, 54, 63, 72, 72);
    return _mm_add_epi8(_mm_shuffle_epi8(first, _mm_and_si128(x, half)),
                        _mm_shuffle_epi8(second, _mm_and_si128(_mm_srli_epi16(x, 4), half)));
}

static inline void store_half(char *out, __m256i v, int half) {
    _mm_storeu_si128((__m128i *)(void *)out, half ? _mm256_extracti128_si256(v, 1) : _mm256_castsi256_si128(v));
}

static void pack_b_places(const struct gemm_engine *e, const struct packing *p, const uint8_t *src, size_t stride,
                          size_t n, size_t blocks, void *panel) {
    (void)e;
    DQT_ASSERT(p->min == -1 && p->max == 1 && packing_is_only(p, PLANE_CRUMBS));
    for (size_t i = 0; i < PANEL; i += 2) {
        const uint8_t *one = src + size_min(i, n - 1) * stride, *two = src + size_min(i + 1, n - 1) * stride;
        char *out = (char *)panel + i * TABLES * sizeof(uint16_t);
        for (size_t b = 0; b < blocks; b++, out += PACK_BLOCK * PANEL) {
            if (b % 4 == 0) { /* the next panel's rows */
                prefetch_ahead(one + b * GROUPS, PANEL * stride);
                prefetch_ahead(two + b * GROUPS, PANEL * stride);
            }
            const __m256i v = places_of(entries_of(one + b * GROUPS)), w = places_of(entries_of(two + b * GROUPS));
            const __m256i even = _mm256_unpacklo_epi64(v, w), odd = _mm256_unpackhi_epi64(v, w);
            store_half(out, even, 0);
            store_half(out + STEP_BYTES, odd, 0);
            store_half(out + 2 * STEP_BYTES, even, 1);
            store_half(out + 3 * STEP_BYTES, odd, 1);
        }
    }
}

static inline __m128i times3(__m128i v) {
    return _mm_add_epi8(v, _mm_add_epi8(v, v));
}

/* Group g of 16 columns of src[64][ld] codes: numbers of entries. 2 stays within the table, as above. */
static inline __m128i entries_of_rows(const int8_t *src, size_t ld, size_t g) {
    __m128i x[4];
    for (size_t j = 0; j < 4; j++)
        x[j] = _mm_min_epi8(_mm_loadu_si128((const __m128i *)(const void *)(src + (GROUPS * j + g) * ld)),
                            _mm_set1_epi8(1));
    const __m128i sum = _mm_add_epi8(times3(_mm_add_epi8(times3(_mm_add_epi8(times3(x[3]), x[2])), x[1])), x[0]);
    return _mm_add_epi8(sum, _mm_set1_epi8(SUMS / 2)); /* of codes, -1 to 1 */
}

/* Of rows of codes -1 to 1. */
static void pack_b_row_places(const struct gemm_engine *e, const int8_t *src, size_t ld, size_t k, int bias,
                              void *panel) {
    (void)e;
    (void)bias;
    DQT_ASSERT(bias == 0 && k % PACK_BLOCK == 0);
    for (size_t c = 0; c < k; c += PACK_BLOCK, src += PACK_BLOCK * ld) {
        for (size_t g = 0; g < GROUPS; g += TABLES) {
            char *out = (char *)panel + panel_at(c + 4 * g);
            __m128i x[TABLES];
            for (size_t i = 0; i < TABLES; i++)
                x[i] = entries_of_rows(src, ld, g + i);
            for (size_t half = 0; half < 2; half++) { /* 8 columns, then the others */
                const __m128i a = half ? _mm_unpackhi_epi8(x[0], x[1]) : _mm_unpacklo_epi8(x[0], x[1]);
                const __m128i b = half ? _mm_unpackhi_epi8(x[2], x[3]) : _mm_unpacklo_epi8(x[2], x[3]);
                store_int(out + half * STEP_BYTES / 2, places_of(_mm_unpacklo_epi16(a, b)));
                store_int(out + half * STEP_BYTES / 2 + 32, places_of(_mm_unpackhi_epi16(a, b)));
            }
        }
    }
}

const struct gemm_engine gemm_ternary_avx2 = {.rows = ROWS,
                                              .extra_rows = ROWS / 2,
                                              .columns = PANEL,
                                              .group = 4,
                                              .size = 1,
                                              .k_align = PACK_BLOCK,
                                              .kc_bytes = MOST_K * ROWS,
                                              .signed_codes = true,
                                              .max_range = 2,
                                              .gebp = block_ternary,
                                              .pack_a_codes = pack_a_groups,
                                              .pack_b_packed = pack_b_places,
                                              .pack_b_rows = pack_b_row_places};

TARGET_END
#endif
