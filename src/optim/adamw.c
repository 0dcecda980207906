/* AdamW [Loshchilov and Hutter 2019]: bias-corrected averages of g and g^2, decoupled decay. */
#include "dqt.h"
#include "optim/optimizer.h"

extern const struct optimizer optimizer_adamw;
const struct optimizer optimizer_adamw = {
    .id = DQT_OPTIMIZER_ADAMW,
    .name = "ADAMW",
    .method = UPDATE_ADAMW,
    .second = SECOND_PER_WEIGHT,
    .linear = true,
    .averages = true,
    .variance_formats = true,
};
