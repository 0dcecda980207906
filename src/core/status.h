/* Statuses and the calling thread's last error sentence. */
#ifndef DQT_CORE_STATUS_H
#define DQT_CORE_STATUS_H

#include <stdbool.h>

#include "dqt.h"

/* Sentences have the sizes of C99 (%zu), which the old C library of Windows does not know, but MinGW's own does. */
#if defined(__MINGW32__)
#define PRINTF_FORMAT gnu_printf
#else
#define PRINTF_FORMAT printf
#endif

/* Stores the sentence for dqt_last_error on this thread, sends it to the context's log and returns `status`. ctx may be
 * NULL (context creation, NULL handles). The log callback may call the library: what fails there is not logged again,
 * and the sentence of this failure is the latest after it. */
__attribute__((format(PRINTF_FORMAT, 3, 4))) dqt_status fail(const dqt_context *ctx, dqt_status status,
                                                             const char *format, ...);

/* A sentence for the context's log alone, not sent while the callback runs. Not from inside a task. */
__attribute__((format(PRINTF_FORMAT, 3, 4))) void log_message(const dqt_context *ctx, int32_t level, const char *format,
                                                              ...);
/* Whether such a sentence would be sent. */
bool log_wanted(const dqt_context *ctx, int32_t level);

/* The current thread's latest sentence in ctx, "" if it has none of it any more; ctx NULL: its latest of all. */
const char *last_error(const dqt_context *ctx);

/* The serial number of a new context, never 0. */
size_t context_serial(void);

/* Asks the host whether to go on: DQT_E_CANCELLED if it says no. On the thread that called the library, outside of
 * tasks. */
dqt_status check_interrupt(const dqt_context *ctx);

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        dqt_status try_status = (call);                                                                                \
        if (try_status != DQT_OK) return try_status;                                                                   \
    } while (0)

#endif
