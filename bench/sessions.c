/* Generation by a ternary model (vocab 32002, hidden 768, ff 2048, 12 layers, 12 heads), on 1, 2, 4, ... threads.
 *
 * 110 M parameters, the head tied to the embedding: a prompt of 512 tokens, 128 tokens one by one, and 16 tokens of
 * each of 8 sessions, one of each at a time. In plain C only where it is asked for. 134 M, several sessions, one token
 * each after a prompt of 64: one session, 8 one after the other, and 8 at once, with caches of F32 and of BF16. The
 * three are measured turn by turn, so that they meet the same machine; what counts are the ratios.
 *
 *   build/bench/sessions [instruction set] [threads] [words that names contain ...] */
#include "../tests/calls.h"
#include "machine.h"

enum {
    SESSIONS = 8,
    PROMPT = 64,
    LONGEST = 512,
    ROUNDS = 31,
    VOCAB = 32002,
    PREFILL = 512,
    DECODE = 128,
    TOGETHER = 16
};
enum { ONE, IN_TURN, AT_ONCE, WAYS };

static float logits[SESSIONS][VOCAB];

static void ok(const dqt_context *ctx, dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

static dqt_llama *model_create(dqt_context *ctx, bool tied) {
    dqt_llama_config c = DQT_INIT(dqt_llama_config);
    dqt_llama *model;
    c.vocab_size = VOCAB;
    c.hidden_size = 768;
    c.intermediate_size = 2048;
    c.num_layers = 12;
    c.num_heads = 12;
    c.tie_embeddings = tied;
    ok(ctx, dqt_llama_create(ctx, &c, &model));
    return model;
}

struct run {
    const dqt_context *ctx;
    dqt_session *session, *half, *others[SESSIONS - 1]; /* half: with a cache of bf16 */
    int32_t tokens[PREFILL];
};

static void prefill_with(const struct run *r, dqt_session *session) {
    ok(r->ctx, dqt_session_truncate(session, 0));
    ok(r->ctx, dqt_session_append(session, r->tokens, PREFILL, logits[0]));
}

static void prefill(void *arg) {
    prefill_with(arg, ((struct run *)arg)->session);
}

static void prefill_half(void *arg) {
    prefill_with(arg, ((struct run *)arg)->half);
}

static void decode(void *arg) {
    struct run *r = arg;
    ok(r->ctx, dqt_session_truncate(r->session, 0));
    for (size_t i = 0; i < DECODE; i++)
        ok(r->ctx, dqt_session_append(r->session, &r->tokens[i], 1, logits[0]));
}

static void decode_together(void *arg) {
    struct run *r = arg;
    dqt_session_step steps[SESSIONS];
    for (size_t i = 0; i < SESSIONS; i++) {
        steps[i] = (dqt_session_step){.struct_size = sizeof *steps,
                                      .session = i ? r->others[i - 1] : r->session,
                                      .count = 1,
                                      .logits = logits[i]};
        ok(r->ctx, dqt_session_truncate(steps[i].session, 0));
    }
    for (size_t t = 0; t < TOGETHER; t++) {
        for (size_t i = 0; i < SESSIONS; i++)
            steps[i].tokens = &r->tokens[t * SESSIONS + i];
        ok(r->ctx, dqt_sessions_append(steps, SESSIONS));
    }
}

/* The tied model: one session, and 8 of them. */
static void tied_sessions(struct bench *b, int isa, int threads) {
    static const struct {
        const char *name;
        void (*fn)(void *);
        int tokens;
    } kinds[] = {{"prefill 110M 512", prefill, PREFILL},
                 {"prefill 110M 512 bf16", prefill_half, PREFILL},
                 {"decode 110M 128", decode, DECODE},
                 {"decode 110M 8 sessions", decode_together, TOGETHER * SESSIONS}};
    bool wanted = false;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        wanted = wanted || bench_wants(b, kinds[i].name);
    if (!wanted) return;
    dqt_context *ctx = machine_context(isa, threads);
    if (!ctx) return;
    struct run r = {.ctx = ctx};
    dqt_llama *model = model_create(ctx, true);
    dqt_session_options o = *session_of(LONGEST);
    ok(ctx, dqt_session_create(model, &o, &r.session));
    o.cache_format = DQT_CACHE_BF16;
    ok(ctx, dqt_session_create(model, &o, &r.half));
    for (size_t i = 0; i < SESSIONS - 1; i++)
        ok(ctx, dqt_session_create(model, session_of(TOGETHER), &r.others[i]));
    for (int i = 0; i < PREFILL; i++)
        r.tokens[i] = i * 7919 % VOCAB;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!bench_wants(b, kinds[i].name)) continue;
        const struct bench_times t = bench_time(kinds[i].fn, &r);
        bench_rate(b, kinds[i].name, "ternary, tied", isa, threads, &t, kinds[i].tokens, 1, "tokens/s", 0);
    }
    dqt_session_destroy(r.session);
    dqt_session_destroy(r.half);
    for (size_t i = 0; i < SESSIONS - 1; i++)
        dqt_session_destroy(r.others[i]);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
}

static double append(const dqt_context *ctx, int way, const dqt_session_step *steps) {
    const double before = bench_now();
    if (way == AT_ONCE) {
        ok(ctx, dqt_sessions_append(steps, SESSIONS));
    } else {
        for (size_t i = 0; i < (way == ONE ? 1 : SESSIONS); i++)
            ok(ctx, dqt_session_append(steps[i].session, steps[i].tokens, 1, steps[i].logits));
    }
    const double time = bench_now() - before;
    for (size_t i = 0; i < SESSIONS; i++)
        ok(ctx, dqt_session_truncate(steps[i].session, PROMPT));
    return time;
}

static void several_sessions(struct bench *b, int isa, int threads, int cache, const char *shape) {
    static const char *const names[WAYS] = {"sessions one", "sessions 8 in turn", "sessions 8 at once"};
    if (!bench_wants(b, "sessions")) return;
    dqt_context *ctx = machine_context(isa, threads);
    if (!ctx) return;
    dqt_session_options o = *session_of(LONGEST);
    o.cache_format = cache;
    dqt_llama *model = model_create(ctx, false);
    dqt_session_step steps[SESSIONS];
    int32_t tokens[PROMPT];
    double times[WAYS][ROUNDS];
    for (int i = 0; i < PROMPT; i++)
        tokens[i] = i * 7919 % VOCAB;
    for (size_t i = 0; i < SESSIONS; i++) {
        steps[i] =
            (dqt_session_step){.struct_size = sizeof *steps, .tokens = &tokens[i], .count = 1, .logits = logits[i]};
        ok(ctx, dqt_session_create(model, &o, &steps[i].session));
        ok(ctx, dqt_session_append(steps[i].session, tokens, PROMPT, NULL));
    }
    for (int round = -1; round < ROUNDS; round++) /* the first one warms up */
        for (int way = 0; way < WAYS; way++)
            times[way][round < 0 ? 0 : round] = append(ctx, way, steps);
    for (int way = 0; way < WAYS; way++) {
        qsort(times[way], ROUNDS, sizeof(double), bench_compare);
        const struct bench_times t = {times[way][ROUNDS / 2], times[way][ROUNDS - 1]};
        bench_microseconds(b, names[way], shape, isa, threads, &t, 0);
    }
    const double one = times[ONE][ROUNDS / 2], at_once = times[AT_ONCE][ROUNDS / 2];
    bench_line(b, "sessions 8 : 1", shape, isa, threads, at_once / one, 0, "ratio", 0);
    bench_line(b, "sessions turn : once", shape, isa, threads, times[IN_TURN][ROUNDS / 2] / at_once, 0, "ratio", 0);
    for (size_t i = 0; i < SESSIONS; i++)
        dqt_session_destroy(steps[i].session);
    dqt_llama_destroy(model);
    dqt_context_destroy(ctx);
}

static void measure(struct bench *b, int isa, int threads) {
    if (isa == DQT_ISA_SCALAR && !b->names_isa) return;
    tied_sessions(b, isa, threads);
    several_sessions(b, isa, threads, DQT_CACHE_F32, "134M, 1 token each");
    several_sessions(b, isa, threads, DQT_CACHE_BF16, "134M, cache of bf16");
}

int main(int argc, char **argv) {
    struct bench b = bench_begin(argc, argv, false);
    machine_for_each(&b, measure);
    return bench_end(&b);
}
