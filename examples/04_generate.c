/* Example 4, generate: text from a checkpoint, byte by byte.
 *
 * Introduces: dqt_llama_load, dqt_session (KV cache), dqt_sampler.
 *
 *   04_generate --model run/model.dqt --prompt "The " --tokens 200 --temperature 0.8
 *
 * Prompt and text together should be no longer than the sequences of the training (03_train --seq): positions beyond
 * them are new to the model, and the text falls apart there.
 *
 * --compute ternary reads weights of any width as ternary ("ternary inference"; docs/results.md has what it costs). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "dqt.h"
#include "read_as.h"

static dqt_context *ctx;

static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

static void generate(dqt_session *session, dqt_sampler *sampler, const char *prompt, size_t count, float *logits) {
    const size_t n = strlen(prompt);
    int32_t *tokens = malloc((n ? n : 1) * sizeof *tokens);
    if (!tokens) exit(1);
    for (size_t i = 0; i < n; i++)
        tokens[i] = (unsigned char)prompt[i];
    ok(dqt_session_append(session, tokens, n, logits));
    free(tokens);
    fputs(prompt, stdout);
    for (size_t i = 0; i < count; i++) {
        int32_t token;
        ok(dqt_sampler_sample(sampler, logits, &token));
        putchar(token < 256 ? token : '?');
        fflush(stdout);
        if (i + 1 < count) ok(dqt_session_append(session, &token, 1, logits));
    }
    putchar('\n');
}

int main(int argc, char **argv) {
    const char *path = "run/model.dqt", *prompt = "The ";
    size_t count = 200;
    int seed = 1, compute = DQT_FORMAT_SAME;
    dqt_sampler_options s;
    ok(dqt_sampler_options_init(&s, sizeof s));
    s.temperature = 0.8f;
    s.top_p = 0.95f;
    const struct arg table[] = {
        {"--model", ARG_TEXT, &path, "checkpoint of a byte-level model", NULL},
        {"--prompt", ARG_TEXT, &prompt, "text to go on from (not empty)", NULL},
        {"--tokens", ARG_SIZE, &count, "bytes to generate", NULL},
        {"--temperature", ARG_FLOAT, &s.temperature, "0: always the likeliest byte", NULL},
        {"--top-k", ARG_SIZE, &s.top_k, "only the k likeliest bytes (0: all)", NULL},
        {"--top-p", ARG_FLOAT, &s.top_p, "only the likeliest bytes of this total probability", NULL},
        {"--seed", ARG_INT, &seed, "of the sampler", NULL},
        {"--compute", ARG_CHOICE, &compute, "read the weights in this format (same: as trained)",
         "same=0 " FORMAT_CHOICES},
    };
    const int stop = args_parse(argc, argv, table, sizeof table / sizeof *table, "Generates text from a checkpoint.");
    if (stop) return stop - 1;
    s.seed = (uint64_t)seed;

    dqt_llama *model;
    dqt_session *session;
    dqt_sampler *sampler;
    dqt_llama_config config;
    ok(dqt_context_create(NULL, &ctx));
    dqt_checkpoint loaded = DQT_INIT(dqt_checkpoint);
    const dqt_load_options weights_only = {.struct_size = sizeof weights_only, .skip_updater = 1, .skip_host = 1};
    ok(dqt_llama_load(ctx, path, &weights_only, &loaded));
    model = loaded.model;
    if (compute != DQT_FORMAT_SAME) {
        dqt_llama *trained = model;
        ok(read_as(ctx, trained, compute, &model));
        dqt_llama_destroy(trained);
    }
    ok(dqt_llama_config_init(&config, sizeof config));
    ok(dqt_llama_get_config(model, &config));
    const dqt_session_options room = {.struct_size = sizeof room, .max_length = strlen(prompt) + count};
    ok(dqt_session_create(model, &room, &session));
    ok(dqt_sampler_create(ctx, config.vocab_size, &s, &sampler));
    float *logits = malloc(config.vocab_size * sizeof *logits);
    if (!logits) return 1;
    generate(session, sampler, prompt, count, logits);
    free(logits);
    dqt_sampler_destroy(sampler);
    dqt_session_destroy(session);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
    return 0;
}
