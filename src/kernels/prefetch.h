/* Reading ahead by hand. Processors fetch ahead within a page of 4 KiB only, and what is read once, as weights in
 * generation and cached keys and values are, has a new page every 4 KiB: its first lines, and the translation of its
 * address, would be waited for. */
#ifndef DQT_KERNELS_PREFETCH_H
#define DQT_KERNELS_PREFETCH_H

#include <stddef.h>
#include <stdint.h>

enum { PREFETCH_WEIGHTS = 4096 }; /* bytes; twice as many are as fast */

/* A hint: the line that lies `ahead` bytes after p, which may be no memory of ours. */
static inline void prefetch_ahead(const void *p, size_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)p + ahead));
}

#endif
