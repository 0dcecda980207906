/* Pre-norm block: x + attention(norm x), then x + mlp(norm x); with recomputation only the block's input is saved. */
#include "core/parallel.h"
#include "layer/run.h"

struct block_saved {
    struct gradient checkpoint; /* with recompute [max_tokens][hidden]: its input, in the tape's checkpoint_format */
};

static void block_layout(const dqt_tape *t, struct slot *s, struct arena *a) {
    struct block_saved *saved = s->saved;
    if (!tape_saves(t) || !t->options.recompute) return;
    saved->checkpoint =
        (struct gradient){.format = t->options.checkpoint_format, .rows = t->max_tokens, .cols = s->layer->shape.in};
    gradient_place(&saved->checkpoint, a);
}

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
    struct block_saved *saved = s->saved;
    if (!saved->checkpoint.data) return;
    struct checkpoint_job job = {
        &saved->checkpoint, x,
        rng_make(t->options.seed, t->pass, RNG_CHECKPOINT, (uint32_t)(t->first_slot + (size_t)(s - t->slots)))};
    parallel_run(t->ctx, slot_tokens(s), WORK_ELEMENT * (double)slot_tokens(s) * (double)saved->checkpoint.cols,
                 checkpoint_row, &job);
}

/* Forward of the sublayers, x in place. last: skip what only the block's output needs. */
static void run_sublayers(dqt_tape *t, struct slot *s, float *x, bool last) {
    struct slot *sub = s + 1;
    for (int i = 0; i < BLOCK_SUBLAYERS; i++) {
        DQT_ASSERT(sub[i].layer == s->layer->sublayer[i]);
        sub[i].batch = s->batch;
        sub[i].length = s->length;
        sub[i].runs = s->runs;
    }
    rmsnorm_forward(t, &sub[BLOCK_NORM1], x, &sub[BLOCK_ATTENTION].input);
    attention_from_input(t, &sub[BLOCK_ATTENTION], true, x);
    rmsnorm_forward(t, &sub[BLOCK_NORM2], x, &sub[BLOCK_MLP].input);
    mlp_from_input(t, &sub[BLOCK_MLP], true, last ? NULL : x);
}

static void forward(dqt_tape *t, struct slot *s, const float *x, float *y) {
    if (y != x) memcpy(y, x, slot_tokens(s) * s->layer->shape.in * sizeof *y);
    save_checkpoint(t, s, y);
    run_sublayers(t, s, y, false);
}

/* [tokens][hidden]: the input, from which recomputation runs forward again; gone before the gradients are needed. */
static float *take_input(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    return t->options.recompute ? tape_take(t, tokens, l->shape.in) : NULL;
}

/* [tokens][hidden]: the gradient of what a norm gave; and, where the host wants no dx, of the stream between attention
 * and MLP. */
static float *take_gradient(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    return tape_take(t, tokens, l->shape.in);
}

static void sublayer_temporaries(dqt_tape *t, const dqt_layer *l, int sublayer, size_t tokens) {
    const size_t mark = tape_mark(t);
    l->sublayer[sublayer]->kind->backward_temporaries(t, l->sublayer[sublayer], tokens);
    tape_release(t, mark);
}

static void block_backward_temporaries(dqt_tape *t, const dqt_layer *l, size_t tokens) {
    take_input(t, l, tokens);
    tape_release(t, 0);
    take_gradient(t, l, tokens);
    sublayer_temporaries(t, l, BLOCK_MLP, tokens);
    take_gradient(t, l, tokens);
    sublayer_temporaries(t, l, BLOCK_NORM2, tokens);
    sublayer_temporaries(t, l, BLOCK_ATTENTION, tokens);
    sublayer_temporaries(t, l, BLOCK_NORM1, tokens);
}

static void sublayer_backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    s->layer->kind->backward(t, s, dy, dx);
}

static void backward(dqt_tape *t, struct slot *s, const float *dy, float *dx) {
    const struct block_saved *saved = s->saved;
    const size_t tokens = slot_tokens(s), count = tokens * s->layer->shape.in, mark = tape_mark(t);
    struct slot *sub = s + 1;
    float *x = take_input(t, s->layer, tokens);
    if (x) {
        gradient_read_rows(&saved->checkpoint, 0, tokens, x);
        run_sublayers(t, s, x, true);
    }
    tape_release(t, mark);
    float *dn = take_gradient(t, s->layer, tokens);
    sublayer_backward(t, &sub[BLOCK_MLP], dy, dn);
    float *d = dx ? dx : take_gradient(t, s->layer, tokens);
    if (d != dy) memcpy(d, dy, count * sizeof *d);
    rmsnorm_backward(t, &sub[BLOCK_NORM2], dn, true, d);
    sublayer_backward(t, &sub[BLOCK_ATTENTION], d, dn);
    rmsnorm_backward(t, &sub[BLOCK_NORM1], dn, true, dx);
    for (int i = 0; i < BLOCK_SUBLAYERS; i++)
        sub[i].length = 0;
    tape_release(t, mark);
}

const struct layer_kind block_kind = {
    .id = DQT_LAYER_BLOCK,
    .name = "block",
    .mixes_tokens = true,
    .sublayers =
        {
            [BLOCK_NORM1] = {{"attention_norm", "input_layernorm", NULL, "attn_norm"}, DQT_LAYER_RMSNORM},
            [BLOCK_ATTENTION] = {{.dqt_name = "attention"}, DQT_LAYER_ATTENTION},
            [BLOCK_NORM2] = {{"mlp_norm", "post_attention_layernorm", NULL, "ffn_norm"}, DQT_LAYER_RMSNORM},
            [BLOCK_MLP] = {{.dqt_name = "mlp"}, DQT_LAYER_MLP},
        },
    .saved_bytes = sizeof(struct block_saved),
    .layout = block_layout,
    .backward_temporaries = block_backward_temporaries,
    .forward = forward,
    .backward = backward,
};
