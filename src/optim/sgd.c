/* Stochastic gradient descent with momentum: m = beta1 * m + g, u = m; beta1 0: u = g. */
#include "dqt.h"
#include "optim/optimizer.h"

extern const struct optimizer optimizer_sgd;
const struct optimizer optimizer_sgd = {
    .id = DQT_OPTIMIZER_SGD,
    .name = "SGD",
    .method = UPDATE_SGD,
    .second = SECOND_NONE,
    .linear = true,
};
