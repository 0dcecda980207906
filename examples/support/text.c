#include "text.h"

#include <stdio.h>
#include <stdlib.h>

static const char *read_file(const char *path, unsigned char **data, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f) return "the text file cannot be opened";
    *data = NULL;
    *size = 0;
    size_t room = 0;
    for (;;) {
        if (*size == room) {
            room = room ? 2 * room : 1 << 20;
            unsigned char *more = realloc(*data, room);
            if (!more) break;
            *data = more;
        }
        size_t n = fread(*data + *size, 1, room - *size, f);
        if (n == 0) break;
        *size += n;
    }
    const int bad = ferror(f) || (*size == room && room);
    fclose(f);
    return bad ? "the text file cannot be read" : NULL;
}

const char *text_open(struct text *t, const char *path, const char *valid_path, size_t length) {
    *t = (struct text){0};
    const char *problem = read_file(path, &t->train, &t->train_size);
    if (problem) return problem;
    if (valid_path) {
        problem = read_file(valid_path, &t->valid, &t->valid_size);
        if (problem) return problem;
    } else {
        t->valid_size = t->train_size / 10;
        t->train_size -= t->valid_size;
        t->valid = t->train + t->train_size;
    }
    if (t->train_size <= length || t->valid_size <= length)
        return "the text is too short for one sequence in each part";
    return NULL;
}

void text_close(struct text *t) {
    if (t->valid != t->train + t->train_size) free(t->valid);
    free(t->train);
}

static void copy_window(const unsigned char *at, size_t length, int32_t *tokens, int32_t *targets) {
    for (size_t i = 0; i < length; i++) {
        tokens[i] = at[i];
        targets[i] = at[i + 1];
    }
}

/* splitmix64 of a counter. */
static uint64_t mix(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

void text_batch(const struct text *t, uint64_t seed, uint64_t step, size_t batch, size_t length, int32_t *tokens,
                int32_t *targets) {
    for (size_t b = 0; b < batch; b++) {
        const uint64_t r = mix(mix(seed) ^ mix(step * 0x100000001B3u + b));
        copy_window(t->train + r % (t->train_size - length), length, tokens + b * length, targets + b * length);
    }
}

void text_window(const struct text *t, size_t index, size_t count, size_t length, int32_t *tokens, int32_t *targets) {
    const size_t last = t->valid_size - length - 1;
    copy_window(t->valid + (count > 1 ? (size_t)((double)last * (double)index / (double)(count - 1)) : 0), length,
                tokens, targets);
}
