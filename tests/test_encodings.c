/* Blocks of GGUF files against what PyPI's gguf makes of them (tests/golden/make_models.py): the same bits. */
#include "io/encoding.h"
#include "io/gguf.h"
#include "model_files.h"

/* The encoding of this name. */
static const struct encoding *named(const char *name, size_t length) {
    for (uint32_t type = 0; type < 64; type++) {
        const struct encoding *e = encoding_of_gguf(type);
        if (e && strlen(e->name) == length && memcmp(e->name, name, length) == 0) return e;
    }
    return NULL;
}

static void golden_blocks(void) {
    char path[GOLDEN_PATH_BYTES];
    struct memory_file f = slurp(golden_path(path, "blocks.golden"));
    size_t kinds = 0;
    for (size_t at = 0; at < f.size; kinds++) {
        const size_t length = f.bytes[at];
        const char *name = (const char *)f.bytes + at + 1;
        const struct encoding *e = named(name, length);
        const size_t bytes = golden_u32(f.bytes + at + 1 + length), weights = golden_u32(f.bytes + at + 5 + length);
        const unsigned char *in = f.bytes + at + 9 + length, *expected = in + bytes;
        at += 9 + length + bytes + 4 * weights;
        CHECKF(e && e->decode && bytes / e->bytes * e->block == weights && bytes % e->bytes == 0, "%.*s", (int)length,
               name);
        if (!e || !e->decode) continue;
        size_t wrong = 0;
        for (size_t i = 0; i < weights / e->block; i++) {
            float out[LARGEST_BLOCK];
            CHECK(e->decode(in + i * e->bytes, out));
            for (size_t k = 0; k < e->block; k++) {
                const float x = golden_f32(expected + 4 * (i * e->block + k));
                wrong += !(out[k] >= x && out[k] <= x);
            }
        }
        CHECKF(wrong == 0, "%s: %zu of %zu weights differ", e->name, wrong, weights);
    }
    CHECKF(kinds == 14, "%zu kinds of blocks", kinds);
    free(f.bytes);
}

/* What this library writes into blocks it reads again, and a ternary field of 3 is no weight. */
static void own_blocks(void) {
    static const struct {
        const char *name;
        int low, high;
        void (*pack)(const int8_t *q, uint16_t d, unsigned char *out);
    } kinds[] = {{"TQ1_0", -1, 1, pack_tq1_0},
                 {"TQ2_0", -1, 1, pack_tq2_0},
                 {"Q4_0", -8, 7, pack_q4_0},
                 {"Q5_0", -16, 15, pack_q5_0},
                 {"Q8_0", -128, 127, pack_q8_0}};
    uint64_t random = 4;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const struct encoding *e = named(kinds[i].name, strlen(kinds[i].name));
        int8_t codes[LARGEST_BLOCK];
        unsigned char bytes[LARGEST_BLOCK];
        float out[LARGEST_BLOCK];
        for (size_t k = 0; k < LARGEST_BLOCK; k++)
            codes[k] =
                (int8_t)(kinds[i].low + (int)(test_random(&random) % (uint64_t)(kinds[i].high - kinds[i].low + 1)));
        kinds[i].pack(codes, f32_to_f16(0.5f), bytes);
        CHECK(e->decode(bytes, out));
        for (size_t k = 0; k < e->block; k++)
            CHECK(out[k] * 2 >= (float)codes[k] && out[k] * 2 <= (float)codes[k]);
    }
    unsigned char bytes[66] = {0};
    float out[LARGEST_BLOCK];
    for (size_t k = 0; k < 64; k++)
        for (int field = 0; field < 4; field++) {
            bytes[k] = (unsigned char)(3 << 2 * field);
            CHECK(!decode_tq2_0(bytes, out));
            bytes[k] = 0;
        }
    CHECK(decode_tq2_0(bytes, out));
}

/* One row a type: numbers are not given twice, and what can be read has a block. */
static void types(void) {
    CHECK(!encoding_of_gguf(4) && !encoding_of_gguf(31) && !encoding_of_gguf(UINT32_MAX));
    for (uint32_t type = 0; type < 64; type++) {
        const struct encoding *e = encoding_of_gguf(type);
        if (!e) continue;
        CHECK((uint32_t)e->gguf == type && e->name);
        CHECKF(!e->decode || (e->block && e->bytes && e->block <= LARGEST_BLOCK && e->kept), "%s", e->name);
    }
    CHECK(encoding_of_gguf(16) && !encoding_of_gguf(16)->decode);
}

static const struct test tests[] = {TEST(golden_blocks), TEST(own_blocks), TEST(types)};

TEST_MAIN(tests)
