#include "core/team.h"

#include <stdbool.h>
#include <stdint.h>

#include "core/assert.h"
#include "core/spin.h"

/* The gate: number of the job, in steps of NEXT, and its lanes. Only the leader writes it. A member's word: the number
 * of a job, and whether the lane is inside. Lane and leader both may move it on to the present job, never back: the
 * lane to enter, the leader to keep it out once the job is over. So each waits for a word that two share, and not for
 * one that all write. Numbers wrap around; who has slept through half of them may miss jobs. */
enum { OVER = 0xff, NEXT = 0x100, INSIDE = 1 };

static size_t number_of(size_t gate) {
    return gate - gate % NEXT;
}

static bool is_before(size_t word, size_t job) {
    return word != job && job - word <= SIZE_MAX / 2;
}

void team_init(struct team *t, void (*run)(void *job, size_t lane)) {
    t->run = run;
    t->job = NULL;
    atomic_init(&t->gate, 0);
    for (size_t i = 0; i < TEAM_LANES; i++)
        atomic_init(&t->member[i].job, 0);
}

/* Returns once the lane is not inside the job and will not be. */
static void keep_out(struct team_member *m, size_t job) {
    unsigned turns = 0;
    size_t word = atomic_load_explicit(&m->job, memory_order_acquire);
    while (word != job) {
        if (word == job + INSIDE) {
            give_way(&turns);
            word = atomic_load_explicit(&m->job, memory_order_acquire);
        } else {
            atomic_compare_exchange_weak_explicit(&m->job, &word, job, memory_order_acquire, memory_order_acquire);
        }
    }
}

void team_run(struct team *t, void *job, size_t lanes) {
    DQT_ASSERT(lanes >= 1 && lanes <= TEAM_LANES);
    const size_t before = atomic_load_explicit(&t->gate, memory_order_relaxed);
    const size_t gate = number_of(before) + NEXT + lanes;
    t->job = job;
    atomic_store_explicit(&t->gate, gate, memory_order_release);
    t->run(job, 0);
    for (size_t lane = 1; lane < lanes; lane++)
        keep_out(&t->member[lane], number_of(gate));
}

void team_dismiss(struct team *t) {
    atomic_store_explicit(&t->gate, OVER, memory_order_release);
}

void team_stand_by(struct team *t, size_t lane) {
    DQT_ASSERT(lane >= 1 && lane < TEAM_LANES);
    struct team_member *m = &t->member[lane];
    size_t seen = 0;
    unsigned turns = 0;
    for (;;) {
        const size_t gate = atomic_load_explicit(&t->gate, memory_order_acquire);
        if (gate % NEXT == OVER) return;
        if (gate == seen) {
            give_way(&turns);
            continue;
        }
        seen = gate;
        turns = 0;
        if (lane >= gate % NEXT) continue;
        const size_t job = number_of(gate);
        size_t word = atomic_load_explicit(&m->job, memory_order_relaxed);
        if (!is_before(word, job) || !atomic_compare_exchange_strong_explicit(
                                         &m->job, &word, job + INSIDE, memory_order_acquire, memory_order_relaxed))
            continue;
        t->run(t->job, lane);
        atomic_store_explicit(&m->job, job, memory_order_release);
    }
}
