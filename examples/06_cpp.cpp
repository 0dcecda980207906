// Example 6, C++: handles that destroy themselves and errors as exceptions, over the C interface.
//
// Introduces: a RAII wrapper for every handle in a few lines of the host's own; a custom parallel_for with std::thread.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "dqt.h"

namespace {

template <typename T, void (*destroy)(T *)> struct Destroy {
    void operator()(T *p) const { destroy(p); }
};
template <typename T, void (*destroy)(T *)> using Handle = std::unique_ptr<T, Destroy<T, destroy>>;

using Context = Handle<dqt_context, dqt_context_destroy>;
using Llama = Handle<dqt_llama, dqt_llama_destroy>;
using Tape = Handle<dqt_tape, dqt_tape_destroy>;
using Updater = Handle<dqt_updater, dqt_updater_destroy>;
using Session = Handle<dqt_session, dqt_session_destroy>;

void check(const dqt_context *ctx, dqt_status status) {
    if (status != DQT_OK) throw std::runtime_error(std::string(dqt_status_string(status)) + ": " + dqt_last_error(ctx));
}

// Calls a create function and wraps its result.
template <typename H, typename F, typename... A> H make(const dqt_context *ctx, F create, A... arguments) {
    typename H::pointer raw = nullptr;
    check(ctx, create(arguments..., &raw));
    return H(raw);
}

void parallel_for(void *, size_t count, dqt_task_fn task, void *data) {
    std::vector<std::thread> threads;
    for (size_t i = 1; i < count; i++) threads.emplace_back(task, data, i);
    task(data, 0);
    for (auto &t : threads) t.join();
}

void run() {
    dqt_context_options options;
    check(nullptr, dqt_context_options_init(&options, sizeof options));
    options.num_threads = 2;
    options.parallel_for = parallel_for;
    const auto ctx = make<Context>(nullptr, dqt_context_create, &options);

    dqt_llama_config config;
    check(ctx.get(), dqt_llama_config_init(&config, sizeof config));
    config.hidden_size = 64;
    config.intermediate_size = 128;
    const auto model = make<Llama>(ctx.get(), dqt_llama_create, ctx.get(), &config);
    dqt_layer *const *layers = nullptr;
    size_t count = 0;
    check(ctx.get(), dqt_llama_layers(model.get(), &layers, &count));
    const auto tape =
        make<Tape>(ctx.get(), dqt_tape_create, ctx.get(), layers, count, static_cast<const dqt_tape_options *>(nullptr));
    const auto updater = make<Updater>(ctx.get(), dqt_updater_create, ctx.get(), layers, count,
                                       static_cast<const dqt_updater_options *>(nullptr));

    const std::string text = "she sells sea shells by the sea shore; ";
    std::vector<int32_t> tokens(128), targets(128);
    for (size_t i = 0; i < tokens.size(); i++) {
        tokens[i] = static_cast<unsigned char>(text[i % text.size()]);
        targets[i] = static_cast<unsigned char>(text[(i + 1) % text.size()]);
    }
    for (uint64_t step = 0; step < 150; step++) {
        float loss = 0;
        check(ctx.get(), dqt_tape_zero_gradients(tape.get()));
        check(ctx.get(), dqt_llama_loss(model.get(), tape.get(), tokens.data(), targets.data(), 1, tokens.size(), &loss, nullptr));
        check(ctx.get(), dqt_llama_backward(model.get(), tape.get(), 1.0f));
        check(ctx.get(), dqt_updater_step(updater.get(), tape.get(), dqt_schedule_cosine(step, 10, 150, 3e-3f, 0.0f), nullptr));
        if (step % 50 == 0 || step == 149) std::printf("step %3d: loss %.4f\n", static_cast<int>(step), static_cast<double>(loss));
    }

    const auto session = make<Session>(ctx.get(), dqt_session_create, model.get(), size_t{128});
    std::vector<float> logits(256);
    std::vector<int32_t> prompt(text.begin(), text.begin() + 10);
    check(ctx.get(), dqt_session_append(session.get(), prompt.data(), prompt.size(), logits.data()));
    std::string out(prompt.begin(), prompt.end());
    for (int i = 0; i < 60; i++) {
        int32_t best = 0;
        for (int32_t k = 1; k < 256; k++)
            if (logits[static_cast<size_t>(k)] > logits[static_cast<size_t>(best)]) best = k;
        out += static_cast<char>(best);
        check(ctx.get(), dqt_session_append(session.get(), &best, 1, logits.data()));
    }
    std::printf("%s\n", out.c_str());
    try {
        check(ctx.get(), dqt_session_append(session.get(), prompt.data(), 0, nullptr));
    } catch (const std::exception &e) {
        std::printf("a mistake is an exception: %s\n", e.what());
    }
}

} // namespace

int main() {
    try {
        run();
    } catch (const std::exception &e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    return 0;
}
