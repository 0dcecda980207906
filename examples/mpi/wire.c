#include "wire.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 128, LANES = 8, PER_LANE = 8, DRAWN = LANES * PER_LANE }; /* numbers of 16 bits drawn at a time */

/* splitmix64 of a counter. */
static uint64_t mix(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

struct stream {
    uint32_t key[2], row, rank;
};

static struct stream stream_of(const struct wire_key *key, size_t row) {
    const uint64_t k = mix(mix(mix(key->seed) ^ key->step) ^ key->parameter);
    return (struct stream){{(uint32_t)k, (uint32_t)(k >> 32)}, (uint32_t)row, (uint32_t)key->rank};
}

/* Philox4x32-10 of LANES counters side by side: the numbers of columns [DRAWN * group, DRAWN * group + DRAWN). */
static void draw(const struct stream *s, size_t group, uint16_t drawn[DRAWN]) {
    uint32_t c[4][LANES], key[2] = {s->key[0], s->key[1]};
    for (int l = 0; l < LANES; l++) {
        c[0][l] = (uint32_t)(group * LANES + (size_t)l);
        c[1][l] = s->row;
        c[2][l] = s->rank;
        c[3][l] = 0;
    }
    for (int round = 0; round < 10; round++) {
        for (int l = 0; l < LANES; l++) {
            const uint64_t a = (uint64_t)0xD2511F53u * c[0][l], b = (uint64_t)0xCD9E8D57u * c[2][l];
            c[0][l] = (uint32_t)(b >> 32) ^ c[1][l] ^ key[0];
            c[1][l] = (uint32_t)b;
            c[2][l] = (uint32_t)(a >> 32) ^ c[3][l] ^ key[1];
            c[3][l] = (uint32_t)a;
        }
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++)
        for (int l = 0; l < LANES; l++) {
            drawn[2 * i * LANES + l] = (uint16_t)c[i][l];
            drawn[(2 * i + 1) * LANES + l] = (uint16_t)(c[i][l] >> 16);
        }
}

/* Upper half of a float whose lower half was rounded away, up in as many of 65,536 cases as it says. */
static uint16_t to_bf16(float x, uint16_t random) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7F800000u) == 0x7F800000u) return 0x7FC0; /* NaN */
    return (uint16_t)((bits + random) >> 16);
}

static float from_bf16(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void pack_bf16(const struct stream *s, const float *gradient, size_t cols, unsigned char *bytes) {
    uint16_t drawn[DRAWN], halves[DRAWN];
    for (size_t at = 0; at < cols; at += DRAWN) {
        const size_t n = cols - at < DRAWN ? cols - at : DRAWN;
        draw(s, at / DRAWN, drawn);
        for (size_t k = 0; k < n; k++)
            halves[k] = to_bf16(gradient[at + k], drawn[k]);
        memcpy(bytes + 2 * at, halves, 2 * n);
    }
}

/* max|x| / 127, not finite where a number is not: bits of floats without a sign are in the order of the floats,
 * infinity and NaN at the end. */
static float block_scale(const float *x, size_t n) {
    uint32_t most = 0;
    float scale;
    for (size_t k = 0; k < n; k++) {
        uint32_t bits;
        memcpy(&bits, x + k, sizeof bits);
        bits &= 0x7FFFFFFFu;
        most = bits > most ? bits : most;
    }
    memcpy(&scale, &most, sizeof scale);
    return scale / 127.0f;
}

/* floor(x / scale + r), r in (0, 1); zeros where the scale is 0, not finite or has no inverse. */
static void pack_block(const struct stream *s, const float *x, size_t first, size_t n, float scale, int8_t *codes) {
    uint16_t drawn[DRAWN];
    const float inverse = 1.0f / scale;
    memset(codes, 0, n);
    if (!(scale > 0) || !isfinite(scale) || !isfinite(inverse)) return;
    for (size_t at = 0; at < n; at += DRAWN) {
        const size_t m = n - at < DRAWN ? n - at : DRAWN;
        draw(s, (first + at) / DRAWN, drawn);
        for (size_t k = 0; k < m; k++) {
            const float t = x[at + k] * inverse + ((float)drawn[k] + 0.5f) / 65536.0f;
            const int whole = (int)t, q = whole - (t < (float)whole);
            codes[at + k] = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
        }
    }
}

static void pack_int8(const struct stream *s, const float *gradient, size_t cols, unsigned char *bytes) {
    int8_t *codes = (int8_t *)bytes + wire_row_bytes(WIRE_INT8, cols) - cols;
    for (size_t at = 0; at < cols; at += BLOCK) {
        const size_t n = cols - at < BLOCK ? cols - at : BLOCK;
        const float scale = block_scale(gradient + at, n);
        memcpy(bytes + at / BLOCK * sizeof scale, &scale, sizeof scale);
        pack_block(s, gradient + at, at, n, scale, codes + at);
    }
}

size_t wire_row_bytes(enum wire_format format, size_t cols) {
    switch (format) {
    case WIRE_F32: return sizeof(float) * cols;
    case WIRE_BF16: return 2 * cols;
    case WIRE_INT8: return (cols + BLOCK - 1) / BLOCK * sizeof(float) + cols;
    }
    return 0;
}

void wire_pack_row(enum wire_format format, const struct wire_key *key, size_t row, const float *gradient, size_t cols,
                   unsigned char *bytes) {
    const struct stream s = stream_of(key, row);
    switch (format) {
    case WIRE_F32: memcpy(bytes, gradient, cols * sizeof *gradient); break;
    case WIRE_BF16: pack_bf16(&s, gradient, cols, bytes); break;
    case WIRE_INT8: pack_int8(&s, gradient, cols, bytes); break;
    }
}

static void add_int8(const unsigned char *bytes, size_t cols, float *sum) {
    const int8_t *codes = (const int8_t *)bytes + wire_row_bytes(WIRE_INT8, cols) - cols;
    for (size_t at = 0; at < cols; at += BLOCK) {
        const size_t n = cols - at < BLOCK ? cols - at : BLOCK;
        float scale;
        memcpy(&scale, bytes + at / BLOCK * sizeof scale, sizeof scale);
        for (size_t k = 0; k < n; k++)
            sum[at + k] += (float)codes[at + k] * scale;
    }
}

void wire_add_row(enum wire_format format, const unsigned char *bytes, size_t cols, float *sum) {
    switch (format) {
    case WIRE_F32:
        for (size_t k = 0; k < cols; k++) {
            float x;
            memcpy(&x, bytes + k * sizeof x, sizeof x);
            sum[k] += x;
        }
        break;
    case WIRE_BF16:
        for (size_t k = 0; k < cols; k++) {
            uint16_t half;
            memcpy(&half, bytes + 2 * k, sizeof half);
            sum[k] += from_bf16(half);
        }
        break;
    case WIRE_INT8: add_int8(bytes, cols, sum); break;
    }
}

/* All or one: libgomp ends threads that a region does not need, and starts them anew for the library's next one. */
static int threads_for(const struct wire_rows *rows) {
    enum { PAYS = 1 << 17 }; /* numbers, of some nanoseconds each */
    return rows->threads > 1 && rows->count * rows->cols >= PAYS ? rows->threads : 1;
}

void wire_pack_rows(const struct wire_rows *rows, const struct wire_key *key, const float *gradient,
                    unsigned char *bytes) {
    const size_t row_bytes = wire_row_bytes(rows->format, rows->cols);
    const int threads = threads_for(rows);
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (size_t row = 0; row < rows->count; row++)
        wire_pack_row(rows->format, key, rows->first + row, gradient + row * rows->cols, rows->cols,
                      bytes + row * row_bytes);
}

void wire_add_rows(const struct wire_rows *rows, const unsigned char *bytes, float *sum) {
    const size_t row_bytes = wire_row_bytes(rows->format, rows->cols);
    const int threads = threads_for(rows);
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (size_t row = 0; row < rows->count; row++)
        wire_add_row(rows->format, bytes + row * row_bytes, rows->cols, sum + row * rows->cols);
}

void wire_sum_rows(const struct wire_rows *rows, size_t messages, const unsigned char *bytes, size_t apart,
                   float *sum) {
    const size_t row_bytes = wire_row_bytes(rows->format, rows->cols);
    const int threads = threads_for(rows);
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (size_t row = 0; row < rows->count; row++) {
        float *to = sum + row * rows->cols;
        for (size_t c = 0; c < rows->cols; c++)
            to[c] = 0;
        for (size_t m = 0; m < messages; m++)
            wire_add_row(rows->format, bytes + m * apart + row * row_bytes, rows->cols, to);
    }
}
