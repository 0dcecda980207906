/* Generation: the model's layers on an inference tape, with cached keys and values in place of attention over the pass.
 *
 * The tokens that sessions append go through the layers together, in passes of at most CHUNK tokens: every weight is
 * read once a pass, for all of them. What a session gets does not depend on the others: rows do not see each other but
 * through attention, which is a session's own, and a float product sums in the order that its session's own tokens of
 * the pass call for (gemm_gemv_tokens). So a session's tokens of one append always pass CHUNK by CHUNK, whatever room
 * there is.
 */
#include "model/session.h"

#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "core/status.h"

enum { CHUNK = 256 };

static size_t hidden_bytes(const dqt_session *s) {
    return s->model->config.hidden_size * sizeof(float);
}

static dqt_tape_options tape_options(const dqt_session *s) {
    return (dqt_tape_options){.struct_size = sizeof(dqt_tape_options),
                              .precision = DQT_PRECISION_F32,
                              .max_batch = 1,
                              .max_length = size_min(s->options.max_length, CHUNK),
                              .inference = 1};
}

/* All but what is allocated. */
static dqt_status layout(const dqt_llama *model, const dqt_session_options *o, dqt_session *s) {
    const dqt_llama_config *c = &model->config;
    *s = (dqt_session){.model = model,
                       .options = *o,
                       .cache = {.format = o->cache_format,
                                 .layers = c->num_layers,
                                 .positions = o->max_length,
                                 .kv_heads = llama_kv_heads(c),
                                 .head_size = llama_head_dim(model)}};
    s->cache_bytes = kv_cache_layout(&s->cache);
    if (s->cache_bytes < SIZE_MAX) return DQT_OK;
    return fail(model->ctx, DQT_E_SHAPE, "a cache of %zu tokens is too large", o->max_length);
}

dqt_status session_memory(const dqt_llama *model, const dqt_session_options *o, dqt_session_memory_info *out) {
    dqt_session s;
    dqt_tape_memory_info tape;
    TRY(layout(model, o, &s));
    const dqt_tape_options t = tape_options(&s);
    TRY(tape_memory(model->ctx, model->layers, model->num_layers, &t, o->max_length, &tape));
    *out = (dqt_session_memory_info){
        .struct_size = sizeof *out, .cache = s.cache_bytes, .other = tape.total + sizeof s + 2 * hidden_bytes(&s)};
    if (size_add(out->cache, out->other, &out->total)) return DQT_OK;
    return fail(model->ctx, DQT_E_SHAPE, "a session of %zu tokens is too large", o->max_length);
}

static dqt_status create_buffers(dqt_session *s) {
    dqt_context *ctx = s->model->ctx;
    const dqt_tape_options o = tape_options(s);
    s->cache.data = memory_alloc(ctx, s->cache_bytes);
    if (!s->cache.data) return fail(ctx, DQT_E_MEMORY, "no memory for a cache of %zu bytes", s->cache_bytes);
    s->last = memory_alloc(ctx, hidden_bytes(s));
    s->next = memory_alloc(ctx, hidden_bytes(s));
    if (!s->last || !s->next) return fail(ctx, DQT_E_MEMORY, "no memory for a session");
    return tape_create(ctx, s->model->layers, s->model->num_layers, &o, s->options.max_length, &s->tape);
}

/* Nanoseconds: what reading the weights takes, at least. */
static double pass_work(const dqt_llama *model) {
    double bytes = 0;
    for (size_t i = 0; i < model->num_layers; i++)
        bytes += (double)layer_memory(model->layers[i]);
    return WORK_BYTE * bytes;
}

dqt_status session_create(const dqt_llama *model, const dqt_session_options *o, dqt_session **out) {
    dqt_session planned;
    *out = NULL;
    TRY(layout(model, o, &planned));
    dqt_session *s = memory_alloc(model->ctx, sizeof *s);
    if (!s) return fail(model->ctx, DQT_E_MEMORY, "no memory for a session");
    *s = planned;
    s->pass_work = pass_work(model);
    dqt_status status = create_buffers(s);
    if (status != DQT_OK) {
        session_destroy(s);
        return status;
    }
    *out = s;
    return DQT_OK;
}

void session_destroy(dqt_session *s) {
    if (!s) return;
    dqt_context *ctx = s->model->ctx;
    tape_destroy(s->tape);
    memory_free(ctx, s->cache.data, s->cache_bytes);
    memory_free(ctx, s->last, hidden_bytes(s));
    memory_free(ctx, s->next, hidden_bytes(s));
    memory_free(ctx, s, sizeof *s);
}

static bool all_finite(const float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

/* ---- What follows a token ------------------------------------------------------------------------------------ */

/* From a row of the stream: its logits, or the log-probability of a token. */
struct prediction {
    float *logits, *log_prob; /* one of them; the other is NULL */
    int32_t token;
    float token_logit;
    double largest, sum; /* of the logits so far; of exp(logit - largest) */
    bool finite;
};

#define WORK_EXP 10.0 /* nanoseconds of a double exp (core/parallel.h) */

/* A tile of the logits of all predictions. */
struct prediction_job {
    struct prediction *predictions;
    size_t count; /* of predictions */
    size_t first, classes, ld;
    const float *logits;
    const dqt_context *ctx;
    double work; /* nanoseconds for a class */
};

static void add_exponentials(struct prediction *p, const float *logits, size_t count) {
    double largest = p->largest;
    for (size_t i = 0; i < count; i++) /* gcc 12 for AArch64 breaks down on fmax here, at -O3 */
        largest = (double)logits[i] > largest ? (double)logits[i] : largest;
    p->sum *= exp(p->largest - largest);
    for (size_t i = 0; i < count; i++)
        p->sum += exp((double)logits[i] - largest);
    p->largest = largest;
}

static void take_row(void *arg, size_t row, int lane) {
    (void)lane;
    const struct prediction_job *job = arg;
    const float *logits = job->logits + row * job->ld;
    struct prediction *p = &job->predictions[row];
    p->finite = p->finite && all_finite(logits, job->classes);
    if (!p->finite) return;
    if (p->logits) {
        memcpy(p->logits + job->first, logits, job->classes * sizeof *logits);
        return;
    }
    const size_t token = (size_t)p->token;
    if (token >= job->first && token - job->first < job->classes) p->token_logit = logits[token - job->first];
    add_exponentials(p, logits, job->classes);
}

static void take_tile(void *arg, size_t first, size_t classes, const float *logits, size_t ld) {
    struct prediction_job *job = arg;
    job->first = first;
    job->classes = classes;
    job->logits = logits;
    job->ld = ld;
    parallel_run(job->ctx, job->count, job->work * (double)classes, take_row, job);
}

/* Of the first rows of the stream, which are overwritten. False where logits are not finite. */
static bool predict(dqt_tape *t, struct prediction *predictions, size_t count) {
    if (count == 0) return true;
    const struct cached_pass pass = {.tokens.count = count, .gemv_tokens = count};
    struct prediction_job job = {.predictions = predictions, .count = count, .ctx = t->ctx};
    for (size_t i = 0; i < count; i++)
        job.work += predictions[i].log_prob ? WORK_EXP : WORK_ELEMENT;
    t->cached = &pass;
    layer_forward(t, llama_norm_slot(t), 1, count, NULL, t->stream, t->stream);
    head_logits_tiles(t, llama_head_slot(t), count, t->stream, take_tile, &job);
    t->cached = NULL;
    for (size_t i = 0; i < count; i++) {
        struct prediction *p = &predictions[i];
        if (!p->finite) return false;
        if (p->log_prob) *p->log_prob = (float)((double)p->token_logit - p->largest - log(p->sum));
    }
    return true;
}

/* A session's predictions of this pass: their rows are moved to those from `count` on. Returns the new count. */
static size_t add_predictions(dqt_session *s, float *stream, struct prediction *predictions, size_t count) {
    const struct session_request *r = &s->request;
    const size_t hidden = s->model->config.hidden_size;
    const bool ends = s->done + s->taken == r->count;
    float *rows = stream + s->row * hidden;
    DQT_ASSERT(count <= s->row);
    if (r->log_probs) {
        /* A token is predicted from the row before its own: all rows go down by one, the first is that of the token
         * before, and the last one waits in `next`. */
        for (size_t i = 0; i < s->taken * hidden; i++) {
            const float row = rows[i];
            rows[i] = s->next[i % hidden];
            s->next[i % hidden] = row;
        }
        memmove(stream + count * hidden, rows, s->taken * hidden_bytes(s));
        for (size_t i = s->done; i < s->done + s->taken; i++)
            predictions[count++] = (struct prediction){
                .log_prob = &r->log_probs[i], .token = r->tokens[i], .largest = -INFINITY, .finite = true};
    } else if (ends) {
        memcpy(s->next, rows + (s->taken - 1) * hidden, hidden_bytes(s));
        if (!r->logits) return count;
        memcpy(stream + count * hidden, s->next, hidden_bytes(s));
        predictions[count++] = (struct prediction){.logits = r->logits, .finite = true};
    }
    return count;
}

/* ---- Passes -------------------------------------------------------------------------------------------------- */

struct pass {
    dqt_tape *tape;
    size_t position[CHUNK];
    struct kv_cache *cache[CHUNK];
    struct cached_pass cached;
    dqt_session *first;
    bool finite;
};

static void take_chunk(struct pass *p, dqt_session *s, size_t count) {
    const size_t hidden = s->model->config.hidden_size;
    s->row = p->cached.tokens.count;
    s->taken = count;
    for (size_t i = 0; i < count; i++) {
        p->position[s->row + i] = s->length + s->done + i;
        p->cache[s->row + i] = &s->cache;
    }
    p->cached.tokens.count += count;
    embedding_forward(p->tape, llama_embedding_slot(p->tape), 1, count, s->request.tokens + s->done,
                      p->tape->stream + s->row * hidden);
}

/* The next chunks of sessions, of as many as there is room for: first those that are few tokens in themselves. */
static void plan_pass(struct pass *p, dqt_session *first) {
    const dqt_context *ctx = p->tape->ctx;
    p->cached = (struct cached_pass){.tokens = {.position = p->position, .cache = p->cache}};
    for (int kind = 0; kind < 2; kind++) {
        for (dqt_session *s = first; s; s = s->following) {
            const size_t count = size_min(s->request.count - s->done, CHUNK);
            if (kind == 0) s->taken = 0;
            if (count == 0 || (gemm_gemv_tokens(ctx, count) == 0) != (kind == 1)) continue;
            if (count <= p->tape->max_tokens - p->cached.tokens.count) take_chunk(p, s, count);
        }
        if (kind == 0) p->cached.gemv_tokens = p->cached.tokens.count;
    }
    DQT_ASSERT(p->cached.tokens.count > 0);
}

/* Clears p->finite where numbers are not: a NaN in a key or a value of a token is one in its stream, too. */
static void run_pass(void *arg) {
    struct pass *p = arg;
    dqt_session *first = p->first;
    dqt_tape *t = p->tape;
    const size_t tokens = p->cached.tokens.count;
    struct prediction predictions[CHUNK];
    size_t count = 0;
    t->cached = &p->cached;
    for (size_t i = 0; i < first->model->config.num_layers; i++) {
        p->cached.layer = i;
        layer_forward(t, llama_block_slot(t, i), 1, tokens, NULL, t->stream, t->stream);
    }
    t->cached = NULL;
    p->finite = all_finite(t->stream, tokens * first->model->config.hidden_size);
    if (!p->finite) return;
    for (size_t row = 0; row < tokens;) /* by rows: those of predictions move to the front */
        for (dqt_session *s = first; s; s = s->following) {
            if (!s->taken || s->row != row) continue;
            count = add_predictions(s, t->stream, predictions, count);
            row += s->taken;
            s->done += s->taken;
        }
    p->finite = predict(t, predictions, count);
}

static bool all_done(const dqt_session *first) {
    for (const dqt_session *s = first; s; s = s->following)
        if (s->done < s->request.count) return false;
    return true;
}

static dqt_status append_all(dqt_session *first) {
    struct pass p = {.tape = first->tape, .first = first};
    for (dqt_session *s = first; s; s = s->following) {
        DQT_ASSERT(s->model == first->model && s->request.count &&
                   s->request.count <= s->options.max_length - s->length);
        s->done = 0;
        if (s->request.log_probs) memcpy(s->next, s->last, hidden_bytes(s));
        if (s->tape->positions > p.tape->positions) p.tape = s->tape; /* it has room for any of their chunks */
    }
    while (!all_done(first)) {
        TRY(check_interrupt(first->model->ctx));
        plan_pass(&p, first);
        parallel_stand_by(first->model->ctx, first->pass_work, run_pass, &p);
        if (!p.finite) return fail(first->model->ctx, DQT_E_NUMERIC, "the model gives numbers that are not finite");
    }
    return DQT_OK;
}

dqt_status sessions_append(dqt_session *first) {
    TRY(append_all(first));
    for (dqt_session *s = first; s; s = s->following) {
        float *last = s->last;
        s->last = s->next;
        s->next = last;
        s->length += s->request.count;
        s->last_of = s->length;
    }
    return DQT_OK;
}

void session_copy(dqt_session *to, const dqt_session *from) {
    DQT_ASSERT(to->model == from->model && from->length <= to->options.max_length);
    if (to == from) return;
    kv_cache_copy(&to->cache, &from->cache, from->length);
    memcpy(to->last, from->last, hidden_bytes(to));
    to->length = from->length;
    to->last_of = from->last_of;
}
