/* Assertions of checked builds (`make CHECKED=1`): preconditions of internal functions, and bounds of arenas and
 * temporaries. A false one is a fault of this library, never of a host: what hosts may get wrong has a status. Other
 * builds evaluate nothing, so a condition has no side effects. The library itself never aborts: the trap is in checked
 * builds only. */
#ifndef DQT_CORE_ASSERT_H
#define DQT_CORE_ASSERT_H

#ifdef DQT_CHECKED
/* Defined in core/assert.c, which writes the sentence to standard error and traps. */
_Noreturn void assert_failed(const char *condition, const char *file, int line);
#define DQT_ASSERT(condition) ((condition) ? (void)0 : assert_failed(#condition, __FILE__, __LINE__))
#else
#define DQT_ASSERT(condition) ((void)sizeof(!(condition)))
#endif

#endif
