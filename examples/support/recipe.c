#include "recipe.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

size_t recipe_args(struct recipe *r, struct arg *table) {
    const struct arg all[RECIPE_ARGS] = {
        {"--recipe", ARG_CHOICE, &r->none, "what is not said otherwise: as docs/results.md found best, or plain",
         "best=0 none=1"},
        {"--state-bytes", ARG_FLOAT, &r->bytes, "most bytes of codes and state of a linear weight (0: any)", NULL},
    };
    memcpy(table, all, sizeof all);
    return RECIPE_ARGS;
}

dqt_status recipe_find(struct recipe *r, int format, dqt_llama_config *c, dqt_updater_options *u) {
    dqt_preset_options p = {.struct_size = sizeof p, .purpose = r->purpose, .format = format};
    p.bytes_per_weight = r->bytes;
    r->preset.struct_size = sizeof r->preset;
    dqt_status status = dqt_preset_get(&p, c, u, &r->preset);
    if (status != DQT_E_UNSUPPORTED || r->bytes > 0) return status;
    const int is_float = format == DQT_FORMAT_BF16 && r->purpose == DQT_PRESET_PRETRAIN;
    p.format = is_float ? DQT_FORMAT_F32 : DQT_FORMAT_INT4;
    return dqt_preset_get(&p, c, u, &r->preset);
}

static void take_config(const dqt_llama_config *c, struct run_options *o) {
    o->scale_rule = c->linear.scale_rule;
    if (c->linear.sigma > 0) o->sigma = c->linear.sigma;
    o->row_scales = c->linear.scale_axis == DQT_AXIS_ROW;
    o->train_scales = c->linear.train_scale;
    o->embedding_format = c->embedding.storage;
    o->head_format = c->head.storage;
    o->linear_init_std = c->linear_init_std;
}

void recipe_take_updater(const dqt_updater_options *u, struct run_options *o) {
    if (u->optimizer) o->optimizer = u->optimizer;
    o->rounding = u->rounding;
    o->momentum_state = u->momentum_state;
    o->variance_state = u->variance_state;
    if (u->beta1 != 0) o->beta1 = fmaxf(u->beta1, 0); /* here 0 says: no first moment */
    if (u->beta2 != 0) o->beta2 = u->beta2;
    if (u->scale_lr != 0) o->scale_lr = u->scale_lr;
    o->weight_decay = u->weight_decay;
    o->rate_corrected = u->rate_corrected;
    if (!u->num_groups) return;
    const dqt_group_options *g = u->groups; /* one for each class of the blocks' weights, all alike */
    if (g->lr_factor > 0) o->linear_lr = g->lr_factor;
    if (g->weight_decay > 0) o->weight_decay = g->weight_decay;
    if (g->beta1 > 0) o->linear_beta1 = g->beta1;
    if (g->rounding_noise > 0) o->noise = g->rounding_noise;
    if (g->rounding) o->rounding = g->rounding;
}

int recipe_parse(struct recipe *r, struct run_options *o, const int *format, void (*prepare)(struct run_options *o),
                 int argc, char **argv, const struct arg *table, size_t count, const char *about) {
    const int stop = args_parse(argc, argv, table, count, about);
    if (stop) return stop;
    const int wanted = *format;
    const size_t hidden = o->hidden;
    *o = run_defaults();
    if (prepare) prepare(o);
    if (!r->none) {
        dqt_llama_config c;
        dqt_updater_options u;
        dqt_status status = dqt_llama_config_init(&c, sizeof c);
        c.hidden_size = hidden;
        if (status == DQT_OK) status = dqt_updater_options_init(&u, sizeof u);
        if (status == DQT_OK) status = recipe_find(r, wanted, &c, &u);
        if (status != DQT_OK) {
            fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(NULL));
            return 3;
        }
        if (r->purpose == DQT_PRESET_PRETRAIN) take_config(&c, o);
        recipe_take_updater(&u, o);
        o->lr = r->purpose == DQT_PRESET_PRETRAIN ? r->preset.learning_rate : 0; /* else that of the model's width */
        o->final_lr = r->preset.final_fraction;
        o->warmup = SIZE_MAX;
    }
    args_parse(argc, argv, table, count, about);
    if (o->warmup == SIZE_MAX) o->warmup = (size_t)((double)r->preset.warmup_fraction * (double)o->steps);
    return 0;
}
