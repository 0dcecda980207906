/* For programs that end at the first mistake. */
#ifndef DIE_H
#define DIE_H

#include <stddef.h>

/* Prints the sentence on stderr and ends the program with status 1. */
_Noreturn void die(const char *format, ...);

/* Memory, or the end. */
void *must_alloc(size_t count, size_t size);
void *must_grow(void *p, size_t count, size_t size);

#endif
