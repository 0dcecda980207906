#include "bpe.h"

#include <stdlib.h>
#include <string.h>

#include "die.h"
#include "pieces.h"
#include "unicode.h"

/* Words that have been met, in slots by their hash; the latest stays. */
enum { CACHE_SLOTS = 1 << 15, CACHE_BYTES = 24, CACHE_TOKENS = 8 };

struct cached {
    unsigned char word[CACHE_BYTES];
    unsigned char size, count; /* size 0: empty */
    uint32_t tokens[CACHE_TOKENS];
};

/* A part of a word, in a list; its place is that of its first byte. */
struct part {
    uint32_t token;        /* NO_TOKEN: a character that no piece has */
    size_t size;           /* in bytes; 0: merged away */
    size_t previous, next; /* END: none */
};
static const size_t END = SIZE_MAX;

/* Two neighbouring parts that merge, in a heap by (rank, place). */
struct candidate {
    uint32_t rank;
    size_t place;
};

struct bpe {
    const struct vocabulary *v;
    uint32_t *ranks; /* of merges by their pair, open addressing; ranks_size is a power of two */
    size_t ranks_size;
    unsigned char first[256]; /* whether a special token begins with this byte */
    struct cached *cache;
    struct part *parts;
    struct candidate *heap;
    uint32_t *tokens; /* of the latest word */
    size_t room;      /* of parts and tokens; the heap has three times as much */
    size_t heap_size, left_out;
};

static size_t pair_slot(const struct bpe *b, uint32_t left, uint32_t right) {
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(h ^ h >> 32) & (b->ranks_size - 1);
}

/* The place of a pair in the list of merges, or NO_TOKEN; *slot is where it is or would be. */
static uint32_t rank_of(const struct bpe *b, uint32_t left, uint32_t right, size_t *slot) {
    size_t at = pair_slot(b, left, right);
    for (; b->ranks[at] != NO_TOKEN; at = (at + 1) & (b->ranks_size - 1)) {
        const struct merge *m = &b->v->merges[b->ranks[at]];
        if (m->left == left && m->right == right) break;
    }
    *slot = at;
    return b->ranks[at];
}

struct bpe *bpe_create(const struct vocabulary *v) {
    struct bpe *b = must_alloc(1, sizeof *b);
    memset(b, 0, sizeof *b);
    b->v = v;
    for (b->ranks_size = 1024; b->ranks_size < 2 * v->num_merges;)
        b->ranks_size *= 2;
    b->ranks = must_alloc(b->ranks_size, sizeof *b->ranks);
    for (size_t i = 0; i < b->ranks_size; i++)
        b->ranks[i] = NO_TOKEN;
    for (size_t i = 0; i < v->num_merges; i++) {
        size_t slot;
        if (rank_of(b, v->merges[i].left, v->merges[i].right, &slot) == NO_TOKEN) b->ranks[slot] = (uint32_t)i;
    }
    for (size_t i = 0; i < v->num_specials; i++)
        b->first[v->tokens[v->specials[i]].bytes[0]] = 1;
    b->cache = must_alloc(CACHE_SLOTS, sizeof *b->cache);
    memset(b->cache, 0, CACHE_SLOTS * sizeof *b->cache);
    return b;
}

void bpe_destroy(struct bpe *b) {
    if (!b) return;
    free(b->ranks);
    free(b->cache);
    free(b->parts);
    free(b->heap);
    free(b->tokens);
    free(b);
}

/* ---- One word ------------------------------------------------------------------------------------------------------
 */

static int before(const struct candidate *a, const struct candidate *c) {
    return a->rank != c->rank ? a->rank < c->rank : a->place < c->place;
}

static void heap_push(struct bpe *b, struct candidate c) {
    size_t i = b->heap_size++;
    for (; i > 0 && before(&c, &b->heap[(i - 1) / 2]); i = (i - 1) / 2)
        b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = c;
}

static struct candidate heap_pop(struct bpe *b) {
    const struct candidate top = b->heap[0], last = b->heap[--b->heap_size];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= b->heap_size) break;
        if (child + 1 < b->heap_size && before(&b->heap[child + 1], &b->heap[child])) child++;
        if (!before(&b->heap[child], &last)) break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = last;
    return top;
}

/* What the part at `place` and the next one become, and when; NO_TOKEN: they do not merge, or the part is gone. */
static uint32_t merge_of(const struct bpe *b, const unsigned char *word, size_t place, uint32_t *result) {
    const struct part *left = &b->parts[place];
    size_t slot;
    if (left->size == 0 || left->next == END) return NO_TOKEN;
    const struct part *right = &b->parts[left->next];
    if (b->v->order) {
        *result = vocabulary_find(b->v, word + place, left->size + right->size);
        return *result == NO_TOKEN ? NO_TOKEN : b->v->order[*result];
    }
    const uint32_t rank = rank_of(b, left->token, right->token, &slot);
    if (rank != NO_TOKEN) *result = b->v->merges[rank].result;
    return rank;
}

/* Puts the pair that begins at `place` into the heap if there is a merge of it. */
static void consider(struct bpe *b, const unsigned char *word, size_t place) {
    uint32_t result;
    const uint32_t rank = place == END ? NO_TOKEN : merge_of(b, word, place, &result);
    if (rank != NO_TOKEN) heap_push(b, (struct candidate){rank, place});
}

/* The bytes of a word, or its characters, as a list of parts; bytes that have no token are left out of it. Returns the
 * first one's place. */
static size_t begin_word(struct bpe *b, const unsigned char *word, size_t size) {
    size_t first = END, last = END, n = 1;
    uint32_t character;
    for (size_t i = 0; i < size; i += n) {
        if (b->v->order) n = utf8_decode(word + i, size - i, &character);
        const uint32_t token = b->v->order ? vocabulary_find(b->v, word + i, n) : b->v->bytes[word[i]];
        b->parts[i] = (struct part){token, n, last, END};
        if (!b->v->order && token == NO_TOKEN) {
            b->left_out++;
            continue;
        }
        *(last == END ? &first : &b->parts[last].next) = i;
        last = i;
    }
    return first;
}

static void make_room(struct bpe *b, size_t size) {
    if (size <= b->room) return;
    b->room = size > 2 * b->room ? size : 2 * b->room;
    b->parts = must_grow(b->parts, b->room, sizeof *b->parts);
    b->tokens = must_grow(b->tokens, b->room, sizeof *b->tokens);
    /* One for each pair at first, and at most two for each of the merges, which are fewer than the bytes. */
    b->heap = must_grow(b->heap, b->room, 3 * sizeof *b->heap);
}

/* A part that is no piece, as pieces of its bytes; returns how many there are then. */
static size_t put_bytes(struct bpe *b, const unsigned char *bytes, size_t size, size_t count) {
    for (size_t i = 0; i < size; i++) {
        const uint32_t token = b->v->bytes[bytes[i]];
        if (token == NO_TOKEN)
            b->left_out++;
        else
            b->tokens[count++] = token;
    }
    return count;
}

/* Tokens of a word into b->tokens; returns how many. */
static size_t merge_word(struct bpe *b, const unsigned char *word, size_t size) {
    size_t count = 0;
    make_room(b, size);
    const size_t first = begin_word(b, word, size);
    b->heap_size = 0;
    for (size_t i = first; i != END; i = b->parts[i].next)
        consider(b, word, i);
    while (b->heap_size) {
        const struct candidate c = heap_pop(b);
        struct part *left = &b->parts[c.place];
        uint32_t result;
        if (merge_of(b, word, c.place, &result) != c.rank) continue; /* one of the two has become larger, or is gone */
        struct part *right = &b->parts[left->next];
        left->token = result;
        left->size += right->size;
        left->next = right->next;
        right->size = 0;
        if (left->next != END) b->parts[left->next].previous = c.place;
        consider(b, word, left->previous);
        consider(b, word, c.place);
    }
    for (size_t i = first; i != END; i = b->parts[i].next)
        if (b->parts[i].token == NO_TOKEN)
            count = put_bytes(b, word + i, b->parts[i].size, count);
        else
            b->tokens[count++] = b->parts[i].token;
    return count;
}

static void encode_word(struct bpe *b, const unsigned char *word, size_t size, bpe_sink sink, void *user_data) {
    const uint64_t hash = bytes_hash(word, size);
    struct cached *c = &b->cache[hash % CACHE_SLOTS];
    if (size <= CACHE_BYTES && c->size == size && memcmp(c->word, word, size) == 0) {
        sink(user_data, c->tokens, c->count);
        return;
    }
    const size_t lost = b->left_out;
    size_t count = 1;
    make_room(b, 1);
    b->tokens[0] = b->v->whole_words ? vocabulary_find(b->v, word, size) : NO_TOKEN;
    if (b->tokens[0] == NO_TOKEN) count = merge_word(b, word, size);
    if (size <= CACHE_BYTES && count <= CACHE_TOKENS && b->left_out == lost) {
        memcpy(c->word, word, size);
        memcpy(c->tokens, b->tokens, count * sizeof *c->tokens);
        c->size = (unsigned char)size;
        c->count = (unsigned char)count;
    }
    sink(user_data, b->tokens, count);
}

/* ---- A text --------------------------------------------------------------------------------------------------------
 */

static void encode_words(struct bpe *b, const unsigned char *text, size_t size, bpe_sink sink, void *user_data) {
    for (size_t at = 0; at < size;) {
        const size_t n = pretokenize(b->v->split, text + at, size - at);
        encode_word(b, text + at, n, sink, user_data);
        at += n;
    }
}

/* Whether normalization could change it: below U+0300 all characters are as form C has them. */
static bool may_compose(const unsigned char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (text[i] >= 0xCC) return true;
    return false;
}

/* The first bytes of a text, at least COMPOSE_BYTES where there are so many, up to a line's end before a printable
 * character of ASCII: neither a composition nor a word (of Qwen's) reaches over that. */
enum { COMPOSE_BYTES = 1 << 16 };
static size_t whole_lines(const unsigned char *text, size_t size) {
    for (size_t i = COMPOSE_BYTES; i < size; i++)
        if (text[i - 1] == '\n' && text[i] > ' ' && text[i] < 127) return i;
    return size;
}

/* As SentencePiece has it: a space before the text, and U+2581 is one. */
static void encode_spaced(struct bpe *b, const unsigned char *text, size_t size, bpe_sink sink, void *user_data) {
    const size_t before = b->v->space_first ? 1 : 0;
    unsigned char *spaced = must_alloc(size + 1, 1);
    spaced[0] = ' ';
    memcpy(spaced + before, text, size);
    encode_words(b, spaced, before + pieces_to_spaces(spaced + before, size), sink, user_data);
    free(spaced);
}

static void encode_segment(struct bpe *b, const unsigned char *text, size_t size, bpe_sink sink, void *user_data) {
    if (b->v->order) {
        if (size) encode_spaced(b, text, size, sink, user_data);
        return;
    }
    if (!b->v->compose || !may_compose(text, size)) {
        encode_words(b, text, size, sink, user_data);
        return;
    }
    for (size_t at = 0; at < size;) {
        const size_t n = whole_lines(text + at, size - at);
        size_t composed_size;
        unsigned char *composed = unicode_nfc(text + at, n, &composed_size);
        if (!composed) die("there is not enough memory");
        encode_words(b, composed, composed_size, sink, user_data);
        free(composed);
        at += n;
    }
}

/* The longest special token at text[0..size), or NO_TOKEN. */
static uint32_t special_at(const struct bpe *b, const unsigned char *text, size_t size) {
    uint32_t found = NO_TOKEN;
    size_t longest = 0;
    if (!b->first[*text]) return NO_TOKEN;
    for (size_t i = 0; i < b->v->num_specials; i++) {
        const struct token_text *t = &b->v->tokens[b->v->specials[i]];
        if (t->size > longest && t->size <= size && memcmp(t->bytes, text, t->size) == 0) {
            longest = t->size;
            found = b->v->specials[i];
        }
    }
    return found;
}

size_t bpe_encode(struct bpe *b, const unsigned char *text, size_t size, bpe_sink sink, void *user_data) {
    size_t from = 0;
    b->left_out = 0;
    for (size_t at = 0; at < size;) {
        const uint32_t special = special_at(b, text + at, size - at);
        if (special == NO_TOKEN) {
            at++;
            continue;
        }
        encode_segment(b, text + from, at - from, sink, user_data);
        sink(user_data, &special, 1);
        at += b->v->tokens[special].size;
        from = at;
    }
    encode_segment(b, text + from, size - from, sink, user_data);
    return b->left_out;
}
