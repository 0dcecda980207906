/* Example 3, train: a low-bit LLaMA on any text, byte by byte, or on tokens.
 *
 * Introduces: dqt_llama, the training loop that the host owns (data, schedule, logging, evaluation), accumulation,
 * fused updates, checkpoints, resuming, leaving cleanly on Ctrl-C. See --help; support/job.c
 * has the loop, support/run.c its steps.
 *
 *   03_train --data text.txt --out run --format ternary
 *
 * writes run/log.csv, run/losses.svg and run/model.dqt. What no option says is as the recipe for the format has it
 * (dqt_preset_get): rates, optimiser, rounding, scales, initial weights; --recipe none: plain defaults. With --tokens
 * train.bin,valid.bin it trains on tokens as nanoGPT and llm.c write them (12_tokenize makes such files). */
#include <stdio.h>

#include "job.h"
#include "recipe.h"

int main(int argc, char **argv) {
    ranks_begin(&argc, &argv);
    struct run_options o = run_defaults();
    struct token_source source = {.bytes = 2, .document_token = -1};
    const char *text = NULL;
    struct job j = {.out = "run"};
    struct recipe recipe = {.purpose = DQT_PRESET_PRETRAIN};
    struct tokens data;
    int threads = 0, resume = 0;
    struct arg table[RUN_ARGS + TOKEN_ARGS + RECIPE_ARGS + RANKS_ARGS + 4] = {
        {"--data", ARG_TEXT, &text, "text to train on (any file; its bytes are the tokens)", NULL},
        {"--out", ARG_TEXT, &j.out, "folder for checkpoint, CSV and plot", NULL},
        {"--threads", ARG_INT, &threads, "threads (0: as OpenMP says)", NULL},
        {"--resume", ARG_FLAG, &resume, "go on from the folder's checkpoint, with the same options", NULL},
    };
    size_t count = 4;
    count += token_args(&source, table + count);
    count += run_model_args(&o, table + count);
    count += run_training_args(&o, table + count);
    count += recipe_args(&recipe, table + count);
    count += ranks_args(table + count);
    const int stop = recipe_parse(&recipe, &o, &o.format, NULL, argc, argv, table, count,
                                  "Trains a low-bit LLaMA on a text or on tokens.");
    if (stop) return ranks_end(stop - 1);
    if (!text == !source.train) {
        fprintf(stderr, "--data or --tokens is needed, not both\n");
        return ranks_end(2);
    }
    if (text) {
        source.train = text;
        source.bytes = 1;
    }
    if (o.batch < ranks_count() || (o.fused && o.accumulate > 1)) {
        fprintf(stderr, o.batch < ranks_count()
                            ? "--batch is at least 1, and at least the number of ranks\n"
                            : "--fused updates inside each backward pass: leave --accumulate out\n");
        return ranks_end(2);
    }
    if (o.length == 0 || o.steps == 0 || o.accumulate == 0 || o.eval_windows == 0 ||
        (text && o.vocab && o.vocab < 256)) {
        fprintf(stderr, "--seq, --steps, --accumulate, --eval-windows are at least 1, --vocab of a text at least "
                        "256\n");
        return ranks_end(2);
    }
    const char *problem = tokens_open(&data, &source, o.length);
    if (problem) {
        fprintf(stderr, "%s: %s\n", source.train, problem);
        return ranks_end(1);
    }
    enum { LARGEST_VOCABULARY = 1 << 20 }; /* what is larger is a file that was read in the wrong width */
    if (source.bytes != 1 && !resume && !o.vocab && (o.vocab = tokens_vocabulary(&data)) > LARGEST_VOCABULARY) {
        fprintf(stderr, "%s: the largest token is %zu: see --token-bytes, or say --vocab\n", source.train, o.vocab - 1);
        tokens_close(&data);
        return ranks_end(1);
    }
    if (!recipe.none && !resume) printf("recipe %s, learning rate %.3g\n", recipe.preset.name, (double)o.lr);
    dqt_context *ctx = job_prepare(&j, resume) ? job_context(threads) : NULL;
    bool done = ctx != NULL;
    if (done) {
        const dqt_status status = run_open(&j.run, ctx, &data, &o, resume ? j.path[JOB_MODEL] : NULL);
        done = status == DQT_OK ? job_train(&j) : job_failed(ctx, status);
    }
    job_close(&j);
    dqt_context_destroy(ctx);
    tokens_close(&data);
    return ranks_end(!done);
}
