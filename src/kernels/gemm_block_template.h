/* A microkernel that keeps ROWS x COLUMNS sums in registers: per step of one group of K it loads VECTORS
 * vectors of B and broadcasts ROWS groups of A. Included once per engine; parameters (functions are static inline,
 * defined before):
 *
 *   BLOCK       name of the function
 *   ROWS        rows of A
 *   VECTORS     vectors of sums a row; COLUMNS, VECTORS * LANES, is 16 or 32
 *   LANES       4-byte sums in a vector: 4, 8 or 16
 *   GROUP       elements of K in 4 bytes of A or B: 1, 2 or 4
 *   SUM         vector type of sums; ZERO(), LOAD(p), STORE(p, sum)
 *   OPERAND     vector type of A and B; LOAD_B(p), BROADCAST(p): 4 bytes to all lanes
 *   DOT(sum, a, b)
 *   EPILOGUE(f, i, n, sum)  y[i][n ...] of whole vectors, see struct epilogue
 *   NUMBER      int32_t or float: of a sum
 *   BLOCK_GROUPS and others of gemm_block_groups_template.h
 *               only for integer kernels
 *   WIDEN_STEPS, SHORT_DOT(sum, a, b), WIDEN(sum, short_sum)
 *               only for kernels that sum in 16 bits: at most WIDEN_STEPS steps long
 *
 *   TILE_ROWS, ADD_STEP(sum, a, panel), TO_ROWS(p)
 *               only for kernels whose vectors are tiles, TILE_ROWS rows of LANES / TILE_ROWS columns, with groups of
 *               4 * TILE_ROWS bytes: VECTORS is of so many rows, COLUMNS VECTORS * LANES / TILE_ROWS. ADD_STEP adds to
 *               sum[TILES][VECTORS] what LOAD_B, BROADCAST and DOT do for others. TO_ROWS reorders numbers at p,
 *               [TILES][VECTORS][LANES], to [ROWS][COLUMNS]
 *
 * partial: [n / COLUMNS][TILES][VECTORS][LANES]; without tiles that is [n / COLUMNS][ROWS][COLUMNS]. */
#ifndef TILE_ROWS
#define TILE_ROWS 1
#define TO_ROWS(p) (void)0
#endif
#define TILES (ROWS / TILE_ROWS)
#define COLUMNS (VECTORS * LANES / TILE_ROWS)
#define STEP (4 * TILE_ROWS) /* bytes of a group of K */
_Static_assert(COLUMNS % (int)PANEL == 0 && COLUMNS <= 2 * (int)PANEL, "one or two panels at a time");

static void BLOCK(const struct gemm_block *b) {
    DQT_ASSERT(b->m > 0 && b->m <= ROWS && b->n > 0 && b->k % GROUP == 0 && block_is_aligned(b));
    const size_t steps = b->k / GROUP, m = b->m, columns = b->n, stride = b->panel_stride;
    const bool first = b->first, last = b->last;
    const struct epilogue f = epilogue_begin(b);
    const char *prefetch = b->prefetch, *const prefetch_end = prefetch ? prefetch + b->prefetch_bytes : NULL;
    const size_t prefetch_share = b->prefetch_bytes / ((columns + COLUMNS - 1) / COLUMNS) + 64;
    for (size_t n = 0; n < columns; n += COLUMNS) {
        for (size_t i = 0; i < prefetch_share && prefetch < prefetch_end; i += 64, prefetch += 64)
            __builtin_prefetch(prefetch, 0, 2);
        const char *a = b->a, *panel = (const char *)b->b + n / PANEL * stride;
        NUMBER *partial = (NUMBER *)b->partial + n * ROWS;
        SUM sum[TILES][VECTORS]; /* only touched by loops of constant length, without branches */
        if (first)
            for (size_t i = 0; i < TILES; i++)
                for (size_t v = 0; v < VECTORS; v++)
                    sum[i][v] = ZERO();
        else
            for (size_t i = 0; i < TILES; i++)
                for (size_t v = 0; v < VECTORS; v++)
                    sum[i][v] = LOAD(partial + (i * VECTORS + v) * LANES);
#ifdef WIDEN_STEPS
        /* 16-bit sums in registers, 32-bit ones on the stack */
        for (size_t s = 0; s < steps; s += WIDEN_STEPS) {
            const size_t part = steps - s < WIDEN_STEPS ? steps - s : WIDEN_STEPS;
            OPERAND short_sum[ROWS][VECTORS];
            for (size_t i = 0; i < ROWS; i++)
                for (size_t v = 0; v < VECTORS; v++)
                    short_sum[i][v] = ZERO();
            for (size_t j = 0; j < part; j++, a += ROWS * 4, panel += PANEL * 4) {
                OPERAND bv[VECTORS];
                for (size_t v = 0; v < VECTORS; v++)
                    bv[v] = LOAD_B(panel + v * LANES / PANEL * stride + v * LANES % PANEL * 4);
                for (size_t i = 0; i < ROWS; i++) {
                    const OPERAND av = BROADCAST(a + i * 4);
                    for (size_t v = 0; v < VECTORS; v++)
                        short_sum[i][v] = SHORT_DOT(short_sum[i][v], av, bv[v]);
                }
            }
            for (size_t i = 0; i < ROWS; i++)
                for (size_t v = 0; v < VECTORS; v++)
                    sum[i][v] = WIDEN(sum[i][v], short_sum[i][v]);
        }
#else
        for (size_t s = 0; s < steps; s++, a += ROWS * STEP, panel += PANEL * STEP) {
#ifdef ADD_STEP
            ADD_STEP(sum, a, panel);
#else
            OPERAND bv[VECTORS];
            for (size_t v = 0; v < VECTORS; v++)
                bv[v] = LOAD_B(panel + v * LANES / PANEL * stride + v * LANES % PANEL * 4);
            for (size_t i = 0; i < ROWS; i++) {
                const OPERAND av = BROADCAST(a + i * 4);
                for (size_t v = 0; v < VECTORS; v++)
                    sum[i][v] = DOT(sum[i][v], av, bv[v]);
            }
#endif
        }
#endif
        for (size_t i = 0; i < TILES; i++)
            for (size_t v = 0; v < VECTORS; v++)
                STORE(partial + (i * VECTORS + v) * LANES, sum[i][v]);
        if (!last) continue;
        TO_ROWS(partial);
        for (size_t i = 0; i < m; i++) {
            const NUMBER *row = partial + i * COLUMNS;
            if (n + COLUMNS <= columns)
                for (size_t v = 0; v < COLUMNS / LANES; v++)
                    EPILOGUE(&f, i, n + v * LANES, LOAD(row + v * LANES));
            else
                for (size_t c = 0; n + c < columns; c++)
                    epilogue_one(&f, i, n + c, EPILOGUE_NUMBER(&f, i, row[c]));
        }
    }
}

#ifdef BLOCK_GROUPS
#include "kernels/gemm_block_groups_template.h"
#endif

#undef BLOCK
#undef ROWS
#undef VECTORS
#undef LANES
#undef GROUP
#undef SUM
#undef ZERO
#undef LOAD
#undef STORE
#undef OPERAND
#undef LOAD_B
#undef BROADCAST
#undef DOT
#undef EPILOGUE
#undef EPILOGUE_NUMBER
#undef NUMBER
#undef WIDEN_STEPS
#undef SHORT_DOT
#undef WIDEN
#undef TILE_ROWS
#undef ADD_STEP
#undef TILES
#undef COLUMNS
#undef STEP
#undef TO_ROWS
