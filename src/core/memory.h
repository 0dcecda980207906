/* Allocation through the host's allocator, sizes without overflow, arenas, and per-thread scratch. */
#ifndef DQT_CORE_MEMORY_H
#define DQT_CORE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "core/assert.h"
#include "core/context.h"
#include "core/size.h"

#define ALIGNMENT ((size_t)64) /* of every block: a cache line and a zmm register */

/* 64-byte aligned, zeroed; NULL without memory. size 0 gives NULL. */
void *memory_alloc(dqt_context *ctx, size_t size);
/* The same, not zeroed: for large buffers that are written before they are read. */
void *memory_alloc_raw(dqt_context *ctx, size_t size);
void memory_free(dqt_context *ctx, void *ptr, size_t size);

/* *out = a * b or a + b; false on overflow (then *out is SIZE_MAX). */
bool size_mul(size_t a, size_t b, size_t *out);
bool size_add(size_t a, size_t b, size_t *out);

/* An arena is laid out twice by the same code: first with base NULL to count, then to place. Blocks are 64-byte
 * aligned. `used` saturates at SIZE_MAX on overflow. Whoever sets `used` back (to lay out buffers that are not needed
 * at the same time over each other) finds in `largest` how much was ever used at once. */
struct arena {
    unsigned char *base;
    size_t used;
    size_t size; /* bytes at base, which checked builds hold `used` against; 0: not told */
    size_t largest;
};
/* count blocks of `size` bytes in a row; NULL while counting, and for no bytes. */
void *arena_take(struct arena *a, size_t count, size_t size);
/* After counting: allocates what was counted, zeroed, and begins anew. False without memory. */
bool arena_alloc(dqt_context *ctx, struct arena *a);

/* Scratch of one tape, session or updater. Each lane (thread) has two areas: one for products and ops, one for the
 * consumer that an op calls back while its own area is in use (row tiles of gradients going into the updater). `shared`
 * is one area for all lanes. Nothing survives from one op to the next. */
struct scratch_need {
    size_t shared, lane, consumer;
};
void scratch_max(struct scratch_need *need, size_t shared, size_t lane, size_t consumer);

struct workspace {
    unsigned char *base;
    size_t bytes;
    struct scratch_need need; /* rounded to 64 */
    int lanes;
};
size_t workspace_bytes(const struct scratch_need *need, int lanes);
dqt_status workspace_create(dqt_context *ctx, const struct scratch_need *need, struct workspace *out);
/* One in memory of workspace_bytes that is the caller's. */
struct workspace workspace_in(const struct scratch_need *need, int lanes, void *base);
void workspace_destroy(dqt_context *ctx, struct workspace *ws);

static inline void *workspace_shared(const struct workspace *ws) {
    return ws->base;
}
static inline void *workspace_lane(const struct workspace *ws, int lane) {
    DQT_ASSERT(lane >= 0 && lane < ws->lanes);
    return ws->base + ws->need.shared + (size_t)lane * (ws->need.lane + ws->need.consumer);
}
/* The same areas as arenas, from their beginning. */
static inline struct arena shared_arena(const struct workspace *ws) {
    return (struct arena){.base = workspace_shared(ws), .size = ws->need.shared};
}
static inline struct arena lane_arena(const struct workspace *ws, int lane) {
    return (struct arena){.base = workspace_lane(ws, lane), .size = ws->need.lane};
}
static inline void *workspace_consumer(const struct workspace *ws, int lane) {
    return (unsigned char *)workspace_lane(ws, lane) + ws->need.lane;
}

#endif
