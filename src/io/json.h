/* JSON text in memory, read from its beginning to its end: RFC 8259. Nothing is allocated, and nothing recurses but
 * what callers of json_members and json_elements do. */
#ifndef DQT_IO_JSON_H
#define DQT_IO_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dqt.h"

enum { JSON_DEPTH = 64 /* arrays and objects in each other, at most */ };

struct json {
    const dqt_context *ctx;
    const char *what; /* "safetensors: header": begins the sentences */
    const char *text;
    size_t length, at;
    size_t key; /* where the latest key of json_members begins */
};

static inline struct json json_of(const dqt_context *ctx, const char *what, const char *text, size_t length) {
    return (struct json){.ctx = ctx, .what = what, .text = text, .length = length};
}

enum json_kind { JSON_OBJECT, JSON_ARRAY, JSON_STRING, JSON_NUMBER, JSON_TRUE, JSON_FALSE, JSON_NULL, JSON_NOTHING };

/* DQT_E_FORMAT, with the byte where something else was expected. */
dqt_status json_broken(const struct json *j, const char *expected);

/* What comes next; NOTHING: the end, or what begins no value. */
enum json_kind json_peek(struct json *j);
/* Goes past c, which may have space before it. */
dqt_status json_expect(struct json *j, char c);
/* All of an object: calls `member` at the value of each, past which it goes. Keys are cut off to JSON_KEY bytes, as
 * json_string does. */
enum { JSON_KEY = 96 };
typedef dqt_status (*json_member_fn)(void *arg, struct json *j, const char *key);
dqt_status json_members(struct json *j, json_member_fn member, void *arg);
/* The same of an array. */
typedef dqt_status (*json_element_fn)(void *arg, struct json *j);
dqt_status json_elements(struct json *j, json_element_fn element, void *arg);
/* Nothing but space is left. */
dqt_status json_end(struct json *j);

/* Into out[room], in UTF-8, cut off; escaped NULs and halves of pairs that stand alone become '?'. */
dqt_status json_string(struct json *j, char *out, size_t room);
/* A number without sign, fraction and exponent, of at most 64 bits. */
dqt_status json_whole(struct json *j, uint64_t *out);
/* Any number: within an ulp or two of the double that is nearest; whatever the host's locale is. */
dqt_status json_number(struct json *j, double *out);
/* true, false or null. */
dqt_status json_word(struct json *j, enum json_kind *out);
/* Goes past any value. */
dqt_status json_skip(struct json *j);

#endif
