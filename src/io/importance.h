/* How much an error of a linear weight matters, by the column that it is in: the mean square of the activations that
 * the column meets, for a squared error of an output is that of the weights times these. In models that were trained
 * they differ a hundredfold, and they are much the same for any text: of tokens drawn at random from the vocabulary
 * they serve as well as of real text (docs/finetune.md). So a file needs to bring nothing but itself.
 *
 * Blocks are gone through one after another, as floats, in a model of one block:
 *
 *   importance_create(model, &i);         its embedding has been read
 *   for each block: the floats of its k-th parameter to importance_weights(i, k), for all k; importance_measure(i);
 *   importance_of(i, index) until the next block; importance_destroy(i);
 *
 * Kernels are those in plain C, on all of the context's threads: scales, and so codes, depend neither on the number of
 * threads nor on instruction sets. */
#ifndef DQT_IO_IMPORTANCE_H
#define DQT_IO_IMPORTANCE_H

#include "model/llama.h"

struct importance;

/* Memory: a block of floats, and what its forward needs for a few tokens. */
dqt_status importance_create(const dqt_llama *model, struct importance **out);
void importance_destroy(struct importance *i); /* NULL: nothing */
/* [rows][cols] of parameter k of a block. */
float *importance_weights(const struct importance *i, size_t k);
/* DQT_E_CANCELLED: the host's interrupt. */
dqt_status importance_measure(struct importance *i);
/* [cols], of mean 1 or a little more, of the model's parameter `index`, which is in the block measured last, or in
 * none. NULL: all alike, which is what they are where i is NULL, of what is not a linear's weight, and where
 * activations are 0 or not finite. */
const float *importance_of(const struct importance *i, size_t index);

#endif
