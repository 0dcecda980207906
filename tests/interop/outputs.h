/* What a model of libdqt's says, as files for the comparison with other programs: shared by files.c and outputs.c. */
#ifndef OUTPUTS_H
#define OUTPUTS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"

enum { PROMPT = 128, CONTINUATION = 96, PROMPTS = 3 };

static dqt_context *ctx;

static void ok(dqt_status status, const char *what) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

static void *need(void *p, const char *what) {
    if (!p) {
        fprintf(stderr, "cannot have %s\n", what);
        exit(1);
    }
    return p;
}

/* prompt[PROMPT] and the greedy continuation, a line "TOKEN BEST MARGIN" each: the token, the best next one and how far
 * its logit is above the second. logits: room for those of a position. */
static void write_passage(dqt_llama *model, const int32_t *prompt, size_t vocab, float *logits, FILE *f) {
    dqt_session *session;
    ok(dqt_session_create(model, session_of(PROMPT + CONTINUATION), &session), "session");
    int32_t token = prompt[0];
    for (size_t i = 0; i < PROMPT + CONTINUATION; i++) {
        ok(dqt_session_append(session, &token, 1, logits), "append");
        size_t best = 0, second = 1;
        for (size_t k = 1; k < vocab; k++) {
            if (logits[k] > logits[best]) {
                second = best;
                best = k;
            } else if (logits[k] > logits[second] || second == best) {
                second = k;
            }
        }
        fprintf(f, "%d %d %.6f\n", token, (int)best, (double)(logits[best] - logits[second]));
        token = i + 1 < PROMPT ? prompt[i + 1] : (int32_t)best;
    }
    dqt_session_destroy(session);
}

/* NAME.reference: PROMPTS passages, from places that divide tokens[count] into parts of the same length. */
static void write_reference(dqt_llama *model, const int32_t *tokens, size_t count, const char *path) {
    FILE *f = need(fopen(path, "w"), path);
    dqt_llama_config c = {.struct_size = sizeof c};
    ok(dqt_llama_get_config(model, &c), "config");
    float *logits = need(malloc(c.vocab_size * sizeof *logits), "memory");
    for (size_t i = 1; i <= PROMPTS; i++)
        write_passage(model, tokens + count * i / (PROMPTS + 1), c.vocab_size, logits, f);
    free(logits);
    fclose(f);
}

#endif
