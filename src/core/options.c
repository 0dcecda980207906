#include "core/options.h"

#include <string.h>

/* A later version's struct may be this much larger; a struct_size above that is taken for an uninitialised struct. */
enum { MOST_GROWTH = 512 };

static uint32_t given_size(const void *options) {
    uint32_t size;
    memcpy(&size, options, sizeof size);
    return size;
}

static dqt_status check_size(const dqt_context *ctx, size_t size, size_t full_size, const char *name) {
    if (size < sizeof(uint32_t) || size > full_size + MOST_GROWTH)
        return fail(ctx, DQT_E_ARGUMENT, "%s.struct_size is %zu; it must be sizeof(%s)", name, size, name);
    return DQT_OK;
}

dqt_status options_init(void *out, size_t struct_size, const void *defaults, size_t full_size, const char *name) {
    if (!out) return fail(NULL, DQT_E_ARGUMENT, "the %s to initialise is NULL", name);
    TRY(check_size(NULL, struct_size, full_size, name));
    memset(out, 0, struct_size);
    memcpy(out, defaults, struct_size < full_size ? struct_size : full_size);
    uint32_t size = (uint32_t)struct_size;
    memcpy(out, &size, sizeof size);
    return DQT_OK;
}

dqt_status options_read(const dqt_context *ctx, void *full, size_t full_size, const void *given, const char *name) {
    if (given) {
        size_t size = given_size(given);
        TRY(check_size(ctx, size, full_size, name));
        for (size_t i = full_size; i < size; i++)
            if (((const unsigned char *)given)[i])
                return fail(ctx, DQT_E_ARGUMENT, "%s of %zu bytes uses fields this library (%zu bytes) does not know",
                            name, size, full_size);
        memcpy(full, given, size < full_size ? size : full_size);
    }
    uint32_t size = (uint32_t)full_size;
    memcpy(full, &size, sizeof size);
    return DQT_OK;
}

dqt_status options_read_element(const dqt_context *ctx, void *full, size_t full_size, const void *first, size_t index,
                                const char *name, const char *array) {
    const uint32_t size = given_size(first);
    TRY(check_size(ctx, size, full_size, name));
    const unsigned char *given = (const unsigned char *)first + index * size;
    if (given_size(given) != size)
        return fail(ctx, DQT_E_ARGUMENT, "%s[%zu].struct_size is %u; that of %s[0] is %u", array, index,
                    given_size(given), array, size);
    return options_read(ctx, full, full_size, given, name);
}

dqt_status options_check_result(const dqt_context *ctx, const void *out, size_t full_size, const char *name) {
    return out ? check_size(ctx, given_size(out), full_size, name) : DQT_OK;
}

dqt_status options_return(const dqt_context *ctx, void *out, const void *full, size_t full_size, const char *name) {
    if (!out) return fail(ctx, DQT_E_ARGUMENT, "the %s to fill is NULL", name);
    uint32_t size = given_size(out);
    TRY(check_size(ctx, size, full_size, name));
    memset(out, 0, size);
    memcpy(out, full, size < full_size ? size : full_size);
    memcpy(out, &size, sizeof size);
    return DQT_OK;
}
