/* config.json of a Hugging Face folder: what transformers must know, and nothing that it takes for granted otherwise.
 */
#include <stdio.h>

#include "core/status.h"
#include "io/foreign.h"
#include "io/json.h"
#include "io/stream.h"

enum { LINE_BYTES = 160 };

static dqt_status put(struct sink *s, const char *key, const char *value) {
    char line[LINE_BYTES];
    snprintf(line, sizeof line, ",\n  \"%s\": %s", key, value);
    return sink_bytes(s, line, strlen(line));
}

static dqt_status put_text(struct sink *s, const char *key, const char *text) {
    char value[LINE_BYTES / 2];
    snprintf(value, sizeof value, "\"%s\"", text);
    return put(s, key, value);
}

static dqt_status put_size(struct sink *s, const char *key, size_t size) {
    char value[32];
    snprintf(value, sizeof value, "%zu", size);
    return put(s, key, value);
}

/* The shortest decimal that is this float; with a '.', whatever the host's locale is. */
static dqt_status put_float(struct sink *s, const char *key, float x) {
    char value[40];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(value, sizeof value, "%.*e", digits - 1, (double)x);
        for (char *p = value; *p; p++)
            if (!strchr("0123456789+-e", *p)) *p = '.';
        struct json j = json_of(s->ctx, "number", value, strlen(value));
        double back = 0;
        if (json_number(&j, &back) == DQT_OK && f32_bits((float)back) == f32_bits(x)) break;
    }
    return put(s, key, value);
}

static dqt_status put_flag(struct sink *s, const char *key, bool flag) {
    return put(s, key, flag ? "true" : "false");
}

static dqt_status put_scaling(struct sink *s, const dqt_llama_config *c) {
    static const char open[] = ",\n  \"rope_scaling\": {\n  \"rope_type\": ";
    const bool llama3 = c->rope_scaling == DQT_ROPE_LLAMA3;
    if (c->rope_scaling == DQT_ROPE_NONE) return DQT_OK;
    TRY(sink_bytes(s, open, strlen(open)));
    TRY(sink_bytes(s, llama3 ? "\"llama3\"" : "\"linear\"", 8));
    TRY(put_float(s, "factor", c->rope_factor));
    if (llama3) {
        TRY(put_float(s, "low_freq_factor", c->rope_low_freq_factor));
        TRY(put_float(s, "high_freq_factor", c->rope_high_freq_factor));
        TRY(put_size(s, "original_max_position_embeddings", c->rope_original_context));
    }
    return sink_bytes(s, "\n  }", 4);
}

static dqt_status write_members(struct sink *s, const dqt_llama *model, size_t context_length, bool bf16) {
    const dqt_llama_config *c = &model->config;
    const struct architecture *a = architecture_of_config(c);
    char first[LINE_BYTES];
    snprintf(first, sizeof first, "{\n  \"architectures\": [\n    \"%s\"\n  ]", a->json);
    TRY(sink_bytes(s, first, strlen(first)));
    TRY(put_text(s, "model_type", a->model_type));
    TRY(put_size(s, "vocab_size", c->vocab_size));
    TRY(put_size(s, "hidden_size", c->hidden_size));
    TRY(put_size(s, "intermediate_size", c->intermediate_size));
    TRY(put_size(s, "num_hidden_layers", c->num_layers));
    TRY(put_size(s, "num_attention_heads", c->num_heads));
    TRY(put_size(s, "num_key_value_heads", llama_kv_heads(c)));
    TRY(put_size(s, "head_dim", llama_head_dim(model)));
    TRY(put_text(s, "hidden_act", c->mlp == DQT_MLP_SWIGLU ? "silu" : "relu2"));
    TRY(put_size(s, "max_position_embeddings", context_length));
    TRY(put_float(s, "rms_norm_eps", c->norm_eps));
    TRY(put_float(s, "rope_theta", c->rope_theta));
    TRY(put_scaling(s, c));
    TRY(put_flag(s, "tie_word_embeddings", c->tie_embeddings != 0));
    if (!a->attention_bias) TRY(put_flag(s, "attention_bias", false));
    TRY(put_text(s, "torch_dtype", bf16 ? "bfloat16" : "float32"));
    TRY(sink_bytes(s, "\n}\n", 3));
    return sink_flush(s);
}

dqt_status config_write(const dqt_llama *model, size_t context_length, bool bf16, dqt_write_fn write, void *user_data) {
    struct sink *s;
    TRY(sink_create(model->ctx, &s));
    sink_begin(s, write, user_data);
    const dqt_status status = write_members(s, model, context_length, bf16);
    sink_destroy(s);
    return status;
}
