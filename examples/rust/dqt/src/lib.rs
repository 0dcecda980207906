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
//! that many tapes and sessions read, and sit behind a reader-writer lock which an [`Updater`] takes for writing during a
//! step. So any number of threads may run forward and backward on one model, each with its own tape, while another steps.
//! The lock is not reentrant: a closure that the library calls must not use the model.
//!
//! Enumerations and options are the C interface's, re-exported from [`sys`]; `Default` gives the library's defaults. Any
//! number may stand in them: the library checks. Pointers may not: overrides of a config and groups of an updater are refused
//! there, and are arguments of [`Llama::with_overrides`] and [`Updater::with_groups`].

mod context;
mod error;
mod file;
mod model;
mod sample;
mod tensor;

pub use context::{Builder, Context};
pub use dqt_sys as sys;
pub use error::{Error, Result, Status};
pub use file::{Loaded, Saved};
pub use model::{Batch, Gradient, Group, Llama, Parameter, Tape, Updater};
pub use sample::{Sampler, Session};
pub use tensor::Tensor;

pub use sys::{
    dqt_llama_config as LlamaConfig, dqt_load_options as LoadOptions, dqt_sampler_options as SamplerOptions,
    dqt_session_options as SessionOptions, dqt_step_options as StepOptions, dqt_step_stats as StepStats,
    dqt_tape_options as TapeOptions, dqt_tensor_options as TensorOptions, dqt_updater_options as UpdaterOptions,
};

/// Learning rate at `step`: warm-up over `warmup` steps to `peak`, then a cosine to `peak * final_fraction` at `total`.
pub fn schedule_cosine(step: u64, warmup: u64, total: u64, peak: f32, final_fraction: f32) -> f32 {
    // SAFETY: a pure function.
    unsafe { sys::dqt_schedule_cosine(step, warmup, total, peak, final_fraction) }
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
