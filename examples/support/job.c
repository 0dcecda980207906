#include "job.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted; /* this rank */

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double trained(const struct job *j) {
    return now() - j->started - j->evaluating;
}

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

static bool add_point(struct job *j, double valid_loss) {
    const struct run_point p = {(double)j->run.step, j->run.train_loss, valid_loss, now() - j->started};
    if (!keep_point(j, p)) return false;
    fprintf(j->log, "%zu,%.6f,", j->run.step, p.train_loss);
    if (isfinite(valid_loss)) fprintf(j->log, "%.6f", valid_loss);
    fprintf(j->log, ",%.4f,%.6g,%.6g,%llu,%llu\n", p.seconds, j->run.stats.gradient_norm, j->run.stats.update_rms,
            (unsigned long long)j->run.stats.flipped, (unsigned long long)j->run.stats.saturated);
    return true;
}

/* The lines of an earlier log up to the resumed step, so that CSV and plot show the whole run. */
static void read_log(struct job *j) {
    FILE *f = fopen(j->path[JOB_LOG], "r");
    char line[512];
    struct run_point p;
    while (f && fgets(line, sizeof line, f)) {
        char *end;
        p.step = strtod(line, &end);
        if (end == line || *end != ',' || p.step > (double)j->run.step) continue;
        p.train_loss = strtod(end + 1, &end);
        p.valid_loss = NAN;
        if (*end == ',' && end[1] != ',') p.valid_loss = strtod(end + 1, &end);
        p.seconds = 0;
        if (!keep_point(j, p)) break;
    }
    if (f) fclose(f);
}

static bool bytewise(const struct run *r) {
    return r->data->train.width == 1;
}

static void progress(struct job *j) {
    const struct run *r = &j->run;
    const double seconds = trained(j), rate = j->tokens_done / (seconds > 0 ? seconds : 1);
    const double per_step =
        (double)(r->options.batch * r->options.length * (r->options.fused ? 1 : r->options.accumulate));
    const double left = (double)(r->options.steps - r->step) * per_step / (rate > 0 ? rate : 1);
    const double nats = r->train_loss * r->unit.nats;
    printf("%sstep %zu/%zu  loss %.4f  ", j->live ? "\r\033[K" : "", r->step, r->options.steps, nats);
    printf(bytewise(r) ? "%.4f bits/byte" : "perplexity %.2f", bytewise(r) ? r->train_loss : exp(nats));
    printf("  %.0f tokens/s  %.0f s left  %.1f MiB%s", rate, left, (double)dqt_context_allocated(r->ctx) / 1048576.0,
           j->live ? "" : "\n");
    fflush(stdout);
}

/* An interrupt ends it without a loss. */
static dqt_status evaluate(struct job *j, const char *when) {
    double loss;
    const double begun = now();
    dqt_status status = run_evaluate(&j->run, &loss);
    if (status != DQT_OK) return status;
    j->evaluating += now() - begun;
    if (ranks_any(interrupted)) return j->run.step == 0 || add_point(j, NAN) ? DQT_OK : DQT_E_MEMORY;
    j->valid_loss = loss;
    if (!add_point(j, loss)) return DQT_E_MEMORY;
    printf("%sstep %zu: held-out %s %s: %.4f", j->live ? "\r\033[K" : "", j->run.step, j->run.unit.name, when, loss);
    if (!bytewise(&j->run)) printf(", perplexity %.2f", exp(loss));
    printf("\n");
    return DQT_OK;
}

/* --until. */
static bool reached(const struct job *j) {
    return j->run.options.until > 0 && j->valid_loss <= (double)j->run.options.until;
}

static void say_reached(const struct job *j) {
    const struct run *r = &j->run;
    printf("%s %.4g %s at step %zu: %.0f tokens, %.2f s of training, %.2f s of evaluation\n",
           reached(j) ? "reached" : "did not reach", (double)r->options.until, r->unit.name, r->step, j->tokens_done,
           trained(j), j->evaluating);
}

static dqt_status save(struct job *j) {
    const dqt_status status = run_save(&j->run, j->path[JOB_MODEL]);
    if (status != DQT_OK) return status;
    printf("%sstep %zu: saved\n", j->live ? "\r\033[K" : "", j->run.step);
    fflush(stdout);
    return DQT_OK;
}

static dqt_status train(struct job *j) {
    struct run *r = &j->run;
    const struct run_options *o = &r->options;
    const size_t end = o->stop_at && o->stop_at < o->steps ? o->stop_at : o->steps;
    dqt_status status = r->step == 0 ? evaluate(j, "before training") : DQT_OK;
    double shown = now();
    bool stop = false; /* the same on all ranks */
    while (status == DQT_OK && r->step < end && !(stop = ranks_any(interrupted)) && !reached(j)) {
        status = run_step(r);
        if (status != DQT_OK) break;
        j->tokens_done += (double)(o->batch * o->length * (o->fused ? 1 : o->accumulate));
        const bool last = r->step == o->steps;
        if (last || (o->eval_every && r->step % o->eval_every == 0))
            status = evaluate(j, last ? "after training" : "during training");
        else if (!add_point(j, NAN))
            status = DQT_E_MEMORY;
        if (status == DQT_OK && o->save_every && r->step % o->save_every == 0) status = save(j);
        if (now() - shown >= (j->live ? 0.2 : 5.0)) {
            progress(j);
            shown = now();
        }
    }
    if (status == DQT_OK && j->tokens_done > 0) progress(j);
    if (j->live) printf("\n");
    if (status == DQT_OK && r->options.until > 0) say_reached(j);
    if (status == DQT_OK) status = save(j);
    if (stop && status == DQT_OK) printf("interrupted at step %zu: saved; go on with --resume\n", r->step);
    return status;
}

bool job_prepare(struct job *j, bool resume) {
    static const char *const names[JOB_FILES] = {"log.csv", "losses.svg", "model.dqt"};
    const struct sigaction action = {.sa_handler = on_interrupt};
    /* Ctrl-C; what mpirun makes of it, and batch systems send; what mpirun passes on */
    const int signals[] = {SIGINT, SIGTERM, SIGUSR1};
    for (int i = 0; i < 3; i++)
        sigaction(signals[i], &action, NULL);
    j->live = isatty(1) != 0;
    if (!resume && mkdir(j->out, 0777) != 0 && errno != EEXIST) {
        fprintf(stderr, "the folder %s cannot be made: %s\n", j->out, strerror(errno));
        return false;
    }
    for (int i = 0; i < JOB_FILES; i++) {
        const bool own = ranks_own() == 0 || i == JOB_MODEL; /* log and plot are rank 0's */
        const int length = own ? snprintf(j->path[i], sizeof j->path[i], "%s/%s", j->out, names[i])
                               : snprintf(j->path[i], sizeof j->path[i], "/dev/null");
        if (length >= (int)sizeof j->path[i]) {
            fprintf(stderr, "the folder's name is too long\n");
            return false;
        }
    }
    if (resume && access(j->path[JOB_MODEL], R_OK) != 0) {
        fprintf(stderr, "there is no %s to resume from\n", j->path[JOB_MODEL]);
        return false;
    }
    return true;
}

dqt_context *job_context(int threads) {
    dqt_context_options c;
    dqt_context *ctx = NULL;
    dqt_status status = dqt_context_options_init(&c, sizeof c);
    c.num_threads = threads;
    if (status == DQT_OK) status = dqt_context_create(&c, &ctx);
    if (status != DQT_OK) job_failed(NULL, status);
    return ctx;
}

bool job_failed(dqt_context *ctx, dqt_status status) {
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    return false;
}

static bool open_log(struct job *j) {
    if (j->run.step) read_log(j);
    j->log = fopen(j->path[JOB_LOG], "w");
    if (!j->log) {
        fprintf(stderr, "%s cannot be written: %s\n", j->path[JOB_LOG], strerror(errno));
        return false;
    }
    const char *unit = j->run.unit.column;
    fprintf(j->log, "step,train_%s,valid_%s,seconds,gradient_norm,update_rms,flipped,saturated\n", unit, unit);
    for (size_t i = 0; i < j->num_points; i++) {
        fprintf(j->log, "%.0f,%.6f,", j->points[i].step, j->points[i].train_loss);
        if (isfinite(j->points[i].valid_loss)) fprintf(j->log, "%.6f", j->points[i].valid_loss);
        fprintf(j->log, ",,,,,\n");
    }
    return true;
}

bool job_train(struct job *j) {
    struct run *r = &j->run;
    double state = 0;
    if (!open_log(j)) return false;
    if (r->step) printf("going on from step %zu\n", r->step);
    run_state_bytes(r, &state);
    printf("training on %zu %s, %zu held out; %d threads; %.2f bytes of state per linear weight\n",
           r->data->train.count, bytewise(r) ? "bytes" : "tokens", r->data->valid.count,
           dqt_context_num_threads(r->ctx), state);
    r->interrupted = &interrupted;
    j->started = now();
    j->valid_loss = INFINITY;
    const dqt_status status = train(j);
    if (status != DQT_OK) return job_failed(r->ctx, status);
    if (!ranks_report(r)) return false;
    if (!run_plot(j->path[JOB_PLOT], "Training", r->unit, j->points, j->num_points)) {
        fprintf(stderr, "%s cannot be written\n", j->path[JOB_PLOT]);
        return false;
    }
    const bool written = fclose(j->log) == 0;
    j->log = NULL;
    if (written)
        printf("written: %s, %s, %s\n", j->path[JOB_MODEL], j->path[JOB_LOG], j->path[JOB_PLOT]);
    else
        fprintf(stderr, "%s cannot be written\n", j->path[JOB_LOG]);
    return written;
}

void job_close(struct job *j) {
    if (j->log) fclose(j->log);
    run_close(&j->run);
    free(j->points);
}
