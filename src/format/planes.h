/* Packing as a sum of planes.
 *
 * Codes are packed in blocks of 64. A code q is kept as v = q - bias (0 .. 127), and v as a sum of planes of 1, 2, 4 or
 * 8 bits: v = sum over planes of (the plane's value << its shift). The planes of a block lie one behind the other. In
 * a block, value k (0 .. 63) of a plane lies
 *
 *   PLANE_BITS     8 bytes: byte k / 8, bit k % 8
 *   PLANE_CRUMBS  16 bytes: byte k % 16, bits 2 * (k / 16) and the next
 *   PLANE_NIBBLES 32 bytes: byte k % 32, the low half for k < 32, the high half otherwise
 *   PLANE_BYTES   64 bytes: byte k, the code itself in two's complement: always the only plane, with bias 0
 *
 * so that one shift and one mask turn a vector of bytes into consecutive values. What is written here is the
 * specification, in loops that compilers turn into vectors: the updater uses them as they are. */
#ifndef DQT_FORMAT_PLANES_H
#define DQT_FORMAT_PLANES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/assert.h"

enum { PACK_BLOCK = 64, MAX_PLANES = 3, BLOCK_WORDS = PACK_BLOCK / 8 };

/* The value is the plane's width in bits. */
enum plane { PLANE_BITS = 1, PLANE_CRUMBS = 2, PLANE_NIBBLES = 4, PLANE_BYTES = 8 };

/* How codes min .. max lie in memory. The first plane's shift is 0. */
struct packing {
    int min, max, bias;
    int num_planes;
    struct {
        enum plane plane;
        int shift;
    } planes[MAX_PLANES];
};

static inline size_t plane_bytes(enum plane plane) {
    return (size_t)plane * PACK_BLOCK / 8;
}

/* Bytes of a block. */
static inline size_t packing_block_bytes(const struct packing *p) {
    size_t bytes = 0;
    for (int i = 0; i < p->num_planes; i++)
        bytes += plane_bytes(p->planes[i].plane);
    return bytes;
}

/* Codes lie as they are, one a byte, in two's complement. */
static inline bool packing_is_bytes(const struct packing *p) {
    return p->planes[0].plane == PLANE_BYTES;
}

/* The largest v - the smallest. */
static inline int packing_range(const struct packing *p) {
    return p->max - p->min;
}

/* Plain bytes, whatever the format: how codes that were made and not stored are handed to kernels. */
extern const struct packing plain_bytes;

/* The word whose byte i, in memory, is 1 << i. */
static inline uint64_t bit_of_byte(void) {
    static const uint8_t bytes[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* The values of one plane of a block, packed[plane_bytes(plane)], eight bytes a word. */
static inline void plane_values(enum plane plane, const uint8_t *packed, uint64_t out[BLOCK_WORDS]) {
    const uint64_t ones = UINT64_MAX / 255; /* a 1 in each byte */
    uint64_t in[BLOCK_WORDS];
    switch (plane) {
    case PLANE_BITS: /* a byte that is not 0 gets its top bit by adding 127 */
        for (int i = 0; i < BLOCK_WORDS; i++)
            out[i] = ((packed[i] * ones & bit_of_byte()) + 127 * ones) >> 7 & ones;
        return;
    case PLANE_CRUMBS:
        memcpy(in, packed, 16);
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 2; i++)
                out[2 * j + i] = in[i] >> 2 * j & 3 * ones;
        return;
    case PLANE_NIBBLES:
        memcpy(in, packed, 32);
        for (int i = 0; i < 4; i++)
            out[i] = in[i] & 15 * ones;
        for (int i = 0; i < 4; i++)
            out[4 + i] = in[i] >> 4 & 15 * ones;
        return;
    case PLANE_BYTES: break;
    }
    memcpy(out, packed, PACK_BLOCK);
}

/* The bits of v from `shift` on to one plane of a block. */
static inline void plane_pack(enum plane plane, const uint64_t v[BLOCK_WORDS], int shift, uint8_t *packed) {
    const uint64_t ones = UINT64_MAX / 255;
    uint64_t out[4];
    switch (plane) {
    case PLANE_BITS:
        /* Eight bytes of 0 or 1 are gathered by a product: byte i meets 2^(7 * (8 - i)) at bit 56 + i, and no two terms
         * meet. */
        for (int i = 0; i < BLOCK_WORDS; i++) {
            const uint64_t bits = v[i] >> shift & ones;
            const uint8_t *u = (const uint8_t *)&bits;
            const uint64_t little = (uint64_t)u[0] | (uint64_t)u[1] << 8 | (uint64_t)u[2] << 16 | (uint64_t)u[3] << 24 |
                                    (uint64_t)u[4] << 32 | (uint64_t)u[5] << 40 | (uint64_t)u[6] << 48 |
                                    (uint64_t)u[7] << 56;
            packed[i] = (uint8_t)(little * 0x0102040810204080u >> 56);
        }
        break;
    case PLANE_CRUMBS:
        for (int i = 0; i < 2; i++)
            out[i] = (v[i] >> shift & 3 * ones) | (v[2 + i] >> shift & 3 * ones) << 2 |
                     (v[4 + i] >> shift & 3 * ones) << 4 | (v[6 + i] >> shift & 3 * ones) << 6;
        memcpy(packed, out, 16);
        break;
    case PLANE_NIBBLES:
        for (int i = 0; i < 4; i++)
            out[i] = (v[i] >> shift & 15 * ones) | (v[4 + i] >> shift & 15 * ones) << 4;
        memcpy(packed, out, 32);
        break;
    case PLANE_BYTES: memcpy(packed, v, PACK_BLOCK); break;
    }
}

static inline bool packing_is_only(const struct packing *p, enum plane plane) {
    return p->num_planes == 1 && p->planes[0].plane == plane;
}

/* A block to or from 64 codes. The sum of planes is the specification; a block that is one plane has loops of its own
 * where gcc 12 makes the updater measurably faster with them. */
static inline void block_unpack(const struct packing *p, const uint8_t *restrict packed,
                                int8_t codes[restrict PACK_BLOCK]) {
    uint64_t v[BLOCK_WORDS], more[BLOCK_WORDS];
    DQT_ASSERT(p->num_planes > 0 && p->num_planes <= MAX_PLANES && p->planes[0].shift == 0);
    if (packing_is_bytes(p)) {
        memcpy(codes, packed, PACK_BLOCK);
        return;
    }
    const int bias = p->bias;
    if (packing_is_only(p, PLANE_CRUMBS)) {
        for (int b = 0; b < 16; b++)
            codes[b] = (int8_t)((packed[b] & 3) + bias);
        for (int b = 0; b < 16; b++)
            codes[16 + b] = (int8_t)((packed[b] >> 2 & 3) + bias);
        for (int b = 0; b < 16; b++)
            codes[32 + b] = (int8_t)((packed[b] >> 4 & 3) + bias);
        for (int b = 0; b < 16; b++)
            codes[48 + b] = (int8_t)((packed[b] >> 6) + bias);
        return;
    }
    if (packing_is_only(p, PLANE_NIBBLES)) {
        for (int b = 0; b < 32; b++)
            codes[b] = (int8_t)((packed[b] & 15) + bias);
        for (int b = 0; b < 32; b++)
            codes[32 + b] = (int8_t)((packed[b] >> 4) + bias);
        return;
    }
    plane_values(p->planes[0].plane, packed, v);
    for (int i = 1; i < p->num_planes; i++) {
        packed += plane_bytes(p->planes[i - 1].plane);
        plane_values(p->planes[i].plane, packed, more);
        for (int w = 0; w < BLOCK_WORDS; w++)
            v[w] |= more[w] << p->planes[i].shift;
    }
    memcpy(codes, v, PACK_BLOCK);
    for (int k = 0; k < PACK_BLOCK; k++)
        codes[k] = (int8_t)(codes[k] + bias);
}

static inline void block_pack(const struct packing *p, const int8_t codes[restrict PACK_BLOCK],
                              uint8_t *restrict packed) {
    uint64_t v[BLOCK_WORDS];
    uint8_t u[PACK_BLOCK];
    DQT_ASSERT(p->num_planes > 0 && p->num_planes <= MAX_PLANES && p->planes[0].shift == 0);
    if (packing_is_bytes(p)) {
        memcpy(packed, codes, PACK_BLOCK);
        return;
    }
    for (int k = 0; k < PACK_BLOCK; k++)
        u[k] = (uint8_t)(codes[k] - p->bias);
    if (packing_is_only(p, PLANE_NIBBLES)) {
        for (int b = 0; b < 32; b++)
            packed[b] = (uint8_t)(u[b] | u[32 + b] << 4);
        return;
    }
    memcpy(v, u, PACK_BLOCK);
    for (int i = 0; i < p->num_planes; i++) {
        plane_pack(p->planes[i].plane, v, p->planes[i].shift, packed);
        packed += plane_bytes(p->planes[i].plane);
    }
}

#endif
