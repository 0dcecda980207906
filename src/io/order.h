/* Heap sort: no recursion, no memory, no input that makes it slow. */
#ifndef DQT_IO_ORDER_H
#define DQT_IO_ORDER_H

#include <stdbool.h>
#include <stddef.h>

/* Sorts order[count] so that what stands before something else in it need not come after it. */
void order_sort(size_t *order, size_t count, bool (*before)(const void *arg, size_t a, size_t b), const void *arg);

#endif
