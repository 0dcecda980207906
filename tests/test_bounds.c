/* Checked builds (make CHECKED=1) stop where a pass takes more memory than was counted for it. Each fault is planted in
 * a child process, which must then die; without the fault the same pass ends well. */
#define _POSIX_C_SOURCE 200809L
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "isa_contexts.h"
#include "layer/tape.h"

enum { HIDDEN = 16, TOKENS = 6 };

/* True if run(arg) came to its end in a process of its own. */
static bool survives(void (*run)(void *arg), void *arg) {
    int status = 0;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(0);
        run(arg);
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct pass {
    dqt_layer *layer;
    dqt_tape *tape;
};

/* Forward and backward of a layer of any kind. */
static void run_pass(void *arg) {
    const struct pass *p = arg;
    float x[TOKENS * HIDDEN] = {1}, loss;
    const int32_t tokens[TOKENS] = {0};
    if (p->layer->kind->forward) {
        dqt_layer_forward(p->layer, p->tape, batch_shape(1, TOKENS), x, x);
        dqt_layer_backward(p->layer, p->tape, x, NULL);
    } else if (p->layer->kind->takes_tokens) {
        dqt_embedding_forward(p->layer, p->tape, batch_tokens(tokens, 1, TOKENS), x);
        dqt_embedding_backward(p->layer, p->tape, x);
    } else {
        dqt_head_loss(p->layer, p->tape, batch_targets(tokens, 1, TOKENS), x, &loss, NULL);
        dqt_head_backward(p->layer, p->tape, 1, x);
    }
}

/* The temporaries of a kind suffice, and not a cache line of them is left over. */
static void check_kind(dqt_context *ctx, dqt_layer *layer, bool takes_any) {
    for (int recompute = 0; recompute < 2; recompute++) {
        struct pass p = {.layer = layer};
        dqt_tape_options o;
        dqt_tape_options_init(&o, sizeof o);
        o.max_length = TOKENS;
        o.recompute = recompute;
        OK(ctx, dqt_tape_create(ctx, &p.layer, 1, &o, &p.tape));
        CHECKF(survives(run_pass, &p), "%s", layer->name);
        CHECK((p.tape->temporaries.size > 0) == takes_any);
        if (takes_any) {
            p.tape->temporaries.size -= ALIGNMENT;
            if (p.tape->temporaries.size == 0) p.tape->temporaries.size = 1; /* 0 would be: not told */
            CHECKF(!survives(run_pass, &p), "%s: a line less", layer->name);
        }
        dqt_tape_destroy(p.tape);
    }
    dqt_layer_destroy(layer);
}

static void temporaries(void) {
#ifndef DQT_CHECKED
    SKIP("not a checked build");
#endif
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    dqt_layer *l = NULL;
    dqt_layer_options o;
    dqt_layer_options_init(&o, sizeof o);
    o.sub_norm = 1;
    OK(ctx, dqt_embedding_create(ctx, 9, HIDDEN, &o, &l));
    check_kind(ctx, l, false);
    OK(ctx, dqt_linear_create(ctx, HIDDEN, HIDDEN, &o, &l));
    check_kind(ctx, l, false);
    OK(ctx, dqt_rmsnorm_create(ctx, HIDDEN, &o, &l));
    check_kind(ctx, l, true);
    OK(ctx, dqt_attention_create(ctx, HIDDEN, 2, 1, &o, &l));
    check_kind(ctx, l, true);
    OK(ctx, dqt_mlp_create(ctx, HIDDEN, 24, &o, &l));
    check_kind(ctx, l, true);
    OK(ctx, dqt_block_create(ctx, HIDDEN, 8, 2, 2, &o, &l)); /* attention takes more than the MLP */
    check_kind(ctx, l, true);
    OK(ctx, dqt_block_create(ctx, HIDDEN, 64, 2, 1, &o, &l)); /* the other way */
    check_kind(ctx, l, true);
    OK(ctx, dqt_head_create(ctx, NULL, HIDDEN, 9, &o, &l));
    check_kind(ctx, l, true);
    dqt_context_destroy(ctx);
}

static void take_two_lines(void *arg) {
    struct arena a = *(struct arena *)arg;
    arena_take(&a, 2, ALIGNMENT);
}

static void arenas(void) {
#ifndef DQT_CHECKED
    SKIP("not a checked build");
#endif
    static unsigned char block[2 * 64];
    struct arena a = {.base = block, .size = sizeof block};
    CHECK(survives(take_two_lines, &a));
    a.size = ALIGNMENT;
    CHECK(!survives(take_two_lines, &a));
    a.base = NULL; /* counting has no bound */
    CHECK(survives(take_two_lines, &a));
}

static const struct test tests[] = {TEST(temporaries), TEST(arenas)};
TEST_MAIN(tests)
