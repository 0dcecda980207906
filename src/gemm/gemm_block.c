#include "gemm/gemm_block.h"

const int32_t no_row_add[GEMM_MAX_ROWS] = {0};

/* Equal kc_steps of K, of whole groups. */
static size_t choose_kc(const struct operand *o) {
    const struct gemm_engine *e = o->e;
    const size_t kc_steps = (o->padded_k * e->size * e->rows + e->kc_bytes - 1) / e->kc_bytes;
    return round_up(ceil_div(o->padded_k, kc_steps), size_max(GEMM_K_ALIGN, o->group));
}

/* The part of a block that starts at k. */
static void set_groups(const struct operand *o, const struct result *to, size_t i, size_t k, struct gemm_block *block) {
    const size_t g = k / o->group;
    block->group = o->group;
    block->group_scale = to->group_scale + g * PANEL;
    block->group_scale_stride = o->groups * PANEL;
    if (o->row_add == no_row_add) return;
    block->row_add = o->row_add + i * o->groups + g * o->e->rows;
    block->row_add_stride = o->e->rows;
}

void gebp_multiply(const struct operand *o, size_t i, const void *b, size_t n, void *partial, const struct result *to,
                   struct prefetch prefetch) {
    const struct gemm_engine *e = o->e;
    void (*multiply)(const struct gemm_block *) = o->groups ? e->gebp_groups : e->gebp;
    const size_t depth = o->groups ? o->groups * o->group : o->padded_k;
    const size_t kc = choose_kc(o), kc_steps = ceil_div(depth, kc);
    struct gemm_block block = {.panel_stride = o->padded_k * PANEL * e->size,
                               .m = size_min(e->rows, o->m - i),
                               .n = n,
                               .partial = partial,
                               .row_add = o->groups    ? no_row_add
                                          : o->row_add ? o->row_add + i
                                                       : NULL,
                               .row_scale = o->row_scale ? o->row_scale + i : NULL,
                               .col_scale = to->col_scale,
                               .y = to->y + i * to->ld_y,
                               .ld_y = to->ld_y,
                               .accumulate = to->accumulate,
                               .stream = to->stream,
                               .prefetch = prefetch.from,
                               .prefetch_bytes = prefetch.bytes / kc_steps};
    for (size_t k = 0; k < depth; k += kc) {
        block.k = size_min(kc, depth - k);
        block.a = (const char *)o->a + (i * o->padded_k + k * e->rows) * e->size;
        block.b = (const char *)b + k * PANEL * e->size;
        block.first = k == 0;
        block.last = k + kc >= depth;
        if (o->groups) set_groups(o, to, i, k, &block);
        multiply(&block);
        if (prefetch.bytes) block.prefetch = (const char *)block.prefetch + block.prefetch_bytes;
    }
}
