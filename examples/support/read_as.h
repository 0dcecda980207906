/* A trained model read in another format than it is stored in: "ternary inference" of 8-bit codes. */
#ifndef READ_AS_H
#define READ_AS_H

#include "dqt.h"

/* A copy of `model`, the caller's to destroy, whose blocks' linear layers keep the stored weights and read them as
 * `compute`, a dqt_format. Its scales are not trained further; those of groups that were are rounded to fp16. On
 * failure dqt_last_error(ctx) tells why and *out is NULL. */
dqt_status read_as(dqt_context *ctx, dqt_llama *model, int compute, dqt_llama **out);

#endif
