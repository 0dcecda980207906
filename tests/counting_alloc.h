/* A host allocator for tests: accounts to the byte, checks size and align at free, guards both ends of a block, and can
 * fail one call or every call from one on. */
#ifndef COUNTING_ALLOC_H
#define COUNTING_ALLOC_H

#include "dqt.h"
#include "test.h"

#if defined(_WIN32)
#include <malloc.h>
#define counting_block(size) _aligned_malloc(size, COUNTING_GUARD)
#define counting_block_free(p) _aligned_free(p)
#else
#define counting_block(size) aligned_alloc(COUNTING_GUARD, ((size) + 63) / 64 * 64)
#define counting_block_free(p) free(p)
#endif

struct counting {
    size_t bytes, blocks; /* live */
    size_t most;          /* bytes that were live at once, since the test last set it */
    size_t calls;         /* of alloc so far */
    size_t fail_at;       /* this call returns NULL; SIZE_MAX: none */
    size_t fail_from;     /* this call and all later ones return NULL; SIZE_MAX: none */
    size_t errors;        /* frees that did not match, guards that were written */
};

enum { COUNTING_GUARD = 64, COUNTING_FILL = 0xA5 };

static void *counting_alloc(void *user_data, size_t size, size_t align) {
    struct counting *c = user_data;
    const size_t call = c->calls++;
    if (call == c->fail_at || call >= c->fail_from) return NULL;
    if (align == 0 || align > COUNTING_GUARD || (align & (align - 1))) c->errors++;
    const size_t total = COUNTING_GUARD + size + COUNTING_GUARD;
    unsigned char *p = counting_block(total);
    if (!p) return NULL;
    memset(p, COUNTING_FILL, total);
    memcpy(p, &size, sizeof size);
    memcpy(p + sizeof size, &align, sizeof align);
    c->bytes += size;
    if (c->bytes > c->most) c->most = c->bytes;
    c->blocks++;
    return p + COUNTING_GUARD;
}

static void counting_free(void *user_data, void *ptr, size_t size, size_t align) {
    struct counting *c = user_data;
    unsigned char *p = (unsigned char *)ptr - COUNTING_GUARD;
    size_t had_size, had_align;
    memcpy(&had_size, p, sizeof had_size);
    memcpy(&had_align, p + sizeof had_size, sizeof had_align);
    if (had_size != size || had_align != align) {
        printf("free of %zu bytes aligned to %zu; it was %zu and %zu\n", size, align, had_size, had_align);
        c->errors++;
    }
    for (size_t i = 2 * sizeof(size_t); i < COUNTING_GUARD; i++)
        c->errors += p[i] != COUNTING_FILL;
    for (size_t i = 0; i < COUNTING_GUARD; i++)
        c->errors += p[COUNTING_GUARD + had_size + i] != COUNTING_FILL;
    c->bytes -= had_size;
    c->blocks--;
    counting_block_free(p);
}

static struct counting counting_new(void) {
    return (struct counting){.fail_at = SIZE_MAX, .fail_from = SIZE_MAX};
}

static dqt_context_options counting_options(struct counting *c) {
    dqt_context_options o;
    dqt_context_options_init(&o, sizeof o);
    o.threading = DQT_THREADING_SERIAL;
    o.alloc = counting_alloc;
    o.free = counting_free;
    o.alloc_user_data = c;
    return o;
}

/* A serial context that allocates through `c`. */
static inline dqt_context *counting_context(struct counting *c) {
    *c = counting_new();
    const dqt_context_options o = counting_options(c);
    dqt_context *ctx = NULL;
    CHECK(dqt_context_create(&o, &ctx) == DQT_OK);
    return ctx;
}

/* Destroys the context and demands that nothing is left. */
static inline void counting_end(dqt_context *ctx, const struct counting *c) {
    CHECKF(dqt_context_allocated(ctx) == c->bytes, "%zu and %zu bytes", dqt_context_allocated(ctx), c->bytes);
    dqt_context_destroy(ctx);
    CHECKF(c->bytes == 0 && c->blocks == 0, "%zu bytes in %zu blocks are left", c->bytes, c->blocks);
    CHECK(c->errors == 0);
}

#endif
