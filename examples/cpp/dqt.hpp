// dqt.hpp - libdqt for C++17: one header of owning handles over dqt.h.
//
// SPDX-License-Identifier: MIT
//
// Handles are shared: copying one copies a reference, and an object keeps what it was made from alive, so that
// everything is destroyed in the order that dqt.h asks for, whatever the order of the host's variables. A status that
// is not 0 becomes a dqt::Error with the sentence. What is not wrapped here is called through get(), as in C.
//
// Functions that the host passes in (parallel_for, log, gradients of logits, readers and writers) must not throw
// through the C library: all but readers and writers end the process if they do; an exception of a reader or writer
// becomes a dqt::Error with DQT_E_IO.
#ifndef DQT_HPP
#define DQT_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
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
inline dqt_status init(dqt_open_options &o) {
    return dqt_open_options_init(&o, sizeof o);
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

inline std::uint32_t version() noexcept {
    return dqt_version();
}
inline std::string version_string() {
    return dqt_version_string();
}
// Learning rates at a step: warm-up to `peak`, then a cosine or a line to peak * final_fraction at `total`.
inline float schedule_cosine(std::uint64_t step, std::uint64_t warmup, std::uint64_t total, float peak,
                             float final_fraction) {
    return dqt_schedule_cosine(step, warmup, total, peak, final_fraction);
}
inline float schedule_linear(std::uint64_t step, std::uint64_t warmup, std::uint64_t total, float peak,
                             float final_fraction) {
    return dqt_schedule_linear(step, warmup, total, peak, final_fraction);
}
// The same with a line over the last steps, the fraction `decay` of all; until then it stays at `peak`.
inline float schedule_wsd(std::uint64_t step, std::uint64_t warmup, std::uint64_t total, float peak,
                          float final_fraction, float decay) {
    return dqt_schedule_wsd(step, warmup, total, peak, final_fraction, decay);
}

// A recipe, on top of a config and an updater's options.
struct Preset {
    dqt_llama_config config = defaults<dqt_llama_config>();
    dqt_updater_options updater = defaults<dqt_updater_options>();
    dqt_preset preset = DQT_INIT(dqt_preset);
};
inline Preset preset(const dqt_preset_options &o = defaults<dqt_preset_options>(), Preset on_top_of = {}) {
    check(dqt_preset_get(&o, &on_top_of.config, &on_top_of.updater, &on_top_of.preset));
    return on_top_of;
}

// Streams of the host's: a reader fills up to `size` bytes and returns how many.
using Write = std::function<void(const void *bytes, std::size_t size)>;
using Read = std::function<std::size_t(void *buffer, std::size_t size)>;
// The same of what a part's Updater::write_part writes.
using ReadPart = std::function<std::size_t(std::size_t part, void *buffer, std::size_t size)>;

namespace detail {
inline std::int32_t write(void *function, const void *bytes, std::size_t size) noexcept {
    try {
        (*static_cast<Write *>(function))(bytes, size);
        return 0;
    } catch (...) {
        return 1;
    }
}
inline std::size_t read(void *function, void *buffer, std::size_t size) noexcept {
    try {
        return (*static_cast<Read *>(function))(buffer, size);
    } catch (...) {
        return SIZE_MAX;
    }
}
inline std::size_t read_part(void *function, std::size_t part, void *buffer, std::size_t size) noexcept {
    try {
        return (*static_cast<ReadPart *>(function))(part, buffer, size);
    } catch (...) {
        return SIZE_MAX;
    }
}
inline void require(bool condition, const char *what) {
    if (!condition) throw std::invalid_argument(what);
}
} // namespace detail

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
    // Something that belongs to a parent, which is kept.
    void borrow(T *raw, const std::shared_ptr<void> &parent) {
        raw_ = std::shared_ptr<T>(parent, raw);
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
    // Copies of the codes, one byte each, and of the scales.
    std::vector<std::int8_t> codes() const {
        const auto i = info();
        std::vector<std::int8_t> result(i.rows * i.cols);
        check(dqt_tensor_get_codes(get(), 0, i.rows, result.data()));
        return result;
    }
    void set_codes(const std::vector<std::int8_t> &codes) {
        const auto i = info();
        detail::require(codes.size() == i.rows * i.cols, "codes are not rows * cols");
        check(dqt_tensor_set_codes(get(), 0, i.rows, codes.data()));
    }
    std::vector<float> scales() const {
        std::vector<float> result(info().num_scales);
        check(dqt_tensor_get_scales(get(), result.data()));
        return result;
    }
    void set_scales(const std::vector<float> &scales) {
        detail::require(scales.size() == info().num_scales, "scales are not num_scales");
        check(dqt_tensor_set_scales(get(), scales.data()));
    }
    // The packed bytes themselves; call touch() after writing them.
    std::pair<void *, std::size_t> data() {
        std::pair<void *, std::size_t> result{};
        check(dqt_tensor_data(get(), &result.first, &result.second));
        return result;
    }
    void touch() {
        check(dqt_tensor_touch(get()));
    }
    dqt_tensor_stats stats() const {
        auto result = DQT_INIT(dqt_tensor_stats);
        check(dqt_tensor_get_stats(get(), &result));
        return result;
    }
    void copy_from(const Tensor &source) {
        check(dqt_tensor_copy(get(), source.get()));
    }
    // A tensor of other options from the dequantised weights.
    Tensor convert(const dqt_tensor_options &o, std::int32_t rounding = DQT_ROUND_NEAREST,
                   std::uint64_t seed = 1) const {
        Tensor result(context());
        result.create({}, dqt_tensor_convert, get(), rounding, seed, &o);
        return result;
    }

  private:
    friend class Layer;
    explicit Tensor(const Context &ctx) : Object(ctx) {
    }
};

// A parameter of a layer; its tensor keeps what it belongs to alive.
struct Parameter {
    std::string name;
    std::int32_t parameter_class;
    std::size_t rows, cols;
    Tensor tensor;
};

// A layer: of the host's own, or one that belongs to a model or a block and keeps that alive.
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
        return Layer(c, {}, dqt_head_create, c.get(), static_cast<dqt_layer *>(nullptr), hidden, classes, &o);
    }
    // A head that uses the weight of an embedding.
    static Layer tied_head(const Layer &tied, std::size_t hidden, std::size_t classes,
                           const Options &o = defaults<Options>()) {
        const Context &c = tied.context();
        return Layer(c, {tied.shared()}, dqt_head_create, c.get(), tied.get(), hidden, classes, &o);
    }
    dqt_layer_info info() const {
        auto result = DQT_INIT(dqt_layer_info);
        check(dqt_layer_get_info(get(), &result));
        return result;
    }
    std::vector<Layer> sublayers() const {
        std::vector<Layer> result;
        for (std::size_t i = 0; i < info().num_sublayers; i++) {
            dqt_layer *raw = nullptr;
            check(dqt_layer_get_sublayer(get(), i, &raw));
            result.push_back(Layer(context(), raw, shared()));
        }
        return result;
    }
    std::vector<Parameter> parameters() const {
        std::vector<Parameter> result;
        for (std::size_t i = 0; i < info().num_parameters; i++) {
            auto p = DQT_INIT(dqt_parameter);
            check(dqt_layer_get_parameter(get(), i, &p));
            Tensor tensor(context());
            tensor.borrow(p.tensor, shared());
            result.push_back({p.name, p.parameter_class, p.rows, p.cols, tensor});
        }
        return result;
    }

  private:
    friend class Llama;
    Layer(const Context &ctx, dqt_layer *raw, const std::shared_ptr<void> &parent) : Object(ctx) {
        borrow(raw, parent);
    }
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
    // A Hugging Face folder or a GGUF file.
    static Llama open(const Context &ctx, const std::string &path,
                      const dqt_open_options &o = defaults<dqt_open_options>()) {
        dqt_llama *raw = nullptr;
        ctx.check(dqt_llama_open(ctx.get(), path.c_str(), &o, &raw));
        return Llama(ctx, raw);
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
    // Embedding, blocks, norm, head.
    std::vector<Layer> layer_list() const {
        std::vector<Layer> result;
        for (std::size_t i = 0; i < layers().second; i++)
            result.push_back(Layer(context(), layers().first[i], shared()));
        return result;
    }
    // What such a model would take.
    static dqt_llama_memory_info memory(const Context &ctx, const dqt_llama_config &config) {
        auto result = DQT_INIT(dqt_llama_memory_info);
        ctx.check(dqt_llama_memory(ctx.get(), &config, &result));
        return result;
    }
    // As GGUF or safetensors, to a path or through a function.
    void export_gguf(const std::string &path, const dqt_gguf_options &o = defaults<dqt_gguf_options>()) const {
        check(dqt_llama_export_gguf(get(), path.c_str(), &o));
    }
    void export_gguf(Write write, const dqt_gguf_options &o = defaults<dqt_gguf_options>()) const {
        check(dqt_llama_write_gguf(get(), detail::write, &write, &o));
    }
    using Safetensors = dqt_safetensors_options;
    void export_safetensors(const std::string &path, const Safetensors &o = defaults<Safetensors>()) const {
        check(dqt_llama_export_safetensors(get(), path.c_str(), &o));
    }
    void export_safetensors(Write write, const Safetensors &o = defaults<Safetensors>()) const {
        check(dqt_llama_write_safetensors(get(), detail::write, &write, &o));
    }
    // config.json and model.safetensors for transformers, into a folder that exists.
    void export_folder(const std::string &folder, const Safetensors &o = defaults<Safetensors>()) const {
        check(dqt_llama_export_folder(get(), folder.c_str(), &o));
    }
    void import_safetensors(const std::string &path, const dqt_import_options &o = defaults<dqt_import_options>()) {
        check(dqt_llama_import_safetensors(get(), path.c_str(), &o));
    }

  private:
    friend Checkpoint adopt(const Context &ctx, dqt_checkpoint &raw);
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
    std::size_t length = 0;             // of a sequence, where there are no tokens: for layers of floats

    // Valid as long as this, unchanged.
    dqt_batch view() const {
        auto result = DQT_INIT(dqt_batch);
        result.divisor = divisor;
        result.batch = batch;
        result.length = tokens.empty() || !batch ? length : tokens.size() / batch;
        result.tokens = part(tokens);
        result.targets = part(targets);
        result.weights = part(weights);
        result.segments = part(segments);
        return result;
    }
    std::size_t num_tokens() const {
        return tokens.empty() ? batch * length : tokens.size();
    }

  private:
    template <class T> const T *part(const std::vector<T> &values) const {
        const std::size_t count = num_tokens();
        detail::require(count && count % batch == 0, "tokens are not sequences of equal length");
        detail::require(values.empty() || values.size() == count, "a batch's vectors have different sizes");
        return values.empty() ? nullptr : values.data();
    }
};

// The gradient of a host's own loss with respect to the logits [tokens][classes]: whole, or made tile by tile, in
// place; the function is pure, for it may see a tile twice.
struct LogitsGradient {
    LogitsGradient(std::vector<float> whole) : values(std::move(whole)) {
    }
    LogitsGradient(std::function<void(const dqt_logits_tile &)> make) : function(std::move(make)) {
    }
    std::vector<float> values;
    std::function<void(const dqt_logits_tile &)> function;

    // Valid as long as this.
    dqt_logits_gradient view(std::size_t count) const {
        auto result = DQT_INIT(dqt_logits_gradient);
        if (function) {
            result.user_data = const_cast<LogitsGradient *>(this);
            result.callback = [](void *gradient, const dqt_logits_tile *tile) noexcept -> std::int32_t {
                static_cast<LogitsGradient *>(gradient)->function(*tile);
                return 0;
            };
        } else {
            detail::require(values.size() == count, "a gradient is not tokens * classes");
            result.dlogits = values.data();
        }
        return result;
    }
};

inline dqt_step_options step_options(float learning_rate, float gradient_scale = 1) {
    auto result = DQT_INIT(dqt_step_options);
    result.learning_rate = learning_rate;
    result.gradient_scale = gradient_scale;
    return result;
}

// float[rows][cols] that belongs to a tape.
struct Gradient {
    float *data;
    std::size_t rows, cols;
    std::string name;
};

class Updater;

class Tape : public Object<dqt_tape, dqt_tape_destroy> {
  public:
    explicit Tape(const Layers &layers, const dqt_tape_options &o = defaults<dqt_tape_options>())
        : Object(layers.ctx), state_(std::make_shared<State>()) {
        create(layers.parents, dqt_tape_create, layers.ctx.get(), layers.raw.data(), layers.raw.size(), &o);
    }
    // What such a tape would take.
    static dqt_tape_memory_info memory(const Layers &layers, const dqt_tape_options &o) {
        auto result = DQT_INIT(dqt_tape_memory_info);
        layers.ctx.check(dqt_tape_memory(layers.ctx.get(), layers.raw.data(), layers.raw.size(), &o, &result));
        return result;
    }
    dqt_tape_options options() const {
        auto result = DQT_INIT(dqt_tape_options);
        check(dqt_tape_get_options(get(), &result));
        return result;
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
    // Copies [rows][cols], whatever the format of the gradients.
    std::vector<float> get_gradient(std::size_t index) const {
        std::vector<float> result(parameter_size(index));
        check(dqt_tape_get_gradient(get(), index, 0, rows(index), result.data()));
        return result;
    }
    void set_gradient(std::size_t index, const std::vector<float> &values) {
        detail::require(values.size() == parameter_size(index), "a gradient is not rows * cols");
        check(dqt_tape_set_gradient(get(), index, 0, rows(index), values.data()));
    }
    // ready(index) is called inside backward when a gradient is complete; true ends backward. Empty: none.
    void on_gradient(std::function<bool(std::size_t index)> ready) {
        const auto call = [](void *state, std::size_t index) noexcept -> std::int32_t {
            return static_cast<State *>(state)->ready(index);
        };
        state_->ready = std::move(ready);
        check(dqt_tape_on_gradient(get(), state_->ready ? +call : nullptr, state_.get()));
    }
    // Calls of backward functions, see dqt_tape_get_pass.
    std::uint64_t passes() const {
        std::uint64_t result = 0;
        check(dqt_tape_get_pass(get(), &result));
        return result;
    }
    void set_passes(std::uint64_t passes) {
        check(dqt_tape_set_pass(get(), passes));
    }

    // ---- A model ----

    // Forward and mean loss of the targets; *token_losses (null: not wanted) gets each one's.
    float loss(const Llama &model, const Batch &batch, std::vector<float> *token_losses = nullptr) {
        const dqt_batch view = batch.view();
        float result = 0;
        if (token_losses) token_losses->resize(batch.num_tokens());
        check(dqt_llama_loss(model.get(), get(), &view, &result, token_losses ? token_losses->data() : nullptr));
        state_->logits = batch.num_tokens() * model.config().vocab_size;
        return result;
    }
    // Forward to logits [batch * length][vocab].
    std::vector<float> logits(const Llama &model, const Batch &batch) {
        const dqt_batch view = batch.view();
        std::vector<float> result(batch.num_tokens() * model.config().vocab_size);
        check(dqt_llama_forward(model.get(), get(), &view, result.data()));
        state_->logits = result.size();
        return result;
    }
    void backward(const Llama &model, float loss_scale = 1) {
        check(dqt_llama_backward(model.get(), get(), loss_scale));
    }
    // From a loss of the host's own.
    void backward_logits(const Llama &model, const LogitsGradient &gradient) {
        const dqt_logits_gradient view = gradient.view(state_->logits);
        check(dqt_llama_backward_logits(model.get(), get(), &view));
    }

    // ---- Layers: x, y, dx and dy are [batch * length][features] ----

    std::vector<float> forward(const Layer &layer, const Batch &batch, const std::vector<float> &x) {
        const dqt_batch view = batch.view();
        std::vector<float> y = output(layer, batch, x);
        check(dqt_layer_forward(layer.get(), get(), &view, x.data(), y.data()));
        return y;
    }
    std::vector<float> backward(const Layer &layer, const std::vector<float> &dy) {
        std::vector<float> dx = input(layer);
        detail::require(dy.size() == tokens(layer) * layer.info().out_features, "dy is not tokens * out_features");
        check(dqt_layer_backward(layer.get(), get(), dy.data(), dx.data()));
        return dx;
    }
    std::vector<float> embedding_forward(const Layer &layer, const Batch &batch) {
        const dqt_batch view = batch.view();
        std::vector<float> y(batch.num_tokens() * layer.info().out_features);
        check(dqt_embedding_forward(layer.get(), get(), &view, y.data()));
        state_->tokens[layer.get()] = batch.num_tokens();
        return y;
    }
    void embedding_backward(const Layer &layer, const std::vector<float> &dy) {
        detail::require(dy.size() == tokens(layer) * layer.info().out_features, "dy is not tokens * out_features");
        check(dqt_embedding_backward(layer.get(), get(), dy.data()));
    }
    float head_loss(const Layer &layer, const Batch &batch, const std::vector<float> &x,
                    std::vector<float> *token_losses = nullptr) {
        const dqt_batch view = batch.view();
        float result = 0;
        output(layer, batch, x);
        if (token_losses) token_losses->resize(batch.num_tokens());
        check(
            dqt_head_loss(layer.get(), get(), &view, x.data(), &result, token_losses ? token_losses->data() : nullptr));
        return result;
    }
    std::vector<float> head_logits(const Layer &layer, const Batch &batch, const std::vector<float> &x) {
        const dqt_batch view = batch.view();
        std::vector<float> y = output(layer, batch, x);
        check(dqt_head_logits(layer.get(), get(), &view, x.data(), y.data()));
        return y;
    }
    std::vector<float> head_backward(const Layer &layer, float loss_scale = 1) {
        std::vector<float> dx = input(layer);
        check(dqt_head_backward(layer.get(), get(), loss_scale, dx.data()));
        return dx;
    }
    std::vector<float> head_backward_logits(const Layer &layer, LogitsGradient gradient) {
        std::vector<float> dx = input(layer);
        auto kept = std::make_unique<LogitsGradient>(std::move(gradient));
        const dqt_logits_gradient view = kept->view(tokens(layer) * layer.info().out_features);
        check(dqt_head_backward_logits(layer.get(), get(), &view, dx.data()));
        state_->gradients[layer.get()] = std::move(kept); // a tied head's is read again by its embedding in an update
        return dx;
    }

    // From here to end_update() backward functions update the weights.
    void begin_update(Updater &updater, const dqt_step_options &o);
    dqt_step_stats end_update() {
        auto stats = DQT_INIT(dqt_step_stats);
        check(dqt_tape_end_update(get(), &stats));
        return stats;
    }
    // The same with an updater of one part, the one that it began with; exchange as in Updater::step_part.
    template <class Exchange> dqt_step_stats end_update_part(Updater &updater, const Exchange &exchange);

  private:
    struct State {
        std::size_t logits = 0;                                                 // of the latest forward of a model
        std::map<const dqt_layer *, std::size_t> tokens;                        // of each layer's latest forward
        std::map<const dqt_layer *, std::unique_ptr<LogitsGradient>> gradients; // of each head's latest backward
        std::function<bool(std::size_t)> ready;
    };
    std::size_t rows(std::size_t index) const {
        auto parameter = DQT_INIT(dqt_parameter);
        check(dqt_tape_get_parameter(get(), index, &parameter));
        return parameter.rows;
    }
    std::size_t parameter_size(std::size_t index) const {
        auto parameter = DQT_INIT(dqt_parameter);
        check(dqt_tape_get_parameter(get(), index, &parameter));
        return parameter.rows * parameter.cols;
    }
    std::size_t tokens(const Layer &layer) const {
        const auto found = state_->tokens.find(layer.get());
        detail::require(found != state_->tokens.end(), "there was no forward of this layer");
        return found->second;
    }
    // Room for what a layer makes of x, and for the gradient of x.
    std::vector<float> output(const Layer &layer, const Batch &batch, const std::vector<float> &x) {
        const auto info = layer.info();
        detail::require(x.size() == batch.num_tokens() * info.in_features, "x is not tokens * in_features");
        state_->tokens[layer.get()] = batch.num_tokens();
        return std::vector<float>(batch.num_tokens() * info.out_features);
    }
    std::vector<float> input(const Layer &layer) const {
        return std::vector<float>(tokens(layer) * layer.info().in_features);
    }
    std::shared_ptr<State> state_;
};

class Updater : public Object<dqt_updater, dqt_updater_destroy> {
  public:
    using Options = dqt_updater_options;
    explicit Updater(const Layers &layers, const Options &o = defaults<Options>()) : Object(layers.ctx) {
        create(layers.parents, dqt_updater_create, layers.ctx.get(), layers.raw.data(), layers.raw.size(), &o);
    }
    // What such an updater would take.
    static dqt_updater_memory_info memory(const Layers &layers, const Options &o) {
        auto result = DQT_INIT(dqt_updater_memory_info);
        layers.ctx.check(dqt_updater_memory(layers.ctx.get(), layers.raw.data(), layers.raw.size(), &o, &result));
        return result;
    }
    Options options() const {
        auto result = DQT_INIT(dqt_updater_options);
        check(dqt_updater_get_options(get(), &result));
        return result;
    }
    std::size_t add_group(const dqt_group_options &group) {
        std::size_t matched = 0;
        check(dqt_updater_add_group(get(), &group, &matched));
        return matched;
    }
    dqt_parameter_rule rule(std::size_t index) const {
        auto result = DQT_INIT(dqt_parameter_rule);
        check(dqt_updater_get_rule(get(), index, &result));
        return result;
    }
    // (row, count) of a parameter's rows that belong to a part.
    std::pair<std::size_t, std::size_t> part(std::size_t index, std::size_t part, std::size_t num_parts) const {
        std::pair<std::size_t, std::size_t> result{};
        check(dqt_updater_get_part(get(), index, part, num_parts, &result.first, &result.second));
        return result;
    }
    std::uint64_t steps() const {
        std::uint64_t result = 0;
        check(dqt_updater_get_step(get(), &result));
        return result;
    }
    void set_steps(std::uint64_t steps) {
        check(dqt_updater_set_step(get(), steps));
    }
    dqt_step_stats step(Tape &tape, const dqt_step_options &o) {
        auto stats = DQT_INIT(dqt_step_stats);
        check(dqt_updater_step(get(), tape.get(), &o, &stats));
        return stats;
    }
    dqt_step_stats step(Tape &tape, float learning_rate, float gradient_scale = 1) {
        return step(tape, step_options(learning_rate, gradient_scale));
    }
    // The same of an updater of one part: exchange(data, offsets) gathers all parts' bytes into data, of which part k's
    // are those from offsets[k] to offsets[k + 1]; offsets has num_parts + 1 numbers, of a partial model, whose own part
    // is number 1 of 3, 4. Where it throws the step stays open.
    template <class Exchange>
    dqt_step_stats step_part(Tape &tape, const dqt_step_options &o, const Exchange &exchange) {
        auto stats = DQT_INIT(dqt_step_stats);
        auto sums = DQT_INIT(dqt_step_sums);
        check(dqt_updater_begin_step(get(), tape.get(), &o, &sums));
        exchange_all(tape, exchange, sums, stats);
        return stats;
    }
    // Backward of the tape's latest loss and the update in one pass, for tapes without gradient buffers.
    dqt_step_stats backward_step(const Llama &model, Tape &tape, float learning_rate, float gradient_scale = 1) {
        const auto o = step_options(learning_rate, gradient_scale);
        auto stats = DQT_INIT(dqt_step_stats);
        check(dqt_llama_backward_update(model.get(), tape.get(), get(), &o, &stats));
        return stats;
    }
    // Rules and state alone.
    void write(Write write) const {
        check(dqt_updater_write(get(), detail::write, &write));
    }
    void read(Read read) {
        check(dqt_updater_read(get(), detail::read, &read));
    }
    // What the replica that saves reads through Saved::read_part; of an updater of one part.
    void write_part(Write write) const {
        check(dqt_updater_write_part(get(), detail::write, &write));
    }

  private:
    friend Checkpoint adopt(const Context &ctx, dqt_checkpoint &raw);
    friend Tape;
    template <class Exchange>
    void exchange_all(Tape &tape, const Exchange &exchange, dqt_step_sums &sums, dqt_step_stats &stats) {
        while (sums.data) {
            exchange(static_cast<unsigned char *>(sums.data), sums.offsets);
            check(dqt_updater_continue_step(get(), tape.get(), &sums, &stats));
        }
    }
    Updater(const Context &ctx, dqt_updater *raw, Parents parents) : Object(ctx) {
        own(raw, std::move(parents));
    }
};

inline void Tape::begin_update(Updater &updater, const dqt_step_options &o) {
    check(dqt_tape_begin_update(get(), updater.get(), &o));
}
template <class Exchange> dqt_step_stats Tape::end_update_part(Updater &updater, const Exchange &exchange) {
    auto stats = DQT_INIT(dqt_step_stats);
    auto sums = DQT_INIT(dqt_step_sums);
    check(dqt_tape_end_update_part(get(), &sums, &stats));
    updater.exchange_all(*this, exchange, sums, stats);
    return stats;
}

class Session : public Object<dqt_session, dqt_session_destroy> {
  public:
    explicit Session(const Llama &model, const dqt_session_options &o = defaults<dqt_session_options>())
        : Object(model.context()), model_(model.shared()), vocab_(model.config().vocab_size) {
        create({model_}, dqt_session_create, model.get(), &o);
    }
    // What such a session would take.
    static dqt_session_memory_info memory(const Llama &model, const dqt_session_options &o) {
        auto result = DQT_INIT(dqt_session_memory_info);
        model.context().check(dqt_session_memory(model.get(), &o, &result));
        return result;
    }
    dqt_session_options options() const {
        auto result = DQT_INIT(dqt_session_options);
        check(dqt_session_get_options(get(), &result));
        return result;
    }
    std::size_t length() const {
        std::size_t result = 0;
        check(dqt_session_get_length(get(), &result));
        return result;
    }
    std::size_t vocab_size() const noexcept {
        return vocab_;
    }
    // The logits after the last of the tokens.
    std::vector<float> append(const std::vector<std::int32_t> &tokens) {
        std::vector<float> logits(vocab_);
        check(dqt_session_append(get(), tokens.data(), tokens.size(), logits.data()));
        return logits;
    }
    // Appends tokens; the logarithm of the probability of each after all that is before it.
    std::vector<float> score(const std::vector<std::int32_t> &tokens) {
        std::vector<float> result(tokens.size());
        check(dqt_session_score(get(), tokens.data(), tokens.size(), result.data()));
        return result;
    }
    void truncate(std::size_t length) {
        check(dqt_session_truncate(get(), length));
    }
    // A session of its own with the same content. (A copy of this object is the same session.)
    Session fork() const {
        Session result(*this);
        result.create({model_}, dqt_session_fork, get());
        return result;
    }
    void copy_from(const Session &source) {
        check(dqt_session_copy(get(), source.get()));
    }

  private:
    std::shared_ptr<void> model_;
    std::size_t vocab_;
};

// Appends tokens[i] to sessions[i] in one pass: the logits after the last of each.
inline std::vector<std::vector<float>> append(const std::vector<Session> &sessions,
                                              const std::vector<std::vector<std::int32_t>> &tokens) {
    detail::require(!sessions.empty() && sessions.size() == tokens.size(), "as many lists of tokens as sessions");
    std::vector<std::vector<float>> logits;
    std::vector<dqt_session_step> steps(sessions.size(), DQT_INIT(dqt_session_step));
    for (const Session &session : sessions)
        logits.emplace_back(session.vocab_size());
    for (std::size_t i = 0; i < sessions.size(); i++) {
        steps[i].session = sessions[i].get();
        steps[i].tokens = tokens[i].data();
        steps[i].count = tokens[i].size();
        steps[i].logits = logits[i].data();
    }
    sessions[0].context().check(dqt_sessions_append(steps.data(), steps.size()));
    return logits;
}

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
    // Draws made so far.
    std::uint64_t draws() const {
        std::uint64_t result = 0;
        check(dqt_sampler_get_draws(get(), &result));
        return result;
    }
    void set_draws(std::uint64_t draws) {
        check(dqt_sampler_set_draws(get(), draws));
    }

  private:
    std::size_t vocab_;
};

// What a file holds beside the weights of layers.
struct Resumed {
    std::string host;
    std::uint64_t passes; // for Tape::set_passes
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
    ReadPart read_part = {};    // with an updater of one part: where the others' rows come from

    const dqt_updater *raw_updater() const {
        return updater ? updater->get() : nullptr;
    }
    dqt_save_options options() const {
        auto result = DQT_INIT(dqt_save_options);
        result.host = host.empty() ? nullptr : host.data();
        result.host_size = host.size();
        result.tape = tape ? tape->get() : nullptr;
        result.read_part = read_part ? detail::read_part : nullptr;
        result.part_user_data = const_cast<ReadPart *>(&read_part);
        return result;
    }
};

inline void save(const Llama &model, const std::string &path, const Saved &saved = {}) {
    const dqt_save_options options = saved.options();
    model.context().check(dqt_llama_save(model.get(), saved.raw_updater(), path.c_str(), &options));
}

// Writes a checkpoint through a function of the host's.
inline void save(const Llama &model, Write write, const Saved &saved = {}) {
    const dqt_save_options options = saved.options();
    model.context().check(dqt_llama_write(model.get(), saved.raw_updater(), detail::write, &write, &options));
}

// What the partial model with the embedding reads through Saved::read_part as it saves; of another partial model.
inline void write_part(const Llama &model, Write write, const Updater *updater = nullptr) {
    model.context().check(
        dqt_llama_write_part(model.get(), updater ? updater->get() : nullptr, detail::write, &write));
}

// The same of a list of layers, whose updater is of that list.
inline void save(const std::vector<Layer> &list, const std::string &path, const Saved &saved = {}) {
    const Layers layers(list);
    const dqt_save_options options = saved.options();
    layers.ctx.check(
        dqt_layers_save(layers.raw.data(), layers.raw.size(), saved.raw_updater(), path.c_str(), &options));
}
inline void save(const std::vector<Layer> &list, Write write, const Saved &saved = {}) {
    const Layers layers(list);
    const dqt_save_options options = saved.options();
    layers.ctx.check(
        dqt_layers_write(layers.raw.data(), layers.raw.size(), saved.raw_updater(), detail::write, &write, &options));
}

namespace detail {
inline std::string take_host(const Context &ctx, const dqt_checkpoint &raw) {
    const std::unique_ptr<void, std::function<void(void *)>> bytes(
        raw.host, [&](void *host) { dqt_host_bytes_free(ctx.get(), host, raw.host_size); });
    return std::string(static_cast<const char *>(raw.host), raw.host_size);
}
} // namespace detail

// What a load gave, owned.
inline Checkpoint adopt(const Context &ctx, dqt_checkpoint &raw) {
    Llama model(ctx, raw.model);
    std::unique_ptr<Updater> updater;
    if (raw.updater) updater.reset(new Updater(ctx, raw.updater, {model.shared()}));
    return {std::move(model), std::move(updater), detail::take_host(ctx, raw), raw.passes};
}

inline Checkpoint load(const Context &ctx, const std::string &path,
                       const dqt_load_options &o = defaults<dqt_load_options>()) {
    auto raw = DQT_INIT(dqt_checkpoint);
    ctx.check(dqt_llama_load(ctx.get(), path.c_str(), &o, &raw));
    return adopt(ctx, raw);
}
inline Checkpoint load(const Context &ctx, Read read, const dqt_load_options &o = defaults<dqt_load_options>()) {
    auto raw = DQT_INIT(dqt_checkpoint);
    ctx.check(dqt_llama_read(ctx.get(), detail::read, &read, &o, &raw));
    return adopt(ctx, raw);
}

// Into existing layers, of a list or a model, and their updater (null: its state is skipped).
inline Resumed load_into(const Layers &layers, Updater *updater, const std::string &path,
                         const dqt_load_options &o = defaults<dqt_load_options>()) {
    auto raw = DQT_INIT(dqt_checkpoint);
    layers.ctx.check(dqt_layers_load(layers.raw.data(), layers.raw.size(), updater ? updater->get() : nullptr,
                                     path.c_str(), &o, &raw));
    return {detail::take_host(layers.ctx, raw), raw.passes};
}
inline Resumed load_into(const Layers &layers, Updater *updater, Read read,
                         const dqt_load_options &o = defaults<dqt_load_options>()) {
    auto raw = DQT_INIT(dqt_checkpoint);
    layers.ctx.check(dqt_layers_read(layers.raw.data(), layers.raw.size(), updater ? updater->get() : nullptr,
                                     detail::read, &read, &o, &raw));
    return {detail::take_host(layers.ctx, raw), raw.passes};
}

// Copies the weights of a model or of layers into others of the same shapes.
inline void copy(const Layers &to, const Layers &from) {
    detail::require(to.raw.size() == from.raw.size(), "lists of layers of different lengths");
    to.ctx.check(dqt_layers_copy(to.raw.data(), from.raw.data(), to.raw.size()));
}

} // namespace dqt

#endif // DQT_HPP
