/* What the facts of a foreign model mean, checked value by value: names alone say too little. */
#include <math.h>
#include <stdio.h>

#include "io/foreign.h"
#include "ops/attention.h"

static const struct architecture architectures[] = {
    {.json = "LlamaForCausalLM",
     .model_type = "llama",
     .gguf = "llama",
     .neighbours = true,
     .norm_eps = 1e-6,
     .rope_theta = 1e4},
    {.json = "MistralForCausalLM",
     .model_type = "mistral",
     .norm_eps = 1e-6,
     .rope_theta = 1e4,
     .num_kv_heads = 8,
     .window = 4096},
    {.json = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .gguf = "qwen2",
     .attention_bias = true,
     .norm_eps = 1e-6,
     .rope_theta = 1e4,
     .num_kv_heads = 32,
     .window_is_off = true},
    {.json = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .gguf = "qwen3",
     .qk_norm = true,
     .norm_eps = 1e-6,
     .rope_theta = 1e4,
     .num_kv_heads = 32,
     .head_dim = 128,
     .window_is_off = true},
    {.json = "BitNetForCausalLM",
     .model_type = "bitnet",
     .gguf = "bitnet-b1.58",
     .squared_relu = true,
     .sub_norms = true,
     .activation = DQT_ACTIVATION_INT8,
     .norm_eps = 1e-5,
     .rope_theta = 5e5,
     .num_kv_heads = 5},
    {.gguf = "bitnet", .sub_norms = true, .activation = DQT_ACTIVATION_INT8},
};

const struct architecture *architecture_of_config(const dqt_llama_config *c) {
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        const struct architecture *a = &architectures[i];
        if (a->json && a->sub_norms == !c->no_sub_norms && a->attention_bias == (c->attention_bias != 0) &&
            a->qk_norm == (c->qk_norm != 0) && c->mlp != DQT_MLP_SQUARED_RELU)
            return a;
    }
    return NULL;
}

static struct fact *fact(struct foreign *f, enum fact_name name) {
    return &f->facts.list[name];
}

static bool known(struct foreign *f, enum fact_name name) {
    return fact(f, name)->kind != FACT_ABSENT;
}

static dqt_status refuse(struct foreign *f, enum fact_name name, const char *why) {
    return fact_refuse(f->ctx, &f->facts, name, why);
}

static bool is_text(struct foreign *f, enum fact_name name, const char *text) {
    return fact(f, name)->kind == FACT_TEXT && strcmp(fact(f, name)->text, text) == 0;
}

static bool is_number(const struct fact *f, double number) {
    return (f->kind == FACT_NUMBER || f->kind == FACT_BOOL) && f->number >= number && f->number <= number;
}

static dqt_status find_architecture(struct foreign *f) {
    const struct fact *a = fact(f, ARCHITECTURE);
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures && a->kind == FACT_TEXT; i++) {
        const char *name = f->facts.gguf ? architectures[i].gguf : architectures[i].json;
        if (!name || strcmp(name, a->text) != 0) continue;
        f->architecture = &architectures[i];
        return DQT_OK;
    }
    return refuse(f, ARCHITECTURE,
                  f->facts.gguf ? "llama, qwen2, qwen3, bitnet and bitnet-b1.58 can be opened"
                                : "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM and "
                                  "BitNetForCausalLM can be opened");
}

/* ---- Numbers ------------------------------------------------------------------------------------------------- */

/* otherwise: where the file says nothing; 0: it must. */
static dqt_status read_size(struct foreign *f, enum fact_name name, size_t otherwise, size_t *out) {
    const struct fact *x = fact(f, name);
    *out = otherwise;
    if (x->kind == FACT_ABSENT && otherwise) return DQT_OK;
    if (x->kind != FACT_NUMBER || !(x->number >= 1) || !(x->number <= INT32_MAX) || x->number > floor(x->number))
        return refuse(f, name, "it must be one whole number from 1 to 2147483647");
    *out = (size_t)x->number;
    return DQT_OK;
}

static dqt_status read_positive(struct foreign *f, enum fact_name name, double otherwise, float *out) {
    const struct fact *x = fact(f, name);
    *out = (float)otherwise;
    if (x->kind == FACT_ABSENT && otherwise > 0) return DQT_OK;
    if (x->kind != FACT_NUMBER || !((float)x->number > 0) || !isfinite((float)x->number))
        return refuse(f, name, "it must be a number above 0");
    *out = (float)x->number;
    return DQT_OK;
}

/* A thing that this library does only in one way. */
static dqt_status check_neutral(struct foreign *f, enum fact_name name, double neutral, const char *why) {
    return !known(f, name) || is_number(fact(f, name), neutral) ? DQT_OK : refuse(f, name, why);
}

static const struct foreign_tensor *tensor_named(const struct foreign *f, const char *name) {
    for (size_t i = 0; i < f->num_tensors; i++)
        if (strcmp(f->tensors[i].name, name) == 0) return &f->tensors[i];
    return NULL;
}

static dqt_status read_sizes(struct foreign *f, dqt_llama_config *c) {
    const struct architecture *a = f->architecture;
    const struct foreign_tensor *embedding = tensor_named(f, "token_embd.weight");
    const size_t rows = f->facts.gguf && embedding && embedding->rows <= INT32_MAX ? (size_t)embedding->rows : 0;
    TRY(read_size(f, VOCAB_SIZE, rows, &c->vocab_size));
    TRY(read_size(f, HIDDEN_SIZE, 0, &c->hidden_size));
    TRY(read_size(f, INTERMEDIATE_SIZE, 0, &c->intermediate_size));
    TRY(read_size(f, NUM_LAYERS, 0, &c->num_layers));
    TRY(read_size(f, NUM_HEADS, 0, &c->num_heads));
    const bool default_kv = a->num_kv_heads && !f->facts.gguf;
    TRY(read_size(f, NUM_KV_HEADS, default_kv ? (size_t)a->num_kv_heads : c->num_heads, &c->num_kv_heads));
    if (c->num_layers > f->num_tensors) return refuse(f, NUM_LAYERS, "there are fewer tensors than that in the file");
    return DQT_OK;
}

/* ---- Attention ----------------------------------------------------------------------------------------------- */

static dqt_status read_heads(struct foreign *f, dqt_llama_config *c) {
    const struct architecture *a = f->architecture;
    const size_t split = c->hidden_size / c->num_heads;
    size_t head_dim, value_dim, rotary_dim;
    const bool usual = !a->head_dim || f->facts.gguf;
    TRY(read_size(f, HEAD_DIM, usual ? size_max(split, 1) : (size_t)a->head_dim, &head_dim));
    TRY(read_size(f, VALUE_DIM, head_dim, &value_dim));
    TRY(read_size(f, ROTARY_DIM, head_dim, &rotary_dim));
    if (value_dim != head_dim) return refuse(f, VALUE_DIM, "it must be what the keys have");
    if (rotary_dim != head_dim) return refuse(f, ROTARY_DIM, "whole heads are rotated here");
    TRY(check_neutral(f, ROTARY_FACTOR, 1, "whole heads are rotated here"));
    c->head_dim = head_dim == split && c->hidden_size % c->num_heads == 0 ? 0 : head_dim;
    return DQT_OK;
}

/* Windows that are shorter than the sequences; transformers' Qwen models have one only where use_sliding_window says
 * so. */
static dqt_status check_window(struct foreign *f, const struct foreign_options *o) {
    const struct fact *w = fact(f, SLIDING_WINDOW), *use = fact(f, USE_SLIDING_WINDOW);
    const struct architecture *a = f->architecture;
    const bool unsaid = !w->key && a->window && !f->facts.gguf; /* null says that there is none */
    if (is_text(f, LAYER_TYPES, "full_attention") || (w->kind == FACT_ABSENT && !unsaid)) return DQT_OK;
    if (!f->facts.gguf && (use->kind == FACT_ABSENT ? a->window_is_off : is_number(use, 0))) return DQT_OK;
    if (w->kind != FACT_ABSENT && w->kind != FACT_NUMBER) return refuse(f, SLIDING_WINDOW, "it must be a number");
    const double window = unsaid ? a->window : w->number;
    const double length = o->max_length          ? (double)o->max_length
                          : known(f, MAX_LENGTH) ? fact(f, MAX_LENGTH)->number
                                                 : INFINITY;
    if (window >= length) return DQT_OK;
    return fail(
        f->ctx, DQT_E_UNSUPPORTED,
        "sliding_window is %g, and sequences have up to %g tokens: attention here has no window; a max_length of "
        "at most %g makes none needed",
        window, length, window);
}

/* ---- Positions ----------------------------------------------------------------------------------------------- */

static struct rope rope_of(const dqt_llama_config *c) {
    return (struct rope){.theta = c->rope_theta,
                         .scaling = c->rope_scaling,
                         .factor = c->rope_factor,
                         .low_freq_factor = c->rope_low_freq_factor,
                         .high_freq_factor = c->rope_high_freq_factor,
                         .original_context = c->rope_original_context};
}

/* What the frequency of pair i is divided by. */
static double rope_divisor(const struct rope *rope, size_t pairs, size_t i) {
    const struct rope plain = {.theta = rope->theta};
    return rope_frequency(&plain, 2 * pairs, i) / rope_frequency(rope, 2 * pairs, i);
}

/* GGUF files have the divisors of Llama 3's frequencies and not the numbers that they were made from. Those of all
 * models so far are 1, 4, the last divisor, and the context that a divisor between it and 1 tells; they must give all
 * of the file's divisors again. */
static dqt_status find_llama3(struct foreign *f, dqt_llama_config *c) {
    const size_t pairs = f->num_rope_divisors;
    const float *divisors = f->rope_divisors;
    double context = 8192;
    if (pairs != (c->head_dim ? c->head_dim : c->hidden_size / c->num_heads) / 2)
        return fail(f->ctx, DQT_E_SHAPE, "rope_freqs.weight has %zu numbers; half a head has another number", pairs);
    c->rope_scaling = DQT_ROPE_LLAMA3;
    c->rope_factor = divisors[pairs - 1];
    c->rope_low_freq_factor = 1;
    c->rope_high_freq_factor = 4;
    const struct rope plain = {.theta = c->rope_theta};
    for (size_t i = 0; i < pairs; i++) {
        const double smooth = (1 / (double)divisors[i] - 1 / (double)c->rope_factor) / (1 - 1 / (double)c->rope_factor);
        if (smooth > 0.01 && smooth < 0.99)
            context = 2 * 3.141592653589793 * (1 + 3 * smooth) / rope_frequency(&plain, 2 * pairs, i);
    }
    c->rope_original_context = context >= 1 && context < 1e9 ? (size_t)(context + 0.5) : 0;
    const struct rope rope = rope_of(c);
    bool same = c->rope_factor >= 1 && isfinite(c->rope_factor) && c->rope_original_context;
    for (size_t i = 0; i < pairs && same; i++)
        same = fabs(rope_divisor(&rope, pairs, i) - (double)divisors[i]) <= 1e-4 * (double)divisors[i];
    if (same) return DQT_OK;
    return fail(f->ctx, DQT_E_UNSUPPORTED,
                "rope_freqs.weight: these are not the frequencies of Llama 3, which begin with "
                "%g and end with %g",
                (double)divisors[0], (double)divisors[pairs - 1]);
}

static dqt_status read_rope(struct foreign *f, dqt_llama_config *c) {
    const struct fact *type = fact(f, ROPE_TYPE);
    TRY(read_positive(f, ROPE_THETA, f->facts.gguf ? 1e4 : f->architecture->rope_theta, &c->rope_theta));
    if (f->num_rope_divisors) return find_llama3(f, c);
    if (type->kind == FACT_ABSENT || is_text(f, ROPE_TYPE, "default") || is_text(f, ROPE_TYPE, "none")) return DQT_OK;
    const bool llama3 = is_text(f, ROPE_TYPE, "llama3");
    if (!llama3 && !is_text(f, ROPE_TYPE, "linear"))
        return refuse(f, ROPE_TYPE, "llama3 and linear are the scalings that can be opened");
    c->rope_scaling = llama3 ? DQT_ROPE_LLAMA3 : DQT_ROPE_LINEAR;
    TRY(read_positive(f, ROPE_FACTOR, 0, &c->rope_factor));
    if (c->rope_factor < 1) return refuse(f, ROPE_FACTOR, "it must be 1 or more");
    if (!llama3) return DQT_OK;
    TRY(read_positive(f, ROPE_LOW_FACTOR, 0, &c->rope_low_freq_factor));
    TRY(read_positive(f, ROPE_HIGH_FACTOR, 0, &c->rope_high_freq_factor));
    if (c->rope_low_freq_factor >= c->rope_high_freq_factor)
        return refuse(f, ROPE_LOW_FACTOR, "it must be below high_freq_factor");
    return read_size(f, ROPE_ORIGINAL_LENGTH, 0, &c->rope_original_context);
}

/* ---- Whole --------------------------------------------------------------------------------------------------- */

static dqt_status read_mlp(struct foreign *f, dqt_llama_config *c) {
    const struct fact *act = fact(f, HIDDEN_ACT);
    const bool relu = act->kind == FACT_ABSENT ? f->architecture->squared_relu : is_text(f, HIDDEN_ACT, "relu2");
    c->mlp = relu ? DQT_MLP_GATED_SQUARED_RELU : DQT_MLP_SWIGLU;
    if (act->kind != FACT_ABSENT && !relu && !is_text(f, HIDDEN_ACT, "silu"))
        return refuse(f, HIDDEN_ACT, "silu and relu2 can be opened");
    return DQT_OK;
}

/* One of two words, or the first one where the file says nothing. */
static dqt_status read_choice(struct foreign *f, enum fact_name name, const char *usual, const char *other,
                              bool *is_other) {
    *is_other = is_text(f, name, other);
    if (!known(f, name) || is_text(f, name, usual) || *is_other) return DQT_OK;
    char why[FACT_TEXT_BYTES];
    snprintf(why, sizeof why, "%s and %s can be opened", usual, other);
    return refuse(f, name, why);
}

/* transformers' integrations/bitnet.py, with which any of its models may have such linears: a BitLinear holds packed
 * codes whatever the mode. The head is none. */
static dqt_status read_quantization(struct foreign *f) {
    bool automatic, online;
    const bool said = known(f, QUANTIZATION) || known(f, QUANTIZATION_CLASS) || known(f, QUANTIZATION_MODE);
    if (!said) return DQT_OK;
    if (!is_text(f, QUANTIZATION, "bitnet"))
        return refuse(f, QUANTIZATION, "of quantised folders those of BitNet's linears can be opened");
    TRY(read_choice(f, QUANTIZATION_CLASS, "bitlinear", "autobitlinear", &automatic));
    TRY(read_choice(f, QUANTIZATION_MODE, "offline", "online", &online));
    TRY(check_neutral(f, QUANTIZATION_NORMS, 0, "norms of single linears are not supported"));
    if (known(f, QUANTIZATION_EXCEPT) && !is_text(f, QUANTIZATION_EXCEPT, "lm_head"))
        return refuse(f, QUANTIZATION_EXCEPT, "it must be null or [\"lm_head\"]: all of the blocks' linears are alike");
    f->online = automatic && online;
    f->packed = !f->online;
    return DQT_OK;
}

static dqt_status check_rest(struct foreign *f) {
    TRY(check_neutral(f, ATTENTION_BIAS, 0, "a bias of o is not supported"));
    TRY(check_neutral(f, MLP_BIAS, 0, "biases of the MLP are not supported"));
    TRY(check_neutral(f, NUM_EXPERTS, 0, "experts are not supported"));
    return read_quantization(f);
}

static dqt_status read_tie(struct foreign *f, dqt_llama_config *c) {
    const struct fact *tie = fact(f, TIE_EMBEDDINGS);
    if (f->facts.gguf) {
        c->tie_embeddings = !tensor_named(f, "output.weight");
        return DQT_OK;
    }
    if (tie->kind != FACT_ABSENT && tie->kind != FACT_BOOL)
        return refuse(f, TIE_EMBEDDINGS, "it must be true or false");
    c->tie_embeddings = is_number(tie, 1);
    return DQT_OK;
}

dqt_status foreign_config(struct foreign *f, const struct foreign_options *o, dqt_llama_config *c) {
    TRY(find_architecture(f));
    const struct architecture *a = f->architecture;
    TRY(read_sizes(f, c));
    TRY(read_heads(f, c));
    TRY(check_window(f, o));
    TRY(read_rope(f, c));
    TRY(read_positive(f, NORM_EPS, f->facts.gguf ? 0 : a->norm_eps, &c->norm_eps));
    TRY(read_mlp(f, c));
    TRY(check_rest(f));
    TRY(read_tie(f, c));
    c->no_sub_norms = !a->sub_norms;
    c->attention_bias = a->attention_bias;
    c->qk_norm = a->qk_norm;
    c->activation = o->activation != DQT_ACTIVATION_DEFAULT ? o->activation
                    : f->packed || f->online                ? DQT_ACTIVATION_INT8
                    : a->activation                         ? a->activation
                                                            : DQT_ACTIVATION_NONE;
    c->head_activation = DQT_ACTIVATION_NONE;
    return DQT_OK;
}
