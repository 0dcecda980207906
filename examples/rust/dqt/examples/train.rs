//! The program of ../../binding.c in Rust, with threads and a log of its own. The same lines, the same file, byte for byte.
//! usage: cargo run --example train -- CHECKPOINT
use dqt::{sys, Batch, Context, Llama, LlamaConfig, Saved, StepOptions, Tape, TapeOptions, Updater, UpdaterOptions};
use std::sync::{Arc, Mutex};

const TEXT: &[u8] =
    b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of \
foolishness, it was the epoch of belief";
const BATCH: usize = 2;
const LENGTH: usize = 64;
const STEPS: u64 = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| std::env::temp_dir().join("rust.dqt").display().to_string());

    let log = Arc::new(Mutex::new(Vec::new()));
    let messages = Arc::clone(&log);
    let ctx = Context::builder()
        .num_threads(2)
        .parallel_for(|count, task| {
            std::thread::scope(|scope| {
                for i in 1..count {
                    scope.spawn(move || task(i));
                }
                task(0);
            });
        })
        .log(sys::DQT_LOG_WARNING, move |_level, sentence| messages.lock().unwrap().push(sentence.to_string()))
        .build()?;

    let config =
        LlamaConfig { hidden_size: 64, intermediate_size: 128, num_layers: 2, num_heads: 4, ..Default::default() };
    let model = Llama::new(&ctx, &config)?;
    let mut tape = Tape::new(&model, &TapeOptions { max_batch: BATCH, max_length: LENGTH, ..Default::default() })?;
    let mut updater = Updater::new(&model, &UpdaterOptions::default())?;

    let tokens: Vec<i32> = TEXT[..BATCH * LENGTH].iter().map(|&byte| byte.into()).collect();
    let targets: Vec<i32> = TEXT[1..=BATCH * LENGTH].iter().map(|&byte| byte.into()).collect();
    let batch = Batch { tokens: &tokens, targets: Some(&targets), batch: BATCH, ..Default::default() };
    for step in 0..STEPS {
        let learning_rate = dqt::schedule_cosine(step, 2, STEPS, 0.02, 0.1);
        tape.zero_gradients()?;
        let loss = tape.loss(&batch)?;
        tape.backward(1.0)?;
        updater.step(&mut tape, &StepOptions { learning_rate, ..Default::default() })?;
        println!("step {step:2}  loss {loss:.6}  {:08x}", loss.to_bits());
    }
    model.save(&path, &Saved { updater: Some(&updater), host: b"binding", ..Default::default() })?;

    let mut tokens = tokens.clone();
    tokens[3] = 256;
    let error = tape.loss(&Batch { tokens: &tokens, ..batch }).expect_err("256 is not a byte");
    println!("{error}");
    assert_eq!(*log.lock().unwrap(), [error.sentence()], "the log has heard of it too");
    Ok(())
}
