#include "core/team.h"

#include "core/spin.h"

/* The gate. A job's number wraps around; who has slept through all of them misses one more. */
enum { INSIDE = 0xffff, OPEN = 1 << 16, OVER = 1 << 17, NEXT = 1 << 18 };

void team_init(struct team *t, void (*run)(void *job, size_t lane)) {
    t->run = run;
    atomic_init(&t->gate, 0);
}

void team_run(struct team *t, void *job, size_t lanes) {
    unsigned turns = 0;
    t->job = job;
    t->lanes = lanes;
    const size_t before = atomic_load_explicit(&t->gate, memory_order_relaxed);
    atomic_store_explicit(&t->gate, (before + NEXT) | OPEN, memory_order_release);
    t->run(job, 0);
    atomic_fetch_and_explicit(&t->gate, ~(size_t)OPEN, memory_order_relaxed);
    while (atomic_load_explicit(&t->gate, memory_order_acquire) & INSIDE)
        give_way(&turns);
}

void team_dismiss(struct team *t) {
    atomic_store_explicit(&t->gate, OVER, memory_order_release);
}

void team_stand_by(struct team *t, size_t lane) {
    size_t done = 0;
    unsigned turns = 0;
    for (;;) {
        size_t gate = atomic_load_explicit(&t->gate, memory_order_relaxed);
        if (gate & OVER) return;
        if (!(gate & OPEN) || gate / NEXT == done) {
            give_way(&turns);
        } else if (atomic_compare_exchange_weak_explicit(&t->gate, &gate, gate + 1, memory_order_acquire,
                                                         memory_order_relaxed)) {
            if (lane < t->lanes) t->run(t->job, lane);
            atomic_fetch_sub_explicit(&t->gate, 1, memory_order_release);
            done = gate / NEXT;
            turns = 0;
        }
    }
}
