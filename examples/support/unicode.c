#include "unicode.h"

#include <stdlib.h>
#include <string.h>

struct class_range {
    uint32_t first, last;
    int value;
};

struct pair {
    uint32_t character, first, second;
};

struct single {
    uint32_t character, other;
};

#include "unicode_table.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

size_t utf8_decode(const unsigned char *p, size_t size, uint32_t *character) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned first = p[0];
    const size_t n = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    uint32_t c = n == 1 ? first : first & (0x7Fu >> n);
    int good = n > 0 && n <= size;
    for (size_t i = 1; good && i < n; i++) {
        good = (p[i] & 0xC0) == 0x80;
        c = c << 6 | (p[i] & 0x3Fu);
    }
    if (good && c >= least[n] && c < NOT_UTF8 && !(c >= 0xD800 && c < 0xE000)) {
        *character = c;
        return n;
    }
    *character = NOT_UTF8 + first;
    return 1;
}

size_t utf8_encode(uint32_t c, unsigned char *out) {
    if (c >= NOT_UTF8) {
        out[0] = (unsigned char)(c - NOT_UTF8);
        return 1;
    }
    const size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (unsigned char)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    out[0] = (unsigned char)(n == 1 ? c : (0xF00u >> n & 0xFF) | c);
    return n;
}

/* The value of the range that has this character, or 0. */
static int look_up(const struct class_range *ranges, size_t count, uint32_t c) {
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (c > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && c >= ranges[low].first ? ranges[low].value : 0;
}

int unicode_class(uint32_t c) {
    if ((c | 32) - 'a' < 26) return CLASS_LETTER;
    return look_up(class_ranges, COUNT(class_ranges), c);
}

/* ---- Composition (Unicode Standard Annex 15) ------------------------------------------------------------------- */

/* Hangul syllables (section 3.12 of the standard). */
enum { S0 = 0xAC00, L0 = 0x1100, V0 = 0x1161, T0 = 0x11A7, LS = 19, VS = 21, TS = 28 };

static int combining_class(uint32_t c) {
    return c < 0x300 ? 0 : look_up(combining_ranges, COUNT(combining_ranges), c);
}

static int compare_first(const void *key, const void *row) {
    const uint32_t a = *(const uint32_t *)key, b = *(const uint32_t *)row; /* rows begin with the character */
    return (a > b) - (a < b);
}

/* Appends the full decomposition of c: at most 4 characters. */
static size_t decompose(uint32_t c, uint32_t *out) {
    if (c >= S0 && c < S0 + LS * VS * TS) {
        const uint32_t i = c - S0;
        out[0] = L0 + i / (VS * TS);
        out[1] = V0 + i % (VS * TS) / TS;
        out[2] = T0 + i % TS;
        return i % TS ? 3 : 2;
    }
    const struct single *s = bsearch(&c, singles, COUNT(singles), sizeof *singles, compare_first);
    if (s) return decompose(s->other, out);
    const struct pair *p = bsearch(&c, pairs, COUNT(pairs), sizeof *pairs, compare_first);
    if (p) {
        const size_t n = decompose(p->first, out);
        return n + decompose(p->second, out + n);
    }
    out[0] = c;
    return 1;
}

static int compare_parts(const void *key, const void *row) {
    const struct pair *a = key, *b = &pairs[*(const unsigned short *)row];
    return a->first != b->first ? (a->first > b->first ? 1 : -1) : (a->second > b->second) - (a->second < b->second);
}

/* The character that two compose to, or 0. */
static uint32_t compose(uint32_t a, uint32_t b) {
    if (a >= L0 && a < L0 + LS && b >= V0 && b < V0 + VS) return S0 + ((a - L0) * VS + (b - V0)) * TS;
    if (a >= S0 && a < S0 + LS * VS * TS && (a - S0) % TS == 0 && b > T0 && b < T0 + TS) return a + (b - T0);
    const struct pair key = {0, a, b};
    const unsigned short *i = bsearch(&key, composed, COUNT(composed), sizeof *composed, compare_parts);
    return i ? pairs[*i].character : 0;
}

/* Combining characters in the order of their classes, stably. */
static void put_in_order(uint32_t *c, size_t n) {
    for (size_t i = 1; i < n; i++) {
        const int class = combining_class(c[i]);
        const uint32_t moved = c[i];
        size_t k = i;
        for (; class && k > 0 && combining_class(c[k - 1]) > class; k--)
            c[k] = c[k - 1];
        c[k] = moved;
    }
}

/* Composes in place and returns how many are left. */
static size_t compose_all(uint32_t *c, size_t n) {
    size_t kept = 0, starter = SIZE_MAX;
    int last = 0; /* class of the latest kept after the starter */
    for (size_t i = 0; i < n; i++) {
        const int class = combining_class(c[i]);
        const int near = starter != SIZE_MAX && (kept == starter + 1 || (last < class && last != 0));
        const uint32_t whole = near ? compose(c[starter], c[i]) : 0;
        if (whole) {
            c[starter] = whole;
            continue;
        }
        if (class == 0) starter = kept;
        last = class;
        c[kept++] = c[i];
    }
    return kept;
}

unsigned char *unicode_nfc(const unsigned char *text, size_t size, size_t *out_size) {
    uint32_t *c = malloc((size * 4 + 1) * sizeof *c); /* of each byte at most 4 characters */
    unsigned char *out = NULL;
    size_t n = 0;
    *out_size = 0;
    for (size_t at = 0; c && at < size;) {
        uint32_t character;
        at += utf8_decode(text + at, size - at, &character);
        n += decompose(character, c + n);
    }
    if (c) {
        put_in_order(c, n);
        n = compose_all(c, n);
        out = malloc(n * 4 + 1);
    }
    for (size_t i = 0; out && i < n; i++)
        *out_size += utf8_encode(c[i], out + *out_size);
    free(c);
    return out;
}
