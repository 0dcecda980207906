/* Calls one kernel of few tokens once, for bench/neon/instructions.sh, which counts its instructions.
 * usage: instructions neon|dotprod|i8mm KERNEL FORMAT COLUMNS [GROUP]; FORMAT is a DQT_FORMAT_*. */
#include "format/format.h"
#include "formats.h"
#include "isa/isa.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 4096, PADDED = MOST + PACK_BLOCK };

static uint8_t weights[PANEL][4 * PADDED];
static int8_t x[DOT_TOKENS * PADDED];
static float floats[PADDED], scales[MOST / 32 * DOT_ROWS], tile[DOT_TILE_ROWS][DOT_MOST_TOKENS];
static int32_t x_sums[MOST / 32];
static unsigned char panel[2 * PANEL * PADDED];

int main(int argc, char **argv) {
    static const char *const names[] = {"neon", "dotprod", "i8mm"};
    static const uint64_t features[] = {DQT_CPU_NEON, DQT_CPU_NEON_DOTPROD, DQT_CPU_NEON_I8MM};
    if (argc < 5) return 2;
    uint64_t has = 0;
    for (int i = 0; i < 3; i++) {
        has |= features[i];
        if (strcmp(argv[1], names[i]) == 0) break;
    }
    struct kernels kernels;
    struct isa_choice choice;
    isa_select(&kernels, &choice, has);
    const struct gemm_kernels *k = &kernels.gemm;
    const struct packing *p = format_packing(format_of(atoi(argv[3])));
    const size_t columns = (size_t)atoi(argv[4]), blocks = columns / PACK_BLOCK;
    const uint8_t *const rows[DOT_ROWS] = {weights[0], weights[1], weights[2], weights[3]};
    const void *const tile_rows[DOT_TILE_ROWS] = {weights[0], weights[1], weights[2]};
    const float *const tokens[DOT_TOKENS] = {floats, floats, floats, floats};
    int32_t sums[DOT_TOKENS][DOT_ROWS] = {{0}};
    volatile float sum = 0;
    if (columns > MOST || !p) return 2;
    if (strcmp(argv[2], "token") == 0) {
        k->packed_dot.dot_packed(p, rows, blocks, x, 0, sums[0]);
    } else if (strcmp(argv[2], "tokens") == 0) {
        k->packed_dot.dot_packed_tokens(p, rows, blocks, x, DOT_TOKENS, x_sums, sums);
    } else if (strcmp(argv[2], "groups") == 0 && argc > 5) {
        const size_t group = (size_t)atoi(argv[5]);
        k->dot_groups(p, rows, group, columns / group, x, x_sums, scales, tile[0]);
    } else if (strcmp(argv[2], "pack") == 0) {
        k->code.pack_b_packed(&k->code, p, weights[0], sizeof weights[0], PANEL, blocks, panel);
    } else if (strcmp(argv[2], "code") == 0) {
        sum = k->float_dot.code(x, floats, columns);
    } else if (strcmp(argv[2], "bf16") == 0) {
        sum = k->float_dot.bf16((const uint16_t *)(const void *)weights[0], floats, columns);
    } else if (strcmp(argv[2], "code_tile") == 0) {
        k->float_dot.tile(DOT_CODE, tile_rows, tokens, DOT_TOKENS, columns, tile);
    } else {
        return 2;
    }
    return sum != 0.0f;
}
