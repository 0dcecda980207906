use crate::{sized, sys, Context, Llama, Result, SamplerOptions, SessionOptions};
use std::ptr::NonNull;

/// Key-value cache and position of one sequence.
pub struct Session<'m> {
    raw: NonNull<sys::dqt_session>,
    model: &'m Llama<'m>,
}

// SAFETY: what changes a session takes &mut; the model is Sync.
unsafe impl Send for Session<'_> {}
unsafe impl Sync for Session<'_> {}

impl<'m> Session<'m> {
    pub fn new(model: &'m Llama<'_>, options: &SessionOptions) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the model is alive and outlives the session; the options say their size.
        model.context().check(unsafe { sys::dqt_session_create(model.as_raw(), &sized(options), &mut raw) })?;
        Ok(Self { raw: NonNull::new(raw).expect("a session"), model })
    }
    /// Appends tokens; the logits after the last one.
    pub fn append(&mut self, tokens: &[i32]) -> Result<Vec<f32>> {
        let mut logits = vec![0.0; self.model.config().vocab_size];
        let _lock = self.model.read();
        // SAFETY: room for a vocabulary of logits; the weights are locked for reading.
        self.model.context().check(unsafe {
            sys::dqt_session_append(self.raw.as_ptr(), tokens.as_ptr(), tokens.len(), logits.as_mut_ptr())
        })?;
        Ok(logits)
    }
    /// Tokens in the cache.
    pub fn length(&self) -> Result<usize> {
        let mut length = 0;
        // SAFETY: the session is alive.
        self.model.context().check(unsafe { sys::dqt_session_get_length(self.raw.as_ptr(), &mut length) })?;
        Ok(length)
    }
    /// Goes back to fewer tokens.
    pub fn truncate(&mut self, length: usize) -> Result<()> {
        // SAFETY: ours alone.
        self.model.context().check(unsafe { sys::dqt_session_truncate(self.raw.as_ptr(), length) })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { sys::dqt_session_destroy(self.raw.as_ptr()) }
    }
}

/// Draws tokens from logits.
pub struct Sampler<'c> {
    raw: NonNull<sys::dqt_sampler>,
    ctx: &'c Context,
    vocab: usize,
}

// SAFETY: drawing takes &mut.
unsafe impl Send for Sampler<'_> {}
unsafe impl Sync for Sampler<'_> {}

impl<'c> Sampler<'c> {
    pub fn new(ctx: &'c Context, vocab: usize, options: &SamplerOptions) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is alive and the options say their size.
        ctx.check(unsafe { sys::dqt_sampler_create(ctx.as_raw(), vocab, &sized(options), &mut raw) })?;
        Ok(Self { raw: NonNull::new(raw).expect("a sampler"), ctx, vocab })
    }
    pub fn sample(&mut self, logits: &[f32]) -> Result<i32> {
        if logits.len() != self.vocab {
            let sentence = format!("logits has {} elements; it must have {}", logits.len(), self.vocab);
            return self.ctx.refuse(sys::DQT_E_SHAPE, sentence);
        }
        let mut token = 0;
        // SAFETY: a vocabulary of logits.
        self.ctx.check(unsafe { sys::dqt_sampler_sample(self.raw.as_ptr(), logits.as_ptr(), &mut token) })?;
        Ok(token)
    }
}

impl Drop for Sampler<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { sys::dqt_sampler_destroy(self.raw.as_ptr()) }
    }
}
