/* Formats of the states that an optimiser keeps for each weight, as rows of a table. */
#ifndef DQT_OPTIM_STATE_H
#define DQT_OPTIM_STATE_H

#include "core/size.h"
#include "kernels/update_kernels.h"

struct state_format {
    int32_t id; /* DQT_STATE_* */
    size_t element_size;
    bool scaled;                     /* one f32 scale for each block of UPDATE_CHUNK columns of a row */
    enum update_codec first, second; /* codec of a first (signed) and of a second (positive) moment */
};

/* NULL for a number that is none of them. */
const struct state_format *state_format_of(int32_t id);

/* Whether states of a checkpoint, f32 (size 4) or bf16 (2), are within what a step can leave; see UPDATE_STATE_LIMIT.
 */
bool state_in_range(const void *data, size_t count, size_t size);

/* Blocks of a row, each with its scale where the format has scales. */
static inline size_t state_blocks(size_t cols) {
    return ceil_div(cols, UPDATE_CHUNK);
}

#endif
