/* Statuses and the calling thread's last error sentence. */
#ifndef DQT_CORE_STATUS_H
#define DQT_CORE_STATUS_H

#include "dqt.h"

/* Stores the sentence for dqt_last_error(ctx) on this thread, sends it to the context's log and returns `status`.
 * ctx may be NULL (context creation). */
__attribute__((format(printf, 3, 4))) dqt_status fail(const dqt_context *ctx, dqt_status status, const char *format,
                                                      ...);

/* The current thread's sentence if it belongs to ctx, else "". */
const char *last_error(const dqt_context *ctx);

/* Forgets a sentence of an earlier context at the same address. */
void last_error_clear(void);

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        dqt_status try_status = (call);                                                                                \
        if (try_status != DQT_OK) return try_status;                                                                   \
    } while (0)

#endif
