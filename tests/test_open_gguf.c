/* GGUF files that are made here: every type comes in as its blocks say, and what is wrong is refused with a sentence
 * that names it, with nothing left behind. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "gguf_reader.h"
#include "io/names.h"
#include "open_world.h"

/* Row r of a matrix of heads in the model, in the file: RoPE's pairs are neighbours there. */
static size_t row_in_file(size_t rows, size_t heads, size_t r) {
    const size_t size = rows / heads, at = r % size, half = size / 2;
    return r - at + 2 * (at % half) + at / half;
}

static size_t differing_weights(const struct gguf_tensor *t, const dqt_tensor *to, size_t heads) {
    const struct encoding *e = encoding_of_gguf(t->type);
    const size_t row_bytes = to->cols / e->block * e->bytes;
    float *row = malloc(to->cols * sizeof *row), block[LARGEST_BLOCK];
    size_t wrong = 0;
    for (size_t r = 0; r < to->rows; r++) {
        tensor_dequantize_row(to, r, row);
        const unsigned char *in = t->data + (heads ? row_in_file(to->rows, heads, r) : r) * row_bytes;
        for (size_t c = 0; c < to->cols; c++) {
            if (c % e->block == 0) e->decode(in + c / e->block * e->bytes, block);
            wrong += !(row[c] >= block[c % e->block] && row[c] <= block[c % e->block]);
        }
    }
    free(row);
    return wrong;
}

static void check_weights(struct gguf_file *g, dqt_llama *model) {
    const struct parameter_list list = parameter_list(model);
    for (size_t i = 0; i < list.count; i++) {
        char name[FILE_NAME_BYTES];
        gguf_name(&list, i, name);
        const struct gguf_tensor *t = file_tensor(g, name);
        CHECKF(t != NULL, "%s", name);
        const size_t heads = strstr(name, "attn_q.") ? g->heads : strstr(name, "attn_k.") ? g->kv_heads : 0;
        const size_t wrong = t ? differing_weights(t, list_parameter(&list, i).tensor, heads) : 0;
        CHECKF(wrong == 0, "%s: %zu weights differ", name, wrong);
    }
}

/* Kept as it is, tensor by tensor; and the file's order, alignment and version do not matter. */
static void every_type(void) {
    struct open_world w;
    world_begin(&w);
    for (uint32_t type = 0; type < 40; type++) {
        const struct encoding *e = encoding_of_gguf(type);
        if (!e || !e->decode) continue;
        struct gguf_file g = file_defaults(type);
        g.version = 2 + type % 2;
        g.alignment = type % 3 ? 64 : 0;
        dqt_llama *model = NULL;
        OK(w.ctx, file_open_model(&w, &g, NULL, &model));
        if (model) {
            check_weights(&g, model);
            CHECK(model->config.tie_embeddings && model->config.no_sub_norms && model->config.vocab_size == 8);
            CHECK(model->config.activation == DQT_ACTIVATION_NONE && model->config.num_kv_heads == 2);
            const dqt_tensor *t = model->layers[0]->weight[W];
            CHECKF(format_public(t->storage) == e->kept && t->row_groups == (e->codes ? 256 / e->block : 1), "%s",
                   e->name);
        }
        dqt_llama_destroy(model);
        file_end(&g);
    }
    world_end(&w);
}

/* Files mix types; an untied head; options make one format of all. */
static void mixed(void) {
    struct open_world w;
    world_begin(&w);
    struct gguf_file g = file_defaults(30);
    file_tensor(&g, "blk.0.ffn_up.weight")->type = 0; /* replaced below */
    g.num_tensors--;
    free(g.tensors[g.num_tensors].data);
    file_add(&g, "output_norm.weight", 0, 256, 0);
    struct gguf_tensor *up = file_tensor(&g, "blk.0.ffn_up.weight");
    free(up->data);
    up->bytes = 256 * 256 * 4;
    up->data = malloc(up->bytes);
    random_blocks(encoding_of_gguf(0), up->data, 256 * 256, &g.seed);
    file_add(&g, "output.weight", 8, 256, 8);
    dqt_llama *model = NULL;
    OK(w.ctx, file_open_model(&w, &g, NULL, &model));
    if (model) {
        check_weights(&g, model);
        CHECK(!model->config.tie_embeddings && model->config.num_overrides == 1);
        CHECK(strcmp(model->config.overrides[0].pattern, "blocks.0.mlp.up") == 0);
        CHECK(model->config.overrides[0].options.storage == DQT_FORMAT_F32);
        CHECK(model->config.linear.storage == DQT_FORMAT_BF16 && model->config.head.storage == DQT_FORMAT_INT8);
    }
    dqt_llama_destroy(model);
    dqt_open_options o;
    OK(w.ctx, dqt_open_options_init(&o, sizeof o));
    o.linear.storage = DQT_FORMAT_INT4;
    o.linear.scale_axis = DQT_AXIS_ROW;
    o.embedding.storage = o.head.storage = DQT_FORMAT_INT8;
    o.activation = DQT_ACTIVATION_INT8;
    OK(w.ctx, file_open_model(&w, &g, &o, &model));
    if (model) {
        const dqt_tensor *q = model->layers[1]->sublayer[BLOCK_ATTENTION]->weight[ATTENTION_Q];
        CHECK(q->storage == FORMAT_INT4 && q->scale_rule == DQT_SCALE_ABSMAX && q->num_scales == 256);
        CHECK(model->config.num_overrides == 0 && model->config.activation == DQT_ACTIVATION_INT8);
        CHECK(model->config.head.storage == DQT_FORMAT_INT8);
    }
    dqt_llama_destroy(model);
    file_end(&g);
    world_end(&w);
}

/* Scales that are easily lost: 0, with codes that then mean nothing; -0; negative; the smallest. */
static void set_odd_scales(struct gguf_tensor *t, size_t at) {
    static const uint16_t halves[] = {0, 0x8000, 0xa400, 0x0001, 0x8001, 0x7bff};
    const struct encoding *e = encoding_of_gguf(t->type);
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++)
        put_le(t->data + 3 * i * e->bytes + at, halves[i], 2);
}

static void check_unchanged(struct open_world *w, const struct gguf_file *g, const dqt_open_options *open,
                            int32_t format, size_t group) {
    struct memory_file out = memory_new();
    dqt_gguf_options o = DQT_INIT(dqt_gguf_options);
    const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    dqt_llama *model = NULL;
    OK(w->ctx, file_open_model(w, g, open, &model));
    if (!model) return;
    const dqt_tensor *q = model->layers[1]->sublayer[BLOCK_ATTENTION]->weight[ATTENTION_Q];
    CHECK(format_public(q->storage) == format && q->group_cols == group && q->half_scales != NULL);
    o.tokens = names;
    o.num_tokens = 8;
    OK(w->ctx, dqt_llama_write_gguf(model, memory_write, &out, &o));
    struct reader r = reader_new(&out);
    size_t compared = 0;
    for (size_t i = 0; i < g->num_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        struct stored s = {.data = NULL};
        if (strcmp(t->name, "token_embd.weight") == 0) continue; /* llama.cpp reads it as Q8_0, F16 or F32 only */
        CHECKF(find_tensor(&r, t->name, &s) && s.type == t->type, "%s", t->name);
        CHECKF(s.data && memcmp(s.data, t->data, t->bytes) == 0, "%s of type %u has other bytes", t->name, t->type);
        compared += t->bytes;
    }
    CHECK(compared > 10000);
    dqt_llama_destroy(model);
    free(out.bytes);
}

/* Q4_0 is int4 in groups of 32, Q8_0 int8, TQ2_0 ternary in groups of 256, bit for bit: opened and exported, no tensor
 * has another byte, whether the formats are the file's or said. */
static void unchanged(void) {
    static const struct {
        uint32_t type;
        int32_t format;
        size_t group, scale_at;
    } cases[] = {{2, DQT_FORMAT_INT4, 32, 0}, {8, DQT_FORMAT_INT8, 32, 0}, {35, DQT_FORMAT_TERNARY, 256, 64}};
    struct open_world w;
    world_begin(&w);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf_file g = file_defaults(cases[i].type);
        dqt_open_options o = DQT_INIT(dqt_open_options);
        for (size_t k = 0; k < g.num_tensors; k++)
            if (g.tensors[k].rows > 8) set_odd_scales(&g.tensors[k], cases[i].scale_at);
        check_unchanged(&w, &g, NULL, cases[i].format, cases[i].group);
        o.linear.storage = cases[i].format;
        o.linear.scale_axis = DQT_AXIS_GROUP;
        o.linear.group_size = (int32_t)cases[i].group;
        check_unchanged(&w, &g, &o, cases[i].format, cases[i].group);
        file_end(&g);
    }
    struct gguf_file g = file_defaults(35); /* a field of 3 is no code */
    file_tensor(&g, "blk.0.ffn_up.weight")->data[66 * 7 + 5] |= 3 << 4;
    dqt_llama *model;
    CHECK(file_open_model(&w, &g, NULL, &model) == DQT_E_FORMAT && !model);
    CHECKF(strstr(dqt_last_error(w.ctx), "blk.0.ffn_up.weight has a ternary field of 3"), "%s", dqt_last_error(w.ctx));
    file_end(&g);
    world_end(&w);
}

/* ---- Refusals -------------------------------------------------------------------------------------------------- */

static void refused(struct open_world *w, const struct gguf_file *g, dqt_status expected, const char *word) {
    dqt_llama *model = (dqt_llama *)w;
    const size_t before = w->memory.bytes;
    const dqt_status status = file_open_model(w, g, NULL, &model);
    CHECKF(status == expected && strstr(dqt_last_error(w->ctx), word), "%s, wanted \"%s\": %s",
           dqt_status_string(status), word, dqt_last_error(w->ctx));
    CHECK(model == NULL && w->memory.bytes == before);
}

#define REFUSE(change, status, word)                                                                                   \
    do {                                                                                                               \
        struct gguf_file g = file_defaults(8);                                                                         \
        change;                                                                                                        \
        refused(&w, &g, status, word);                                                                                 \
        file_end(&g);                                                                                                  \
    } while (0)

static void extra_u32(struct gguf_file *g, const char *key, uint32_t value) {
    put_u32_key(&g->extra, key, value);
    g->num_extra++;
}
static void extra_text(struct gguf_file *g, const char *key, const char *value) {
    put_text_key(&g->extra, key, value);
    g->num_extra++;
}
/* A key whose value begins as given, and is nothing more. */
static void extra_raw(struct gguf_file *g, uint32_t type, uint64_t a, size_t a_bytes, uint64_t b, size_t b_bytes) {
    put_text(&g->extra, "x.y");
    put_number(&g->extra, type, 4);
    put_number(&g->extra, a, a_bytes);
    put_number(&g->extra, b, b_bytes);
    g->num_extra++;
}

static void wrong_keys(void) {
    struct open_world w;
    world_begin(&w);
    REFUSE(g.version = 1, DQT_E_UNSUPPORTED, "version 1");
    REFUSE(g.version = 0x03000000, DQT_E_UNSUPPORTED, "version 50331648");
    REFUSE(g.architecture = "gemma", DQT_E_UNSUPPORTED, "general.architecture is gemma");
    REFUSE(g.hidden = 0, DQT_E_UNSUPPORTED, "embedding_length is 0");
    REFUSE(g.hidden = 255, DQT_E_SHAPE, "hidden 255");
    REFUSE(g.heads = 0, DQT_E_UNSUPPORTED, "attention.head_count is 0");
    REFUSE(g.kv_heads = 3, DQT_E_SHAPE, "kv");
    REFUSE(g.layers = 100, DQT_E_UNSUPPORTED, "block_count is 100");
    REFUSE(g.layers = 2, DQT_E_FORMAT, "blk.1.attn_norm.weight is missing");
    REFUSE(g.eps = 0, DQT_E_UNSUPPORTED, "layer_norm_rms_epsilon is 0");
    REFUSE(g.theta = -1, DQT_E_UNSUPPORTED, "rope.freq_base is -1");
    REFUSE(g.alignment = 48, DQT_E_FORMAT, "alignment");
    REFUSE(extra_u32(&g, "llama.rope.dimension_count", 32), DQT_E_UNSUPPORTED, "rope.dimension_count is 32");
    REFUSE(extra_u32(&g, "llama.attention.value_length", 32), DQT_E_UNSUPPORTED, "value_length is 32");
    REFUSE(extra_u32(&g, "llama.expert_count", 8), DQT_E_UNSUPPORTED, "expert_count is 8");
    REFUSE(extra_text(&g, "llama.rope.scaling.type", "yarn"), DQT_E_UNSUPPORTED, "rope.scaling.type is yarn");
    REFUSE(extra_u32(&g, "llama.attention.sliding_window", 16), DQT_E_UNSUPPORTED, "sliding_window is 16");
    REFUSE(extra_u32(&g, "llama.vocab_size", 9), DQT_E_SHAPE, "token_embd.weight is 8 x 256");
    REFUSE(extra_u32(&g, "llama.block_count", 1), DQT_E_FORMAT, "twice");
    REFUSE(extra_raw(&g, 13, 0, 8, 0, 8), DQT_E_FORMAT, "type 13");
    REFUSE(extra_raw(&g, 8, UINT64_MAX, 8, 0, 0), DQT_E_FORMAT, "18446744073709551615");
    REFUSE(extra_raw(&g, 9, 8, 4, UINT64_MAX, 8), DQT_E_FORMAT, "elements");
    REFUSE(extra_raw(&g, 9, 4, 4, UINT64_MAX / 4, 8), DQT_E_FORMAT, "elements");
    REFUSE(extra_raw(&g, 9, 9, 4, UINT64_MAX / 8, 8), DQT_E_FORMAT, "elements");
    REFUSE(g.more_keys = UINT64_MAX / 16, DQT_E_FORMAT, "elements");
    REFUSE(g.more_tensors = UINT64_MAX / 64, DQT_E_FORMAT, "elements");
    world_end(&w);
}

/* What is not asked for is passed over, whatever its type; a window that is long enough is none. */
static void other_keys(void) {
    struct open_world w;
    world_begin(&w);
    struct gguf_file g = file_defaults(8);
    dqt_llama *model = NULL;
    static const size_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    for (uint32_t type = 0; type < 13; type++)
        if (bytes[type]) extra_raw(&g, type, 1, bytes[type], 0, 0);
    extra_text(&g, "tokenizer.chat_template", "{{ x }}");
    extra_u32(&g, "clip.block_count", 77);
    extra_u32(&g, "llama.attention.sliding_window", 64);
    put_text(&g.extra, "tokenizer.ggml.merges"); /* texts in arrays in an array */
    put_number(&g.extra, 9, 4);
    put_number(&g.extra, 9, 4);
    put_number(&g.extra, 2, 8);
    for (int i = 0; i < 2; i++) {
        put_number(&g.extra, 8, 4);
        put_number(&g.extra, 2, 8);
        put_text(&g.extra, "a b");
        put_text(&g.extra, "");
    }
    g.num_extra++;
    OK(w.ctx, file_open_model(&w, &g, NULL, &model));
    if (model) check_weights(&g, model);
    dqt_llama_destroy(model);
    for (int i = 0; i < 2; i++) { /* three arrays in each other go on, then it is too deep */
        put_text(&g.extra, "deep");
        put_number(&g.extra, 9, 4);
        for (int k = 0; k < 3 + i; k++) {
            put_number(&g.extra, 9, 4);
            put_number(&g.extra, 1, 8);
        }
        put_number(&g.extra, 0, 4);
        put_number(&g.extra, 0, 8);
        g.num_extra++;
        if (i == 0) {
            OK(w.ctx, file_open_model(&w, &g, NULL, &model));
            dqt_llama_destroy(model);
        } else {
            refused(&w, &g, DQT_E_FORMAT, "nested");
        }
    }
    file_end(&g);
    world_end(&w);
}

static void rename_tensor(struct gguf_file *g, const char *name, const char *other) {
    struct gguf_tensor *t = file_tensor(g, name);
    snprintf(t->name, sizeof t->name, "%s", other);
}

static void wrong_tensors(void) {
    struct open_world w;
    world_begin(&w);
    const char *up = "blk.0.ffn_up.weight";
    REFUSE(file_tensor(&g, up)->type = 16, DQT_E_UNSUPPORTED, "type IQ2_XXS");
    REFUSE(file_tensor(&g, up)->type = 99, DQT_E_UNSUPPORTED, "type 99");
    REFUSE(file_tensor(&g, up)->cols = 128, DQT_E_SHAPE, "256 x 128");
    REFUSE(file_tensor(&g, up)->cols = 255, DQT_E_FORMAT, "whole blocks");
    REFUSE(file_tensor(&g, up)->cols = 0, DQT_E_UNSUPPORTED, "neither");
    REFUSE(file_tensor(&g, up)->rows = UINT64_MAX / 64, DQT_E_FORMAT, "too large");
    REFUSE(file_tensor(&g, up)->rows = UINT64_MAX / 512 / 272, DQT_E_FORMAT, "beyond the end");
    REFUSE(file_tensor(&g, up)->offset = 32, DQT_E_FORMAT, "is next");
    REFUSE(file_tensor(&g, up)->offset = 33, DQT_E_FORMAT, "no multiple");
    REFUSE(file_tensor(&g, up)->offset = UINT64_MAX - 31, DQT_E_FORMAT, "beyond the end");
    REFUSE(file_tensor(&g, "output_norm.weight")->offset = 1 << 24, DQT_E_FORMAT, "beyond the end");
    REFUSE(rename_tensor(&g, up, "blk.0.ffn_upper.weight"), DQT_E_FORMAT, "is no parameter");
    REFUSE(rename_tensor(&g, up, "blk.1.ffn_up.weight"), DQT_E_FORMAT, "is no parameter");
    REFUSE(rename_tensor(&g, up, "blk.0.ffn_gate.weight"), DQT_E_FORMAT, "twice");
    REFUSE(rename_tensor(&g, up, ""), DQT_E_FORMAT, "without a name");
    REFUSE(rename_tensor(&g, up, "rope_freqs.weight"), DQT_E_UNSUPPORTED, "rope_freqs.weight is no vector");
    REFUSE(file_add(&g, "blk.0.attn_q.scale", 0, 2, 0), DQT_E_FORMAT, "one number");
    REFUSE(memset(file_tensor(&g, up)->data, 0x7c, 34), DQT_E_FORMAT,
           "ffn_up.weight has a ternary field of 3, which means no weight, or a scale that is not finite");
    REFUSE(memset(file_tensor(&g, "output_norm.weight")->data, 0xff, 4), DQT_E_FORMAT, "not finite");
    struct gguf_file g = file_defaults(35);
    file_tensor(&g, up)->data[5] = 0xc0;
    refused(&w, &g, DQT_E_FORMAT, "field of 3");
    file_end(&g);
    world_end(&w);
}

/* A scale beside the weights, as in bitnet files. */
static void scales_apart(void) {
    struct open_world w;
    world_begin(&w);
    struct gguf_file g = file_defaults(0);
    struct gguf_tensor *scale = file_add(&g, "blk.0.ffn_up.scale", 0, 1, 0),
                       *up = file_tensor(&g, "blk.0.ffn_up.weight");
    put_le(scale->data, f32_bits(0.5f), 4);
    dqt_llama *model = NULL;
    OK(w.ctx, file_open_model(&w, &g, NULL, &model));
    for (size_t i = 0; i < up->bytes; i += 4)
        put_le(up->data + i, f32_bits(0.5f * f32_from_bits((uint32_t)get_le(up->data + i, 4))), 4);
    if (model) check_weights(&g, model);
    dqt_llama_destroy(model);
    file_end(&g);
    world_end(&w);
}

/* Every beginning of a file is refused, and every byte of its head may be anything. */
static void damaged(void) {
    struct open_world w;
    world_begin(&w);
    struct gguf_file g = file_defaults(2);
    struct memory_file f = file_bytes(&g);
    const size_t before = w.memory.bytes, head = 1200;
    uint64_t random = 3;
    for (size_t n = 0; n < f.size; n += n < head ? 1 : 7919) {
        dqt_llama *model;
        world_write(&w, "cut", f.bytes, n);
        const dqt_status status = dqt_llama_open(w.ctx, world_path(&w, "cut"), NULL, &model);
        CHECKF(status == DQT_E_FORMAT && !model && w.memory.bytes == before, "%zu bytes: %d", n, status);
    }
    for (size_t at = 0; at < head; at++) {
        const unsigned char byte = f.bytes[at];
        dqt_llama *model;
        f.bytes[at] = (unsigned char)test_random(&random);
        world_write(&w, "cut", f.bytes, f.size);
        const dqt_status status = dqt_llama_open(w.ctx, world_path(&w, "cut"), NULL, &model);
        CHECK((status == DQT_OK) == (model != NULL));
        CHECKF(status == DQT_OK || dqt_last_error(w.ctx)[0], "byte %zu", at);
        dqt_llama_destroy(model);
        CHECK(w.memory.bytes == before);
        f.bytes[at] = byte;
    }
    world_remove(&w, "cut");
    free(f.bytes);
    file_end(&g);
    world_end(&w);
}

/* Keys of a source go out as they are, but for those of the weights; a source that is wrong is refused. */
static void keys_of_a_source(void) {
    struct open_world w;
    world_begin(&w);
    struct gguf_file g = file_defaults(8);
    extra_text(&g, "tokenizer.ggml.model", "gpt2");
    extra_text(&g, "general.name", "a name");
    extra_text(&g, "tokenizer.chat_template",
               "{{ messages and more than the sixty-four bytes that texts of facts have }}");
    extra_u32(&g, "llama.vocab_size", 8);
    extra_u32(&g, "llama.rope.dimension_count", 64);
    extra_text(&g, "qwen2.pooling_type", "none");
    put_text(&g.extra, "tokenizer.ggml.tokens");
    put_number(&g.extra, 9, 4);
    put_number(&g.extra, 8, 4);
    put_number(&g.extra, 8, 8);
    for (int i = 0; i < 8; i++)
        put_text(&g.extra, i % 2 ? "odd" : "even");
    g.num_extra++;
    struct memory_file f = file_bytes(&g), out = memory_new(), again = memory_new();
    dqt_gguf_options o = DQT_INIT(dqt_gguf_options);
    dqt_llama *model = NULL, *back = NULL;
    char source[GOLDEN_PATH_BYTES];
    world_write(&w, "source", f.bytes, f.size);
    snprintf(source, sizeof source, "%s", world_path(&w, "source"));
    OK(w.ctx, dqt_llama_open(w.ctx, source, NULL, &model));
    o.source = source;
    OK(w.ctx, dqt_llama_write_gguf(model, memory_write, &out, &o));
    static const char *const there[] = {"gpt2",
                                        "a name",
                                        "sixty-four bytes that texts of facts have }}",
                                        "llama.rope.dimension_count",
                                        "general.file_type",
                                        "odd"};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        CHECKF(memmem(out.bytes, out.size, there[i], strlen(there[i])) != NULL, "no %s", there[i]);
    CHECK(!memmem(out.bytes, out.size, "qwen2", 5));
    world_write(&w, "source", out.bytes,
                out.size); /* what is written is opened, and as a source gives the same bytes */
    OK(w.ctx, dqt_llama_open(w.ctx, source, NULL, &back));
    if (back) check_weights(&g, back);
    OK(w.ctx, dqt_llama_write_gguf(model, memory_write, &again, &o));
    CHECK(again.size == out.size && memcmp(again.bytes + again.size / 2, out.bytes + out.size / 2, out.size / 2) == 0);
    const char *token = "x";
    o.tokens = &token;
    o.num_tokens = 8;
    CHECK(dqt_llama_write_gguf(model, memory_write, &again, &o) == DQT_E_ARGUMENT);
    o.tokens = NULL;
    o.num_tokens = 0;
    for (size_t n = 0; n < 700; n += 13) { /* in its keys */
        world_write(&w, "source", f.bytes, n);
        CHECKF(dqt_llama_write_gguf(model, memory_write, &again, &o) == DQT_E_FORMAT, "%zu bytes", n);
    }
    world_remove(&w, "source");
    CHECK(dqt_llama_write_gguf(model, memory_write, &again, &o) == DQT_E_IO);
    free(f.bytes);
    f = file_bytes(&(struct gguf_file){.architecture = "llama", .version = 3});
    world_write(&w, "source", f.bytes, f.size);
    CHECK(dqt_llama_write_gguf(model, memory_write, &again, &o) == DQT_E_ARGUMENT); /* no tokens */
    world_remove(&w, "source");
    dqt_llama_destroy(model);
    dqt_llama_destroy(back);
    free(f.bytes);
    free(out.bytes);
    free(again.bytes);
    file_end(&g);
    world_end(&w);
}

/* Two terabytes that are not there: a head of zeros, and one that claims them. */
static void sparse(void) {
    struct open_world w;
    world_begin(&w);
    const off_t size = (off_t)2 << 40;
    struct gguf_file g = file_defaults(2);
    g.more_tensors = 1 << 20;
    struct memory_file f = file_bytes(&g);
    for (int k = 0; k < 3; k++) {
        dqt_llama *model;
        size_t calls = w.memory.calls;
        world_write(&w, "sparse", f.bytes, k == 0 ? 0 : k == 1 ? 24 : f.size);
        if (truncate(world_path(&w, "sparse"), size) != 0) break; /* a file system without such files */
        const dqt_status status = dqt_llama_open(w.ctx, world_path(&w, "sparse"), NULL, &model);
        CHECKF(status == DQT_E_FORMAT && !model, "%d: %d: %s", k, status, dqt_last_error(w.ctx));
        CHECK(w.memory.calls - calls < 64);
    }
    world_remove(&w, "sparse");
    free(f.bytes);
    file_end(&g);
    world_end(&w);
}

/* Whatever allocation fails, nothing is left. */
static void memory_fails(void) {
    struct open_world w;
    world_begin(&w);
    struct gguf_file g = file_defaults(8);
    dqt_open_options o;
    OK(w.ctx, dqt_open_options_init(&o, sizeof o));
    o.linear.storage = DQT_FORMAT_INT8;
    const size_t before = w.memory.bytes;
    size_t n = 0;
    for (dqt_llama *model = NULL; !model && n < 1000; n++) {
        w.memory.fail_at = w.memory.calls + n;
        const dqt_status status = file_open_model(&w, &g, &o, &model);
        w.memory.fail_at = SIZE_MAX;
        CHECKF(status == DQT_OK || (status == DQT_E_MEMORY && !model), "%zu: %d", n, status);
        dqt_llama_destroy(model);
        CHECK(w.memory.bytes == before);
    }
    CHECK(n > 20 && n < 1000);
    file_end(&g);
    world_end(&w);
}

static const struct test tests[] = {
    TEST(every_type), TEST(mixed),  TEST(wrong_keys),   TEST(other_keys),       TEST(wrong_tensors), TEST(scales_apart),
    TEST(damaged),    TEST(sparse), TEST(memory_fails), TEST(keys_of_a_source), TEST(unchanged)};

TEST_MAIN(tests)
