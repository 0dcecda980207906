/* A small JSON reader: the whole text becomes an array of nodes. */
#ifndef JSON_H
#define JSON_H

#include <stddef.h>

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* Nodes are in the order of the text: after an array its items, after an object key, value, key, value ... */
struct json_node {
    enum json_type type;
    size_t size;      /* bytes of a string; items of an array, pairs of an object */
    size_t next;      /* nodes from here to what follows this one with all that is inside */
    const char *text; /* of a number (not terminated) or a string (0-terminated, may hold zeros) */
};

struct json {
    struct json_node *nodes; /* the first is the whole */
    size_t count, room;
};

/* Reads text[size] with a 0 after it; strings are decoded in place, so the text must stay. Returns NULL or a sentence;
 * json_free in either case. */
const char *json_read(struct json *j, char *text, size_t size);
void json_free(struct json *j);

/* The value of a key of an object, or NULL, also where `object` is NULL or none. */
const struct json_node *json_get(const struct json_node *object, const char *key);

/* Whether a node is there and is this string. */
int json_is(const struct json_node *n, const char *string);

#endif
