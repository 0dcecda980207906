/* Example 3, train: a low-bit LLaMA on any text, byte by byte.
 *
 * Introduces: dqt_llama, the training loop that the host owns (data, schedule, logging, evaluation), accumulation,
 * fused updates, checkpoints, resuming, leaving cleanly on Ctrl-C. See --help; support/run.c has the loop's steps.
 *
 *   03_train --data text.txt --out run --format ternary --rounding eco --beta1 0.8 --lr 1e-2 --linear-lr 0.3
 *
 * writes run/log.csv, run/losses.svg and run/model.dqt. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "run.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct job {
    struct run run;
    struct text text;
    const char *out;
    char path[3][512]; /* log, plot, checkpoint */
    FILE *log;
    struct run_point *points;
    size_t num_points, room;
    double started, tokens_done;
    bool live; /* a terminal: the progress line is rewritten in place */
};

enum { LOG, PLOT, MODEL };

static bool keep_point(struct job *j, struct run_point p) {
    if (j->num_points == j->room) {
        j->room = j->room ? 2 * j->room : 1024;
        struct run_point *more = realloc(j->points, j->room * sizeof *more);
        if (!more) return false;
        j->points = more;
    }
    j->points[j->num_points++] = p;
    return true;
}

static bool add_point(struct job *j, double valid_bits) {
    const struct run_point p = {(double)j->run.step, j->run.train_bits, valid_bits, now() - j->started};
    if (!keep_point(j, p)) return false;
    fprintf(j->log, "%zu,%.6f,", j->run.step, p.train_bits);
    if (isfinite(valid_bits)) fprintf(j->log, "%.6f", valid_bits);
    fprintf(j->log, ",%.2f,%.6g,%.6g,%llu,%llu\n", p.seconds, j->run.stats.gradient_norm, j->run.stats.update_rms,
            (unsigned long long)j->run.stats.flipped, (unsigned long long)j->run.stats.saturated);
    return true;
}

/* The lines of an earlier log up to the resumed step, so that CSV and plot show the whole run. */
static void read_log(struct job *j) {
    FILE *f = fopen(j->path[LOG], "r");
    char line[512];
    struct run_point p;
    while (f && fgets(line, sizeof line, f)) {
        char *end;
        p.step = strtod(line, &end);
        if (end == line || *end != ',' || p.step > (double)j->run.step) continue;
        p.train_bits = strtod(end + 1, &end);
        p.valid_bits = NAN;
        if (*end == ',' && end[1] != ',') p.valid_bits = strtod(end + 1, &end);
        p.seconds = 0;
        if (!keep_point(j, p)) break;
    }
    if (f) fclose(f);
}

static void progress(struct job *j) {
    const struct run *r = &j->run;
    const double seconds = now() - j->started, rate = j->tokens_done / (seconds > 0 ? seconds : 1);
    const double per_step =
        (double)(r->options.batch * r->options.length * (r->options.fused ? 1 : r->options.accumulate));
    const double left = (double)(r->options.steps - r->step) * per_step / (rate > 0 ? rate : 1);
    printf("%sstep %zu/%zu  loss %.4f  %.4f bits/byte  %.0f tokens/s  %.0f s left  %.1f MiB%s",
           j->live ? "\r\033[K" : "", r->step, r->options.steps, r->train_bits * log(2), r->train_bits, rate, left,
           (double)dqt_context_allocated(r->ctx) / 1048576.0, j->live ? "" : "\n");
    fflush(stdout);
}

static dqt_status evaluate(struct job *j, const char *when) {
    double bits;
    dqt_status status = run_evaluate(&j->run, &bits);
    if (status != DQT_OK) return status;
    if (!add_point(j, bits)) return DQT_E_MEMORY;
    printf("%sstep %zu: held-out bits per byte %s: %.4f\n", j->live ? "\r\033[K" : "", j->run.step, when, bits);
    return DQT_OK;
}

static dqt_status train(struct job *j) {
    struct run *r = &j->run;
    const struct run_options *o = &r->options;
    const size_t end = o->stop_at && o->stop_at < o->steps ? o->stop_at : o->steps;
    dqt_status status = r->step == 0 ? evaluate(j, "before training") : DQT_OK;
    double shown = now();
    while (status == DQT_OK && r->step < end && !interrupted) {
        status = run_step(r);
        if (status != DQT_OK) break;
        j->tokens_done += (double)(o->batch * o->length * (o->fused ? 1 : o->accumulate));
        const bool last = r->step == o->steps;
        if (last || (o->eval_every && r->step % o->eval_every == 0))
            status = evaluate(j, last ? "after training" : "during training");
        else if (!add_point(j, NAN))
            status = DQT_E_MEMORY;
        if (status == DQT_OK && o->save_every && r->step % o->save_every == 0) status = run_save(r, j->path[MODEL]);
        if (now() - shown >= (j->live ? 0.2 : 5.0)) {
            progress(j);
            shown = now();
        }
    }
    if (status == DQT_OK && j->tokens_done > 0) progress(j);
    if (j->live) printf("\n");
    if (status == DQT_OK) status = run_save(r, j->path[MODEL]);
    if (interrupted && status == DQT_OK) printf("interrupted at step %zu: saved; go on with --resume\n", r->step);
    return status;
}

static int prepare_files(struct job *j, int resume) {
    static const char *const names[] = {"log.csv", "losses.svg", "model.dqt"};
    if (mkdir(j->out, 0777) != 0 && errno != EEXIST) {
        fprintf(stderr, "the folder %s cannot be made: %s\n", j->out, strerror(errno));
        return 1;
    }
    for (int i = 0; i < 3; i++)
        if (snprintf(j->path[i], sizeof j->path[i], "%s/%s", j->out, names[i]) >= (int)sizeof j->path[i]) {
            fprintf(stderr, "the folder's name is too long\n");
            return 1;
        }
    if (resume && access(j->path[MODEL], R_OK) != 0) {
        fprintf(stderr, "there is no %s to resume from\n", j->path[MODEL]);
        return 1;
    }
    return 0;
}

static int open_log(struct job *j) {
    if (j->run.step) read_log(j);
    j->log = fopen(j->path[LOG], "w");
    if (!j->log) {
        fprintf(stderr, "%s cannot be written: %s\n", j->path[LOG], strerror(errno));
        return 1;
    }
    fprintf(j->log,
            "step,train_bits_per_byte,valid_bits_per_byte,seconds,gradient_norm,update_rms,flipped,saturated\n");
    for (size_t i = 0; i < j->num_points; i++) {
        fprintf(j->log, "%.0f,%.6f,", j->points[i].step, j->points[i].train_bits);
        if (isfinite(j->points[i].valid_bits)) fprintf(j->log, "%.6f", j->points[i].valid_bits);
        fprintf(j->log, ",,,,,\n");
    }
    return 0;
}

static int run_job(struct job *j, const struct run_options *o, int threads, int resume) {
    dqt_context_options c;
    dqt_context *ctx;
    dqt_status status = dqt_context_options_init(&c, sizeof c);
    c.num_threads = threads;
    if (status == DQT_OK) status = dqt_context_create(&c, &ctx);
    if (status != DQT_OK) {
        fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(NULL));
        return 1;
    }
    status = run_open(&j->run, ctx, &j->text, o, resume ? j->path[MODEL] : NULL);
    int failed = status != DQT_OK || open_log(j);
    if (!failed) {
        double state = 0;
        run_state_bytes(&j->run, &state);
        printf("training on %zu bytes, %zu held out; %d threads; %.2f bytes of state per linear weight\n",
               j->text.train_size, j->text.valid_size, dqt_context_num_threads(ctx), state);
        j->started = now();
        status = train(j);
    }
    if (status != DQT_OK) {
        fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
        failed = 1;
    }
    if (!failed && !run_plot(j->path[PLOT], "Training", j->points, j->num_points)) {
        fprintf(stderr, "%s cannot be written\n", j->path[PLOT]);
        failed = 1;
    }
    if (j->log && fclose(j->log) != 0) failed = 1;
    if (!failed) printf("written: %s, %s, %s\n", j->path[MODEL], j->path[LOG], j->path[PLOT]);
    run_close(&j->run);
    free(j->points);
    dqt_context_destroy(ctx);
    return failed;
}

int main(int argc, char **argv) {
    struct run_options o = run_defaults();
    const char *data = NULL, *valid = NULL;
    struct job j = {.out = "run", .live = isatty(1) != 0};
    int threads = 0, resume = 0;
    struct arg table[64] = {
        {"--data", ARG_TEXT, &data, "text to train on (any file; its bytes are the tokens)", NULL},
        {"--valid", ARG_TEXT, &valid, "held-out text (default: the last tenth of the data)", NULL},
        {"--out", ARG_TEXT, &j.out, "folder for checkpoint, CSV and plot", NULL},
        {"--threads", ARG_INT, &threads, "threads (0: as OpenMP says)", NULL},
        {"--resume", ARG_FLAG, &resume, "go on from the folder's checkpoint, with the same options", NULL},
    };
    const size_t own = 5, count = own + run_args(&o, table + own, sizeof table / sizeof *table - own);
    const int stop = args_parse(argc, argv, table, count, "Trains a low-bit LLaMA on a text.");
    if (stop) return stop - 1;
    if (!data || o.batch == 0 || o.length == 0 || o.steps == 0 || o.accumulate == 0 || o.eval_windows == 0 ||
        o.vocab < 256) {
        fprintf(stderr, "--data is needed, --batch, --seq, --steps, --accumulate, --eval-windows at least 1, --vocab "
                        "at least 256\n");
        return 2;
    }
    const char *problem = text_open(&j.text, data, valid, o.length);
    if (problem) {
        fprintf(stderr, "%s: %s\n", data, problem);
        text_close(&j.text);
        return 1;
    }
    const struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    const int failed = prepare_files(&j, resume) || run_job(&j, &o, threads, resume);
    text_close(&j.text);
    return failed;
}
