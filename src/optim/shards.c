/* Which rows of a parameter a shard of the step writes. */
#include "optim/updater_state.h"

_Static_assert(GEMM_TILE_ROWS == 64, "dqt.h promises shards of whole tiles of 64 rows");

/* Where rms(u) of all rows decides and each row's u needs a state of its own, which other shards do not have. */
static bool indivisible(const dqt_updater *u, const struct parameter *p) {
    return updater_clips_updates(u, p) && !p->factored;
}

static bool goes_whole(const dqt_updater *u, const struct parameter *p, size_t num_shards) {
    return p->tiles < num_shards || indivisible(u, p);
}

void shard_tiles(const dqt_updater *u, size_t index, size_t shard, size_t num_shards, size_t *first, size_t *end) {
    DQT_ASSERT(index < u->count && shard < num_shards);
    const struct parameter *p = &u->parameters[index];
    *first = *end = 0;
    if (parameter_frozen(p)) return;
    if (goes_whole(u, p, num_shards)) {
        size_t before = 0;
        for (size_t i = 0; i < index; i++)
            if (!parameter_frozen(&u->parameters[i]) && goes_whole(u, &u->parameters[i], num_shards)) before++;
        if (before % num_shards == shard) *end = p->tiles;
        return;
    }
    const size_t each = p->tiles / num_shards, more = p->tiles % num_shards; /* the first `more` have one more */
    *first = shard * each + size_min(shard, more);
    *end = *first + each + (shard < more ? 1 : 0);
}

void updater_shard_rows(const dqt_updater *u, size_t index, size_t shard, size_t num_shards, size_t *row,
                        size_t *count) {
    size_t first, end;
    shard_tiles(u, index, shard, num_shards, &first, &end);
    *row = first * GEMM_TILE_ROWS;
    *count = end > first ? tile_end(&u->parameters[index], (end - 1) * GEMM_TILE_ROWS) - *row : 0;
}
