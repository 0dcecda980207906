/* Versioned structs: the first member is uint32_t struct_size. A size that is more than 512 bytes above this library's
 * is refused, for it was never set: nothing beyond that is read or written. */
#ifndef DQT_CORE_OPTIONS_H
#define DQT_CORE_OPTIONS_H

#include "core/status.h"

/* For *_init functions: copies the first struct_size bytes of `defaults` (full_size bytes) and sets struct_size; bytes
 * the library does not know are zeroed. `name` for messages. */
dqt_status options_init(void *out, size_t struct_size, const void *defaults, size_t full_size, const char *name);

/* For users of options: `full` holds defaults; the part that `given` has is copied over it. A larger struct is accepted
 * if its unknown tail is zero. given NULL: defaults. full's struct_size becomes full_size. */
dqt_status options_read(const dqt_context *ctx, void *full, size_t full_size, const void *given, const char *name);

/* The same for element `index` of an array whose elements all have the size of the first one; `array`: its name in the
 * call. */
dqt_status options_read_element(const dqt_context *ctx, void *full, size_t full_size, const void *first, size_t index,
                                const char *name, const char *array);

/* For functions that change something before they fill a result struct: refuses a bad struct_size beforehand. out NULL
 * is accepted. */
dqt_status options_check_result(const dqt_context *ctx, const void *out, size_t full_size, const char *name);

/* For result structs: copies what fits into the caller's struct_size and zeroes a larger struct's tail. */
dqt_status options_return(const dqt_context *ctx, void *out, const void *full, size_t full_size, const char *name);

#endif
