/* Byte-level text for training: a file split into training and held-out parts, and batches drawn by counter. */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>
#include <stdint.h>

struct text {
    unsigned char *train, *valid;
    size_t train_size, valid_size;
};

/* Reads `path`; the held-out part is the file `valid_path`, or (NULL) the last tenth of `path`. Returns NULL or a
 * sentence about what is wrong. Each part holds at least `length` + 1 bytes. */
const char *text_open(struct text *t, const char *path, const char *valid_path, size_t length);
void text_close(struct text *t);

/* Random windows of the training part: tokens and next-byte targets, [batch][length]; a function of (seed, step) alone,
 * so that a resumed run sees the same data. */
void text_batch(const struct text *t, uint64_t seed, uint64_t step, size_t batch, size_t length, int32_t *tokens,
                int32_t *targets);

/* Held-out windows, evenly spaced: number `index` of `count`. */
void text_window(const struct text *t, size_t index, size_t count, size_t length, int32_t *tokens, int32_t *targets);

#endif
