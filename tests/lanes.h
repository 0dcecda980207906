/* Contexts whose threads share even the smallest work, so that small shapes show what threads could do to results. */
#ifndef LANES_H
#define LANES_H

#include "core/context.h"

static inline void share_all_work(dqt_context *ctx) {
    if (ctx) ctx->lane_work = 0.0;
}

#endif
