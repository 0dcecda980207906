/* The order of activations beside packed bytes that are masked where they are, for kernels of vectors of any width. */
#ifndef DQT_KERNELS_GEMV_PERMUTE_H
#define DQT_KERNELS_GEMV_PERMUTE_H

#include <string.h>

#include "core/size.h"
#include "kernels/gemm_kernels.h"

/* A vector of `width` bytes holds the same value index of width / (bytes of a block) blocks, a group:
 * out[groups][tokens][values of a byte][blocks of a group][bytes of a block], of which this is one token's; blocks that
 * the last group lacks are zeros. */
static inline void permute_planes(const struct packing *p, const int8_t *x, size_t blocks, size_t width, size_t token,
                                  size_t tokens, int8_t *out) {
    const size_t bytes = packing_block_bytes(p), values = PACK_BLOCK / bytes, group = width / bytes;
    DQT_ASSERT((dot_packed_takes(p) || packing_is_bytes(p)) && group > 0 && group <= DOT_GROUP_BLOCKS);
    for (size_t b = 0; b < round_up(blocks, group); b++) {
        int8_t *to = out + (b / group * tokens + token) * group * PACK_BLOCK + b % group * bytes;
        for (size_t i = 0; i < values; i++) {
            if (b < blocks) {
                memcpy(to + i * width, x + b * PACK_BLOCK + i * bytes, bytes);
            } else {
                memset(to + i * width, 0, bytes);
            }
        }
    }
}

#endif
