/* Packing, unpacking and dot products of every instruction set against plain C, byte for byte where the contract says
 * so, with sources that end at pages that cannot be touched. */
#define _DEFAULT_SOURCE
#include "test.h"

#include "core/bits.h"
#include "core/memory.h"
#include "formats.h"
#include "isa/isa.h"
#include "kernels/kernels_scalar.h"

#include <sys/mman.h>
#include <unistd.h>

static dqt_context *context(int isa) {
    dqt_context_options o;
    dqt_context *ctx = NULL;
    dqt_context_options_init(&o, sizeof o);
    o.isa = isa;
    o.threading = DQT_THREADING_SERIAL;
    if (dqt_context_create(&o, &ctx) != DQT_OK) return NULL;
    if (dqt_context_isa(ctx) == isa) return ctx;
    dqt_context_destroy(ctx);
    return NULL;
}

static struct {
    void *base;
    size_t bytes;
} guards[64];
static size_t num_guards;

/* Random bytes that end at a guard page. */
static void *guarded(size_t bytes, uint64_t *seed) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    unsigned char *base = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || num_guards == sizeof guards / sizeof *guards) abort();
    mprotect(base + body, page, PROT_NONE);
    guards[num_guards].base = base;
    guards[num_guards++].bytes = body + page;
    unsigned char *p = base + body - bytes;
    for (size_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)test_random(seed);
    return p;
}

/* Every third lies just between two numbers of bf16. */
static float *guarded_floats(size_t count, uint64_t *seed) {
    float *p = guarded(count * sizeof *p, seed);
    for (size_t i = 0; i < count; i++) {
        p[i] = test_uniform(seed);
        if (i % 3 == 0) p[i] = f32_from_bits((f32_bits(p[i]) & 0xffff0000u) | 0x8000u);
    }
    return p;
}

static void release(void) {
    while (num_guards) {
        num_guards--;
        munmap(guards[num_guards].base, guards[num_guards].bytes);
    }
}

/* The engine with plain C packing, and room for what it writes. */
enum { ROOM = 32 * 512 * 4 };
static struct gemm_engine plain(const struct gemm_engine *e) {
    struct gemm_engine p = *e;
    p.pack_a_codes = gemm_pack_a_codes;
    p.pack_b_packed = gemm_pack_b_packed;
    p.pack_a = gemm_pack_a;
    p.pack_a_transposed = gemm_pack_a_transposed;
    p.pack_b = gemm_pack_b;
    p.pack_b_transposed = gemm_pack_b_transposed;
    p.pack_b_codes = gemm_pack_b_codes;
    return p;
}

/* Two places that hold different bytes before: what is not written shows. */
static void spoil(unsigned char *got, unsigned char *want) {
    memset(got, 0x5a, ROOM);
    memset(want, 0xa5, ROOM);
}

/* What lies behind `bytes` bytes is as spoil left it: it may be another lane's. */
static bool stays_behind(const unsigned char *got, size_t bytes) {
    for (size_t i = bytes; i < bytes + 64; i++)
        if (got[i] != 0x5a) return false;
    return true;
}

/* The first n columns of a panel k deep are the same. */
static bool same_columns(const struct gemm_engine *e, const unsigned char *a, const unsigned char *b, size_t n,
                         size_t k) {
    const size_t bytes = e->group * e->size;
    for (size_t g = 0; g < k / e->group; g++)
        if (memcmp(a + g * PANEL * bytes, b + g * PANEL * bytes, n * bytes) != 0) return false;
    return true;
}

/* A from rows of K that end at a guard page, close together and apart. */
static void rows_of_k(const struct gemm_engine *e, const char *isa, size_t m, size_t k, unsigned char *got,
                      unsigned char *want, uint64_t *seed) {
    const size_t strides[] = {m, m + 3, PACK_BLOCK};
    for (size_t s = 0; e->pack_a_rows && s < sizeof strides / sizeof *strides; s++) {
        const size_t ld = strides[s];
        const int8_t *src = guarded((k - 1) * ld + m, seed);
        int32_t got_sums[32], want_sums[32];
        for (int i = 0; i < 32; i++)
            got_sums[i] = want_sums[i] = i;
        spoil(got, want);
        e->pack_a_rows(e, src, ld, m, k, got, got_sums);
        gemm_pack_a_rows(e, src, ld, m, k, want, want_sums);
        CHECKF(memcmp(got, want, e->rows * k * e->size) == 0, "%s: pack_a_rows, %zu x %zu of %zu", isa, m, k, ld);
        CHECKF(stays_behind(got, e->rows * k * e->size), "%s: pack_a_rows, behind %zu x %zu", isa, m, k);
        CHECKF(memcmp(got_sums, want_sums, sizeof want_sums) == 0, "%s: sums of rows, %zu x %zu", isa, m, k);
        release();
    }
}

static void integer_engine(const struct gemm_engine *e, const char *isa, int largest) {
    const struct gemm_engine p = plain(e);
    unsigned char *got = aligned_alloc(64, ROOM), *want = aligned_alloc(64, ROOM);
    uint64_t seed = 1;
    for (size_t blocks = 1; blocks <= 5; blocks += 2) {
        const size_t k = blocks * PACK_BLOCK;
        for (size_t m = 1; m <= e->rows; m += m < 3 ? 1 : 5) {
            int32_t got_sums[32] = {0}, want_sums[32] = {0};
            const int8_t *src = guarded((m - 1) * (k + PACK_BLOCK) + k, &seed);
            spoil(got, want);
            e->pack_a_codes(e, src, k + PACK_BLOCK, m, k, got, got_sums);
            p.pack_a_codes(&p, src, k + PACK_BLOCK, m, k, want, want_sums);
            CHECKF(memcmp(got, want, e->rows * k * e->size) == 0, "%s: pack_a_codes, %zu x %zu", isa, m, k);
            CHECKF(stays_behind(got, e->rows * k * e->size), "%s: pack_a_codes, behind %zu x %zu", isa, m, k);
            CHECKF(memcmp(got_sums, want_sums, sizeof want_sums) == 0, "%s: sums, %zu x %zu", isa, m, k);
            release();
            rows_of_k(e, isa, m, k, got, want, &seed);
        }
        EACH_FORMAT(number) {
            const struct packing *packing = format_packing(format_of(number));
            if (!packing || packing_range(packing) > largest) continue;
            const size_t bytes = blocks * packing_block_bytes(packing);
            for (size_t n = 1; n <= PANEL; n += n < 3 ? 1 : 4) {
                const uint8_t *src = guarded((n - 1) * (bytes + 8) + bytes, &seed);
                spoil(got, want);
                e->pack_b_packed(e, packing, src, bytes + 8, n, blocks, got);
                p.pack_b_packed(&p, packing, src, bytes + 8, n, blocks, want);
                CHECKF(same_columns(e, got, want, n, k), "%s: pack_b_packed %s, %zu x %zu", isa,
                       format_public_name(number), n, k);
                release();
            }
        }
    }
    free(got);
    free(want);
}

/* Any NaN is packed as one, also where adding half a bit to it would make another number of it. */
static void nan_stays(const struct gemm_engine *e, const char *isa) {
    const uint32_t bits[] = {0x7fffffff, 0xffffffff, 0x7f800001};
    unsigned char *out = aligned_alloc(64, ROOM);
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        float x, got;
        uint16_t half;
        memcpy(&x, &bits[i], sizeof x);
        e->pack_a(e, &x, 1, 1, 1, NULL, out);
        memcpy(&got, out, sizeof got);
        memcpy(&half, out, sizeof half);
        CHECKF(isnan(e->size == 2 ? bf16_to_f32(half) : got), "%s: pack_a of %#x", isa, bits[i]);
    }
    free(out);
}

static void float_engine(const struct gemm_engine *e, const char *isa) {
    const struct gemm_engine p = plain(e);
    unsigned char *got = aligned_alloc(64, ROOM), *want = aligned_alloc(64, ROOM);
    uint64_t seed = 2;
    static const size_t depths[] = {1, 2, 15, 16, 17, 31, 33, 64, 100};
    for (size_t d = 0; d < sizeof depths / sizeof *depths; d++) {
        const size_t k = depths[d], padded = round_up(k, e->k_align);
        for (size_t m = 1; m <= e->rows; m += m < 3 ? 1 : 3) {
            for (int scaled = 0; scaled < 2; scaled++) {
                const float *src = guarded_floats((m - 1) * (k + 3) + k, &seed);
                const float *across = guarded_floats((k - 1) * (m + 3) + m, &seed);
                const float *scale = scaled ? guarded_floats(k, &seed) : NULL;
                spoil(got, want);
                e->pack_a(e, src, k + 3, m, k, scale, got);
                p.pack_a(&p, src, k + 3, m, k, scale, want);
                CHECKF(memcmp(got, want, e->rows * padded * e->size) == 0, "%s: pack_a, %zu x %zu", isa, m, k);
                CHECKF(stays_behind(got, e->rows * padded * e->size), "%s: pack_a, behind %zu x %zu", isa, m, k);
                spoil(got, want);
                e->pack_a_transposed(e, across, m + 3, m, k, scale, got);
                p.pack_a_transposed(&p, across, m + 3, m, k, scale, want);
                CHECKF(memcmp(got, want, e->rows * padded * e->size) == 0, "%s: pack_a_transposed, %zu x %zu", isa, m,
                       k);
                release();
            }
        }
        for (size_t n = 1; n <= PANEL; n += n < 3 ? 1 : 4) {
            const float *src = guarded_floats((n - 1) * (k + 3) + k, &seed);
            const float *across = guarded_floats((k - 1) * (n + 3) + n, &seed);
            spoil(got, want);
            e->pack_b(e, across, n + 3, n, k, got);
            p.pack_b(&p, across, n + 3, n, k, want);
            CHECKF(memcmp(got, want, PANEL * padded * e->size) == 0, "%s: pack_b, %zu x %zu", isa, n, k);
            spoil(got, want);
            e->pack_b_transposed(e, src, k + 3, n, k, got);
            p.pack_b_transposed(&p, src, k + 3, n, k, want);
            CHECKF(memcmp(got, want, PANEL * padded * e->size) == 0, "%s: pack_b_transposed, %zu x %zu", isa, n, k);
            release();
        }
        for (size_t ld = 0; ld < 4; ld += 3) { /* of scales; 0: none */
            const int8_t *codes = guarded((k - 1) * 40 + PANEL, &seed);
            const float *scale = ld ? guarded_floats((k - 1) * ld + 1, &seed) : NULL;
            spoil(got, want);
            e->pack_b_codes(e, codes, 40, k, scale, ld, got);
            p.pack_b_codes(&p, codes, 40, k, scale, ld, want);
            CHECKF(memcmp(got, want, PANEL * padded * e->size) == 0, "%s: pack_b_codes, %zu, scales %zu", isa, k, ld);
            release();
        }
    }
    free(got);
    free(want);
}

static void packing_is_that_of_plain_c(void) {
    for (size_t i = 0; i < ISA_CAP_COUNT; i++) {
        dqt_context *ctx = context(isa_caps[i].isa);
        if (!ctx) continue;
        const struct gemm_kernels *k = &ctx->kernels->gemm;
        integer_engine(&k->code, isa_caps[i].name, k->code.max_range);
        integer_engine(&k->int8, isa_caps[i].name, k->int8.max_range);
        float_engine(&k->bf16, isa_caps[i].name);
        nan_stays(&k->bf16, isa_caps[i].name);
        float_engine(&k->f32, isa_caps[i].name);
        dqt_context_destroy(ctx);
    }
}

static void unpacking_is_that_of_the_format(void) {
    for (size_t i = 0; i < ISA_CAP_COUNT; i++) {
        dqt_context *ctx = context(isa_caps[i].isa);
        if (!ctx) continue;
        uint64_t seed = 3;
        EACH_FORMAT(number) {
            const struct packing *packing = format_packing(format_of(number));
            for (size_t blocks = 1; packing && blocks <= 9; blocks++) {
                const size_t bytes = packing_block_bytes(packing);
                const uint8_t *src = guarded(blocks * bytes, &seed);
                int8_t *got = guarded(blocks * PACK_BLOCK, &seed), want[PACK_BLOCK];
                ctx->kernels->gemm.unpack(packing, src, blocks, got);
                for (size_t b = 0; b < blocks; b++) {
                    block_unpack(packing, src + b * bytes, want);
                    CHECKF(memcmp(got + b * PACK_BLOCK, want, PACK_BLOCK) == 0, "%s: %s, block %zu of %zu",
                           isa_caps[i].name, format_public_name(number), b, blocks);
                }
                release();
            }
        }
        dqt_context_destroy(ctx);
    }
}

/* Operands: any; only the ends of what they can be; activations that are all the same end, so that sums of fewer bits
 * come as close to their limits as they can. */
enum operands { ANY, ENDS, ONE_END, OPERANDS };

static int8_t *guarded_activations(size_t n, size_t room, enum operands kind, uint64_t *seed) {
    int8_t *x = guarded(room, seed);
    const int end = test_random(seed) % 2 ? 127 : -127;
    for (size_t c = 0; c < room; c++)
        x[c] = (int8_t)(c >= n            ? 0
                        : kind == ONE_END ? end
                        : kind == ENDS    ? (test_random(seed) % 8 ? 127 : -127)
                                          : (int)(test_random(seed) % 255) - 127);
    return x;
}

/* DOT_ROWS packed rows of random bytes; of the ends: the greatest, the least, or in turn. */
static void guarded_rows(const uint8_t *rows[DOT_ROWS], size_t bytes, enum operands kind, uint64_t *seed) {
    for (size_t r = 0; r < DOT_ROWS; r++) {
        uint8_t *row = guarded(bytes, seed);
        for (size_t i = 0; kind != ANY && i < bytes; i++)
            row[i] = r % 2 ? 0xff : r ? 0x80 : i % 3 ? 0xff : 0x00;
        rows[r] = row;
    }
}

static int32_t dot_plain(const struct packing *packing, const uint8_t *row, const int8_t *x, size_t from,
                         size_t count) {
    int8_t codes[PACK_BLOCK];
    int32_t sum = 0;
    for (size_t c = from; c < from + count; c++) {
        if (c == from || c % PACK_BLOCK == 0)
            block_unpack(packing, row + c / PACK_BLOCK * packing_block_bytes(packing), codes);
        sum += codes[c % PACK_BLOCK] * x[c];
    }
    return sum;
}

static void check_dot_codes(const struct gemm_kernels *k, const char *isa, size_t n, enum operands kind,
                            uint64_t *seed) {
    const int8_t *x = guarded_activations(n, n, kind, seed);
    const uint8_t *rows[DOT_ROWS];
    guarded_rows(rows, n, kind, seed);
    for (size_t r = 0; r < DOT_ROWS; r++) {
        int32_t want = 0;
        for (size_t c = 0; c < n; c++)
            want += (int8_t)rows[r][c] * x[c];
        CHECKF(k->dot_codes((const int8_t *)rows[r], x, n) == want, "%s: dot_codes of %zu", isa, n);
    }
    release();
}

static void check_dot_packed(const struct gemm_kernels *k, const char *isa, const struct packing *packing,
                             const char *format, size_t blocks, enum operands kind, uint64_t *seed) {
    const size_t n = blocks * PACK_BLOCK;
    const int8_t *b = guarded_activations(n, n, kind, seed);
    int8_t *x = guarded(round_up(blocks, DOT_GROUP_BLOCKS) * PACK_BLOCK, seed);
    const uint8_t *rows[DOT_ROWS];
    int32_t sums[DOT_ROWS], x_sum = 0;
    for (size_t c = 0; c < n; c++)
        x_sum += b[c];
    guarded_rows(rows, blocks * packing_block_bytes(packing), kind, seed);
    k->packed_dot.permute_for_dot(packing, b, blocks, 0, 1, x);
    k->packed_dot.dot_packed(packing, rows, blocks, x, x_sum, sums);
    for (size_t r = 0; r < DOT_ROWS; r++) {
        const int32_t want = dot_plain(packing, rows[r], b, 0, n);
        CHECKF(sums[r] == want, "%s: dot_packed of %zu blocks of %s: %d, not %d", isa, blocks, format, sums[r], want);
    }
    release();
}

static void check_dot_packed_tokens(const struct gemm_kernels *k, const char *isa, const struct packing *packing,
                                    const char *format, size_t blocks, size_t tokens, enum operands kind,
                                    uint64_t *seed) {
    const size_t n = blocks * PACK_BLOCK;
    const int8_t *b[DOT_MOST_TOKENS];
    int8_t *x = guarded(round_up(blocks, DOT_GROUP_BLOCKS) * PACK_BLOCK * tokens, seed);
    const uint8_t *rows[DOT_ROWS];
    int32_t(*sums)[DOT_ROWS] = guarded(tokens * sizeof *sums, seed), *x_sums = guarded(tokens * sizeof *x_sums, seed);
    memset(x_sums, 0, tokens * sizeof *x_sums);
    for (size_t t = 0; t < tokens; t++) {
        b[t] = guarded_activations(n, n, kind, seed);
        for (size_t c = 0; c < n; c++)
            x_sums[t] += b[t][c];
        k->packed_dot.permute_for_dot(packing, b[t], blocks, t, tokens, x);
    }
    guarded_rows(rows, blocks * packing_block_bytes(packing), kind, seed);
    k->packed_dot.dot_packed_tokens(packing, rows, blocks, x, tokens, x_sums, sums);
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < DOT_ROWS; r++) {
            const int32_t want = dot_plain(packing, rows[r], b[t], 0, n);
            CHECKF(sums[t][r] == want, "%s: dot_packed_tokens of %zu tokens, %zu blocks of %s: %d, not %d", isa, tokens,
                   blocks, format, sums[t][r], want);
        }
    release();
}

static void check_dot_groups(const struct gemm_kernels *k, const char *isa, const struct packing *packing,
                             const char *format, size_t group, size_t groups, enum operands kind, uint64_t *seed) {
    const size_t n = group * groups, room = round_up(n, PACK_BLOCK);
    int8_t *x = guarded_activations(n, room, kind, seed);
    const float *scales = guarded_floats(groups * DOT_ROWS, seed);
    int32_t *x_sums = guarded(groups * sizeof *x_sums, seed);
    const uint8_t *rows[DOT_ROWS];
    float sums[DOT_ROWS];
    memset(x_sums, 0, groups * sizeof *x_sums);
    if (kind == ENDS && groups == 1) memset(x, 0, room); /* zeros of either sign */
    for (size_t c = 0; c < n; c++)
        x_sums[c / group] += x[c];
    guarded_rows(rows, room / PACK_BLOCK * packing_block_bytes(packing), kind, seed);
    k->dot_groups(packing, rows, group, groups, x, x_sums, scales, sums);
    for (size_t r = 0; r < DOT_ROWS; r++) {
        float want = -0.0f;
        for (size_t g = 0; g < groups; g++)
            want += (float)dot_plain(packing, rows[r], x, g * group, group) * scales[g * DOT_ROWS + r];
        CHECKF(memcmp(&sums[r], &want, sizeof want) == 0, "%s: dot_groups of %zu x %zu of %s: %g, not %g", isa, groups,
               group, format, (double)sums[r], (double)want);
    }
    release();
}

static void check_exact_dots(const struct gemm_kernels *k, const char *isa, enum operands kind) {
    uint64_t seed = 4;
    for (size_t n = 32; n <= 11 * PACK_BLOCK; n += 32)
        check_dot_codes(k, isa, n, kind, &seed);
    EACH_FORMAT(number) {
        const struct packing *packing = format_packing(format_of(number));
        const char *name = format_public_name(number);
        if (packing && packed_dot_takes(&k->packed_dot, packing))
            for (size_t blocks = 1; blocks <= 25; blocks++)
                check_dot_packed(k, isa, packing, name, blocks, kind, &seed);
        if (packing && k->packed_dot.dot_packed_tokens && packed_dot_takes(&k->packed_dot, packing))
            for (size_t blocks = 1; blocks <= 45; blocks += blocks < 6 ? 1 : 3)
                for (size_t tokens = DOT_TOKENS; tokens <= k->packed_dot.batch; tokens += DOT_TOKENS)
                    check_dot_packed_tokens(k, isa, packing, name, blocks, tokens, kind, &seed);
        for (size_t group = 32; packing && k->dot_groups && group <= MAX_GROUP; group *= 2)
            for (size_t groups = 1; dot_groups_takes(packing, group) && groups <= 7; groups++)
                check_dot_groups(k, isa, packing, name, group, groups, kind, &seed);
    }
}

/* Rows so long that sums are added up in between: 32-bit sums of codes that are not shifted down, and kernels' own
 * parts of rows of bytes. The sums fit 32 bits. */
static void check_long_rows(const struct gemm_kernels *k, const char *isa, int32_t number, size_t blocks) {
    const struct packing *packing = format_packing(format_of(number));
    const char *name = format_public_name(number);
    uint64_t seed = 5;
    if (!packed_dot_takes(&k->packed_dot, packing)) return;
    check_dot_packed(k, isa, packing, name, blocks, ONE_END, &seed);
    for (size_t tokens = DOT_TOKENS; tokens <= k->packed_dot.batch; tokens += DOT_TOKENS)
        check_dot_packed_tokens(k, isa, packing, name, blocks, tokens, ONE_END, &seed);
}

static void exact_dots_of_long_rows(void) {
    for (size_t i = 0; i < ISA_CAP_COUNT; i++) {
        dqt_context *ctx = context(isa_caps[i].isa);
        if (!ctx) continue;
        check_long_rows(&ctx->kernels->gemm, isa_caps[i].name, DQT_FORMAT_TERNARY, (1 << 16) + 3);
        check_long_rows(&ctx->kernels->gemm, isa_caps[i].name, DQT_FORMAT_INT8, (1 << 10) + 3);
        dqt_context_destroy(ctx);
    }
}

static void exact_dot_products(void) {
    for (size_t i = 0; i < ISA_CAP_COUNT; i++) {
        dqt_context *ctx = context(isa_caps[i].isa);
        if (!ctx) continue;
        for (enum operands kind = ANY; kind < OPERANDS; kind++)
            check_exact_dots(&ctx->kernels->gemm, isa_caps[i].name, kind);
        dqt_context_destroy(ctx);
    }
}

static void float_dot_products(void) {
    for (size_t i = 0; i < ISA_CAP_COUNT; i++) {
        dqt_context *ctx = context(isa_caps[i].isa);
        if (!ctx) continue;
        const struct gemm_kernels *k = &ctx->kernels->gemm;
        uint64_t seed = 4;
        for (size_t n = 1; n < 200; n += n < 70 ? 1 : 13) {
            const float *x = guarded_floats(n, &seed), *w = guarded_floats(n, &seed);
            const int8_t *codes = guarded(n, &seed);
            uint16_t *half = guarded(n * sizeof *half, &seed);
            double want[3] = {0}, size[3] = {0};
            for (size_t c = 0; c < n; c++) {
                half[c] = f32_to_bf16(w[c]);
                const double terms[3] = {(double)codes[c] * (double)x[c], (double)bf16_to_f32(half[c]) * (double)x[c],
                                         (double)w[c] * (double)x[c]};
                for (int j = 0; j < 3; j++) {
                    want[j] += terms[j];
                    size[j] += fabs(terms[j]);
                }
            }
            const float got[3] = {k->float_dot.code(codes, x, n), k->float_dot.bf16(half, x, n),
                                  k->float_dot.f32(w, x, n)};
            for (int j = 0; j < 3; j++)
                CHECKF(fabs((double)got[j] - want[j]) <= ((double)n + 8.0) * 0x1p-24 * size[j],
                       "%s: dot %d of %zu: %g, not %g", isa_caps[i].name, j, n, (double)got[j], want[j]);
#if defined(__aarch64__)
            const struct float_dot_kernels *c = &float_dot_scalar; /* whose order of sums is NEON's */
            const float plain_c[3] = {c->code(codes, x, n), c->bf16(half, x, n), c->f32(w, x, n)};
            CHECKF(memcmp(got, plain_c, sizeof got) == 0, "%s: dots of %zu are not those of plain C", isa_caps[i].name,
                   n);
#endif
            release();
        }
        dqt_context_destroy(ctx);
    }
}

static float dot_alone(const struct float_dot_kernels *k, enum dot_element type, const void *row, const float *x,
                       size_t n) {
    return type == DOT_CODE ? k->code(row, x, n) : type == DOT_BF16 ? k->bf16(row, x, n) : k->f32(row, x, n);
}

static void check_tile(const struct float_dot_kernels *k, const char *isa, enum dot_element type, size_t tokens,
                       size_t n, uint64_t *seed) {
    static const size_t bytes[] = {[DOT_CODE] = 1, [DOT_BF16] = 2, [DOT_F32] = 4};
    const void *rows[DOT_TILE_ROWS];
    const float **x = guarded(tokens * sizeof *x, seed);
    float sums[DOT_TILE_ROWS][DOT_MOST_TOKENS];
    for (size_t r = 0; r < DOT_TILE_ROWS; r++) {
        uint16_t *half = guarded(n * bytes[type], seed);
        for (size_t c = 0; type == DOT_BF16 && c < n; c++)
            half[c] = f32_to_bf16(test_uniform(seed));
        rows[r] = type == DOT_F32 ? (const void *)guarded_floats(n, seed) : (const void *)half;
    }
    for (size_t t = 0; t < tokens; t++)
        x[t] = guarded_floats(n, seed);
    k->tile(type, rows, x, tokens, n, sums);
    for (size_t r = 0; r < DOT_TILE_ROWS; r++)
        for (size_t t = 0; t < tokens; t++) {
            const float want = dot_alone(k, type, rows[r], x[t], n);
            CHECKF(memcmp(&sums[r][t], &want, sizeof want) == 0,
                   "%s: type %d, %zu tokens, %zu columns: row %zu of token %zu: %g, not %g", isa, (int)type, tokens, n,
                   r, t, (double)sums[r][t], (double)want);
        }
    release();
}

/* Several rows with several tokens: the bits of one with one. */
static void float_dot_tiles(void) {
    for (size_t i = 0; i < ISA_CAP_COUNT; i++) {
        dqt_context *ctx = context(isa_caps[i].isa);
        if (!ctx) continue;
        const struct float_dot_kernels *k = &ctx->kernels->gemm.float_dot;
        uint64_t seed = 4;
        for (size_t n = 1; k->tile && n < 300; n += n < 140 ? 1 : 13)
            for (int type = DOT_CODE; type <= DOT_F32; type++)
                for (size_t tokens = DOT_TOKENS; tokens <= DOT_MOST_TOKENS; tokens += DOT_TOKENS)
                    check_tile(k, isa_caps[i].name, (enum dot_element)type, tokens, n, &seed);
        dqt_context_destroy(ctx);
    }
}

static const struct test tests[] = {TEST(packing_is_that_of_plain_c), TEST(unpacking_is_that_of_the_format),
                                    TEST(exact_dot_products),         TEST(exact_dots_of_long_rows),
                                    TEST(float_dot_products),         TEST(float_dot_tiles)};
TEST_MAIN(tests)
