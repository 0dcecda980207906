/* Temperature, top-k and top-p sampling (Fan et al. 2018; Holtzman et al. 2020), seeded and counter-based. */
#include <math.h>

#include "core/rng.h"
#include "core/status.h"
#include "model/session.h"

dqt_status sampler_create(dqt_context *ctx, size_t vocab_size, const dqt_sampler_options *o, dqt_sampler **out) {
    *out = NULL;
    struct arena a = {0};
    dqt_sampler *s = NULL;
    int32_t *order = NULL;
    float *probability = NULL;
    for (int pass = 0; pass < 2; pass++) {
        s = arena_take(&a, 1, sizeof *s);
        order = arena_take(&a, vocab_size, sizeof *order);
        probability = arena_take(&a, vocab_size, sizeof *probability);
        if (pass == 0 && !arena_alloc(ctx, &a))
            return fail(ctx, DQT_E_MEMORY, "no memory for a sampler of %zu tokens", vocab_size);
    }
    *s = (dqt_sampler){.ctx = ctx,
                       .options = *o,
                       .vocab_size = vocab_size,
                       .order = order,
                       .probability = probability,
                       .bytes = a.used};
    *out = s;
    return DQT_OK;
}

void sampler_destroy(dqt_sampler *s) {
    if (s) memory_free(s->ctx, s, s->bytes);
}

static bool better(const float *logits, int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] >= logits[b] && a < b);
}

/* Heap order: the best candidate of heap[0..count) sinks to the root. */
static void sift(const float *logits, int32_t *heap, size_t root, size_t count) {
    for (;;) {
        size_t best = root;
        for (size_t child = 2 * root + 1; child <= 2 * root + 2 && child < count; child++)
            if (better(logits, heap[child], heap[best])) best = child;
        if (best == root) return;
        int32_t swap = heap[root];
        heap[root] = heap[best];
        heap[best] = swap;
        root = best;
    }
}

/* Takes the best remaining candidate from the heap in order[0..*count) and puts it behind the heap. */
static int32_t pop(dqt_sampler *s, const float *logits, size_t *count) {
    const int32_t top = s->order[0];
    s->order[0] = s->order[--*count];
    s->order[*count] = top;
    sift(logits, s->order, 0, *count);
    return top;
}

static int32_t greedy(const float *logits, size_t vocab) {
    int32_t best = 0;
    for (size_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = (int32_t)i;
    return best;
}

int32_t sampler_sample(dqt_sampler *s, const float *logits) {
    const dqt_sampler_options *o = &s->options;
    const size_t vocab = s->vocab_size;
    const int32_t best = greedy(logits, vocab);
    uint32_t words[4];
    const struct rng rng = rng_make(o->seed, 0, RNG_SAMPLE, 0);
    rng_block(&rng, s->draws / 4, words);
    const double r = ((double)words[s->draws++ % 4] + 0.5) * 0x1p-32;
    if (!(o->temperature > 0)) return best;

    double total = 0;
    for (size_t i = 0; i < vocab; i++) {
        s->probability[i] = expf((logits[i] - logits[best]) / o->temperature);
        total += (double)s->probability[i];
        s->order[i] = (int32_t)i;
    }
    for (size_t i = vocab / 2; i-- > 0;)
        sift(logits, s->order, i, vocab);

    /* Candidates best first: k of them, of these as many as reach probability p together. */
    const size_t limit = o->top_k && o->top_k < vocab ? o->top_k : vocab;
    size_t left = vocab, kept = 0;
    double mass = 0;
    if (limit < vocab)
        for (total = 0; vocab - left < limit;)
            total += (double)s->probability[pop(s, logits, &left)];
    while (kept < limit && (kept == 0 || mass < (double)o->top_p * total)) {
        if (vocab - left == kept) pop(s, logits, &left);
        mass += (double)s->probability[s->order[vocab - 1 - kept++]];
    }
    /* The kept candidates lie behind the heap, the best one last. */
    double target = r * mass;
    for (size_t i = 0; i < kept; i++) {
        const int32_t token = s->order[vocab - 1 - i];
        target -= (double)s->probability[token];
        if (target < 0) return token;
    }
    return best;
}
