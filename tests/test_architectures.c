/* The architectures that differ from LLaMA 2 in their layers, each through what a model goes through: sessions,
 * documents, recomputation, the update inside backward, checkpoints, safetensors, planning and failing allocations. */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "architectures.h"
#include "counting_alloc.h"
#include "isa_contexts.h"
#include "memory_file.h"

/* The same architecture in the formats of training: ternary, with int8 activations. */
static dqt_llama_config low_bits(const struct subject *s) {
    dqt_llama_config c = s->config;
    c.activation = DQT_ACTIVATION_INT8;
    c.linear.storage = DQT_FORMAT_TERNARY;
    c.embedding.storage = c.head.storage = DQT_FORMAT_INT8;
    c.init_std = 0.3f;
    return c;
}

static float train_step(dqt_context *ctx, const struct made *m, const struct subject *s, dqt_updater *u, bool fused) {
    float loss = 0;
    OK(ctx, dqt_llama_loss(m->model, m->tape, batch_pairs(s->tokens, s->targets, BATCH, LENGTH), &loss, NULL));
    if (fused) {
        OK(ctx, dqt_llama_backward_update(m->model, m->tape, u, step_rate(0.01f), NULL));
    } else {
        OK(ctx, dqt_tape_zero_gradients(m->tape));
        OK(ctx, dqt_llama_backward(m->model, m->tape, 1.0f));
        OK(ctx, dqt_updater_step(u, m->tape, step_rate(0.01f), NULL));
    }
    return loss;
}

static dqt_updater_options updater_options(void) {
    dqt_updater_options o;
    dqt_updater_options_init(&o, sizeof o);
    o.clip = DQT_CLIP_PREVIOUS_NORM;
    o.weight_decay = 0.1f;
    return o;
}

/* ---- What a model goes through ------------------------------------------------------------------------------- */

/* Token by token and at once, against the whole pass. */
static void check_sessions(const struct subject *s) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    const dqt_tape_options o = tape_options();
    struct made m = make(ctx, &s->config, &o);
    set_weights(ctx, &m);
    float expected[TOKENS * VOCAB], logits[VOCAB];
    OK(ctx, dqt_llama_forward(m.model, m.tape, batch_tokens(s->tokens, BATCH, LENGTH), expected));
    dqt_session *session = NULL;
    dqt_session_memory_info planned = {.struct_size = sizeof planned};
    const size_t before = memory.bytes;
    OK(ctx, dqt_session_memory(m.model, session_of(LENGTH), &planned));
    OK(ctx, dqt_session_create(m.model, session_of(LENGTH), &session));
    CHECKF(memory.bytes - before == planned.total, "%s: a session of %zu bytes, planned %zu", s->name,
           memory.bytes - before, planned.total);
    for (size_t piece = 1; piece <= LENGTH; piece += LENGTH - 1) {
        OK(ctx, dqt_session_truncate(session, 0));
        for (size_t at = piece; at <= LENGTH; at += piece) {
            double largest = 0, worst = 0;
            const float *row = expected + (at - 1) * VOCAB;
            OK(ctx, dqt_session_append(session, s->tokens + at - piece, piece, logits));
            for (size_t i = 0; i < VOCAB; i++) {
                largest = fmax(largest, fabs((double)row[i]));
                worst = fmax(worst, fabs((double)row[i] - (double)logits[i]));
            }
            CHECKF(worst <= 3e-5 * largest, "%s, %zu tokens at a time, position %zu: off by %g", s->name, piece, at,
                   worst / largest);
        }
    }
    dqt_session_destroy(session);
    unmake(&m);
    counting_end(ctx, &memory);
}
static void sessions(void) {
    each_subject(check_sessions);
}

/* Two documents in a sequence: each as a sequence of its own. */
static void check_documents(const struct subject *s) {
    enum { FIRST = 7 };
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    const dqt_tape_options o = tape_options();
    struct made m = make(ctx, &s->config, &o);
    set_weights(ctx, &m);
    float together[LENGTH * VOCAB], alone[LENGTH * VOCAB];
    int32_t ids[LENGTH];
    for (int i = 0; i < LENGTH; i++)
        ids[i] = i >= FIRST;
    const dqt_batch batch = {.struct_size = sizeof batch, .length = LENGTH, .tokens = s->tokens, .segments = ids};
    OK(ctx, dqt_llama_forward(m.model, m.tape, &batch, together));
    OK(ctx, dqt_llama_forward(m.model, m.tape, batch_tokens(s->tokens, 1, FIRST), alone));
    OK(ctx,
       dqt_llama_forward(m.model, m.tape, batch_tokens(s->tokens + FIRST, 1, LENGTH - FIRST), alone + FIRST * VOCAB));
    double largest = 0, worst = 0;
    for (size_t i = 0; i < LENGTH * VOCAB; i++) {
        largest = fmax(largest, fabs((double)alone[i]));
        worst = fmax(worst, fabs((double)alone[i] - (double)together[i]));
    }
    CHECKF(worst <= 1e-5 * largest, "%s: documents are off by %g", s->name, worst / largest);
    unmake(&m);
    counting_end(ctx, &memory);
}
static void documents(void) {
    each_subject(check_documents);
}

static struct memory_file file_of(dqt_context *ctx, const struct made *m, const dqt_updater *u) {
    struct memory_file f = memory_new();
    OK(ctx, dqt_llama_write(m->model, u, memory_write, &f, NULL));
    return f;
}

/* Three steps leave the same bytes whether backward runs forward again, updates as it goes, or neither; with one lane
 * or three. */
static void check_ways(const struct subject *s) {
    struct memory_file first = {0};
    for (int way = 0; way < 8; way++) {
        struct counting memory;
        dqt_context *ctx = counting_context(&memory);
        dqt_context_options threads;
        dqt_context *other = NULL;
        dqt_context_options_init(&threads, sizeof threads);
        threads.threading = DQT_THREADING_HOST;
        threads.num_threads = 3;
        threads.parallel_for = backwards_for;
        if (way & 4) OK(NULL, dqt_context_create(&threads, &other));
        share_all_work(other);
        dqt_context *used = way & 4 ? other : ctx;
        const dqt_llama_config c = low_bits(s);
        dqt_tape_options o = tape_options();
        o.recompute = way & 1;
        o.no_gradient_buffers = (way & 2) != 0;
        struct made m = make(used, &c, &o);
        dqt_updater *u = NULL;
        const dqt_updater_options uo = updater_options();
        OK(used, dqt_updater_create(used, m.layers, m.num_layers, &uo, &u));
        for (int step = 0; step < 3; step++)
            train_step(used, &m, s, u, (way & 2) != 0);
        struct memory_file f = file_of(used, &m, u);
        if (way)
            CHECKF(same_bytes(&f, &first), "%s: way %d leaves other weights or states", s->name, way);
        else
            first = f;
        if (way) free(f.bytes);
        dqt_updater_destroy(u);
        unmake(&m);
        dqt_context_destroy(other);
        counting_end(ctx, &memory);
    }
    free(first.bytes);
}
static void ways_of_training(void) {
    each_subject(check_ways);
}

/* Written, read, written again: the same bytes; and goes on as if it had not been away. */
static void check_checkpoint(const struct subject *s) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    const dqt_llama_config c = low_bits(s);
    const dqt_tape_options o = tape_options();
    const dqt_updater_options uo = updater_options();
    struct made m = make(ctx, &c, &o), back = {0};
    dqt_updater *u = NULL, *u_back = NULL;
    OK(ctx, dqt_updater_create(ctx, m.layers, m.num_layers, &uo, &u));
    train_step(ctx, &m, s, u, false);
    struct memory_file half = file_of(ctx, &m, u);
    OK(ctx, read_checkpoint(ctx, memory_read, &half, &back.model, &u_back, NULL, NULL));
    struct memory_file again = file_of(ctx, &back, u_back);
    CHECKF(same_bytes(&half, &again), "%s: written again it is another file", s->name);
    OK(ctx, dqt_llama_get_layers(back.model, &back.layers, &back.num_layers));
    OK(ctx, dqt_tape_create(ctx, back.layers, back.num_layers, &o, &back.tape));
    train_step(ctx, &m, s, u, false);
    train_step(ctx, &back, s, u_back, false);
    struct memory_file whole = file_of(ctx, &m, u), resumed = file_of(ctx, &back, u_back);
    CHECKF(same_bytes(&whole, &resumed), "%s: resumed training differs", s->name);
    dqt_llama_config in_effect = {.struct_size = sizeof in_effect};
    OK(ctx, dqt_llama_get_config(back.model, &in_effect));
    CHECK(in_effect.head_dim == (c.head_dim ? c.head_dim : HIDDEN / c.num_heads));
    CHECK(in_effect.attention_bias == c.attention_bias && in_effect.qk_norm == c.qk_norm);
    CHECK(in_effect.rope_scaling == c.rope_scaling && in_effect.rope_original_context == c.rope_original_context);
    /* into layers that exist */
    resumed.position = 0;
    OK(ctx, dqt_layers_read(m.layers, m.num_layers, u, memory_read, &resumed, NULL, NULL));
    free(half.bytes), free(again.bytes), free(whole.bytes), free(resumed.bytes);
    dqt_updater_destroy(u);
    dqt_updater_destroy(u_back);
    unmake(&m);
    unmake(&back);
    counting_end(ctx, &memory);
}
static void checkpoints(void) {
    each_subject(check_checkpoint);
}

static bool holds(const struct memory_file *f, const char *text) {
    const size_t n = strlen(text);
    for (size_t i = 0; i + n <= f->size; i++)
        if (memcmp(f->bytes + i, text, n) == 0) return true;
    return false;
}

/* A file says what is not as it was in the first files of version 2, and nothing else. head_dim does not count where
 * the other sizes imply it. */
static void entries_are_left_out(void) {
    static const char *const later[] = {"head_dim",
                                        "attention_bias",
                                        "qk_norm",
                                        "rope_scaling",
                                        "rope_factor",
                                        "rope_low_freq_factor",
                                        "rope_high_freq_factor",
                                        "rope_original_context"};
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    for (int kind = 0; kind < 2; kind++) {
        dqt_llama_config c;
        dqt_llama_config_init(&c, sizeof c);
        c.head_dim = kind ? 34 : 32; /* of 128 / 4 */
        c.attention_bias = c.qk_norm = kind;
        if (kind) {
            c.rope_scaling = DQT_ROPE_LLAMA3;
            c.rope_factor = 8;
            c.rope_low_freq_factor = 1;
            c.rope_high_freq_factor = 4;
            c.rope_original_context = 512;
        }
        struct made m = {0};
        OK(ctx, dqt_llama_create(ctx, &c, &m.model));
        struct memory_file f = file_of(ctx, &m, NULL);
        for (size_t i = 0; i < sizeof later / sizeof *later; i++)
            CHECKF(holds(&f, later[i]) == (kind == 1), "kind %d: %s", kind, later[i]);
        free(f.bytes);
        dqt_llama_destroy(m.model);
    }
    counting_end(ctx, &memory);
}

/* F32 files come back bit for bit; biases and norms of heads have transformers' names. */
static void check_safetensors(const struct subject *s) {
    char path[] = "/tmp/dqt-architectures-XXXXXX";
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    const int file = mkstemp(path);
    CHECK(file >= 0 && close(file) == 0);
    dqt_llama *model = NULL, *other = NULL; /* other: the same, of zeros */
    const dqt_llama_config c = low_bits(s);
    OK(ctx, dqt_llama_create(ctx, &c, &model));
    OK(ctx, dqt_llama_create(ctx, &c, &other));
    struct made m = {.model = model}, o = {.model = other};
    OK(ctx, dqt_llama_get_layers(model, &m.layers, &m.num_layers));
    OK(ctx, dqt_llama_get_layers(other, &o.layers, &o.num_layers));
    const dqt_tape_options none = tape_options();
    OK(ctx, dqt_tape_create(ctx, m.layers, m.num_layers, &none, &m.tape));
    OK(ctx, dqt_tape_create(ctx, o.layers, o.num_layers, &none, &o.tape));
    OK(ctx, dqt_tape_get_num_parameters(m.tape, &m.num_parameters));
    for (size_t i = 0; i < m.num_parameters; i++) {
        const dqt_parameter p = parameter(ctx, &m, i), q = parameter(ctx, &o, i);
        float w[MOST];
        golden_weights(9, i, 0, w, p.rows * p.cols);
        if (p.parameter_class == DQT_CLASS_BIAS) OK(ctx, dqt_tensor_quantize(p.tensor, w, DQT_ROUND_NEAREST, 0));
        memset(w, 0, sizeof w);
        OK(ctx, dqt_tensor_quantize(q.tensor, w, DQT_ROUND_NEAREST, 0));
    }
    OK(ctx, dqt_llama_export_safetensors(model, path, NULL));
    OK(ctx, dqt_llama_import_safetensors(other, path, NULL));
    struct memory_file stored = slurp(path), a = file_of(ctx, &m, NULL), b = file_of(ctx, &o, NULL);
    CHECKF(same_bytes(&a, &b), "%s: other weights come back", s->name);
    CHECK(holds(&stored, "model.layers.1.self_attn.v_proj.bias") == (c.attention_bias == 1));
    CHECK(holds(&stored, "model.layers.1.self_attn.k_norm.weight") == (c.qk_norm == 1));
    free(stored.bytes), free(a.bytes), free(b.bytes);
    unmake(&m);
    unmake(&o);
    CHECK(unlink(path) == 0);
    counting_end(ctx, &memory);
}
static void safetensors(void) {
    each_subject(check_safetensors);
}

/* Two attention layers of one tape share their tables of rotations only if they turn alike. */
static void rotations_are_not_mixed_up(void) {
    enum { KINDS = 5 };
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_layer *layers[KINDS] = {0};
    dqt_tape *together = NULL;
    float x[LENGTH * HIDDEN], alone[LENGTH * HIDDEN], first[LENGTH * HIDDEN] = {0}, shared[LENGTH * HIDDEN];
    random_fill(x, LENGTH * HIDDEN, 1, 5);
    for (int kind = 0; kind < KINDS; kind++) {
        dqt_layer_options o;
        dqt_layer_options_init(&o, sizeof o);
        o.weight.storage = DQT_FORMAT_F32;
        o.activation = DQT_ACTIVATION_NONE;
        o.init_std = 0.5f;
        o.name = "same"; /* the same weights */
        if (kind) o.rope_scaling = kind < 3 ? DQT_ROPE_LINEAR : DQT_ROPE_LLAMA3;
        if (kind) o.rope_factor = kind == 2 ? 3 : 2;
        if (kind >= 3) o.rope_low_freq_factor = 1;
        if (kind >= 3) o.rope_high_freq_factor = 2;
        if (kind >= 3) o.rope_original_context = kind == 3 ? 16 : 90;
        OK(ctx, dqt_attention_create(ctx, HIDDEN, 4, 2, &o, &layers[kind]));
    }
    const dqt_tape_options o = tape_options();
    OK(ctx, dqt_tape_create(ctx, layers, KINDS, &o, &together));
    for (int kind = 0; kind < KINDS; kind++) {
        dqt_tape *own = NULL;
        OK(ctx, dqt_tape_create(ctx, &layers[kind], 1, &o, &own));
        OK(ctx, dqt_layer_forward(layers[kind], own, batch_shape(1, LENGTH), x, alone));
        OK(ctx, dqt_layer_forward(layers[kind], together, batch_shape(1, LENGTH), x, shared));
        CHECKF(memcmp(alone, shared, sizeof alone) == 0, "kind %d turns another way among others", kind);
        CHECKF(memcmp(alone, first, sizeof alone) != 0, "kind %d turns as the one before", kind);
        memcpy(first, alone, sizeof first);
        dqt_tape_destroy(own);
    }
    dqt_tape_destroy(together);
    for (int kind = 0; kind < KINDS; kind++)
        dqt_layer_destroy(layers[kind]);
    counting_end(ctx, &memory);
}

/* What is planned is what is taken, and every allocation may fail. */
static void check_memory(const struct subject *s) {
    size_t failed = 0;
    for (size_t n = 0;; n++) {
        struct counting memory;
        dqt_context *ctx = counting_context(&memory);
        const dqt_llama_config c = low_bits(s);
        dqt_tape_options o = tape_options();
        o.recompute = 1;
        const dqt_updater_options uo = updater_options();
        struct made m = {0};
        dqt_updater *u = NULL;
        dqt_llama_memory_info model = {.struct_size = sizeof model};
        dqt_tape_memory_info tape = {.struct_size = sizeof tape};
        OK(ctx, dqt_llama_memory(ctx, &c, &model));
        const size_t base = memory.bytes;
        memory.fail_at = memory.calls + n;
        dqt_status status = dqt_llama_create(ctx, &c, &m.model);
        CHECK(status != DQT_OK || memory.bytes - base == model.total);
        if (status == DQT_OK) {
            const size_t before = memory.bytes;
            OK(ctx, dqt_llama_get_layers(m.model, &m.layers, &m.num_layers));
            status = dqt_tape_create(ctx, m.layers, m.num_layers, &o, &m.tape);
            if (status == DQT_OK) {
                const size_t taken = memory.bytes - before;
                memory.fail_at = SIZE_MAX;
                OK(ctx, dqt_tape_memory(ctx, m.layers, m.num_layers, &o, &tape));
                CHECKF(taken == tape.total, "%s: a tape of %zu bytes, planned %zu", s->name, taken, tape.total);
            }
        }
        const bool done = status == DQT_OK;
        if (done) {
            OK(ctx, dqt_updater_create(ctx, m.layers, m.num_layers, &uo, &u));
            train_step(ctx, &m, s, u, true);
        } else {
            CHECK(status == DQT_E_MEMORY);
            failed++;
        }
        memory.fail_at = SIZE_MAX;
        dqt_updater_destroy(u);
        unmake(&m);
        counting_end(ctx, &memory);
        if (done) break;
    }
    CHECKF(failed > 20, "%zu", failed);
}
static void memory_is_planned(void) {
    each_subject(check_memory);
}

static const struct test tests[] = {TEST(sessions),
                                    TEST(documents),
                                    TEST(ways_of_training),
                                    TEST(checkpoints),
                                    TEST(entries_are_left_out),
                                    TEST(safetensors),
                                    TEST(rotations_are_not_mixed_up),
                                    TEST(memory_is_planned)};
TEST_MAIN(tests)
