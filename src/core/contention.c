#include "core/contention.h"

#include <math.h>

#include "core/assert.h"

/* Gains beyond it are forgotten: a busy machine is noticed after a few slices. */
#define CREDIT 4e-3
/* Two thirds of a time slice of Linux' scheduler. */
#define DEBT 2e-3
/* A trial costs a slice, and the spinning of OpenMP's idle threads after it: some 10 ms. */
#define FIRST_PAUSE 0.1
/* So long until a machine that is idle again is noticed. With 1.0, steps among neighbours were a tenth slower. */
#define LONGEST_PAUSE 4.0

/* One of two, a quarter fewer of many: with many cores a neighbour takes one, not half of them. */
static int fewer(int lanes) {
    return lanes - (lanes < 8 ? 1 : lanes / 4);
}

static int more(int lanes, int most) {
    const int next = lanes + (lanes < 8 ? 1 : lanes / 3);
    return next < most ? next : most;
}

void contention_init(struct contention *c, int lanes) {
    atomic_init(&c->lanes, lanes);
    atomic_flag_clear(&c->updating);
    c->balance = CREDIT;
    c->pause = FIRST_PAUSE;
    c->since = 0.0;
    c->trial = true;
}

int contention_lanes(struct contention *c, int most, double now) {
    int lanes = atomic_load_explicit(&c->lanes, memory_order_relaxed);
    if (lanes >= most || atomic_flag_test_and_set_explicit(&c->updating, memory_order_acquire)) return lanes;
    if (now - c->since > c->pause) {
        lanes = more(lanes, most);
        if (c->trial) c->pause = fmax(0.5 * c->pause, FIRST_PAUSE); /* the last one held: the next comes sooner */
        c->since = now;
        c->balance = 0.0;
        c->trial = true;
        atomic_store_explicit(&c->lanes, lanes, memory_order_relaxed);
    }
    atomic_flag_clear_explicit(&c->updating, memory_order_release);
    return lanes;
}

/* Seconds that the region's work would have taken on fewer lanes. A lane that lost its core in the midst of a task has
 * a long `busy` time; the lane that was disturbed least tells what its tasks can have taken. */
static double time_on_fewer(const struct region_times *r) {
    const double busy = fmin(r->busy, 2.0 * r->tasks * r->fastest_task);
    return busy * ceil(r->tasks / fewer(r->lanes)) / r->tasks;
}

void contention_count(struct contention *c, const struct region_times *r) {
    DQT_ASSERT(r->lanes > 1 && r->tasks > 0);
    if (atomic_flag_test_and_set_explicit(&c->updating, memory_order_acquire)) return;
    c->balance = fmin(c->balance + time_on_fewer(r) - (r->end - r->begin), CREDIT);
    const int lanes = atomic_load_explicit(&c->lanes, memory_order_relaxed);
    if (c->balance < -DEBT && lanes > 1) {
        /* a trial that held for longer than the pause before it was another matter */
        if (c->trial) c->pause = r->end - c->since > c->pause ? FIRST_PAUSE : fmin(2.0 * c->pause, LONGEST_PAUSE);
        c->since = r->end;
        c->trial = false;
        c->balance = 0.0;
        atomic_store_explicit(&c->lanes, fewer(lanes), memory_order_relaxed);
    }
    atomic_flag_clear_explicit(&c->updating, memory_order_release);
}
