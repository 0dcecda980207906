// The program of ../binding.c in C++, with threads of its own. The same lines, the same file, byte for byte.
// usage: train CHECKPOINT
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <thread>

#include "dqt.hpp"

namespace {

constexpr std::size_t sequences = 2, length = 64;
constexpr std::uint64_t steps = 20;
const char text[] = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
                    "foolishness, it was the epoch of belief";

void parallel_for(std::size_t count, const std::function<void(std::size_t)> &task) {
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i < count; i++)
        threads.emplace_back(task, i);
    task(0);
    for (auto &t : threads)
        t.join();
}

void run(const std::string &path) {
    auto options = dqt::defaults<dqt_context_options>();
    options.num_threads = 2;
    const dqt::Context ctx(options, parallel_for);

    auto config = dqt::defaults<dqt_llama_config>();
    config.hidden_size = 64;
    config.intermediate_size = 128;
    config.num_layers = 2;
    config.num_heads = 4;
    const dqt::Llama model(ctx, config);
    auto tape_options = dqt::defaults<dqt_tape_options>();
    tape_options.max_batch = sequences;
    tape_options.max_length = length;
    dqt::Tape tape(model, tape_options);
    dqt::Updater updater(model, dqt::defaults<dqt_updater_options>());

    dqt::Batch batch;
    batch.batch = sequences;
    for (std::size_t i = 0; i < sequences * length; i++) {
        batch.tokens.push_back(static_cast<unsigned char>(text[i]));
        batch.targets.push_back(static_cast<unsigned char>(text[i + 1]));
    }
    for (std::uint64_t step = 0; step < steps; step++) {
        tape.zero_gradients();
        const float loss = tape.loss(model, batch);
        tape.backward(model);
        updater.step(tape, dqt_schedule_cosine(step, 2, steps, 0.02f, 0.1f));
        std::uint32_t bits;
        std::memcpy(&bits, &loss, sizeof bits);
        std::printf("step %2" PRIu64 "  loss %.6f  %08" PRIx32 "\n", step, static_cast<double>(loss), bits);
    }
    dqt::save(model, path, {&updater, "binding"});
    try {
        batch.tokens[3] = 256;
        tape.loss(model, batch);
    } catch (const dqt::Error &error) {
        std::printf("%s\n", error.what());
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) return std::fprintf(stderr, "usage: train CHECKPOINT\n"), 2;
    try {
        run(argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
