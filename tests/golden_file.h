/* Files of tests/golden: what make_golden.py and make_architectures.py write there. */
#ifndef GOLDEN_FILE_H
#define GOLDEN_FILE_H

#include "core/rng.h"
#include "test.h"

struct golden {
    unsigned char *data;
    size_t size;
};

static inline bool golden_open(struct golden *g, const char *name) {
    static const char *const folders[] = {"tests/golden", "golden", "../tests/golden", "../../tests/golden"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s.golden", folders[i], name);
        FILE *f = fopen(path, "rb");
        if (!f) continue;
        g->data = malloc(1 << 20);
        g->size = fread(g->data, 1, 1 << 20, f);
        fclose(f);
        return g->size > 8 && memcmp(g->data, "DQTGOLD1", 8) == 0;
    }
    g->data = NULL;
    return false;
}

static inline uint32_t little(const unsigned char *p, int bytes) {
    uint32_t x = 0;
    for (int i = 0; i < bytes; i++)
        x |= (uint32_t)p[i] << 8 * i;
    return x;
}

static inline size_t payload(int type, size_t count) {
    return type <= 1 ? 4 * count : type == 2 ? count : type == 3 ? (count + 3) / 4 : 4 + 2 * count;
}

/* The record "first second"; decoded as doubles. Returns the number of values, 0 if there is none of this name. */
static inline size_t golden_read(const struct golden *g, const char *first, const char *second, double *out,
                                 size_t most) {
    char name[128];
    snprintf(name, sizeof name, "%s%s%s", first, *second ? " " : "", second);
    for (size_t at = 8; at < g->size;) {
        const size_t length = g->data[at];
        const char *found = (const char *)g->data + at + 1;
        at += 1 + length;
        const int type = g->data[at];
        const size_t count = little(g->data + at + 1, 4);
        const unsigned char *p = g->data + at + 5;
        at += 5 + payload(type, count);
        if (length != strlen(name) || memcmp(found, name, length) != 0) continue;
        if (count > most || at > g->size) abort();
        for (size_t i = 0; i < count; i++) {
            uint32_t bits;
            float f;
            switch (type) {
            case 0:
                bits = little(p + 4 * i, 4);
                memcpy(&f, &bits, sizeof f);
                out[i] = (double)f;
                break;
            case 1: out[i] = (double)(int32_t)little(p + 4 * i, 4); break;
            case 2: out[i] = (double)(int8_t)p[i]; break;
            case 3: out[i] = (double)(p[i / 4] >> 2 * (i % 4) & 3) - 1; break;
            default:
                bits = little(p, 4);
                memcpy(&f, &bits, sizeof f);
                out[i] = (double)f * (double)(int16_t)little(p + 4 + 2 * i, 2);
            }
        }
        return count;
    }
    return 0;
}

/* The scripts' random weights of parameter `index`, in [-0.5, 0.5) about `centre`. */
static inline void golden_weights(uint64_t seed, size_t index, float centre, float *w, size_t count) {
    const struct rng rng = rng_make(seed, 0, RNG_INIT, (uint32_t)index);
    for (size_t e = 0; e < count; e++) {
        uint32_t words[4];
        rng_block(&rng, e / 4, words);
        w[e] = (float)((int32_t)(words[e % 4] >> 8) - (1 << 23)) * 0x1p-24f + centre;
    }
}

#endif
