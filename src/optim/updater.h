/* dqt_updater: moments, rounding and state of every parameter; the only thing that writes a weight. */
#ifndef DQT_OPTIM_UPDATER_H
#define DQT_OPTIM_UPDATER_H

#include "core/memory.h"
#include "format/gradient.h"
#include "format/tensor.h"

/* A parameter as the updater sees it; the name must outlive the updater. */
struct update_target {
    const char *name;
    int parameter_class; /* DQT_CLASS_* */
    dqt_tensor *tensor;
    size_t number, whole; /* of a partial model: its number among the parameters of the whole; 0: of none */
};

/* Of options: part below num_parts, of which there are not too many; 0 and 0: all rows. */
dqt_status updater_check_part(const dqt_context *ctx, uint64_t part, uint64_t num_parts);
dqt_status updater_check(const dqt_context *ctx, const struct update_target *targets, size_t count,
                         const dqt_updater_options *o);
/* Fills all fields after struct_size. Tensors may be shape-only. */
dqt_status updater_memory(const dqt_context *ctx, const struct update_target *targets, size_t count,
                          const dqt_updater_options *o, dqt_updater_memory_info *out);
dqt_status updater_create(dqt_context *ctx, const struct update_target *targets, size_t count,
                          const dqt_updater_options *o, dqt_updater **out);
void updater_destroy(dqt_updater *u);

dqt_context *updater_context(const dqt_updater *u);
size_t updater_num_parameters(const dqt_updater *u);
const struct update_target *updater_target(const dqt_updater *u, size_t index);
uint64_t updater_step_count(const dqt_updater *u);
void updater_set_step_count(dqt_updater *u, uint64_t step);
const dqt_updater_options *updater_options(const dqt_updater *u);
/* DQT_OPTIMIZER_* of a parameter. */
int32_t updater_optimizer(const dqt_updater *u, size_t index);
/* Whether the state of a parameter is that of this rounding. True for a number that is none. */
bool updater_keeps_state(const dqt_updater *u, size_t index, int32_t rounding);
/* *matched: number of parameters that the group is of. DQT_E_UNSUPPORTED, and nothing changed, where the optimiser, the
 * storage or the state of one of them does not allow the rule. */
dqt_status updater_add_group(dqt_updater *u, const dqt_group_options *o, size_t *matched);

/* Whole step from gradient buffers, one per parameter, of an updater of all rows. */
dqt_status updater_step(dqt_updater *u, const struct gradient *const *gradients, float learning_rate,
                        dqt_step_stats *stats);

/* The rows of a parameter that are of this part: whole tiles of 64 rows. Only the shapes of the updater's tensors
 * count, not its own part nor its rules. */
void updater_shard_rows(const dqt_updater *u, size_t index, size_t part, size_t num_parts, size_t *row, size_t *count);
/* Of the steps that follow; 1 before. */
void updater_set_gradient_scale(dqt_updater *u, float scale);

/* The same in pieces, of the updater's rows: between them the parts exchange what updater_exchange shows, data whose
 * bytes offsets[k] to offsets[k + 1] are part k's, until it is NULL: then the step has ended. Gradients, which are read
 * in the updater's rows alone, are the same in all pieces. */
dqt_status updater_open_step(dqt_updater *u, const struct gradient *const *gradients, float learning_rate);
void *updater_exchange(const dqt_updater *u, const size_t **offsets);
uint32_t updater_exchange_parts(const dqt_updater *u);
/* DQT_E_NUMERIC: a gradient is not finite, nothing was changed and the step is closed; or what has come are no sums,
 * and the step is where it was. */
bool updater_reads_gradients(const dqt_updater *u);
dqt_status updater_continue_step(dqt_updater *u, const struct gradient *const *gradients, dqt_step_stats *stats);

/* Fused step, of all rows or, from buffers, of one part: begin; for parameters in any order begin_parameter, apply_rows
 * for every row exactly once (from several lanes at once, tiles that start at multiples of 64 rows and have 64 rows, or
 * fewer at the end), end_parameter; end. Between begin and end the step counts as one. A parameter that is left out
 * stays as it is. */
/* DQT_E_ARGUMENT, DQT_E_STATE or DQT_E_NUMERIC: no step has begun. */
dqt_status updater_begin(dqt_updater *u, float learning_rate);
void updater_begin_parameter(dqt_updater *u, size_t index);
/* Of this step. */
bool updater_parameter_begun(const dqt_updater *u, size_t index);
/* Between begin and the parameter's first rows: the gradient is not finite, or is not proved to be. The parameter, its
 * states and statistics stay as they are, and updater_end tells. */
void updater_refuse_parameter(dqt_updater *u, size_t index);
void updater_apply_rows(dqt_updater *u, size_t index, size_t row, size_t rows, const float *gradient, size_t ld);
/* The same from a gradient buffer, of the updater's rows, which are left as they are where one of them is not finite.
 */
void updater_apply_gradient(dqt_updater *u, size_t index, const struct gradient *gradient);
void updater_end_parameter(dqt_updater *u, size_t index);
/* In place of the two: the gradient is not complete. */
void updater_leave_parameter(dqt_updater *u, size_t index);
/* DQT_E_NUMERIC if a parameter was refused, or the gradient of a tile of rows was not finite, which then stay as they
 * were. */
dqt_status updater_end(dqt_updater *u, dqt_step_stats *stats);
/* Of an updater of one part in place of updater_end: the step goes on as one from buffers does, from exchange to
 * exchange, without gradients. */
void updater_open_exchange(dqt_updater *u);
/* DQT_E_UNSUPPORTED: an updater of one part whose statistics would be needed before the step ends. */
dqt_status updater_check_fused(const dqt_updater *u);

/* Who keeps a fused step open over several calls holds the updater: *holder points to it until it is released or
 * destroyed, which sets *holder to NULL. */
void updater_hold(dqt_updater *u, dqt_updater **holder);
void updater_release(dqt_updater *u);
bool updater_is_held(const dqt_updater *u);
/* A step in pieces is open. */
bool updater_is_open(const dqt_updater *u);

/* State for checkpoints: an array of it, in place. */
struct state_array {
    const char *label; /* unique, such as "12.m"; of this call */
    void *data;
    size_t count, element_size; /* 1, 2, 4 or 8 (for byte order) */
    size_t parameter;
    size_t row_elements; /* of each of the parameter's rows, of which the part's are here; 0: every part has it whole */
};
/* Calls visit for each array in a fixed order, which is the same for all parts. */
typedef dqt_status (*state_visit_fn)(void *arg, const struct state_array *a);
dqt_status updater_visit_state(dqt_updater *u, state_visit_fn visit, void *arg);

/* The per-parameter rules as add_group left them, for checkpoints. */
struct update_rule {
    float lr_factor, weight_decay;
    int32_t rounding;
    float beta1, rounding_noise;
    bool frozen;
};
struct update_rule updater_get_rule(const dqt_updater *u, size_t index);
/* False, and nothing changed, for a rule that updater_create and updater_add_group could not have made. */
bool updater_set_rule(dqt_updater *u, size_t index, struct update_rule rule);

#endif
