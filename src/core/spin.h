/* One turn of a loop that waits for another lane. */
#ifndef DQT_CORE_SPIN_H
#define DQT_CORE_SPIN_H

#include "core/process.h"

/* What lanes wait for, serial work between jobs or what another packs, is shorter than so many pauses, some 50 us; what
 * lasts longer has lost its core, or needs this one. */
enum { PATIENCE = 1000 };

/* turns: 0 before the first. */
static inline void give_way(unsigned *turns) {
    if (++*turns > PATIENCE) {
        process_yield();
        return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
