/* A run on a terminal, as 03_train and 10_finetune have it: a folder of log, plot and checkpoint; progress; evaluation
 * now and then; leaving cleanly on Ctrl-C. */
#ifndef JOB_H
#define JOB_H

#include <stdbool.h>
#include <stdio.h>

#include "run.h"

enum { JOB_LOG, JOB_PLOT, JOB_MODEL, JOB_FILES };

struct job {
    struct run run;
    const char *out; /* folder */
    char path[JOB_FILES][512];
    FILE *log;
    struct run_point *points;
    size_t num_points, room;
    double started, tokens_done;
    double evaluating; /* seconds since then that were not training */
    double valid_loss; /* of the latest evaluation */
    bool live;         /* a terminal: the progress line is rewritten in place */
};

/* The functions below say what is wrong on stderr and return false, or NULL. */

/* Makes the folder j->out and the names of its files. With `resume` there must be both, folder and checkpoint. */
bool job_prepare(struct job *j, bool resume);

/* A context of so many threads (0: as OpenMP says). */
dqt_context *job_context(int threads);

/* Trains j->run, which is open, to its end or until Ctrl-C, and writes the files. */
bool job_train(struct job *j);

/* Says what a failed call of the library was about. */
bool job_failed(dqt_context *ctx, dqt_status status);

void job_close(struct job *j);

#endif
