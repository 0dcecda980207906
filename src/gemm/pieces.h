/* A product cut in both dimensions: a piece, one task of parallel_run, is a group of rows times a part of columns.
 *
 *                 part 0      part 1      part 2
 *              +-----------+-----------+-----------+
 *     group 0  |  lane 0   |           |           |    Lanes begin at different parts and stay there: the part of B is
 *     group 1  |  lane 1   |           |  lane 4   |    in their L2 while groups of A pass. Parts begin at different
 *     group 2  |  ...      |  lane 2   |  lane 5   |    groups. Who has done all of a part helps with the next.
 *     group 3  |           |  lane 3   |           |
 *              +-----------+-----------+-----------+
 *
 * Both operands are packed once, into the shared scratch, by the lane that first needs them. All of K is summed inside
 * one piece in one order, so results depend neither on the cut nor on the number of threads. */
#ifndef DQT_GEMM_PIECES_H
#define DQT_GEMM_PIECES_H

#include "gemm/gemm_block.h"

struct pieces {
    const dqt_context *ctx;
    const struct workspace *ws;
    struct operand o; /* o.m rows; a, row_add and row_scale of the first */
    size_t n;         /* columns */
    struct result to; /* of the first row and column, col_scale and group_scale too */
    unsigned char *b; /* panels: [n / PANEL][padded_k / group][PANEL][group] elements */

    size_t rows, padded_rows; /* of a group, and in packed A */
    size_t columns;           /* of a part, a multiple of PACK_BLOCK */
    size_t unit;              /* columns that one lane packs, a multiple of PACK_BLOCK that divides `columns` */
    size_t groups, parts;
    atomic_uint *a_state, *b_state; /* [groups], [columns / PACK_BLOCK]: enum of pieces.c */
    atomic_uint *next;              /* [parts]: groups that were taken */
    atomic_uint *left, *taken;      /* [groups]: pieces until it is complete; its tiles that were taken */
    atomic_uint *begun;             /* [1]: pieces that were taken, where tiles are */
    unsigned *lane_part;            /* [lanes]: where each is */
    double *lane_waited;            /* [lanes]: seconds, for what another packs */

    void *arg; /* of the functions. `scratch` is the lane's, of so many bytes as pieces_lane_layout was told */
    void (*pack_rows)(void *arg, size_t group, void *scratch);
    /* Into b, and the scales; [n, n + count) lie in one part. */
    void (*pack_columns)(void *arg, size_t n, size_t count, void *scratch);
    /* What a group that is not packed yet is made from, to be fetched ahead; NULL: nothing. */
    struct prefetch (*source)(void *arg, size_t group);
    /* A tile of rows, at most tile_rows, whose group's pieces are all done; NULL: nobody asks. */
    void (*consume)(void *arg, size_t row, size_t rows, int lane);
    size_t tile_rows; /* a divisor of `rows` */
};

/* Chooses the cut for o.m rows and n columns; later ones may be fewer: groups of `step`, 2 * step .. most_rows rows,
 * parts of at most part_bytes and BLOCK_COLUMNS. */
void pieces_cut(struct pieces *p, size_t step, size_t most_rows, size_t column_bytes, size_t part_bytes);
/* The states and counters of any cut of m rows, in groups of at least `step`, and n columns. */
void pieces_layout(struct pieces *p, size_t m, size_t n, size_t step, struct arena *shared);
void pieces_lane_scratch(const struct gemm_engine *e, size_t scratch_bytes, struct scratch_need *need);
/* For `consume`: so many pieces, of all runs with these rows, make a group complete. */
void pieces_expect(struct pieces *p, size_t pieces);
/* Other rows, or columns, than before: nothing of them is packed. */
void pieces_new_rows(struct pieces *p);
void pieces_new_columns(struct pieces *p);
/* Multiplies all rows with all columns. consumes: with this run all groups are complete, and their tiles are consumed,
 * each as a task of its own: there may be as much work in them as in the products. `work` as parallel_run wants it. */
void pieces_run(struct pieces *p, bool consumes, double work);

/* Columns of B that may be in the shared scratch at once, of n: a multiple of PACK_BLOCK, or all. */
size_t pieces_columns(size_t n, size_t column_bytes, int threads);

#endif
