/* Names by pattern. */
#ifndef DQT_CORE_PATTERN_H
#define DQT_CORE_PATTERN_H

#include <stdbool.h>

/* '*' stands for any number of characters, '?' for one. */
bool name_matches(const char *pattern, const char *name);

#endif
