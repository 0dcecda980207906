#include "die.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

void die(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    exit(1);
}

void *must_grow(void *p, size_t count, size_t size) {
    void *more = count <= SIZE_MAX / size ? realloc(p, count ? count * size : 1) : NULL;
    if (!more) die("there is not enough memory");
    return more;
}

void *must_alloc(size_t count, size_t size) {
    return must_grow(NULL, count, size);
}
