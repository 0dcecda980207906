#include "io/facts.h"

#include <stdio.h>
#include <string.h>

#include "io/json.h"

enum { MOST_KEYS = 4 };

/* Keys of config.json by transformers' versions, and of GGUF, behind the architecture's name. */
static const struct {
    const char *json[MOST_KEYS], *gguf;
} names[NUM_FACTS] = {
    [ARCHITECTURE] = {{"architectures"}, "general.architecture"},
    [VOCAB_SIZE] = {{"vocab_size"}, "vocab_size"},
    [HIDDEN_SIZE] = {{"hidden_size"}, "embedding_length"},
    [INTERMEDIATE_SIZE] = {{"intermediate_size"}, "feed_forward_length"},
    [NUM_LAYERS] = {{"num_hidden_layers"}, "block_count"},
    [NUM_HEADS] = {{"num_attention_heads"}, "attention.head_count"},
    [NUM_KV_HEADS] = {{"num_key_value_heads"}, "attention.head_count_kv"},
    [HEAD_DIM] = {{"head_dim"}, "attention.key_length"},
    [VALUE_DIM] = {{NULL}, "attention.value_length"},
    [ROTARY_DIM] = {{NULL}, "rope.dimension_count"},
    [ROTARY_FACTOR] = {{"partial_rotary_factor", "rope_parameters.partial_rotary_factor"}, NULL},
    [NORM_EPS] = {{"rms_norm_eps"}, "attention.layer_norm_rms_epsilon"},
    [ROPE_THETA] = {{"rope_theta", "rope_parameters.rope_theta"}, "rope.freq_base"},
    [ROPE_TYPE] = {{"rope_scaling.rope_type", "rope_scaling.type", "rope_parameters.rope_type"}, "rope.scaling.type"},
    [ROPE_FACTOR] = {{"rope_scaling.factor", "rope_parameters.factor"}, "rope.scaling.factor"},
    [ROPE_LOW_FACTOR] = {{"rope_scaling.low_freq_factor", "rope_parameters.low_freq_factor"}, NULL},
    [ROPE_HIGH_FACTOR] = {{"rope_scaling.high_freq_factor", "rope_parameters.high_freq_factor"}, NULL},
    [ROPE_ORIGINAL_LENGTH] = {{"rope_scaling.original_max_position_embeddings",
                               "rope_parameters.original_max_position_embeddings"},
                              "rope.scaling.original_context_length"},
    [TIE_EMBEDDINGS] = {{"tie_word_embeddings"}, NULL},
    [MAX_LENGTH] = {{"max_position_embeddings"}, "context_length"},
    [SLIDING_WINDOW] = {{"sliding_window"}, "attention.sliding_window"},
    [USE_SLIDING_WINDOW] = {{"use_sliding_window"}, NULL},
    [LAYER_TYPES] = {{"layer_types"}, NULL},
    [HIDDEN_ACT] = {{"hidden_act"}, NULL},
    [ATTENTION_BIAS] = {{"attention_bias"}, NULL},
    [MLP_BIAS] = {{"mlp_bias"}, NULL},
    [NUM_EXPERTS] = {{"num_local_experts", "num_experts"}, "expert_count"},
    [QUANTIZATION] = {{"quantization_config.quant_method"}, NULL},
    [QUANTIZATION_CLASS] = {{"quantization_config.linear_class"}, NULL},
    [QUANTIZATION_MODE] = {{"quantization_config.quantization_mode"}, NULL},
    [QUANTIZATION_EXCEPT] = {{"quantization_config.modules_to_not_convert"}, NULL},
    [QUANTIZATION_NORMS] = {{"quantization_config.use_rms_norm"}, NULL},
    [FILE_ALIGNMENT] = {{NULL}, "general.alignment"},
};

/* A key as GGUF's table has it: without the architecture's name. */
static const char *behind_architecture(const char *key) {
    const char *dot = strchr(key, '.');
    return strncmp(key, "general.", 8) == 0 || strncmp(key, "tokenizer.", 10) == 0 || !dot ? key : dot + 1;
}

struct fact *fact_of_key(struct facts *facts, const char *key) {
    if (facts->gguf) key = behind_architecture(key);
    for (int i = 0; i < NUM_FACTS; i++)
        for (int k = 0; k < (facts->gguf ? 1 : MOST_KEYS); k++) {
            const char *name = facts->gguf ? names[i].gguf : names[i].json[k];
            if (!name || strcmp(name, key) != 0) continue;
            facts->list[i].key = name;
            return &facts->list[i];
        }
    return NULL;
}

dqt_status fact_refuse(const dqt_context *ctx, const struct facts *facts, enum fact_name name, const char *why) {
    const struct fact *f = &facts->list[name];
    const char *key = f->key ? f->key : facts->gguf ? names[name].gguf : names[name].json[0];
    char value[FACT_TEXT_BYTES];
    switch (f->kind) {
    case FACT_ABSENT: snprintf(value, sizeof value, "absent"); break;
    case FACT_BOOL: snprintf(value, sizeof value, "%s", f->number > 0 ? "true" : "false"); break;
    case FACT_NUMBER: snprintf(value, sizeof value, "%.17g", f->number); break;
    case FACT_TEXT: snprintf(value, sizeof value, "%s", f->text); break;
    case FACT_OTHER: snprintf(value, sizeof value, "a list or object"); break;
    }
    return fail(ctx, DQT_E_UNSUPPORTED, "%s is %s: %s", key, value, why);
}

/* ---- config.json --------------------------------------------------------------------------------------------- */

/* An array of texts is the first one that is not as the first of all, or that: layer_types that differ are seen. */
struct texts {
    struct fact *f;
    bool later, differ;
};

static dqt_status read_text(void *arg, struct json *j) {
    struct texts *t = arg;
    struct fact *f = t->f;
    char text[FACT_TEXT_BYTES];
    const bool first = !t->later;
    t->later = true;
    if (json_peek(j) != JSON_STRING) {
        f->kind = FACT_OTHER;
        return json_skip(j);
    }
    TRY(json_string(j, text, sizeof text));
    t->differ = t->differ || (!first && strcmp(text, f->text) != 0);
    if (first) f->kind = FACT_TEXT;
    if (first || (t->differ && f->kind == FACT_TEXT)) memcpy(f->text, text, sizeof text);
    if (t->differ) f->kind = FACT_OTHER;
    return DQT_OK;
}

static dqt_status read_texts(struct json *j, struct fact *f) {
    struct texts t = {.f = f};
    f->kind = FACT_OTHER;
    return json_elements(j, read_text, &t);
}

static dqt_status read_fact(struct json *j, struct fact *f) {
    enum json_kind word;
    f->kind = FACT_OTHER;
    switch (json_peek(j)) {
    case JSON_STRING: f->kind = FACT_TEXT; return json_string(j, f->text, sizeof f->text);
    case JSON_NUMBER: f->kind = FACT_NUMBER; return json_number(j, &f->number);
    case JSON_ARRAY: return read_texts(j, f);
    case JSON_OBJECT:
    case JSON_NOTHING: return json_skip(j);
    case JSON_TRUE:
    case JSON_FALSE:
    case JSON_NULL: break;
    }
    TRY(json_word(j, &word));
    f->kind = word == JSON_NULL ? FACT_ABSENT : FACT_BOOL;
    f->number = word == JSON_TRUE;
    return DQT_OK;
}

/* The members of an object, and of the objects in it: no object has a fact that is deeper. */
struct inside {
    struct facts *facts;
    const char *object; /* its key and a dot; "": the outermost */
};

static dqt_status read_member(void *arg, struct json *j, const char *key) {
    const struct inside *in = arg;
    char full[2 * JSON_KEY];
    snprintf(full, sizeof full, "%s%s", in->object, key);
    struct fact *f = fact_of_key(in->facts, full);
    if (*in->object == '\0' && json_peek(j) == JSON_OBJECT) {
        const size_t n = strlen(key);
        snprintf(full, sizeof full, "%s.", key);
        return n + 1 < JSON_KEY ? json_members(j, read_member, &(struct inside){in->facts, full}) : json_skip(j);
    }
    if (!f) return json_skip(j);
    const enum fact_kind before = f->kind;
    TRY(read_fact(j, f));
    if (before != FACT_ABSENT && f->kind == FACT_ABSENT) f->kind = before;
    return DQT_OK;
}

dqt_status facts_read_json(const dqt_context *ctx, const char *text, size_t length, struct facts *facts) {
    struct json j = json_of(ctx, "config.json", text, length);
    TRY(json_members(&j, read_member, &(struct inside){facts, ""}));
    return json_end(&j);
}
