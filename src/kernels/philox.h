/* Philox4x32-10 in plain C, for the templates that are compiled once per instruction set. Included where they are, so
 * that nothing compiled here is called on a lesser CPU. */
#ifndef DQT_KERNELS_PHILOX_H
#define DQT_KERNELS_PHILOX_H

#include "core/rng.h"

/* The words of `count` counters from `first` on, out[count][4]: rng_block in core/rng.h, laid out so that compilers
 * find the vectors. count is a constant. */
static inline void philox_words(const struct rng *r, uint64_t first, int count, uint32_t *restrict out) {
    for (int i = 0; i < count; i++) {
        const uint64_t block = first + (uint64_t)i;
        uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = r->high[0], c3 = r->high[1];
        uint32_t k0 = r->key[0], k1 = r->key[1];
#pragma GCC unroll 10
        for (int round = 0; round < 10; round++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
            c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c1 = (uint32_t)p1;
            c3 = (uint32_t)p0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        out[4 * i] = c0;
        out[4 * i + 1] = c1;
        out[4 * i + 2] = c2;
        out[4 * i + 3] = c3;
    }
}

#endif
