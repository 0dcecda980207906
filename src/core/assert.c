#include "core/assert.h"

#ifdef DQT_CHECKED
#include <stdio.h>

void assert_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "%s:%d: not true: %s\n", file, line, condition);
    __builtin_trap();
}
#else
typedef int assert_is_not_built; /* not empty in other builds */
#endif
