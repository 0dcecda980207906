#include "io/importance.h"

#include <math.h>
#include <string.h>

#include "core/context.h"
#include "core/rng.h"
#include "core/status.h"
#include "io/names.h"
#include "isa/isa.h"

enum { TOKENS = 64 /* one sequence; more change next to nothing */ };

/* Of the mean, added to each mean square: columns that these tokens hardly use are not free for all others. */
static const double FLOOR = 0.03;

struct importance {
    dqt_context ctx; /* the model's, with kernels in plain C */
    struct kernels kernels;
    dqt_context *owner;
    dqt_llama *model; /* of one block and TOKENS tokens */
    dqt_tape *tape;   /* of the block */
    struct parameter_list list;
    struct input_watch watch;
    float *stream;  /* [TOKENS][hidden] */
    float *weights; /* [list.per_block][most_cols] */
    bool *measured; /* [list.per_block] */
    size_t most_cols;
    size_t bytes; /* of the block this struct begins */
};

static void measure(void *arg, const dqt_tensor *weight, const struct activations *x) {
    struct importance *i = arg;
    size_t k = 0;
    while (list_parameter(&i->list, 1 + k).tensor != weight)
        k++;
    DQT_ASSERT(k < i->list.per_block && x->floats && x->cols <= i->most_cols);
    float *out = i->weights + k * i->most_cols;
    double mean = 0;
    for (size_t c = 0; c < x->cols; c++) {
        double square = 0;
        for (size_t t = 0; t < x->tokens; t++)
            square += (double)x->floats[t * x->ld + c] * (double)x->floats[t * x->ld + c];
        out[c] = (float)square;
        mean += square / (double)x->cols;
    }
    i->measured[k] = mean > 0x1p-100 && mean < 0x1p100;
    for (size_t c = 0; c < x->cols && i->measured[k]; c++)
        out[c] = (float)((double)out[c] / mean + FLOOR);
}

/* The block's, with an embedding of the tokens drawn, whose rows are theirs in the model. */
static dqt_status create_model(struct importance *i, const dqt_llama *from) {
    dqt_llama_config c = from->config;
    c.num_layers = 1;
    c.vocab_size = TOKENS;
    c.tie_embeddings = 1;
    c.linear = c.embedding = c.head = tensor_floats;
    c.overrides = NULL;
    c.num_overrides = 0;
    c.activation = c.head_activation = DQT_ACTIVATION_NONE;
    TRY(llama_create(&i->ctx, &c, &i->model));
    i->list = parameter_list(i->model);
    const dqt_tape_options o = {.struct_size = sizeof o,
                                .precision = DQT_PRECISION_F32,
                                .max_batch = 1,
                                .max_length = TOKENS,
                                .no_gradient_buffers = 1,
                                .inference = 1,
                                .seed = 1};
    TRY(tape_create(&i->ctx, i->model->layers + 1, 1, &o, TOKENS, &i->tape));
    i->watch = (struct input_watch){measure, i};
    i->tape->watch = &i->watch;
    return DQT_OK;
}

static void draw_tokens(struct importance *i, const dqt_llama *model) {
    const dqt_tensor *embedding = model->layers[0]->weight[0];
    const struct rng rng = rng_make(0, 0, RNG_IMPORTANCE, 0);
    uint32_t words[4];
    for (size_t t = 0; t < TOKENS; t++) {
        if (t % 4 == 0) rng_block(&rng, t / 4, words);
        tensor_read_floats(embedding, words[t % 4] % embedding->rows, 0, embedding->cols,
                           i->stream + t * embedding->cols);
    }
}

dqt_status importance_create(const dqt_llama *model, struct importance **out) {
    const struct parameter_list list = parameter_list(model);
    struct arena a = {0};
    struct importance *i = NULL;
    size_t most = 0;
    *out = NULL;
    for (size_t k = 0; k < list.per_block; k++)
        most = size_max(most, list_parameter(&list, 1 + k).tensor->cols);
    for (int pass = 0; pass < 2; pass++) {
        i = arena_take(&a, 1, sizeof *i);
        float *stream = arena_take(&a, TOKENS, model->config.hidden_size * sizeof(float));
        float *weights = arena_take(&a, list.per_block, most * sizeof(float));
        bool *measured = arena_take(&a, list.per_block, sizeof *measured);
        if (pass == 0 && !arena_alloc(model->ctx, &a))
            return fail(model->ctx, DQT_E_MEMORY, "no memory for activations of %d tokens", TOKENS);
        if (pass == 0) continue;
        *i = (struct importance){.owner = model->ctx,
                                 .stream = stream,
                                 .weights = weights,
                                 .measured = measured,
                                 .most_cols = most,
                                 .bytes = a.size};
    }
    struct isa_choice choice;
    memcpy(&i->ctx, model->ctx, sizeof i->ctx);
    isa_select(&i->kernels, &choice, 0);
    i->ctx.kernels = &i->kernels;
    i->ctx.isa = choice.strongest->isa;
    const dqt_status status = create_model(i, model);
    if (status == DQT_OK) draw_tokens(i, model);
    *out = i; /* whatever the status: the caller destroys it */
    return status;
}

void importance_destroy(struct importance *i) {
    if (!i) return;
    tape_destroy(i->tape);
    llama_destroy(i->model);
    memory_free(i->owner, i, i->bytes);
}

float *importance_weights(const struct importance *i, size_t k) {
    return gain_of(list_parameter(&i->list, 1 + k).tensor);
}

dqt_status importance_measure(struct importance *i) {
    memset(i->measured, 0, i->list.per_block * sizeof *i->measured);
    TRY(check_interrupt(&i->ctx));
    layer_forward(i->tape, i->tape->slots, 1, TOKENS, NULL, i->stream, i->stream);
    return tape_finish(i->tape);
}

const float *importance_of(const struct importance *i, size_t index) {
    if (!i || index < 1) return NULL;
    const size_t k = (index - 1) % i->list.per_block;
    return i->measured[k] ? i->weights + k * i->most_cols : NULL;
}
