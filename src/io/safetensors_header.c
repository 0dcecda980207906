#include <string.h>

#include "core/status.h"
#include "io/json.h"
#include "io/safetensors.h"

/* "[1, 2]"; count may exceed `room`: the rest is read and dropped. */
struct integers {
    uint64_t *out;
    size_t room, count;
};

static dqt_status read_integer(void *arg, struct json *p) {
    struct integers *a = arg;
    uint64_t value = 0;
    TRY(json_whole(p, &value));
    if (a->count < a->room) a->out[a->count] = value;
    a->count++;
    return DQT_OK;
}

size_t element_bytes(enum element_type type) {
    return type == TYPE_F32 ? 4 : type == TYPE_BF16 || type == TYPE_F16 ? 2 : type == TYPE_U8 ? 1 : 0;
}

const struct encoding *element_encoding(enum element_type type) {
    enum { F32 = 0, F16 = 1, BF16 = 30 }; /* as GGUF numbers them */
    switch (type) {
    case TYPE_F32: return encoding_of_gguf(F32);
    case TYPE_F16: return encoding_of_gguf(F16);
    case TYPE_BF16: return encoding_of_gguf(BF16);
    case TYPE_U8: return &encoding_packed;
    case TYPE_OTHER: break;
    }
    return NULL;
}

static enum element_type type_of(const char *name) {
    static const char *const names[] = {"F32", "BF16", "F16", "U8"};
    for (int i = 0; i < TYPE_OTHER; i++)
        if (strcmp(name, names[i]) == 0) return (enum element_type)i;
    return TYPE_OTHER;
}

_Static_assert((int)JSON_KEY >= (int)FILE_NAME_BYTES, "names of tensors are keys");

struct entry {
    struct listing l;
    bool type, shape, offsets; /* what there was */
};

static dqt_status read_entry(void *arg, struct json *p, const char *key) {
    struct entry *e = arg;
    struct listing *l = &e->l;
    if (strcmp(key, "dtype") == 0 && !e->type) {
        char text[FILE_NAME_BYTES];
        e->type = true;
        TRY(json_string(p, text, sizeof text));
        l->type = type_of(text);
        return DQT_OK;
    }
    if (strcmp(key, "shape") == 0 && !e->shape) {
        struct integers shape = {l->shape, MOST_DIMS, 0};
        e->shape = true;
        TRY(json_elements(p, read_integer, &shape));
        l->dims = shape.count > MOST_DIMS ? MOST_DIMS + 1 : shape.count;
        return DQT_OK;
    }
    if (strcmp(key, "data_offsets") == 0 && !e->offsets) {
        uint64_t range[2];
        struct integers offsets = {range, 2, 0};
        e->offsets = true;
        TRY(json_elements(p, read_integer, &offsets));
        if (offsets.count != 2 || range[0] > range[1]) return json_broken(p, "two offsets, begin and end, before this");
        l->begin = range[0];
        l->end = range[1];
        return DQT_OK;
    }
    return json_broken(p, "dtype, shape and data_offsets, each once, before this");
}

struct header {
    const struct header_visitor *visitor;
    bool metadata; /* there was one */
};

static dqt_status read_metadata(void *arg, struct json *p, const char *key) {
    const struct header *h = arg;
    char value[FILE_NAME_BYTES];
    TRY(json_string(p, value, sizeof value));
    h->visitor->metadata(h->visitor->arg, key, value);
    return DQT_OK;
}

static dqt_status read_listing(void *arg, struct json *p, const char *key) {
    struct header *h = arg;
    if (strcmp(key, "__metadata__") == 0) {
        if (h->metadata) return json_broken(p, "only one __metadata__");
        h->metadata = true;
        return json_members(p, read_metadata, h);
    }
    struct entry e = {.l.dims = 0};
    strncat(e.l.name, key, sizeof e.l.name - 1);
    TRY(json_members(p, read_entry, &e));
    if (!e.type || !e.shape || !e.offsets)
        return json_broken(p, "dtype, shape and data_offsets, each once, before this");
    return h->visitor->tensor(h->visitor->arg, &e.l);
}

dqt_status header_read(const dqt_context *ctx, const char *text, size_t length, const struct header_visitor *v) {
    struct json p = json_of(ctx, "safetensors: header", text, length);
    struct header h = {.visitor = v};
    if (length == 0 || text[0] != '{') return json_broken(&p, "'{'");
    TRY(json_members(&p, read_listing, &h));
    return json_end(&p);
}
