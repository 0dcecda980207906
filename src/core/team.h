/* Lanes that stand by for one job after the other of a thread, so that a job costs the passing of a cache line and not
 * an OpenMP region. One thread leads; who comes too late for a job, because its core was taken, is not waited for. */
#ifndef DQT_CORE_TEAM_H
#define DQT_CORE_TEAM_H

#include <stdatomic.h>
#include <stddef.h>

struct team {
    void (*run)(void *job, size_t lane);
    void *job;          /* of the leader, while the gate is open or a lane is inside */
    size_t lanes;       /* that may take part in it */
    atomic_size_t gate; /* number of the job, whether it is open, lanes inside; or that it is all over */
};

void team_init(struct team *t, void (*run)(void *job, size_t lane));

/* The leader: run(job, lane) for lane 0 here, and for lanes below `lanes` that stand by and come before lane 0 ends. */
void team_run(struct team *t, void *job, size_t lanes);
void team_dismiss(struct team *t);

/* The others, each with a lane from 1 on: returns when the team is dismissed. */
void team_stand_by(struct team *t, size_t lane);

#endif
