// dqt.hpp - libdqt for C++17: one header of owning handles over dqt.h.
//
// SPDX-License-Identifier: MIT
//
// Handles are shared: copying one copies a reference, and an object keeps what it was made from alive, so that
// everything is destroyed in the order that dqt.h asks for, whatever the order of the host's variables. A status that
// is not 0 becomes a dqt::Error with the sentence. What is not wrapped here is called through get(), as in C.
//
// Functions that the host passes in (parallel_for, log, readers and writers) must not throw through the C library: all
// but readers and writers end the process if they do; an exception of a reader or writer becomes a dqt::Error with
// DQT_E_IO.
#ifndef DQT_HPP
#define DQT_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <dqt.h>

namespace dqt {

class Error : public std::runtime_error {
  public:
    Error(dqt_status status, const std::string &sentence)
        : std::runtime_error(std::string(dqt_status_string(status)) + ": " + sentence), status_(status) {
    }
    dqt_status status() const noexcept {
        return status_;
    }

  private:
    dqt_status status_;
};

// Throws an Error with the calling thread's latest sentence unless status is 0.
inline void check(dqt_status status, const dqt_context *ctx = nullptr) {
    if (status != DQT_OK) throw Error(status, dqt_last_error(ctx));
}

inline dqt_status init(dqt_context_options &o) {
    return dqt_context_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_tensor_options &o) {
    return dqt_tensor_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_layer_options &o) {
    return dqt_layer_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_tape_options &o) {
    return dqt_tape_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_llama_config &o) {
    return dqt_llama_config_init(&o, sizeof o);
}
inline dqt_status init(dqt_updater_options &o) {
    return dqt_updater_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_group_options &o) {
    return dqt_group_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_sampler_options &o) {
    return dqt_sampler_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_session_options &o) {
    return dqt_session_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_preset_options &o) {
    return dqt_preset_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_save_options &o) {
    return dqt_save_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_load_options &o) {
    return dqt_load_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_import_options &o) {
    return dqt_import_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_gguf_options &o) {
    return dqt_gguf_options_init(&o, sizeof o);
}
inline dqt_status init(dqt_safetensors_options &o) {
    return dqt_safetensors_options_init(&o, sizeof o);
}

// An options struct with the library's defaults.
template <class Options> Options defaults() {
    Options o;
    check(init(o));
    return o;
}

// Calls task(i) for each i in [0, count), in any order, concurrently or not, and returns when all are done.
using ParallelFor = std::function<void(std::size_t count, const std::function<void(std::size_t)> &task)>;
using Log = std::function<void(std::int32_t level, const char *message)>;

class Context {
  public:
    explicit Context(dqt_context_options options = defaults<dqt_context_options>(), ParallelFor parallel_for = {},
                     Log log = {})
        : state_(std::make_shared<State>()) {
        state_->parallel_for = std::move(parallel_for);
        state_->log = std::move(log);
        if (state_->parallel_for) {
            options.parallel_user_data = state_.get();
            options.parallel_for = [](void *state, std::size_t count, dqt_task_fn task, void *data) noexcept {
                static_cast<State *>(state)->parallel_for(count, [task, data](std::size_t i) { task(data, i); });
            };
        }
        if (state_->log) {
            options.log_user_data = state_.get();
            options.log = [](void *state, std::int32_t level, const char *message) noexcept {
                static_cast<State *>(state)->log(level, message);
            };
        }
        dqt::check(dqt_context_create(&options, &state_->raw));
    }
    dqt_context *get() const noexcept {
        return state_->raw;
    }
    void check(dqt_status status) const {
        dqt::check(status, get());
    }
    std::int32_t isa() const noexcept {
        return dqt_context_isa(get());
    }
    std::int32_t num_threads() const noexcept {
        return dqt_context_num_threads(get());
    }
    std::uint64_t cpu_features() const noexcept {
        return dqt_context_cpu_features(get());
    }
    std::size_t allocated() const noexcept {
        return dqt_context_allocated(get());
    }

  private:
    struct State {
        dqt_context *raw = nullptr;
        ParallelFor parallel_for;
        Log log;
        State() = default;
        State(const State &) = delete;
        State &operator=(const State &) = delete;
        ~State() {
            dqt_context_destroy(raw);
        }
    };
    std::shared_ptr<State> state_;
};

// A handle that shares ownership of T and of all that T was made from.
template <class T, void (*destroy)(T *)> class Object {
  public:
    using Parents = std::vector<std::shared_ptr<void>>;
    T *get() const noexcept {
        return raw_.get();
    }
    const Context &context() const noexcept {
        return ctx_;
    }
    std::shared_ptr<void> shared() const noexcept {
        return raw_;
    }

  protected:
    explicit Object(Context ctx) : ctx_(std::move(ctx)) {
    }
    // The parents are released after `destroy`, the context after the parents.
    void own(T *raw, Parents parents = {}) {
        raw_ = std::shared_ptr<T>(raw, [ctx = ctx_, kept = std::move(parents)](T *object) { destroy(object); });
    }
    template <class Create, class... Arguments> void create(Parents parents, Create function, Arguments... arguments) {
        T *raw = nullptr;
        check(function(arguments..., &raw));
        own(raw, std::move(parents));
    }
    void check(dqt_status status) const {
        ctx_.check(status);
    }

  private:
    Context ctx_;
    std::shared_ptr<T> raw_;
};

class Tensor : public Object<dqt_tensor, dqt_tensor_destroy> {
  public:
    Tensor(const Context &ctx, std::size_t rows, std::size_t cols,
           const dqt_tensor_options &o = defaults<dqt_tensor_options>())
        : Object(ctx) {
        create({}, dqt_tensor_create, ctx.get(), rows, cols, &o);
    }
    dqt_tensor_info info() const {
        auto result = DQT_INIT(dqt_tensor_info);
        check(dqt_tensor_get_info(get(), &result));
        return result;
    }
    void quantize(const std::vector<float> &weights, std::int32_t rounding = DQT_ROUND_NEAREST,
                  std::uint64_t seed = 1) {
        const auto i = info();
        if (weights.size() != i.rows * i.cols) throw std::invalid_argument("weights are not rows * cols");
        check(dqt_tensor_quantize(get(), weights.data(), rounding, seed));
    }
    std::vector<float> dequantize() const {
        const auto i = info();
        std::vector<float> result(i.rows * i.cols);
        check(dqt_tensor_dequantize(get(), 0, i.rows, result.data()));
        return result;
    }
};

// A layer of the host's own. Layers of a Llama belong to it and are reached through Llama::layers.
class Layer : public Object<dqt_layer, dqt_layer_destroy> {
  public:
    using Options = dqt_layer_options;
    static Layer embedding(const Context &c, std::size_t vocab, std::size_t hidden,
                           const Options &o = defaults<Options>()) {
        return Layer(c, {}, dqt_embedding_create, c.get(), vocab, hidden, &o);
    }
    static Layer linear(const Context &c, std::size_t in, std::size_t out, const Options &o = defaults<Options>()) {
        return Layer(c, {}, dqt_linear_create, c.get(), in, out, &o);
    }
    static Layer rmsnorm(const Context &c, std::size_t features, const Options &o = defaults<Options>()) {
        return Layer(c, {}, dqt_rmsnorm_create, c.get(), features, &o);
    }
    static Layer attention(const Context &c, std::size_t hidden, std::size_t heads, std::size_t kv_heads,
                           const Options &o = defaults<Options>()) {
        return Layer(c, {}, dqt_attention_create, c.get(), hidden, heads, kv_heads, &o);
    }
    static Layer mlp(const Context &c, std::size_t hidden, std::size_t intermediate,
                     const Options &o = defaults<Options>()) {
        return Layer(c, {}, dqt_mlp_create, c.get(), hidden, intermediate, &o);
    }
    static Layer block(const Context &c, std::size_t hidden, std::size_t intermediate, std::size_t heads,
                       std::size_t kv_heads, const Options &o = defaults<Options>()) {
        return Layer(c, {}, dqt_block_create, c.get(), hidden, intermediate, heads, kv_heads, &o);
    }
    static Layer head(const Context &c, std::size_t hidden, std::size_t classes,
                      const Options &o = defaults<Options>()) {
        return Layer(c, {}, dqt_head_create, c.get(), hidden, classes, static_cast<dqt_layer *>(nullptr), &o);
    }
    // A head that uses the weight of an embedding.
    static Layer tied_head(const Layer &tied, std::size_t hidden, std::size_t classes,
                           const Options &o = defaults<Options>()) {
        const Context &c = tied.context();
        return Layer(c, {tied.shared()}, dqt_head_create, c.get(), hidden, classes, tied.get(), &o);
    }

  private:
    template <class... Arguments> Layer(const Context &ctx, Parents parents, Arguments... arguments) : Object(ctx) {
        create(std::move(parents), arguments...);
    }
};

struct Checkpoint;

class Llama : public Object<dqt_llama, dqt_llama_destroy> {
  public:
    explicit Llama(const Context &ctx, const dqt_llama_config &config = defaults<dqt_llama_config>()) : Object(ctx) {
        create({}, dqt_llama_create, ctx.get(), &config);
    }
    dqt_llama_config config() const {
        auto result = DQT_INIT(dqt_llama_config);
        check(dqt_llama_get_config(get(), &result));
        return result;
    }
    // Valid as long as the model.
    std::pair<dqt_layer *const *, std::size_t> layers() const {
        std::pair<dqt_layer *const *, std::size_t> result{};
        check(dqt_llama_get_layers(get(), &result.first, &result.second));
        return result;
    }

  private:
    friend Checkpoint load(const Context &ctx, const std::string &path, const dqt_load_options &o);
    Llama(const Context &ctx, dqt_llama *raw) : Object(ctx) {
        own(raw);
    }
};

// The layers that a tape or an updater is for: a model's, or a list of the host's own.
struct Layers {
    Layers(const Llama &model)
        : ctx(model.context()),
          raw(model.layers().first, model.layers().first + model.layers().second), parents{model.shared()} {
    }
    Layers(const std::vector<Layer> &layers) : ctx(layers.at(0).context()) {
        for (const Layer &layer : layers) {
            raw.push_back(layer.get());
            parents.push_back(layer.shared());
        }
    }
    Context ctx;
    std::vector<dqt_layer *> raw;
    std::vector<std::shared_ptr<void>> parents;
};

// What a pass runs on: `batch` sequences of equal length, one after the other. What is empty is not given.
struct Batch {
    std::vector<std::int32_t> tokens, targets; // [batch][length]
    std::size_t batch = 1;
    std::vector<float> weights;         // of the targets' losses
    std::vector<std::int32_t> segments; // document ids
    double divisor = 0;                 // of the sum of losses; 0: the weights' sum, or the number of targets

    // Valid as long as this, unchanged.
    dqt_batch view() const {
        auto result = DQT_INIT(dqt_batch);
        result.divisor = divisor;
        result.batch = batch;
        result.length = batch ? tokens.size() / batch : 0;
        result.tokens = tokens.data();
        result.targets = part(targets);
        result.weights = part(weights);
        result.segments = part(segments);
        if (result.batch * result.length != tokens.size())
            throw std::invalid_argument("tokens are not sequences of equal length");
        return result;
    }

  private:
    template <class T> const T *part(const std::vector<T> &values) const {
        if (values.empty()) return nullptr;
        if (values.size() != tokens.size()) throw std::invalid_argument("a batch's vectors have different sizes");
        return values.data();
    }
};

// float[rows][cols] that belongs to a tape.
struct Gradient {
    float *data;
    std::size_t rows, cols;
    std::string name;
};

class Tape : public Object<dqt_tape, dqt_tape_destroy> {
  public:
    explicit Tape(const Layers &layers, const dqt_tape_options &o = defaults<dqt_tape_options>()) : Object(layers.ctx) {
        create(layers.parents, dqt_tape_create, layers.ctx.get(), layers.raw.data(), layers.raw.size(), &o);
    }
    void zero_gradients() {
        check(dqt_tape_zero_gradients(get()));
    }
    std::size_t num_parameters() const {
        std::size_t count = 0;
        check(dqt_tape_get_num_parameters(get(), &count));
        return count;
    }
    // Valid as long as the tape.
    Gradient gradient(std::size_t index) {
        auto parameter = DQT_INIT(dqt_parameter);
        float *data = nullptr;
        check(dqt_tape_get_parameter(get(), index, &parameter));
        check(dqt_tape_gradient_data(get(), index, &data));
        return {data, parameter.rows, parameter.cols, parameter.name};
    }
    // Forward and mean loss of the targets.
    float loss(const Llama &model, const Batch &batch) {
        const dqt_batch view = batch.view();
        float result = 0;
        check(dqt_llama_loss(model.get(), get(), &view, &result, nullptr));
        return result;
    }
    void backward(const Llama &model, float loss_scale = 1) {
        check(dqt_llama_backward(model.get(), get(), loss_scale));
    }
};

class Updater : public Object<dqt_updater, dqt_updater_destroy> {
  public:
    explicit Updater(const Layers &layers, const dqt_updater_options &o = defaults<dqt_updater_options>())
        : Object(layers.ctx) {
        create(layers.parents, dqt_updater_create, layers.ctx.get(), layers.raw.data(), layers.raw.size(), &o);
    }
    std::size_t add_group(const dqt_group_options &group) {
        std::size_t matched = 0;
        check(dqt_updater_add_group(get(), &group, &matched));
        return matched;
    }
    dqt_step_stats step(Tape &tape, float learning_rate, float gradient_scale = 1) {
        auto options = DQT_INIT(dqt_step_options);
        options.learning_rate = learning_rate;
        options.gradient_scale = gradient_scale;
        auto stats = DQT_INIT(dqt_step_stats);
        check(dqt_updater_step(get(), tape.get(), &options, &stats));
        return stats;
    }

  private:
    friend Checkpoint load(const Context &ctx, const std::string &path, const dqt_load_options &o);
    Updater(const Context &ctx, dqt_updater *raw, Parents parents) : Object(ctx) {
        own(raw, std::move(parents));
    }
};

class Session : public Object<dqt_session, dqt_session_destroy> {
  public:
    explicit Session(const Llama &model, const dqt_session_options &o = defaults<dqt_session_options>())
        : Object(model.context()), vocab_(model.config().vocab_size) {
        create({model.shared()}, dqt_session_create, model.get(), &o);
    }
    std::size_t length() const {
        std::size_t result = 0;
        check(dqt_session_get_length(get(), &result));
        return result;
    }
    // The logits after the last of the tokens.
    std::vector<float> append(const std::vector<std::int32_t> &tokens) {
        std::vector<float> logits(vocab_);
        check(dqt_session_append(get(), tokens.data(), tokens.size(), logits.data()));
        return logits;
    }
    void truncate(std::size_t length) {
        check(dqt_session_truncate(get(), length));
    }

  private:
    std::size_t vocab_;
};

class Sampler : public Object<dqt_sampler, dqt_sampler_destroy> {
  public:
    Sampler(const Context &ctx, std::size_t vocab, const dqt_sampler_options &o = defaults<dqt_sampler_options>())
        : Object(ctx), vocab_(vocab) {
        create({}, dqt_sampler_create, ctx.get(), vocab, &o);
    }
    std::int32_t sample(const std::vector<float> &logits) {
        if (logits.size() != vocab_) throw std::invalid_argument("logits are not of the sampler's vocabulary");
        std::int32_t token = 0;
        check(dqt_sampler_sample(get(), logits.data(), &token));
        return token;
    }

  private:
    std::size_t vocab_;
};

struct Checkpoint {
    Llama model;
    std::unique_ptr<Updater> updater; // null if the file has none
    std::string host;
    std::uint64_t pass; // for dqt_tape_set_pass
};

// What goes into a checkpoint beside the weights; null or empty: nothing.
struct Saved {
    const Updater *updater = nullptr;
    std::string host;
    const Tape *tape = nullptr; // its number of passes

    dqt_save_options options() const {
        auto result = DQT_INIT(dqt_save_options);
        result.host = host.empty() ? nullptr : host.data();
        result.host_size = host.size();
        result.tape = tape ? tape->get() : nullptr;
        return result;
    }
};

inline void save(const Llama &model, const std::string &path, const Saved &saved = {}) {
    const dqt_save_options options = saved.options();
    model.context().check(
        dqt_llama_save(model.get(), saved.updater ? saved.updater->get() : nullptr, path.c_str(), &options));
}

// Writes a checkpoint through a function of the host's.
inline void save(const Llama &model, std::function<void(const void *bytes, std::size_t size)> write,
                 const Saved &saved = {}) {
    const auto call = [](void *function, const void *bytes, std::size_t size) noexcept -> std::int32_t {
        try {
            (*static_cast<decltype(write) *>(function))(bytes, size);
            return 0;
        } catch (...) {
            return 1;
        }
    };
    const dqt_save_options options = saved.options();
    model.context().check(
        dqt_llama_write(model.get(), saved.updater ? saved.updater->get() : nullptr, call, &write, &options));
}

inline Checkpoint load(const Context &ctx, const std::string &path,
                       const dqt_load_options &o = defaults<dqt_load_options>()) {
    auto raw = DQT_INIT(dqt_checkpoint);
    ctx.check(dqt_llama_load(ctx.get(), path.c_str(), &o, &raw));
    const std::unique_ptr<void, std::function<void(void *)>> bytes(
        raw.host, [&](void *host) { dqt_host_bytes_free(ctx.get(), host, raw.host_size); });
    Llama model(ctx, raw.model);
    std::unique_ptr<Updater> updater;
    if (raw.updater) updater.reset(new Updater(ctx, raw.updater, {model.shared()}));
    return {std::move(model), std::move(updater), std::string(static_cast<const char *>(raw.host), raw.host_size),
            raw.passes};
}

} // namespace dqt

#endif // DQT_HPP
