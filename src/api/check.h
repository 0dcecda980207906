/* Argument checks that every public function begins with. */
#ifndef DQT_API_CHECK_H
#define DQT_API_CHECK_H

#include "core/options.h"
#include "layer/tape.h"
#include "model/llama.h"

/* An object without which there is no context: its absence is told to dqt_last_error(NULL). */
dqt_status check_object(const void *object, const char *name);
dqt_status check_pointer(const dqt_context *ctx, const void *pointer, const char *name);
/* A model with weights; and one that has all its blocks. */
dqt_status check_model(const dqt_llama *model);
dqt_status check_whole_model(const dqt_llama *model);
/* 0 <= index < count. */
dqt_status check_index(const dqt_context *ctx, size_t index, size_t count, const char *name);
/* first + count <= total. */
dqt_status check_range(const dqt_context *ctx, size_t first, size_t count, size_t total, const char *name);
dqt_status check_finite(const dqt_context *ctx, const float *values, size_t count, const char *name);
/* Tokens in [lowest, vocab). */
dqt_status check_tokens(const dqt_context *ctx, const int32_t *tokens, size_t count, int32_t lowest, size_t vocab,
                        const char *name);

/* A zero has its default. */
#define DEFAULT_TO(member, value)                                                                                      \
    do {                                                                                                               \
        if ((member) == 0) (member) = (value);                                                                         \
    } while (0)

/* Completes *b from what the host gave: sizes that fit the tape, no reserve in use; arrays are as given. */
dqt_status read_batch(const dqt_tape *tape, const dqt_batch *given, dqt_batch *b);
/* Checks targets (NULL: none) and weights, and completes the divisor. */
dqt_status read_targets(const dqt_context *ctx, dqt_batch *b, size_t classes);
/* A host's own gradient: dlogits[count], finite, or callback. */
dqt_status read_logits_gradient(const dqt_context *ctx, const dqt_logits_gradient *given, size_t count,
                                dqt_logits_gradient *g);
/* Completes *o: a learning rate and scale that are finite and not negative. */
dqt_status read_step(const dqt_context *ctx, const dqt_step_options *given, dqt_step_options *o);
/* DQT_E_UNSUPPORTED for an updater of one part, or of a partial model; why: begins the sentence. */
dqt_status check_whole(const dqt_updater *updater, const char *why);
dqt_status check_part(const dqt_context *ctx, size_t part, size_t num_parts);
/* Updater and tape have the same parameters. */
dqt_status check_parameters(const dqt_context *ctx, const dqt_updater *updater, const dqt_tape *tape);

/* No tape updates with it and no step is open, which leaves it between two states; NULL is idle. */
dqt_status check_idle(const dqt_updater *updater);
/* Gradients have where to go: buffers, or an updater. */
dqt_status check_gradients_go(const dqt_tape *tape);
/* Before a forward of a head: its latest pass is not needed any more. */
dqt_status check_not_deferred(const dqt_tape *tape, const struct slot *head);

/* What the updater's parts exchange next. */
dqt_status return_sums(const dqt_updater *updater, dqt_step_sums *sums);

/* Copies a parameter out. */
dqt_status return_parameter(const dqt_context *ctx, dqt_parameter *out, const char *name, int parameter_class,
                            dqt_tensor *t);

#endif
