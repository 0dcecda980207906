/* Philox4x32-10 against the known answers of Random123, and the streams built on it. */
#include "core/rng.h"
#include "test.h"

static void known_answers(void) {
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct rng r = {{known[i].key[0], known[i].key[1]}, {known[i].counter[2], known[i].counter[3]}};
        uint32_t words[4];
        rng_block(&r, (uint64_t)known[i].counter[1] << 32 | known[i].counter[0], words);
        for (int k = 0; k < 4; k++)
            CHECKF(words[k] == known[i].words[k], "vector %zu word %d is %08x", i, k, (unsigned)words[k]);
    }
}

static void every_part_of_the_counter_counts(void) {
    const struct rng base = rng_make(1, 2, RNG_WEIGHT, 3);
    const struct rng others[] = {rng_make(2, 2, RNG_WEIGHT, 3), rng_make(1 | (uint64_t)1 << 32, 2, RNG_WEIGHT, 3),
                                 rng_make(1, 3, RNG_WEIGHT, 3), rng_make(1, 2, RNG_MOMENTUM, 3),
                                 rng_make(1, 2, RNG_WEIGHT, 4)};
    uint32_t a[4], b[4];
    rng_block(&base, 7, a);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        rng_block(&others[i], 7, b);
        CHECKF(memcmp(a, b, sizeof a) != 0, "generator %zu gives the same words", i);
    }
    rng_block(&base, 7 | (uint64_t)1 << 32, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
}

/* 2^20 numbers: mean, variance, correlation with the next and a chi-square over 256 bins, each at 5 sigma (p < 6e-7).
 */
static void numbers_are_uniform(void) {
    enum { COUNT = 1 << 20 };
    const struct rng r = rng_make(5, 6, RNG_WEIGHT, 7);
    double sum = 0, squares = 0, products = 0, previous = 0.5;
    uint32_t bins[256] = {0}, w[4];
    for (uint64_t block = 0; block < COUNT / 4; block++) {
        rng_block(&r, block, w);
        for (int k = 0; k < 4; k++) {
            const double x = (double)rng_uniform01(w[k]);
            if (!(x >= 0.0 && x < 1.0)) CHECKF(false, "%g is outside [0, 1)", x);
            sum += x;
            squares += (x - 0.5) * (x - 0.5);
            products += (x - 0.5) * (previous - 0.5);
            previous = x;
            bins[(int)(x * 256.0)]++;
        }
    }
    double chi = 0;
    for (int k = 0; k < 256; k++)
        chi += (bins[k] - COUNT / 256.0) * (bins[k] - COUNT / 256.0) / (COUNT / 256.0);
    CHECKF(fabs(sum / COUNT - 0.5) < 5 * sqrt(1.0 / 12 / COUNT), "mean %g", sum / COUNT);
    CHECKF(fabs(squares / COUNT - 1.0 / 12) < 5 * sqrt(1.0 / 180 / COUNT), "variance %g", squares / COUNT);
    CHECKF(fabs(products / COUNT) < 5 * (1.0 / 12) / sqrt(COUNT), "covariance %g", products / COUNT);
    CHECKF(fabs(chi - 255) < 5 * sqrt(2 * 255.0), "chi square %g", chi);
    CHECK(rng_uniform01(0xffffffffu) < 1.0f);
    CHECK(rng_uniform01(0) == 0.0f);
}

static const struct test tests[] = {TEST(known_answers), TEST(every_part_of_the_counter_counts),
                                    TEST(numbers_are_uniform)};
TEST_MAIN(tests)
