// A host in C++: handles in unique_ptr, statuses into exceptions, a parallel_for of its own; against the installed
// library.
#include <dqt.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

// Names that a library might have used inside.
int fail(int value) {
    return value;
}
struct arena {
    int used;
};

namespace {

template <class T, void (*destroy)(T *)> struct Destroy {
    void operator()(T *object) const {
        destroy(object);
    }
};
template <class T, void (*destroy)(T *)> using Handle = std::unique_ptr<T, Destroy<T, destroy>>;
using Context = Handle<dqt_context, dqt_context_destroy>;
using Model = Handle<dqt_llama, dqt_llama_destroy>;
using Tape = Handle<dqt_tape, dqt_tape_destroy>;
using Updater = Handle<dqt_updater, dqt_updater_destroy>;
using Session = Handle<dqt_session, dqt_session_destroy>;

void check(dqt_status status, const dqt_context *ctx) {
    if (status != DQT_OK) throw std::runtime_error(std::string(dqt_status_string(status)) + ": " + dqt_last_error(ctx));
}

void parallel_for(void *user_data, std::size_t count, dqt_task_fn task, void *task_data) {
    ++*static_cast<int *>(user_data);
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i < count; i++)
        threads.emplace_back(task, task_data, i);
    task(task_data, 0);
    for (std::thread &thread : threads)
        thread.join();
}

void run() {
    int loops = 0;
    dqt_context_options options;
    check(dqt_context_options_init(&options, sizeof options), nullptr);
    options.parallel_for = parallel_for;
    options.parallel_user_data = &loops;
    options.num_threads = 2;
    dqt_context *raw_context = nullptr;
    check(dqt_context_create(&options, &raw_context), nullptr);
    const Context context(raw_context);
    dqt_context *const ctx = context.get();

    dqt_llama_config config;
    check(dqt_llama_config_init(&config, sizeof config), nullptr);
    config.hidden_size = 32;
    config.intermediate_size = 48;
    dqt_llama *raw_model = nullptr;
    check(dqt_llama_create(ctx, &config, &raw_model), ctx);
    const Model model(raw_model);
    dqt_layer *const *layers = nullptr;
    std::size_t n = 0;
    check(dqt_llama_get_layers(model.get(), &layers, &n), ctx);
    dqt_tape *raw_tape = nullptr;
    check(dqt_tape_create(ctx, layers, n, nullptr, &raw_tape), ctx);
    const Tape tape(raw_tape);
    dqt_updater *raw_updater = nullptr;
    check(dqt_updater_create(ctx, layers, n, nullptr, &raw_updater), ctx);
    const Updater updater(raw_updater);

    std::vector<std::int32_t> tokens(16), targets(16);
    for (std::size_t i = 0; i < tokens.size(); i++) {
        tokens[i] = static_cast<std::int32_t>('a' + i % 4);
        targets[i] = static_cast<std::int32_t>('a' + (i + 1) % 4);
    }
    dqt_batch batch = {};
    batch.struct_size = sizeof batch;
    batch.length = tokens.size();
    batch.tokens = tokens.data();
    batch.targets = targets.data();
    dqt_step_options options_of_step = {};
    options_of_step.struct_size = sizeof options_of_step;
    options_of_step.learning_rate = 0.01f;
    float first = 0, loss = 0;
    for (int step = 0; step < 20; step++) {
        check(dqt_tape_zero_gradients(tape.get()), ctx);
        check(dqt_llama_loss(model.get(), tape.get(), &batch, &loss, nullptr), ctx);
        check(dqt_llama_backward(model.get(), tape.get(), 1.0f), ctx);
        check(dqt_updater_step(updater.get(), tape.get(), &options_of_step, nullptr), ctx);
        if (step == 0) first = loss;
    }
    if (!(loss < first) || loops == 0 || fail(arena{3}.used) != 3) throw std::runtime_error("the loss has not fallen");

    dqt_session_options session_options = {};
    session_options.struct_size = sizeof session_options;
    session_options.max_length = 32;
    dqt_session *raw_session = nullptr;
    check(dqt_session_create(model.get(), &session_options, &raw_session), ctx);
    const Session session(raw_session);
    std::vector<float> logits(config.vocab_size);
    check(dqt_session_append(session.get(), tokens.data(), tokens.size(), logits.data()), ctx);
    if (!std::isfinite(logits[0])) throw std::runtime_error("a logit is not finite");
    bool refused = false;
    try {
        check(dqt_session_append(session.get(), tokens.data(), 1000, nullptr), ctx);
    } catch (const std::runtime_error &error) {
        refused = std::string(error.what()).find("DQT_E_STATE: 1000 tokens") == 0;
    }
    if (!refused) throw std::runtime_error("a full cache was not refused");
}

} // namespace

int main() {
    try {
        run();
    } catch (const std::exception &error) {
        std::puts(error.what());
        return 1;
    }
    return 0;
}
