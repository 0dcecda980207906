/* Bad input to functions that create and describe tensors and layers: NULLs, values out of range, wrong shapes. Each
 * refusal has the documented status and a sentence that names what is wrong, creates nothing and changes nothing. */
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
        int32_t field, value; /* of: storage, compute, scale_rule, scale_axis, train_scale, group_size */
        dqt_status status;
        const char *word;
    } wrong[] = {
        {0, -1, DQT_E_ARGUMENT, "storage"},       {0, 10, DQT_E_ARGUMENT, "storage"},
        {1, -1, DQT_E_ARGUMENT, "compute"},       {1, 10, DQT_E_ARGUMENT, "compute"},
        {1, 3, DQT_E_UNSUPPORTED, "compute"},     {1, 1, DQT_E_UNSUPPORTED, "compute"},
        {2, -1, DQT_E_ARGUMENT, "scale_rule"},    {2, 5, DQT_E_ARGUMENT, "scale_rule"},
        {3, -1, DQT_E_ARGUMENT, "scale_axis"},    {3, 3, DQT_E_ARGUMENT, "scale_axis"},
        {4, -1, DQT_E_ARGUMENT, "train_scale"},   {4, 2, DQT_E_ARGUMENT, "train_scale"},
        {4, 1, DQT_E_UNSUPPORTED, "train_scale"}, {0, INT32_MAX, DQT_E_ARGUMENT, "storage"},
        {5, 32, DQT_E_ARGUMENT, "group_size"},    {3, 2, DQT_E_SHAPE, "groups of 32"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(dqt_tensor_options_init(&o, sizeof o) == DQT_OK);
        int32_t *const fields[] = {&o.storage, &o.compute, &o.scale_rule, &o.scale_axis, &o.train_scale, &o.group_size};
        *fields[wrong[i].field] = wrong[i].value;
        NOT_CREATED(ctx, wrong[i].status, wrong[i].word, out, dqt_tensor_create(ctx, 4, 4, &o, &out));
    }
    static const int32_t groups[] = {-32, 1, 16, 48, 512};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        CHECK(dqt_tensor_options_init(&o, sizeof o) == DQT_OK);
        o.scale_axis = DQT_AXIS_GROUP;
        o.group_size = groups[i];
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "group_size", out, dqt_tensor_create(ctx, 4, 512, &o, &out));
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

/* Scaled frequencies: each way reads its own numbers, and the others are 0. */
static void check_rope_options(dqt_context *ctx, int kind) {
    static const struct {
        int32_t scaling;
        float factor, low, high;
        size_t context;
        const char *word; /* NULL: accepted */
    } rows[] = {
        {DQT_ROPE_NONE, 2, 0, 0, 0, "rope_factor"},
        {DQT_ROPE_NONE, NAN, 0, 0, 0, "rope_factor"},
        {DQT_ROPE_NONE, 0, 1, 0, 0, "rope_low_freq_factor"},
        {DQT_ROPE_NONE, 0, 0, 0, 8, "rope_original_context"},
        {DQT_ROPE_LINEAR, 1, 0, 0, 0, NULL},
        {DQT_ROPE_LINEAR, 0, 0, 0, 0, "rope_factor"},
        {DQT_ROPE_LINEAR, 0.5f, 0, 0, 0, "rope_factor"},
        {DQT_ROPE_LINEAR, INFINITY, 0, 0, 0, "rope_factor"},
        {DQT_ROPE_LINEAR, 2, 0, 4, 0, "rope_high_freq_factor"},
        {DQT_ROPE_LINEAR, 2, NAN, 0, 0, "rope_low_freq_factor"},
        {DQT_ROPE_LINEAR, 2, 0, 0, 1, "rope_original_context"},
        {DQT_ROPE_LLAMA3, 8, 1, 4, 8192, NULL},
        {DQT_ROPE_LLAMA3, NAN, 1, 4, 8192, "rope_factor"},
        {DQT_ROPE_LLAMA3, 8, 0, 4, 8192, "rope_low_freq_factor"},
        {DQT_ROPE_LLAMA3, 8, 4, 4, 8192, "rope_high_freq_factor"},
        {DQT_ROPE_LLAMA3, 8, 1, INFINITY, 8192, "rope_high_freq_factor"},
        {DQT_ROPE_LLAMA3, 8, 1, 4, 0, "rope_original_context"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        dqt_layer *out;
        dqt_layer_options o = layer_options();
        o.rope_scaling = rows[i].scaling;
        o.rope_factor = rows[i].factor;
        o.rope_low_freq_factor = rows[i].low;
        o.rope_high_freq_factor = rows[i].high;
        o.rope_original_context = rows[i].context;
        if (rows[i].word) {
            NOT_CREATED(ctx, DQT_E_ARGUMENT, rows[i].word, out, create_layer(kind, ctx, &o, &out));
        } else {
            OK(ctx, create_layer(kind, ctx, &o, &out));
            dqt_layer_destroy(out);
        }
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
            int field; /* of: activation, mlp, sub_norm, shape_only, attention_bias, qk_norm, rope_scaling */
            int32_t value;
            const char *word;
        } integers[] = {
            {0, 3, "activation"},     {0, -1, "activation"},     {1, 3, "mlp"},        {1, -1, "mlp"},
            {2, 2, "sub_norm"},       {2, -1, "sub_norm"},       {3, 2, "shape_only"}, {3, -1, "shape_only"},
            {4, 2, "attention_bias"}, {4, -1, "attention_bias"}, {5, 2, "qk_norm"},    {5, -1, "qk_norm"},
            {6, 3, "rope_scaling"},   {6, -1, "rope_scaling"}};
        for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
            dqt_layer_options o = layer_options();
            int32_t *const fields[] = {&o.activation,     &o.mlp,     &o.sub_norm,    &o.shape_only,
                                       &o.attention_bias, &o.qk_norm, &o.rope_scaling};
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
        check_rope_options(ctx, kind);
        if (kind == RMSNORM) continue; /* gains are F32, whatever the options say */
        dqt_layer_options o = layer_options();
        o.weight.storage = 77;
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "storage", out, create_layer(kind, ctx, &o, &out));
        o.weight.storage = DQT_FORMAT_TERNARY;
        o.weight.compute = DQT_FORMAT_INT8;
        NOT_CREATED(ctx, DQT_E_UNSUPPORTED, "compute", out, create_layer(kind, ctx, &o, &out));
        o.weight.compute = 0;
        o.weight.group_size = -1;
        NOT_CREATED(ctx, DQT_E_ARGUMENT, "group_size", out, create_layer(kind, ctx, &o, &out));
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
    static const struct {
        size_t heads, head_dim;
        const char *word;
    } heads[] = {{2, 3, "even"}, {0, 4, "num_heads"}, {2, SIZE_MAX - 1, "too large"}, {1, SIZE_MAX - 1, "too large"}};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        dqt_layer_options o = layer_options();
        o.head_dim = heads[i].head_dim;
        NOT_CREATED(ctx, DQT_E_SHAPE, heads[i].word, out,
                    dqt_attention_create(ctx, 7, heads[i].heads, heads[i].heads, &o, &out));
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

static const struct test tests[] = {
    TEST(tensor_creation), TEST(tensor_access),  TEST(layer_options_are_checked), TEST(layer_names),
    TEST(layer_shapes),    TEST(int32_overflow), TEST(layer_description),
};
TEST_MAIN(tests)
