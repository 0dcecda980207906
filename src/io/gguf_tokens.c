/* The tokenizer of a GGUF file: the host's arrays, a tokenizer.json, or the 256 bytes. */
#include <math.h>
#include <stdio.h>

#include "core/status.h"
#include "io/gguf_keys.h"

static bool has_json(const dqt_gguf_options *o) {
    return o->tokenizer || o->tokenizer_json;
}

/* Byte-level BPE, which llama.cpp calls gpt2; else what it calls llama. */
static bool is_bpe(const dqt_gguf_options *o) {
    return o->merges || has_json(o);
}

/* ---- Checks ---------------------------------------------------------------------------------------------------- */

static dqt_status check_one(const dqt_context *ctx, const dqt_gguf_options *o) {
    const struct {
        const char *name;
        const void *given;
    } from[] = {{"source", o->source},
                {"tokens", o->tokens},
                {"tokenizer", o->tokenizer},
                {"tokenizer_json", o->tokenizer_json}};
    const char *first = NULL;
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        if (first && from[i].given)
            return fail(ctx, DQT_E_ARGUMENT, "%s has a tokenizer: %s must be NULL, only one can be written", first,
                        from[i].name);
        if (from[i].given) first = from[i].name;
    }
    if (!o->tokenizer_json != !o->tokenizer_json_size)
        return fail(ctx, DQT_E_ARGUMENT, "tokenizer_json is %s, but tokenizer_json_size is %zu",
                    o->tokenizer_json ? "set" : "NULL", o->tokenizer_json_size);
    if (!o->tokens && (o->scores || o->types || o->num_tokens || o->merges || o->num_merges))
        return fail(ctx, DQT_E_ARGUMENT,
                    "scores, types, merges, num_tokens and num_merges describe tokens, but tokens is NULL");
    if (o->pre_tokenizer && !is_bpe(o))
        return fail(ctx, DQT_E_ARGUMENT, "pre_tokenizer is of merges or a tokenizer.json, and there are none");
    return DQT_OK;
}

/* "left right" */
static dqt_status check_merge(const dqt_context *ctx, size_t i, const char *merge) {
    const char *space = merge ? strchr(merge, ' ') : NULL;
    if (space && space > merge && space[1] && !strchr(space + 1, ' ')) return DQT_OK;
    return fail(ctx, DQT_E_ARGUMENT, "merges[%zu] is %s; it must be two texts with a space between them", i,
                merge ? merge : "NULL");
}

static dqt_status check_merges(const dqt_context *ctx, const dqt_gguf_options *o) {
    if (!o->merges != !o->num_merges)
        return fail(ctx, DQT_E_ARGUMENT, "merges is %s, but num_merges is %zu", o->merges ? "set" : "NULL",
                    o->num_merges);
    if (!o->merges) return DQT_OK;
    if (o->scores) return fail(ctx, DQT_E_ARGUMENT, "scores must be NULL: tokens that are merged have none");
    if (!o->pre_tokenizer || !*o->pre_tokenizer)
        return fail(ctx, DQT_E_ARGUMENT, "pre_tokenizer must name how readers cut a text before they merge");
    for (size_t i = 0; i < o->num_merges; i++)
        TRY(check_merge(ctx, i, o->merges[i]));
    return DQT_OK;
}

static dqt_status check_tokens(const dqt_context *ctx, const dqt_gguf_options *o, size_t vocab) {
    if (!o->tokens && vocab != 256 && !o->source && !has_json(o))
        return fail(ctx, DQT_E_ARGUMENT,
                    "tokens is NULL, which means bytes, but the vocabulary has %zu tokens instead of 256", vocab);
    if (!o->tokens) return DQT_OK;
    if (o->num_tokens != vocab)
        return fail(ctx, DQT_E_ARGUMENT, "num_tokens is %zu; the vocabulary has %zu", o->num_tokens, vocab);
    for (size_t i = 0; i < vocab; i++) {
        if (!o->tokens[i]) return fail(ctx, DQT_E_ARGUMENT, "tokens[%zu] is NULL", i);
        if (o->scores && !isfinite(o->scores[i]))
            return fail(ctx, DQT_E_ARGUMENT, "scores[%zu] is %g", i, (double)o->scores[i]);
        if (o->types && (o->types[i] < TOKEN_NORMAL || o->types[i] > TOKEN_BYTE))
            return fail(ctx, DQT_E_ARGUMENT, "types[%zu] is %d; it must be 1 to 6", i, o->types[i]);
    }
    return check_merges(ctx, o);
}

static dqt_status check_numbers(const dqt_context *ctx, const dqt_gguf_options *o, size_t vocab) {
    const int32_t ids[] = {o->bos_token, o->eos_token, o->unknown_token};
    for (size_t i = 0; i < 3; i++)
        if (ids[i] < -1 || (ids[i] >= 0 && (size_t)ids[i] >= vocab))
            return fail(ctx, DQT_E_ARGUMENT, "a special token is %d; it must be -1 to %zu", ids[i], vocab - 1);
    if ((o->add_bos != 0 && o->add_bos != 1) || (o->add_space_prefix != 0 && o->add_space_prefix != 1))
        return fail(ctx, DQT_E_ARGUMENT, "add_bos %d and add_space_prefix %d must be 0 or 1", o->add_bos,
                    o->add_space_prefix);
    return DQT_OK;
}

dqt_status head_open_tokens(struct gguf_head *h) {
    const dqt_gguf_options *o = h->options;
    dqt_context *ctx = h->model->ctx;
    const size_t vocab = h->model->config.vocab_size;
    TRY(check_one(ctx, o));
    TRY(check_tokens(ctx, o, vocab));
    TRY(check_numbers(ctx, o, vocab));
    if (!has_json(o)) return DQT_OK;
    return tokenizer_open(ctx, o->tokenizer, o->tokenizer_json, o->tokenizer_json_size, vocab, o->pre_tokenizer,
                          &h->tokenizer);
}

/* ---- Writing --------------------------------------------------------------------------------------------------- */

/* Bytes are <0x00> to <0xFF> of type 6 (byte), but the space is U+2581 of type 1, as the tokenizer writes it. */
static void byte_token(size_t i, char out[TOKEN_ROOM]) {
    if (i == ' ')
        snprintf(out, TOKEN_ROOM, "\xE2\x96\x81");
    else
        snprintf(out, TOKEN_ROOM, "<0x%02X>", (unsigned)i);
}

static dqt_status write_text(struct gguf_head *h, size_t i) {
    const dqt_gguf_options *o = h->options;
    char text[TOKEN_ROOM];
    if (o->tokens) return gguf_put_string(h->sink, o->tokens[i]);
    if (has_json(o))
        TRY(tokenizer_token(&h->tokenizer, i, text));
    else
        byte_token(i, text);
    return gguf_put_string(h->sink, text);
}

static int32_t type_of(const struct gguf_head *h, size_t i) {
    const dqt_gguf_options *o = h->options;
    if (has_json(o)) return tokenizer_type(&h->tokenizer, i);
    if (o->types) return o->types[i];
    return o->tokens || i == ' ' ? TOKEN_NORMAL : TOKEN_BYTE;
}

static dqt_status write_merges(struct gguf_head *h) {
    const dqt_gguf_options *o = h->options;
    TRY(head_put_array(h, "tokenizer.ggml.merges", VALUE_STRING, o->merges ? o->num_merges : h->tokenizer.num_merges));
    for (size_t i = 0; i < o->num_merges; i++)
        TRY(gguf_put_string(h->sink, o->merges[i]));
    return o->merges ? DQT_OK : tokenizer_each_merge(&h->tokenizer, h->sink);
}

static dqt_status write_id(struct gguf_head *h, const char *key, int32_t id) {
    return id >= 0 ? head_put_number(h, key, VALUE_U32, (uint32_t)id) : DQT_OK;
}

dqt_status head_write_tokens(struct gguf_head *h) {
    const dqt_gguf_options *o = h->options;
    const size_t count = h->model->config.vocab_size;
    const bool bpe = is_bpe(o);
    TRY(head_put_string(h, "tokenizer.ggml.model", bpe ? "gpt2" : "llama"));
    if (bpe) TRY(head_put_string(h, "tokenizer.ggml.pre", o->merges ? o->pre_tokenizer : h->tokenizer.pre));
    TRY(head_put_array(h, "tokenizer.ggml.tokens", VALUE_STRING, count));
    for (size_t i = 0; i < count; i++)
        TRY(write_text(h, i));
    if (!bpe) TRY(head_put_array(h, "tokenizer.ggml.scores", VALUE_F32, count));
    for (size_t i = 0; i < count && !bpe; i++)
        TRY(sink_number(h->sink, f32_bits(o->scores ? o->scores[i] : 0.0f), 4));
    TRY(head_put_array(h, "tokenizer.ggml.token_type", VALUE_I32, count));
    for (size_t i = 0; i < count; i++)
        TRY(sink_number(h->sink, (uint32_t)type_of(h, i), 4));
    if (bpe) TRY(write_merges(h));
    TRY(write_id(h, "tokenizer.ggml.bos_token_id", o->bos_token));
    TRY(write_id(h, "tokenizer.ggml.eos_token_id", o->eos_token));
    TRY(write_id(h, "tokenizer.ggml.unknown_token_id", o->unknown_token));
    TRY(head_put_number(h, "tokenizer.ggml.add_bos_token", VALUE_BOOL, (uint64_t)o->add_bos));
    return head_put_number(h, "tokenizer.ggml.add_space_prefix", VALUE_BOOL, (uint64_t)o->add_space_prefix);
}
