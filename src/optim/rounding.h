/* Rounding rules of integer storage, as rows of a table. */
#ifndef DQT_OPTIM_ROUNDING_H
#define DQT_OPTIM_ROUNDING_H

#include <stdbool.h>
#include <stdint.h>

struct rounding {
    int32_t id;      /* DQT_ROUND_* */
    bool stochastic; /* else to nearest */
    bool eco;        /* the rounding error is fed back through the first moment (arXiv 2601.22101) */
    bool accumulate; /* an accumulator of steps is kept in place of a first moment (optim/accumulator.c) */
};

/* NULL for a number that is none of them. */
const struct rounding *rounding_of(int32_t id);

#endif
