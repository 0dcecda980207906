#include <string.h>

#include "core/status.h"
#include "io/safetensors.h"

struct parser {
    const dqt_context *ctx;
    const char *text;
    size_t length, at;
};

static dqt_status broken(const struct parser *p, const char *expected) {
    return fail(p->ctx, DQT_E_FORMAT, "safetensors: header, byte %zu: expected %s", p->at, expected);
}

static void skip_space(struct parser *p) {
    while (p->at < p->length && strchr(" \t\r\n", p->text[p->at]) && p->text[p->at])
        p->at++;
}

static bool next_is(struct parser *p, char c) {
    skip_space(p);
    if (p->at >= p->length || p->text[p->at] != c) return false;
    p->at++;
    return true;
}

static dqt_status expect(struct parser *p, char c) {
    const char what[] = {'\'', c, '\'', '\0'};
    return next_is(p, c) ? DQT_OK : broken(p, what);
}

/* After an element: *more says whether a ',' and not the end follows. */
static dqt_status separator(struct parser *p, char end, bool *more) {
    *more = next_is(p, ',');
    return *more ? DQT_OK : expect(p, end);
}

static int hex(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* What follows a backslash. Characters outside ASCII become '?', which is in no name that this library knows. */
static dqt_status read_escape(struct parser *p, char *out) {
    static const char plain[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    if (p->at >= p->length) return broken(p, "an escape");
    const char c = p->text[p->at++];
    const char *found = c ? strchr(plain, c) : NULL;
    if (found) {
        *out = meaning[found - plain];
        return DQT_OK;
    }
    unsigned code = 0;
    for (int i = 0; i < 4; i++) {
        const int digit = c == 'u' && p->at < p->length ? hex(p->text[p->at]) : -1;
        if (digit < 0) return broken(p, "an escape");
        code = 16 * code + (unsigned)digit;
        p->at++;
    }
    *out = code > 0 && code < 128 ? (char)code : '?';
    return DQT_OK;
}

/* Into out[FILE_NAME_BYTES], cut off. */
static dqt_status read_string(struct parser *p, char *out) {
    size_t n = 0;
    TRY(expect(p, '"'));
    for (;;) {
        if (p->at >= p->length || (unsigned char)p->text[p->at] < ' ') return broken(p, "the end of a string");
        char c = p->text[p->at++];
        if (c == '"') break;
        if (c == '\\') TRY(read_escape(p, &c));
        if (n + 1 < FILE_NAME_BYTES) out[n++] = c;
    }
    out[n] = '\0';
    return DQT_OK;
}

static dqt_status read_integer(struct parser *p, uint64_t *out) {
    uint64_t value = 0;
    skip_space(p);
    const size_t first = p->at;
    while (p->at < p->length && p->text[p->at] >= '0' && p->text[p->at] <= '9') {
        const uint64_t digit = (uint64_t)(p->text[p->at] - '0');
        if (value > (UINT64_MAX - digit) / 10) return broken(p, "a number of at most 64 bits");
        value = 10 * value + digit;
        p->at++;
    }
    if (p->at == first || (p->text[first] == '0' && p->at - first > 1)) return broken(p, "a whole number");
    *out = value;
    return DQT_OK;
}

/* "[1, 2]"; *count may exceed `room`: the rest is read and dropped. */
static dqt_status read_integers(struct parser *p, uint64_t *out, size_t room, size_t *count) {
    bool more = true;
    *count = 0;
    TRY(expect(p, '['));
    if (next_is(p, ']')) return DQT_OK;
    while (more) {
        uint64_t value = 0;
        TRY(read_integer(p, &value));
        if (*count < room) out[*count] = value;
        (*count)++;
        TRY(separator(p, ']', &more));
    }
    return DQT_OK;
}

size_t element_bytes(enum element_type type) {
    return type == TYPE_F32 ? 4 : type == TYPE_BF16 || type == TYPE_F16 ? 2 : type == TYPE_U8 ? 1 : 0;
}

static enum element_type type_of(const char *name) {
    static const char *const names[] = {"F32", "BF16", "F16", "U8"};
    for (int i = 0; i < TYPE_OTHER; i++)
        if (strcmp(name, names[i]) == 0) return (enum element_type)i;
    return TYPE_OTHER;
}

static dqt_status read_tensor(struct parser *p, struct listing *l) {
    bool more = true, type = false, shape = false, offsets = false;
    char text[FILE_NAME_BYTES];
    TRY(expect(p, '{'));
    while (more) {
        TRY(read_string(p, text));
        TRY(expect(p, ':'));
        if (strcmp(text, "dtype") == 0 && !type) {
            type = true;
            TRY(read_string(p, text));
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
            if (count != 2 || range[0] > range[1]) return broken(p, "two offsets, begin and end, before this");
            l->begin = range[0];
            l->end = range[1];
        } else {
            return broken(p, "dtype, shape and data_offsets, each once, before this");
        }
        TRY(separator(p, '}', &more));
    }
    return type && shape && offsets ? DQT_OK : broken(p, "dtype, shape and data_offsets, each once, before this");
}

static dqt_status read_metadata(struct parser *p, const struct header_visitor *v) {
    bool more = true;
    char key[FILE_NAME_BYTES], value[FILE_NAME_BYTES];
    TRY(expect(p, '{'));
    if (next_is(p, '}')) return DQT_OK;
    while (more) {
        TRY(read_string(p, key));
        TRY(expect(p, ':'));
        TRY(read_string(p, value));
        v->metadata(v->arg, key, value);
        TRY(separator(p, '}', &more));
    }
    return DQT_OK;
}

dqt_status header_read(const dqt_context *ctx, const char *text, size_t length, const struct header_visitor *v) {
    struct parser parser = {ctx, text, length, 0}, *p = &parser;
    bool more, metadata = false;
    if (length == 0 || text[0] != '{') return broken(p, "'{'");
    p->at = 1;
    more = !next_is(p, '}');
    while (more) {
        struct listing l = {.dims = 0};
        TRY(read_string(p, l.name));
        TRY(expect(p, ':'));
        if (strcmp(l.name, "__metadata__") == 0) {
            if (metadata) return broken(p, "only one __metadata__");
            metadata = true;
            TRY(read_metadata(p, v));
        } else {
            TRY(read_tensor(p, &l));
            TRY(v->tensor(v->arg, &l));
        }
        TRY(separator(p, '}', &more));
    }
    skip_space(p);
    return p->at == p->length ? DQT_OK : broken(p, "the end");
}
