/* Tensor options by name pattern: models whose formats differ from tensor to tensor, created, trained, saved and
 * exported. */
#define _POSIX_C_SOURCE 200809L
#include "calls.h"
#include "counting_alloc.h"
#include "io/checkpoint.h"
#include "memory_file.h"
#include "test.h"

#include <unistd.h>

enum { LENGTH = 8, MATRIX = 24 * 32 };

static dqt_context *ctx;
static struct counting memory;

static void begin(void) {
    ctx = counting_context(&memory);
}

static void end(void) {
    counting_end(ctx, &memory);
}

static dqt_tensor_options tensor_of(int32_t storage, int32_t axis) {
    return (dqt_tensor_options){.struct_size = sizeof(dqt_tensor_options), .storage = storage, .scale_axis = axis};
}

static dqt_llama_config small(void) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    c.vocab_size = 24;
    c.hidden_size = 16;
    c.intermediate_size = 32;
    c.num_layers = 2;
    c.num_heads = 2;
    c.seed = 7;
    return c;
}

/* What the tests' models have: of two that match a name the later holds, and a storage of 0 is TERNARY. */
static const struct {
    const char *pattern;
    int32_t storage, compute, rule, axis;
} mixes[] = {{"blocks.*", DQT_FORMAT_INT4, DQT_FORMAT_SAME, DQT_SCALE_ABSMAX, DQT_AXIS_ROW},
             {"blocks.*.mlp.down", DQT_FORMAT_INT8, DQT_FORMAT_TERNARY, DQT_SCALE_AUTO, DQT_AXIS_TENSOR},
             {"blocks.1.attention.?", DQT_FORMAT_BF16, DQT_FORMAT_SAME, DQT_SCALE_AUTO, DQT_AXIS_TENSOR},
             {"*.v", 0, DQT_FORMAT_SAME, DQT_SCALE_AUTO, DQT_AXIS_TENSOR},
             {"head", DQT_FORMAT_F32, DQT_FORMAT_SAME, DQT_SCALE_AUTO, DQT_AXIS_TENSOR}};
enum { MIXES = sizeof mixes / sizeof *mixes };

static dqt_llama_config mixed(dqt_tensor_override list[MIXES]) {
    dqt_llama_config c = small();
    for (size_t i = 0; i < MIXES; i++) {
        list[i] = (dqt_tensor_override){mixes[i].pattern, tensor_of(mixes[i].storage, mixes[i].axis)};
        list[i].options.compute = mixes[i].compute;
        list[i].options.scale_rule = mixes[i].rule;
    }
    c.overrides = list;
    c.num_overrides = MIXES;
    return c;
}

/* Which of mixes holds for a matrix; -1: none. */
static int mix_of(const char *name) {
    const size_t n = strlen(name);
    if (strcmp(name, "head") == 0) return 4;
    if (n > 2 && strcmp(name + n - 2, ".v") == 0) return 3;
    if (strncmp(name, "blocks.1.attention.", 19) == 0) return 2;
    if (strstr(name, ".mlp.down")) return 1;
    return strncmp(name, "blocks.", 7) == 0 ? 0 : -1;
}

static dqt_parameter parameter_at(dqt_llama *m, size_t layer, size_t index) {
    dqt_layer *const *layers;
    size_t count;
    dqt_parameter p = DQT_INIT(dqt_parameter);
    OK(ctx, dqt_llama_get_layers(m, &layers, &count));
    OK(ctx, dqt_layer_get_parameter(layers[layer], index, &p));
    return p;
}

/* All weights of a model as floats, one after the other: how many. */
static size_t all_weights(dqt_llama *m, float *out) {
    dqt_layer *const *layers;
    size_t count, n = 0;
    OK(ctx, dqt_llama_get_layers(m, &layers, &count));
    for (size_t i = 0; i < count; i++) {
        dqt_layer_info info = DQT_INIT(dqt_layer_info);
        OK(ctx, dqt_layer_get_info(layers[i], &info));
        for (size_t k = 0; k < info.num_parameters; k++) {
            const dqt_parameter p = parameter_at(m, i, k);
            OK(ctx, dqt_tensor_dequantize(p.tensor, 0, p.rows, out + n));
            n += p.rows * p.cols;
        }
    }
    return n;
}
enum { ALL_WEIGHTS = 2 * 24 * 16 + 16 + 2 * (4 * 16 * 16 + 3 * 16 * 32 + 3 * 16 + 32) };

static void check_same_models(dqt_llama *a, dqt_llama *b) {
    static float x[ALL_WEIGHTS], y[ALL_WEIGHTS];
    CHECK(all_weights(a, x) == ALL_WEIGHTS && all_weights(b, y) == ALL_WEIGHTS);
    CHECK(memcmp(x, y, sizeof x) == 0);
}

/* Each matrix has its formats and the codes that a model of these formats alone has, for they depend on name and seed.
 */
static void each_matrix_has_its_options(void) {
    begin();
    dqt_tensor_override list[MIXES];
    const dqt_llama_config c = mixed(list);
    dqt_llama *m = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    for (size_t layer = 0; layer < 5; layer++) {
        dqt_layer *const *layers;
        size_t count;
        dqt_layer_info info = DQT_INIT(dqt_layer_info);
        OK(ctx, dqt_llama_get_layers(m, &layers, &count));
        OK(ctx, dqt_layer_get_info(layers[layer], &info));
        for (size_t k = 0; k < info.num_parameters; k++) {
            const dqt_parameter p = parameter_at(m, layer, k);
            dqt_tensor_info t = DQT_INIT(dqt_tensor_info), u = t;
            OK(ctx, dqt_tensor_get_info(p.tensor, &t));
            const int mix = mix_of(p.name);
            if (p.parameter_class == DQT_CLASS_NORM) {
                CHECKF(t.storage == DQT_FORMAT_F32, "%s", p.name);
                continue;
            }
            dqt_llama_config alone = small();
            alone.linear = alone.head = mix < 0 ? tensor_of(DQT_FORMAT_INT8, DQT_AXIS_TENSOR) : list[mix].options;
            if (mix == 3) alone.linear.storage = DQT_FORMAT_TERNARY;
            dqt_llama *other = NULL;
            OK(ctx, dqt_llama_create(ctx, &alone, &other));
            const dqt_parameter q = parameter_at(other, layer, k);
            OK(ctx, dqt_tensor_get_info(q.tensor, &u));
            CHECKF(memcmp(&t, &u, sizeof t) == 0, "%s", p.name);
            float a[MATRIX], b[MATRIX];
            OK(ctx, dqt_tensor_dequantize(p.tensor, 0, p.rows, a));
            OK(ctx, dqt_tensor_dequantize(q.tensor, 0, q.rows, b));
            CHECKF(memcmp(a, b, p.rows * p.cols * sizeof *a) == 0, "%s", p.name);
            dqt_llama_destroy(other);
        }
    }
    dqt_llama_destroy(m);
    end();
}

/* What the plan says is what creation takes, and a tape and an updater of the shape alone are those of the model. */
static void memory_is_planned(void) {
    begin();
    dqt_tensor_override list[MIXES];
    dqt_llama_config c = mixed(list);
    dqt_llama_memory_info plan = DQT_INIT(dqt_llama_memory_info), without = plan;
    dqt_updater_memory_info u = DQT_INIT(dqt_updater_memory_info), v = u;
    OK(ctx, dqt_llama_memory(ctx, &c, &plan));
    c.shape_only = 1;
    dqt_llama *shape = NULL, *m = NULL;
    dqt_layer *const *layers;
    size_t count;
    OK(ctx, dqt_llama_create(ctx, &c, &shape));
    OK(ctx, dqt_llama_get_layers(shape, &layers, &count));
    OK(ctx, dqt_updater_memory(ctx, layers, count, NULL, &u));
    dqt_llama_destroy(shape);
    c.shape_only = 0;
    const size_t before = memory.bytes;
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    CHECKF(memory.bytes - before == plan.total, "%zu bytes, planned %zu", memory.bytes - before, plan.total);
    OK(ctx, dqt_llama_get_layers(m, &layers, &count));
    OK(ctx, dqt_updater_memory(ctx, layers, count, NULL, &v));
    CHECK(memcmp(&u, &v, sizeof u) == 0 && u.total > 0);
    c.overrides = NULL;
    c.num_overrides = 0;
    OK(ctx, dqt_llama_memory(ctx, &c, &without));
    CHECK(plan.head_bytes == 24 * 16 * 4 && plan.linear_bytes > without.linear_bytes);
    CHECK(plan.linear_weights == without.linear_weights);
    dqt_llama_destroy(m);
    end();
}

/* The host's list is copied; what comes back is complete and makes the same model. */
static void config_comes_back(void) {
    begin();
    dqt_tensor_override list[MIXES];
    char pattern[80];
    memset(pattern, '?', sizeof pattern);
    memcpy(pattern, "blocks.0.mlp.up*", 16);
    memset(pattern + 16, '*', 63);
    pattern[79] = '\0'; /* 79 bytes: the longest */
    dqt_llama_config c = mixed(list), back = DQT_INIT(dqt_llama_config);
    list[1].pattern = pattern;
    dqt_llama *m = NULL, *again = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    memset(pattern, 0, sizeof pattern);
    memset(list, 0, sizeof list);
    OK(ctx, dqt_llama_get_config(m, &back));
    CHECK(back.num_overrides == MIXES && back.overrides && back.overrides != list);
    for (size_t i = 0; i < MIXES && back.overrides; i++) {
        const dqt_tensor_override *o = &back.overrides[i];
        CHECK(i == 1 ? strlen(o->pattern) == 79 : strcmp(o->pattern, mixes[i].pattern) == 0);
        CHECK(o->options.storage == (mixes[i].storage ? mixes[i].storage : DQT_FORMAT_TERNARY));
        CHECK(o->options.scale_axis == mixes[i].axis && o->options.scale_rule != DQT_SCALE_AUTO);
        CHECK(o->options.sigma >= 4 && o->options.sigma <= 4 && o->options.compute == mixes[i].compute);
    }
    OK(ctx, dqt_llama_create(ctx, &back, &again));
    check_same_models(m, again);
    dqt_llama_destroy(again);
    dqt_llama_destroy(m);
    end();
}

/* ---- Use ----------------------------------------------------------------------------------------------------- */

struct trainer {
    dqt_llama *model;
    dqt_tape *tape;
    dqt_updater *updater;
};

static void trainer_of(struct trainer *t) {
    dqt_layer *const *layers;
    size_t count;
    dqt_updater_options u = DQT_INIT(dqt_updater_options);
    dqt_tape_options o = DQT_INIT(dqt_tape_options);
    o.max_length = LENGTH;
    o.precision = DQT_PRECISION_F32;
    u.clip = DQT_CLIP_NONE;
    OK(ctx, dqt_llama_get_layers(t->model, &layers, &count));
    OK(ctx, dqt_tape_create(ctx, layers, count, &o, &t->tape));
    if (!t->updater) OK(ctx, dqt_updater_create(ctx, layers, count, &u, &t->updater));
}

static void trainer_end(struct trainer *t) {
    dqt_updater_destroy(t->updater);
    dqt_tape_destroy(t->tape);
    dqt_llama_destroy(t->model);
}

static float loss_of(struct trainer *t) {
    int32_t tokens[LENGTH], targets[LENGTH];
    float loss = -1;
    for (int i = 0; i < LENGTH; i++) {
        tokens[i] = (5 * i + 3) % 24;
        targets[i] = (5 * i + 8) % 24;
    }
    OK(ctx, dqt_llama_loss(t->model, t->tape, batch_pairs(tokens, targets, 1, LENGTH), &loss, NULL));
    return loss;
}

static void train(struct trainer *t, int steps) {
    for (int i = 0; i < steps; i++) {
        OK(ctx, dqt_tape_zero_gradients(t->tape));
        loss_of(t);
        OK(ctx, dqt_llama_backward(t->model, t->tape, 1));
        OK(ctx, dqt_updater_step(t->updater, t->tape, step_rate(0.01f), NULL));
    }
}

/* Layers of mixed formats compute what a float model with the same weights computes; training lowers the loss. */
static void mixed_models_learn(void) {
    begin();
    dqt_tensor_override list[MIXES];
    dqt_llama_config c = mixed(list), f32 = small();
    c.activation = f32.activation = DQT_ACTIVATION_NONE;
    f32.linear.storage = f32.embedding.storage = f32.head.storage = DQT_FORMAT_F32;
    struct trainer a = {NULL, NULL, NULL}, b = a;
    OK(ctx, dqt_llama_create(ctx, &c, &a.model));
    OK(ctx, dqt_llama_create(ctx, &f32, &b.model));
    char path[] = "/tmp/dqt-overrides-XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0);
    OK(ctx, dqt_llama_export_safetensors(a.model, path, NULL));
    OK(ctx, dqt_llama_import_safetensors(b.model, path, NULL));
    trainer_of(&a);
    trainer_of(&b);
    const float first = loss_of(&a), expected = loss_of(&b);
    CHECKF(fabsf(first - expected) <= 1e-5f * expected, "%g, not %g", (double)first, (double)expected);
    train(&a, 40);
    CHECKF(loss_of(&a) < first - 0.5f, "%g after %g", (double)loss_of(&a), (double)first);
    trainer_end(&a);
    trainer_end(&b);
    close(file);
    unlink(path);
    end();
}

/* A checkpoint brings the overrides back; the network that goes on has the bits of one that never stopped. */
static void checkpoints_have_them(void) {
    begin();
    dqt_tensor_override list[MIXES];
    const dqt_llama_config c = mixed(list);
    struct trainer a = {NULL, NULL, NULL}, b = a;
    struct memory_file file = memory_new(), again = memory_new();
    dqt_checkpoint loaded = DQT_INIT(dqt_checkpoint);
    OK(ctx, dqt_llama_create(ctx, &c, &a.model));
    trainer_of(&a);
    train(&a, 3);
    OK(ctx, dqt_llama_write(a.model, a.updater, memory_write, &file, NULL));
    OK(ctx, dqt_llama_read(ctx, memory_read, &file, NULL, &loaded));
    b.model = loaded.model;
    b.updater = loaded.updater;
    OK(ctx, dqt_llama_write(b.model, b.updater, memory_write, &again, NULL));
    CHECK(same_bytes(&file, &again));
    dqt_llama_config back = DQT_INIT(dqt_llama_config);
    OK(ctx, dqt_llama_get_config(b.model, &back));
    CHECK(back.num_overrides == MIXES && back.overrides && strcmp(back.overrides[4].pattern, "head") == 0);
    trainer_of(&b);
    train(&a, 3);
    train(&b, 3);
    check_same_models(a.model, b.model);

    /* into a model that is there; and not into one of other formats */
    dqt_layer *const *layers;
    size_t count;
    struct trainer fresh = {NULL, NULL, NULL};
    const dqt_llama_config plain = small();
    dqt_llama *other = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &fresh.model));
    OK(ctx, dqt_llama_get_layers(fresh.model, &layers, &count));
    file.position = 0;
    OK(ctx, dqt_layers_read(layers, count, NULL, memory_read, &file, NULL, NULL));
    trainer_of(&fresh);
    again.size = 0;
    OK(ctx, dqt_llama_write(fresh.model, NULL, memory_write, &again, NULL));
    CHECK(again.size > 1000 && again.size < file.size);
    OK(ctx, dqt_llama_create(ctx, &plain, &other));
    OK(ctx, dqt_llama_get_layers(other, &layers, &count));
    file.position = 0;
    CHECK(dqt_layers_read(layers, count, NULL, memory_read, &file, NULL, NULL) == DQT_E_FORMAT);
    CHECKF(strstr(dqt_last_error(ctx), "blocks.0.attention.q has another"), "%s", dqt_last_error(ctx));
    dqt_llama_destroy(other);
    trainer_end(&fresh);
    trainer_end(&a);
    trainer_end(&b);
    free(file.bytes);
    free(again.bytes);
    end();
}

/* Every allocation of loading fails in turn: nothing is left, and when none fails the model is there. */
static void loading_without_memory(void) {
    begin();
    dqt_tensor_override list[MIXES];
    const dqt_llama_config c = mixed(list);
    dqt_llama *m = NULL;
    struct memory_file file = memory_new();
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    OK(ctx, dqt_llama_write(m, NULL, memory_write, &file, NULL));
    const size_t before = memory.bytes;
    for (size_t fail = 0;; fail++) {
        dqt_checkpoint loaded = DQT_INIT(dqt_checkpoint);
        file.position = 0;
        memory.fail_at = memory.calls + fail;
        const dqt_status status = dqt_llama_read(ctx, memory_read, &file, NULL, &loaded);
        memory.fail_at = SIZE_MAX;
        dqt_llama_destroy(loaded.model);
        CHECK(memory.bytes == before);
        if (status == DQT_OK) {
            CHECK(fail > 40);
            break;
        }
        CHECKF(status == DQT_E_MEMORY && fail < 1000, "%s: %s", dqt_status_string(status), dqt_last_error(ctx));
        if (fail >= 1000) break;
    }
    dqt_llama_destroy(m);
    free(file.bytes);
    end();
}

/* Files of codes say which format each matrix has. */
static void safetensors_have_formats(void) {
    begin();
    dqt_tensor_override list[MIXES];
    dqt_llama_config c = mixed(list);
    dqt_llama *a = NULL, *b = NULL, *other = NULL;
    dqt_safetensors_options o = DQT_INIT(dqt_safetensors_options);
    char path[] = "/tmp/dqt-overrides-XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0);
    OK(ctx, dqt_llama_create(ctx, &c, &a));
    c.seed = 8;
    OK(ctx, dqt_llama_create(ctx, &c, &b));
    list[0].options.storage = DQT_FORMAT_INT3;
    OK(ctx, dqt_llama_create(ctx, &c, &other));
    for (int32_t dtype = DQT_SAFETENSORS_F32; dtype <= DQT_SAFETENSORS_CODES; dtype += DQT_SAFETENSORS_CODES) {
        o.dtype = dtype;
        o.stored = 1;
        OK(ctx, dqt_llama_export_safetensors(a, path, &o));
        OK(ctx, dqt_llama_import_safetensors(b, path, NULL));
        check_same_models(a, b);
        OK(ctx, dqt_tensor_quantize(parameter_at(b, 1, 1).tensor, (float[256]){0}, DQT_ROUND_NEAREST, 0));
    }
    const struct memory_file text = slurp(path);
    const char *header = (const char *)text.bytes;
    CHECK(text.size > 3000 && strstr(header + 8, "\"dqt.linear\":\"ternary\"") &&
          strstr(header + 8, "\"dqt.model.layers.0.mlp.down_proj.weight\":\"int8\"") &&
          !strstr(header + 8, "\"dqt.model.layers.0.self_attn.v_proj.weight\""));
    CHECK(dqt_llama_import_safetensors(other, path, NULL) != DQT_OK);
    free(text.bytes);
    dqt_llama_destroy(a);
    dqt_llama_destroy(b);
    dqt_llama_destroy(other);
    close(file);
    unlink(path);
    end();
}

/* ---- Refusals ------------------------------------------------------------------------------------------------ */

static void refused(const dqt_llama_config *c, dqt_status wanted, const char *sentence) {
    dqt_llama_memory_info plan = DQT_INIT(dqt_llama_memory_info);
    dqt_llama *m = NULL;
    const size_t before = memory.bytes;
    for (int planning = 0; planning < 2; planning++) {
        const dqt_status status = planning ? dqt_llama_memory(ctx, c, &plan) : dqt_llama_create(ctx, c, &m);
        CHECKF(status == wanted && strcmp(dqt_last_error(ctx), sentence) == 0, "%s: %s", dqt_status_string(status),
               dqt_last_error(ctx));
    }
    CHECK(!m && memory.bytes == before);
}

static void bad_overrides(void) {
    begin();
    static const char *const nothing[] = {"", "blocks.2.*", "blocks.0.atention.q", "norm", "*_norm", "blocks.?"};
    dqt_tensor_override list[2] = {{"*", tensor_of(DQT_FORMAT_INT4, 0)}, {"*.q", tensor_of(DQT_FORMAT_INT4, 0)}};
    dqt_llama_config c = small();
    char text[200];
    c.overrides = list;
    refused(&c, DQT_E_ARGUMENT, "overrides is set, but num_overrides is 0");
    c.num_overrides = 2;
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        list[1].pattern = nothing[i];
        snprintf(text, sizeof text, "overrides[1]: \"%s\" is the name of no weight matrix of this model", nothing[i]);
        refused(&c, DQT_E_ARGUMENT, text);
    }
    memset(text, '*', 80);
    text[80] = '\0';
    list[1].pattern = text;
    refused(&c, DQT_E_ARGUMENT, "overrides[1].pattern has 80 bytes; it may have 79");
    list[1].pattern = NULL;
    refused(&c, DQT_E_ARGUMENT, "overrides[1].pattern is NULL");
    list[1].pattern = "*.q";
    list[1].options.storage = 99;
    refused(&c, DQT_E_ARGUMENT, "overrides[1]: storage is 99; it must be a DQT_FORMAT_* value other than SAME");
    list[1].options.storage = DQT_FORMAT_INT4;
    list[1].options.reserved64[3] = 1;
    refused(&c, DQT_E_ARGUMENT, "overrides[1]: reserved64[3] of dqt_tensor_options is not 0");
    list[1].options.reserved64[3] = 0;
    list[1].options.struct_size = 0; /* embedded: not looked at */
    dqt_llama *m = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    dqt_llama_destroy(m);
    c.num_overrides = 4097;
    refused(&c, DQT_E_ARGUMENT, "num_overrides is 4097; it may be 4096");
    c.overrides = NULL;
    refused(&c, DQT_E_ARGUMENT, "overrides is NULL, but num_overrides is 4097");
    end();
}

/* A tied head has the embedding's weight. */
static void tied_heads(void) {
    begin();
    dqt_tensor_override list[2] = {{"head", tensor_of(DQT_FORMAT_INT4, 0)}, {"blocks.*", tensor_of(0, 0)}};
    dqt_llama_config c = small();
    dqt_llama *m = NULL;
    c.tie_embeddings = 1;
    c.overrides = list;
    c.num_overrides = 2;
    static const char sentence[] =
        "tie_embeddings is 1: an override of head must say what holds for embedding, whose weight it is";
    refused(&c, DQT_E_ARGUMENT, sentence);
    list[1] = (dqt_tensor_override){"embedding", tensor_of(DQT_FORMAT_INT3, 0)};
    refused(&c, DQT_E_ARGUMENT, sentence);
    for (int way = 0; way < 3; way++) { /* both alike, both by one pattern, or the embedding alone */
        list[0] = (dqt_tensor_override){way ? "*.q" : "head", tensor_of(DQT_FORMAT_INT4, 0)};
        list[1] = (dqt_tensor_override){way == 1 ? "?????*" : "embedding", tensor_of(DQT_FORMAT_INT4, 0)};
        if (way == 1) list[0].pattern = "head";
        OK(ctx, dqt_llama_create(ctx, &c, &m));
        dqt_tensor_info info = DQT_INIT(dqt_tensor_info);
        OK(ctx, dqt_tensor_get_info(parameter_at(m, 0, 0).tensor, &info));
        CHECK(info.storage == DQT_FORMAT_INT4);
        dqt_llama_destroy(m);
    }
    end();
}

/* A checkpoint with an intact checksum and overrides that creation refuses. */
static void hostile_checkpoints(void) {
    begin();
    dqt_tensor_override list[MIXES];
    const dqt_llama_config c = mixed(list);
    dqt_llama *m = NULL;
    OK(ctx, dqt_llama_create(ctx, &c, &m));
    static dqt_tensor_override many[MAX_OVERRIDES + 1];
    for (size_t i = 0; i < sizeof many / sizeof *many; i++)
        many[i] = (dqt_tensor_override){"*.nothing", m->config.overrides[0].options};
    const dqt_tensor_override *const own = m->config.overrides;
    const struct {
        size_t count;
        const char *sentence;
    } bad[] = {{1, "checkpoint: config: overrides[0]: \"*.nothing\" is the name of no weight matrix of this model"},
               {MAX_OVERRIDES + 1, "checkpoint: it has more than 4096 overrides"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct memory_file file = memory_new();
        dqt_checkpoint loaded = DQT_INIT(dqt_checkpoint);
        m->config.overrides = many;
        m->config.num_overrides = bad[i].count;
        OK(ctx, dqt_llama_write(m, NULL, memory_write, &file, NULL));
        CHECK(dqt_llama_read(ctx, memory_read, &file, NULL, &loaded) == DQT_E_FORMAT && !loaded.model);
        CHECKF(strcmp(dqt_last_error(ctx), bad[i].sentence) == 0, "%s", dqt_last_error(ctx));
        free(file.bytes);
    }
    m->config.overrides = own;
    m->config.num_overrides = MIXES;
    dqt_llama_destroy(m);
    end();
}

static const struct test tests[] = {
    TEST(each_matrix_has_its_options), TEST(memory_is_planned),     TEST(config_comes_back),
    TEST(mixed_models_learn),          TEST(checkpoints_have_them), TEST(loading_without_memory),
    TEST(safetensors_have_formats),    TEST(bad_overrides),         TEST(tied_heads),
    TEST(hostile_checkpoints),
};
TEST_MAIN(tests)
