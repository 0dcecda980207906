/* Example 10, fine-tune: a trained model goes on learning as low-bit integers, on tokens of your own.
 *
 * Introduces: dqt_llama_open with formats, the recipe for trained weights (dqt_preset_get), and the way back: a folder
 * of Hugging Face, or GGUF with the keys of the file that the model came from. docs/finetune.md is a tutorial.
 *
 *   10_finetune --model model.gguf --tokens train.bin --valid valid.bin --format int4 --steps 100 --out tuned
 *
 * writes tuned/model.dqt (to go on from with --resume), log.csv, losses.svg, and model.safetensors with its
 * config.json; --gguf FILE a file for llama.cpp too. Optimiser, rounding and states are the recipe's unless options
 * name others: error feedback, factored second moment, 8-bit momentum. A step sums the gradients of two passes, of one
 * sequence each, in buffers (docs/results.md, "Fine-tuning", says what that brings). For the least memory there is
 * --accumulate 1, or --fused: one pass, the update inside backward, and no gradient buffers. Ctrl-C saves. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "foreign.h"
#include "job.h"
#include "recipe.h"

/* What is usual for a trained model, on a machine of few cores. */
static void prepare(struct run_options *o) {
    o->batch = 1;
    o->accumulate = 2;
    o->length = 512;
    o->steps = 100;
    o->eval_every = 0;
    o->eval_windows = 16;
}

/* The model: from the folder's checkpoint, or opened. The recipe's rate is for its width. */
static dqt_status open_run(struct job *j, dqt_context *ctx, const struct tokens *data, struct run_options *o,
                           const struct foreign_options *from, int resume, struct recipe *recipe) {
    dqt_llama *model;
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_status status = DQT_OK;
    if (resume) {
        status = run_open(&j->run, ctx, data, o, j->path[JOB_MODEL]);
    } else {
        status = foreign_open(ctx, from, &model);
        if (status == DQT_OK) status = run_open_model(&j->run, ctx, data, o, model);
    }
    if (status == DQT_OK) status = dqt_llama_get_config(j->run.model, &c);
    if (status == DQT_OK) status = recipe_find(recipe, from->format, &c, NULL);
    if (status != DQT_OK) return status;
    if (o->lr == 0) j->run.options.lr = recipe->preset.learning_rate;
    printf("learning rate %.3g, recipe %s\n", (double)j->run.options.lr, recipe->preset.name);
    return DQT_OK;
}

/* Into the folder for transformers, and, if there is a name, into a file for llama.cpp. */
static bool give_back(const struct job *j, dqt_context *ctx, const char *source, const char *gguf) {
    if (!foreign_export(ctx, j->run.model, source, j->out)) return false;
    if (gguf && !foreign_export_gguf(ctx, j->run.model, source, gguf)) return false;
    printf("exported: %s/model.safetensors%s%s\n", j->out, gguf ? ", " : "", gguf ? gguf : "");
    return true;
}

static bool finetune(struct job *j, const struct tokens *data, struct run_options *o,
                     const struct foreign_options *from, int resume, int threads, const char *gguf,
                     struct recipe *recipe) {
    if (!job_prepare(j, resume)) return false;
    dqt_context *ctx = job_context(threads);
    if (!ctx) return false;
    const dqt_status status = open_run(j, ctx, data, o, from, resume, recipe);
    bool good = status == DQT_OK ? job_train(j) : job_failed(ctx, status);
    if (good && j->run.step == o->steps && ranks_own() == 0) good = give_back(j, ctx, from->path, gguf);
    job_close(j);
    dqt_context_destroy(ctx);
    return good;
}

int main(int argc, char **argv) {
    ranks_begin(&argc, &argv);
    struct foreign_options model = {.format = DQT_FORMAT_INT4};
    struct token_source source = {.bytes = 2, .document_token = -1};
    struct run_options o = run_defaults();
    struct recipe recipe = {.purpose = DQT_PRESET_FINETUNE};
    struct job j = {.out = "tuned"};
    struct tokens data;
    const char *gguf = NULL;
    int threads = 0, resume = 0;
    struct arg table[FOREIGN_ARGS + TOKEN_ARGS + RUN_ARGS + RANKS_ARGS + 4] = {
        {"--out", ARG_TEXT, &j.out, "folder for checkpoint, CSV, plot and export", NULL},
        {"--gguf", ARG_TEXT, &gguf, "at the end, write this GGUF file too, with the tokenizer of --model's", NULL},
        {"--threads", ARG_INT, &threads, "threads (0: as OpenMP says)", NULL},
        {"--resume", ARG_FLAG, &resume, "go on from the folder's checkpoint, with the same options", NULL},
    };
    size_t count = 4;
    count += foreign_args(&model, table + count);
    count += token_args(&source, table + count);
    count += run_training_args(&o, table + count);
    count += ranks_args(table + count);
    const int stop =
        recipe_parse(&recipe, &o, &model.format, prepare, argc, argv, table, count,
                     "Fine-tunes a model as low-bit integers. By default a step is two passes (--accumulate) "
                     "of one sequence\n(--batch) of 512 tokens (--seq), with gradient buffers; "
                     "--accumulate 1 updates inside backward without them.");
    if (stop) return ranks_end(stop - 1);
    if (o.fused) o.accumulate = 1;
    o.fused = o.accumulate == 1;
    if (!model.path || !source.train || o.batch < ranks_count() || o.length == 0 || o.steps == 0 || o.accumulate == 0 ||
        o.eval_windows == 0) {
        fprintf(stderr,
                "--model and --tokens are needed; --batch, --seq, --steps, --accumulate and --eval-windows are at "
                "least 1\n");
        return ranks_end(2);
    }
    if (gguf && !foreign_is_gguf(model.path)) {
        fprintf(stderr, "--gguf takes the tokenizer of a GGUF file, which %s is not\n", model.path);
        return ranks_end(2);
    }
    const char *problem = tokens_open(&data, &source, o.length);
    if (problem) {
        fprintf(stderr, "%s: %s\n", source.train, problem);
        return ranks_end(1);
    }
    model.length = o.length;
    const bool good = finetune(&j, &data, &o, &model, resume, threads, gguf, &recipe);
    tokens_close(&data);
    return ranks_end(!good);
}
