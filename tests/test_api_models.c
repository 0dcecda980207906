/* Bad input to functions that create and describe tapes, models and updaters: as test_api.c. */
#include "api_world.h"
#include "calls.h"

/* ---- Tapes --------------------------------------------------------------------------------------------------- */

static void tape_creation(void) {
    struct world w;
    begin(&w);
    dqt_context *other = NULL;
    OK(NULL, dqt_context_create(NULL, &other));
    dqt_tape *out;
    dqt_tape_memory_info m = {.struct_size = sizeof m};
    dqt_layer *foreign = NULL, *tied = NULL, *part = NULL, *plan = NULL;
    OK(other, dqt_linear_create(other, 8, 6, NULL, &foreign));
    OK(w.ctx, dqt_head_create(w.ctx, w.embedding, 8, 10, NULL, &tied));
    OK(w.ctx, dqt_layer_get_sublayer(w.layers[1], 1, &part));
    dqt_layer_options lo = layer_options();
    lo.shape_only = 1;
    OK(w.ctx, dqt_block_create(w.ctx, 8, 12, 2, 1, &lo, &plan));
    NOT_CREATED(NULL, DQT_E_ARGUMENT, "ctx", out, dqt_tape_create(NULL, w.own, 4, NULL, &out));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "out", dqt_tape_create(w.ctx, w.own, 4, NULL, NULL));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers", out, dqt_tape_create(w.ctx, NULL, 4, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "num_layers", out, dqt_tape_create(w.ctx, w.own, 0, NULL, &out));
    dqt_layer *const with_null[] = {w.linear, NULL}, *const with_foreign[] = {w.linear, foreign},
                     *const twice[] = {w.linear, w.norm, w.linear};
    dqt_layer *const untied[] = {tied}, *const late[] = {tied, w.embedding}, *const inside[] = {w.layers[1], part};
    dqt_layer *const inside_first[] = {part, w.norm, w.layers[1]}, *const good[] = {w.embedding, tied},
                     *const planned[] = {w.linear, plan};
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers[1]", out, dqt_tape_create(w.ctx, with_null, 2, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers[1]", out, dqt_tape_create(w.ctx, with_foreign, 2, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers[2]", out, dqt_tape_create(w.ctx, twice, 3, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers[0]", out, dqt_tape_create(w.ctx, untied, 1, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers[0]", out, dqt_tape_create(w.ctx, late, 2, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers[1]", out, dqt_tape_create(w.ctx, inside, 2, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers[2]", out, dqt_tape_create(w.ctx, inside_first, 3, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_STATE, "layers[1]", out, dqt_tape_create(w.ctx, planned, 2, NULL, &out));
    OK(w.ctx, dqt_tape_memory(w.ctx, planned, 2, NULL, &m));
    OK(w.ctx, dqt_tape_create(w.ctx, good, 2, NULL, &out));
    dqt_tape_destroy(out);
    static const struct {
        int field; /* of: precision, no_gradient_buffers, inference, recompute, gradient_format, checkpoint_format */
        int32_t value;
        dqt_status status;
        const char *word;
    } wrong[] = {{0, -1, DQT_E_ARGUMENT, "precision"},         {0, 4, DQT_E_ARGUMENT, "precision"},
                 {1, 3, DQT_E_ARGUMENT, "gradient_buffers"},   {1, -1, DQT_E_ARGUMENT, "gradient_buffers"},
                 {2, 2, DQT_E_ARGUMENT, "inference"},          {2, -1, DQT_E_ARGUMENT, "inference"},
                 {3, 2, DQT_E_ARGUMENT, "recompute"},          {3, -1, DQT_E_ARGUMENT, "recompute"},
                 {4, -1, DQT_E_ARGUMENT, "gradient_format"},   {4, 4, DQT_E_ARGUMENT, "gradient_format"},
                 {5, -1, DQT_E_ARGUMENT, "checkpoint_format"}, {5, 4, DQT_E_ARGUMENT, "checkpoint_format"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        dqt_tape_options o = tape_options();
        int32_t *const fields[] = {&o.precision, &o.no_gradient_buffers, &o.inference,
                                   &o.recompute, &o.gradient_format,     &o.checkpoint_format};
        *fields[wrong[i].field] = wrong[i].value;
        NOT_CREATED(w.ctx, wrong[i].status, wrong[i].word, out, dqt_tape_create(w.ctx, w.own, 4, &o, &out));
        REFUSED(w.ctx, wrong[i].status, wrong[i].word, dqt_tape_memory(w.ctx, w.own, 4, &o, &m));
    }
    static const size_t sizes[][2] = {{SIZE_MAX, 2}, {65536, 65536}, {(size_t)INT32_MAX + 1, 1}, {SIZE_MAX / 2, 4}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        dqt_tape_options o = tape_options();
        o.max_batch = sizes[i][0];
        o.max_length = sizes[i][1];
        NOT_CREATED(w.ctx, DQT_E_SHAPE, "max_batch", out, dqt_tape_create(w.ctx, w.own, 4, &o, &out));
    }
    REFUSED(NULL, DQT_E_ARGUMENT, "ctx", dqt_tape_memory(NULL, w.own, 4, NULL, &m));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "layers", dqt_tape_memory(w.ctx, NULL, 4, NULL, &m));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "dqt_tape_memory_info", dqt_tape_memory(w.ctx, w.own, 4, NULL, NULL));
    dqt_layer_destroy(plan);
    dqt_layer_destroy(tied);
    dqt_layer_destroy(foreign);
    dqt_context_destroy(other);
    end(&w);
}

static void tape_access(void) {
    struct world w;
    begin(&w);
    const uint64_t before = hash_world(&w);
    dqt_parameter p = {.struct_size = sizeof p};
    float *gradient, row[VOCAB * HIDDEN];
    size_t n = 0;
    OK(w.ctx, dqt_tape_get_num_parameters(w.tape, &n));
    CHECK(n == 2 * 11 + 3);
    REFUSED(NULL, DQT_E_ARGUMENT, "tape", dqt_tape_get_num_parameters(NULL, &n));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "count", dqt_tape_get_num_parameters(w.tape, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "tape", dqt_tape_get_parameter(NULL, 0, &p));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "parameter index", dqt_tape_get_parameter(w.tape, n, &p));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "dqt_parameter", dqt_tape_get_parameter(w.tape, 0, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "tape", dqt_tape_gradient_data(NULL, 0, &gradient));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "parameter index", dqt_tape_gradient_data(w.tape, n, &gradient));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "gradient", dqt_tape_gradient_data(w.tape, 0, NULL));
    REFUSED(w.ctx, DQT_E_STATE, "gradient", dqt_tape_gradient_data(w.without, 0, &gradient));
    REFUSED(w.ctx, DQT_E_STATE, "gradient", dqt_tape_gradient_data(w.inference, 0, &gradient));
    REFUSED(w.ctx, DQT_E_UNSUPPORTED, "F32", dqt_tape_gradient_data(w.bf16, 0, &gradient));
    REFUSED(NULL, DQT_E_ARGUMENT, "tape", dqt_tape_get_gradient(NULL, 0, 0, 1, row));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "parameter index", dqt_tape_get_gradient(w.tape, SIZE_MAX, 0, 1, row));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "gradient", dqt_tape_get_gradient(w.tape, 0, 0, 1, NULL));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "rows", dqt_tape_get_gradient(w.tape, 0, VOCAB, 1, row));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "rows", dqt_tape_get_gradient(w.tape, 0, 1, SIZE_MAX, row));
    REFUSED(w.ctx, DQT_E_STATE, "gradient", dqt_tape_get_gradient(w.without, 0, 0, 1, row));
    REFUSED(NULL, DQT_E_ARGUMENT, "tape", dqt_tape_set_gradient(NULL, 0, 0, 1, row));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "gradient", dqt_tape_set_gradient(w.tape, 0, 0, 1, NULL));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "rows", dqt_tape_set_gradient(w.tape, 0, 0, VOCAB + 1, row));
    REFUSED(w.ctx, DQT_E_STATE, "gradient", dqt_tape_set_gradient(w.inference, 0, 0, 1, row));
    REFUSED(NULL, DQT_E_ARGUMENT, "tape", dqt_tape_zero_gradients(NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "tape", dqt_tape_on_gradient(NULL, NULL, NULL));
    OK(w.ctx, dqt_tape_zero_gradients(w.without));
    CHECK(hash_world(&w) == before);
    /* What was written is read back, and another row is untouched. */
    for (int i = 0; i < HIDDEN; i++)
        row[i] = (float)i;
    OK(w.ctx, dqt_tape_set_gradient(w.bf16, 0, 3, 1, row));
    OK(w.ctx, dqt_tape_get_gradient(w.bf16, 0, 2, 3, row + HIDDEN));
    for (int i = 0; i < HIDDEN; i++) {
        CHECK(fabsf(row[2 * HIDDEN + i] - (float)i) <= 0);
        CHECK(fabsf(row[HIDDEN + i]) <= 0 && fabsf(row[3 * HIDDEN + i]) <= 0);
    }
    end(&w);
}

/* ---- Models and updaters ----------------------------------------------------------------------------------------- */

static void llama_creation(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_llama *out;
    dqt_llama_memory_info m = {.struct_size = sizeof m};
    static const struct {
        int field; /* of: num_layers, vocab_size, hidden_size, intermediate_size, num_heads, num_kv_heads */
        size_t value;
        const char *word;
    } sizes[] = {{0, 100001, "num_layers"},
                 {0, SIZE_MAX, "num_layers"},
                 {1, (size_t)INT32_MAX + 1, "vocab_size"},
                 {2, 30, "num_heads"},
                 {2, 4, "even"},
                 {4, 3, "num_"},
                 {5, 8, "num_kv_heads"},
                 {5, 3, "num_kv_heads"},
                 {5, SIZE_MAX, "num_kv_heads"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        dqt_llama_config c = small_config();
        size_t *const fields[] = {&c.num_layers,        &c.vocab_size, &c.hidden_size,
                                  &c.intermediate_size, &c.num_heads,  &c.num_kv_heads};
        *fields[sizes[i].field] = sizes[i].value;
        NOT_CREATED(ctx, DQT_E_SHAPE, sizes[i].word, out, dqt_llama_create(ctx, &c, &out));
        REFUSED(ctx, DQT_E_SHAPE, sizes[i].word, dqt_llama_memory(ctx, &c, &m));
    }
    static const struct {
        int field; /* of: mlp, no_sub_norms, tie_embeddings, activation, head_activation, shape_only, linear, embedding,
                      head */
        int32_t value;
        const char *word;
    } integers[] = {{0, 3, "mlp"},        {0, -1, "mlp"},        {1, 2, "sub_norms"},  {2, 2, "tie_embeddings"},
                    {3, 3, "activation"}, {3, -1, "activation"}, {4, 3, "activation"}, {4, -1, "activation"},
                    {5, 2, "shape_only"}, {5, -1, "shape_only"}, {6, 10, "storage"},   {7, -1, "storage"},
                    {8, -1, "storage"}};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        dqt_llama_config c = small_config();
        int32_t *const fields[] = {
            &c.mlp,        &c.no_sub_norms,   &c.tie_embeddings,    &c.activation,  &c.head_activation,
            &c.shape_only, &c.linear.storage, &c.embedding.storage, &c.head.storage};
        *fields[integers[i].field] = integers[i].value;
        NOT_CREATED(ctx, DQT_E_ARGUMENT, integers[i].word, out, dqt_llama_create(ctx, &c, &out));
    }
    static const float numbers[] = {NAN, INFINITY, -1};
    for (size_t i = 0; i < 3; i++) {
        dqt_llama_config c = small_config();
        c.norm_eps = numbers[i];
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "norm_eps", out, dqt_llama_create(ctx, &c, &out));
        c = small_config();
        c.rope_theta = numbers[i];
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "rope_theta", out, dqt_llama_create(ctx, &c, &out));
        c = small_config();
        c.init_std = numbers[i];
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "init_std", out, dqt_llama_create(ctx, &c, &out));
    }
    /* A tied head is the embedding: other options for it would be ignored. */
    for (int field = 0; field < 5; field++) {
        dqt_llama_config c = small_config();
        c.tie_embeddings = 1;
        if (field == 0) c.head.storage = DQT_FORMAT_F32;
        if (field == 1) c.head.compute = DQT_FORMAT_TERNARY;
        if (field == 2) c.head.scale_rule = DQT_SCALE_ABSMAX;
        if (field == 3) c.head.scale_axis = DQT_AXIS_ROW;
        if (field == 4) c.head.sigma = 3;
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "tie_embeddings", out, dqt_llama_create(ctx, &c, &out));
    }
    dqt_llama_config c = small_config();
    c.tie_embeddings = 1;
    c.head.compute = c.head.storage;
    c.head.scale_rule = DQT_SCALE_SIGMA; /* as AUTO for the embedding's INT8 */
    OK(ctx, dqt_llama_create(ctx, &c, &out));
    dqt_llama_destroy(out);
    c = small_config();
    c.linear.storage = DQT_FORMAT_INT8;
    c.intermediate_size = 131072;
    c.shape_only = 1;
    NOT_CREATED(ctx, DQT_E_SHAPE, "blocks.0.mlp.down", out, dqt_llama_create(ctx, &c, &out));
    NOT_CREATED(NULL, DQT_E_ARGUMENT, "ctx", out, dqt_llama_create(NULL, NULL, &out));
    REFUSED(ctx, DQT_E_ARGUMENT, "out", dqt_llama_create(ctx, NULL, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "ctx", dqt_llama_memory(NULL, NULL, &m));
    REFUSED(ctx, DQT_E_ARGUMENT, "dqt_llama_memory_info", dqt_llama_memory(ctx, NULL, NULL));
    counting_end(ctx, &memory);
}

/* A shape-only model plans memory and refuses all work. */
static void shape_only_model(void) {
    struct world w;
    begin(&w);
    dqt_llama_config c = small_config();
    c.shape_only = 1;
    dqt_llama *plan = NULL;
    dqt_layer *const *layers = NULL;
    size_t n = 0;
    OK(w.ctx, dqt_llama_create(w.ctx, &c, &plan));
    OK(w.ctx, dqt_llama_get_layers(plan, &layers, &n));
    dqt_tape *tape;
    dqt_updater *updater;
    dqt_session *session;
    dqt_parameter p = {.struct_size = sizeof p};
    dqt_tensor_info info = {.struct_size = sizeof info};
    dqt_tensor_stats stats = {.struct_size = sizeof stats};
    dqt_tensor *converted;
    float x[HIDDEN] = {0}, loss;
    int8_t codes[HIDDEN];
    void *data;
    size_t bytes;
    NOT_CREATED(w.ctx, DQT_E_STATE, "shape-only", tape, dqt_tape_create(w.ctx, layers, n, NULL, &tape));
    NOT_CREATED(w.ctx, DQT_E_STATE, "shape-only", updater, dqt_updater_create(w.ctx, layers, n, NULL, &updater));
    NOT_CREATED(w.ctx, DQT_E_STATE, "shape-only", session, dqt_session_create(plan, session_of(8), &session));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_llama_forward(plan, w.tape, batch_tokens(w.tokens, 1, 1), NULL));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only",
            dqt_llama_loss(plan, w.tape, batch_pairs(w.tokens, w.targets, 1, 1), &loss, NULL));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_llama_backward(plan, w.tape, 1));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only",
            dqt_llama_forward_blocks(plan, w.tape, batch_pairs(w.tokens, w.targets, 1, 1), x, &loss, NULL));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_llama_backward_blocks(plan, w.tape, 1, x));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_llama_backward_update(plan, w.tape, w.fused, step_rate(1e-3f), NULL));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_llama_save(plan, NULL, "/nowhere/at/all", NULL));
    OK(w.ctx, dqt_layer_get_parameter(layers[1], 1, &p));
    OK(w.ctx, dqt_tensor_get_info(p.tensor, &info));
    CHECK(info.rows == HIDDEN && info.data_bytes > 0);
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_tensor_quantize(p.tensor, x, DQT_ROUND_NEAREST, 0));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_tensor_dequantize(p.tensor, 0, 1, x));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_tensor_get_codes(p.tensor, 0, 1, codes));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_tensor_set_codes(p.tensor, 0, 1, codes));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_tensor_get_scales(p.tensor, x));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_tensor_set_scales(p.tensor, x));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_tensor_data(p.tensor, &data, &bytes));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_tensor_touch(p.tensor));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_tensor_get_stats(p.tensor, &stats));
    NOT_CREATED(w.ctx, DQT_E_STATE, "shape-only", converted,
                dqt_tensor_convert(p.tensor, DQT_ROUND_NEAREST, 0, NULL, &converted));
    dqt_llama_destroy(plan);
    end(&w);
}

static void updater_creation(void) {
    struct world w;
    begin(&w);
    dqt_context *other = NULL;
    OK(NULL, dqt_context_create(NULL, &other));
    dqt_layer *foreign = NULL;
    OK(other, dqt_linear_create(other, 8, 6, NULL, &foreign));
    dqt_updater *out;
    dqt_updater_memory_info m = {.struct_size = sizeof m};
    dqt_layer *const with_null[] = {w.linear, NULL}, *const with_foreign[] = {w.linear, foreign};
    NOT_CREATED(NULL, DQT_E_ARGUMENT, "ctx", out, dqt_updater_create(NULL, w.own, 4, NULL, &out));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "out", dqt_updater_create(w.ctx, w.own, 4, NULL, NULL));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers", out, dqt_updater_create(w.ctx, NULL, 4, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "num_layers", out, dqt_updater_create(w.ctx, w.own, 0, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers[1]", out, dqt_updater_create(w.ctx, with_null, 2, NULL, &out));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "layers[1]", out, dqt_updater_create(w.ctx, with_foreign, 2, NULL, &out));
    REFUSED(NULL, DQT_E_ARGUMENT, "ctx", dqt_updater_memory(NULL, w.own, 4, NULL, &m));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "memory", dqt_updater_memory(w.ctx, w.own, 4, NULL, NULL));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "layers", dqt_updater_memory(w.ctx, NULL, 4, NULL, &m));
    static const struct {
        int field; /* of: optimizer, rounding, momentum_state, variance_state, clip, lagged, rate_corrected */
        int32_t value;
        const char *word;
    } integers[] = {{0, 5, "optimizer"},
                    {0, -1, "optimizer"},
                    {1, -1, "rounding"},
                    {1, 6, "rounding"},
                    {2, -1, "momentum_state"},
                    {2, 3, "momentum_state"},
                    {3, -1, "variance_state"},
                    {3, 3, "variance_state"},
                    {4, -1, "clip"},
                    {4, 5, "clip"},
                    {5, -1, "lagged"},
                    {5, 2, "lagged"},
                    {6, -1, "rate_corrected"},
                    {6, 2, "rate_corrected"},
                    {6, INT32_MIN, "rate_corrected"}};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        dqt_updater_options o = updater_options();
        int32_t *const fields[] = {&o.optimizer, &o.rounding, &o.momentum_state, &o.variance_state,
                                   &o.clip,      &o.lagged,   &o.rate_corrected};
        *fields[integers[i].field] = integers[i].value;
        NOT_CREATED(w.ctx, DQT_E_ARGUMENT, integers[i].word, out, dqt_updater_create(w.ctx, w.own, 4, &o, &out));
        REFUSED(w.ctx, DQT_E_ARGUMENT, integers[i].word, dqt_updater_memory(w.ctx, w.own, 4, &o, &m));
    }
    static const struct {
        int field; /* of: beta1, beta2, eps, weight_decay, clip_norm, update_clip, scale_lr */
        float value;
        const char *word;
    } floats[] = {{0, 1, "beta1"},          {0, NAN, "beta1"},       {1, 1, "beta2"},
                  {1, -0.1f, "beta2"},      {1, NAN, "beta2"},       {2, -1, "eps"},
                  {2, NAN, "eps"},          {3, -1, "weight_decay"}, {3, INFINITY, "weight_decay"},
                  {4, -1, "clip_norm"},     {4, NAN, "clip_norm"},   {5, NAN, "update_clip"},
                  {6, INFINITY, "scale_lr"}};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        dqt_updater_options o = updater_options();
        float *const fields[] = {&o.beta1,     &o.beta2,       &o.eps,     &o.weight_decay,
                                 &o.clip_norm, &o.update_clip, &o.scale_lr};
        *fields[floats[i].field] = floats[i].value;
        NOT_CREATED(w.ctx, DQT_E_ARGUMENT, floats[i].word, out, dqt_updater_create(w.ctx, w.own, 4, &o, &out));
    }
    /* ECO feeds rounding errors back through a first moment: without one only float weights are possible. */
    for (int32_t rounding = DQT_ROUND_ECO_STOCHASTIC; rounding <= DQT_ROUND_ECO_NEAREST; rounding++) {
        dqt_updater_options o = updater_options();
        o.rounding = rounding;
        o.beta1 = -1;
        NOT_CREATED(w.ctx, DQT_E_UNSUPPORTED, "ECO", out, dqt_updater_create(w.ctx, w.own, 4, &o, &out));
        OK(w.ctx, dqt_updater_create(w.ctx, &w.norm, 1, &o, &out));
        dqt_updater_destroy(out);
    }
    dqt_layer_destroy(foreign);
    dqt_context_destroy(other);
    end(&w);
}

static void updater_groups(void) {
    struct world w;
    begin(&w);
    dqt_group_options g;
    dqt_updater_options u = updater_options();
    size_t matched = 99;
    CHECK(dqt_group_options_init(&g, sizeof g) == DQT_OK);
    REFUSED(NULL, DQT_E_ARGUMENT, "updater", dqt_updater_add_group(NULL, &g, &matched));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "options", dqt_updater_add_group(w.updater, NULL, &matched));
    static const int32_t classes[] = {-1, 8, INT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        g.parameter_class = classes[i];
        REFUSED(w.ctx, DQT_E_ARGUMENT, "parameter_class", dqt_updater_add_group(w.updater, &g, &matched));
    }
    g.parameter_class = 0;
    g.rounding = 6;
    REFUSED(w.ctx, DQT_E_ARGUMENT, "rounding", dqt_updater_add_group(w.updater, &g, &matched));
    g.rounding = -1;
    REFUSED(w.ctx, DQT_E_ARGUMENT, "rounding", dqt_updater_add_group(w.updater, &g, &matched));
    g.rounding = 0;
    g.lr_factor = NAN;
    REFUSED(w.ctx, DQT_E_NUMERIC, "lr_factor", dqt_updater_add_group(w.updater, &g, &matched));
    g.lr_factor = -1;
    REFUSED(w.ctx, DQT_E_ARGUMENT, "lr_factor", dqt_updater_add_group(w.updater, &g, &matched));
    g.lr_factor = 0;
    g.weight_decay = INFINITY;
    REFUSED(w.ctx, DQT_E_NUMERIC, "weight_decay", dqt_updater_add_group(w.updater, &g, &matched));
    g.weight_decay = 0;
    g.freeze = 2;
    REFUSED(w.ctx, DQT_E_ARGUMENT, "freeze", dqt_updater_add_group(w.updater, &g, &matched));
    g.freeze = 0;
    g.optimizer = DQT_OPTIMIZER_SGD;
    REFUSED(w.ctx, DQT_E_UNSUPPORTED, "optimizer", dqt_updater_add_group(w.updater, &g, &matched));
    g.optimizer = 0;
    CHECK(matched == 99);
    static const struct {
        int32_t parameter_class;
        const char *pattern;
        size_t expected;
    } patterns[] = {{0, NULL, 25},
                    {0, "*", 25},
                    {0, "embedding", 1},
                    {0, "blocks.?.attention.*", 10},
                    {0, "*.q", 2},
                    {0, "blocks.0.*", 11},
                    {DQT_CLASS_NORM, NULL, 9},
                    {DQT_CLASS_MLP, "*down", 2},
                    {0, "nothing", 0},
                    {0, "", 0},
                    {DQT_CLASS_HEAD, "*", 1},
                    {DQT_CLASS_LINEAR, NULL, 0},
                    {0, "*o*m*", 15}};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        g.parameter_class = patterns[i].parameter_class;
        g.pattern = patterns[i].pattern;
        OK(w.ctx, dqt_updater_add_group(w.updater, &g, &matched));
        CHECKF(matched == patterns[i].expected, "%s: %zu", patterns[i].pattern ? patterns[i].pattern : "NULL", matched);
    }
    OK(w.ctx, dqt_updater_add_group(w.updater, &g, NULL));
    dqt_updater *without = NULL;
    u.beta1 = -1;
    OK(w.ctx, dqt_updater_create(w.ctx, w.layers, w.num_layers, &u, &without));
    CHECK(dqt_group_options_init(&g, sizeof g) == DQT_OK);
    g.rounding = DQT_ROUND_ECO_STOCHASTIC;
    REFUSED(w.ctx, DQT_E_UNSUPPORTED, "ECO", dqt_updater_add_group(without, &g, &matched));
    dqt_updater_destroy(without);
    end(&w);
}

static const struct test tests[] = {
    TEST(tape_creation),    TEST(tape_access),      TEST(llama_creation),
    TEST(shape_only_model), TEST(updater_creation), TEST(updater_groups),
};
TEST_MAIN(tests)
