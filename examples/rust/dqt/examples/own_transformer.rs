//! The program of ../../14_own_transformer.c in Rust: a network of one's own, trained with soft targets and the update inside
//! backward, saved and resumed. The same files, byte for byte.
//! usage: cargo run --example own_transformer -- FOLDER
use dqt::{sys, Batch, Context, LayerOptions, Layers, Network, Saved, StepOptions, Tape, TapeOptions, TensorOptions};
use dqt::{Updater, UpdaterOptions};
use std::path::PathBuf;

const VOCAB: usize = 64;
const HIDDEN: usize = 32;
const BLOCKS: usize = 2;
const BATCH: usize = 2;
const LENGTH: usize = 16;
const TOKENS: usize = BATCH * LENGTH;
const STEPS: u64 = 12;
const HALF: u64 = STEPS / 2;

/// Embedding, blocks, norm and head, numbered in this order.
fn network(ctx: &Context, seed: u64) -> dqt::Result<Network<'_>> {
    let options = LayerOptions { seed, ..Default::default() };
    let wide = LayerOptions { weight: TensorOptions { storage: sys::DQT_FORMAT_INT8, ..options.weight }, ..options };
    // Of the last block: int4 with a scale for each 32 columns.
    let weight = TensorOptions {
        storage: sys::DQT_FORMAT_INT4,
        scale_axis: sys::DQT_AXIS_GROUP,
        group_size: 32,
        ..options.weight
    };
    let groups = LayerOptions { weight, ..options };
    let mut layers = Network::new(ctx);
    layers.embedding("", VOCAB, HIDDEN, &wide)?;
    for i in 0..BLOCKS {
        let options = if i + 1 == BLOCKS { &groups } else { &options };
        layers.block(&format!("blocks.{i}"), HIDDEN, 2 * HIDDEN, (4, 2), options)?;
    }
    layers.rmsnorm("", HIDDEN, &options)?;
    layers.head("", HIDDEN, VOCAB, None, &wide)?;
    Ok(layers)
}

fn tape<'m>(layers: &'m impl Layers) -> dqt::Result<Tape<'m>> {
    let options = TapeOptions {
        max_batch: BATCH,
        max_length: LENGTH,
        no_gradient_buffers: 1,
        recompute: 1,
        checkpoint_format: sys::DQT_FLOAT_BF16,
        ..Default::default()
    };
    Tape::new(layers, &options)
}

fn updater<'m>(layers: &'m impl Layers) -> dqt::Result<Updater<'m>> {
    let options = UpdaterOptions {
        momentum_state: sys::DQT_STATE_INT8,
        variance_state: sys::DQT_STATE_INT8,
        clip: sys::DQT_CLIP_PREVIOUS_NORM,
        ..Default::default()
    };
    Updater::new(layers, &options)
}

/// The soft target of a token: the one 7 further, and a little of its neighbours.
fn target(token: i32, class: usize) -> f64 {
    match (class + 2 * VOCAB - token as usize - 7) % VOCAB {
        0 => 0.9,
        1 | 63 => 0.05,
        _ => 0.0,
    }
}

/// Mean cross-entropy against the targets; the logits become its gradient.
fn soft_loss(tokens: &[i32], logits: &mut [f32]) -> f64 {
    let mut loss = 0.0;
    for (&token, row) in std::iter::zip(tokens, logits.chunks_mut(VOCAB)) {
        let mut sum = 0.0;
        for &x in row.iter() {
            sum += f64::from(x).exp();
        }
        for (class, x) in row.iter_mut().enumerate() {
            let (q, logit) = (target(token, class), f64::from(*x));
            loss += q * (sum.ln() - logit) / TOKENS as f64;
            *x = ((logit.exp() / sum - q) / TOKENS as f64) as f32;
        }
    }
    loss
}

fn train(tape: &mut Tape<'_>, updater: &mut Updater<'_>, steps: std::ops::Range<u64>) -> dqt::Result<()> {
    let head = BLOCKS + 2;
    for step in steps {
        let tokens: Vec<i32> = (0..TOKENS as u64).map(|i| ((7 * i + 3 * step) % VOCAB as u64) as i32).collect();
        let batch = Batch { tokens: &tokens, batch: BATCH, ..Default::default() };
        let mut x = tape.embedding_forward(0, &batch)?;
        for layer in 1..head {
            x = tape.layer_forward(layer, &batch, &x)?;
        }
        let mut logits = tape.head_logits(head, &batch, &x)?;
        println!("step {step:2}: loss {:.6}", soft_loss(&tokens, &mut logits));

        let learning_rate = dqt::schedule_cosine(step, 2, STEPS, 0.02, 0.1);
        updater.update(tape, &StepOptions { learning_rate, ..Default::default() }, |tape| {
            let mut d = tape.head_backward_logits(head, logits)?;
            for layer in (1..head).rev() {
                d = tape.layer_backward(layer, &d)?;
            }
            tape.embedding_backward(0, &d)
        })?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let [whole, half, resumed] = ["whole.dqt", "half.dqt", "resumed.dqt"].map(|name| folder.join(name));
    let save = |layers: &Network<'_>, tape: &Tape<'_>, updater: &Updater<'_>, path: &PathBuf, steps: u64| {
        let host = steps.to_string();
        dqt::layers_save(layers, path, &Saved { updater: Some(updater), host: host.as_bytes(), tape: Some(tape), ..Default::default() })
    };
    let ctx = Context::new()?;
    {
        let layers = network(&ctx, 1)?;
        let (mut tape, mut updater) = (tape(&layers)?, updater(&layers)?);
        train(&mut tape, &mut updater, 0..HALF)?;
        save(&layers, &tape, &updater, &half, HALF)?;
        train(&mut tape, &mut updater, HALF..STEPS)?;
        save(&layers, &tape, &updater, &whole, STEPS)?;
    }
    let layers = network(&ctx, 2)?; // other weights, which loading replaces
    let (mut tape, mut updater) = (tape(&layers)?, updater(&layers)?);
    let loaded = dqt::layers_load(&layers, Some(&mut updater), &half, &Default::default())?;
    tape.set_pass(loaded.pass)?;
    let done: u64 = std::str::from_utf8(&loaded.host)?.parse()?;
    train(&mut tape, &mut updater, done..STEPS)?;
    save(&layers, &tape, &updater, &resumed, STEPS)?;
    if std::fs::read(whole)? != std::fs::read(resumed)? {
        return Err("whole.dqt and resumed.dqt differ".into());
    }
    println!("resumed after step {done}: the same bytes");
    Ok(())
}
