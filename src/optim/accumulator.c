/* DQT_ROUND_ACCUMULATE: steps of codes are summed in an accumulator P of 8 bits, P -= lr (u / s + decay q), and a code
 * moves with what (1 - beta1) P rounds to, which is taken out of P (docs/numerics.md; the step is in
 * kernels/update_template.h). With rounding noise n a code stays put at the least while |(1 - beta1) P| < 1/2 - n/2,
 * and at the most while it is below 1/2 + n/2: hence P's grid of 255 values, -limit..limit with limit = (1/2 + n/2) /
 * (1 - beta1). It depends on the parameter's rule alone, which checkpoints have. */
#include <math.h>

#include "core/rng.h"
#include "optim/updater_state.h"

static double reach_of_limit(const struct update_rule *rule) {
    return 0.5 + 0.5 * (double)rule->rounding_noise;
}

bool accumulator_kept(const dqt_tensor *t, int32_t rounding) {
    return rounding_of(rounding)->accumulate && format_is_code(t->storage);
}

double accumulator_unit(const struct update_rule *rule) {
    return UPDATE_ACCUMULATOR_MAX * (1.0 - (double)rule->beta1) / reach_of_limit(rule);
}

double accumulator_reach(const struct update_rule *rule) {
    return reach_of_limit(rule) / UPDATE_ACCUMULATOR_MAX;
}

void accumulator_regrid(const dqt_updater *u, size_t index, const struct update_rule *next) {
    DQT_ASSERT(index < u->count);
    const struct parameter *p = &u->parameters[index];
    const double ratio = accumulator_unit(next) / accumulator_unit(&p->rule);
    const float most = UPDATE_ACCUMULATOR_MAX;
    if (!p->accumulates || ratio == 1.0) return;
    const struct rng rng = rng_make(u->options.seed, u->step, RNG_ACCUMULATOR, (uint32_t)(u->first_number + index));
    const size_t cols = p->target.tensor->cols, count = p->own_rows * cols;
    const uint64_t element = (uint64_t)p->first_row * cols; /* the first of the part: a multiple of 4 */
    uint32_t words[4] = {0};
    for (size_t i = 0; i < count; i++) {
        if (i % 4 == 0) rng_block(&rng, (element + i) / 4, words);
        const float x = fminf(fmaxf((float)(p->accumulator[i] * ratio), -most), most), below = floorf(x);
        p->accumulator[i] = (int8_t)(below + (x - below + rng_uniform01(words[i % 4]) >= 1.0f ? 1.0f : 0.0f));
    }
}
