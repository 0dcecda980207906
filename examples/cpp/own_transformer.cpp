// The program of ../14_own_transformer.c in C++: a network of one's own, trained with soft targets and the update
// inside backward, saved and resumed. The same files, byte for byte. usage: own_transformer FOLDER
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "dqt.hpp"

namespace {

constexpr std::size_t vocab = 64, hidden = 32, blocks = 2, sequences = 2, length = 16, tokens = sequences * length;
constexpr std::uint64_t steps = 12, half = steps / 2;

// The soft target of a token: the one 7 further, and a little of its neighbours.
double target(std::int32_t token, std::size_t c) {
    switch ((c + 2 * vocab - static_cast<std::size_t>(token) - 7) % vocab) {
    case 0: return 0.9;
    case 1:
    case vocab - 1: return 0.05;
    default: return 0;
    }
}

// Mean cross-entropy against the targets; logits [tokens][vocab] become its gradient.
double soft_loss(const std::vector<std::int32_t> &input, std::vector<float> &logits) {
    double loss = 0;
    for (std::size_t t = 0; t < tokens; t++) {
        float *x = &logits[t * vocab];
        double sum = 0;
        for (std::size_t c = 0; c < vocab; c++)
            sum += std::exp(static_cast<double>(x[c]));
        for (std::size_t c = 0; c < vocab; c++) {
            const double q = target(input[t], c), logit = static_cast<double>(x[c]);
            loss += q * (std::log(sum) - logit) / tokens;
            x[c] = static_cast<float>((std::exp(logit) / sum - q) / tokens);
        }
    }
    return loss;
}

class Network {
  public:
    Network(const dqt::Context &ctx, std::uint64_t seed)
        : layers_(make_layers(ctx, seed)), tape_(layers_, tape_options()), updater_(layers_, updater_options()) {
    }
    void train(std::uint64_t from, std::uint64_t to) {
        dqt::Batch batch;
        batch.batch = sequences;
        for (std::uint64_t step = from; step < to; step++) {
            batch.tokens.clear();
            for (std::uint64_t i = 0; i < tokens; i++)
                batch.tokens.push_back(static_cast<std::int32_t>((7 * i + 3 * step) % vocab));
            std::vector<float> x = tape_.embedding_forward(layers_.front(), batch);
            for (std::size_t i = 1; i <= blocks + 1; i++)
                x = tape_.forward(layers_[i], batch, x);
            std::vector<float> logits = tape_.head_logits(layers_.back(), batch, x);
            std::printf("step %2d: loss %.6f\n", static_cast<int>(step), soft_loss(batch.tokens, logits));

            tape_.begin_update(updater_, dqt::step_options(dqt::schedule_cosine(step, 2, steps, 0.02f, 0.1f)));
            std::vector<float> d = tape_.head_backward_logits(layers_.back(), logits);
            for (std::size_t i = blocks + 1; i >= 1; i--)
                d = tape_.backward(layers_[i], d);
            tape_.embedding_backward(layers_.front(), d);
            tape_.end_update();
        }
    }
    void save(const std::string &path, std::uint64_t done) const {
        dqt::save(layers_, path, {&updater_, std::to_string(done), &tape_});
    }
    // Into a network that has been created alike; returns the steps done.
    std::uint64_t load(const std::string &path) {
        const dqt::Resumed resumed = dqt::load_into(layers_, &updater_, path);
        tape_.set_passes(resumed.passes);
        return std::stoull(resumed.host);
    }

  private:
    static std::vector<dqt::Layer> make_layers(const dqt::Context &ctx, std::uint64_t seed) {
        auto o = dqt::defaults<dqt_layer_options>(), wide = o;
        o.seed = wide.seed = seed;
        wide.weight.storage = DQT_FORMAT_INT8;
        std::vector<dqt::Layer> layers{dqt::Layer::embedding(ctx, vocab, hidden, wide)};
        for (std::size_t i = 0; i < blocks; i++) {
            const std::string name = "blocks." + std::to_string(i); // parameters are saved by name
            auto named = o;
            named.name = name.c_str();
            if (i + 1 == blocks) { // the last: int4 with a scale for each 32 columns
                named.weight.storage = DQT_FORMAT_INT4;
                named.weight.scale_axis = DQT_AXIS_GROUP;
                named.weight.group_size = 32;
            }
            layers.push_back(dqt::Layer::block(ctx, hidden, 2 * hidden, 4, 2, named));
        }
        layers.push_back(dqt::Layer::rmsnorm(ctx, hidden, o));
        layers.push_back(dqt::Layer::head(ctx, hidden, vocab, wide));
        return layers;
    }
    static dqt_tape_options tape_options() {
        auto o = dqt::defaults<dqt_tape_options>();
        o.max_batch = sequences;
        o.max_length = length;
        o.no_gradient_buffers = 1;
        o.recompute = 1;
        o.checkpoint_format = DQT_FLOAT_BF16;
        return o;
    }
    static dqt_updater_options updater_options() {
        auto o = dqt::defaults<dqt_updater_options>();
        o.momentum_state = o.variance_state = DQT_STATE_INT8;
        o.clip = DQT_CLIP_PREVIOUS_NORM;
        return o;
    }
    std::vector<dqt::Layer> layers_; // embedding, blocks, norm, head
    dqt::Tape tape_;
    dqt::Updater updater_;
};

std::string bytes_of(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void run(const std::string &folder) {
    const dqt::Context ctx;
    Network network(ctx, 1);
    network.train(0, half);
    network.save(folder + "/half.dqt", half);
    network.train(half, steps);
    network.save(folder + "/whole.dqt", steps);

    Network again(ctx, 2); // other weights, which loading replaces
    const std::uint64_t done = again.load(folder + "/half.dqt");
    again.train(done, steps);
    again.save(folder + "/resumed.dqt", steps);
    if (bytes_of(folder + "/whole.dqt") != bytes_of(folder + "/resumed.dqt"))
        throw std::runtime_error("whole.dqt and resumed.dqt differ");
    std::printf("resumed after step %d: the same bytes\n", static_cast<int>(done));
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) return std::fprintf(stderr, "usage: own_transformer FOLDER\n"), 2;
    try {
        run(argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
