#include "io/gguf.h"

void pack_tq2_0(const int8_t *q, uint16_t d, unsigned char *out) {
    for (int half = 0; half < 2; half++)
        for (int b = 0; b < 32; b++) {
            unsigned v = 0;
            for (int k = 0; k < 4; k++)
                v |= (unsigned)(q[128 * half + 32 * k + b] + 1) << 2 * k;
            out[32 * half + b] = (unsigned char)v;
        }
    put_le(out + 64, d, 2);
}

/* Five trits u = q + 1, most significant first, as v / 243 of a byte, rounded up: multiplying by 3 shifts them out. The
 * weights of a byte are `step` apart; with four of them the fifth trit is 0. */
static unsigned char five_trits(const int8_t *q, int count, int step) {
    unsigned v = 0;
    for (int n = 0; n < 5; n++)
        v = 3 * v + (n < count ? (unsigned)(q[n * step] + 1) : 0);
    return (unsigned char)((v * 256 + 242) / 243);
}

void pack_tq1_0(const int8_t *q, uint16_t d, unsigned char *out) {
    for (int b = 0; b < 32; b++)
        out[b] = five_trits(q + b, 5, 32);
    for (int b = 0; b < 16; b++)
        out[32 + b] = five_trits(q + 160 + b, 5, 16);
    for (int b = 0; b < 4; b++)
        out[48 + b] = five_trits(q + 240 + b, 4, 4);
    put_le(out + 52, d, 2);
}

void pack_q4_0(const int8_t *q, uint16_t d, unsigned char *out) {
    put_le(out, d, 2);
    for (int b = 0; b < 16; b++)
        out[2 + b] = (unsigned char)((q[b] + 8) | (q[16 + b] + 8) << 4);
}

/* The low four bits as Q4_0's, the fifth in a mask: bit k of weight k. */
void pack_q5_0(const int8_t *q, uint16_t d, unsigned char *out) {
    uint32_t fifth = 0;
    put_le(out, d, 2);
    for (int k = 0; k < Q_BLOCK; k++)
        fifth |= (uint32_t)(q[k] + 16) >> 4 << k;
    put_le(out + 2, fifth, 4);
    for (int b = 0; b < 16; b++)
        out[6 + b] = (unsigned char)(((q[b] + 16) & 15) | ((q[16 + b] + 16) & 15) << 4);
}

void pack_q8_0(const int8_t *q, uint16_t d, unsigned char *out) {
    put_le(out, d, 2);
    memcpy(out + 2, q, Q_BLOCK);
}
