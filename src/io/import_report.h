/* What quantising did to weights that were trained elsewhere, for the context's log: one sentence of level INFO for
 * each tensor, and a WARNING where codes lost more of the weights than they should. */
#ifndef DQT_IO_IMPORT_REPORT_H
#define DQT_IO_IMPORT_REPORT_H

#include "format/tensor.h"

struct import_report {
    const dqt_context *ctx;
    size_t tensors, poor;
    double worst; /* relative error, over what normally distributed weights would lose */
    char worst_name[128];
    double worst_error;
};

/* Above this many times the error of normally distributed weights with the scale of least error, a tensor is poor. */
#define IMPORT_ERROR_BOUND 2.0

/* t was just made from weights[rows][cols]; says what layers read of it. Does nothing where there are no codes or no
 * log. */
void import_report_add(struct import_report *r, const char *name, const dqt_tensor *t, const float *weights);
void import_report_end(const struct import_report *r);

#endif
