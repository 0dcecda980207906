/* Tapes and gradients. */
#include "api/check.h"
#include "core/fpenv.h"
#include "core/parallel.h"
#include "layer/tape.h"

static const dqt_tape_options tape_defaults = {
    .struct_size = sizeof(dqt_tape_options), .max_batch = 1, .max_length = 128, .seed = 1};

dqt_status dqt_tape_options_init(dqt_tape_options *options, size_t struct_size) {
    return options_init(options, struct_size, &tape_defaults, sizeof tape_defaults, "dqt_tape_options");
}

static dqt_status read_options(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                               const dqt_tape_options *options, dqt_tape_options *o) {
    TRY(check_pointer(ctx, layers, "layers"));
    *o = tape_defaults;
    TRY(options_read(ctx, o, sizeof *o, options, "dqt_tape_options"));
    if (o->reserved) return fail(ctx, DQT_E_ARGUMENT, "reserved of dqt_tape_options is not 0");
    DEFAULT_TO(o->max_batch, tape_defaults.max_batch);
    DEFAULT_TO(o->max_length, tape_defaults.max_length);
    return tape_check(ctx, layers, num_layers, o);
}

dqt_status dqt_tape_memory(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                           const dqt_tape_options *options, dqt_tape_memory_info *memory) {
    TRY(check_object(ctx, "ctx"));
    dqt_tape_options o;
    dqt_tape_memory_info m;
    TRY(read_options(ctx, layers, num_layers, options, &o));
    TRY(tape_memory(ctx, layers, num_layers, &o, o.max_length, &m));
    return options_return(ctx, memory, &m, sizeof m, "dqt_tape_memory_info");
}

/* Only memory can be planned with shape-only layers. */
static dqt_status check_weights(const dqt_context *ctx, dqt_layer *const *layers, size_t num_layers) {
    for (size_t i = 0; i < num_layers; i++)
        for (size_t p = 0; p < layer_num_parameters(layers[i]); p++)
            if (!layer_parameter(layers[i], p).tensor->data)
                return fail(ctx, DQT_E_STATE, "layers[%zu] is shape-only: it has no weights", i);
    return DQT_OK;
}

dqt_status dqt_tape_create(dqt_context *ctx, dqt_layer *const *layers, size_t num_layers,
                           const dqt_tape_options *options, dqt_tape **out) {
    FPENV_DEFAULT();
    if (out) *out = NULL;
    TRY(check_object(ctx, "ctx"));
    TRY(check_pointer(ctx, out, "out"));
    dqt_tape_options o;
    TRY(read_options(ctx, layers, num_layers, options, &o));
    TRY(check_weights(ctx, layers, num_layers));
    return tape_create(ctx, layers, num_layers, &o, o.max_length, out);
}

void dqt_tape_destroy(dqt_tape *tape) {
    tape_destroy(tape);
}

dqt_status dqt_tape_get_options(const dqt_tape *tape, dqt_tape_options *options) {
    TRY(check_object(tape, "tape"));
    dqt_tape_options o = tape->options;
    o.precision = tape_precision(tape);
    return options_return(tape->ctx, options, &o, sizeof o, "dqt_tape_options");
}

dqt_status dqt_tape_get_num_parameters(const dqt_tape *tape, size_t *count) {
    TRY(check_object(tape, "tape"));
    TRY(check_pointer(tape->ctx, count, "count"));
    *count = tape->num_parameters;
    return DQT_OK;
}

dqt_status dqt_tape_get_parameter(const dqt_tape *tape, size_t index, dqt_parameter *parameter) {
    TRY(check_object(tape, "tape"));
    TRY(check_index(tape->ctx, index, tape->num_parameters, "parameter index"));
    const struct tape_parameter *p = &tape->parameters[index];
    return return_parameter(tape->ctx, parameter, p->name, p->parameter_class, p->tensor);
}

static dqt_status find_gradient(const dqt_tape *tape, size_t index, struct gradient **gradient) {
    TRY(check_object(tape, "tape"));
    TRY(check_index(tape->ctx, index, tape->num_parameters, "parameter index"));
    *gradient = &tape->parameters[index].gradient;
    if (!(*gradient)->data) return fail(tape->ctx, DQT_E_STATE, "this tape has no gradient buffers");
    if (tape_has_one_buffer(tape) && index != tape->shown)
        return fail(
            tape->ctx, DQT_E_STATE,
            "this tape has one gradient buffer: the gradient of parameter %zu is there inside its callback only",
            index);
    return DQT_OK;
}

dqt_status dqt_tape_gradient_data(dqt_tape *tape, size_t index, float **gradient) {
    struct gradient *g;
    TRY(find_gradient(tape, index, &g));
    TRY(check_pointer(tape->ctx, gradient, "gradient"));
    if (g->format != DQT_FLOAT_F32)
        return fail(tape->ctx, DQT_E_UNSUPPORTED, "gradients of this tape are not F32: use dqt_tape_get_gradient");
    *gradient = g->data;
    return DQT_OK;
}

dqt_status dqt_tape_get_gradient(const dqt_tape *tape, size_t index, size_t row, size_t count, float *gradient) {
    FPENV_DEFAULT();
    struct gradient *g;
    TRY(find_gradient(tape, index, &g));
    TRY(check_pointer(tape->ctx, gradient, "gradient"));
    TRY(check_range(tape->ctx, row, count, g->rows, "rows"));
    gradient_read_rows(g, row, count, gradient);
    return DQT_OK;
}

dqt_status dqt_tape_set_gradient(dqt_tape *tape, size_t index, size_t row, size_t count, const float *gradient) {
    FPENV_DEFAULT();
    struct gradient *g;
    TRY(find_gradient(tape, index, &g));
    TRY(check_pointer(tape->ctx, gradient, "gradient"));
    TRY(check_range(tape->ctx, row, count, g->rows, "rows"));
    gradient_write_rows(g, NULL, row, count, gradient);
    return DQT_OK;
}

static void zero_task(void *arg, size_t parameter, int lane) {
    (void)lane;
    const dqt_tape *tape = arg;
    if (tape->parameters[parameter].gradient.data) gradient_zero(&tape->parameters[parameter].gradient);
}

dqt_status dqt_tape_zero_gradients(dqt_tape *tape) {
    TRY(check_object(tape, "tape"));
    if (tape_has_one_buffer(tape)) return DQT_OK; /* nothing is kept in it */
    double bytes = 0.0;
    for (size_t i = 0; i < tape->num_parameters; i++)
        bytes += 4.0 * (double)tape->parameters[i].gradient.rows * (double)tape->parameters[i].gradient.cols;
    parallel_run(tape->ctx, tape->num_parameters, WORK_BYTE * bytes, zero_task, tape);
    return DQT_OK;
}

dqt_status dqt_tape_get_pass(const dqt_tape *tape, uint64_t *passes) {
    TRY(check_object(tape, "tape"));
    TRY(check_pointer(tape->ctx, passes, "passes"));
    *passes = tape->pass;
    return DQT_OK;
}

dqt_status dqt_tape_set_pass(dqt_tape *tape, uint64_t passes) {
    TRY(check_object(tape, "tape"));
    tape->pass = passes;
    return DQT_OK;
}

dqt_status dqt_tape_on_gradient(dqt_tape *tape, dqt_gradient_ready_fn callback, void *user_data) {
    TRY(check_object(tape, "tape"));
    tape->ready = callback;
    tape->ready_user_data = user_data;
    return DQT_OK;
}

dqt_status dqt_tape_begin_update(dqt_tape *tape, dqt_updater *updater, const dqt_step_options *options) {
    FPENV_DEFAULT();
    TRY(check_object(tape, "tape"));
    const dqt_context *ctx = tape->ctx;
    dqt_step_options o;
    TRY(check_pointer(ctx, updater, "updater"));
    TRY(read_step(ctx, options, &o));
    if (tape->options.inference) return fail(ctx, DQT_E_STATE, "this tape was made for inference");
    if (tape->fused) return fail(ctx, DQT_E_STATE, "an update has begun on this tape: dqt_tape_end_update ends it");
    TRY(check_idle(updater));
    const bool part = updater_options(updater)->num_parts > 0;
    if (part && !tape_has_one_buffer(tape))
        TRY(check_whole(updater, "a fused step of one part needs a tape with no_gradient_buffers 2"));
    if (!part) TRY(check_whole(updater, "a fused step updates all rows"));
    TRY(updater_check_fused(updater));
    TRY(check_parameters(ctx, updater, tape));
    if (updater_options(updater)->clip == DQT_CLIP_GLOBAL_NORM)
        return fail(ctx, DQT_E_UNSUPPORTED, "a fused step cannot clip by the current global norm: use PREVIOUS_NORM");
    return tape_begin_update(tape, updater, o.learning_rate, o.gradient_scale);
}

static dqt_status check_begun(const dqt_tape *tape) {
    if (tape->fused) return DQT_OK;
    return fail(tape->ctx, DQT_E_STATE, "no update has begun on this tape, or its updater is gone");
}

dqt_status dqt_tape_end_update(dqt_tape *tape, dqt_step_stats *stats) {
    FPENV_DEFAULT();
    TRY(check_object(tape, "tape"));
    TRY(check_begun(tape));
    TRY(check_whole(tape->fused, "dqt_tape_end_update ends updates of all rows (see dqt_tape_end_update_part)"));
    TRY(options_check_result(tape->ctx, stats, sizeof *stats, "dqt_step_stats"));
    dqt_step_stats s = {.struct_size = sizeof s};
    const dqt_status status = tape_end_update(tape, &s);
    if (stats) TRY(options_return(tape->ctx, stats, &s, sizeof s, "dqt_step_stats"));
    return status;
}

dqt_status dqt_tape_end_update_part(dqt_tape *tape, dqt_step_sums *sums, dqt_step_stats *stats) {
    FPENV_DEFAULT();
    TRY(check_object(tape, "tape"));
    TRY(check_begun(tape));
    TRY(check_pointer(tape->ctx, sums, "sums"));
    TRY(options_check_result(tape->ctx, sums, sizeof *sums, "dqt_step_sums"));
    const dqt_updater *updater = tape->fused;
    const bool whole = updater_options(updater)->num_parts == 0;
    const dqt_status status = whole ? dqt_tape_end_update(tape, stats) : tape_end_update_part(tape);
    TRY(return_sums(updater, sums));
    return status;
}
