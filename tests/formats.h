/* Formats by their public numbers, from the library's table. */
#ifndef FORMATS_H
#define FORMATS_H

#include <stdlib.h>

#include "format/format.h"

static inline enum format format_of(int32_t number) {
    enum format format = FORMAT_F32;
    if (!format_from_public(number, &format)) abort();
    return format;
}

/* The number after `number` in the order of the table; 0 as the argument: the first, as the result: no more. */
static inline int32_t format_after(int32_t number) {
    const size_t next = number ? (size_t)format_of(number) + 1 : 0;
    return next < format_count() ? format_public((enum format)next) : 0;
}

/* Every DQT_FORMAT_* but SAME. */
#define EACH_FORMAT(number) for (int32_t number = format_after(0); number; number = format_after(number))

static inline bool number_is_code(int32_t number) {
    return format_is_code(format_of(number));
}

#endif
