/* NEON with smmla: 8 bytes of K a step; a vector of sums is 2 rows x 2 columns, an operand 8 bytes of two rows or of
 * two columns. 24 sums, 3 vectors of A, one of B. Bytes are those of dot products (gemm_neon_dotprod.c). */
typedef int gemm_i8mm_unit; /* not empty elsewhere */

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#include "kernels/target.h"
TARGET_BEGIN(TARGET_NEON_I8MM)
#include "kernels/gemm_epilogue_neon.h"
#include "kernels/kernels_neon.h"
#include "kernels/kernels_neon_i8mm.h"
#include "kernels/kernels_scalar.h"

enum { INT8_ROWS = 6, ROW_PAIRS = INT8_ROWS / 2, COLUMN_PAIRS = PANEL / 2 };

static inline int32x4_t zero(void) {
    return vdupq_n_s32(0);
}

/* The fences keep compilers from loading all of B first, for which registers are missing. */
static inline void add_step(int32x4_t sum[ROW_PAIRS][COLUMN_PAIRS], const char *a, const char *panel) {
    int8x16_t rows[ROW_PAIRS];
    for (size_t i = 0; i < ROW_PAIRS; i++)
        rows[i] = vld1q_s8((const int8_t *)a + 16 * i);
    for (size_t v = 0; v < COLUMN_PAIRS; v++) {
        const int8x16_t columns = vld1q_s8((const int8_t *)panel + 16 * v);
        for (size_t i = 0; i < ROW_PAIRS; i++)
            sum[i][v] = vmmlaq_s32(sum[i][v], rows[i], columns);
        if (v % 2) atomic_signal_fence(memory_order_seq_cst);
    }
}

static inline int32x4_t set_rows(const int32_t row_add[2]) {
    return vcombine_s32(vdup_n_s32(row_add[0]), vdup_n_s32(row_add[1]));
}

/* scale[2]: of the tile's columns. */
static inline void add_scaled_tile(float *to, int32x4_t sum, const float *scale) {
    const float32x2_t s = vld1_f32(scale);
    vst1q_f32(to, vaddq_f32(vld1q_f32(to), vmulq_f32(vcvtq_f32_s32(sum), vcombine_f32(s, s))));
}

static inline int64x2_t load_tile(const char *p) {
    int64x2_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Eight tiles are two rows: the halves of each lie in one and in the other. Numbers of either type. */
static inline void tiles_to_rows(void *sums) {
    enum { VECTORS_OF_ROW = PANEL / 4 };
    char *p = sums;
    for (size_t i = 0; i < ROW_PAIRS; i++, p += 2 * PANEL * 4) {
        int64x2_t rows[2 * VECTORS_OF_ROW];
        for (size_t v = 0; v < VECTORS_OF_ROW; v++) {
            const int64x2_t left = load_tile(p + 32 * v), right = load_tile(p + 32 * v + 16);
            rows[v] = vzip1q_s64(left, right);
            rows[VECTORS_OF_ROW + v] = vzip2q_s64(left, right);
        }
        memcpy(p, rows, sizeof rows);
    }
}

#define BLOCK block_int8
#define ROWS INT8_ROWS
#define GROUP 8
#define SUM int32x4_t
#define ZERO zero
#define LOAD vld1q_s32
#define STORE vst1q_s32
#define NUMBER int32_t
#define EPILOGUE epilogue4_int
#define EPILOGUE_NUMBER epilogue_number_int
#define VECTORS COLUMN_PAIRS
#define LANES 4
#define TILE_ROWS 2
#define ADD_STEP add_step
#define TO_ROWS tiles_to_rows
#define BLOCK_GROUPS block_int8_groups
#define GROUP_SUM int32x4_t
#define SET(row_add) set_rows(&(row_add))
#define ADD_SCALED add_scaled_tile
#define EPILOGUE_FLOATS epilogue4_floats
#include "kernels/gemm_block_template.h"

const struct gemm_engine gemm_int8_neon_i8mm = {.rows = INT8_ROWS,
                                                .columns = PANEL,
                                                .group = 8,
                                                .size = 1,
                                                .k_align = 8,
                                                .kc_bytes = GEMM_KC_BYTES,
                                                .bytes_bias = 0,
                                                .max_range = 255,
                                                .gebp = block_int8,
                                                .gebp_groups = block_int8_groups,
                                                .pack_a_codes = gemm_pack_a_codes,
                                                .pack_b_packed = gemm_pack_b_packed_neon};

TARGET_END
#endif
