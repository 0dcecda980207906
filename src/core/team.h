/* Lanes that stand by for one job after the other of a thread, so that a job costs the passing of two cache lines a
 * lane and not an OpenMP region. One thread leads; who comes too late for a job, because its core was taken, is not
 * waited for. */
#ifndef DQT_CORE_TEAM_H
#define DQT_CORE_TEAM_H

#include <stdatomic.h>
#include <stddef.h>

enum { TEAM_LANES = 64, TEAM_LINE = 64 }; /* most lanes of a team; bytes of a cache line, or a multiple */

struct team {
    void (*run)(void *job, size_t lane);
    void *job;                              /* of the leader, while a lane is inside */
    _Alignas(TEAM_LINE) atomic_size_t gate; /* the job's number and its lanes; or that it is all over */
    struct team_member {
        _Alignas(TEAM_LINE) atomic_size_t job; /* the last one that this lane may not enter any more, or is inside of */
    } member[TEAM_LANES];
};

void team_init(struct team *t, void (*run)(void *job, size_t lane));

/* The leader: run(job, lane) for lane 0 here, and for lanes below `lanes` that stand by and come before lane 0 ends.
 * 1 to TEAM_LANES lanes. */
void team_run(struct team *t, void *job, size_t lanes);
void team_dismiss(struct team *t);

/* The others, each with a lane of its own from 1 on, below TEAM_LANES: returns when the team is dismissed. */
void team_stand_by(struct team *t, size_t lane);

#endif
