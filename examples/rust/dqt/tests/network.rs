//! Networks of one's own, updates inside backward, own losses, files of layers, and what the interface has beside.
use dqt::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

fn small() -> LlamaConfig {
    LlamaConfig { hidden_size: 32, intermediate_size: 48, num_layers: 1, ..Default::default() }
}

fn data() -> (Vec<i32>, Vec<i32>) {
    ((0..32).map(|i| i * 7 % 256).collect(), (0..32).map(|i| (i * 7 + 7) % 256).collect())
}

fn rate(learning_rate: f32) -> StepOptions {
    StepOptions { learning_rate, ..Default::default() }
}

fn no_clip() -> UpdaterOptions {
    UpdaterOptions { clip: sys::DQT_CLIP_NONE, ..Default::default() }
}

/// Embedding, linear and a tied head.
fn tied(ctx: &Context, seed: u64) -> Network<'_> {
    let options = LayerOptions { seed, ..Default::default() };
    let mut layers = Network::new(ctx);
    let embedding = layers.embedding("", 256, 16, &options).unwrap();
    layers.linear("middle", 16, 16, &options).unwrap();
    layers.head("", 16, 256, Some(embedding), &options).unwrap();
    layers
}

fn bytes(of: &impl Layers, updater: Option<&Updater<'_>>) -> Vec<u8> {
    let mut out = Vec::new();
    layers_write(of, &mut out, &Saved { updater, ..Default::default() }).unwrap();
    out
}

fn halve(tile: &mut LogitsTile<'_>) -> bool {
    for token in tile.tokens() {
        tile.row(token).iter_mut().for_each(|x| *x *= 0.5);
    }
    false
}

fn learn(ctx: &Context, fused: bool, tiles: bool) -> Vec<u8> {
    let layers = tied(ctx, 1);
    let options = TapeOptions { max_batch: 2, no_gradient_buffers: fused.into(), ..Default::default() };
    let (mut tape, mut updater) = (Tape::new(&layers, &options).unwrap(), Updater::new(&layers, &no_clip()).unwrap());
    let (tokens, _) = data();
    let batch = Batch { tokens: &tokens, batch: 2, ..Default::default() };
    for _ in 0..3 {
        let x = tape.embedding_forward(0, &batch).unwrap();
        let x = tape.layer_forward(1, &batch, &x).unwrap();
        let logits = tape.head_logits(2, &batch, &x).unwrap();
        let backward = |tape: &mut Tape<'_>| {
            let d = if tiles {
                tape.head_backward_tiles(2, halve)?
            } else {
                tape.head_backward_logits(2, logits.iter().map(|x| x * 0.5).collect())?
            };
            let d = tape.layer_backward(1, &d)?;
            tape.embedding_backward(0, &d)
        };
        let stats = if fused {
            updater.update(&mut tape, &rate(0.05), backward).unwrap()
        } else {
            tape.zero_gradients().unwrap();
            backward(&mut tape).unwrap();
            updater.step(&mut tape, &rate(0.05)).unwrap()
        };
        assert!(stats.flipped > 0);
    }
    bytes(&layers, Some(&updater))
}

#[test]
fn fused_is_unfused() {
    let ctx = Context::new().unwrap();
    let expected = learn(&ctx, false, false);
    for (fused, tiles) in [(false, true), (true, false), (true, true)] {
        assert!(learn(&ctx, fused, tiles) == expected, "fused {fused}, tiles {tiles}");
    }
}

#[test]
fn an_update_ends_with_its_closure() {
    let ctx = Context::new().unwrap();
    let layers = tied(&ctx, 1);
    let mut tape = Tape::new(&layers, &TapeOptions { no_gradient_buffers: 1, ..Default::default() }).unwrap();
    let mut updater = Updater::new(&layers, &no_clip()).unwrap();
    let before = bytes(&layers, None);
    let failed = updater.update(&mut tape, &rate(0.1), |tape| tape.layer_backward(1, &[0.0; 16]).map(drop));
    assert_eq!(failed.unwrap_err().status(), Status::State);
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        updater.update(&mut tape, &rate(0.1), |_| panic!("in the middle"))
    }));
    assert!(panics.is_err());
    assert_eq!(updater.steps().unwrap(), 2);
    assert_eq!(updater.update(&mut tape, &rate(0.1), |_| Ok(())).unwrap().step, 3);
    assert!(bytes(&layers, None) == before);
    let other = tied(&ctx, 1);
    let mut others = Tape::new(&other, &Default::default()).unwrap();
    assert_eq!(updater.update(&mut others, &rate(0.1), |_| Ok(())).unwrap_err().status(), Status::Argument);
    // A tied head alone: its weight waits for the embedding.
    let batch = Batch { length: 2, targets: Some(&[1, 2]), ..Default::default() };
    tape.head_loss(2, &batch, &[0.5; 32]).unwrap();
    let left = updater.update(&mut tape, &rate(0.1), |tape| tape.head_backward(2, 1.0).map(drop));
    assert_eq!(left.unwrap_err().status(), Status::State);
    assert!(bytes(&layers, None) == before);
}

#[test]
fn networks_are_described_saved_and_copied() {
    let ctx = Context::new().unwrap();
    let mut net = Network::new(&ctx);
    let options = LayerOptions::default();
    net.attention("a", 16, 2, 1, &options).unwrap();
    net.mlp("m", 16, 24, &options).unwrap();
    let block = net.block("b", 16, 24, (2, 1), &options).unwrap();
    assert_eq!(net.layer_info(block).unwrap().kind, sys::DQT_LAYER_BLOCK);
    let kinds: Vec<i32> = net.sublayer_infos(block).unwrap().iter().map(|info| info.kind).collect();
    assert_eq!(kinds, [sys::DQT_LAYER_RMSNORM, sys::DQT_LAYER_ATTENTION, sys::DQT_LAYER_RMSNORM, sys::DQT_LAYER_MLP]);
    assert!(net.parameters().unwrap().iter().any(|p| p.name == "b.attention.q" && p.rows == 16));
    assert!(net.layer_info(3).is_err() && net.linear("a\0b", 1, 1, &options).is_err());
    let named = LayerOptions { name: c"x".as_ptr(), ..options };
    assert_eq!(net.linear("", 4, 4, &named).unwrap_err().status(), Status::Argument);

    let (one, two) = (tied(&ctx, 1), tied(&ctx, 2));
    let (mut updater, mut other) = (Updater::new(&one, &no_clip()).unwrap(), Updater::new(&two, &no_clip()).unwrap());
    updater.set_steps(5).unwrap();
    let file = bytes(&one, Some(&updater));
    assert_eq!(
        layers_read(&two, Some(&mut other), &mut &file[..], &Default::default()).unwrap(),
        Resumed { host: vec![], pass: 0 }
    );
    assert!(bytes(&two, Some(&other)) == file && other.steps().unwrap() == 5);
    assert!(layers_read(&two, Some(&mut updater), &mut &file[..], &Default::default()).is_err());
    let three = tied(&ctx, 3);
    layers_copy(&three, &one).unwrap();
    assert!(bytes(&three, None) == bytes(&one, None) && layers_copy(&three, &three).is_err());
    assert!(layers_copy(&three, &net).is_err());
    let mut state = Vec::new();
    updater.write_to(&mut state).unwrap();
    other.set_steps(9).unwrap();
    other.read_from(&mut &state[..]).unwrap();
    assert_eq!(other.steps().unwrap(), 5);
}

#[test]
fn passes_of_layers_are_checked() {
    let ctx = Context::new().unwrap();
    let layers = tied(&ctx, 1);
    let mut tape = Tape::new(&layers, &Default::default()).unwrap();
    let batch = Batch { length: 2, targets: Some(&[1, 2]), ..Default::default() };
    assert_eq!(tape.layer_forward(1, &batch, &[0.0; 31]).unwrap_err().status(), Status::Shape);
    assert_eq!(tape.layer_backward(1, &[0.0; 32]).unwrap_err().status(), Status::State);
    assert_eq!(tape.embedding_forward(0, &batch).unwrap_err().status(), Status::Argument);
    tape.layer_forward(1, &batch, &[0.5; 32]).unwrap();
    assert_eq!(tape.layer_backward(1, &[0.0; 16]).unwrap_err().status(), Status::Shape);
    assert!(tape.head_loss(2, &batch, &[0.5; 32]).unwrap() > 0.0);
    assert_eq!(tape.head_backward(2, 1.0).unwrap().len(), 32);
    assert!(tape.head_backward_logits(2, vec![0.0; 3]).is_err() && tape.loss(&batch).is_err());
    assert!(tape.layer_forward(7, &batch, &[]).is_err());
    let wide = Batch { weights: Some(&[1.0]), ..batch };
    assert!(tape.head_loss(2, &wide, &[0.5; 32]).is_err());
}

#[test]
fn models_gradients_and_plans() {
    let ctx = Context::new().unwrap();
    let model = Llama::new(&ctx, &small()).unwrap();
    let (tokens, targets) = data();
    let batch = Batch { tokens: &tokens, targets: Some(&targets), ..Default::default() };
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let mut tape = Tape::new(&model, &Default::default()).unwrap();
    tape.on_gradient(Some(move |_| seen.fetch_add(1, Ordering::Relaxed) > 100)).unwrap();
    let (loss, losses) = tape.token_losses(&batch).unwrap();
    assert!((losses.iter().sum::<f32>() / 32.0 - loss).abs() < 1e-4);
    tape.backward(1.0).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), tape.num_parameters().unwrap());
    tape.on_gradient(Some(|_| true)).unwrap();
    tape.loss(&batch).unwrap();
    assert_eq!(tape.backward(1.0).unwrap_err().status(), Status::Cancelled);
    tape.on_gradient(None::<fn(usize) -> bool>).unwrap();

    tape.zero_gradients().unwrap();
    tape.set_pass(7).unwrap(); // the same random numbers twice: AUTO rounds gradients to INT8
    let logits = tape.logits(&batch).unwrap();
    tape.backward_logits(&logits.iter().map(|x| x * 0.5).collect::<Vec<_>>()).unwrap();
    let whole = tape.get_gradient(0).unwrap();
    tape.zero_gradients().unwrap();
    tape.set_pass(7).unwrap();
    tape.logits(&batch).unwrap();
    let mut sums = 0.0;
    tape.backward_tiles(|tile| {
        sums += tile.log_sum_exp(tile.tokens().start);
        assert!(tile.classes().end <= 256);
        halve(tile)
    })
    .unwrap();
    assert!(sums > 0.0 && tape.get_gradient(0).unwrap() == whole);
    tape.set_gradient(0, &vec![0.25; whole.len()]).unwrap();
    assert_eq!(tape.gradient(0).unwrap().values[3], 0.25);
    assert!(tape.set_gradient(0, &[1.0]).is_err() && tape.backward_logits(&[0.0]).is_err());

    assert!(Llama::memory(&ctx, &small()).unwrap().total > 0);
    assert!(Tape::memory(&model, &Default::default()).unwrap().gradients > 0);
    assert!(Updater::memory(&model, &Default::default()).unwrap().momentum > 0);
    assert_eq!(tape.options().unwrap().max_length, 128);
    let updater = Updater::new(&model, &Default::default()).unwrap();
    assert_eq!(updater.options().unwrap().optimizer, sys::DQT_OPTIMIZER_ADAMW);
    assert_eq!(updater.rule(0).unwrap().optimizer, sys::DQT_OPTIMIZER_ADAMW);
    assert_eq!(updater.part(0, 1, 2).unwrap(), 128..256);
    let half = UpdaterOptions { part: 1, num_parts: 2, ..Default::default() };
    assert!(Updater::memory(&model, &half).unwrap().momentum < Updater::memory(&model, &Default::default()).unwrap().momentum);
    let mut half = Updater::new(&model, &half).unwrap();
    let mut exchanges = 0;
    let step = StepOptions { learning_rate: 0.0, ..Default::default() };
    let stats = half.step_part(&mut tape, &step, |data, offsets| {
        exchanges += 1;
        assert!(offsets.len() == 3 && offsets[0] == 0 && data.len() == offsets[2]);
        Ok(())
    });
    assert!(stats.unwrap().step == 1 && exchanges == 2 && half.step(&mut tape, &step).is_err());
    parts(&ctx, &model, &step);
    let _ = ctx.cpu_features();
    assert!(version_string().starts_with("0.9") && schedule_linear(5, 0, 10, 1.0, 0.0) == 0.5);
    assert!(schedule_wsd(7, 0, 8, 1.0, 0.5, 0.25) == 0.75 && schedule_wsd(6, 0, 8, 1.0, 0.5, 0.25) == 1.0);
}

/// One file of two parts, and the update of one inside backward.
fn parts(ctx: &Context, model: &Llama<'_>, step: &StepOptions) {
    let of = |part| UpdaterOptions { part, num_parts: 2, clip: sys::DQT_CLIP_NONE, ..Default::default() };
    let (first, mut second) = (Updater::new(model, &of(0)).unwrap(), Updater::new(model, &of(1)).unwrap());
    let (mut sent, mut together, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    second.write_part_to(&mut sent).unwrap();
    let taken = std::cell::Cell::new(0);
    let read = |part: usize, buffer: &mut [u8]| {
        assert_eq!(part, 1);
        buffer.copy_from_slice(&sent[taken.get()..taken.get() + buffer.len()]);
        taken.set(taken.get() + buffer.len());
        buffer.len()
    };
    model.write_to(&mut together, &Saved { updater: Some(&first), read_part: Some(&read), ..Default::default() }).unwrap();
    let whole = UpdaterOptions { clip: sys::DQT_CLIP_NONE, ..Default::default() };
    let whole = Updater::new(model, &whole).unwrap();
    model.write_to(&mut alone, &Saved { updater: Some(&whole), ..Default::default() }).unwrap();
    assert!(together == alone && taken.get() == sent.len());
    let options = LoadOptions { part: 1, num_parts: 2, ..Default::default() };
    let loaded = Llama::read_from(ctx, &mut together.as_slice(), &options).unwrap();
    assert_eq!(loaded.take_updater().unwrap().options().unwrap().part, 1);

    let options = TapeOptions { no_gradient_buffers: 2, ..Default::default() };
    let mut tape = Tape::new(model, &options).unwrap();
    tape.loss(&Batch { tokens: &[1, 2, 3], targets: Some(&[2, 3, 4]), length: 3, ..Default::default() }).unwrap();
    let stats = second.update_part(&mut tape, step, |tape| tape.backward(1.0), |_, _| Ok(()));
    assert_eq!(stats.unwrap().step, 1);
}

/// Files with every kind of vocabulary and value.
fn vocabularies(model: &Llama<'_>, words: &[&str], folder: &std::path::Path) {
    let written = |vocabulary: &Vocabulary<'_>, keys: &[(&str, GgufValue<'_>)]| {
        let mut out = Vec::new();
        model.write_gguf(&mut out, &Default::default(), vocabulary, keys).map(|()| out)
    };
    let has = |file: &[u8], text: &[u8]| file.windows(text.len()).any(|bytes| bytes == text);
    let pieces = Vocabulary::Pieces { tokens: words, scores: Some(&[0.5; 256]), types: None };
    assert!(has(&written(&pieces, &[]).unwrap(), b"word255"));
    assert!(written(&Vocabulary::Pieces { tokens: words, scores: Some(&[0.5]), types: None }, &[]).is_err());
    let merges = ["word1 0", "word2 5"];
    let merged = Vocabulary::Merges { tokens: words, types: Some(&[1; 256]), merges: &merges, pre_tokenizer: "smollm" };
    let file = written(&merged, &[]).unwrap();
    assert!(has(&file, b"word2 5") && has(&file, b"smollm") && has(&file, b"gpt2"));

    let vocab: Vec<String> = words.iter().enumerate().map(|(i, word)| format!("\"{word}\": {i}")).collect();
    let text = format!(
        "{{\"pre_tokenizer\": {{\"type\": \"ByteLevel\"}}, \"model\": {{\"type\": \"BPE\", \"vocab\": {{{}}}, \
         \"merges\": [\"word1 0\"]}}}}",
        vocab.join(", ")
    );
    let path = folder.join("tokenizer.json");
    std::fs::write(&path, &text).unwrap();
    let by_text = written(&Vocabulary::Json { text: text.as_bytes(), pre_tokenizer: None }, &[]).unwrap();
    let by_path = written(&Vocabulary::JsonFile { path: &path, pre_tokenizer: None }, &[]).unwrap();
    assert!(by_text == by_path && has(&by_text, b"gpt-2") && has(&by_text, b"word1 0"));
    let named = Vocabulary::Json { text: text.as_bytes(), pre_tokenizer: Some("qwen2") };
    assert!(has(&written(&named, &[]).unwrap(), b"qwen2"));
    assert!(written(&Vocabulary::Json { text: b"", pre_tokenizer: None }, &[]).is_err());

    let keys = [
        ("own.u32", GgufValue::Uint32(0x3132_3334)),
        ("own.i32", GgufValue::Int32(-2)),
        ("own.f32", GgufValue::Float32(0.25)),
        ("own.bool", GgufValue::Bool(true)),
        ("general.name", GgufValue::Text("a name")),
        ("general.tags", GgufValue::Texts(&["one tag", "another"])),
        ("own.none", GgufValue::Texts(&[])),
        ("own.u64", GgufValue::Uint64(0x3132_3334_3536_3738)),
        ("own.i64", GgufValue::Int64(-3)),
        ("own.f64", GgufValue::Float64(0.1)),
    ];
    let file = written(&Vocabulary::Bytes, &keys).unwrap();
    let number = 0.1f64.to_le_bytes();
    for value in [&b"a name"[..], b"another", b"own.none", b"4321", b"87654321", &number, &[0xfd, 255, 255, 255, 255]] {
        assert!(has(&file, value), "{value:?}");
    }
    assert!(written(&Vocabulary::Bytes, &[("own.u64", GgufValue::Uint64(u64::MAX))]).is_err());
    assert!(written(&Vocabulary::Bytes, &[("own\0", GgufValue::Bool(true))]).is_err());

    let source = folder.join("source.gguf");
    model.export_gguf(&source, &Default::default(), &merged, &keys).unwrap();
    let again = written(&Vocabulary::Source(&source), &[("general.name", GgufValue::Text("other"))]).unwrap();
    assert!(has(&again, b"word2 5") && has(&again, b"one tag") && has(&again, b"other") && !has(&again, b"a name"));
    let wild = GgufOptions { source: b"x\0".as_ptr().cast(), ..Default::default() };
    assert!(model.write_gguf(&mut Vec::new(), &wild, &Vocabulary::Bytes, &[]).is_err());
}

#[test]
fn recipes_exchange_sessions_and_tensors() {
    let ctx = Context::new().unwrap();
    let wanted = PresetOptions { format: sys::DQT_FORMAT_INT4, ..Default::default() };
    let preset = Preset::get(&wanted, &small()).unwrap();
    assert!(preset.config.linear.storage == sys::DQT_FORMAT_INT4 && preset.config.hidden_size == 32);
    let model = Llama::new(&ctx, &preset.config).unwrap();
    let updater = Updater::with_groups(&model, &preset.updater, &preset.groups).unwrap();
    assert!(preset.learning_rate > 0.0 && !preset.name.is_empty());
    drop(updater);

    let folder = std::env::temp_dir().join(format!("dqt-rust-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    model.export_safetensors(folder.join("m.safetensors"), &Default::default()).unwrap();
    let again = Llama::new(&ctx, &LlamaConfig { seed: 2, ..preset.config }).unwrap();
    again.import_safetensors(folder.join("m.safetensors"), &Default::default()).unwrap();
    assert!(bytes(&again, None) == bytes(&model, None));
    let config = LlamaConfig { no_sub_norms: 1, ..preset.config };
    let plain = Llama::new(&ctx, &config).unwrap();
    let gguf = folder.join("m.gguf");
    plain.export_gguf(&gguf, &Default::default(), &Vocabulary::Bytes, &[]).unwrap();
    let opened = Llama::open(&ctx, &gguf, &Default::default()).unwrap();
    assert!(opened.config().hidden_size == 32);
    plain.export_folder(&folder, &Default::default()).unwrap();
    assert!(Llama::open(&ctx, &folder, &Default::default()).unwrap().config().hidden_size == 32);
    assert!(Llama::open(&ctx, folder.join("none"), &Default::default()).is_err());
    layers_save(&model, folder.join("m.dqt"), &Default::default()).unwrap();
    let third = Llama::new(&ctx, &LlamaConfig { seed: 3, ..preset.config }).unwrap();
    layers_load(&third, None, folder.join("m.dqt"), &Default::default()).unwrap();
    assert!(bytes(&third, None) == bytes(&model, None));
    let mut out = Vec::new();
    model.write_safetensors(&mut out, &Default::default()).unwrap();
    assert!(out == std::fs::read(folder.join("m.safetensors")).unwrap());
    let tied = Llama::new(&ctx, &LlamaConfig { tie_embeddings: 1, ..small() }).unwrap();
    tied.export_gguf(folder.join("m.gguf"), &Default::default(), &Vocabulary::Bytes, &[]).unwrap();
    let words: Vec<String> = (0..256).map(|i| format!("word{i}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    vocabularies(&tied, &words, &folder);
    std::fs::remove_dir_all(&folder).unwrap();

    let mut a = Session::new(&model, &SessionOptions { max_length: 16, ..Default::default() }).unwrap();
    a.append(&[1, 2, 3]).unwrap();
    let mut b = a.fork().unwrap();
    b.append(&[4]).unwrap();
    let mut c = Session::new(&model, &SessionOptions { max_length: 16, ..Default::default() }).unwrap();
    c.copy_from(&b).unwrap();
    assert_eq!((c.score(&[5, 6]).unwrap().len(), c.length().unwrap(), c.options().unwrap().max_length), (2, 6, 16));
    let logits = sessions_append(&mut [(&mut a, &[7, 8]), (&mut b, &[9])]).unwrap();
    assert_eq!((logits.len(), logits[0].len(), a.length().unwrap(), b.length().unwrap()), (2, 256, 5, 5));
    let mut others = Session::new(&tied, &Default::default()).unwrap();
    assert!(sessions_append(&mut [(&mut a, &[7]), (&mut others, &[9])]).is_err());
    assert!(Session::memory(&model, &Default::default()).unwrap().cache > 0);
    let mut sampler = Sampler::new(&ctx, 256, &Default::default()).unwrap();
    sampler.sample(&logits[0]).unwrap();
    assert_eq!(sampler.draws().unwrap(), 1);
    sampler.set_draws(0).unwrap();
    assert_eq!(sampler.draws().unwrap(), 0);

    let int4 = TensorOptions { storage: sys::DQT_FORMAT_INT4, ..Default::default() };
    let mut tensor = Tensor::new(&ctx, 2, 4, &int4).unwrap();
    tensor.set_codes(&[1, -8, 0, 7, 2, 3, -1, 0]).unwrap();
    tensor.set_scales(&[0.5]).unwrap();
    assert!(tensor.set_codes(&[1]).is_err() && tensor.set_scales(&[]).is_err());
    let mut copy = Tensor::new(&ctx, 2, 4, &int4).unwrap();
    copy.copy_from(&tensor).unwrap();
    assert_eq!((copy.codes().unwrap()[1], copy.scales().unwrap()[0], copy.stats().unwrap().zeros), (-8, 0.5, 2));
    assert_eq!(copy.info().unwrap().code_min, -8);
    // SAFETY: every four bits are a code.
    unsafe { copy.edit_packed(|bytes| bytes[0] = 0).unwrap() };
    assert_ne!(copy.codes().unwrap(), tensor.codes().unwrap());
    let wide = TensorOptions { storage: sys::DQT_FORMAT_F32, ..Default::default() };
    let floats = tensor.convert(&wide, sys::DQT_ROUND_NEAREST, 1).unwrap();
    assert_eq!(floats.dequantize().unwrap(), tensor.dequantize().unwrap());
}
