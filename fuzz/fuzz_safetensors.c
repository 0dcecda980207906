/* safetensors files into models of several formats. What is refused changes nothing; what is accepted can be saved,
 * used and exported, and the export is accepted again. The first byte of the input says which model. The mutator
 * changes words and numbers of the JSON header and numbers of the data, and keeps the header's length right. */
#define _GNU_SOURCE
#include "fuzz.h"

static struct model {
    dqt_llama *llama;
    struct bytes fresh; /* the checkpoint of the model as it was made */
} models[FUZZ_MODELS];

static struct bytes checkpoint_of(const struct model *m) {
    struct bytes b = {0};
    REQUIRE(dqt_llama_write(m->llama, NULL, bytes_write, &b, NULL) == DQT_OK, "%s", dqt_last_error(fuzz_context()));
    return b;
}

static struct model *model_of(uint8_t which) {
    struct model *m = &models[which % FUZZ_MODELS];
    if (!m->llama) {
        m->llama = fuzz_model(which % FUZZ_MODELS);
        m->fresh = checkpoint_of(m);
    }
    return m;
}

static dqt_status import(struct model *m, const uint8_t *data, size_t size) {
    const struct path path = path_to(data, size);
    const size_t before = fuzz_memory.now;
    fuzz_memory.peak = before;
    dqt_import_options o = DQT_INIT(dqt_import_options);
    o.rounding = size % 2 ? DQT_ROUND_STOCHASTIC : DQT_ROUND_NEAREST;
    o.seed = size;
    const dqt_status status = dqt_llama_import_safetensors(m->llama, path.text, &o);
    close(path.descriptor);
    REQUIRE(fuzz_memory.now == before, "%zu bytes leaked", fuzz_memory.now - before);
    REQUIRE(fuzz_memory.peak - before <= 64 * size + (1u << 20), "%zu bytes for a file of %zu",
            fuzz_memory.peak - before, size);
    return status;
}

/* Generation and export with the imported weights; afterwards the model is a fresh one. */
static void use(struct model *m) {
    static const int32_t tokens[3] = {0, 1, 2};
    float logits[64];
    dqt_session *session;
    REQUIRE(dqt_session_create(m->llama, NULL, &session) == DQT_OK, "session");
    dqt_session_append(session, tokens, 3, logits);
    dqt_session_destroy(session);
    dqt_safetensors_options o;
    dqt_safetensors_options_init(&o, sizeof o);
    o.stored = 1;
    struct bytes out = {0};
    const dqt_status status = dqt_llama_write_safetensors(m->llama, bytes_write, &out, &o);
    REQUIRE(status == DQT_OK || status == DQT_E_NUMERIC, "%d: %s", status, dqt_last_error(fuzz_context()));
    if (status == DQT_OK)
        REQUIRE(import(m, out.data, out.size) == DQT_OK, "own export: %s", dqt_last_error(fuzz_context()));
    free(out.data);
    dqt_llama_destroy(m->llama);
    free(m->fresh.data);
    *m = (struct model){0};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    struct model *m = model_of(data[0]);
    const dqt_status status = import(m, data + 1, size - 1);
    struct bytes now = checkpoint_of(m);
    if (status == DQT_OK) {
        use(m);
    } else {
        REQUIRE(status == DQT_E_FORMAT || status == DQT_E_SHAPE, "%d: %s", status, dqt_last_error(fuzz_context()));
        REQUIRE(dqt_last_error(fuzz_context())[0], "no sentence");
        REQUIRE(bytes_equal(&now, m->fresh.data, m->fresh.size), "status %d, and the model has changed", status);
    }
    free(now.data);
    return 0;
}

/* ---- The mutator ---------------------------------------------------------------------------------------------- */

enum { MOST_PART = 60000, FRONT = 9 /* the model's number and the header's length */ };

static uint8_t header[MOST_PART + 256], body[MOST_PART + 256];
static size_t header_size, body_size;

static void put_text(size_t at, size_t replaced, const char *text) {
    const size_t n = strlen(text);
    memmove(header + at + n, header + at + replaced, header_size - at - replaced);
    memcpy(header + at, text, n);
    header_size += n - replaced;
}

static void change_header_number(void) {
    size_t at = chance(header_size), end;
    while (at < header_size && (header[at] < '0' || header[at] > '9'))
        at++;
    for (end = at; end < header_size && header[end] >= '0' && header[end] <= '9'; end++) {
    }
    unsigned long long old = 0;
    for (size_t i = at; i < end; i++)
        old = 10 * old + header[i] - '0';
    char text[24];
    snprintf(text, sizeof text, "%llu", chance(3) ? old + chance(9) - 4 : (unsigned long long)odd_number());
    put_text(at, end - at, text);
}

static void change_header_word(void) {
    static const char *const words[] = {"F32",
                                        "BF16",
                                        "F16",
                                        "U8",
                                        "I8",
                                        "[]",
                                        "[0,0]",
                                        "0",
                                        "1",
                                        "9223372036854775807",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "\\u0041",
                                        "\\",
                                        "\"",
                                        " ",
                                        "null",
                                        "-1",
                                        "1e9",
                                        "_scale",
                                        "lm_head.weight",
                                        "true",
                                        "\\ud800",
                                        "layers",
                                        ".0.",
                                        "model.layers.0.self_attn.rotary_emb.inv_freq",
                                        "\"__metadata__\":{}",
                                        "\"dqt.linear\":\"ternary\""};
    const char *word = words[chance(sizeof words / sizeof *words)];
    const size_t at = chance(header_size + 1), room = header_size - at;
    put_text(at, chance(2) ? 0 : strlen(word) < room ? strlen(word) : room, word);
}

static void change_data_numbers(void) {
    if (body_size < 4) return;
    const size_t count = chance(4) ? 1 : 16, at = chance(body_size / 4) * 4;
    for (size_t i = 0; i < count && at + 4 * i + 4 <= body_size; i++) {
        const uint32_t number = (uint32_t)odd_number();
        memcpy(body + at + 4 * i, &number, 4);
    }
}

static void change(void) {
    switch (chance(10)) {
    case 0:
    case 1: change_header_number(); break;
    case 2:
    case 3: change_header_word(); break;
    case 4:
        if (header_size) header[chance(header_size)] = (uint8_t)chance(256);
        break;
    case 5: header_size = LLVMFuzzerMutate(header, header_size, header_size + 64); break;
    case 6:
    case 7: change_data_numbers(); break;
    case 8:
        if (body_size) body[chance(body_size)] ^= (uint8_t)(1u << chance(8));
        break;
    default: body_size = LLVMFuzzerMutate(body, body_size, body_size + 64); break;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    uint64_t length;
    fuzz_state = seed;
    if (size < FRONT || chance(30) == 0) return LLVMFuzzerMutate(data, size, max_size);
    memcpy(&length, data + 1, 8);
    if (length > size - FRONT || size > MOST_PART) return LLVMFuzzerMutate(data, size, max_size);
    header_size = (size_t)length;
    body_size = size - FRONT - header_size;
    memcpy(header, data + FRONT, header_size);
    memcpy(body, data + FRONT + header_size, body_size);
    change();
    if (FRONT + header_size + body_size > max_size) return size;
    if (chance(40) == 0) data[0] = (uint8_t)chance(256);
    length = chance(60) ? header_size : header_size + chance(3) - 1;
    memcpy(data + 1, &length, 8);
    memcpy(data + FRONT, header, header_size);
    memcpy(data + FRONT + header_size, body, body_size);
    return FRONT + header_size + body_size;
}
