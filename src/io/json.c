#include "io/json.h"

#include <math.h>
#include <string.h>

#include "core/status.h"

dqt_status json_broken(const struct json *j, const char *expected) {
    return fail(j->ctx, DQT_E_FORMAT, "%s, byte %zu: expected %s", j->what, j->at, expected);
}

static void skip_space(struct json *j) {
    while (j->at < j->length && strchr(" \t\r\n", j->text[j->at]) && j->text[j->at])
        j->at++;
}

/* Goes past c, which may have space before it, or says that something else is next. */
static bool next_is(struct json *j, char c) {
    skip_space(j);
    if (j->at >= j->length || j->text[j->at] != c) return false;
    j->at++;
    return true;
}

dqt_status json_expect(struct json *j, char c) {
    const char what[] = {'\'', c, '\'', '\0'};
    return next_is(j, c) ? DQT_OK : json_broken(j, what);
}

/* After an element: *more says whether a ',' and not the end follows. */
static dqt_status separator(struct json *j, char end, bool *more) {
    *more = next_is(j, ',');
    return *more ? DQT_OK : json_expect(j, end);
}

dqt_status json_end(struct json *j) {
    skip_space(j);
    return j->at == j->length ? DQT_OK : json_broken(j, "the end");
}

dqt_status json_members(struct json *j, json_member_fn member, void *arg) {
    char key[JSON_KEY];
    bool more = true;
    TRY(json_expect(j, '{'));
    if (next_is(j, '}')) return DQT_OK;
    while (more) {
        skip_space(j);
        j->key = j->at;
        TRY(json_string(j, key, sizeof key));
        TRY(json_expect(j, ':'));
        TRY(member(arg, j, key));
        TRY(separator(j, '}', &more));
    }
    return DQT_OK;
}

dqt_status json_elements(struct json *j, json_element_fn element, void *arg) {
    bool more = true;
    TRY(json_expect(j, '['));
    if (next_is(j, ']')) return DQT_OK;
    while (more) {
        TRY(element(arg, j));
        TRY(separator(j, ']', &more));
    }
    return DQT_OK;
}

enum json_kind json_peek(struct json *j) {
    skip_space(j);
    if (j->at >= j->length) return JSON_NOTHING;
    const char c = j->text[j->at];
    if ((c >= '0' && c <= '9') || c == '-') return JSON_NUMBER;
    switch (c) {
    case '{': return JSON_OBJECT;
    case '[': return JSON_ARRAY;
    case '"': return JSON_STRING;
    case 't': return JSON_TRUE;
    case 'f': return JSON_FALSE;
    case 'n': return JSON_NULL;
    default: return JSON_NOTHING;
    }
}

/* ---- Strings ------------------------------------------------------------------------------------------------- */

/* Where a string goes: what does not fit is dropped. */
struct cut {
    char *out;
    size_t room, used;
};

static void put(struct cut *c, char byte) {
    if (c->used + 1 < c->room) c->out[c->used++] = byte;
}

static void put_utf8(struct cut *c, uint32_t code) {
    if (code < 0x80) {
        put(c, (char)code);
        return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned lead[] = {0, 0xC0, 0xE0, 0xF0};
    put(c, (char)(lead[more] | code >> 6 * more));
    for (int i = more; i-- > 0;)
        put(c, (char)(0x80 | (code >> 6 * i & 0x3F)));
}

static int hex(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* "uXXXX" at `at`; false where it is not. */
static bool read_unit(const struct json *j, size_t at, uint32_t *code) {
    if (j->length < 5 || at > j->length - 5 || j->text[at] != 'u') return false;
    *code = 0;
    for (size_t i = 1; i <= 4; i++) {
        const int digit = hex(j->text[at + i]);
        if (digit < 0) return false;
        *code = 16 * *code + (uint32_t)digit;
    }
    return true;
}

/* What follows a backslash. */
static dqt_status read_escape(struct json *j, struct cut *c) {
    static const char plain[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    const char *found = j->at < j->length && j->text[j->at] ? strchr(plain, j->text[j->at]) : NULL;
    if (found) {
        put(c, meaning[found - plain]);
        j->at++;
        return DQT_OK;
    }
    uint32_t code, low;
    if (!read_unit(j, j->at, &code)) return json_broken(j, "an escape");
    j->at += 5;
    if (code >= 0xD800 && code < 0xDC00 && j->at < j->length && j->text[j->at] == '\\' &&
        read_unit(j, j->at + 1, &low) && low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        j->at += 6;
    }
    put_utf8(c, code == 0 || (code >= 0xD800 && code < 0xE000) ? '?' : code);
    return DQT_OK;
}

dqt_status json_string(struct json *j, char *out, size_t room) {
    struct cut c = {out, room, 0};
    TRY(json_expect(j, '"'));
    for (;;) {
        if (j->at >= j->length || (unsigned char)j->text[j->at] < ' ') return json_broken(j, "the end of a string");
        const char byte = j->text[j->at++];
        if (byte == '"') break;
        if (byte == '\\')
            TRY(read_escape(j, &c));
        else
            put(&c, byte);
    }
    if (room) out[c.used] = '\0';
    return DQT_OK;
}

/* ---- Numbers and words --------------------------------------------------------------------------------------- */

static bool digit_next(const struct json *j) {
    return j->at < j->length && j->text[j->at] >= '0' && j->text[j->at] <= '9';
}

dqt_status json_whole(struct json *j, uint64_t *out) {
    uint64_t value = 0;
    skip_space(j);
    const size_t first = j->at;
    while (digit_next(j)) {
        const uint64_t digit = (uint64_t)(j->text[j->at] - '0');
        if (value > (UINT64_MAX - digit) / 10) return json_broken(j, "a number of at most 64 bits");
        value = 10 * value + digit;
        j->at++;
    }
    if (j->at == first || (j->text[first] == '0' && j->at - first > 1)) return json_broken(j, "a whole number");
    *out = value;
    return DQT_OK;
}

/* Digits into *value, as far as 64 bits hold them. Those that are dropped count in *dropped. False: there are none. */
static bool read_digits(struct json *j, uint64_t *value, int *read, int *dropped) {
    if (!digit_next(j)) return false;
    for (; digit_next(j); j->at++) {
        const int count = *value > (UINT64_MAX - 9) / 10;
        int *counter = count ? dropped : read;
        if (*counter < 100000) (*counter)++;
        if (!count) *value = 10 * *value + (uint64_t)(j->text[j->at] - '0');
    }
    return true;
}

dqt_status json_number(struct json *j, double *out) {
    uint64_t digits = 0, power = 0;
    int whole = 0, fraction = 0, dropped = 0, unused = 0;
    const bool negative = next_is(j, '-');
    const size_t first = j->at;
    if (!read_digits(j, &digits, &whole, &dropped) || (j->text[first] == '0' && j->at - first > 1))
        return json_broken(j, "a number");
    if (j->at < j->length && j->text[j->at] == '.') {
        j->at++;
        if (!read_digits(j, &digits, &fraction, &unused)) return json_broken(j, "digits");
    }
    double exponent = dropped - fraction;
    if (j->at < j->length && (j->text[j->at] == 'e' || j->text[j->at] == 'E')) {
        j->at++;
        const bool down = j->at < j->length && j->text[j->at] == '-';
        if (down || (j->at < j->length && j->text[j->at] == '+')) j->at++;
        if (!read_digits(j, &power, &unused, &unused)) return json_broken(j, "digits");
        exponent += down ? -(double)power : (double)power;
    }
    /* A power of ten up to 22 is exact as a double; a larger one is taken in two steps, each of which a double holds.
     */
    exponent = fmax(-616, fmin(616, exponent));
    const double half = fabs(exponent) <= 22 ? 0 : floor(exponent / 2), rest = exponent - half;
    *out = exponent < 0 ? (double)digits / pow(10, -half) / pow(10, -rest)
                        : (double)digits * pow(10, half) * pow(10, rest);
    if (negative) *out = -*out;
    return isfinite(*out) ? DQT_OK : json_broken(j, "a number that a double holds before this");
}

dqt_status json_word(struct json *j, enum json_kind *out) {
    static const char *const words[] = {[JSON_TRUE] = "true", [JSON_FALSE] = "false", [JSON_NULL] = "null"};
    *out = json_peek(j);
    if (*out != JSON_TRUE && *out != JSON_FALSE && *out != JSON_NULL) return json_broken(j, "true, false or null");
    const size_t n = strlen(words[*out]);
    if (j->length - j->at < n || memcmp(j->text + j->at, words[*out], n) != 0)
        return json_broken(j, "true, false or null");
    j->at += n;
    return DQT_OK;
}

/* A value that holds no others. */
static dqt_status skip_plain(struct json *j) {
    double number;
    enum json_kind word;
    const enum json_kind kind = json_peek(j);
    if (kind == JSON_STRING) return json_string(j, NULL, 0);
    if (kind == JSON_NUMBER) return json_number(j, &number);
    return json_word(j, &word);
}

static dqt_status skip_key(struct json *j) {
    TRY(json_string(j, NULL, 0));
    return json_expect(j, ':');
}

dqt_status json_skip(struct json *j) {
    char ends[JSON_DEPTH]; /* of what is open */
    size_t depth = 0;
    for (;;) {
        const enum json_kind kind = json_peek(j);
        if (kind == JSON_OBJECT || kind == JSON_ARRAY) {
            if (depth == JSON_DEPTH) return json_broken(j, "less deeply nested values");
            ends[depth] = kind == JSON_OBJECT ? '}' : ']';
            j->at++;
            if (!next_is(j, ends[depth])) {
                if (ends[depth++] == '}') TRY(skip_key(j));
                continue;
            }
        } else {
            TRY(skip_plain(j));
        }
        bool more = false;
        while (depth && !more) {
            TRY(separator(j, ends[depth - 1], &more));
            if (!more) depth--;
        }
        if (!more) return DQT_OK;
        if (ends[depth - 1] == '}') TRY(skip_key(j));
    }
}
