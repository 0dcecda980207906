//! Safe handles over libdqt: training of language models directly in low-bit integers.
//!
//! Every handle borrows what it was made from, so the compiler keeps the library's rule: sessions, tapes and updaters before
//! the model, everything before the context. A tape cannot outlive its model:
//!
//! ```compile_fail,E0505
//! let ctx = dqt::Context::new().unwrap();
//! let model = dqt::Llama::new(&ctx, &Default::default()).unwrap();
//! let mut tape = dqt::Tape::new(&model, &Default::default()).unwrap();
//! drop(model);
//! tape.zero_gradients().unwrap();
//! ```
//!
//! nor a model its context:
//!
//! ```compile_fail,E0597
//! let model = {
//!     let ctx = dqt::Context::new().unwrap();
//!     dqt::Llama::new(&ctx, &Default::default()).unwrap()
//! };
//! model.config();
//! ```
//!
//! The same, right:
//!
//! ```no_run
//! let ctx = dqt::Context::new().unwrap();
//! let model = dqt::Llama::new(&ctx, &Default::default()).unwrap();
//! let mut tape = dqt::Tape::new(&model, &Default::default()).unwrap();
//! tape.zero_gradients().unwrap();
//! ```
//!
//! Threads: every handle is `Send` and `Sync`. What changes a handle takes `&mut`, except the weights: they belong to a model
//! or a [`Network`] that many tapes and sessions read, and sit behind a reader-writer lock which an [`Updater`] takes for
//! writing during a step, and a tape in backward during an update. So any number of threads may run forward and backward on one model, each with its own tape, while another steps.
//! The lock is not reentrant: a closure that the library calls must not use the model.
//!
//! Enumerations and options are the C interface's, re-exported from [`sys`]; `Default` gives the library's defaults. Any
//! number may stand in them: the library checks. Pointers may not: overrides of a config and groups of an updater are refused
//! there, and are arguments of [`Llama::with_overrides`], [`Updater::with_groups`] and so on.

mod context;
mod error;
mod file;
mod gguf;
mod layers;
mod model;
mod preset;
mod sample;
mod tape;
mod tensor;
mod updater;

pub use context::{Builder, Context};
pub use dqt_sys as sys;
pub use error::{Error, Result, Status};
pub use file::{layers_load, layers_read, layers_save, layers_write, Loaded, ReadPart, Resumed, Saved};
pub use gguf::{GgufValue, Vocabulary};
pub use layers::{layers_copy, Layers, List, Network, Parameter};
pub use model::{Batch, Llama};
pub use preset::Preset;
pub use sample::{sessions_append, Sampler, Session};
pub use tape::{Gradient, LogitsTile, Tape};
pub use tensor::Tensor;
pub use updater::{Group, Updater};

pub use sys::{
    dqt_gguf_options as GgufOptions, dqt_import_options as ImportOptions, dqt_layer_info as LayerInfo,
    dqt_layer_options as LayerOptions, dqt_llama_config as LlamaConfig, dqt_llama_memory_info as LlamaMemory,
    dqt_load_options as LoadOptions, dqt_open_options as OpenOptions, dqt_parameter_rule as ParameterRule,
    dqt_preset_options as PresetOptions, dqt_safetensors_options as SafetensorsOptions,
    dqt_sampler_options as SamplerOptions, dqt_session_memory_info as SessionMemory,
    dqt_session_options as SessionOptions, dqt_step_options as StepOptions, dqt_step_stats as StepStats,
    dqt_tape_memory_info as TapeMemory, dqt_tape_options as TapeOptions, dqt_tensor_info as TensorInfo,
    dqt_tensor_options as TensorOptions, dqt_tensor_stats as TensorStats, dqt_updater_memory_info as UpdaterMemory,
    dqt_updater_options as UpdaterOptions,
};

/// Learning rate at `step`: warm-up over `warmup` steps to `peak`, then a cosine to `peak * final_fraction` at `total`.
pub fn schedule_cosine(step: u64, warmup: u64, total: u64, peak: f32, final_fraction: f32) -> f32 {
    // SAFETY: a pure function.
    unsafe { sys::dqt_schedule_cosine(step, warmup, total, peak, final_fraction) }
}

/// The same with a line.
pub fn schedule_linear(step: u64, warmup: u64, total: u64, peak: f32, final_fraction: f32) -> f32 {
    // SAFETY: a pure function.
    unsafe { sys::dqt_schedule_linear(step, warmup, total, peak, final_fraction) }
}

/// The same with a line over the last steps, the fraction `decay` of all; until then it stays at `peak`.
pub fn schedule_wsd(step: u64, warmup: u64, total: u64, peak: f32, final_fraction: f32, decay: f32) -> f32 {
    // SAFETY: a pure function.
    unsafe { sys::dqt_schedule_wsd(step, warmup, total, peak, final_fraction, decay) }
}

/// The linked library's version as text, "0.9.0".
pub fn version_string() -> &'static str {
    // SAFETY: a static string.
    unsafe { std::ffi::CStr::from_ptr(sys::dqt_version_string()) }.to_str().unwrap_or_default()
}

/// The linked library's version, major * 10000 + minor * 100 + patch.
pub fn version() -> u32 {
    // SAFETY: a pure function.
    unsafe { sys::dqt_version() }
}

/// A copy of options whose sizes are right, whatever was written into them.
fn sized<T: sys::Sized32 + Copy>(options: &T) -> T {
    let mut copy = *options;
    copy.set_sizes();
    copy
}
