#include "pretokenize.h"

#include <stdbool.h>

#include "unicode.h"

/* The regular expressions, alternatives in order, are matched by hand:
 * GPT-2 and SmolLM
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * Llama 3 (Qwen has \p{N} for \p{N}{1,3})
 *     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
 *     \s+(?!\S)|\s+ */

enum { CLASS_END = -1 };

struct scan {
    const unsigned char *text;
    size_t size;
    bool ends_at_digit; /* SmolLM: what is cut ends before a digit */
};

/* Class of the character at `at`, and the bytes that it has. */
static int class_at(const struct scan *s, size_t at, size_t *bytes) {
    uint32_t c;
    *bytes = 0;
    if (at >= s->size) return CLASS_END;
    *bytes = utf8_decode(s->text + at, s->size - at, &c);
    const int class = unicode_class(c);
    return s->ends_at_digit && class == CLASS_NUMBER ? CLASS_END : class;
}

/* The end of the run of at most `most` characters of a class from `at` on. */
static size_t run_of(const struct scan *s, size_t at, int class, size_t most) {
    size_t bytes;
    for (; most > 0 && class_at(s, at, &bytes) == class; most--)
        at += bytes;
    return at;
}

/* Bytes of 's, 't, 're, 've, 'm, 'll, 'd at the beginning, or 0. */
static size_t contraction(const struct scan *s, bool any_case) {
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (s->text[0] != '\'') return 0;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t at = 1;
        for (const char *e = endings[i]; *e && at; e++) {
            const unsigned c = at < s->size ? s->text[at] : 0;
            if (c == (unsigned char)*e || (any_case && c == (unsigned char)*e - 32u))
                at++;
            else if (any_case && *e == 's' && c == 0xC5 && at + 1 < s->size && s->text[at + 1] == 0xBF)
                at += 2; /* U+017F, the long s, is an s when case does not matter */
            else
                at = 0;
        }
        if (at) return at;
    }
    return 0;
}

static bool line_end(unsigned char c) {
    return c == '\n' || c == '\r';
}

/* Spaces from the beginning on: all of them, or all but the last where something follows. */
static size_t spaces(const struct scan *s) {
    size_t at = 0, last = 0, bytes;
    int class;
    while ((class = class_at(s, at, &bytes)) == CLASS_SPACE) {
        last = at;
        at += bytes;
    }
    return class == CLASS_END || last == 0 ? at : last;
}

static size_t gpt2(const struct scan *s) {
    size_t bytes, at = contraction(s, false);
    if (at) return at;
    at = s->text[0] == ' ';
    const int class = class_at(s, at, &bytes);
    return class == CLASS_LETTER || class == CLASS_NUMBER || class == CLASS_OTHER ? run_of(s, at, class, s->size)
                                                                                  : spaces(s);
}

static size_t llama3(const struct scan *s, size_t digits) {
    size_t first, bytes, at = contraction(s, true);
    if (at) return at;
    const int class = class_at(s, 0, &first);
    if (class == CLASS_LETTER) return run_of(s, 0, class, s->size);
    if (!line_end(s->text[0]) && class != CLASS_NUMBER && class_at(s, first, &bytes) == CLASS_LETTER)
        return run_of(s, first, CLASS_LETTER, s->size);
    if (class == CLASS_NUMBER) return run_of(s, 0, class, digits);
    at = s->text[0] == ' ';
    if (class_at(s, at, &bytes) == CLASS_OTHER) {
        at = run_of(s, at, CLASS_OTHER, s->size);
        while (at < s->size && line_end(s->text[at]))
            at++;
        return at;
    }
    size_t end = run_of(s, 0, CLASS_SPACE, s->size);
    while (end > 0 && !line_end(s->text[end - 1])) /* no part of a longer character is a line's end */
        end--;
    return end ? end : spaces(s);
}

static size_t spaces_and_word(const unsigned char *text, size_t size) {
    size_t at = 0;
    while (at < size && text[at] == ' ')
        at++;
    while (at < size && text[at] != ' ')
        at++;
    return at;
}

size_t pretokenize(enum split split, const unsigned char *text, size_t size) {
    struct scan s = {text, size, false};
    size_t bytes;
    switch (split) {
    case SPLIT_NONE: return size;
    case SPLIT_SPACES: return spaces_and_word(text, size);
    case SPLIT_GPT2: return gpt2(&s);
    case SPLIT_DIGIT_GPT2:
        if (class_at(&s, 0, &bytes) == CLASS_NUMBER) return bytes;
        s.ends_at_digit = true;
        return gpt2(&s);
    case SPLIT_LLAMA3: return llama3(&s, 3);
    case SPLIT_QWEN2: return llama3(&s, 1);
    }
    return size;
}
