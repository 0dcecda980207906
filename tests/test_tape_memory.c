/* What a tape keeps for a token, by layer kind: no more than backward needs. */
#include "calls.h"
#include "test.h"

enum { HIDDEN = 64, INTERMEDIATE = 192 };

static dqt_layer_options options_of(bool sub_norm) {
    dqt_layer_options o;
    dqt_layer_options_init(&o, sizeof o);
    o.shape_only = 1;
    o.sub_norm = sub_norm;
    return o;
}

static dqt_layer *mlp(dqt_context *ctx, bool sub_norm) {
    const dqt_layer_options o = options_of(sub_norm);
    dqt_layer *layer = NULL;
    OK(ctx, dqt_mlp_create(ctx, HIDDEN, INTERMEDIATE, &o, &layer));
    return layer;
}

static dqt_layer *attention(dqt_context *ctx, bool sub_norm) {
    const dqt_layer_options o = options_of(sub_norm);
    dqt_layer *layer = NULL;
    OK(ctx, dqt_attention_create(ctx, HIDDEN, 4, 4, &o, &layer));
    return layer;
}

/* Bytes of activations for one token more. */
static double bytes_per_token(dqt_context *ctx, dqt_layer *layer) {
    size_t bytes[2] = {0};
    for (size_t i = 0; i < 2; i++) {
        dqt_tape_options o;
        dqt_tape_options_init(&o, sizeof o);
        o.max_batch = 16 + 16 * i;
        o.max_length = 64;
        dqt_tape_memory_info m = DQT_INIT(dqt_tape_memory_info);
        OK(ctx, dqt_tape_memory(ctx, &layer, 1, &o, &m));
        bytes[i] = m.activations;
    }
    return ((double)bytes[1] - (double)bytes[0]) / (16 * 64);
}

/* RMSNorm inside a layer keeps one number a token, its inverse root mean square: what it reads is there anyway. */
static void sub_norms_keep_one_float(void) {
    dqt_layer *(*const kinds[])(dqt_context *, bool) = {mlp, attention};
    dqt_context *ctx = NULL;
    OK(NULL, dqt_context_create(NULL, &ctx));
    for (size_t i = 0; i < 2; i++) {
        dqt_layer *with = kinds[i](ctx, true), *without = kinds[i](ctx, false);
        const double more = bytes_per_token(ctx, with) - bytes_per_token(ctx, without);
        CHECKF(more > 3.999 && more < 4.001, "kind %zu: %g bytes", i, more);
        dqt_layer_destroy(with);
        dqt_layer_destroy(without);
    }
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {TEST(sub_norms_keep_one_float)};
TEST_MAIN(tests)
