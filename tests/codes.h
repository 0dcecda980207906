/* Packed rows, unpacked by the specification. */
#ifndef CODES_H
#define CODES_H

#include "format/tensor.h"

/* Storage codes of a row and of its padding, codes[round_up(cols, 64)]. */
static inline void tensor_unpack_codes(const dqt_tensor *t, size_t row, int8_t *codes) {
    const struct packing *packing = format_packing(t->storage);
    const unsigned char *packed = tensor_row(t, row);
    for (size_t c = 0; c < t->cols; c += PACK_BLOCK, packed += packing_block_bytes(packing))
        block_unpack(packing, packed, codes + c);
}

#endif
