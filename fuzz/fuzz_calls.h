/* One call of every exported function; fuzz/calls.list has their names, which tests/tree/fuzz.sh compares with
 * src/dqt.map. */
#ifndef FUZZ_CALLS_H
#define FUZZ_CALLS_H

static dqt_context *context(int *which) {
    *which = (int)(byte() % CONTEXTS);
    return null_sometimes(world.ctx[*which]);
}

/* ---- Initialisers of options ---------------------------------------------------------------------------------- */

#define INIT(name, type)                                                                                               \
    static dqt_status init_##name(void *o, size_t size) {                                                              \
        return dqt_##name##_init(o, size);                                                                             \
    }                                                                                                                  \
    static dqt_status call_##name##_init(void) {                                                                       \
        free(make_options(sizeof(type), init_##name));                                                                 \
        type o;                                                                                                        \
        return dqt_##name##_init(null_sometimes(&o), one_in(24) ? 3 : sizeof o);                                       \
    }
INIT(context_options, dqt_context_options)
INIT(tensor_options, dqt_tensor_options)
INIT(layer_options, dqt_layer_options)
INIT(tape_options, dqt_tape_options)
INIT(llama_config, dqt_llama_config)
INIT(updater_options, dqt_updater_options)
INIT(group_options, dqt_group_options)
INIT(sampler_options, dqt_sampler_options)
INIT(gguf_options, dqt_gguf_options)
INIT(safetensors_options, dqt_safetensors_options)
INIT(session_options, dqt_session_options)
INIT(save_options, dqt_save_options)
INIT(load_options, dqt_load_options)
INIT(import_options, dqt_import_options)
INIT(open_options, dqt_open_options)
INIT(preset_options, dqt_preset_options)

/* ---- Context -------------------------------------------------------------------------------------------------- */

static dqt_status call_version(void) {
    return dqt_version() > 0 ? DQT_OK : DQT_E_STATE;
}
static dqt_status call_version_string(void) {
    return strlen(dqt_version_string()) > 0 ? DQT_OK : DQT_E_STATE;
}
static dqt_status call_status_string(void) {
    return strlen(dqt_status_string(enum_or_odd(-20, 40))) > 0 ? DQT_OK : DQT_E_STATE;
}
static dqt_status call_last_error(void) {
    int c;
    return strlen(dqt_last_error(context(&c))) < 4096 ? DQT_OK : DQT_E_STATE;
}
static dqt_status call_context_create(void) {
    dqt_context_options *o = make_options(sizeof *o, init_context_options);
    const size_t before = fuzz_memory.now;
    dqt_context *ctx = (dqt_context *)o;
    SET(o, dqt_context_options, alloc, fuzz_alloc); /* pairs of functions cannot be odd */
    SET(o, dqt_context_options, free, fuzz_free);
    SET(o, dqt_context_options, alloc_user_data, NULL);
    SET(o, dqt_context_options, parallel_for, one_in(4) ? backwards : NULL);
    SET(o, dqt_context_options, log, NULL);
    SET(o, dqt_context_options, interrupt, one_in(4) ? interrupt : NULL);
    const dqt_status status = dqt_context_create(one_in(48) ? NULL : o, &ctx);
    REQUIRE((status == DQT_OK) == (ctx != NULL), "%d", status);
    dqt_context_destroy(ctx);
    REQUIRE(fuzz_memory.now == before, "a context leaks");
    free(o);
    return status;
}
static dqt_status call_context_destroy(void) {
    dqt_context_destroy(NULL);
    return DQT_OK;
}
static dqt_status call_context_cpu_features(void) {
    int c;
    (void)dqt_context_cpu_features(context(&c));
    return DQT_OK;
}
static dqt_status call_context_isa(void) {
    int c;
    const dqt_context *ctx = context(&c);
    return !ctx == (dqt_context_isa(ctx) == 0) ? DQT_OK : DQT_E_STATE;
}
static dqt_status call_context_num_threads(void) {
    return dqt_context_num_threads(world.ctx[1]) == 3 ? DQT_OK : DQT_E_STATE;
}
static dqt_status call_context_allocated(void) {
    return dqt_context_allocated(world.ctx[0]) > 0 && dqt_context_allocated(NULL) == 0 ? DQT_OK : DQT_E_STATE;
}

/* ---- Tensor --------------------------------------------------------------------------------------------------- */

static dqt_tensor_options *tensor_options(void) {
    dqt_tensor_options *o = make_options(sizeof *o, init_tensor_options);
    if (one_in(2)) SET(o, dqt_tensor_options, storage, enum_or_odd(DQT_FORMAT_F32, 8));
    if (one_in(4)) SET(o, dqt_tensor_options, compute, enum_or_odd(0, 8));
    if (one_in(4)) SET(o, dqt_tensor_options, scale_axis, enum_or_odd(0, 3));
    if (one_in(4)) SET(o, dqt_tensor_options, group_size, one_in(8) ? 48 : 32 << byte() % 4);
    if (one_in(4)) SET(o, dqt_tensor_options, scale_rule, enum_or_odd(0, 5));
    return o;
}

/* Keeps only what buffers can hold. */
static dqt_status created_tensor(struct object *o, dqt_status status, dqt_tensor *t) {
    status = created(o, status, t, "tensor");
    if (!t) return status;
    dqt_tensor_info info = {.struct_size = sizeof info};
    REQUIRE(dqt_tensor_get_info(t, &info) == DQT_OK, "info");
    o->rows = info.rows;
    o->cols = info.cols;
    if (info.rows > MOST_DIM || info.cols > 4 * MOST_DIM) destroy(o);
    return status;
}
static dqt_status call_tensor_create(void) {
    struct object *o = place(TENSOR);
    dqt_tensor *t = (dqt_tensor *)&nothing;
    if (!o) return DQT_E_STATE;
    dqt_tensor_options *options = tensor_options();
    const dqt_status status = dqt_tensor_create(context(&o->ctx), size_or_odd(up_to(8)), size_or_odd(up_to(130)),
                                                null_sometimes(options), &t);
    free(options);
    return created_tensor(o, status, t);
}
static dqt_status call_tensor_convert(void) {
    struct object *o = place(TENSOR), *from = any(TENSOR);
    dqt_tensor *t = (dqt_tensor *)&nothing;
    if (!o) return DQT_E_STATE;
    dqt_tensor_options *options = tensor_options();
    o->ctx = from->ctx;
    const dqt_status status = dqt_tensor_convert(from->handle, enum_or_odd(1, 2), byte(), null_sometimes(options), &t);
    free(options);
    return created_tensor(o, status, t);
}
static dqt_status call_tensor_destroy(void) {
    struct object *o = any(TENSOR);
    if (one_in(4) && o->users == 0) destroy(o);
    dqt_tensor_destroy(NULL);
    return DQT_OK;
}
static dqt_status call_tensor_get_info(void) {
    RESULT(dqt_tensor_info, info);
    return dqt_tensor_get_info(any(TENSOR)->handle, null_sometimes(&info));
}
static dqt_status call_tensor_get_stats(void) {
    RESULT(dqt_tensor_stats, stats);
    return dqt_tensor_get_stats(any(TENSOR)->handle, null_sometimes(&stats));
}
static dqt_status call_tensor_quantize(void) {
    struct object *o = any(TENSOR);
    return dqt_tensor_quantize(o->handle, floats(o->rows * o->cols), enum_or_odd(1, 2), byte());
}
static void rows_of(const struct object *o, size_t *row, size_t *count) {
    *row = size_or_odd(o->rows ? byte() % o->rows : 0);
    *count = size_or_odd(o->rows > *row ? 1 + byte() % (o->rows - *row) : 1);
}
static dqt_status call_tensor_dequantize(void) {
    struct object *o = any(TENSOR);
    size_t row, count;
    rows_of(o, &row, &count);
    return dqt_tensor_dequantize(o->handle, row, count, results());
}
static int8_t codes[4 * MOST_DIM * MOST_DIM];
static dqt_status call_tensor_get_codes(void) {
    struct object *o = any(TENSOR);
    size_t row, count;
    rows_of(o, &row, &count);
    return dqt_tensor_get_codes(o->handle, row, count, null_sometimes(codes));
}
static dqt_status call_tensor_set_codes(void) {
    struct object *o = any(TENSOR);
    size_t row, count;
    rows_of(o, &row, &count);
    memset(codes, one_in(4) ? (int)byte() : 1, sizeof codes);
    return dqt_tensor_set_codes(o->handle, row, count, null_sometimes(codes));
}
static dqt_status call_tensor_get_scales(void) {
    return dqt_tensor_get_scales(any(TENSOR)->handle, results());
}
static dqt_status call_tensor_set_scales(void) {
    struct object *o = any(TENSOR);
    for (size_t i = 0; i < MOST_DIM; i++)
        world.x[i] = 0.01f * (float)(i + 1);
    if (one_in(4)) world.x[0] = number();
    return dqt_tensor_set_scales(o->handle, null_sometimes(world.x));
}
static dqt_status call_tensor_data(void) {
    void *data;
    size_t size;
    return dqt_tensor_data(any(TENSOR)->handle, null_sometimes(&data), &size);
}
static dqt_status call_tensor_copy(void) {
    return dqt_tensor_copy(any(TENSOR)->handle, any(TENSOR)->handle);
}
static dqt_status call_tensor_touch(void) {
    return dqt_tensor_touch(any(TENSOR)->handle);
}

/* ---- Layer ---------------------------------------------------------------------------------------------------- */

static dqt_layer_options *layer_options(void) {
    dqt_layer_options *o = make_options(sizeof *o, init_layer_options);
    SET(o, dqt_layer_options, name, one_in(4) ? "name" : NULL);
    SET(o, dqt_layer_options, shape_only, 0);
    if (one_in(4)) SET(o, dqt_layer_options, mlp, enum_or_odd(0, 3));
    if (one_in(4)) SET(o, dqt_layer_options, sub_norm, enum_or_odd(0, 2));
    if (one_in(4)) {
        SET(o, dqt_layer_options, head_dim, size_or_odd(2 * up_to(3)));
        SET(o, dqt_layer_options, attention_bias, one_in(2));
        SET(o, dqt_layer_options, qk_norm, one_in(2));
        SET(o, dqt_layer_options, rope_scaling, enum_or_odd(0, 3));
        SET(o, dqt_layer_options, rope_factor, one_in(4) ? number() : 2);
    }
    return o;
}
static dqt_status created_layer(struct object *o, dqt_status status, dqt_layer *l) {
    status = created(o, status, l, "layer");
    if (!l) return status;
    dqt_layer_info info = {.struct_size = sizeof info};
    REQUIRE(dqt_layer_get_info(l, &info) == DQT_OK, "info");
    o->layer_kind = info.kind;
    o->in = info.in_features;
    o->out = info.out_features;
    if (info.in_features > MOST_DIM || info.out_features > MOST_DIM) destroy(o);
    return status;
}
#define CREATE_LAYER(name, ...)                                                                                        \
    static dqt_status call_##name##_create(void) {                                                                     \
        struct object *o = place(LAYER);                                                                               \
        dqt_layer *l = (dqt_layer *)&nothing;                                                                          \
        if (!o) return DQT_E_STATE;                                                                                    \
        dqt_layer_options *options = layer_options();                                                                  \
        const dqt_status status = dqt_##name##_create(context(&o->ctx), __VA_ARGS__, null_sometimes(options), &l);     \
        free(options);                                                                                                 \
        return created_layer(o, status, l);                                                                            \
    }
#define WIDTH size_or_odd((size_t)4 << byte() % 2)
CREATE_LAYER(embedding, size_or_odd(up_to(9)), WIDTH)
CREATE_LAYER(linear, WIDTH, WIDTH)
CREATE_LAYER(rmsnorm, WIDTH)
CREATE_LAYER(attention, WIDTH, size_or_odd(2), size_or_odd(1 + byte() % 2))
CREATE_LAYER(mlp, WIDTH, size_or_odd(up_to(9)))
CREATE_LAYER(block, WIDTH, size_or_odd(up_to(9)), size_or_odd(2), size_or_odd(1 + byte() % 2))

static dqt_status call_head_create(void) {
    struct object *o = place(LAYER), *tied = one_in(3) ? any(LAYER) : &nothing;
    dqt_layer *l = (dqt_layer *)&nothing;
    if (!o) return DQT_E_STATE;
    if (tied->handle) need(o, tied);
    dqt_layer_options *options = layer_options();
    const size_t hidden = tied->handle ? tied->out : 8, classes = tied->handle ? tied->in : up_to(9);
    const dqt_status status = dqt_head_create(context(&o->ctx), tied->handle, size_or_odd(hidden), size_or_odd(classes),
                                              null_sometimes(options), &l);
    free(options);
    return created_layer(o, status, l);
}
static dqt_status call_layer_destroy(void) {
    struct object *o = any(LAYER);
    if (one_in(4) && o->users == 0) destroy(o);
    dqt_layer_destroy(NULL);
    return DQT_OK;
}
static dqt_status call_layer_get_info(void) {
    RESULT(dqt_layer_info, info);
    return dqt_layer_get_info(any(LAYER)->handle, null_sometimes(&info));
}
static dqt_status call_layer_get_sublayer(void) {
    dqt_layer *sublayer;
    return dqt_layer_get_sublayer(any(LAYER)->handle, size_or_odd(byte() % 4), null_sometimes(&sublayer));
}
static dqt_status call_layer_get_parameter(void) {
    RESULT(dqt_parameter, p);
    return dqt_layer_get_parameter(any(LAYER)->handle, size_or_odd(byte() % 2), null_sometimes(&p));
}

/* A tape, and usually a layer of this kind that is in it; FLOAT_LAYER stands for those with floats on both sides. */
enum { FLOAT_LAYER = 0 };
static bool is_kind(const struct object *layer, int32_t kind) {
    if (kind != FLOAT_LAYER) return layer->layer_kind == kind;
    return layer->kind == LAYER && layer->layer_kind != DQT_LAYER_EMBEDDING && layer->layer_kind != DQT_LAYER_HEAD;
}
static struct object *tape_with(int32_t kind, struct object **layer) {
    const unsigned first = byte();
    for (unsigned i = 0; i < SLOTS && !one_in(24); i++) {
        struct object *t = &world.objects[TAPE][(first + i) % SLOTS];
        for (size_t k = 0; t->handle && k < t->num_layers; k++)
            if (is_kind(t->layers[k], kind)) {
                *layer = t->layers[k];
                return t;
            }
    }
    *layer = any(LAYER);
    return any(TAPE);
}
/* A batch that usually fits the tape. */
static dqt_batch *batch_of(const struct object *tape, size_t vocab, size_t classes) {
    static dqt_batch b;
    static float weights[MOST_TOKENS];
    static int32_t segments[MOST_TOKENS];
    b = (dqt_batch)DQT_INIT(dqt_batch);
    if (one_in(32)) b.struct_size = (uint32_t)odd_number() | 1u << 20;
    b.batch = size_or_odd(byte() % (tape->batch + 1));
    b.length = size_or_odd(1 + byte() % (tape->length ? tape->length : 1));
    if (b.batch * b.length > MOST_TOKENS && b.batch <= tape->batch && b.length <= tape->length) b.length = 1;
    b.tokens = tokens(world.tokens, vocab, false);
    if (!one_in(8)) b.targets = tokens(world.targets, classes, true);
    for (size_t i = 0; i < MOST_TOKENS; i++) {
        weights[i] = one_in(16) ? number() : 1;
        segments[i] = (int32_t)(i / up_to(8));
    }
    if (one_in(4)) b.weights = weights;
    if (one_in(4)) b.segments = segments;
    if (one_in(4)) b.divisor = (double)number();
    return null_sometimes(&b);
}
static dqt_status call_layer_forward(void) {
    struct object *l, *t = tape_with(FLOAT_LAYER, &l);
    return dqt_layer_forward(l->handle, t->handle, batch_of(t, 1, 1), floats(MOST_TOKENS * MOST_DIM), results());
}
/* Usually right after the forward without which there is nothing to go back from. */
static dqt_status call_layer_backward(void) {
    struct object *l, *t = tape_with(FLOAT_LAYER, &l);
    if (!one_in(4)) dqt_layer_forward(l->handle, t->handle, batch_of(t, 1, 1), floats(MOST_TOKENS * MOST_DIM), world.y);
    return dqt_layer_backward(l->handle, t->handle, floats(MOST_TOKENS * MOST_DIM), results());
}
static dqt_status call_embedding_forward(void) {
    struct object *l, *t = tape_with(DQT_LAYER_EMBEDDING, &l);
    return dqt_embedding_forward(l->handle, t->handle, batch_of(t, l->in, 1), results());
}
static dqt_status call_embedding_backward(void) {
    struct object *l, *t = tape_with(DQT_LAYER_EMBEDDING, &l);
    if (!one_in(4)) dqt_embedding_forward(l->handle, t->handle, batch_of(t, l->in, 1), world.y);
    return dqt_embedding_backward(l->handle, t->handle, floats(MOST_TOKENS * MOST_DIM));
}
static dqt_status head_loss(struct object *t, struct object *l) {
    float loss;
    return dqt_head_loss(l->handle, t->handle, batch_of(t, 1, l->out), floats(MOST_TOKENS * MOST_DIM),
                         null_sometimes(&loss), one_in(2) ? world.y : NULL);
}
static dqt_status call_head_loss(void) {
    struct object *l, *t = tape_with(DQT_LAYER_HEAD, &l);
    return head_loss(t, l);
}
static dqt_status call_head_backward(void) {
    struct object *l, *t = tape_with(DQT_LAYER_HEAD, &l);
    if (!one_in(4)) head_loss(t, l);
    return dqt_head_backward(l->handle, t->handle, number(), results());
}
static dqt_status call_head_logits(void) {
    struct object *l, *t = tape_with(DQT_LAYER_HEAD, &l);
    return dqt_head_logits(l->handle, t->handle, batch_of(t, 1, 1), floats(MOST_TOKENS * MOST_DIM), results());
}
static int32_t on_logits(void *user_data, const dqt_logits_tile *tile) {
    REQUIRE(user_data == &world && tile->num_tokens <= MOST_TOKENS, "%zu", tile->num_tokens);
    for (size_t t = 0; t < tile->num_tokens; t++)
        for (size_t c = 0; c < tile->num_classes; c++)
            tile->logits[t * tile->ld + c] *= 0.5f;
    return 0;
}
static int32_t on_logits_stop(void *user_data, const dqt_logits_tile *tile) {
    (void)user_data;
    return tile->first_token == 0;
}
static const dqt_logits_gradient *logits_gradient(void) {
    static dqt_logits_gradient g;
    g = (dqt_logits_gradient)DQT_INIT(dqt_logits_gradient);
    if (one_in(2)) g.dlogits = floats(MOST_TOKENS * MOST_DIM);
    if (!g.dlogits || one_in(16)) g.callback = one_in(8) ? NULL : one_in(8) ? on_logits_stop : on_logits;
    g.user_data = &world;
    return null_sometimes(&g);
}
static dqt_status call_head_backward_logits(void) {
    struct object *l, *t = tape_with(DQT_LAYER_HEAD, &l);
    if (!one_in(4)) head_loss(t, l);
    return dqt_head_backward_logits(l->handle, t->handle, logits_gradient(), results());
}

#include "fuzz_calls_model.h"

#endif
