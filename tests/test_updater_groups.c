/* Updates of codes with scales of groups: those of rows as long as a group, bit for bit; on every instruction set,
 * fused and in parts; and what happens where a scale is 0, negative or at the ends of fp16. */
#include <float.h>

#include "formats.h"
#include "optim/updater_state.h"
#include "updater_fixture.h"

enum { ROWS = 67, COLS = 256, COUNT = ROWS * COLS, STEPS = 3 };

static const int32_t group_sizes[] = {32, 64, 128, 256};
enum { GROUPS = 4 };

static dqt_tensor *make_grouped(dqt_context *ctx, size_t rows, size_t cols, int storage, int axis, int32_t group,
                                bool trained) {
    const dqt_tensor_options o = {.struct_size = sizeof o,
                                  .storage = storage,
                                  .scale_rule = DQT_SCALE_ABSMEAN,
                                  .scale_axis = axis,
                                  .sigma = 4.0f,
                                  .train_scale = trained,
                                  .group_size = group};
    dqt_tensor *t = NULL;
    if (tensor_create(ctx, rows, cols, &o, false, &t) != DQT_OK) abort();
    float *w = random_floats(rows * cols, 0.05f, 5);
    for (size_t i = 0; i < rows * cols; i++)
        w[i] *= 1.0f + (float)(i / 32 % 5);
    tensor_quantize(t, w, false, 0);
    free(w);
    return t;
}

static float scale_number(const dqt_tensor *t, size_t i) {
    return tensor_group_scale(t, i / t->row_groups, i % t->row_groups);
}

/* Both end with one gradient. */
static dqt_status one_step(dqt_updater *u, const float *g, float lr) {
    const struct gradient gradient = {.format = DQT_FLOAT_F32,
                                      .rows = updater_target(u, 0)->tensor->rows,
                                      .cols = updater_target(u, 0)->tensor->cols,
                                      .data = (void *)(uintptr_t)g},
                          *list = &gradient;
    return updater_step(u, &list, lr, NULL);
}

static bool same_state(dqt_updater *a, dqt_updater *b, const char *label) {
    const struct find_state x = state_piece(a, label), y = state_piece(b, label);
    if (!x.data || !y.data) return !x.data && !y.data;
    return x.count == y.count && x.element_size == y.element_size &&
           memcmp(x.data, y.data, x.count * x.element_size) == 0;
}

/* What is done to a weight depends on its group's scale alone. */
static void groups_are_rows(void) {
    static float g[COUNT];
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    static const int states[] = {DQT_STATE_F32, DQT_STATE_BF16, DQT_STATE_INT8};
    EACH_FORMAT(format)
    for (size_t i = 0; number_is_code(format) && i < GROUPS; i++)
        for (int v = 0; v < 30; v++) {
            const int optimizer = 1 + v % 2,
                      rounding = v < 24 ? DQT_ROUND_STOCHASTIC + v / 2 % 4 : DQT_ROUND_ACCUMULATE,
                      state = states[v < 24 ? v / 8 : v / 2 % 2];
            const bool trained = v % 3 == 0;
            const size_t group = (size_t)group_sizes[i];
            if (state == DQT_STATE_INT8 && group < 128) continue; /* its blocks of 128 end with a row */
            if ((i + (size_t)(v + format)) % 2) continue;         /* every other, for time */
            dqt_updater_options o = plain_options(optimizer, rounding, 0.8f);
            o.momentum_state = o.variance_state = state;
            o.weight_decay = 0.1f;
            o.rounding_noise = v % 5 ? 1.0f : 0.5f;
            dqt_tensor *a = make_grouped(ctx, ROWS, COLS, format, DQT_AXIS_GROUP, group_sizes[i], trained);
            dqt_tensor *b = make_grouped(ctx, COUNT / group, group, format, DQT_AXIS_ROW, 0, trained);
            CHECK(a->num_scales == b->num_scales && !a->half_scales == trained);
            for (size_t k = 0; k < a->num_scales && !trained; k++) {
                if (k % 3 == 1) a->half_scales[k] ^= 0x8000; /* negative */
                if (k % 7 == 2) a->half_scales[k] = 0;
            }
            for (size_t k = 0; k < b->num_scales; k++)
                b->scales[k] = scale_number(a, k);
            int8_t *codes = codes_of(a);
            for (size_t r = 0; r < b->rows; r++)
                tensor_pack_codes(b, r, codes + r * group);
            free(codes);
            const struct update_target ta = {"w", DQT_CLASS_LINEAR, a, 0, 0}, tb = {"w", DQT_CLASS_LINEAR, b, 0, 0};
            dqt_updater *ua = make_updater(ctx, &ta, 1, &o), *ub = make_updater(ctx, &tb, 1, &o);
            for (uint64_t step = 0; step < STEPS; step++) {
                random_fill(g, COUNT, 0.3f, step + 1);
                OK(ctx, one_step(ua, g, 0.01f));
                OK(ctx, one_step(ub, g, 0.01f));
            }
            int8_t *x = codes_of(a), *y = codes_of(b);
            CHECKF(memcmp(x, y, COUNT) == 0, "%s, groups of %zu, variant %d", format_public_name(format), group, v);
            CHECK(same_state(ua, ub, "0.m") && same_state(ua, ub, "0.v") && same_state(ua, ub, "0.m_scale") &&
                  same_state(ua, ub, "0.accumulator") && same_state(ua, ub, "0.scale_unit"));
            for (size_t k = 0; k < a->num_scales; k++) /* trained: their gradients are summed in another order */
                CHECKF(fabsf(scale_number(a, k) - b->scales[k]) <= (trained ? 1e-5f * b->scales[k] : 0),
                       "%s, groups of %zu: scale %zu is %g, of a row %g", format_public_name(format), group, k,
                       (double)scale_number(a, k), (double)b->scales[k]);
            free(x);
            free(y);
            updater_destroy(ua);
            updater_destroy(ub);
            tensor_destroy(a);
            tensor_destroy(b);
        }
    dqt_context_destroy(ctx);
}

/* A group of scale 0 keeps its codes, and nothing is fed back: its moments are those without ECO. */
static void groups_of_zero_stay(void) {
    static float g[COUNT];
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    EACH_FORMAT(format)
    for (int rounding = DQT_ROUND_STOCHASTIC; number_is_code(format) && rounding <= DQT_ROUND_ECO_NEAREST; rounding++)
        for (int optimizer = 1; optimizer <= 3; optimizer++) {
            const dqt_updater_options o = plain_options(optimizer, rounding, 0.8f),
                                      plain = plain_options(optimizer, DQT_ROUND_NEAREST, 0.8f);
            dqt_tensor *a = make_grouped(ctx, ROWS, COLS, format, DQT_AXIS_GROUP, 64, false);
            dqt_tensor *b = make_grouped(ctx, ROWS, COLS, format, DQT_AXIS_GROUP, 64, false);
            for (size_t k = 0; k < a->num_scales; k += 2)
                a->half_scales[k] = b->half_scales[k] = k % 4 ? 0x8000 : 0;
            const struct update_target ta = {"w", DQT_CLASS_LINEAR, a, 0, 0}, tb = {"w", DQT_CLASS_LINEAR, b, 0, 0};
            dqt_updater *ua = make_updater(ctx, &ta, 1, &o), *ub = make_updater(ctx, &tb, 1, &plain);
            int8_t *before = codes_of(a);
            for (uint64_t step = 0; step < STEPS; step++) {
                random_fill(g, COUNT, 0.3f, step + 1);
                OK(ctx, one_step(ua, g, 0.05f));
                OK(ctx, one_step(ub, g, 0.05f));
            }
            int8_t *after = codes_of(a);
            const float *ma = state_piece(ua, "0.m").data, *mb = state_piece(ub, "0.m").data;
            size_t moved = 0, wrong = 0, fed = 0;
            for (size_t i = 0; i < COUNT; i++) {
                const bool zero = i / 64 % 2 == 0;
                if (zero) wrong += before[i] != after[i] || ma[i] < mb[i] || ma[i] > mb[i];
                moved += !zero && before[i] != after[i];
                fed += !zero && (ma[i] < mb[i] || ma[i] > mb[i]);
            }
            CHECKF(wrong == 0 && moved > COUNT / 200, "%s, rounding %d: %zu, %zu moved", format_public_name(format),
                   rounding, wrong, moved);
            CHECK((fed > COUNT / 4) == (rounding >= DQT_ROUND_ECO_STOCHASTIC));
            free(before);
            free(after);
            updater_destroy(ua);
            updater_destroy(ub);
            tensor_destroy(a);
            tensor_destroy(b);
        }
    dqt_context_destroy(ctx);
}

/* ---- Identity ------------------------------------------------------------------------------------------------- */

static uint64_t outcome(dqt_context *ctx, int format, int32_t group, int v, int how) {
    static float g[COUNT];
    dqt_updater_options o =
        plain_options(1 + v % 3, DQT_ROUND_STOCHASTIC + v / 3 % 4, v % 5 == 4 && v / 3 % 4 < 2 ? 0.0f : 0.9f);
    if (v >= 36) o.rounding = DQT_ROUND_ACCUMULATE;
    o.momentum_state = o.variance_state = v / 12 % 3;
    o.weight_decay = 0.1f;
    o.lagged = 1;
    dqt_tensor *t = make_grouped(ctx, ROWS, COLS, format, DQT_AXIS_GROUP, group, v % 2);
    const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
    dqt_updater *u = make_updater(ctx, &target, 1, &o);
    for (uint64_t step = 0; step < STEPS; step++) {
        random_fill(g, COUNT, 0.3f, step + 1);
        const struct gradient gradient = gradient_around(g, t), *list = &gradient;
        OK(ctx, how ? fused_step(u, &list, 0.01f, NULL) : updater_step(u, &list, 0.01f, NULL));
    }
    const uint64_t h = hash_all(u);
    updater_destroy(u);
    tensor_destroy(t);
    return h;
}

static void one_result(void) {
    dqt_context *contexts[ISA_COUNT + 1];
    size_t count = 0;
    for (size_t i = 0; i < ISA_COUNT; i++) {
        contexts[count] = isa_context(isa_caps[i].isa, 1);
        if (contexts[count]) count++;
    }
    dqt_context_options o;
    dqt_context_options_init(&o, sizeof o);
    o.threading = DQT_THREADING_HOST;
    o.num_threads = 3;
    o.parallel_for = backwards_for;
    OK(NULL, dqt_context_create(&o, &contexts[count]));
    share_all_work(contexts[count++]);
    EACH_FORMAT(format)
    for (int v = 0; number_is_code(format) && v < 42; v++) {
        const int32_t group = group_sizes[(v + format) % GROUPS];
        const uint64_t expected = outcome(contexts[0], format, group, v, 0);
        for (size_t k = 0; k < count; k++)
            CHECKF(outcome(contexts[k], format, group, v, k + 1 == count || v % 4 == 0) == expected,
                   "%s, groups of %d, variant %d: isa %d", format_public_name(format), group, v,
                   dqt_context_isa(contexts[k]));
    }
    for (size_t k = 0; k < count; k++)
        dqt_context_destroy(contexts[k]);
}

static void step_two_parts(dqt_context *ctx, dqt_updater *const u[2], const struct gradient *const *list) {
    const size_t *offsets;
    for (int k = 0; k < 2; k++)
        OK(ctx, updater_open_step(u[k], list, 0.01f));
    while (updater_is_open(u[0])) {
        unsigned char *data[2];
        for (int k = 0; k < 2; k++)
            data[k] = updater_exchange(u[k], &offsets);
        memcpy(data[1], data[0], offsets[1]);
        memcpy(data[0] + offsets[1], data[1] + offsets[1], offsets[2] - offsets[1]);
        for (int k = 0; k < 2; k++)
            OK(ctx, updater_continue_step(u[k], list, NULL));
    }
    CHECK(!updater_is_open(u[1]));
}

/* Replicas that each do a part and exchange rows and scales have a whole step's bits. */
static void parts_make_a_whole(void) {
    static float g[COUNT];
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (int trained = 0; trained < 2; trained++)
        for (int v = 0; v < 6; v++) {
            dqt_updater_options o =
                plain_options(1 + v % 3, v < 3 ? DQT_ROUND_ECO_STOCHASTIC : DQT_ROUND_ACCUMULATE, 0.8f);
            o.clip = DQT_CLIP_GLOBAL_NORM;
            dqt_tensor *t[3];
            dqt_updater *u[3];
            for (int k = 0; k < 3; k++) {
                t[k] = make_grouped(ctx, ROWS, COLS, DQT_FORMAT_INT4, DQT_AXIS_GROUP, 32, trained);
                const struct update_target target = {"w", DQT_CLASS_LINEAR, t[k], 0, 0};
                o.part = k == 2;
                o.num_parts = k ? 2 : 0;
                u[k] = make_updater(ctx, &target, 1, &o);
            }
            for (uint64_t step = 0; step < STEPS; step++) {
                random_fill(g, COUNT, 0.3f, step + 1);
                const struct gradient gradient = gradient_around(g, t[0]), *list = &gradient;
                OK(ctx, updater_step(u[0], &list, 0.01f, NULL));
                step_two_parts(ctx, u + 1, &list);
                const size_t bytes = 64 * t[0]->row_bytes, scales = 64 * t[0]->row_groups;
                memcpy(t[2]->data, t[1]->data, bytes);
                memcpy(t[1]->data + bytes, t[2]->data + bytes, t[0]->data_bytes - bytes);
                if (trained) {
                    memcpy(t[2]->scales, t[1]->scales, scales * sizeof(float));
                    memcpy(t[1]->scales + scales, t[2]->scales + scales, (t[0]->num_scales - scales) * sizeof(float));
                }
            }
            for (int k = 1; k < 3; k++) {
                CHECK(memcmp(t[0]->data, t[k]->data, t[0]->data_bytes) == 0);
                if (trained) CHECK(memcmp(t[0]->scales, t[k]->scales, t[0]->num_scales * sizeof(float)) == 0);
            }
            for (int k = 0; k < 3; k++) {
                updater_destroy(u[k]);
                tensor_destroy(t[k]);
            }
        }
    dqt_context_destroy(ctx);
}

/* ---- Ends ----------------------------------------------------------------------------------------------------- */

/* Any scale, gradient and rate leave codes within their range and states finite. */
static void all_stays_finite(void) {
    static float g[COUNT];
    static const uint16_t scales[] = {0, 0x8000, 1, 0x8001, 0x03ff, 0x7bff, 0xfbff, 0x3c00};
    static const float rates[] = {0, 1e-38f, 1e-6f, 1, 1e30f, FLT_MAX};
    for (size_t i = 0; i < ISA_COUNT; i++) {
        dqt_context *ctx = isa_context(isa_caps[i].isa, 1);
        for (int v = 0; ctx && v < 15; v++)
            for (size_t rate = 0; rate < sizeof rates / sizeof *rates; rate++) {
                dqt_updater_options o = plain_options(1 + v % 3, DQT_ROUND_STOCHASTIC + v / 3, 0.8f);
                o.weight_decay = 1e30f;
                dqt_tensor *t = make_grouped(ctx, ROWS, COLS, DQT_FORMAT_INT4, DQT_AXIS_GROUP, 32, false);
                for (size_t k = 0; k < t->num_scales; k++)
                    t->half_scales[k] = scales[k % 8];
                const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
                dqt_updater *u = make_updater(ctx, &target, 1, &o);
                for (uint64_t step = 0; step < STEPS; step++) {
                    random_fill(g, COUNT, step ? 1e30f : 1e-30f, step + 1);
                    OK(ctx, one_step(u, g, rates[rate]));
                }
                int8_t *codes = codes_of(t);
                const struct find_state m = state_piece(u, "0.m"), unit = state_piece(u, "0.v");
                for (size_t k = 0; k < COUNT; k++)
                    CHECK(codes[k] >= -8 && codes[k] <= 7 && (!m.data || isfinite(((const float *)m.data)[k])) &&
                          (!unit.data || isfinite(((const float *)unit.data)[k])));
                free(codes);
                updater_destroy(u);
                tensor_destroy(t);
            }
        if (ctx) dqt_context_destroy(ctx);
    }
}

/* What is planned is allocated; trained scales of groups have a state each. */
static void memory_is_as_planned(void) {
    dqt_context *ctx = isa_context(DQT_ISA_SCALAR, 1);
    for (size_t i = 0; i < GROUPS; i++)
        for (int trained = 0; trained < 2; trained++) {
            dqt_tensor *t = make_grouped(ctx, 640, 256, DQT_FORMAT_INT4, DQT_AXIS_GROUP, group_sizes[i], trained != 0);
            const struct update_target target = {"w", DQT_CLASS_LINEAR, t, 0, 0};
            const dqt_updater_options o = plain_options(DQT_OPTIMIZER_ADAMW, DQT_ROUND_STOCHASTIC, 0.9f);
            dqt_updater_memory_info m = {.struct_size = sizeof m};
            OK(ctx, updater_memory(ctx, &target, 1, &o, &m));
            const size_t before = dqt_context_allocated(ctx);
            dqt_updater *u = make_updater(ctx, &target, 1, &o);
            CHECK(dqt_context_allocated(ctx) - before == m.total);
            CHECK(m.scales == (trained ? 2 * t->num_scales * 4 + 64 : 0)); /* 64: their unit, in a line */
            CHECK(state_piece(u, "0.scale_v").count == (trained ? t->num_scales : 0));
            updater_destroy(u);
            tensor_destroy(t);
        }
    dqt_context_destroy(ctx);
}

static const struct test tests[] = {
    TEST(groups_are_rows),    TEST(groups_of_zero_stay), TEST(one_result),
    TEST(parts_make_a_whole), TEST(all_stays_finite),    TEST(memory_is_as_planned),
};
TEST_MAIN(tests)
