// Learns a sentence and goes on with it: sessions, sampling, a network of the host's own layers, checkpoints in memory.
// Everything is destroyed in order by itself; a mistake is an exception.
#include <cstdio>

#include "dqt.hpp"

namespace {

void require(bool condition, const char *what) {
    if (!condition) throw std::runtime_error(std::string("not as it should be: ") + what);
}

dqt::Llama small_model(const dqt::Context &ctx) {
    auto config = dqt::defaults<dqt_llama_config>();
    config.hidden_size = 64;
    config.intermediate_size = 128;
    return dqt::Llama(ctx, config);
}

// Tapes, updaters and sessions that outlive the variables they were made from.
dqt::Session learn(const std::string &text, std::string &checkpoint) {
    // The log outlives this function, as the context does.
    const auto messages = std::make_shared<std::vector<std::string>>();
    const dqt::Context ctx(dqt::defaults<dqt_context_options>(), {},
                           [messages](std::int32_t, const char *message) { messages->emplace_back(message); });
    const dqt::Llama model = small_model(ctx);
    dqt::Tape tape{dqt::Layers(small_model(ctx))};
    tape = dqt::Tape(model);
    dqt::Updater updater(model);
    dqt::Batch batch;
    for (std::size_t i = 0; i < 128; i++) {
        batch.tokens.push_back(static_cast<unsigned char>(text[i % text.size()]));
        batch.targets.push_back(static_cast<unsigned char>(text[(i + 1) % text.size()]));
    }
    for (std::uint64_t step = 0; step < 150; step++) {
        tape.zero_gradients();
        const float loss = tape.loss(model, batch);
        tape.backward(model);
        const dqt_step_stats stats = updater.step(tape, dqt_schedule_cosine(step, 10, 150, 3e-3f, 0.0f));
        if (step % 50 == 0 || step == 149)
            std::printf("step %3d: loss %.4f, %d codes changed\n", static_cast<int>(step), static_cast<double>(loss),
                        static_cast<int>(stats.flipped));
    }
    require(tape.gradient(0).name == "embedding" && tape.gradient(0).rows == 256,
            "the first gradient is the embedding's");
    const auto append = [&](const void *bytes, std::size_t size) {
        checkpoint.append(static_cast<const char *>(bytes), size);
    };
    dqt::save(model, append, {&updater, "host", &tape});

    bool refused = false;
    try {
        batch.tokens[0] = -1;
        tape.loss(model, batch);
    } catch (const dqt::Error &error) {
        refused = error.status() == DQT_E_ARGUMENT && messages->size() == 1;
        std::printf("a mistake is an exception: %s\n", error.what());
    }
    require(refused, "a token outside the vocabulary is an error and is logged");
    try {
        refused = false;
        dqt::save(model, [](const void *, std::size_t) { throw std::runtime_error("the disk is full"); });
    } catch (const dqt::Error &error) {
        refused = error.status() == DQT_E_IO;
    }
    require(refused, "an exception in a writer is DQT_E_IO");
    auto options = dqt::defaults<dqt_session_options>();
    options.max_length = 128;
    return dqt::Session(model, options);
}

// A network of one's own: y = linear(rmsnorm(x)).
void own_network(const dqt::Context &ctx) {
    dqt::Tape tape(std::vector<dqt::Layer>{dqt::Layer::rmsnorm(ctx, 8), dqt::Layer::linear(ctx, 8, 4)});
    require(tape.num_parameters() == 2 && tape.gradient(1).rows == 4, "a tape keeps the layers it was made for");
    const std::vector<float> weights{0.5f, -0.5f, 0, 0.5f};
    dqt::Tensor tensor(ctx, 2, 2);
    tensor.quantize(weights);
    const std::vector<float> back = tensor.dequantize();
    require(back[0] > 0 && back[1] == -back[0] && back[2] == 0, "ternary codes of a tensor");
}

// Other formats for some of the weights; a checkpoint has them too.
void mixed_formats(const dqt::Context &ctx, const char *path) {
    dqt_tensor_override down{"*.mlp.down", dqt::defaults<dqt_tensor_options>()};
    down.options.storage = DQT_FORMAT_INT8;
    auto config = dqt::defaults<dqt_llama_config>();
    config.overrides = &down;
    config.num_overrides = 1;
    const dqt::Llama model(ctx, config);
    dqt::save(model, path);
    const dqt::Checkpoint loaded = dqt::load(ctx, path);
    const dqt_llama_config back = loaded.model.config();
    require(back.num_overrides == 1 && std::string(back.overrides->pattern) == "*.mlp.down" &&
                back.overrides->options.storage == DQT_FORMAT_INT8,
            "a checkpoint brings overrides back");
}

void run(const char *path) {
    const std::string text = "she sells sea shells by the sea shore; ";
    std::string checkpoint, out = text.substr(0, 10);
    dqt::Session session = learn(text, checkpoint); // the model lives on in it
    auto options = dqt::defaults<dqt_sampler_options>();
    options.temperature = 0.2f;
    dqt::Sampler sampler(session.context(), 256, options);
    std::vector<float> logits = session.append({out.begin(), out.end()});
    for (int i = 0; i < 60; i++) {
        const std::int32_t token = sampler.sample(logits);
        out += static_cast<char>(token);
        logits = session.append({token});
    }
    std::printf("%s\n", out.c_str());
    own_network(session.context());
    mixed_formats(session.context(), path);

    std::FILE *file = std::fopen(path, "wb");
    require(file && std::fwrite(checkpoint.data(), 1, checkpoint.size(), file) == checkpoint.size() &&
                !std::fclose(file),
            "the checkpoint is written");
    const dqt::Checkpoint loaded = dqt::load(session.context(), path);
    require(loaded.host == "host" && loaded.updater && loaded.pass == 150 && loaded.model.config().hidden_size == 64,
            "what was saved is loaded");
    auto weights_only = dqt::defaults<dqt_load_options>();
    weights_only.skip_updater = 1;
    require(!dqt::load(session.context(), path, weights_only).updater, "an updater that is not wanted is not loaded");
    session.truncate(0);
    const std::vector<std::int32_t> prompt(text.begin(), text.begin() + 10);
    require(dqt::Session(loaded.model).append(prompt) == session.append(prompt), "the loaded model is the same");
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) return std::fprintf(stderr, "usage: generate CHECKPOINT\n"), 2;
    try {
        run(argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
