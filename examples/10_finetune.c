/* Example 10, fine-tune: a trained model goes on learning as low-bit integers, on tokens of your own.
 *
 * Introduces: dqt_llama_open with formats, the recipe for trained weights (dqt_preset_get), and the way back: a folder
 * of Hugging Face. docs/finetune.md is a tutorial.
 *
 *   10_finetune --model model.gguf --tokens train.bin --valid valid.bin --format int4 --steps 100 --out tuned
 *
 * writes tuned/model.dqt (to go on from with --resume), log.csv, losses.svg, and model.safetensors with its
 * config.json. Optimiser, rounding and states are the recipe's unless options name others: error feedback, factored
 * second moment, 8-bit momentum. The update happens inside backward, without gradient buffers, unless --accumulate asks
 * for several passes. Ctrl-C saves. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "foreign.h"
#include "job.h"

/* Takes over what the recipe for this format says; for formats that have none, that for 4 bits. */
static dqt_status set_recipe(int format, struct run_options *o, dqt_preset *preset) {
    dqt_preset_options p;
    dqt_updater_options u;
    dqt_status status = dqt_preset_options_init(&p, sizeof p);
    if (status == DQT_OK) status = dqt_updater_options_init(&u, sizeof u);
    if (status != DQT_OK) return status;
    p.purpose = DQT_PRESET_FINETUNE;
    p.format = format;
    status = dqt_preset_get(&p, NULL, &u, preset);
    if (status == DQT_E_UNSUPPORTED) {
        p.format = DQT_FORMAT_INT4;
        status = dqt_preset_get(&p, NULL, &u, preset);
    }
    o->optimizer = u.optimizer ? u.optimizer : DQT_OPTIMIZER_ADAMW;
    o->rounding = u.rounding;
    o->momentum_state = u.momentum_state;
    o->variance_state = u.variance_state;
    if (u.beta1 != 0) o->beta1 = u.beta1;
    if (u.beta2 != 0) o->beta2 = u.beta2;
    o->weight_decay = u.weight_decay;
    o->final_lr = preset->final_fraction;
    return status;
}

/* The model: from the folder's checkpoint, or opened. */
static dqt_status open_run(struct job *j, dqt_context *ctx, const struct tokens *data, struct run_options *o,
                           const struct foreign_options *from, int resume, const dqt_preset *preset) {
    dqt_llama *model;
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_status status = DQT_OK;
    if (resume) {
        status = run_open(&j->run, ctx, data, o, j->path[JOB_MODEL]);
        if (status == DQT_OK) status = dqt_llama_get_config(j->run.model, &c);
    } else {
        status = foreign_open(ctx, from, &model);
        if (status == DQT_OK) status = run_open_model(&j->run, ctx, data, o, model);
        if (status == DQT_OK) status = dqt_llama_get_config(j->run.model, &c);
    }
    /* The recipe's rate is for small models of a hidden size of 256. What was trained for long wants a quarter of it,
     * and less the wider it is: SmolLM2-135M learns at 1e-4 and is thrown back at 4e-4. */
    if (status == DQT_OK && o->lr == 0) j->run.options.lr = preset->learning_rate * 64 / (float)c.hidden_size;
    if (status == DQT_OK) printf("learning rate %.3g, recipe %s\n", (double)j->run.options.lr, preset->name);
    return status;
}

static bool finetune(struct job *j, const struct tokens *data, struct run_options *o,
                     const struct foreign_options *from, int resume, int threads, const dqt_preset *preset) {
    if (!job_prepare(j, resume)) return false;
    dqt_context *ctx = job_context(threads);
    if (!ctx) return false;
    const dqt_status status = open_run(j, ctx, data, o, from, resume, preset);
    bool good = status == DQT_OK ? job_train(j) : job_failed(ctx, status);
    if (good && j->run.step == o->steps) {
        good = foreign_export(ctx, j->run.model, from->path, j->out);
        if (good) printf("exported: %s/model.safetensors\n", j->out);
    }
    job_close(j);
    dqt_context_destroy(ctx);
    return good;
}

int main(int argc, char **argv) {
    struct foreign_options model = {.format = DQT_FORMAT_INT4};
    struct token_source source = {.bytes = 2, .document_token = -1};
    struct run_options o = run_defaults();
    struct job j = {.out = "tuned"};
    struct tokens data;
    dqt_preset preset = DQT_INIT(dqt_preset);
    int threads = 0, resume = 0;
    struct arg table[FOREIGN_ARGS + TOKEN_ARGS + RUN_ARGS + 3] = {
        {"--out", ARG_TEXT, &j.out, "folder for checkpoint, CSV, plot and export", NULL},
        {"--threads", ARG_INT, &threads, "threads (0: as OpenMP says)", NULL},
        {"--resume", ARG_FLAG, &resume, "go on from the folder's checkpoint, with the same options", NULL},
    };
    size_t count = 3;
    count += foreign_args(&model, table + count);
    count += token_args(&source, table + count);
    count += run_training_args(&o, table + count);
    /* Once for the format, whose recipe gives the defaults of the rest; then again for all. */
    int stop = args_parse(argc, argv, table, count, "Fine-tunes a model as low-bit integers.");
    if (stop) return stop - 1;
    o = run_defaults();
    const dqt_status status = set_recipe(model.format, &o, &preset);
    if (status != DQT_OK) return !job_failed(NULL, status);
    o.lr = 0;
    o.batch = 1;
    o.length = 512;
    o.steps = 100;
    o.warmup = SIZE_MAX;
    o.eval_every = 0;
    o.eval_windows = 16;
    stop = args_parse(argc, argv, table, count, "");
    if (o.warmup == SIZE_MAX) o.warmup = o.steps / 10;
    o.fused = o.accumulate == 1;
    if (!model.path || !source.train || o.batch == 0 || o.length == 0 || o.steps == 0 || o.accumulate == 0 ||
        o.eval_windows == 0) {
        fprintf(stderr,
                "--model and --tokens are needed; --batch, --seq, --steps, --accumulate and --eval-windows are at "
                "least 1\n");
        return 2;
    }
    const char *problem = tokens_open(&data, &source, o.length);
    if (problem) {
        fprintf(stderr, "%s: %s\n", source.train, problem);
        return 1;
    }
    model.length = o.length;
    const bool good = finetune(&j, &data, &o, &model, resume, threads, &preset);
    tokens_close(&data);
    return !good;
}
