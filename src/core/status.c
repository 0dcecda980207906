#include "core/status.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/context.h"

/* Per thread, so that two threads that fail in one context never race; not shared state. */
static _Thread_local struct {
    const dqt_context *ctx;
    char text[512];
} last;

dqt_status fail(const dqt_context *ctx, dqt_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(last.text, sizeof last.text, format, args);
    va_end(args);
    last.ctx = ctx;
    if (ctx && ctx->log && ctx->log_level >= DQT_LOG_ERROR) ctx->log(ctx->log_user_data, DQT_LOG_ERROR, last.text);
    return status;
}

const char *last_error(const dqt_context *ctx) {
    return last.ctx == ctx ? last.text : "";
}

void last_error_clear(void) {
    last.text[0] = '\0';
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
    default: return "unknown status";
    }
}
