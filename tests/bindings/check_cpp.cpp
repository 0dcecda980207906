// What dqt.hpp's objects promise, beyond what its example programs show. usage: check_cpp FOLDER
#include <cmath>
#include <cstdio>
#include <cstring>

#include "dqt.hpp"

namespace {

int passed = 0, failed = 0;

void check(bool condition, const char *what) {
    (condition ? passed : failed)++;
    if (!condition) std::printf("FAILED C++: %s\n", what);
}

template <class Function> bool throws(Function f) {
    try {
        f();
    } catch (const std::exception &) {
        return true;
    }
    return false;
}

dqt_llama_config small() {
    auto c = dqt::defaults<dqt_llama_config>();
    c.hidden_size = 32;
    c.intermediate_size = 48;
    c.num_layers = 1;
    return c;
}

dqt::Batch pairs() {
    dqt::Batch b;
    b.batch = 2;
    for (int i = 0; i < 32; i++) {
        b.tokens.push_back(i * 7 % 256);
        b.targets.push_back((i * 7 + 7) % 256);
    }
    return b;
}

std::string saved(const std::vector<dqt::Layer> &layers, const dqt::Updater *updater = nullptr) {
    std::string out;
    dqt::save(layers, [&](const void *bytes, std::size_t size) { out.append(static_cast<const char *>(bytes), size); },
              {updater, "", nullptr});
    return out;
}

dqt::Read reader(const std::string &text) {
    auto at = std::make_shared<std::size_t>(0);
    return [&text, at](void *buffer, std::size_t size) {
        const std::size_t n = std::min(size, text.size() - *at);
        std::memcpy(buffer, text.data() + *at, n);
        *at += n;
        return n;
    };
}

void tensors(const dqt::Context &ctx) {
    auto o = dqt::defaults<dqt_tensor_options>();
    o.storage = DQT_FORMAT_INT4;
    dqt::Tensor a(ctx, 2, 4, o), b(ctx, 2, 4, o);
    a.set_codes({1, -8, 0, 7, 2, 3, -1, 0});
    a.set_scales({0.5f});
    check(a.codes()[1] == -8 && a.dequantize()[3] == 3.5f && a.scales()[0] == 0.5f, "codes and scales");
    b.copy_from(a);
    check(b.codes() == a.codes() && a.stats().zeros == 2 && a.stats().histogram[128 + 7] == 1, "a copy and its counts");
    static_cast<unsigned char *>(a.data().first)[0] = 0;
    a.touch();
    check(a.data().second == a.info().data_bytes && a.codes() != b.codes(), "packed bytes");
    o.storage = DQT_FORMAT_INT8;
    check(b.convert(o).dequantize().size() == 8, "another format");
    check(throws([&] { a.set_codes({1}); }) && throws([&] { a.set_scales({}); }), "sizes that do not fit");
}

// Fused steps of one's own layers are backward and step, with a tied head and both kinds of own gradients.
void own_layers(const dqt::Context &ctx) {
    const auto learn = [&](bool fused, bool tiles) {
        auto to = dqt::defaults<dqt_tape_options>();
        auto uo = dqt::defaults<dqt_updater_options>();
        to.max_batch = 2;
        to.no_gradient_buffers = fused;
        uo.clip = DQT_CLIP_NONE;
        const dqt::Layer embedding = dqt::Layer::embedding(ctx, 256, 16), linear = dqt::Layer::linear(ctx, 16, 16),
                         head = dqt::Layer::tied_head(embedding, 16, 256);
        const std::vector<dqt::Layer> layers{embedding, linear, head};
        dqt::Tape tape(layers, to);
        dqt::Updater updater(layers, uo);
        const dqt::Batch batch = pairs();
        for (int step = 0; step < 3; step++) {
            const auto x = tape.forward(linear, batch, tape.embedding_forward(embedding, batch));
            auto logits = tape.head_logits(head, batch, x);
            for (float &l : logits)
                l *= 0.5f;
            if (fused)
                tape.begin_update(updater, dqt::step_options(0.05f));
            else
                tape.zero_gradients();
            auto d = tiles ? tape.head_backward_logits(head, dqt::LogitsGradient([](const dqt_logits_tile &tile) {
                                                           for (std::size_t t = 0; t < tile.num_tokens; t++)
                                                               for (std::size_t c = 0; c < tile.num_classes; c++)
                                                                   tile.logits[t * tile.ld + c] *= 0.5f;
                                                       }))
                           : tape.head_backward_logits(head, logits);
            logits.clear();
            tape.embedding_backward(embedding, tape.backward(linear, d));
            const auto stats = fused ? tape.end_update() : updater.step(tape, 0.05f);
            check(stats.flipped > 0, "a step changes codes");
        }
        return saved(layers, &updater);
    };
    const std::string expected = learn(false, false);
    check(learn(true, false) == expected && learn(true, true) == expected && learn(false, true) == expected,
          "fused is unfused, whole or by tiles");

    const std::vector<dqt::Layer> layers{dqt::Layer::block(ctx, 16, 24, 2, 1), dqt::Layer::head(ctx, 16, 8)};
    check(layers[0].sublayers().size() == 4 && layers[0].info().kind == DQT_LAYER_BLOCK &&
              layers[0].parameters().at(1).name == "block.attention.q" &&
              layers[0].parameters()[1].tensor.info().rows == 16,
          "sublayers and parameters");
    const dqt::Parameter kept = dqt::Layer::linear(ctx, 4, 6).parameters()[0];
    check(kept.tensor.codes().size() == 24, "a parameter keeps its layer");
    dqt::Tape tape(layers);
    dqt::Batch batch;
    batch.length = 3;
    batch.targets = {1, -1, 2};
    const std::vector<float> x(48, 0.1f);
    std::vector<float> losses;
    const float loss = tape.head_loss(layers[1], batch, tape.forward(layers[0], batch, x), &losses);
    check(std::isfinite(loss) && losses.size() == 3 && losses[1] == 0, "losses of a head");
    check(tape.backward(layers[0], tape.head_backward(layers[1])).size() == 48, "gradients of what entered");
    check(throws([&] { tape.forward(layers[0], batch, {1}); }) && throws([&] { tape.backward(layers[1], x); }) &&
              throws([&] { dqt::Tape(layers).head_backward(layers[1]); }),
          "sizes that do not fit, and backward without forward");
}

// An updater of one part takes less, and has steps in pieces only.
void one_part(const dqt::Llama &model, dqt::Tape &tape) {
    auto o = dqt::defaults<dqt_updater_options>();
    const auto whole = dqt::Updater::memory(model, o);
    o.part = 1;
    o.num_parts = 2;
    check(dqt::Updater::memory(model, o).momentum < whole.momentum, "a part takes less");
    dqt::Updater half(model, o);
    int exchanges = 0;
    bool begins = true;
    const auto stats = half.step_part(tape, dqt::step_options(0), [&](unsigned char *data, const std::size_t *offsets) {
        begins = begins && data && offsets[0] == 0 && offsets[1] <= offsets[2];
        exchanges++;
    });
    check(exchanges == 2 && begins && stats.step == 1, "a step of a part");
    check(throws([&] { half.step(tape, 0.01f); }), "a part has no step of all rows");

    o.part = 0;
    const dqt::Updater first(model, o), all(model);
    std::string sent, together, alone;
    const auto into = [](std::string &to) {
        return [&to](const void *bytes, std::size_t size) { to.append(static_cast<const char *>(bytes), size); };
    };
    dqt::Updater(model,
                 [&] {
                     auto second = o;
                     second.part = 1;
                     return second;
                 }())
        .write_part(into(sent));
    dqt::Saved saved;
    std::size_t taken = 0;
    saved.updater = &first;
    saved.read_part = [&](std::size_t part, void *buffer, std::size_t size) {
        taken += sent.copy(static_cast<char *>(buffer), part == 1 ? size : 0, taken);
        return size;
    };
    dqt::save(model, into(together), saved);
    dqt::Saved whole_state;
    whole_state.updater = &all;
    dqt::save(model, into(alone), whole_state);
    check(together == alone && taken == sent.size(), "a file of all parts");

    auto one = dqt::defaults<dqt_tape_options>();
    one.no_gradient_buffers = 2;
    one.max_batch = 2;
    dqt::Tape fused(model, one);
    o.clip = DQT_CLIP_NONE;
    dqt::Updater third(model, o);
    fused.loss(model, pairs());
    fused.begin_update(third, dqt::step_options(0));
    fused.backward(model);
    check(fused.end_update_part(third, [](unsigned char *, const std::size_t *) {}).step == 1, "an update of a part");
}

void models(const dqt::Context &ctx, const std::string &folder) {
    const dqt::Llama model(ctx, small());
    const auto to = dqt::defaults<dqt_tape_options>();
    dqt::Tape tape(model, [&] {
        auto o = to;
        o.max_batch = 2;
        return o;
    }());
    dqt::Updater updater(model);
    const dqt::Batch batch = pairs();
    check(model.layer_list().size() == 4 && model.layer_list()[1].info().kind == DQT_LAYER_BLOCK, "a model's layers");
    check(dqt::Llama::memory(ctx, small()).total > 0 && dqt::Tape::memory(model, to).gradients > 0 &&
              dqt::Updater::memory(model, updater.options()).momentum > 0 && tape.options().max_batch == 2,
          "memory and options");

    std::size_t ready = 0;
    tape.on_gradient([&](std::size_t) { return ++ready > 100; });
    std::vector<float> losses;
    tape.loss(model, batch, &losses);
    tape.backward(model);
    check(ready == tape.num_parameters() && losses.size() == 32 && tape.passes() == 1, "gradients are announced");
    tape.on_gradient([](std::size_t) { return true; });
    tape.loss(model, batch);
    check(throws([&] { tape.backward(model); }), "a gradient callback ends backward");
    tape.on_gradient({});
    tape.set_passes(7);
    tape.zero_gradients();
    const auto logits = tape.logits(model, batch);
    tape.backward_logits(model, logits);
    const auto gradient = tape.get_gradient(0);
    tape.set_gradient(0, std::vector<float>(gradient.size(), 0.5f));
    check(gradient.size() == 256 * 32 && tape.gradient(0).data[5] == 0.5f && tape.passes() == 8,
          "gradients go out and in");
    tape.logits(model, batch);
    check(throws([&] { tape.backward_logits(model, std::vector<float>(3)); }), "a gradient of another size");

    check(updater.rule(0).optimizer == DQT_OPTIMIZER_ADAMW && updater.part(0, 1, 2).second > 0, "rules and parts");
    one_part(model, tape);
    updater.step(tape, 0.01f);
    std::string state;
    updater.write([&](const void *bytes, std::size_t size) { state.append(static_cast<const char *>(bytes), size); });
    updater.set_steps(9);
    updater.read(reader(state));
    check(updater.steps() == 1, "an updater's state alone");
    auto no_clip = updater.options();
    no_clip.clip = DQT_CLIP_NONE;
    dqt::Updater other(model, no_clip);
    tape.loss(model, batch);
    check(other.backward_step(model, tape, 0.01f).step == 1, "a fused step");

    // Files: a model by streams, its layers into another, exports and imports.
    std::string file;
    const dqt::Write append = [&](const void *bytes, std::size_t size) {
        file.append(static_cast<const char *>(bytes), size);
    };
    dqt::save(model, append, {&updater, "host", &tape});
    const dqt::Checkpoint loaded = dqt::load(ctx, reader(file));
    check(loaded.host == "host" && loaded.updater && loaded.updater->steps() == 1, "a model from a stream");
    auto c = small();
    c.seed = 2;
    const dqt::Llama copy(ctx, c), imported(ctx, c);
    check(dqt::load_into(copy, nullptr, reader(file)).host == "host", "into existing layers");
    check(saved(copy.layer_list()) == saved(model.layer_list()), "they are the same");
    dqt::copy(imported, model);
    check(saved(imported.layer_list()) == saved(model.layer_list()), "a copy too");
    dqt::save(model.layer_list(), folder + "/layers.dqt");
    check(dqt::load_into(imported.layer_list(), nullptr, folder + "/layers.dqt").passes == 0, "layers by path");
    model.export_safetensors(folder + "/model.safetensors");
    dqt::Llama from_file(ctx, c);
    from_file.import_safetensors(folder + "/model.safetensors");
    check(saved(from_file.layer_list()) == saved(model.layer_list()), "safetensors out and in");
    for (const bool gguf : {true, false}) {
        file.clear();
        check(gguf ? throws([&] { model.export_gguf(append); }) : (model.export_safetensors(append), !file.empty()),
              "exports through a function");
    }
    c.tie_embeddings = 1;
    dqt::Llama(ctx, c).export_gguf(folder + "/model.gguf");
    c.no_sub_norms = 1;
    dqt::Llama(ctx, c).export_folder(folder);
    check(dqt::Llama::open(ctx, folder).config().vocab_size == c.vocab_size, "a folder is written and opened");
    auto exported = dqt::defaults<dqt_gguf_options>();
    std::string words,
        json = "{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"model\": {\"merges\": [\"w1 0\"], \"vocab\": {";
    for (int i = 0; i < 256; i++)
        json += (i ? ", \"w" : "\"w") + std::to_string(i) + "\": " + std::to_string(i);
    json += "}}}";
    exported.tokenizer_json = json.data();
    exported.tokenizer_json_size = json.size();
    auto key = DQT_INIT(dqt_gguf_key);
    key.key = "general.name";
    key.value_type = DQT_GGUF_VALUE_STRING;
    key.text = "a name";
    exported.keys = &key;
    exported.num_keys = 1;
    dqt::Llama(ctx, c).export_gguf(
        [&](const void *bytes, std::size_t size) { words.append(static_cast<const char *>(bytes), size); }, exported);
    check(words.find("a name") != words.npos && words.find("w255") != words.npos && words.find("gpt-2") != words.npos,
          "a GGUF file with a tokenizer.json and a key of the host's");
    auto as_int4 = dqt::defaults<dqt_open_options>();
    as_int4.linear.storage = DQT_FORMAT_INT4;
    check(dqt::Llama::open(ctx, folder + "/model.gguf", as_int4).config().linear.storage == DQT_FORMAT_INT4,
          "a GGUF file is opened");
    check(throws([&] { dqt::Llama::open(ctx, folder + "/none.gguf"); }), "and one that is not there is not");
    check(throws([&] { dqt::load(ctx, [](void *, std::size_t) -> std::size_t { throw 1; }); }), "a reader that throws");
}

void generation(const dqt::Context &ctx) {
    const dqt::Llama model(ctx, small());
    auto o = dqt::defaults<dqt_session_options>();
    o.max_length = 16;
    dqt::Session a(model, o);
    check(dqt::Session::memory(model, o).cache > 0, "memory of a session");
    a.append({1, 2, 3});
    dqt::Session b = a.fork(), same = a;
    b.append({4});
    check(a.length() == 3 && b.length() == 4 && same.get() == a.get() && a.options().max_length == 16, "a fork");
    dqt::Session d(model, o);
    d.copy_from(b);
    check(d.length() == 4 && d.score({5, 6}).size() == 2 && d.length() == 6, "a copy, and scores");
    const auto logits = dqt::append({a, b}, {{7, 8}, {9}});
    check(logits.size() == 2 && logits[1].size() == 256 && a.length() == 5 && b.length() == 5, "several in one pass");
    check(throws([&] { dqt::append({a}, {}); }), "lists that do not fit");
    dqt::Sampler sampler(ctx, 256);
    sampler.sample(logits[0]);
    check(sampler.draws() == 1, "draws");
    sampler.set_draws(0);
    check(sampler.draws() == 0, "draws are set");
}

void recipes() {
    auto o = dqt::defaults<dqt_preset_options>();
    o.format = DQT_FORMAT_INT4;
    const dqt::Preset p = dqt::preset(o);
    check(p.config.linear.storage == DQT_FORMAT_INT4 && p.preset.learning_rate > 0 && p.preset.name, "a recipe");
    check(dqt::version() == DQT_VERSION && dqt::version_string().size() > 4, "the version");
    check(dqt::schedule_linear(5, 0, 10, 1, 0) == 0.5f && dqt::schedule_cosine(0, 2, 10, 1, 0) == 0.5f, "schedules");
    check(dqt::schedule_wsd(7, 0, 8, 1, 0.5f, 0.25f) == 0.75f && dqt::schedule_wsd(6, 0, 8, 1, 0.5f, 0.25f) == 1,
          "warm-up, stable, decay");
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) return std::fprintf(stderr, "usage: check_cpp FOLDER\n"), 2;
    try {
        const dqt::Context ctx;
        tensors(ctx);
        own_layers(ctx);
        models(ctx, argv[1]);
        generation(ctx);
        recipes();
    } catch (const std::exception &error) {
        check(false, error.what());
    }
    std::printf("check_cpp: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
