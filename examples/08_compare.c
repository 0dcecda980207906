/* Example 8, compare: a list of named runs on one text, a table and plots of what each learned for its bytes.
 *
 * Introduces: many models in one program; reading a trained model with another compute format ("ternary inference").
 *
 *   08_compare --list examples/results.list --data train.txt --valid valid.txt --out results --hidden 256 ...
 *
 * A line of the list is "name | options of 03_train", over its plain defaults (--recipe none); options on the command
 * line hold for all runs. Finished runs are not repeated and an interrupted one goes on from its checkpoint. With
 * --only NAME it is one run of the list without the report, so that several may share a folder (tools/results_rows.py).
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "plot.h"
#include "read_as.h"
#include "run.h"

enum { MAX_RUNS = 200, MAX_POINTS = 4096, LINE = 1024, WORDS = 96, SAVE_EVERY = 100, LOG_EVERY = 20 };

/* What is known of a run: its curve and figures. */
struct result {
    char name[64];
    double x[MAX_POINTS], y[MAX_POINTS]; /* held-out bits per byte by step */
    size_t points;
    double valid, converted, state; /* at the end; with ternary compute (NAN: not applicable); bytes per weight */
};

static struct result *results[MAX_RUNS];
static const char *out_folder = "results";

static void file_name(char *path, size_t size, const char *name, const char *suffix) {
    snprintf(path, size, "%s/%s%s", out_folder, name, suffix);
}

/* Splits "a b c" in place after the program's name. */
static int split(char *line, char **words) {
    int n = 0;
    words[n++] = "08_compare";
    for (char *word = strtok(line, " \t\r\n"); word && n < WORDS; word = strtok(NULL, " \t\r\n"))
        words[n++] = word;
    return n;
}

/* Held-out loss of the trained codes when layers read them as ternary. */
static dqt_status evaluate_converted(struct run *r, double *bits) {
    dqt_layer *const *layers;
    size_t n;
    struct run other = *r;
    other.updater = NULL;
    other.tape = NULL;
    dqt_status status = read_as(r->ctx, r->model, DQT_FORMAT_TERNARY, &other.model);
    if (status != DQT_OK) return status;
    dqt_llama_get_layers(other.model, &layers, &n);
    dqt_tape_options o;
    status = dqt_tape_options_init(&o, sizeof o);
    if (status == DQT_OK) {
        o.max_batch = r->options.batch;
        o.max_length = r->options.length;
        o.inference = 1;
        status = dqt_tape_create(r->ctx, layers, n, &o, &other.tape);
    }
    if (status == DQT_OK) status = run_evaluate(&other, bits);
    dqt_tape_destroy(other.tape);
    dqt_llama_destroy(other.model);
    return status;
}

static void log_line(FILE *log, const struct run *r, double valid) {
    fprintf(log, "%zu,%.6f,", r->step, r->train_loss);
    if (isfinite(valid)) fprintf(log, "%.6f", valid);
    fprintf(log, "\n");
    fflush(log);
}

/* Trains to the end; the log is rewritten from the resumed step on by appending (readers keep the last line of a step).
 */
static dqt_status finish_run(struct run *r, const char *name, const char *checkpoint, FILE *log,
                             struct result *result) {
    dqt_status status = DQT_OK;
    while (status == DQT_OK && r->step < r->options.steps) {
        status = run_step(r);
        double valid = NAN;
        const bool last = r->step == r->options.steps;
        if (status == DQT_OK && (last || (r->options.eval_every && r->step % r->options.eval_every == 0))) {
            status = run_evaluate(r, &valid);
            printf("%s: step %zu: %.4f bits per byte\n", name, r->step, valid);
            fflush(stdout);
        }
        if (status == DQT_OK && (isfinite(valid) || r->step % LOG_EVERY == 0)) log_line(log, r, valid);
        if (last) result->valid = valid;
        if (status == DQT_OK && (last || r->step % SAVE_EVERY == 0)) status = run_save(r, checkpoint);
    }
    return status;
}

static int run_one(dqt_context *ctx, const struct tokens *text, const struct run_options *o, const char *name) {
    char path[512], checkpoint[512], done[512];
    file_name(path, sizeof path, name, ".csv");
    file_name(checkpoint, sizeof checkpoint, name, ".dqt");
    file_name(done, sizeof done, name, ".done");
    FILE *mark = fopen(done, "r");
    if (mark) {
        fclose(mark);
        return 0;
    }
    FILE *exists = fopen(checkpoint, "r");
    if (exists) fclose(exists);
    struct run r;
    struct result result = {.valid = NAN, .converted = NAN};
    dqt_status status = run_open(&r, ctx, text, o, exists ? checkpoint : NULL);
    FILE *log = status == DQT_OK ? fopen(path, exists ? "a" : "w") : NULL;
    if (log && !exists) fprintf(log, "step,train_bits_per_byte,valid_bits_per_byte\n");
    if (log) status = finish_run(&r, name, checkpoint, log, &result);
    if (status == DQT_OK) status = run_state_bytes(&r, &result.state);
    const int wider = o->format != DQT_FORMAT_F32 && o->format != DQT_FORMAT_BF16 && o->format != DQT_FORMAT_TERNARY;
    const int integer = wider && o->compute == DQT_FORMAT_SAME;
    if (status == DQT_OK && integer) status = evaluate_converted(&r, &result.converted);
    if (status != DQT_OK || !log) {
        fprintf(stderr, "%s: %s: %s\n", name, dqt_status_string(status), log ? dqt_last_error(ctx) : "no log");
    } else {
        mark = fopen(done, "w");
        if (mark) {
            fprintf(mark, "%.6f %.6f %.6f\n", result.valid, result.converted, result.state);
            fclose(mark);
        }
        remove(checkpoint);
    }
    if (log) fclose(log);
    if (status == DQT_OK) run_close(&r);
    return status != DQT_OK || !log;
}

static struct result *read_result(const char *name) {
    char path[512], line[256];
    struct result *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    snprintf(r->name, sizeof r->name, "%s", name);
    file_name(path, sizeof path, name, ".done");
    FILE *f = fopen(path, "r");
    const int good = f && fscanf(f, "%lf %lf %lf", &r->valid, &r->converted, &r->state) == 3;
    if (f) fclose(f);
    file_name(path, sizeof path, name, ".csv");
    f = good ? fopen(path, "r") : NULL;
    while (f && fgets(line, sizeof line, f)) {
        double step, train, valid;
        if (r->points < MAX_POINTS && sscanf(line, "%lf,%lf,%lf", &step, &train, &valid) == 3) {
            r->x[r->points] = step;
            r->y[r->points++] = valid;
        }
    }
    if (f) fclose(f);
    if (good) return r;
    free(r);
    return NULL;
}

static int table(size_t count) {
    char path[512];
    file_name(path, sizeof path, "table", ".md");
    FILE *f = fopen(path, "w");
    if (!f) return 1;
    fprintf(f,
            "| run | held-out bits per byte | read as ternary | state bytes per linear weight |\n|---|---|---|---|\n");
    for (size_t i = 0; i < count; i++) {
        const struct result *r = results[i];
        char converted[32] = "";
        if (isfinite(r->converted)) snprintf(converted, sizeof converted, "%.4f", r->converted);
        fprintf(f, "| %s | %.4f | %s | %.2f |\n", r->name, r->valid, converted, r->state);
    }
    return fclose(f) != 0;
}

/* ---- Plots --------------------------------------------------------------------------------------------------- */

/* Runs of one name that ends in -s1, -s2, ... are seeds of one method. */
static int method_length(const char *name) {
    const size_t n = strlen(name);
    return (int)(n > 3 && strncmp(name + n - 3, "-s", 2) == 0 && isdigit((unsigned char)name[n - 1]) ? n - 3 : n);
}

static bool same_method(const struct result *a, const struct result *b) {
    const int n = method_length(a->name);
    return n == method_length(b->name) && strncmp(a->name, b->name, (size_t)n) == 0;
}

/* Mean over the seeds of a run's method, and how many they are. */
static double method_mean(const struct result *r, size_t count, int *seeds) {
    double sum = 0;
    *seeds = 0;
    for (size_t i = 0; i < count; i++)
        if (same_method(results[i], r)) {
            sum += results[i]->valid;
            ++*seeds;
        }
    return sum / *seeds;
}

/* A run in the plots, with the mean of its method: sorted by that, worst first, as the curves end from top to bottom.
 */
struct plotted {
    const struct result *run;
    double mean;
    char label[96];
};

static int by_mean(const void *a, const void *b) {
    const struct plotted *x = a, *y = b;
    const int order = (x->mean < y->mean) - (x->mean > y->mean);
    return order ? order : strcmp(x->run->name, y->run->name);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What did not learn is out of the picture, where its legend has the figure: axes that end above the curves and the
 * last values of all runs that got below the value at which half of them began. */
static void highest_learners(const struct plotted *p, size_t count, double *curves, double *points) {
    double first[MAX_RUNS];
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        if (p[i].run->points) first[n++] = p[i].run->y[0];
    qsort(first, n, sizeof *first, by_value);
    *curves = *points = 0;
    for (size_t i = 0; i < count; i++) {
        if (!p[i].run->points || !(p[i].run->valid < first[n / 2])) continue;
        *curves = fmax(*curves, p[i].run->y[0] + 0.02);
        *points = fmax(*points, p[i].run->valid + 0.02);
    }
}

static int plots(size_t count) {
    static struct plotted p[MAX_RUNS];
    struct series curves[MAX_RUNS], points[MAX_RUNS];
    char path[512];
    for (size_t i = 0; i < count; i++) {
        int seeds;
        p[i].run = results[i];
        p[i].mean = method_mean(results[i], count, &seeds);
        snprintf(p[i].label, sizeof p[i].label, "%.*s  %.3f%s", method_length(results[i]->name), results[i]->name,
                 p[i].mean, seeds > 1 ? " (mean)" : "");
    }
    qsort(p, count, sizeof *p, by_mean);
    for (size_t i = 0; i < count; i++) {
        const struct result *r = p[i].run;
        const char *name = i > 0 && same_method(p[i - 1].run, r) ? NULL : p[i].label;
        curves[i] = (struct series){name, r->x, r->y, r->points, false};
        points[i] = (struct series){name, &r->state, &r->valid, 1, true};
    }
    struct chart c = {"Held-out loss, one line per run", "step", "bits per byte", false, 0};
    struct chart s = {"Final loss against training state", "bytes of state per linear weight", "bits per byte", true,
                      0};
    highest_learners(p, count, &c.y_max, &s.y_max);
    file_name(path, sizeof path, "curves", ".svg");
    int failed = !plot_svg(path, &c, curves, count);
    file_name(path, sizeof path, "state", ".svg");
    failed |= !plot_svg(path, &s, points, count);
    return failed;
}

/* Runs (or only reads) every line of the list, or runs the one that is named `only`. */
static int run_list(dqt_context *ctx, const struct tokens *text, const struct run_options *base, const char *list,
                    const char *only, size_t limit) {
    FILE *f = fopen(list, "r");
    char line[LINE], *words[WORDS];
    size_t count = 0, started = 0;
    int failed = 0;
    if (!f) {
        fprintf(stderr, "%s cannot be opened\n", list);
        return 1;
    }
    while (!failed && count < MAX_RUNS && fgets(line, sizeof line, f)) {
        char *bar = strchr(line, '|'), name[64];
        if (*line == '#' || !bar || sscanf(line, "%63s", name) != 1) continue;
        if (only && strcmp(name, only) != 0) continue;
        struct run_options o = *base;
        struct arg table[RUN_ARGS];
        size_t n = run_model_args(&o, table);
        n += run_training_args(&o, table + n);
        failed = args_parse(split(bar + 1, words), words, table, n, "");
        struct result *r = failed ? NULL : read_result(name);
        if (!failed && !r && started < limit) {
            started++;
            failed = run_one(ctx, text, &o, name);
            r = failed ? NULL : read_result(name);
        }
        if (r) results[count++] = r;
    }
    fclose(f);
    if (only && !failed && count == 0) {
        fprintf(stderr, "%s has no run %s that may be begun\n", list, only);
        failed = 1;
    }
    if (!only) failed |= table(count) || plots(count);
    for (size_t i = 0; i < count; i++)
        free(results[i]);
    return failed;
}

int main(int argc, char **argv) {
    struct run_options o = run_defaults();
    struct tokens text;
    struct token_source source = {.bytes = 1, .document_token = -1};
    const char *list = "examples/results.list", *only = NULL;
    size_t limit = MAX_RUNS;
    dqt_context_options options = DQT_INIT(dqt_context_options);
    int threads = 0;
    struct arg table[RUN_ARGS + 7] = {
        {"--list", ARG_TEXT, &list, "file of runs", NULL},
        {"--data", ARG_TEXT, &source.train, "text to train on", NULL},
        {"--valid", ARG_TEXT, &source.valid, "held-out text (default: the last tenth of the data)", NULL},
        {"--out", ARG_TEXT, &out_folder, "folder for logs, table and plots", NULL},
        {"--limit", ARG_SIZE, &limit, "at most this many unfinished runs (0: only the report)", NULL},
        {"--only", ARG_TEXT, &only, "the run of this name, without the report", NULL},
        {"--threads", ARG_INT, &threads, "threads (0: as OpenMP says)", NULL},
    };
    size_t count = 7;
    count += run_model_args(&o, table + count);
    count += run_training_args(&o, table + count);
    const int stop = args_parse(argc, argv, table, count, "Compares training runs.");
    if (stop) return stop - 1;
    if (!source.train) {
        fprintf(stderr, "--data is needed\n");
        return 2;
    }
    if (mkdir(out_folder, 0777) != 0 && errno != EEXIST) {
        fprintf(stderr, "the folder %s cannot be made: %s\n", out_folder, strerror(errno));
        return 1;
    }
    const char *problem = tokens_open(&text, &source, o.length);
    dqt_context *ctx;
    options.num_threads = threads;
    int failed = 1;
    if (problem)
        fprintf(stderr, "%s: %s\n", source.train, problem);
    else if (dqt_context_create(&options, &ctx) != DQT_OK)
        fprintf(stderr, "%s\n", dqt_last_error(NULL));
    else {
        failed = run_list(ctx, &text, &o, list, only, limit);
        dqt_context_destroy(ctx);
    }
    tokens_close(&text);
    return failed;
}
