/* The microkernel for scales of groups of K, included by gemm_block_template.h with its parameters and
 *
 *   BLOCK_GROUPS                   name of the function
 *   GROUP_SUM                      SUM as a vector of int32_t: gcc holds what is cast between types of vectors twice
 *   SET(row_add)                   a vector of sums that start at the number row_add; of a tile, at those from it on
 *   ADD_SCALED(to, sum, scale)     to[LANES] += (float)sum * scale[LANES], the product and the sum rounded
 *   EPILOGUE_FLOATS(f, i, n, from) as EPILOGUE, from floats in memory
 *
 * Integer sums of a group stay in registers, sums over groups, floats, in L1: a fence keeps compilers from moving these
 * to registers too, which are not enough for both. They start at -0, to which any number can be added without a change.
 *
 * partial: floats in the order of the other's sums. */
#define GROUPS_PASTE(a, b) a##b
#define GROUPS_NAME(a, b) GROUPS_PASTE(a, b)
#define ADD_GROUP GROUPS_NAME(BLOCK_GROUPS, _add)

/* total[ROWS][VECTORS][LANES] += scale * (A * B of `steps` steps). */
static inline void ADD_GROUP(const char *a, const char *panel, size_t stride, size_t steps, const int32_t *row_add,
                             const float *scale, size_t scale_stride, float *total) {
#ifdef WIDEN_STEPS
    _Alignas(64) int32_t wide[ROWS * VECTORS * LANES]; /* 32-bit sums; 16-bit ones are in registers */
    for (size_t i = 0; i < ROWS * VECTORS; i++)
        STORE(wide + i * LANES, SET(row_add[i / VECTORS]));
    for (size_t s = 0; s < steps; s += WIDEN_STEPS) {
        const size_t part = steps - s < WIDEN_STEPS ? steps - s : WIDEN_STEPS;
        OPERAND sum[ROWS][VECTORS];
        for (size_t i = 0; i < ROWS; i++)
            for (size_t v = 0; v < VECTORS; v++)
                sum[i][v] = ZERO();
        for (size_t j = 0; j < part; j++, a += ROWS * 4, panel += PANEL * 4) {
            OPERAND bv[VECTORS];
            for (size_t v = 0; v < VECTORS; v++)
                bv[v] = LOAD_B(panel + v * LANES / PANEL * stride + v * LANES % PANEL * 4);
            for (size_t i = 0; i < ROWS; i++) {
                const OPERAND av = BROADCAST(a + i * 4);
                for (size_t v = 0; v < VECTORS; v++)
                    sum[i][v] = SHORT_DOT(sum[i][v], av, bv[v]);
            }
        }
        for (size_t i = 0; i < ROWS; i++) {
            for (size_t v = 0; v < VECTORS; v++) {
                int32_t *to = wide + (i * VECTORS + v) * LANES;
                STORE(to, WIDEN(LOAD(to), sum[i][v]));
            }
        }
    }
    for (size_t i = 0; i < ROWS; i++)
        for (size_t v = 0; v < VECTORS; v++)
            ADD_SCALED(total + (i * VECTORS + v) * LANES, LOAD(wide + (i * VECTORS + v) * LANES),
                       scale + v * LANES / PANEL * scale_stride + v * LANES % PANEL);
#else
    GROUP_SUM sum[TILES][VECTORS]; /* in registers: only touched by loops of constant length, without branches */
    for (size_t i = 0; i < TILES; i++)
        for (size_t v = 0; v < VECTORS; v++)
            sum[i][v] = (GROUP_SUM)SET(row_add[i * TILE_ROWS]);
    for (size_t s = 0; s < steps; s++, a += ROWS * STEP, panel += PANEL * STEP) {
#ifdef ADD_STEP
        (void)stride;
        ADD_STEP(sum, a, panel);
#else
        OPERAND bv[VECTORS];
        for (size_t v = 0; v < VECTORS; v++)
            bv[v] = LOAD_B(panel + v * LANES / PANEL * stride + v * LANES % PANEL * 4);
        for (size_t i = 0; i < ROWS; i++) {
            const OPERAND av = BROADCAST(a + i * 4);
            for (size_t v = 0; v < VECTORS; v++)
                sum[i][v] = (GROUP_SUM)DOT((SUM)sum[i][v], av, bv[v]);
        }
#endif
    }
    for (size_t i = 0; i < TILES; i++)
        for (size_t v = 0; v < VECTORS; v++)
            ADD_SCALED(total + (i * VECTORS + v) * LANES, (SUM)sum[i][v],
                       scale + v * LANES / TILE_ROWS / PANEL * scale_stride + v * LANES / TILE_ROWS % PANEL);
#endif
    atomic_signal_fence(memory_order_seq_cst);
}

static void BLOCK_GROUPS(const struct gemm_block *b) {
    DQT_ASSERT(b->m > 0 && b->m <= ROWS && b->n > 0 && b->group > 0 && b->k % b->group == 0 && block_is_aligned(b));
    const size_t steps = b->group / GROUP, groups = b->k / b->group, columns = b->n, stride = b->panel_stride;
    const size_t scale_stride = b->group_scale_stride;
    const struct epilogue f = epilogue_begin(b);
    const char *prefetch = b->prefetch, *const prefetch_end = prefetch ? prefetch + b->prefetch_bytes : NULL;
    const size_t prefetch_share = b->prefetch_bytes / ((columns + COLUMNS - 1) / COLUMNS) + 64;
    for (size_t n = 0; n < columns; n += COLUMNS) {
        for (size_t i = 0; i < prefetch_share && prefetch < prefetch_end; i += 64, prefetch += 64)
            __builtin_prefetch(prefetch, 0, 2);
        const char *a = b->a, *panel = (const char *)b->b + n / PANEL * stride;
        const float *scale = b->group_scale + n / PANEL * scale_stride;
        const int32_t *row_add = b->row_add;
        float *total = (float *)b->partial + (b->first && b->last ? 0 : n * ROWS);
        for (size_t i = 0; b->first && i < ROWS * COLUMNS; i++)
            total[i] = -0.0f;
        for (size_t g = 0; g < groups; g++, scale += PANEL, row_add += b->row_add_stride) {
            ADD_GROUP(a, panel, stride, steps, row_add, scale, scale_stride, total);
            a += steps * ROWS * STEP;
            panel += steps * PANEL * STEP;
        }
        if (b->last) TO_ROWS(total);
        for (size_t i = 0; b->last && i < b->m; i++) {
            const float *row = total + i * COLUMNS;
            const size_t whole = n + COLUMNS <= columns ? COLUMNS : 0; /* or column by column */
            for (size_t c = 0; c < whole; c += LANES)
                EPILOGUE_FLOATS(&f, i, n + c, row + c);
            for (size_t c = whole; n + c < columns && c < COLUMNS; c++)
                epilogue_one(&f, i, n + c, row[c]);
        }
    }
}

#undef GROUPS_PASTE
#undef GROUPS_NAME
#undef ADD_GROUP
#undef BLOCK_GROUPS
#undef GROUP_SUM
#undef SET
#undef ADD_SCALED
#undef EPILOGUE_FLOATS
