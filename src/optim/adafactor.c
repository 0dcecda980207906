/* Adafactor [Shazeer and Stern 2018]: the second moment of a matrix is the product of its row and column means. Those
 * are kept by optim/factored.c. */
#include "dqt.h"
#include "optim/optimizer.h"

extern const struct optimizer optimizer_adafactor;
const struct optimizer optimizer_adafactor = {
    .id = DQT_OPTIMIZER_ADAFACTOR,
    .name = "ADAFACTOR",
    .method = UPDATE_ADAFACTOR,
    .second = SECOND_FACTORED,
    .linear = true,
    .averages = true,
    .clips_updates = true,
};
