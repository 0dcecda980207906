/* What ranks send each other in a step of data-parallel training: gradients, all-to-all, each rank's rows to the rank
 * whose part they are, where they are added in the order of ranks; sums of tiles, which norms and statistics are made
 * of; and packed codes, all-gathered. Weights are never broadcast: the rounding is a function of (seed, step, tensor,
 * element), and only one rank updates a row. */
#ifndef EXCHANGE_H
#define EXCHANGE_H

#include <mpi.h>

#include "dqt.h"
#include "wire.h"

/* Bytes that this rank has sent to others. */
struct exchange_bytes {
    double gradients, sums, weights;
};

/* Seconds that this rank has spent on: packing gradients; handing them to MPI, which moves some meanwhile; waiting for
 * those of others; adding them; sums of tiles; weights, gathered, with what is rounded of them. */
struct exchange_seconds {
    double pack, send, wait, add, sums, weights;
};

struct exchange;

/* For a tape with gradient buffers, or one for all (no_gradient_buffers 2), and an updater of part `rank` of as many
 * parts as there are ranks, of the same layers; both must outlive it. `threads` pack and add. Takes the tape's
 * dqt_tape_on_gradient. NULL: no memory, or a tensor is too large for one message of MPI, whose counts are ints. */
struct exchange *exchange_create(dqt_tape *tape, dqt_updater *updater, enum wire_format format, uint64_t seed,
                                 int threads, MPI_Comm comm);
void exchange_destroy(struct exchange *x);

/* From here on gradients that are complete are sent: before the last backward pass of a step. */
void exchange_begin(struct exchange *x);

/* Waits for the gradients: then the tape has the sums of all ranks' in the rows of the own part. */
dqt_status exchange_gradients(struct exchange *x);

/* The step of all parts, and the codes that it made on other ranks. */
dqt_status exchange_step(struct exchange *x, const dqt_step_options *options, dqt_step_stats *stats);

/* In place of the two, for a tape of one gradient buffer: after the backward pass between dqt_tape_begin_update and
 * this. Inside it each gradient has been exchanged as soon as it was complete, and its rows updated; it is forgotten.
 */
dqt_status exchange_end_update(struct exchange *x, dqt_step_stats *stats);

/* Weights of all parameters together; bytes sent and seconds spent so far. */
size_t exchange_weights(const struct exchange *x);
struct exchange_bytes exchange_sent(const struct exchange *x);
struct exchange_seconds exchange_spent(const struct exchange *x);

/* FNV-1a of all codes and scales. */
uint64_t exchange_hash(const struct exchange *x);

#endif
