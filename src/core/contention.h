/* How many lanes pay while other processes want the same cores.
 *
 * An OpenMP region ends when its last lane has ended, also one that never got a core and did nothing: with a spinning
 * neighbour on each core that is a time slice of some milliseconds, for regions of a tenth of one. So the regions are
 * timed, and each is compared with what the same work would have taken on fewer lanes that are not kept waiting. The
 * differences are summed; where waiting has cost more than DEBT altogether, the context uses fewer lanes for a pause,
 * then tries more again. A pause that ends in the same is followed by one twice as long, so that trying costs a few per
 * cent at most. On an idle machine every region gains and nothing is ever tried.
 *
 * The clock decides only who computes, never what: results do not depend on lanes. */
#ifndef DQT_CORE_CONTENTION_H
#define DQT_CORE_CONTENTION_H

#include <stdatomic.h>
#include <stdbool.h>

struct contention {
    atomic_int lanes;     /* at most so many in a region now */
    atomic_flag updating; /* the rest belongs to the thread that holds it; who does not get it goes without */
    double balance;       /* seconds gained (above 0) or lost lately, at most CREDIT */
    double pause;         /* seconds of the current or next one */
    double since;         /* when `lanes` was set */
    bool trial;           /* it was set to more than before */
};

/* What a region did. Times in seconds of one clock. */
struct region_times {
    int lanes;
    double begin, end;   /* on the calling thread */
    double busy;         /* from first to last task, summed over the lanes */
    double fastest_task; /* the least over the lanes of the mean time of its tasks */
    double tasks;
};

void contention_init(struct contention *c, int lanes);

/* Lanes for a region that begins at `now`, at most `most`. */
int contention_lanes(struct contention *c, int most, double now);

/* Counts a region that had more than one lane. */
void contention_count(struct contention *c, const struct region_times *r);

#endif
