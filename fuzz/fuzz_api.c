/* Sequences of calls of every function of the interface. Arguments are usually right and sometimes not; handles are
 * used while they live, and what an object was made from is destroyed after it: nothing else is promised to the
 * library. The input's bytes choose calls and arguments; when they end, a generator that they seed goes on. What is
 * demanded: a handle comes out exactly of a success; a failure has a sentence, leaks nothing and leaves weights as they
 * were; planned memory is exact; in the end everything can be destroyed and nothing is left. */
#define _GNU_SOURCE
#define DQT_EXPERIMENTAL
#include <float.h>
#include <math.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "fuzz_world.h"

/* ---- Calls ---------------------------------------------------------------------------------------------------- */

/* Each makes one call of one function (or of a pair that belongs together) and returns its status. */
typedef dqt_status (*call_fn)(void);
struct call {
    const char *name;
    call_fn run;
};

#include "fuzz_calls.h"

static const struct call calls[] = {
#define CALL(name) {"dqt_" #name, call_##name},
#include "calls.list"
#undef CALL
};
enum { CALLS = sizeof calls / sizeof *calls, FEWEST = 20, MORE = 60 };

/* ---- Sequences ------------------------------------------------------------------------------------------------ */

static struct { unsigned long long sequences, calls, good, of[CALLS], good_of[CALLS]; } totals;

static void report(void) {
    fprintf(stderr, "fuzz_api: %llu sequences, %llu calls, %.1f %% of them succeeded\n", totals.sequences, totals.calls,
            100.0 * (double)totals.good / (double)(totals.calls ? totals.calls : 1));
    for (int i = 0; i < CALLS; i++)
        if (totals.good_of[i] == 0 || getenv("FUZZ_CALLS"))
            fprintf(stderr, "fuzz_api: %s: %llu of %llu succeeded\n", calls[i].name, totals.good_of[i], totals.of[i]);
    remove_folder();
}

static void run_call(int i) {
    size_t before[CONTEXTS];
    for (int c = 0; c < CONTEXTS; c++)
        before[c] = dqt_context_allocated(world.ctx[c]);
    const bool watch = one_in(16);
    const uint64_t hash = watch ? weights_hash() : 0;
    world.changes = world.update_open && strstr(calls[i].name, "backward");
    world.destroys = false;
    const dqt_status status = calls[i].run();
    totals.calls++;
    totals.of[i]++;
    totals.good += status == DQT_OK;
    totals.good_of[i] += status == DQT_OK;
    if (status == DQT_OK) return;
    REQUIRE(strncmp(dqt_status_string(status), "DQT_E_", 6) == 0, "%s: status %d", calls[i].name, status);
    for (int c = 0; c < CONTEXTS && !world.destroys; c++)
        REQUIRE(dqt_context_allocated(world.ctx[c]) == before[c], "%s failed and leaks", calls[i].name);
    REQUIRE(!watch || world.changes || world.destroys || weights_hash() == hash,
            "%s failed with %d and changed weights", calls[i].name, status);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (totals.sequences++ == 0) {
        make_folder();
        fuzz_memory.most = (size_t)16 << 20;
        atexit(report);
    }
    world_begin(data, size);
    prepare();
    const size_t count = FEWEST + byte() % MORE;
    for (size_t i = 0; i < count; i++)
        run_call((int)((byte() * 256u + byte()) % CALLS));
    world_end();
    return 0;
}
