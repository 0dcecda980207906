#include "ranks.h"
#include "run.h"

void ranks_begin(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
}

int ranks_end(int status) {
    return status;
}

size_t ranks_own(void) {
    return 0;
}

size_t ranks_count(void) {
    return 1;
}

size_t ranks_args(struct arg *table) {
    (void)table;
    return 0;
}

struct share ranks_share(size_t count) {
    return (struct share){0, count};
}

double ranks_sum(double own) {
    return own;
}

bool ranks_any(bool own) {
    return own;
}

dqt_status ranks_open(struct run *r) {
    (void)r;
    return DQT_OK;
}

void ranks_close(struct run *r) {
    (void)r;
}

void ranks_last_pass(struct run *r) {
    (void)r;
}

dqt_status ranks_step(struct run *r, const dqt_step_options *options, dqt_step_stats *stats) {
    return dqt_updater_step(r->updater, r->tape, options, stats);
}

dqt_status ranks_backward_update(struct run *r, float weight, const dqt_step_options *options, dqt_step_stats *stats) {
    (void)weight; /* 1 */
    return dqt_llama_backward_update(r->model, r->tape, r->updater, options, stats);
}

dqt_status ranks_save(struct run *r, const char *path, const dqt_save_options *options) {
    return dqt_llama_save(r->model, r->updater, path, options);
}

bool ranks_report(struct run *r) {
    (void)r;
    return true;
}
