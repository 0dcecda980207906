/* Bad input to functions that create and describe: NULLs, values out of range, wrong shapes. Each refusal has the
 * documented status and a sentence that names what is wrong, creates nothing and changes nothing. */
#include "api_world.h"
#include "calls.h"
#include "formats.h"

/* ---- Tensors ------------------------------------------------------------------------------------------------- */

static void tensor_creation(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_tensor *t = NULL, *out;
    dqt_tensor_options o;
    NOT_CREATED(ctx, DQT_E_SHAPE, "0 x 4", out, dqt_tensor_create(ctx, 0, 4, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "4 x 0", out, dqt_tensor_create(ctx, 4, 0, NULL, &out));
    NOT_CREATED(NULL, DQT_E_ARGUMENT, "ctx", out, dqt_tensor_create(NULL, 4, 4, NULL, &out));
    REFUSED(ctx, DQT_E_ARGUMENT, "out", dqt_tensor_create(ctx, 4, 4, NULL, NULL));
    const size_t WIDE = (size_t)1 << 5 * sizeof WIDE; /* times itself: too much for any size_t */
    const size_t huge[][2] = {{SIZE_MAX, 1}, {1, SIZE_MAX},      {SIZE_MAX / 2, 8},
                              {WIDE, WIDE},  {1, SIZE_MAX - 62}, {SIZE_MAX, SIZE_MAX}};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++)
        EACH_FORMAT(format) {
            CHECK(dqt_tensor_options_init(&o, sizeof o) == DQT_OK);
            o.storage = format;
            NOT_CREATED(ctx, DQT_E_SHAPE, "too large", out, dqt_tensor_create(ctx, huge[i][0], huge[i][1], &o, &out));
        }
    static const struct {
        int32_t field, value; /* of: storage, compute, scale_rule, scale_axis, train_scale */
        dqt_status status;
        const char *word;
    } wrong[] = {
        {0, -1, DQT_E_ARGUMENT, "storage"},       {0, 10, DQT_E_ARGUMENT, "storage"},
        {1, -1, DQT_E_ARGUMENT, "compute"},       {1, 10, DQT_E_ARGUMENT, "compute"},
        {1, 3, DQT_E_UNSUPPORTED, "compute"},     {1, 1, DQT_E_UNSUPPORTED, "compute"},
        {2, -1, DQT_E_ARGUMENT, "scale_rule"},    {2, 4, DQT_E_ARGUMENT, "scale_rule"},
        {3, -1, DQT_E_ARGUMENT, "scale_axis"},    {3, 2, DQT_E_ARGUMENT, "scale_axis"},
        {4, -1, DQT_E_ARGUMENT, "train_scale"},   {4, 2, DQT_E_ARGUMENT, "train_scale"},
        {4, 1, DQT_E_UNSUPPORTED, "train_scale"}, {0, INT32_MAX, DQT_E_ARGUMENT, "storage"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(dqt_tensor_options_init(&o, sizeof o) == DQT_OK);
        int32_t *const fields[] = {&o.storage, &o.compute, &o.scale_rule, &o.scale_axis, &o.train_scale};
        *fields[wrong[i].field] = wrong[i].value;
        NOT_CREATED(ctx, wrong[i].status, wrong[i].word, out, dqt_tensor_create(ctx, 4, 4, &o, &out));
    }
    static const float sigmas[] = {-1, NAN, INFINITY};
    for (size_t i = 0; i < 3; i++) {
        CHECK(dqt_tensor_options_init(&o, sizeof o) == DQT_OK);
        o.sigma = sigmas[i];
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "sigma", out, dqt_tensor_create(ctx, 4, 4, &o, &out));
    }
    CHECK(dqt_tensor_options_init(&o, sizeof o) == DQT_OK);
    o.reserved64[3] = 1;
    NOT_CREATED(ctx, DQT_E_ARGUMENT, "reserved64[3]", out, dqt_tensor_create(ctx, 4, 4, &o, &out));
    CHECK(dqt_tensor_options_init(&o, sizeof o) == DQT_OK);
    o.storage = DQT_FORMAT_F32;
    o.scale_axis = DQT_AXIS_ROW;
    o.train_scale = 1;
    NOT_CREATED(ctx, DQT_E_UNSUPPORTED, "train_scale", out, dqt_tensor_create(ctx, 4, 4, &o, &out));

    OK(ctx, dqt_tensor_create(ctx, 4, 4, NULL, &t));
    o.train_scale = 0;
    o.storage = 99;
    NOT_CREATED(ctx, DQT_E_ARGUMENT, "storage", out, dqt_tensor_convert(t, DQT_ROUND_NEAREST, 1, &o, &out));
    NOT_CREATED(ctx, DQT_E_ARGUMENT, "rounding", out, dqt_tensor_convert(t, DQT_ROUND_ECO_NEAREST, 1, NULL, &out));
    REFUSED(ctx, DQT_E_ARGUMENT, "out", dqt_tensor_convert(t, DQT_ROUND_NEAREST, 1, NULL, NULL));
    NOT_CREATED(NULL, DQT_E_ARGUMENT, "tensor", out, dqt_tensor_convert(NULL, DQT_ROUND_NEAREST, 1, NULL, &out));
    dqt_tensor_destroy(t);
    counting_end(ctx, &memory);
}

static void tensor_access(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_tensor *t = NULL;
    OK(ctx, dqt_tensor_create(ctx, 2, 3, NULL, &t));
    dqt_tensor_info info = {.struct_size = sizeof info};
    dqt_tensor_stats stats = {.struct_size = sizeof stats};
    float values[6] = {0};
    int8_t codes[6] = {0};
    void *data;
    size_t bytes;
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_get_info(NULL, &info));
    REFUSED(ctx, DQT_E_ARGUMENT, "dqt_tensor_info", dqt_tensor_get_info(t, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_quantize(NULL, values, DQT_ROUND_NEAREST, 0));
    REFUSED(ctx, DQT_E_ARGUMENT, "weights", dqt_tensor_quantize(t, NULL, DQT_ROUND_NEAREST, 0));
    REFUSED(ctx, DQT_E_ARGUMENT, "rounding", dqt_tensor_quantize(t, values, 3, 0));
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_dequantize(NULL, 0, 1, values));
    REFUSED(ctx, DQT_E_ARGUMENT, "out", dqt_tensor_dequantize(t, 0, 1, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "rows", dqt_tensor_dequantize(t, 1, 2, values));
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_get_codes(NULL, 0, 1, codes));
    REFUSED(ctx, DQT_E_ARGUMENT, "codes", dqt_tensor_get_codes(t, 0, 1, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "rows", dqt_tensor_get_codes(t, 3, 0, codes));
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_set_codes(NULL, 0, 1, codes));
    REFUSED(ctx, DQT_E_ARGUMENT, "codes", dqt_tensor_set_codes(t, 0, 1, NULL));
    REFUSED(ctx, DQT_E_ARGUMENT, "rows", dqt_tensor_set_codes(t, 0, 3, codes));
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_get_scales(NULL, values));
    REFUSED(ctx, DQT_E_ARGUMENT, "scales", dqt_tensor_get_scales(t, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_set_scales(NULL, values));
    REFUSED(ctx, DQT_E_ARGUMENT, "scales", dqt_tensor_set_scales(t, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_data(NULL, &data, &bytes));
    REFUSED(ctx, DQT_E_ARGUMENT, "data", dqt_tensor_data(t, NULL, &bytes));
    REFUSED(ctx, DQT_E_ARGUMENT, "bytes", dqt_tensor_data(t, &data, NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_touch(NULL));
    REFUSED(NULL, DQT_E_ARGUMENT, "tensor", dqt_tensor_get_stats(NULL, &stats));
    REFUSED(ctx, DQT_E_ARGUMENT, "dqt_tensor_stats", dqt_tensor_get_stats(t, NULL));
    dqt_tensor_destroy(t);
    counting_end(ctx, &memory);
}

/* ---- Layers -------------------------------------------------------------------------------------------------- */

enum { EMBEDDING, LINEAR, RMSNORM, ATTENTION, MLP, BLOCK, HEAD, KINDS };

static dqt_status create_layer(int kind, dqt_context *ctx, const dqt_layer_options *o, dqt_layer **out) {
    switch (kind) {
    case EMBEDDING: return dqt_embedding_create(ctx, 10, 8, o, out);
    case LINEAR: return dqt_linear_create(ctx, 8, 6, o, out);
    case RMSNORM: return dqt_rmsnorm_create(ctx, 8, o, out);
    case ATTENTION: return dqt_attention_create(ctx, 8, 2, 1, o, out);
    case MLP: return dqt_mlp_create(ctx, 8, 12, o, out);
    case BLOCK: return dqt_block_create(ctx, 8, 12, 2, 1, o, out);
    default: return dqt_head_create(ctx, NULL, 8, 10, o, out);
    }
}

static void layer_options_are_checked(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    dqt_layer *out;
    for (int kind = 0; kind < KINDS; kind++) {
        NOT_CREATED(NULL, DQT_E_ARGUMENT, "ctx", out, create_layer(kind, NULL, NULL, &out));
        REFUSED(ctx, DQT_E_ARGUMENT, "out", create_layer(kind, ctx, NULL, NULL));
        static const struct {
            int field; /* of: activation, mlp, sub_norm, shape_only */
            int32_t value;
            const char *word;
        } integers[] = {{0, 3, "activation"}, {0, -1, "activation"}, {1, 2, "mlp"},        {1, -1, "mlp"},
                        {2, 2, "sub_norm"},   {2, -1, "sub_norm"},   {3, 2, "shape_only"}, {3, -1, "shape_only"}};
        for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
            dqt_layer_options o = layer_options();
            int32_t *const fields[] = {&o.activation, &o.mlp, &o.sub_norm, &o.shape_only};
            *fields[integers[i].field] = integers[i].value;
            NOT_CREATED(ctx, DQT_E_ARGUMENT, integers[i].word, out, create_layer(kind, ctx, &o, &out));
        }
        static const struct {
            int field; /* of: init_std, norm_eps, rope_theta */
            float value;
            const char *word;
        } floats[] = {{0, NAN, "init_std"},  {0, INFINITY, "init_std"},   {1, -1, "norm_eps"},   {1, NAN, "norm_eps"},
                      {2, -1, "rope_theta"}, {2, INFINITY, "rope_theta"}, {2, NAN, "rope_theta"}};
        for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
            dqt_layer_options o = layer_options();
            float *const fields[] = {&o.init_std, &o.norm_eps, &o.rope_theta};
            *fields[floats[i].field] = floats[i].value;
            NOT_CREATED(ctx, DQT_E_ARGUMENT, floats[i].word, out, create_layer(kind, ctx, &o, &out));
        }
        if (kind == RMSNORM) continue; /* gains are F32, whatever the options say */
        dqt_layer_options o = layer_options();
        o.weight.storage = 77;
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "storage", out, create_layer(kind, ctx, &o, &out));
        o.weight.storage = DQT_FORMAT_TERNARY;
        o.weight.compute = DQT_FORMAT_INT8;
        NOT_CREATED(ctx, DQT_E_UNSUPPORTED, "compute", out, create_layer(kind, ctx, &o, &out));
        o.weight.compute = 0;
        o.weight.reserved = -1;
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "reserved", out, create_layer(kind, ctx, &o, &out));
    }
    counting_end(ctx, &memory);
}

/* Names have at most 47 bytes; parts and weights put theirs behind it and stay whole. */
static void layer_names(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    static const char *const last[KINDS] = {"", "", "", ".o", ".down", ".mlp.down", ""};
    for (int kind = 0; kind < KINDS; kind++) {
        dqt_layer *l = NULL;
        dqt_layer_info info = {.struct_size = sizeof info};
        dqt_parameter p = {.struct_size = sizeof p};
        dqt_layer_options o = layer_options();
        char name[64], expected[128];
        memset(name, 'n', 48);
        name[48] = '\0';
        o.name = name;
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "name", l, create_layer(kind, ctx, &o, &l));
        name[47] = '\0';
        OK(ctx, create_layer(kind, ctx, &o, &l));
        OK(ctx, dqt_layer_get_info(l, &info));
        OK(ctx, dqt_layer_get_parameter(l, info.num_parameters - 1, &p));
        snprintf(expected, sizeof expected, "%s%s", name, last[kind]);
        CHECKF(strcmp(p.name, expected) == 0, "%s, not %s", p.name, expected);
        memset(name, 'x', 47); /* the name was copied */
        CHECK(strcmp(p.name, expected) == 0);
        dqt_layer_destroy(l);
    }
    counting_end(ctx, &memory);
}

static void layer_shapes(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory), *other = NULL;
    OK(NULL, dqt_context_create(NULL, &other));
    dqt_layer *out, *embedding = NULL, *linear = NULL, *foreign = NULL;
    OK(ctx, dqt_embedding_create(ctx, 10, 8, NULL, &embedding));
    OK(ctx, dqt_linear_create(ctx, 8, 10, NULL, &linear));
    OK(other, dqt_embedding_create(other, 10, 8, NULL, &foreign));
    NOT_CREATED(ctx, DQT_E_SHAPE, "0 to 8", out, dqt_embedding_create(ctx, 0, 8, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "8 to 0", out, dqt_embedding_create(ctx, 8, 0, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "vocab", out, dqt_embedding_create(ctx, (size_t)INT32_MAX + 1, 8, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "0 to 8", out, dqt_linear_create(ctx, 0, 8, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "8 to 0", out, dqt_linear_create(ctx, 8, 0, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "empty", out, dqt_rmsnorm_create(ctx, 0, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "empty", out, dqt_mlp_create(ctx, 0, 8, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "x 8", out, dqt_mlp_create(ctx, 8, 0, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "empty", out, dqt_head_create(ctx, NULL, 0, 8, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "empty", out, dqt_head_create(ctx, NULL, 8, 0, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "classes", out, dqt_head_create(ctx, NULL, 8, (size_t)INT32_MAX + 1, NULL, &out));
    static const struct {
        size_t hidden, heads, kv_heads;
        const char *word;
    } wrong[] = {{8, 0, 1, "num_heads"},    {8, 3, 1, "num_heads"},    {8, 8, 8, "even"},        {0, 2, 1, "empty"},
                 {8, 4, 0, "num_kv_heads"}, {8, 4, 3, "num_kv_heads"}, {8, 4, 8, "num_kv_heads"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        NOT_CREATED(ctx, DQT_E_SHAPE, wrong[i].word, out,
                    dqt_attention_create(ctx, wrong[i].hidden, wrong[i].heads, wrong[i].kv_heads, NULL, &out));
        NOT_CREATED(ctx, DQT_E_SHAPE, wrong[i].word, out,
                    dqt_block_create(ctx, wrong[i].hidden, 12, wrong[i].heads, wrong[i].kv_heads, NULL, &out));
    }
    NOT_CREATED(ctx, DQT_E_ARGUMENT, "tied", out, dqt_head_create(ctx, linear, 8, 10, NULL, &out));
    NOT_CREATED(ctx, DQT_E_ARGUMENT, "tied", out, dqt_head_create(ctx, foreign, 8, 10, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "embedding", out, dqt_head_create(ctx, embedding, 10, 8, NULL, &out));
    NOT_CREATED(ctx, DQT_E_SHAPE, "embedding", out, dqt_head_create(ctx, embedding, 8, 11, NULL, &out));
    dqt_layer_destroy(foreign);
    dqt_layer_destroy(linear);
    dqt_layer_destroy(embedding);
    dqt_context_destroy(other);
    counting_end(ctx, &memory);
}

/* Sums of int8 x code products must fit an int32: inputs * 128 * max|q| < 2^31, the last safe width and the first
 * unsafe one. Shape-only layers need no memory. */
static void int32_overflow(void) {
    struct counting memory;
    dqt_context *ctx = counting_context(&memory);
    static const struct {
        int32_t storage, compute;
        size_t safe;
    } cases[] = {{DQT_FORMAT_TERNARY, 0, 16777215},
                 {DQT_FORMAT_INT2, 0, 8388607},
                 {DQT_FORMAT_INT3, 0, 4194303},
                 {DQT_FORMAT_INT4, 0, 2097151},
                 {DQT_FORMAT_INT5, 0, 1048575},
                 {DQT_FORMAT_INT6, 0, 524287},
                 {DQT_FORMAT_INT8, 0, 131071},
                 {DQT_FORMAT_INT8, DQT_FORMAT_TERNARY, 16777215},
                 {DQT_FORMAT_F32, DQT_FORMAT_INT4, 2097151}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dqt_layer *l = NULL, *embedding = NULL;
        dqt_layer_options o = layer_options();
        o.shape_only = 1;
        o.weight.storage = cases[i].storage;
        o.weight.compute = cases[i].compute;
        const size_t safe = cases[i].safe, unsafe = safe + 1;
        OK(ctx, dqt_linear_create(ctx, safe, 3, &o, &l));
        dqt_layer_destroy(l);
        NOT_CREATED(ctx, DQT_E_SHAPE, "int32", l, dqt_linear_create(ctx, unsafe, 3, &o, &l));
        OK(ctx, dqt_mlp_create(ctx, 4, safe, &o, &l));
        dqt_layer_destroy(l);
        /* where sizes have 32 bits, a matrix may be too large for them first, which another sentence says */
        const char *down = SIZE_MAX > UINT32_MAX ? "down" : " ", *why = SIZE_MAX > UINT32_MAX ? "int32" : " ";
        NOT_CREATED(ctx, DQT_E_SHAPE, down, l, dqt_mlp_create(ctx, 4, unsafe, &o, &l));
        NOT_CREATED(ctx, DQT_E_SHAPE, why, l, dqt_attention_create(ctx, unsafe, 2, 2, &o, &l));
        NOT_CREATED(ctx, DQT_E_SHAPE, why, l, dqt_block_create(ctx, unsafe, 8, 2, 2, &o, &l));
        o.activation = DQT_ACTIVATION_INT8; /* a head's default is NONE */
        NOT_CREATED(ctx, DQT_E_SHAPE, "int32", l, dqt_head_create(ctx, NULL, unsafe, 3, &o, &l));
        /* An embedding is only looked up; a tied head multiplies by it. */
        OK(ctx, dqt_embedding_create(ctx, 3, unsafe, &o, &embedding));
        dqt_layer_options tied = layer_options();
        tied.activation = DQT_ACTIVATION_INT8;
        NOT_CREATED(ctx, DQT_E_SHAPE, "int32", l, dqt_head_create(ctx, embedding, unsafe, 3, &tied, &l));
        tied.activation = DQT_ACTIVATION_NONE;
        OK(ctx, dqt_head_create(ctx, embedding, unsafe, 3, &tied, &l));
        dqt_layer_destroy(l);
        dqt_layer_destroy(embedding);
        o.activation = DQT_ACTIVATION_NONE;
        OK(ctx, dqt_linear_create(ctx, unsafe, 3, &o, &l));
        dqt_layer_destroy(l);
    }
    counting_end(ctx, &memory);
}

static void layer_description(void) {
    struct world w;
    begin(&w);
    dqt_layer_info info = {.struct_size = sizeof info};
    dqt_parameter p = {.struct_size = sizeof p};
    dqt_layer *part;
    REFUSED(NULL, DQT_E_ARGUMENT, "layer", dqt_layer_get_info(NULL, &info));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "dqt_layer_info", dqt_layer_get_info(w.linear, NULL));
    NOT_CREATED(NULL, DQT_E_ARGUMENT, "layer", part, dqt_layer_get_sublayer(NULL, 0, &part));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "sublayer", dqt_layer_get_sublayer(w.layers[1], 0, NULL));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "sublayer index", part, dqt_layer_get_sublayer(w.layers[1], 4, &part));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "sublayer index", part, dqt_layer_get_sublayer(w.linear, 0, &part));
    NOT_CREATED(w.ctx, DQT_E_ARGUMENT, "sublayer index", part, dqt_layer_get_sublayer(w.layers[1], SIZE_MAX, &part));
    REFUSED(NULL, DQT_E_ARGUMENT, "layer", dqt_layer_get_parameter(NULL, 0, &p));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "dqt_parameter", dqt_layer_get_parameter(w.linear, 0, NULL));
    REFUSED(w.ctx, DQT_E_ARGUMENT, "parameter index", dqt_layer_get_parameter(w.linear, 1, &p));
    static const int32_t kinds[] = {DQT_LAYER_RMSNORM, DQT_LAYER_ATTENTION, DQT_LAYER_RMSNORM, DQT_LAYER_MLP};
    OK(w.ctx, dqt_layer_get_info(w.layers[1], &info));
    CHECK(info.kind == DQT_LAYER_BLOCK && info.num_sublayers == 4 && info.in_features == HIDDEN &&
          info.out_features == HIDDEN);
    CHECK(info.num_parameters == 11); /* 2 norms, q, k, v, o, gate, up, down, 2 sub-norms */
    for (size_t i = 0; i < 4; i++) {
        OK(w.ctx, dqt_layer_get_sublayer(w.layers[1], i, &part));
        OK(w.ctx, dqt_layer_get_info(part, &info));
        CHECK(info.kind == kinds[i] && info.num_sublayers == 0);
    }
    OK(w.ctx, dqt_layer_get_parameter(w.layers[2], 1, &p));
    CHECK(strcmp(p.name, "blocks.1.attention.q") == 0 && p.parameter_class == DQT_CLASS_ATTENTION);
    CHECK(p.rows == HIDDEN && p.cols == HIDDEN && p.tensor);
    end(&w);
}

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
    } wrong[] = {{0, -1, DQT_E_ARGUMENT, "precision"},         {0, 3, DQT_E_ARGUMENT, "precision"},
                 {1, 2, DQT_E_ARGUMENT, "gradient_buffers"},   {1, -1, DQT_E_ARGUMENT, "gradient_buffers"},
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
    } integers[] = {{0, 2, "mlp"},        {0, -1, "mlp"},        {1, 2, "sub_norms"},  {2, 2, "tie_embeddings"},
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
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_llama_forward_blocks(plan, w.tape, 0, 1, batch_shape(1, 1), x));
    REFUSED(w.ctx, DQT_E_STATE, "shape-only", dqt_llama_backward_blocks(plan, w.tape, 0, 1, x));
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
        int field; /* of: optimizer, rounding, momentum_state, variance_state, clip, lagged */
        int32_t value;
        const char *word;
    } integers[] = {
        {0, 4, "optimizer"},       {0, -1, "optimizer"},     {1, -1, "rounding"},       {1, 5, "rounding"},
        {2, -1, "momentum_state"}, {2, 3, "momentum_state"}, {3, -1, "variance_state"}, {3, 3, "variance_state"},
        {4, -1, "clip"},           {4, 5, "clip"},           {5, -1, "lagged"},         {5, 2, "lagged"}};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        dqt_updater_options o = updater_options();
        int32_t *const fields[] = {&o.optimizer, &o.rounding, &o.momentum_state, &o.variance_state, &o.clip, &o.lagged};
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
    static const int32_t classes[] = {-1, 7, INT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        g.parameter_class = classes[i];
        REFUSED(w.ctx, DQT_E_ARGUMENT, "parameter_class", dqt_updater_add_group(w.updater, &g, &matched));
    }
    g.parameter_class = 0;
    g.rounding = 5;
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
    TEST(tensor_creation), TEST(tensor_access),  TEST(layer_options_are_checked), TEST(layer_names),
    TEST(layer_shapes),    TEST(int32_overflow), TEST(layer_description),         TEST(tape_creation),
    TEST(tape_access),     TEST(llama_creation), TEST(shape_only_model),          TEST(updater_creation),
    TEST(updater_groups),
};
TEST_MAIN(tests)
