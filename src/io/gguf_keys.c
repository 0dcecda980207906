#include "io/gguf_keys.h"

#include <math.h>
#include <stdio.h>

#include "core/options.h"
#include "core/status.h"

#define NO_KEY SIZE_MAX

/* ---- One key --------------------------------------------------------------------------------------------------- */

dqt_status gguf_put_string(struct sink *s, const char *text) {
    TRY(sink_number(s, strlen(text), 8));
    return sink_bytes(s, text, strlen(text));
}

/* Elements of the array have the size of the first one. */
static dqt_gguf_key key_at(const dqt_gguf_options *o, size_t i) {
    dqt_gguf_key k = {.struct_size = 0};
    const size_t size = o->keys->struct_size;
    memcpy(&k, (const unsigned char *)o->keys + i * size, size_min(size, sizeof k));
    return k;
}

/* The host's key of this name, among the first `count`; NO_KEY: none. */
static size_t host_key(const dqt_gguf_options *o, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(key_at(o, i).key, name) == 0) return i;
    return NO_KEY;
}

static dqt_status put_key(struct gguf_head *h, const char *key, unsigned type) {
    const size_t same = host_key(h->options, h->options->num_keys, key);
    if (same != NO_KEY) h->same = same;
    h->count++;
    TRY(gguf_put_string(h->sink, key));
    return sink_number(h->sink, type, 4);
}

dqt_status head_put_string(struct gguf_head *h, const char *key, const char *text) {
    TRY(put_key(h, key, VALUE_STRING));
    return gguf_put_string(h->sink, text);
}

dqt_status head_put_number(struct gguf_head *h, const char *key, unsigned type, uint64_t bits) {
    TRY(put_key(h, key, type));
    return sink_number(h->sink, bits, type == VALUE_BOOL ? 1 : 4);
}

dqt_status head_put_array(struct gguf_head *h, const char *key, unsigned type, size_t count) {
    TRY(put_key(h, key, VALUE_ARRAY));
    TRY(sink_number(h->sink, type, 4));
    return sink_number(h->sink, count, 8);
}

static dqt_status put_model_number(struct gguf_head *h, const char *key, unsigned type, uint64_t bits) {
    char full[GGUF_KEY_ROOM];
    snprintf(full, sizeof full, "%s.%s", h->architecture->name, key);
    return head_put_number(h, full, type, bits);
}

/* ---- Of the model ---------------------------------------------------------------------------------------------- */

static bool is_in(const char *const *list, size_t count, const char *key) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(key, list[i]) == 0) return true;
    return false;
}
#define IS_IN(list, key) is_in(list, sizeof(list) / sizeof *(list), key)

/* What a file says of its weights: never a source's word of them, nor the host's. */
static const char *const general[] = {"general.architecture", "general.file_type", "general.alignment"};
static const char *const own[] = {"embedding_length",
                                  "block_count",
                                  "feed_forward_length",
                                  "attention.head_count",
                                  "attention.head_count_kv",
                                  "vocab_size",
                                  "attention.layer_norm_rms_epsilon",
                                  "rope.freq_base",
                                  "rope.scaling.type",
                                  "rope.scaling.factor"};
static const char *const head_size[] = {"attention.key_length", "attention.value_length", "rope.dimension_count"};
static const char context_length[] = "context_length";

static bool source_wanted(void *arg, const char *key) {
    struct gguf_head *h = arg;
    const char *rest = "";
    const struct gguf_architecture *a = gguf_architecture_of_key(key, &rest);
    if (IS_IN(general, key) || host_key(h->options, h->options->num_keys, key) != NO_KEY) return false;
    if (!a) return true;
    if (a != h->architecture || IS_IN(own, rest)) return false;
    if (IS_IN(head_size, rest)) return h->model->config.head_dim == 0;
    if (strcmp(rest, context_length) != 0) return true;
    h->source_length = h->options->context_length == 0;
    return h->source_length;
}

static dqt_status write_own(struct gguf_head *h) {
    enum { CONTEXT_LENGTH = 2048 /* where nobody says one */ };
    const dqt_llama_config *c = &h->model->config;
    const size_t length = h->options->context_length;
    h->count = 0;
    TRY(head_put_string(h, "general.architecture", h->architecture->name));
    TRY(head_put_number(h, "general.file_type", VALUE_U32, h->file_type));
    if (!h->source_length) TRY(put_model_number(h, context_length, VALUE_U32, length ? length : CONTEXT_LENGTH));
    TRY(put_model_number(h, "embedding_length", VALUE_U32, c->hidden_size));
    TRY(put_model_number(h, "block_count", VALUE_U32, c->num_layers));
    TRY(put_model_number(h, "feed_forward_length", VALUE_U32, c->intermediate_size));
    TRY(put_model_number(h, "attention.head_count", VALUE_U32, c->num_heads));
    TRY(put_model_number(h, "attention.head_count_kv", VALUE_U32, llama_kv_heads(c)));
    TRY(put_model_number(h, "vocab_size", VALUE_U32, c->vocab_size));
    TRY(put_model_number(h, "attention.layer_norm_rms_epsilon", VALUE_F32, f32_bits(c->norm_eps)));
    TRY(put_model_number(h, "rope.freq_base", VALUE_F32, f32_bits(c->rope_theta)));
    for (size_t i = 0; c->head_dim && i < sizeof head_size / sizeof *head_size; i++)
        TRY(put_model_number(h, head_size[i], VALUE_U32, c->head_dim));
    if (c->rope_scaling == DQT_ROPE_LINEAR) {
        char key[GGUF_KEY_ROOM];
        snprintf(key, sizeof key, "%s.rope.scaling.type", h->architecture->name);
        TRY(head_put_string(h, key, "linear"));
        TRY(put_model_number(h, "rope.scaling.factor", VALUE_F32, f32_bits(c->rope_factor)));
    }
    return h->source.path ? DQT_OK : head_write_tokens(h);
}

/* ---- The host's ------------------------------------------------------------------------------------------------ */

static dqt_status check_integer(const dqt_context *ctx, size_t i, const dqt_gguf_key *k, int64_t least, int64_t most) {
    if (k->integer >= least && k->integer <= most) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "keys[%zu], %s: integer is %lld; it must be %lld to %lld", i, k->key,
                (long long)k->integer, (long long)least, (long long)most);
}

static dqt_status check_number(const dqt_context *ctx, size_t i, const dqt_gguf_key *k, double most) {
    if (fabs(k->number) <= most) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "keys[%zu], %s: number is %g, which its type cannot hold", i, k->key, k->number);
}

static dqt_status check_strings(const dqt_context *ctx, size_t i, const dqt_gguf_key *k) {
    if (!k->texts && k->num_texts) return fail(ctx, DQT_E_ARGUMENT, "keys[%zu], %s: texts is NULL", i, k->key);
    for (size_t n = 0; n < k->num_texts; n++)
        if (!k->texts[n]) return fail(ctx, DQT_E_ARGUMENT, "keys[%zu], %s: texts[%zu] is NULL", i, k->key, n);
    return DQT_OK;
}

static dqt_status check_value(const dqt_context *ctx, size_t i, const dqt_gguf_key *k) {
    switch (k->value_type) {
    case DQT_GGUF_VALUE_UINT32: return check_integer(ctx, i, k, 0, UINT32_MAX);
    case DQT_GGUF_VALUE_INT32: return check_integer(ctx, i, k, INT32_MIN, INT32_MAX);
    case DQT_GGUF_VALUE_BOOL: return check_integer(ctx, i, k, 0, 1);
    case DQT_GGUF_VALUE_UINT64: return check_integer(ctx, i, k, 0, INT64_MAX);
    case DQT_GGUF_VALUE_INT64: return DQT_OK;
    case DQT_GGUF_VALUE_FLOAT32: return check_number(ctx, i, k, 0x1.fffffep127);
    case DQT_GGUF_VALUE_FLOAT64: return check_number(ctx, i, k, 0x1.fffffffffffffp1023);
    case DQT_GGUF_VALUE_STRINGS: return check_strings(ctx, i, k);
    case DQT_GGUF_VALUE_STRING:
        return k->text ? DQT_OK : fail(ctx, DQT_E_ARGUMENT, "keys[%zu], %s: text is NULL", i, k->key);
    default:
        return fail(ctx, DQT_E_ARGUMENT, "keys[%zu], %s: value_type is %d; it must be a DQT_GGUF_VALUE_* value", i,
                    k->key, k->value_type);
    }
}

/* Whether it says what the library says of the model, in this file or in others. */
static bool says_of_model(const struct gguf_head *h, const char *key) {
    const char *rest = "";
    return IS_IN(general, key) || (gguf_architecture_of_key(key, &rest) == h->architecture &&
                                   (IS_IN(own, rest) || IS_IN(head_size, rest) || strcmp(rest, context_length) == 0));
}

static dqt_status check_key(const struct gguf_head *h, size_t i) {
    const dqt_context *ctx = h->model->ctx;
    dqt_gguf_key own_size = {.struct_size = 0};
    const dqt_gguf_key *k = &own_size;
    TRY(options_read_element(ctx, &own_size, sizeof own_size, h->options->keys, i, "dqt_gguf_key", "keys"));
    if (!k->key) return fail(ctx, DQT_E_ARGUMENT, "keys[%zu].key is NULL", i);
    if (!*k->key || strlen(k->key) >= GGUF_KEY_ROOM - 1)
        return fail(ctx, DQT_E_ARGUMENT, "keys[%zu].key has %zu bytes; it must have 1 to %d", i, strlen(k->key),
                    GGUF_KEY_ROOM - 2);
    if (says_of_model(h, k->key))
        return fail(ctx, DQT_E_ARGUMENT, "keys[%zu]: %s is said by the model and the other options", i, k->key);
    if (host_key(h->options, i, k->key) != NO_KEY)
        return fail(ctx, DQT_E_ARGUMENT, "keys[%zu]: %s is there twice", i, k->key);
    return check_value(ctx, i, k);
}

static dqt_status check_keys(const struct gguf_head *h) {
    const dqt_gguf_options *o = h->options;
    if (!o->keys != !o->num_keys)
        return fail(h->model->ctx, DQT_E_ARGUMENT, "keys is %s, but num_keys is %zu", o->keys ? "set" : "NULL",
                    o->num_keys);
    for (size_t i = 0; i < o->num_keys; i++)
        TRY(check_key(h, i));
    return DQT_OK;
}

static uint64_t double_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static dqt_status write_host_key(struct sink *s, const dqt_gguf_key *k) {
    TRY(gguf_put_string(s, k->key));
    TRY(sink_number(s, (uint32_t)k->value_type, 4));
    switch (k->value_type) {
    case DQT_GGUF_VALUE_STRING: return gguf_put_string(s, k->text);
    case DQT_GGUF_VALUE_BOOL: return sink_number(s, (uint64_t)k->integer, 1);
    case DQT_GGUF_VALUE_UINT32:
    case DQT_GGUF_VALUE_INT32: return sink_number(s, (uint64_t)k->integer, 4);
    case DQT_GGUF_VALUE_UINT64:
    case DQT_GGUF_VALUE_INT64: return sink_number(s, (uint64_t)k->integer, 8);
    case DQT_GGUF_VALUE_FLOAT32: return sink_number(s, f32_bits((float)k->number), 4);
    case DQT_GGUF_VALUE_FLOAT64: return sink_number(s, double_bits(k->number), 8);
    default: break;
    }
    TRY(sink_number(s, VALUE_STRING, 4));
    TRY(sink_number(s, k->num_texts, 8));
    for (size_t i = 0; i < k->num_texts; i++)
        TRY(gguf_put_string(s, k->texts[i]));
    return DQT_OK;
}

/* ---- Whole ----------------------------------------------------------------------------------------------------- */

static dqt_status open_source(struct gguf_head *h) {
    const size_t vocab = h->model->config.vocab_size;
    const size_t tokens = host_key(h->options, h->options->num_keys, "tokenizer.ggml.tokens");
    if (!h->options->source) return DQT_OK;
    h->source = (struct gguf_keys){.path = h->options->source, .wanted = source_wanted, .arg = h};
    TRY(gguf_copy_keys(h->model->ctx, &h->source, NULL));
    const uint64_t count = tokens != NO_KEY ? key_at(h->options, tokens).num_texts : h->source.tokens;
    if (count == vocab) return DQT_OK;
    return fail(h->model->ctx, DQT_E_ARGUMENT, "source has %llu tokens; the vocabulary has %zu",
                (unsigned long long)count, vocab);
}

dqt_status head_open(struct gguf_head *h, struct sink *sink) {
    TRY(check_keys(h));
    TRY(head_open_tokens(h));
    TRY(open_source(h));
    h->sink = sink;
    h->same = NO_KEY;
    sink_begin(sink, NULL, NULL);
    TRY(write_own(h));
    if (h->same != NO_KEY)
        return fail(h->model->ctx, DQT_E_ARGUMENT, "keys[%zu]: %s is said by the tokenizer that the options name",
                    h->same, key_at(h->options, h->same).key);
    h->total = h->count + h->source.count + h->options->num_keys;
    return DQT_OK;
}

dqt_status head_write(struct gguf_head *h, struct sink *sink) {
    h->sink = sink;
    TRY(sink_number(sink, h->total, 8));
    TRY(write_own(h));
    if (h->source.path) TRY(gguf_copy_keys(h->model->ctx, &h->source, sink));
    for (size_t i = 0; i < h->options->num_keys; i++) {
        const dqt_gguf_key key = key_at(h->options, i);
        TRY(write_host_key(sink, &key));
    }
    return DQT_OK;
}

void head_close(struct gguf_head *h) {
    tokenizer_close(&h->tokenizer);
}
