/* Presets: the recipes of docs/results.md, as rows of one table. */
#include "api/check.h"

/* Groups: one row of rules for each class of the blocks' weights. */
enum { CLASSES = 2 };
#define LINEAR_GROUPS(...)                                                                                             \
    {                                                                                                                  \
        {.struct_size = sizeof(dqt_group_options), .parameter_class = DQT_CLASS_ATTENTION, __VA_ARGS__},               \
            {.struct_size = sizeof(dqt_group_options), .parameter_class = DQT_CLASS_MLP, __VA_ARGS__},                 \
    }

struct recipe {
    dqt_preset preset;
    int32_t purpose;       /* DQT_PRESET_* */
    int32_t format;        /* storage of the blocks' weights */
    float linear_init_std; /* 0: as all weights */
    int32_t scale_rule, scale_axis, train_scale;
    dqt_updater_options updater; /* what differs from the defaults; groups are below */
    dqt_group_options groups[CLASSES];
};

#define PRESET(row, peak, warmup, bytes)                                                                               \
    {                                                                                                                  \
        .struct_size = sizeof(dqt_preset), .learning_rate = (peak), .warmup_fraction = (warmup),                       \
        .bytes_per_weight = (bytes), .name = (row)                                                                     \
    }

/* All from docs/results.md, "16 M tokens": hidden 256, 4 layers, 2,000 steps of 8,192 bytes with 100 of warm-up, cosine
 * to 0. Of one format the best comes first. Names are those of examples/results.list. */
static const struct recipe recipes[] = {
    {.preset = PRESET("ternary-acc", 12e-3f, 0.05f, 1.33f),
     .format = DQT_FORMAT_TERNARY,
     .linear_init_std = 0.04f,
     .scale_axis = DQT_AXIS_ROW,
     .train_scale = 1,
     .updater = {.optimizer = DQT_OPTIMIZER_ADAFACTOR, .momentum_state = DQT_STATE_INT8, .scale_lr = 9},
     .groups = LINEAR_GROUPS(.lr_factor = 0.33333f, .weight_decay = 0.75f, .beta1 = 0.6f, .rounding_noise = 0.3f,
                             .rounding = DQT_ROUND_ACCUMULATE)},
    {.preset = PRESET("dqt2-eco", 3e-3f, 0.05f, 8.26f), .format = DQT_FORMAT_INT2},
    {.preset = PRESET("dqt3-best", 4e-3f, 0.05f, 1.44f),
     .format = DQT_FORMAT_INT3,
     .linear_init_std = 0.08f,
     .updater = {.optimizer = DQT_OPTIMIZER_ADAFACTOR, .momentum_state = DQT_STATE_INT8},
     .groups = LINEAR_GROUPS(.weight_decay = 0.5f)},
    {.preset = PRESET("dqt4-best", 4e-3f, 0.05f, 1.57f),
     .format = DQT_FORMAT_INT4,
     .linear_init_std = 0.08f,
     .updater = {.optimizer = DQT_OPTIMIZER_ADAFACTOR, .momentum_state = DQT_STATE_INT8},
     .groups = LINEAR_GROUPS(.weight_decay = 0.3f)},
    {.preset = PRESET("dqt8-sigma", 1e-3f, 0.05f, 9.01f),
     .format = DQT_FORMAT_INT8,
     .scale_rule = DQT_SCALE_SIGMA,
     .updater = {.rounding = DQT_ROUND_STOCHASTIC, .beta1 = 0.9f}},
    {.preset = PRESET("dqt8-one-byte", 3e-3f, 0.05f, 1.03f),
     .format = DQT_FORMAT_INT8,
     .linear_init_std = 0.04f,
     .scale_rule = DQT_SCALE_SIGMA,
     .updater = {.optimizer = DQT_OPTIMIZER_ADAFACTOR, .rounding = DQT_ROUND_STOCHASTIC, .beta1 = -1},
     .groups = LINEAR_GROUPS(.lr_factor = 0.33333f, .weight_decay = 0.3f)},
    {.preset = PRESET("f32-tuned", 6e-3f, 0.05f, 12.01f),
     .format = DQT_FORMAT_F32,
     .linear_init_std = 0.04f,
     .groups = LINEAR_GROUPS(.lr_factor = 0.33333f)},

    /* For trained weights, docs/results.md, "Fine-tuning": what they start from is kept by scales that cut nothing off;
     * the updater is that of the best 4-bit recipe. 9e-4 is for a hidden size of 128 and becomes 2e-4 for the 576 of
     * SmolLM2-135M (recipe_rate): of half to twice as much the best there, for 4 and 8 bits. */
    {.preset = PRESET("finetune-int4", 9e-4f, 0.1f, 1.55f),
     .purpose = DQT_PRESET_FINETUNE,
     .format = DQT_FORMAT_INT4,
     .scale_rule = DQT_SCALE_ABSMAX,
     .scale_axis = DQT_AXIS_ROW,
     .updater = {.optimizer = DQT_OPTIMIZER_ADAFACTOR, .momentum_state = DQT_STATE_INT8}},
    {.preset = PRESET("finetune-int8", 9e-4f, 0.1f, 2.05f),
     .purpose = DQT_PRESET_FINETUNE,
     .format = DQT_FORMAT_INT8,
     .scale_rule = DQT_SCALE_ABSMAX,
     .scale_axis = DQT_AXIS_ROW,
     .updater = {.optimizer = DQT_OPTIMIZER_ADAFACTOR, .momentum_state = DQT_STATE_INT8}},
};

static const dqt_preset_options preset_defaults = {.struct_size = sizeof(dqt_preset_options)};

dqt_status dqt_preset_options_init(dqt_preset_options *options, size_t struct_size) {
    return options_init(options, struct_size, &preset_defaults, sizeof preset_defaults, "dqt_preset_options");
}

/* What the recipes' runs had beside their row: float embedding and head, and float activations with float weights. A
 * trained model's embedding and head, often one and large, are 8-bit codes. */
static void set_config(const struct recipe *r, dqt_llama_config *c) {
    dqt_tensor_options linear = tensor_defaults, wide = tensor_defaults;
    linear.storage = r->format;
    linear.scale_rule = r->scale_rule;
    linear.scale_axis = r->scale_axis;
    linear.train_scale = r->train_scale;
    wide.storage = DQT_FORMAT_F32;
    if (r->purpose == DQT_PRESET_FINETUNE) {
        wide = linear;
        wide.storage = DQT_FORMAT_INT8;
    }
    c->linear = linear;
    c->embedding = c->head = wide;
    c->activation = r->format == DQT_FORMAT_F32 ? DQT_ACTIVATION_NONE : DQT_ACTIVATION_INT8;
    c->linear_init_std = r->linear_init_std;
}

/* Weights bear a smaller rate the wider the model is: it falls as 1 / hidden_size, as the rate of Adam's hidden weights
 * does in muP (arXiv 2203.03466). From random weights it does so above the width of the recipes' runs, and stays below:
 * docs/results.md, "The rate at other widths". */
static float recipe_rate(const struct recipe *r, size_t hidden_size) {
    enum { TRAINED_WIDTH = 128 /* which 0 stands for in a config */, PRETRAIN_WIDTH = 256 };
    const bool trained = r->purpose == DQT_PRESET_FINETUNE;
    const size_t width = trained ? TRAINED_WIDTH : PRETRAIN_WIDTH;
    if (hidden_size == 0 || (!trained && hidden_size <= width)) return r->preset.learning_rate;
    return r->preset.learning_rate * (float)width / (float)hidden_size;
}

static void set_updater(const struct recipe *r, dqt_updater_options *u) {
    *u = r->updater;
    u->struct_size = sizeof *u;
    u->seed = 1;
    if (r->groups[0].struct_size) {
        u->groups = r->groups;
        u->num_groups = CLASSES;
    }
}

dqt_status dqt_preset_get(const dqt_preset_options *options, dqt_llama_config *config, dqt_updater_options *updater,
                          dqt_preset *preset) {
    dqt_preset_options o = preset_defaults;
    dqt_llama_config c = {.struct_size = sizeof c};
    dqt_updater_options u;
    TRY(options_read(NULL, &o, sizeof o, options, "dqt_preset_options"));
    DEFAULT_TO(o.format, o.purpose == DQT_PRESET_FINETUNE ? DQT_FORMAT_INT4 : DQT_FORMAT_TERNARY);
    if (o.purpose != DQT_PRESET_PRETRAIN && o.purpose != DQT_PRESET_FINETUNE)
        return fail(NULL, DQT_E_ARGUMENT, "purpose is %d; it must be a DQT_PRESET_* value", o.purpose);
    if (!(o.bytes_per_weight >= 0))
        return fail(NULL, DQT_E_ARGUMENT, "bytes_per_weight is %g; it must not be negative",
                    (double)o.bytes_per_weight);
    const struct recipe *found = NULL;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes && !found; i++)
        if (recipes[i].purpose == o.purpose && recipes[i].format == o.format &&
            (o.bytes_per_weight == 0 || recipes[i].preset.bytes_per_weight <= o.bytes_per_weight))
            found = &recipes[i];
    if (!found)
        return fail(NULL, DQT_E_UNSUPPORTED, "no recipe for format %d fits %g bytes a weight", o.format,
                    (double)o.bytes_per_weight);
    if (config) {
        TRY(options_read(NULL, &c, sizeof c, config, "dqt_llama_config"));
        set_config(found, &c);
    }
    dqt_preset p = found->preset;
    p.learning_rate = recipe_rate(found, c.hidden_size);
    set_updater(found, &u);
    if (updater) TRY(options_check_result(NULL, updater, sizeof u, "dqt_updater_options"));
    TRY(options_return(NULL, preset, &p, sizeof p, "dqt_preset"));
    if (config) TRY(options_return(NULL, config, &c, sizeof c, "dqt_llama_config"));
    return updater ? options_return(NULL, updater, &u, sizeof u, "dqt_updater_options") : DQT_OK;
}
