/* What the operating system says about this process: whether it is the child of a fork, and how many processors it may
 * use. The only code outside src/io that opens files: a few short ones of /proc and of the control groups, when a
 * context is created. */
#ifndef DQT_CORE_PROCESS_H
#define DQT_CORE_PROCESS_H

#include <stdbool.h>

/* This process's number; 0 where there is no fork. */
long process_id(void);

/* Lets other threads have the processor, where the system can be asked to. */
void process_yield(void);

enum process_history {
    PROCESS_WHOLE,       /* no fork since exec, as far as can be seen */
    PROCESS_FORKED,      /* forked without exec, before this library was first used in it */
    PROCESS_FORKED_LATER /* forked without exec, after the library was used: threads of the parent's are missing */
};

/* Called at each creation of a context. The first call in a process, or in its ancestors since exec, is "first used".
 */
enum process_history process_history(void);

/* Processors that control groups let this process use at most, rounded up: cpu.max (version 2) or cpu.cfs_quota_us and
 * cpu.cfs_period_us (version 1) of its group and of all groups above. 0: no limit, or none that can be read. `root` is
 * "" but in tests, which bring their own /proc and /sys in a folder. */
int process_cpu_quota(const char *root);

#endif
