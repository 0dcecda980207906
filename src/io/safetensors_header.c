#include <string.h>

#include "core/status.h"
#include "io/json.h"
#include "io/safetensors.h"

/* "[1, 2]"; *count may exceed `room`: the rest is read and dropped. */
static dqt_status read_integers(struct json *p, uint64_t *out, size_t room, size_t *count) {
    bool more = true;
    *count = 0;
    TRY(json_expect(p, '['));
    if (json_next_is(p, ']')) return DQT_OK;
    while (more) {
        uint64_t value = 0;
        TRY(json_whole(p, &value));
        if (*count < room) out[*count] = value;
        (*count)++;
        TRY(json_separator(p, ']', &more));
    }
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

static dqt_status read_tensor(struct json *p, struct listing *l) {
    bool more = true, type = false, shape = false, offsets = false;
    char text[FILE_NAME_BYTES];
    TRY(json_expect(p, '{'));
    while (more) {
        TRY(json_string(p, text, sizeof text));
        TRY(json_expect(p, ':'));
        if (strcmp(text, "dtype") == 0 && !type) {
            type = true;
            TRY(json_string(p, text, sizeof text));
            l->type = type_of(text);
        } else if (strcmp(text, "shape") == 0 && !shape) {
            shape = true;
            TRY(read_integers(p, l->shape, MOST_DIMS, &l->dims));
            if (l->dims > MOST_DIMS) l->dims = MOST_DIMS + 1;
        } else if (strcmp(text, "data_offsets") == 0 && !offsets) {
            uint64_t range[2];
            size_t count;
            offsets = true;
            TRY(read_integers(p, range, 2, &count));
            if (count != 2 || range[0] > range[1]) return json_broken(p, "two offsets, begin and end, before this");
            l->begin = range[0];
            l->end = range[1];
        } else {
            return json_broken(p, "dtype, shape and data_offsets, each once, before this");
        }
        TRY(json_separator(p, '}', &more));
    }
    return type && shape && offsets ? DQT_OK : json_broken(p, "dtype, shape and data_offsets, each once, before this");
}

static dqt_status read_metadata(struct json *p, const struct header_visitor *v) {
    bool more = true;
    char key[FILE_NAME_BYTES], value[FILE_NAME_BYTES];
    TRY(json_expect(p, '{'));
    if (json_next_is(p, '}')) return DQT_OK;
    while (more) {
        TRY(json_string(p, key, sizeof key));
        TRY(json_expect(p, ':'));
        TRY(json_string(p, value, sizeof value));
        v->metadata(v->arg, key, value);
        TRY(json_separator(p, '}', &more));
    }
    return DQT_OK;
}

dqt_status header_read(const dqt_context *ctx, const char *text, size_t length, const struct header_visitor *v) {
    struct json parser = {ctx, "safetensors: header", text, length, 0}, *p = &parser;
    bool more, metadata = false;
    if (length == 0 || text[0] != '{') return json_broken(p, "'{'");
    p->at = 1;
    more = !json_next_is(p, '}');
    while (more) {
        struct listing l = {.dims = 0};
        TRY(json_string(p, l.name, sizeof l.name));
        TRY(json_expect(p, ':'));
        if (strcmp(l.name, "__metadata__") == 0) {
            if (metadata) return json_broken(p, "only one __metadata__");
            metadata = true;
            TRY(read_metadata(p, v));
        } else {
            TRY(read_tensor(p, &l));
            TRY(v->tensor(v->arg, &l));
        }
        TRY(json_separator(p, '}', &more));
    }
    return json_end(p);
}
