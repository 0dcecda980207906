#include "core/status.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/context.h"

enum { SENTENCES = 4, SENTENCE_BYTES = 512 };

/* The latest sentences of a few contexts, per thread, so that two threads that fail in one context never race. A
 * context is known by its serial number: an address may come again. */
static _Thread_local struct {
    struct {
        size_t serial; /* of the context; 0: of calls that had none */
        char text[SENTENCE_BYTES];
    } sentence[SENTENCES]; /* the latest first */
    bool logging;          /* a log callback is running */
} errors;

static size_t serial_of(const dqt_context *ctx) {
    return ctx ? ctx->serial : 0;
}

/* Puts the context's sentence in front of the others; the oldest is dropped where there is no place for it. */
static void keep(const dqt_context *ctx, const char text[SENTENCE_BYTES]) {
    const size_t serial = serial_of(ctx);
    size_t at = 0;
    while (at < SENTENCES - 1 && (errors.sentence[at].serial != serial || !*errors.sentence[at].text))
        at++;
    memmove(errors.sentence + 1, errors.sentence, at * sizeof *errors.sentence);
    errors.sentence[0].serial = serial;
    memcpy(errors.sentence[0].text, text, SENTENCE_BYTES);
}

bool log_wanted(const dqt_context *ctx, int32_t level) {
    return ctx && ctx->log && ctx->log_level >= level && !errors.logging;
}

static void send(const dqt_context *ctx, int32_t level, const char *text) {
    errors.logging = true;
    ctx->log(ctx->log_user_data, level, text);
    errors.logging = false;
}

void log_message(const dqt_context *ctx, int32_t level, const char *format, ...) {
    char text[SENTENCE_BYTES];
    if (!log_wanted(ctx, level)) return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    send(ctx, level, text);
}

dqt_status fail(const dqt_context *ctx, dqt_status status, const char *format, ...) {
    char text[SENTENCE_BYTES] = ""; /* an argument may be an earlier sentence, and the callback may fail */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    keep(ctx, text);
    if (log_wanted(ctx, DQT_LOG_ERROR)) {
        send(ctx, DQT_LOG_ERROR, text);
        keep(ctx, text);
    }
    return status;
}

dqt_status check_interrupt(const dqt_context *ctx) {
    if (!ctx->interrupt || !ctx->interrupt(ctx->interrupt_user_data)) return DQT_OK;
    return fail(ctx, DQT_E_CANCELLED, "the host's interrupt callback asked to stop");
}

const char *last_error(const dqt_context *ctx) {
    if (!ctx) return errors.sentence[0].text;
    for (size_t i = 0; i < SENTENCES; i++)
        if (errors.sentence[i].serial == ctx->serial) return errors.sentence[i].text;
    return "";
}

size_t context_serial(void) {
    static atomic_size_t latest;
    return atomic_fetch_add_explicit(&latest, 1, memory_order_relaxed) + 1;
}

const char *dqt_status_string(dqt_status status) {
    switch (status) {
    case DQT_OK: return "DQT_OK";
    case DQT_E_ARGUMENT: return "DQT_E_ARGUMENT";
    case DQT_E_SHAPE: return "DQT_E_SHAPE";
    case DQT_E_MEMORY: return "DQT_E_MEMORY";
    case DQT_E_UNSUPPORTED: return "DQT_E_UNSUPPORTED";
    case DQT_E_FORMAT: return "DQT_E_FORMAT";
    case DQT_E_IO: return "DQT_E_IO";
    case DQT_E_NUMERIC: return "DQT_E_NUMERIC";
    case DQT_E_STATE: return "DQT_E_STATE";
    case DQT_E_CANCELLED: return "DQT_E_CANCELLED";
    default: return "unknown status";
    }
}
