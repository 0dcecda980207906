use crate::file::c_string;
use crate::layers::{Layers, List};
use crate::{sized, sys, Context, LlamaConfig, LlamaMemory, Result, TensorOptions};
use std::ffi::CStr;
use std::ptr::NonNull;

/// A LLaMA-structured model with packed weights: embedding, blocks, norm and head are the layers of its list.
pub struct Llama<'c> {
    list: List<'c>,
}

impl Layers for Llama<'_> {
    fn list(&self) -> &List<'_> {
        &self.list
    }
}

impl<'c> std::ops::Deref for Llama<'c> {
    type Target = List<'c>;
    fn deref(&self) -> &List<'c> {
        &self.list
    }
}

/// What a pass runs on: `batch` sequences of equal length, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// `[batch][length]`
    pub tokens: &'a [i32],
    /// Of each token; -1: ignored. `None`: no loss.
    pub targets: Option<&'a [i32]>,
    pub batch: usize,
    /// Factors of the targets' losses.
    pub weights: Option<&'a [f32]>,
    /// Document ids: attention stays inside a run of equal ids.
    pub segments: Option<&'a [i32]>,
    /// Of the sum of losses; 0: the weights' sum, or the number of targets.
    pub divisor: f64,
    /// Of a sequence, where there are no tokens: for layers of floats.
    pub length: usize,
}

impl Default for Batch<'_> {
    /// No tokens, of one sequence.
    fn default() -> Self {
        Self { tokens: &[], targets: None, batch: 1, weights: None, segments: None, divisor: 0.0, length: 0 }
    }
}

impl Batch<'_> {
    /// The same for the library, valid as long as this.
    pub(crate) fn to_raw(self, ctx: &Context) -> Result<sys::dqt_batch> {
        fn part<T>(ctx: &Context, name: &str, values: Option<&[T]>, tokens: usize) -> Result<*const T> {
            match values {
                Some(values) if values.len() != tokens => {
                    let sentence = format!("{name} has {} elements; it must have {tokens}, as tokens", values.len());
                    ctx.refuse(sys::DQT_E_SHAPE, sentence)
                }
                values => Ok(values.map_or(std::ptr::null(), <[T]>::as_ptr)),
            }
        }
        let batch = self.batch;
        let count = if self.tokens.is_empty() { batch.saturating_mul(self.length) } else { self.tokens.len() };
        if batch == 0 || count == 0 || count % batch != 0 {
            let sentence = format!("tokens has {count} elements; it must have {batch} sequences of equal length");
            return ctx.refuse(sys::DQT_E_SHAPE, sentence);
        }
        Ok(sys::dqt_batch {
            divisor: self.divisor,
            batch,
            length: count / batch,
            tokens: part(ctx, "tokens", Some(self.tokens).filter(|t| !t.is_empty()), count)?,
            targets: part(ctx, "targets", self.targets, count)?,
            weights: part(ctx, "weights", self.weights, count)?,
            segments: part(ctx, "segments", self.segments, count)?,
            ..Default::default()
        })
    }
}

impl<'c> Llama<'c> {
    pub fn new(ctx: &'c Context, config: &LlamaConfig) -> Result<Self> {
        Self::with_overrides(ctx, config, &[])
    }
    /// With other options for the parameters whose names match a pattern (with * and ?); a later one wins.
    pub fn with_overrides(ctx: &'c Context, config: &LlamaConfig, overrides: &[(&str, TensorOptions)]) -> Result<Self> {
        if !config.overrides.is_null() || config.num_overrides != 0 {
            return ctx.refuse(sys::DQT_E_ARGUMENT, "config has overrides; they are an argument of their own".into());
        }
        let mut patterns = Vec::new();
        for (pattern, _) in overrides {
            patterns.push(c_string(ctx, "pattern", pattern)?);
        }
        let raw_overrides: Vec<_> = std::iter::zip(&patterns, overrides)
            .map(|(pattern, (_, o))| sys::dqt_tensor_override { pattern: pattern.as_ptr(), options: sized(o) })
            .collect();
        let mut config = sized(config);
        if !raw_overrides.is_empty() {
            config.overrides = raw_overrides.as_ptr();
            config.num_overrides = raw_overrides.len();
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is alive, the config says its size, and the overrides outlive the call, which copies them.
        ctx.check(unsafe { sys::dqt_llama_create(ctx.as_raw(), &config, &mut raw) })?;
        // SAFETY: a new model of this context.
        Ok(unsafe { Self::from_raw(ctx, raw) })
    }
    /// # Safety
    /// `raw` is a model of `ctx` that nobody else destroys.
    pub(crate) unsafe fn from_raw(ctx: &'c Context, raw: *mut sys::dqt_llama) -> Self {
        let mut list = List::new(ctx, raw);
        let (mut layers, mut count) = (std::ptr::null(), 0);
        // SAFETY: the model is alive; the list is its own and does not change.
        unsafe {
            let status = sys::dqt_llama_get_layers(raw, &mut layers, &mut count);
            assert_eq!(status, sys::DQT_OK);
            let layers = std::slice::from_raw_parts(layers, count);
            list.layers = layers.iter().map(|&layer| NonNull::new(layer).expect("a layer")).collect();
        }
        Self { list }
    }
    /// What such a model would take, without overrides.
    pub fn memory(ctx: &Context, config: &LlamaConfig) -> Result<LlamaMemory> {
        let mut memory = LlamaMemory::default();
        let config = LlamaConfig { overrides: std::ptr::null(), num_overrides: 0, ..sized(config) };
        // SAFETY: the context is alive and the structs say their sizes.
        ctx.check(unsafe { sys::dqt_llama_memory(ctx.as_raw(), &config, &mut memory) })?;
        Ok(memory)
    }
    /// For calls of [`sys`]; the lock is the caller's to keep.
    pub fn as_raw(&self) -> *mut sys::dqt_llama {
        self.list.model
    }
    /// The overrides in effect.
    pub fn overrides(&self) -> Vec<(String, TensorOptions)> {
        let mut config = LlamaConfig::default();
        // SAFETY: the model is alive and the config says its size.
        let status = unsafe { sys::dqt_llama_get_config(self.as_raw(), &mut config) };
        assert_eq!(status, sys::DQT_OK);
        // SAFETY: the list and its patterns are the model's, which is alive; index is below its length.
        let one = |index| unsafe {
            let o = *config.overrides.add(index);
            (CStr::from_ptr(o.pattern).to_string_lossy().into_owned(), o.options)
        };
        (0..config.num_overrides).map(one).collect()
    }
    /// The config in effect, without [`overrides`](Self::overrides).
    pub fn config(&self) -> LlamaConfig {
        let mut config = LlamaConfig::default();
        // SAFETY: the model is alive and the config says its size.
        let status = unsafe { sys::dqt_llama_get_config(self.as_raw(), &mut config) };
        assert_eq!(status, sys::DQT_OK);
        LlamaConfig { overrides: std::ptr::null(), num_overrides: 0, ..config }
    }
}

impl Drop for Llama<'_> {
    fn drop(&mut self) {
        // SAFETY: everything made from it has borrowed it and is gone.
        unsafe { sys::dqt_llama_destroy(self.as_raw()) }
    }
}
