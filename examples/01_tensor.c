/* Example 1, tensor: a context and one packed weight matrix.
 *
 * Introduces: dqt_context, options structs, statuses and the error sentence; dqt_tensor: storage formats, scale rules,
 * what a weight costs in memory, rounding to nearest against stochastic rounding. */
#include <stdio.h>
#include <stdlib.h>

#include "dqt.h"

static dqt_context *ctx;

/* Every call returns a status; this example stops at the first failure. */
static void ok(dqt_status status) {
    if (status == DQT_OK) return;
    fprintf(stderr, "%s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    exit(1);
}

enum { ROWS = 256, COLS = 256 };

static void show(const float *weights, int32_t format, const char *name) {
    dqt_tensor_options options;
    ok(dqt_tensor_options_init(&options, sizeof options));
    options.storage = format;
    dqt_tensor *tensor;
    ok(dqt_tensor_create(ctx, ROWS, COLS, &options, &tensor));
    ok(dqt_tensor_quantize(tensor, weights, DQT_ROUND_NEAREST, 0));

    dqt_tensor_info info = {.struct_size = sizeof info};
    ok(dqt_tensor_get_info(tensor, &info));
    static float restored[ROWS * COLS];
    ok(dqt_tensor_dequantize(tensor, 0, ROWS, restored));
    double error = 0, power = 0;
    for (int i = 0; i < ROWS * COLS; i++) {
        error += (weights[i] - restored[i]) * (weights[i] - restored[i]);
        power += weights[i] * weights[i];
    }
    printf("%-8s %8zu bytes, %5.2f per weight, codes %4d..%3d, relative squared error %.6f\n", name, info.data_bytes,
           (double)info.data_bytes / (ROWS * COLS), info.code_min, info.code_max, error / power);
    dqt_tensor_destroy(tensor);
}

/* A weight at 0.3 of a step: nearest rounding always gives 0, stochastic rounding gives 0.3 on average. */
static void rounding(void) {
    static float weights[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++)
        weights[i] = i % 2 ? 0.3f : -0.3f;
    weights[0] = 1.0f;
    dqt_tensor_options options;
    ok(dqt_tensor_options_init(&options, sizeof options));
    options.scale_rule = DQT_SCALE_ABSMAX; /* scale 1 */
    dqt_tensor *tensor;
    ok(dqt_tensor_create(ctx, ROWS, COLS, &options, &tensor));
    for (int stochastic = 0; stochastic < 2; stochastic++) {
        ok(dqt_tensor_quantize(tensor, weights, stochastic ? DQT_ROUND_STOCHASTIC : DQT_ROUND_NEAREST, 1));
        dqt_tensor_stats stats = {.struct_size = sizeof stats};
        ok(dqt_tensor_get_stats(tensor, &stats));
        printf("%s rounding of +-0.3: %.1f %% of the codes are not 0\n", stochastic ? "stochastic" : "nearest   ",
               100.0 * (double)stats.saturated / (ROWS * COLS));
    }
    dqt_tensor_destroy(tensor);
}

int main(void) {
    ok(dqt_context_create(NULL, &ctx));
    printf("libdqt %s, %d threads\n", dqt_version_string(), dqt_context_num_threads(ctx));
    static float weights[ROWS * COLS]; /* a rough bell curve: sums of four uniform numbers */
    srand(1);
    for (int i = 0; i < ROWS * COLS; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++)
            sum += (float)rand() / (float)RAND_MAX - 0.5f;
        weights[i] = 0.02f * sum;
    }
    show(weights, DQT_FORMAT_F32, "f32");
    show(weights, DQT_FORMAT_BF16, "bf16");
    show(weights, DQT_FORMAT_INT8, "int8");
    show(weights, DQT_FORMAT_INT6, "int6");
    show(weights, DQT_FORMAT_INT5, "int5");
    show(weights, DQT_FORMAT_INT4, "int4");
    show(weights, DQT_FORMAT_INT3, "int3");
    show(weights, DQT_FORMAT_INT2, "int2");
    show(weights, DQT_FORMAT_TERNARY, "ternary");
    rounding();

    dqt_tensor *impossible;
    dqt_status status = dqt_tensor_create(ctx, 0, COLS, NULL, &impossible);
    printf("a mistake is told: %s: %s\n", dqt_status_string(status), dqt_last_error(ctx));
    dqt_context_destroy(ctx);
    return 0;
}
