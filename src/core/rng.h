/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 *
 * key = seed; counter = {element / 4 (64 bits), step (low 32 bits), stream << 24 ^ tensor id}; element e takes word e
 * % 4. Never by thread, lane or tile: hence the same bits for any sharding. */
#ifndef DQT_CORE_RNG_H
#define DQT_CORE_RNG_H

#include <stdint.h>

/* One stream per use, so that no two uses share numbers. */
enum rng_stream {
    RNG_WEIGHT = 1,     /* rounding of codes in an update */
    RNG_MOMENTUM = 2,   /* rounding of a low-precision first moment */
    RNG_VARIANCE = 3,   /* rounding of a low-precision second moment */
    RNG_INIT = 4,       /* initial weights */
    RNG_QUANTIZE = 5,   /* dqt_tensor_quantize */
    RNG_GRADIENT = 6,   /* rounding of stored gradients */
    RNG_CHECKPOINT = 7, /* rounding of saved block inputs */
    RNG_SAMPLE = 8,
    /* rounding of gradients to int8 for the products of backward: not by element, kernels/gradient_kernels.h */
    RNG_INPUT_PRODUCT = 9,
    RNG_WEIGHT_PRODUCT = 10,
    RNG_IMPORTANCE = 11, /* the tokens of io/importance.h */
    RNG_ACCUMULATOR = 12 /* accumulators of steps whose grid changes; in an update they take RNG_MOMENTUM's */
};

struct rng {
    uint32_t key[2];
    uint32_t high[2]; /* counter words 2 and 3 */
};

static inline struct rng rng_make(uint64_t seed, uint64_t step, enum rng_stream stream, uint32_t id) {
    struct rng r = {{(uint32_t)seed, (uint32_t)(seed >> 32)}, {(uint32_t)step, (uint32_t)stream << 24 ^ id}};
    return r;
}

/* Words for elements 4 * block .. 4 * block + 3. */
static inline void rng_block(const struct rng *r, uint64_t block, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = r->high[0], c3 = r->high[1];
    uint32_t k0 = r->key[0], k1 = r->key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Uniform in [0, 1) with 24 bits: exact in f32. */
static inline float rng_uniform01(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

#endif
