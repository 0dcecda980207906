/* Options of layers with a name and sub-norms, so that creation has all that it can allocate. */
#ifndef NAMED_LAYERS_H
#define NAMED_LAYERS_H

#include "dqt.h"
#include "test.h"

static inline dqt_layer_options named_layer_options(void) {
    dqt_layer_options o;
    CHECK(dqt_layer_options_init(&o, sizeof o) == DQT_OK);
    o.sub_norm = 1;
    o.name = "named";
    return o;
}

#endif
