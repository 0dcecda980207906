/* The update inside backward: between begin and end the gradients of a tape go to an updater. */
#include "core/status.h"
#include "layer/tape.h"

/* Of two heads with one embedding, only one's gradient can wait for the embedding's. */
static dqt_status check_heads(const dqt_tape *tape) {
    for (size_t i = 0; i < tape->num_slots; i++)
        for (size_t j = 0; j < i; j++)
            if (tape->slots[i].layer->tied && tape->slots[i].layer->tied == tape->slots[j].layer->tied)
                return fail(tape->ctx, DQT_E_UNSUPPORTED,
                            "heads %s and %s are tied to one embedding: they need gradient buffers",
                            tape->slots[j].layer->name, tape->slots[i].layer->name);
    return DQT_OK;
}

dqt_status tape_begin_update(dqt_tape *tape, dqt_updater *updater, float learning_rate, float gradient_scale) {
    DQT_ASSERT(!tape->fused && tape_saves(tape));
    TRY(check_heads(tape));
    TRY(updater_begin(updater, learning_rate));
    updater_set_gradient_scale(updater, gradient_scale);
    updater_hold(updater, &tape->fused);
    for (size_t i = 0; i < tape->num_slots; i++)
        tape->slots[i].deferred = false;
    return DQT_OK;
}

/* Heads whose embedding did not go backward are forgotten; one of them whose weight is not frozen, or NULL. */
static const struct slot *leave_deferred(dqt_tape *tape) {
    const struct slot *left = NULL;
    for (size_t i = 0; i < tape->num_slots; i++) {
        struct slot *s = &tape->slots[i];
        if (!s->deferred) continue;
        if (!updater_get_rule(tape->fused, s->parameter[W]).frozen) left = s;
        s->deferred = false;
        s->length = 0;
    }
    return left;
}

static dqt_status check_none_left(const dqt_tape *tape, const struct slot *left) {
    if (!left) return DQT_OK;
    return fail(tape->ctx, DQT_E_STATE,
                "head %s is tied to an embedding that did not go backward: %s was left as it was", left->layer->name,
                tape->parameters[left->parameter[W]].name);
}

dqt_status tape_end_update(dqt_tape *tape, dqt_step_stats *stats) {
    dqt_updater *updater = tape->fused;
    const struct slot *left = leave_deferred(tape);
    updater_release(updater);
    TRY(updater_end(updater, stats));
    return check_none_left(tape, left);
}

dqt_status tape_end_update_part(dqt_tape *tape) {
    dqt_updater *updater = tape->fused;
    const struct slot *left = leave_deferred(tape);
    updater_release(updater);
    updater_open_exchange(updater);
    return check_none_left(tape, left);
}

dqt_status tape_check_update(const dqt_tape *tape, const struct slot *slot) {
    if (!tape->fused) return DQT_OK;
    const struct slot *end = slot + 1;
    while (!slot->is_sublayer && end < tape->slots + tape->num_slots && end->is_sublayer)
        end++;
    for (const struct slot *s = slot; s < end; s++)
        for (int i = 0; i < MAX_WEIGHTS; i++)
            if (s->deferred || (s->layer->weight[i] && updater_parameter_begun(tape->fused, s->parameter[i])))
                return fail(tape->ctx, DQT_E_STATE, "%s has gone backward in this update: each layer does so once",
                            s->deferred ? s->layer->name : tape->parameters[s->parameter[i]].name);
    return DQT_OK;
}
