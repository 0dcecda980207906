//! What the safe crate promises, beyond the compile-fail examples in its documentation.
use dqt::{sys, Batch, Context, Group, Llama, LlamaConfig, LoadOptions, Sampler, Saved, Session, Status, StepOptions};
use dqt::{Tape, TapeOptions, Tensor, TensorOptions, Updater, UpdaterOptions};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn small() -> LlamaConfig {
    LlamaConfig { hidden_size: 32, intermediate_size: 48, num_layers: 1, ..Default::default() }
}

fn data() -> (Vec<i32>, Vec<i32>) {
    ((0..32).map(|i| 97 + i % 4).collect(), (1..33).map(|i| 97 + i % 4).collect())
}

fn pair<'a>(tokens: &'a [i32], targets: &'a [i32]) -> Batch<'a> {
    Batch { tokens, targets: Some(targets), ..Default::default() }
}

fn rate(learning_rate: f32) -> StepOptions {
    StepOptions { learning_rate, ..Default::default() }
}

fn train(model: &Llama<'_>, steps: usize) -> Vec<u32> {
    let mut tape = Tape::new(model, &Default::default()).unwrap();
    let mut updater = Updater::new(model, &Default::default()).unwrap();
    let (tokens, targets) = data();
    let step = |_| {
        tape.zero_gradients().unwrap();
        let loss = tape.loss(&pair(&tokens, &targets)).unwrap();
        tape.backward(1.0).unwrap();
        updater.step(&mut tape, &rate(0.01)).unwrap();
        loss.to_bits()
    };
    (0..steps).map(step).collect()
}

#[test]
fn everything_is_send_and_sync() {
    fn both<T: Send + Sync>() {}
    both::<Context>();
    both::<Llama>();
    both::<Tape>();
    both::<Updater>();
    both::<Session>();
    both::<Sampler>();
    both::<Tensor>();
    both::<dqt::Loaded>();
    both::<dqt::Error>();
}

#[test]
fn dropping_gives_all_memory_back() {
    let ctx = Context::new().unwrap();
    let before = ctx.allocated();
    {
        let model = Llama::new(&ctx, &small()).unwrap();
        train(&model, 2);
        let mut file = Vec::new();
        let updater = Updater::new(&model, &Default::default()).unwrap();
        let mut tape = Tape::new(&model, &Default::default()).unwrap();
        tape.set_pass(7).unwrap();
        let saved = Saved { updater: Some(&updater), host: b"host", tape: Some(&tape), ..Default::default() };
        model.write_to(&mut file, &saved).unwrap();
        let loaded = Llama::read_from(&ctx, &mut file.as_slice(), &Default::default()).unwrap();
        assert!(ctx.allocated() > before);
        assert_eq!((loaded.host(), loaded.pass()), (&b"host"[..], 7));
        let taken = loaded.take_updater();
        assert!(taken.is_some() && loaded.take_updater().is_none());
        drop(taken);
        let never_taken = Llama::read_from(&ctx, &mut file.as_slice(), &Default::default()).unwrap();
        let bare = LoadOptions { skip_updater: 1, skip_host: 1, ..Default::default() };
        let bare = Llama::read_from(&ctx, &mut file.as_slice(), &bare).unwrap();
        assert!(bare.take_updater().is_none() && bare.host().is_empty());
        assert_eq!(never_taken.into_model().parameters().unwrap(), model.parameters().unwrap());
    }
    assert_eq!(ctx.allocated(), before);
}

#[test]
fn threads_share_a_model_while_another_steps() {
    let ctx = Context::builder().num_threads(1).build().unwrap();
    let model = Llama::new(&ctx, &small()).unwrap();
    let (tokens, targets) = data();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| train(&model, 20));
        for _ in 0..2 {
            let (model, tokens, targets) = (&model, &tokens, &targets);
            scope.spawn(move || {
                let mut tape = Tape::new(model, &Default::default()).unwrap();
                let mut session = Session::new(model, &Default::default()).unwrap();
                for _ in 0..10 {
                    let loss = tape.loss(&pair(tokens, targets)).unwrap();
                    assert!(loss.is_finite() && loss < 8.0);
                    tape.backward(1.0).unwrap();
                    session.truncate(0).unwrap();
                    assert!(session.append(&tokens[..4]).unwrap().iter().all(|x| x.is_finite()));
                    assert_eq!(session.length().unwrap(), 4);
                }
            });
        }
        // Others that only read do not change what training does.
        let alone = Llama::new(&ctx, &small()).unwrap();
        assert_eq!(writer.join().unwrap(), train(&alone, 20));
        assert_eq!(model.codes(2).unwrap(), alone.codes(2).unwrap());
    });
}

#[test]
fn handles_move_between_threads() {
    let ctx = Context::new().unwrap();
    let model = Llama::new(&ctx, &small()).unwrap();
    let mut tape = Tape::new(&model, &Default::default()).unwrap();
    let (tokens, targets) = data();
    let here = tape.loss(&pair(&tokens, &targets)).unwrap();
    let there =
        std::thread::scope(|scope| scope.spawn(move || tape.loss(&pair(&tokens, &targets)).unwrap()).join().unwrap());
    assert_eq!(here, there);
}

#[test]
fn a_careless_parallel_for_does_no_harm() {
    type Careless = fn(usize, &(dyn Fn(usize) + Sync));
    let forgets: Careless = |_, _| ();
    let twice: Careless = |count, task| (0..count).chain((0..count).rev()).for_each(task);
    let in_threads: Careless = |count, task| {
        std::thread::scope(|scope| {
            for i in (0..count).chain(0..count) {
                scope.spawn(move || task(i));
            }
        });
    };
    let serial = Context::builder().num_threads(1).build().unwrap();
    let expected = train(&Llama::new(&serial, &small()).unwrap(), 3);
    for careless in [forgets, twice, in_threads] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let f = move |count: usize, task: &(dyn Fn(usize) + Sync)| {
            counted.fetch_add(1, Ordering::Relaxed);
            careless(count, task);
        };
        let ctx = Context::builder().num_threads(3).parallel_for(f).build().unwrap();
        assert_eq!(ctx.num_threads(), 3);
        assert_eq!(train(&Llama::new(&ctx, &small()).unwrap(), 3), expected);
        assert!(calls.load(Ordering::Relaxed) > 0);
    }
}

#[test]
fn mistakes_are_errors_with_sentences() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&log);
    let log_to = move |level, sentence: &str| heard.lock().unwrap().push((level, sentence.to_string()));
    let ctx = Context::builder().log(sys::DQT_LOG_WARNING, log_to).build().unwrap();
    let error = Llama::new(&ctx, &LlamaConfig { num_heads: 5, ..small() }).err().unwrap();
    assert!(!error.sentence().is_empty());
    assert_eq!(*log.lock().unwrap(), [(sys::DQT_LOG_ERROR, error.sentence().to_string())]);
    assert!(Context::builder().num_threads(-1).build().err().unwrap().sentence().contains("num_threads"));

    // Sizes that a host has overwritten are set right, those of embedded structs too.
    let mut config = LlamaConfig { struct_size: 1 << 20, ..small() };
    config.linear.struct_size = 1 << 20;
    let model = Llama::new(&ctx, &config).unwrap();
    let other = Llama::new(&ctx, &small()).unwrap();
    let mut tape = Tape::new(&model, &TapeOptions { max_batch: 1, max_length: 32, ..Default::default() }).unwrap();
    let (mut tokens, targets) = data();
    for batch in [0, 2, 3, usize::MAX] {
        let batch = Batch { batch, ..pair(&tokens, &targets) };
        assert_eq!(tape.loss(&batch).unwrap_err().status(), Status::Shape);
    }
    assert_eq!(tape.loss(&pair(&tokens, &targets[1..])).unwrap_err().status(), Status::Shape);
    let short = Batch { weights: Some(&[1.0]), ..pair(&tokens, &targets) };
    assert!(tape.loss(&short).unwrap_err().sentence().starts_with("weights has 1 elements"));
    assert_eq!(tape.loss(&Batch::default()).unwrap_err().status(), Status::Shape);
    assert_eq!(tape.backward(1.0).unwrap_err().status(), Status::State);
    tokens[7] = 999;
    let error = tape.loss(&pair(&tokens, &targets)).unwrap_err();
    assert_eq!(error.status(), Status::Argument);
    assert!(error.to_string().starts_with("DQT_E_ARGUMENT: tokens[7] is 999"), "{error}");
    let mut updater = Updater::new(&other, &Default::default()).unwrap();
    assert_eq!(updater.step(&mut tape, &rate(0.1)).unwrap_err().status(), Status::Argument);
    assert!(model.save("unused", &Saved { updater: Some(&updater), ..Default::default() }).is_err());
    assert_eq!(Llama::load(&ctx, "/no/such/file", &Default::default()).err().unwrap().status(), Status::Io);
    assert_eq!(
        Llama::read_from(&ctx, &mut &b"DQTMODEL"[..], &Default::default()).err().unwrap().status(),
        Status::Format
    );
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert_eq!(model.write_to(&mut Full, &Default::default()).unwrap_err().status(), Status::Io);
}

#[test]
fn pointers_in_options_are_refused() {
    let ctx = Context::new().unwrap();
    let one = std::ptr::without_provenance(1);
    let config = LlamaConfig { overrides: one, num_overrides: 1, ..small() };
    assert_eq!(Llama::new(&ctx, &config).err().unwrap().status(), Status::Argument);
    let model = Llama::new(&ctx, &small()).unwrap();
    let options = UpdaterOptions { groups: std::ptr::without_provenance(1), num_groups: 1, ..Default::default() };
    assert_eq!(Updater::new(&model, &options).err().unwrap().status(), Status::Argument);
}

#[test]
fn overrides_mix_formats() {
    let ctx = Context::new().unwrap();
    let int = |storage| TensorOptions { storage, ..Default::default() };
    let list = [("blocks.*", int(sys::DQT_FORMAT_INT4)), ("*.mlp.down", int(sys::DQT_FORMAT_INT8))];
    let model = Llama::with_overrides(&ctx, &small(), &list).unwrap();
    let mut file = Vec::new();
    model.write_to(&mut file, &Default::default()).unwrap();
    let loaded = Llama::read_from(&ctx, &mut file.as_slice(), &LoadOptions::default()).unwrap();
    for overrides in [model.overrides(), loaded.model().overrides()] {
        let formats: Vec<_> = overrides.iter().map(|(pattern, o)| (pattern.as_str(), o.storage)).collect();
        assert_eq!(formats, [("blocks.*", sys::DQT_FORMAT_INT4), ("*.mlp.down", sys::DQT_FORMAT_INT8)]);
    }
    assert_eq!(model.config().num_overrides, 0);
    let nothing = Llama::with_overrides(&ctx, &small(), &[("blocks.9.*", int(0))]);
    assert_eq!(nothing.err().unwrap().status(), Status::Argument);
}

#[test]
fn an_interrupt_cancels() {
    let stop = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&stop);
    let ctx = Context::builder().interrupt(move || asked.load(Ordering::Relaxed) != 0).build().unwrap();
    let model = Llama::new(&ctx, &small()).unwrap();
    let mut tape = Tape::new(&model, &Default::default()).unwrap();
    let (tokens, targets) = data();
    stop.store(1, Ordering::Relaxed);
    assert_eq!(tape.loss(&pair(&tokens, &targets)).unwrap_err().status(), Status::Cancelled);
    stop.store(0, Ordering::Relaxed);
    assert!(tape.loss(&pair(&tokens, &targets)).is_ok());
}

#[test]
fn groups_gradients_fused_steps_and_tensors() {
    let ctx = Context::new().unwrap();
    let model = Llama::new(&ctx, &small()).unwrap();
    let options = UpdaterOptions { clip: sys::DQT_CLIP_NONE, ..Default::default() };
    let freeze = |freeze| Group { freeze: Some(freeze), ..Default::default() };
    let mut updater =
        Updater::with_groups(&model, &options, &[Group { pattern: Some("*attention.k"), ..freeze(true) }]).unwrap();
    assert_eq!(updater.add_group(&Group { pattern: Some("*attention.q"), ..freeze(true) }).unwrap(), 1);
    let names: Vec<String> = model.parameters().unwrap().into_iter().map(|p| p.name).collect();
    let at = |name: &str| names.iter().position(|n| n.ends_with(name)).unwrap();
    let codes = |name| model.codes(at(name)).unwrap();
    let before = ["attention.q", "attention.k", "attention.v"].map(codes);
    let (tokens, targets) = data();
    let mut tape = Tape::new(&model, &Default::default()).unwrap();
    tape.loss(&pair(&tokens, &targets)).unwrap();
    tape.backward(1.0).unwrap();
    let gradient = tape.gradient(0).unwrap();
    assert_eq!((gradient.parameter.name.as_str(), gradient.values.len()), ("embedding", 256 * 32));
    assert!(gradient.values.iter().any(|&g| g != 0.0));
    gradient.values.fill(f32::NAN);
    assert_eq!(updater.step(&mut tape, &rate(0.05)).unwrap_err().status(), Status::Numeric);
    let mut fused = Tape::new(&model, &TapeOptions { no_gradient_buffers: 1, ..Default::default() }).unwrap();
    fused.loss(&pair(&tokens, &targets)).unwrap();
    let stats = updater.backward_step(&mut fused, &rate(0.05)).unwrap();
    assert!(stats.step == 1 && stats.flipped > 0);
    assert!(fused.gradient(0).is_err());
    assert_eq!([codes("attention.q"), codes("attention.k")], before[..2]);
    assert_ne!(codes("attention.v"), before[2]);
    assert!(model.codes(names.len()).is_err());
    assert_eq!(fused.logits(&Batch { tokens: &tokens, ..Default::default() }).unwrap().len(), 32 * 256);

    let mut tensor = Tensor::new(&ctx, 2, 4, &Default::default()).unwrap();
    tensor.quantize(&[0.5, -0.5, 0.0, 0.5, 0.5, 0.5, -0.5, 0.0], sys::DQT_ROUND_NEAREST, 0).unwrap();
    let weights = tensor.dequantize().unwrap();
    assert!(weights[0] > 0.0 && weights[1] == -weights[0] && weights[2] == 0.0);
    assert_eq!(tensor.packed().unwrap().len() % 2, 0);
    assert!(tensor.quantize(&[0.0; 7], sys::DQT_ROUND_NEAREST, 0).is_err());

    let mut greedy = Sampler::new(&ctx, 4, &dqt::SamplerOptions { temperature: 0.0, ..Default::default() }).unwrap();
    assert_eq!(greedy.sample(&[0.0, 2.0, 2.0, 1.0]).unwrap(), 1);
    assert!(greedy.sample(&[0.0; 5]).is_err());
}
