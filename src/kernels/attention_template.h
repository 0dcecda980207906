/* Attention tiles, compiled once per instruction set after vector_template.h. The including file defines besides:
 *   vec_fma(a, b, c)  a * b + c, fused where the instruction set has it
 *   vec_codes(x)      VEC_WIDTH int8 codes as floats
 *   PRODUCT_ROWS      rows of the register block of products (a divisor of ATTENTION_ROWS); it is two vectors wide
 * Tiles of scores are transposed, [key][query]: queries in lanes need no sums across lanes. */

enum { PRODUCT_COLUMNS = 2 * VEC_WIDTH, LANES = 16, LANE_VECS = LANES / VEC_WIDTH };
_Static_assert(ATTENTION_ROWS % PRODUCT_ROWS == 0 && ATTENTION_COLUMNS % PRODUCT_COLUMNS == 0, "whole register blocks");
_Static_assert(LANES % VEC_WIDTH == 0 && ATTENTION_TILE % LANES == 0, "whole vectors of queries");

static inline void product_block(size_t depth, const float *a, size_t row_step, size_t depth_step, const float *b,
                                 size_t ldb, float *c, size_t ldc, bool accumulate) {
    vec sums[PRODUCT_ROWS][2];
    UNROLL
    for (size_t i = 0; i < PRODUCT_ROWS; i++) {
        sums[i][0] = accumulate ? vec_load(c + i * ldc) : vec_set(0);
        sums[i][1] = accumulate ? vec_load(c + i * ldc + VEC_WIDTH) : vec_set(0);
    }
    for (size_t k = 0; k < depth; k++) {
        vec b0 = vec_load(b), b1 = vec_load(b + VEC_WIDTH);
        UNROLL
        for (size_t i = 0; i < PRODUCT_ROWS; i++) {
            vec x = vec_set(a[i * row_step]);
            sums[i][0] = vec_fma(x, b0, sums[i][0]);
            sums[i][1] = vec_fma(x, b1, sums[i][1]);
        }
        a += depth_step;
        b += ldb;
    }
    UNROLL
    for (size_t i = 0; i < PRODUCT_ROWS; i++) {
        vec_store(c + i * ldc, sums[i][0]);
        vec_store(c + i * ldc + VEC_WIDTH, sums[i][1]);
    }
}

static void attention_product(size_t rows, size_t cols, size_t depth, const float *a, size_t row_step,
                              size_t depth_step, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate) {
    DQT_ASSERT(rows % ATTENTION_ROWS == 0 && cols % ATTENTION_COLUMNS == 0);
    for (size_t j = 0; j < cols; j += PRODUCT_COLUMNS)
        for (size_t i = 0; i < rows; i += PRODUCT_ROWS)
            product_block(depth, a + i * row_step, row_step, depth_step, b + j, ldb, c + i * ldc + j, ldc, accumulate);
}

typedef float quad __attribute__((vector_size(16)));

static inline quad quad_load(const float *x) {
    quad q;
    memcpy(&q, x, sizeof q);
    return q;
}

/* out[c][r] = x[r][c] * factor for a block of 4 by 4. */
static inline void transpose_block(const float *x, size_t ldx, float factor, float *out, size_t ldo) {
    quad a = quad_load(x), b = quad_load(x + ldx), c = quad_load(x + 2 * ldx), d = quad_load(x + 3 * ldx);
    quad ab0 = {a[0], b[0], a[1], b[1]}, ab1 = {a[2], b[2], a[3], b[3]};
    quad cd0 = {c[0], d[0], c[1], d[1]}, cd1 = {c[2], d[2], c[3], d[3]};
    quad rows[4] = {{ab0[0], ab0[1], cd0[0], cd0[1]},
                    {ab0[2], ab0[3], cd0[2], cd0[3]},
                    {ab1[0], ab1[1], cd1[0], cd1[1]},
                    {ab1[2], ab1[3], cd1[2], cd1[3]}};
    for (size_t i = 0; i < 4; i++) {
        quad row = rows[i] * factor;
        memcpy(out + i * ldo, &row, sizeof row);
    }
}

static void attention_transpose(const float *x, size_t ldx, size_t rows, size_t cols, float factor, float *out,
                                size_t ldo) {
    size_t padded = round_up(rows, ATTENTION_COLUMNS);
    DQT_ASSERT(rows <= ATTENTION_TILE && ldo >= padded);
    size_t whole_rows = rows / 4 * 4, whole_cols = cols / 4 * 4;
    for (size_t r = 0; r < whole_rows; r += 4) {
        for (size_t c = 0; c < whole_cols; c += 4)
            transpose_block(x + r * ldx + c, ldx, factor, out + c * ldo + r, ldo);
        for (size_t c = whole_cols; c < cols; c++)
            for (size_t i = r; i < r + 4; i++)
                out[c * ldo + i] = x[i * ldx + c] * factor;
    }
    for (size_t c = 0; c < cols; c++) {
        for (size_t r = whole_rows; r < rows; r++)
            out[c * ldo + r] = x[r * ldx + c] * factor;
        for (size_t r = rows; r < padded; r++)
            out[c * ldo + r] = 0;
    }
}

/* All ones in lanes of queries first + lane >= key. */
static inline ivec causal_mask(size_t first, size_t key) {
    static const int32_t count[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ivec lane;
    memcpy(&lane, count, sizeof lane);
    return lane >= (int32_t)key - (int32_t)first;
}

static void attention_softmax(float *s, size_t keys, size_t queries, bool diagonal, float *maximum_out, float *sum_out,
                              float *correction) {
    DQT_ASSERT(keys > 0 && keys <= ATTENTION_TILE && queries > 0 && queries <= ATTENTION_TILE);
    for (size_t q = 0; q < queries; q += LANES) {
        size_t end = diagonal && q + LANES < keys ? q + LANES : keys;
        vec old[LANE_VECS], best[LANE_VECS], sum[LANE_VECS];
        for (size_t l = 0; l < LANE_VECS; l++) {
            old[l] = best[l] = vec_load(maximum_out + q + l * VEC_WIDTH);
            sum[l] = vec_set(0);
        }
        for (size_t j = 0; j < end; j++)
            for (size_t l = 0; l < LANE_VECS; l++) {
                size_t at = q + l * VEC_WIDTH;
                vec x = vec_load(s + j * ATTENTION_TILE + at);
                if (diagonal && j > q) x = vec_select(causal_mask(at, j), x, best[l]);
                best[l] = vec_max(x, best[l]);
            }
        for (size_t j = 0; j < end; j++)
            for (size_t l = 0; l < LANE_VECS; l++) {
                size_t at = q + l * VEC_WIDTH;
                vec p = vec_exp(vec_load(s + j * ATTENTION_TILE + at) - best[l]);
                if (diagonal && j > q) p = (vec)((ivec)p & causal_mask(at, j));
                sum[l] += p;
                vec_store(s + j * ATTENTION_TILE + at, p);
            }
        for (size_t l = 0; l < LANE_VECS; l++) {
            size_t at = q + l * VEC_WIDTH;
            vec factor = vec_exp(old[l] - best[l]);
            vec_store(correction + at, factor);
            vec_store(maximum_out + at, best[l]);
            vec_store(sum_out + at, vec_load(sum_out + at) * factor + sum[l]);
        }
    }
}

static void attention_softmax_gradient(float *s, float *dp, size_t keys, size_t queries, bool diagonal,
                                       const float *log_sum, const float *delta) {
    DQT_ASSERT(keys > 0 && keys <= ATTENTION_TILE && queries > 0 && queries <= ATTENTION_TILE);
    for (size_t q = 0; q < queries; q += LANES) {
        size_t end = diagonal && q + LANES < keys ? q + LANES : keys;
        for (size_t at = q; at < q + LANES; at += VEC_WIDTH) {
            vec ls = vec_load(log_sum + at), dl = vec_load(delta + at);
            for (size_t j = 0; j < end; j++) {
                float *row = s + j * ATTENTION_TILE + at, *gradient = dp + j * ATTENTION_TILE + at;
                vec p = vec_exp(vec_load(row) - ls), ds = p * (vec_load(gradient) - dl);
                if (diagonal && j > q) {
                    ivec mask = causal_mask(at, j);
                    p = (vec)((ivec)p & mask);
                    ds = (vec)((ivec)ds & mask);
                }
                vec_store(row, p);
                vec_store(gradient, ds);
            }
        }
    }
}

#include "kernels/attention_cached_template.h"

/* Every slot, from this file and vector_template.h. */
const struct vector_kernels VECTOR_KERNELS = {
    .sum_squares = sum_squares,
    .dot = dot,
    .dot3 = dot3,
    .maximum = maximum,
    .exp_sum = exp_sum,
    .norm_row = norm_row,
    .norm_gradient_row = norm_gradient_row,
    .add = add,
    .multiply = multiply,
    .scale = scale,
    .rope_row = rope_row,
    .swiglu = swiglu,
    .swiglu_gradient = swiglu_gradient,
    .gated_squared_relu = gated_squared_relu,
    .gated_squared_relu_gradient = gated_squared_relu_gradient,
    .squared_relu = squared_relu,
    .squared_relu_gradient = squared_relu_gradient,
    .softmax_scale = softmax_scale,
    .attention_product = attention_product,
    .attention_transpose = attention_transpose,
    .attention_softmax = attention_softmax,
    .attention_softmax_gradient = attention_softmax_gradient,
    .attention_scores = {[DQT_CACHE_F32] = scores_f32, [DQT_CACHE_BF16] = scores_bf16, [DQT_CACHE_INT8] = scores_int8},
    .attention_mix = {[DQT_CACHE_F32] = mix_f32, [DQT_CACHE_BF16] = mix_bf16, [DQT_CACHE_INT8] = mix_int8},
    .attention_widen = {[DQT_CACHE_F32] = widen_f32, [DQT_CACHE_BF16] = widen_bf16, [DQT_CACHE_INT8] = widen_int8},
};
