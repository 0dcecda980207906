/* The table of optimisers, from the list in kernels/update_kernels.h. */
#include "optim/optimizer.h"

#include <stdio.h>

#define DECLARATION(NAME, name) extern const struct optimizer optimizer_##name;
UPDATE_METHODS(DECLARATION)
#undef DECLARATION

static const struct optimizer *const optimizers[] = {
#define ENTRY(NAME, name) &optimizer_##name,
    UPDATE_METHODS(ENTRY)
#undef ENTRY
};

enum { COUNT = sizeof optimizers / sizeof *optimizers };

const struct optimizer *optimizer_of(int32_t id) {
    for (size_t i = 0; i < COUNT; i++)
        if (optimizers[i]->id == id) return optimizers[i];
    return NULL;
}

const char *optimizer_list(char *text, size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < COUNT && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s %d", i ? ", " : "", optimizers[i]->name,
                                 (int)optimizers[i]->id);
    return text;
}
