/* Allocation through the host's allocator, sizes without overflow, arenas, and per-thread scratch. */
#ifndef DQT_CORE_MEMORY_H
#define DQT_CORE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

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
 * aligned. `used` saturates at SIZE_MAX on overflow. */
struct arena {
    unsigned char *base;
    size_t used;
};
void *arena_take(struct arena *a, size_t count, size_t size);

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
void workspace_destroy(dqt_context *ctx, struct workspace *ws);

static inline void *workspace_shared(const struct workspace *ws) {
    return ws->base;
}
static inline void *workspace_lane(const struct workspace *ws, int lane) {
    return ws->base + ws->need.shared + (size_t)lane * (ws->need.lane + ws->need.consumer);
}
static inline void *workspace_consumer(const struct workspace *ws, int lane) {
    return (unsigned char *)workspace_lane(ws, lane) + ws->need.lane;
}

#endif
