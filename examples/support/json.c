#include "json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "die.h"
#include "unicode.h"

enum { DEEPEST = 64 };

struct reader {
    struct json *json;
    char *at, *end;
    const char *problem;
};

static size_t add(struct reader *r, enum json_type type) {
    struct json *j = r->json;
    if (j->count == j->room) {
        j->room = j->room ? 2 * j->room : 1024;
        j->nodes = must_grow(j->nodes, j->room, sizeof *j->nodes);
    }
    j->nodes[j->count] = (struct json_node){type, 0, 1, r->at};
    return j->count++;
}

static void blanks(struct reader *r) {
    while (r->at < r->end && strchr(" \t\r\n", *r->at) && *r->at)
        r->at++;
}

static int take(struct reader *r, const char *word) {
    const size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return 0;
    r->at += n;
    return 1;
}

/* Four hexadecimal digits, or UINT32_MAX. */
static uint32_t hex4(const struct reader *r, const char *p) {
    uint32_t value = 0;
    if (r->end - p < 4) return UINT32_MAX;
    for (int i = 0; i < 4; i++) {
        const char *digits = "0123456789abcdef", c = p[i];
        const char *d = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
        if (!d) return UINT32_MAX;
        value = value << 4 | (uint32_t)(d - digits);
    }
    return value;
}

/* After "\u": one character, of one escape or of a pair of surrogates; a single surrogate becomes U+FFFD. */
static char *unescape(struct reader *r, char *out) {
    uint32_t c = hex4(r, r->at);
    if (c == UINT32_MAX) {
        r->problem = "a \\u without four digits";
        return out;
    }
    r->at += 4;
    if (c >= 0xD800 && c < 0xDC00 && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u') {
        const uint32_t low = hex4(r, r->at + 2);
        if (low >= 0xDC00 && low < 0xE000) {
            c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
            r->at += 6;
        }
    }
    if (c >= 0xD800 && c < 0xE000) c = 0xFFFD;
    return out + utf8_encode(c, (unsigned char *)out); /* at most 4 bytes of the 6 that were read */
}

static void read_string(struct reader *r) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    r->at++;
    const size_t node = add(r, JSON_STRING);
    char *out = r->at, *const first = out;
    while (r->at < r->end && *r->at != '"' && !r->problem) {
        if (*r->at != '\\') {
            *out++ = *r->at++;
            continue;
        }
        r->at++;
        const char c = r->at < r->end ? *r->at : '\0';
        const char *known = c ? strchr(from, c) : NULL;
        r->at++;
        if (c == 'u')
            out = unescape(r, out);
        else if (known)
            *out++ = to[known - from];
        else
            r->problem = "an unknown escape in a string";
    }
    if (r->at >= r->end) r->problem = "a string without an end";
    if (r->problem) return;
    r->at++;
    *out = '\0';
    r->json->nodes[node].size = (size_t)(out - first);
}

static void read_value(struct reader *r, int depth);

static void read_list(struct reader *r, enum json_type type, int depth) {
    const size_t node = add(r, type);
    const char close = type == JSON_ARRAY ? ']' : '}';
    size_t size = 0;
    r->at++;
    blanks(r);
    while (!r->problem && (r->at >= r->end || *r->at != close)) {
        if (size && !take(r, ",")) {
            r->problem = "a comma is missing";
            return;
        }
        blanks(r);
        if (type == JSON_OBJECT) {
            const int key = r->at < r->end && *r->at == '"';
            if (key) read_string(r);
            blanks(r);
            if (!r->problem && (!key || !take(r, ":"))) r->problem = "a key of an object is wrong";
        }
        if (!r->problem) read_value(r, depth + 1);
        blanks(r);
        size++;
    }
    r->at++;
    r->json->nodes[node].size = size;
    r->json->nodes[node].next = r->json->count - node;
}

static void read_value(struct reader *r, int depth) {
    blanks(r);
    const char c = r->at < r->end ? *r->at : '\0';
    if (depth > DEEPEST)
        r->problem = "it is nested too deep";
    else if (c == '"')
        read_string(r);
    else if (c == '[' || c == '{')
        read_list(r, c == '[' ? JSON_ARRAY : JSON_OBJECT, depth);
    else if (c && strchr("-0123456789", c)) {
        add(r, JSON_NUMBER);
        strtod(r->at, &r->at);
    } else if (take(r, "null"))
        add(r, JSON_NULL);
    else if (take(r, "true"))
        add(r, JSON_TRUE);
    else if (take(r, "false"))
        add(r, JSON_FALSE);
    else
        r->problem = "a value is missing";
}

const char *json_read(struct json *j, char *text, size_t size) {
    *j = (struct json){0};
    struct reader r = {j, text, text + size, NULL};
    read_value(&r, 0);
    blanks(&r);
    if (!r.problem && r.at != r.end) r.problem = "something follows its end";
    return r.problem;
}

void json_free(struct json *j) {
    free(j->nodes);
    *j = (struct json){0};
}

const struct json_node *json_get(const struct json_node *object, const char *key) {
    if (!object || object->type != JSON_OBJECT) return NULL;
    const struct json_node *n = object + 1;
    for (size_t i = 0; i < object->size; i++, n += 1 + n[1].next)
        if (json_is(n, key)) return n + 1;
    return NULL;
}

int json_is(const struct json_node *n, const char *string) {
    return n && n->type == JSON_STRING && n->size == strlen(string) && memcmp(n->text, string, n->size) == 0;
}
