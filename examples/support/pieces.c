#include "pieces.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "die.h"

size_t pieces_to_spaces(unsigned char *text, size_t size) {
    size_t out = 0;
    for (size_t at = 0; at < size; out++)
        if (size - at >= 3 && memcmp(text + at, "\xE2\x96\x81", 3) == 0) {
            text[out] = ' ';
            at += 3;
        } else {
            text[out] = text[at++];
        }
    return out;
}

static int digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool pieces_add_byte(struct vocabulary *v, uint32_t number, const char *text, size_t size) {
    if (size != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return false;
    const int high = digit(text[3]), low = digit(text[4]);
    if (high < 0 || low < 0) return false;
    const char byte = (char)(high << 4 | low);
    vocabulary_add(v, number, &byte, 1, true);
    v->tokens[number].apart = true;
    v->bytes[high << 4 | low] = number;
    return true;
}

struct scored {
    float score;
    uint32_t number;
};

/* Highest score first. */
static int by_score(const void *a, const void *b) {
    const float x = ((const struct scored *)a)->score, y = ((const struct scored *)b)->score;
    return (x < y) - (x > y);
}

/* Whether a space stands inside or at the end of a piece that does not begin with spaces up to there: else no piece
 * reaches over the beginning of a word's spaces. */
static bool crosses_words(const struct vocabulary *v) {
    for (size_t i = 0; i < v->count; i++)
        for (size_t k = 1; k < v->tokens[i].size && !v->tokens[i].apart; k++)
            if (v->tokens[i].bytes[k] == ' ' && v->tokens[i].bytes[k - 1] != ' ') return true;
    return false;
}

void pieces_index(struct vocabulary *v, const float *scores, size_t count) {
    struct scored *all = must_alloc(count, sizeof *all);
    v->order = must_alloc(count, sizeof *v->order);
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(scores[i])) die("the score of token %zu is not finite", i);
        all[i] = (struct scored){scores[i], (uint32_t)i};
    }
    qsort(all, count, sizeof *all, by_score);
    uint32_t order = 0;
    for (size_t i = 0; i < count; i++) {
        if (i && all[i].score < all[i - 1].score) order++;
        v->order[all[i].number] = order;
    }
    free(all);
    vocabulary_index(v);
    v->split = crosses_words(v) ? SPLIT_NONE : SPLIT_SPACES;
}
