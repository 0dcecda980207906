/* Which of llama.cpp's architectures a model is (llama.cpp, llama-arch.cpp). */
#include "io/gguf.h"

static const struct gguf_architecture architectures[] = {
    {"llama", false, false, false, true, true, true},
    {"bitnet", true, false, false, false, false, false},
    {"qwen2", false, true, false, false, false, false},
    {"qwen3", false, false, true, false, true, false},
};

enum { COUNT = sizeof architectures / sizeof *architectures };

const struct gguf_architecture *gguf_architecture_of(const dqt_llama_config *c) {
    for (size_t i = 0; i < COUNT; i++) {
        const struct gguf_architecture *a = &architectures[i];
        if (a->sub_norms == !c->no_sub_norms && a->biases == (c->attention_bias != 0) &&
            a->head_norms == (c->qk_norm != 0) && (a->any_heads || c->head_dim == 0) &&
            (a->factors || c->rope_scaling != DQT_ROPE_LLAMA3))
            return a;
    }
    return NULL;
}

const struct gguf_architecture *gguf_architecture_of_key(const char *key, const char **rest) {
    for (size_t i = 0; i < COUNT; i++) {
        const size_t n = strlen(architectures[i].name);
        if (strncmp(key, architectures[i].name, n) != 0 || key[n] != '.') continue;
        *rest = key + n + 1;
        return &architectures[i];
    }
    return NULL;
}
