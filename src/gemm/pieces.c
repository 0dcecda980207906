#include "gemm/pieces.h"

#include "core/spin.h"

enum { UNPACKED, BUSY, PACKED };

/* What pieces cost, in multiplications of a row with a column: to fetch a row of A or a column of B from another core
 * or from L3; and for each piece, whose first rows were not fetched ahead. */
enum { FETCH = 64, BEGIN = 1024 };

/* The time of the lane that does most, of about. */
static double cost(size_t m, size_t n, size_t rows, size_t columns, size_t lanes) {
    const size_t groups = ceil_div(m, rows), parts = ceil_div(n, columns), pieces = groups * parts;
    const double each = (double)m * (double)n / (double)pieces, share = (double)pieces / (double)lanes;
    const double visited = fmax(1.0, share / (double)groups); /* parts */
    return each * (double)ceil_div(pieces, lanes) + each / 4 + BEGIN * share +
           FETCH * (share * (double)rows + visited * (double)columns);
}

void pieces_cut(struct pieces *p, size_t step, size_t most_rows, size_t column_bytes, size_t part_bytes) {
    const struct gemm_engine *e = p->o.e;
    const size_t m = p->o.m, n = p->n, lanes = (size_t)p->ctx->num_threads;
    const size_t most_columns = size_max(size_min(part_bytes / column_bytes, BLOCK_COLUMNS), PACK_BLOCK);
    double best = HUGE_VAL;
    for (size_t columns = PACK_BLOCK; columns <= most_columns; columns += PACK_BLOCK) {
        for (size_t rows = step; rows <= size_max(step, most_rows); rows *= 2) {
            const double c = cost(m, n, rows, columns, lanes);
            if (c < best) {
                best = c;
                p->rows = rows;
                p->columns = columns;
            }
            if (rows >= m) break;
        }
        if (columns >= n) break;
    }
    p->padded_rows = round_up(p->rows, e->rows);
    /* each lane of a part packs some of it, but whole rows of the weights where that costs nothing */
    p->unit = PACK_BLOCK;
    for (size_t unit = PACK_BLOCK; unit <= 4 * PACK_BLOCK; unit += PACK_BLOCK)
        if (p->columns % unit == 0 && unit * lanes <= n) p->unit = unit;
}

void pieces_layout(struct pieces *p, size_t m, size_t n, size_t step, struct arena *shared) {
    const size_t columns = ceil_div(n, PACK_BLOCK), lanes = p->ctx ? (size_t)p->ctx->num_threads : 0;
    p->a_state = arena_take(shared, ceil_div(m, step), sizeof *p->a_state);
    p->left = arena_take(shared, ceil_div(m, step), sizeof *p->left);
    p->taken = arena_take(shared, ceil_div(m, step), sizeof *p->taken);
    p->b_state = arena_take(shared, columns, sizeof *p->b_state);
    p->next = arena_take(shared, columns, sizeof *p->next);
    p->begun = arena_take(shared, 1, sizeof *p->begun);
    p->lane_part = arena_take(shared, lanes, sizeof *p->lane_part);
    p->lane_waited = arena_take(shared, lanes, sizeof *p->lane_waited);
}

/* One lane's scratch. */
struct lane_scratch {
    void *partial; /* of a block of A times a part */
    void *scratch;
};

static struct lane_scratch lane_layout(const struct gemm_engine *e, size_t columns, size_t scratch_bytes,
                                       struct arena *a) {
    struct lane_scratch s;
    s.partial = arena_take(a, (e->rows + e->extra_rows) * columns, sizeof(float));
    s.scratch = arena_take(a, scratch_bytes, 1);
    return s;
}

void pieces_lane_scratch(const struct gemm_engine *e, size_t scratch_bytes, struct scratch_need *need) {
    struct arena lane = {0};
    lane_layout(e, BLOCK_COLUMNS, scratch_bytes, &lane);
    scratch_max(need, 0, lane.used, 0);
}

static void reset(atomic_uint *state, size_t count, unsigned value) {
    for (size_t i = 0; i < count; i++)
        atomic_init(&state[i], value);
}

void pieces_expect(struct pieces *p, size_t pieces) {
    reset(p->left, ceil_div(p->o.m, p->rows), (unsigned)pieces);
    reset(p->taken, ceil_div(p->o.m, p->rows), 0);
}

void pieces_new_rows(struct pieces *p) {
    p->groups = ceil_div(p->o.m, p->rows);
    reset(p->a_state, p->groups, UNPACKED);
}

void pieces_new_columns(struct pieces *p) {
    p->parts = ceil_div(p->n, p->columns);
    reset(p->b_state, ceil_div(p->n, p->unit), UNPACKED);
}

size_t pieces_columns(size_t n, size_t column_bytes, int threads) {
    const size_t fit = (size_t)threads * BLOCK_BYTES / column_bytes / PACK_BLOCK * PACK_BLOCK;
    return size_min(n, size_max(fit, PACK_BLOCK));
}

/* True: the caller packs it. */
static bool claim(atomic_uint *state) {
    unsigned unpacked = UNPACKED;
    return atomic_load_explicit(state, memory_order_relaxed) == UNPACKED &&
           atomic_compare_exchange_strong_explicit(state, &unpacked, BUSY, memory_order_relaxed, memory_order_relaxed);
}

static bool is_packed(atomic_uint *state) {
    return atomic_load_explicit(state, memory_order_acquire) == PACKED;
}

/* Who packs does not wait for anything, so this ends. */
static void wait_for(const struct pieces *p, atomic_uint *state, int lane) {
    if (is_packed(state)) return;
    const double begin = parallel_clock();
    for (unsigned turns = 0; !is_packed(state);)
        give_way(&turns);
    p->lane_waited[lane] += parallel_clock() - begin;
}

/* Part of B: lanes that come to it at once begin at different units. */
static void pack_part(const struct pieces *p, size_t n0, size_t n, size_t start, void *scratch) {
    const size_t units = ceil_div(n, p->unit);
    for (size_t i = 0; i < units; i++) {
        const size_t c = (start + i) % units * p->unit;
        atomic_uint *state = &p->b_state[(n0 + c) / p->unit];
        if (!claim(state)) continue;
        p->pack_columns(p->arg, n0 + c, size_min(p->unit, n - c), scratch);
        atomic_store_explicit(state, PACKED, memory_order_release);
    }
}

static void wait_for_part(const struct pieces *p, size_t n0, size_t n, int lane) {
    for (size_t c = 0; c < n; c += p->unit)
        wait_for(p, &p->b_state[(n0 + c) / p->unit], lane);
}

static void pack_group(const struct pieces *p, size_t group, void *scratch) {
    if (claim(&p->a_state[group])) {
        p->pack_rows(p->arg, group, scratch);
        atomic_store_explicit(&p->a_state[group], PACKED, memory_order_release);
    }
}

static size_t group_of(const struct pieces *p, size_t part, size_t index) {
    return (part * p->groups / p->parts + index) % p->groups;
}

/* There are as many calls as pieces. */
static void take_piece(const struct pieces *p, int lane, size_t *part, size_t *group) {
    for (*part = p->lane_part[lane];;) {
        const unsigned index = atomic_fetch_add_explicit(&p->next[*part], 1, memory_order_relaxed);
        if (index < p->groups) {
            *group = group_of(p, *part, index);
            return;
        }
        *part = *part + 1 < p->parts ? *part + 1 : 0;
        p->lane_part[lane] = (unsigned)*part;
    }
}

static const unsigned char *packed_rows(const struct pieces *p, size_t group) {
    return (const unsigned char *)p->o.a + group * p->padded_rows * p->o.padded_k * p->o.e->size;
}

/* What the lane will probably read after this piece: the first block of the part's next group, or what it is made of.
 */
static struct prefetch following(const struct pieces *p, size_t part) {
    const size_t index = atomic_load_explicit(&p->next[part], memory_order_relaxed);
    if (index >= p->groups) return (struct prefetch){NULL, 0};
    const size_t group = group_of(p, part, index);
    const unsigned state = atomic_load_explicit(&p->a_state[group], memory_order_relaxed);
    if (state == PACKED) return (struct prefetch){packed_rows(p, group), p->o.e->rows * p->o.padded_k * p->o.e->size};
    return state == UNPACKED && p->source ? p->source(p->arg, group) : (struct prefetch){NULL, 0};
}

static void multiply(const struct pieces *p, size_t part, size_t group, void *partial) {
    const struct gemm_engine *e = p->o.e;
    const size_t i = group * p->rows, padded = group * p->padded_rows, n0 = part * p->columns;
    const size_t n = size_min(p->columns, p->n - n0), block_bytes = e->rows * p->o.padded_k * e->size;
    struct operand o = p->o;
    o.a = packed_rows(p, group);
    o.m = size_min(p->rows, p->o.m - i);
    if (o.row_add && o.row_add != no_row_add) o.row_add += padded * size_max(o.groups, 1);
    if (o.row_scale) o.row_scale += i;
    struct result to = p->to;
    to.y += i * to.ld_y + n0;
    if (to.col_scale) to.col_scale += n0;
    if (to.group_scale) to.group_scale += n0 * o.groups;
    for (size_t r = 0; r < o.m; r += e->rows) {
        const struct prefetch next = {(const unsigned char *)o.a + (r + e->rows) * o.padded_k * e->size, block_bytes};
        gebp_multiply(&o, r, p->b + n0 * o.padded_k * e->size, n, partial, &to,
                      r + e->rows < o.m ? next : following(p, part));
    }
}

static void run_piece(const struct pieces *p, int lane) {
    size_t part, group;
    take_piece(p, lane, &part, &group);
    const size_t n0 = part * p->columns, n = size_min(p->columns, p->n - n0);
    struct arena a = lane_arena(p->ws, lane);
    const struct lane_scratch s = lane_layout(p->o.e, p->columns, 0, &a);
    void *scratch = a.base + a.used;
    pack_part(p, n0, n, (size_t)lane, scratch);
    pack_group(p, group, scratch);
    wait_for_part(p, n0, n, lane);
    wait_for(p, &p->a_state[group], lane);
    if (p->o.e->begin) p->o.e->begin();
    multiply(p, part, group, s.partial);
    if (p->o.e->end) p->o.e->end();
    if (p->consume) atomic_fetch_sub_explicit(&p->left[group], 1, memory_order_acq_rel);
}

static void piece(void *arg, size_t task, int lane) {
    (void)task;
    run_piece(arg, lane);
}

static size_t tiles_of_group(const struct pieces *p, size_t group) {
    return ceil_div(size_min(p->rows, p->o.m - group * p->rows), p->tile_rows);
}

/* A tile of a group whose pieces are all done, if there is one that nobody has taken. */
static bool consume_tile(const struct pieces *p, int lane) {
    const size_t start = (size_t)lane * p->groups / (size_t)p->ctx->num_threads;
    for (size_t i = 0; i < p->groups; i++) {
        const size_t group = (start + i) % p->groups, tiles = tiles_of_group(p, group);
        if (atomic_load_explicit(&p->left[group], memory_order_acquire) > 0 ||
            atomic_load_explicit(&p->taken[group], memory_order_relaxed) >= tiles)
            continue;
        const size_t tile = atomic_fetch_add_explicit(&p->taken[group], 1, memory_order_relaxed);
        if (tile >= tiles) continue;
        const size_t first = group * p->rows, row = first + tile * p->tile_rows;
        p->consume(p->arg, row, size_min(p->tile_rows, size_min(first + p->rows, p->o.m) - row), lane);
        return true;
    }
    return false;
}

/* A tile if one is ready, else a piece; once all pieces are taken, the next tile that becomes ready. There are as many
 * calls as pieces and tiles. Whoever is waited for has a piece, and waits at most for what others pack. */
static void piece_or_tile(void *arg, size_t task, int lane) {
    struct pieces *p = arg;
    (void)task;
    if (consume_tile(p, lane)) return;
    if (atomic_fetch_add_explicit(p->begun, 1, memory_order_relaxed) < p->groups * p->parts) {
        run_piece(p, lane);
        return;
    }
    const double begin = parallel_clock();
    double end = begin;
    for (unsigned turns = 0; !consume_tile(p, lane); end = parallel_clock())
        give_way(&turns);
    p->lane_waited[lane] += end - begin;
}

void pieces_run(struct pieces *p, bool consumes, double work) {
    const size_t lanes = (size_t)p->ctx->num_threads, pieces = p->groups * p->parts;
    size_t tiles = 0;
    for (size_t group = 0; consumes && group < p->groups; group++)
        tiles += tiles_of_group(p, group);
    reset(p->next, p->parts, 0);
    reset(p->begun, 1, 0);
    for (size_t lane = 0; lane < lanes; lane++)
        p->lane_part[lane] = (unsigned)(lane * p->parts / lanes);
    parallel_run_waiting(p->ctx, pieces + tiles, work, consumes ? piece_or_tile : piece, p, p->lane_waited);
}
