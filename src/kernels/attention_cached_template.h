/* Attention over cached keys and values, part of attention_template.h: a kernel for each format of their elements. The
 * sums of a key, and of a column, have one order whatever their neighbours: eight at a time only hide latency. */

typedef uint16_t half_vec __attribute__((vector_size(VEC_WIDTH * 2)));

enum { AT_ONCE = 8, FEWER = 4 }; /* keys, or vectors of columns */

/* VEC_WIDTH elements of a row from element i on. format is a constant where this is inlined. */
static inline vec cached_load(const void *row, size_t i, int format) {
    if (format == DQT_CACHE_BF16) {
        half_vec h;
        memcpy(&h, (const uint16_t *)row + i, sizeof h);
        return (vec)(__builtin_convertvector(h, uvec) << 16);
    }
    if (format == DQT_CACHE_INT8) return vec_codes((const int8_t *)row + i);
    return vec_load((const float *)row + i);
}

static inline float cached_element(const void *row, size_t i, int format) {
    if (format == DQT_CACHE_BF16) return bf16_to_f32(((const uint16_t *)row)[i]);
    if (format == DQT_CACHE_INT8) return (float)((const int8_t *)row)[i];
    return ((const float *)row)[i];
}

static inline const void *cached_row(const void *rows, size_t row, size_t ld, int format) {
    return (const char *)rows + row * ld * cache_element_bytes(format);
}

/* Lanes are added in halves until four are left. */
static inline quad fold(vec sum) {
    quad q[VEC_WIDTH / 4];
    memcpy(q, &sum, sizeof q);
    UNROLL
    for (size_t n = VEC_WIDTH / 8; n; n /= 2)
        for (size_t i = 0; i < n; i++)
            q[i] += q[i + n];
    return q[0];
}

/* (s0 + s2) + (s1 + s3) of each of four. */
static inline quad quad_totals(quad a, quad b, quad c, quad d) {
    const quad ab = (quad){a[0], a[1], b[0], b[1]} + (quad){a[2], a[3], b[2], b[3]};
    const quad cd = (quad){c[0], c[1], d[0], d[1]} + (quad){c[2], c[3], d[2], d[3]};
    return (quad){ab[0], ab[2], cd[0], cd[2]} + (quad){ab[1], ab[3], cd[1], cd[3]};
}

/* Of `count` keys from k on, AT_ONCE or FEWER; beyond the last of `keys` it is repeated. count and format are constants
 * where this is inlined, which compilers leave undone unasked. */
static inline __attribute__((always_inline)) void cached_few_scores(const float *q, const void *k, size_t ldk,
                                                                    size_t keys, size_t head_size, float factor,
                                                                    float *scores, size_t count, int format) {
    const size_t whole = head_size / VEC_WIDTH * VEC_WIDTH;
    const void *row[AT_ONCE];
    vec sum[AT_ONCE];
    UNROLL
    for (size_t r = 0; r < count; r++) {
        row[r] = r && r < keys ? cached_row(row[r - 1], 1, ldk, format) : r ? row[r - 1] : k;
        sum[r] = vec_set(0);
    }
    for (size_t i = 0; i < whole; i += VEC_WIDTH) {
        const vec x = vec_load(q + i);
        UNROLL
        for (size_t r = 0; r < count; r++)
            sum[r] = vec_fma(x, cached_load(row[r], i, format), sum[r]);
    }
    UNROLL
    for (size_t r = 0; r < count; r += 4) {
        quad s = quad_totals(fold(sum[r]), fold(sum[r + 1]), fold(sum[r + 2]), fold(sum[r + 3]));
        for (size_t i = whole; i < head_size; i++)
            for (size_t j = 0; j < 4; j++)
                s[j] += q[i] * cached_element(row[r + j], i, format);
        s *= factor;
        if (r + 4 <= keys) {
            memcpy(scores + r, &s, sizeof s);
        } else {
            for (size_t j = 0; r + j < keys; j++)
                scores[r + j] = s[j];
        }
    }
}

static inline void cached_scores(const float *q, const void *k, size_t ldk, size_t keys, size_t head_size, float factor,
                                 float *scores, int format) {
    size_t j = 0;
    for (; j + FEWER < keys; j += AT_ONCE)
        cached_few_scores(q, cached_row(k, j, ldk, format), ldk, keys - j, head_size, factor, scores + j, AT_ONCE,
                          format);
    if (j < keys)
        cached_few_scores(q, cached_row(k, j, ldk, format), ldk, keys - j, head_size, factor, scores + j, FEWER,
                          format);
}

/* Columns i to i + count * VEC_WIDTH. */
static inline __attribute__((always_inline)) void cached_mix_columns(const float *p, const void *v, size_t ldv,
                                                                     size_t keys, size_t i, size_t count,
                                                                     float correction, float *out, int format) {
    vec sum[AT_ONCE];
    UNROLL
    for (size_t c = 0; c < AT_ONCE; c++)
        sum[c] = c < count ? vec_load(out + i + c * VEC_WIDTH) * correction : vec_set(0);
    for (size_t j = 0; j < keys; j++) {
        const void *row = cached_row(v, j, ldv, format);
        const vec x = vec_set(p[j]);
        UNROLL
        for (size_t c = 0; c < count; c++)
            sum[c] = vec_fma(x, cached_load(row, i + c * VEC_WIDTH, format), sum[c]);
    }
    UNROLL
    for (size_t c = 0; c < count; c++)
        vec_store(out + i + c * VEC_WIDTH, sum[c]);
}

static inline void cached_mix(const float *p, const void *v, size_t ldv, size_t keys, size_t head_size,
                              float correction, float *out, int format) {
    size_t i = 0;
    for (; i + AT_ONCE * VEC_WIDTH <= head_size; i += AT_ONCE * VEC_WIDTH)
        cached_mix_columns(p, v, ldv, keys, i, AT_ONCE, correction, out, format);
    for (; i + FEWER * VEC_WIDTH <= head_size; i += FEWER * VEC_WIDTH)
        cached_mix_columns(p, v, ldv, keys, i, FEWER, correction, out, format);
    for (; i + VEC_WIDTH <= head_size; i += VEC_WIDTH)
        cached_mix_columns(p, v, ldv, keys, i, 1, correction, out, format);
    for (; i < head_size; i++) {
        float sum = out[i] * correction;
        for (size_t j = 0; j < keys; j++)
            sum += p[j] * cached_element(cached_row(v, j, ldv, format), i, format);
        out[i] = sum;
    }
}

static inline void cached_widen(const void *x, const float *steps, size_t rows, size_t head_size, float *out,
                                size_t ldo, int format) {
    for (size_t r = 0; r < rows; r++, out += ldo) {
        const void *row = cached_row(x, r, head_size, format);
        const float step = steps ? steps[r] : 1.0f;
        size_t i = 0;
        for (; i + VEC_WIDTH <= head_size; i += VEC_WIDTH)
            vec_store(out + i, cached_load(row, i, format) * step);
        for (; i < head_size; i++)
            out[i] = cached_element(row, i, format) * step;
    }
}

#define CACHED_KERNELS(name, format)                                                                                   \
    static void scores_##name(const float *q, const void *k, size_t ldk, size_t keys, size_t head_size, float factor,  \
                              float *scores) {                                                                         \
        cached_scores(q, k, ldk, keys, head_size, factor, scores, format);                                             \
    }                                                                                                                  \
    static void mix_##name(const float *p, const void *v, size_t ldv, size_t keys, size_t head_size, float correction, \
                           float *out) {                                                                               \
        cached_mix(p, v, ldv, keys, head_size, correction, out, format);                                               \
    }                                                                                                                  \
    static void widen_##name(const void *x, const float *steps, size_t rows, size_t head_size, float *out,             \
                             size_t ldo) {                                                                             \
        cached_widen(x, steps, rows, head_size, out, ldo, format);                                                     \
    }
CACHED_KERNELS(f32, DQT_CACHE_F32)
CACHED_KERNELS(bf16, DQT_CACHE_BF16)
CACHED_KERNELS(int8, DQT_CACHE_INT8)
#undef CACHED_KERNELS
