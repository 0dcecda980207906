#include "core/memory.h"

#include <stdint.h>
#include <string.h>

#include "core/status.h"

void *memory_alloc_raw(dqt_context *ctx, size_t size) {
    if (size == 0 || size == SIZE_MAX) return NULL;
    void *ptr = ctx->alloc(ctx->alloc_user_data, size, ALIGNMENT);
    if (!ptr) return NULL;
    atomic_fetch_add(&ctx->allocated, size);
#if defined(DQT_CHECKED) && !defined(DQT_UNSET_IS_WATCHED) /* by MemorySanitizer or valgrind */
    memset(ptr, 0xff, size);                               /* NaN as a float: what is read before it is written shows */
#endif
    return ptr;
}

void *memory_alloc(dqt_context *ctx, size_t size) {
    void *ptr = memory_alloc_raw(ctx, size);
    if (ptr) memset(ptr, 0, size);
    return ptr;
}

void memory_free(dqt_context *ctx, void *ptr, size_t size) {
    if (!ptr) return;
    ctx->free(ctx->alloc_user_data, ptr, size, ALIGNMENT);
    atomic_fetch_sub(&ctx->allocated, size);
}

bool size_mul(size_t a, size_t b, size_t *out) {
    if (!__builtin_mul_overflow(a, b, out)) return true;
    *out = SIZE_MAX;
    return false;
}

bool size_add(size_t a, size_t b, size_t *out) {
    if (!__builtin_add_overflow(a, b, out)) return true;
    *out = SIZE_MAX;
    return false;
}

void *arena_take(struct arena *a, size_t count, size_t size) {
    size_t bytes, end, offset = a->used;
    if (!size_mul(count, size, &bytes) || !size_add(bytes, ALIGNMENT - 1, &bytes) || offset == SIZE_MAX ||
        !size_add(offset, bytes / ALIGNMENT * ALIGNMENT, &end)) {
        a->used = a->largest = SIZE_MAX;
        return NULL;
    }
    a->used = end;
    a->largest = size_max(a->largest, end);
    DQT_ASSERT(!a->base || a->size == 0 || end <= a->size); /* placing takes no more than was counted */
    return a->base && bytes >= ALIGNMENT ? a->base + offset : NULL;
}

bool arena_alloc(dqt_context *ctx, struct arena *a) {
    DQT_ASSERT(!a->base);
    const size_t size = a->largest;
    *a = (struct arena){.base = memory_alloc(ctx, size), .size = size};
    return a->base != NULL;
}

void scratch_max(struct scratch_need *need, size_t shared, size_t lane, size_t consumer) {
    if (shared > need->shared) need->shared = shared;
    if (lane > need->lane) need->lane = lane;
    if (consumer > need->consumer) need->consumer = consumer;
}

static struct scratch_need rounded(const struct scratch_need *need) {
    struct scratch_need r = {round_up(need->shared, ALIGNMENT), round_up(need->lane, ALIGNMENT),
                             round_up(need->consumer, ALIGNMENT)};
    return r;
}

size_t workspace_bytes(const struct scratch_need *need, int lanes) {
    struct scratch_need r = rounded(need);
    size_t lane, all;
    if (!size_add(r.lane, r.consumer, &lane) || !size_mul(lane, (size_t)lanes, &all) || !size_add(all, r.shared, &all))
        return SIZE_MAX;
    return all;
}

struct workspace workspace_in(const struct scratch_need *need, int lanes, void *base) {
    return (struct workspace){
        .need = rounded(need), .lanes = lanes, .bytes = workspace_bytes(need, lanes), .base = base};
}

dqt_status workspace_create(dqt_context *ctx, const struct scratch_need *need, struct workspace *out) {
    struct workspace ws = workspace_in(need, ctx->num_threads, NULL);
    if (ws.bytes) {
        ws.base = memory_alloc_raw(ctx, ws.bytes);
        if (!ws.base) return fail(ctx, DQT_E_MEMORY, "no memory for a workspace of %zu bytes", ws.bytes);
    }
    *out = ws;
    return DQT_OK;
}

void workspace_destroy(dqt_context *ctx, struct workspace *ws) {
    memory_free(ctx, ws->base, ws->bytes);
    ws->base = NULL;
}
