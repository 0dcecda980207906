/* Pre-norm block: x + attention(norm x), then x + mlp(norm x); with recomputation only the block's input is saved. */
#include "core/parallel.h"
#include "layer/run.h"

struct checkpoint_job {
    struct gradient *saved;
    float *x;
    struct rng rng;
};

/* Saves a row of x. Where that rounds it, the block runs on what was saved, so that running it again gives the same
 * numbers. */
static void checkpoint_row(void *arg, size_t row, int lane) {
    (void)lane;
    const struct checkpoint_job *job = arg;
    float *x = job->x + row * job->saved->cols;
    gradient_write_rows(job->saved, &job->rng, row, 1, x);
    if (job->saved->format != DQT_FLOAT_F32) gradient_read_rows(job->saved, row, 1, x);
}

static void save_checkpoint(const dqt_tape *t, struct slot *s, float *x) {
    if (!s->checkpoint.data) return;
    struct checkpoint_job job = {&s->checkpoint, x,
                                 rng_make(t->options.seed, t->pass, RNG_CHECKPOINT, (uint32_t)(s - t->slots))};
    parallel_run(t->ctx, slot_tokens(s), checkpoint_row, &job);
}

/* Forward of the parts, x in place. last: skip what only the block's output needs. */
static void run_parts(dqt_tape *t, struct slot *s, float *x, bool last) {
    struct slot *parts = s + 1;
    for (int i = 0; i < BLOCK_PARTS; i++) {
        parts[i].batch = s->batch;
        parts[i].length = s->length;
    }
    rmsnorm_forward(t, &parts[BLOCK_NORM1], x, &parts[BLOCK_ATTENTION].input);
    attention_layer_forward(t, &parts[BLOCK_ATTENTION], true, x);
    rmsnorm_forward(t, &parts[BLOCK_NORM2], x, &parts[BLOCK_MLP].input);
    mlp_forward(t, &parts[BLOCK_MLP], true, last ? NULL : x);
}

void block_forward(dqt_tape *t, struct slot *s, const float *x, float *y) {
    if (y != x) memcpy(y, x, slot_tokens(s) * s->layer->in * sizeof *y);
    save_checkpoint(t, s, y);
    run_parts(t, s, y, false);
}

void block_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    const size_t count = slot_tokens(s) * s->layer->in, mark = tape_mark(t);
    struct slot *parts = s + 1;
    if (t->options.recompute) {
        float *x = tape_take(t, count);
        gradient_read_rows(&s->checkpoint, 0, slot_tokens(s), x);
        run_parts(t, s, x, true);
        tape_release(t, mark);
    }
    if (dx != dy) memcpy(dx, dy, count * sizeof *dx);
    float *dn = tape_take(t, count);
    mlp_backward(t, &parts[BLOCK_MLP], dx, dn);
    rmsnorm_backward(t, &parts[BLOCK_NORM2], dn, true, dx);
    attention_layer_backward(t, &parts[BLOCK_ATTENTION], dx, dn);
    rmsnorm_backward(t, &parts[BLOCK_NORM1], dn, true, dx);
    for (int i = 0; i < BLOCK_PARTS; i++)
        parts[i].length = 0;
    tape_release(t, mark);
}
