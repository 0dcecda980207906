/* Ranks that were started with different options would wait for each other for ever, or train different models. */
#ifndef AGREE_H
#define AGREE_H

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* FNV-1a of bytes, going on from h; FNV_FIRST begins. */
#define FNV_FIRST UINT64_C(0xCBF29CE484222325)
static inline uint64_t fnv_hash(uint64_t h, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t k = 0; k < size; k++)
        h = (h ^ bytes[k]) * 0x100000001B3u;
    return h;
}

/* Whether all ranks have the same number. */
static inline bool ranks_agree(uint64_t number) {
    uint64_t pair[2] = {number, ~number};
    MPI_Allreduce(MPI_IN_PLACE, pair, 2, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);
    return pair[0] == ~pair[1];
}

/* Whether all ranks have the same options, in the same order. What belongs to a machine may differ: names of files and
 * folders, and threads. */
static inline bool ranks_have_options(int argc, char *const *argv) {
    static const char *const own[] = {"--data", "--valid", "--out", "--threads"};
    uint64_t hash = FNV_FIRST;
    for (int i = 1; i < argc; i++) {
        hash = fnv_hash(hash, argv[i], strlen(argv[i]) + 1);
        for (size_t k = 0; k < sizeof own / sizeof *own; k++)
            if (i + 1 < argc && strcmp(argv[i], own[k]) == 0) {
                i++;
                break;
            }
    }
    return ranks_agree(hash);
}

#define OTHER_OPTIONS                                                                                                  \
    "all ranks need the same options, in the same order (but for --data, --valid, --out and --threads)"

#endif
