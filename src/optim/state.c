/* The tables of state formats and rounding rules. */
#include "optim/state.h"

#include <math.h>

#include "core/assert.h"
#include "dqt.h"
#include "format/format.h"
#include "optim/rounding.h"

static const struct state_format formats[] = {
    {DQT_STATE_F32, 4, false, UPDATE_F32, UPDATE_F32},
    {DQT_STATE_BF16, 2, false, UPDATE_BF16, UPDATE_BF16_POSITIVE},
    {DQT_STATE_INT8, 1, true, UPDATE_INT8_SIGNED, UPDATE_INT8_POSITIVE},
};

const struct state_format *state_format_of(int32_t id) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].id == id) return &formats[i];
    return NULL;
}

bool state_in_range(const void *data, size_t count, size_t size) {
    DQT_ASSERT(size == 4 || size == 2);
    for (size_t i = 0; i < count; i++) {
        const float x = size == 4 ? ((const float *)data)[i] : bf16_to_f32(((const uint16_t *)data)[i]);
        if (!(fabsf(x) <= 4.0f * UPDATE_STATE_LIMIT)) return false;
    }
    return true;
}

static const struct rounding rules[] = {
    {.id = DQT_ROUND_STOCHASTIC, .stochastic = true},
    {.id = DQT_ROUND_NEAREST},
    {.id = DQT_ROUND_ECO_STOCHASTIC, .stochastic = true, .eco = true},
    {.id = DQT_ROUND_ECO_NEAREST, .eco = true},
    {.id = DQT_ROUND_ACCUMULATE, .stochastic = true, .accumulate = true},
};

const struct rounding *rounding_of(int32_t id) {
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].id == id) return &rules[i];
    return NULL;
}
