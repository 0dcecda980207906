/* Which rows of a parameter belong to a part. */
#include "optim/updater_state.h"

_Static_assert(GEMM_TILE_ROWS == 64, "dqt.h promises parts of whole tiles of 64 rows");

/* Every part has tiles / num_parts of the parameter; those that remain go to the parts in turn, from where the
 * parameters before it ended (`turn`), so that all parts of an updater differ by one tile at most. */
void shard_tiles(size_t tiles, size_t turn, size_t part, size_t num_parts, size_t *first, size_t *end) {
    DQT_ASSERT(part < num_parts && turn < num_parts);
    const size_t each = tiles / num_parts, more = tiles % num_parts, last = turn + more;
    /* parts turn .. last - 1, modulo num_parts, have one more; how many of them are before this part */
    const size_t wrapped = last > num_parts ? last - num_parts : 0;
    const size_t straight = part > turn ? size_min(part, last) - turn : 0;
    const bool one_more = (part >= turn && part < last) || part < wrapped;
    *first = part * each + size_min(part, wrapped) + straight;
    *end = *first + each + (one_more ? 1 : 0);
}

size_t shard_turn(size_t tiles, size_t turn, size_t num_parts) {
    return (turn + tiles % num_parts) % num_parts;
}

static size_t tile_count(const dqt_updater *u, size_t index) {
    return ceil_div(u->parameters[index].target.tensor->rows, GEMM_TILE_ROWS);
}

void updater_shard_rows(const dqt_updater *u, size_t index, size_t part, size_t num_parts, size_t *row, size_t *count) {
    DQT_ASSERT(index < u->count);
    const size_t rows = u->parameters[index].target.tensor->rows;
    size_t turn = 0, first, end;
    for (size_t i = 0; i < index; i++)
        turn = shard_turn(tile_count(u, i), turn, num_parts);
    shard_tiles(tile_count(u, index), turn, part, num_parts, &first, &end);
    *row = size_min(rows, first * GEMM_TILE_ROWS);
    *count = size_min(rows, end * GEMM_TILE_ROWS) - *row;
}
