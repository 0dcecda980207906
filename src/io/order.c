#include "io/order.h"

struct heap {
    size_t *order;
    bool (*before)(const void *arg, size_t a, size_t b);
    const void *arg;
};

static void swap(size_t *order, size_t a, size_t b) {
    const size_t t = order[a];
    order[a] = order[b];
    order[b] = t;
}

static void sink_down(const struct heap *h, size_t root, size_t count) {
    size_t *order = h->order;
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && h->before(h->arg, order[child], order[child + 1])) child++;
        if (!h->before(h->arg, order[root], order[child])) return;
        swap(order, root, child);
    }
}

void order_sort(size_t *order, size_t count, bool (*before)(const void *arg, size_t a, size_t b), const void *arg) {
    const struct heap h = {order, before, arg};
    for (size_t i = count / 2; i-- > 0;)
        sink_down(&h, i, count);
    for (size_t n = count; n > 1; n--) {
        swap(order, 0, n - 1);
        sink_down(&h, 0, n - 1);
    }
}
