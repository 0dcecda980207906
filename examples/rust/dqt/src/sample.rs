use crate::layers::Layers;
use crate::{sized, sys, Context, Llama, Result, SamplerOptions, SessionMemory, SessionOptions};
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
    /// What such a session would take.
    pub fn memory(model: &Llama<'_>, options: &SessionOptions) -> Result<SessionMemory> {
        let mut memory = SessionMemory::default();
        // SAFETY: the model is alive and the options say their size.
        model.context().check(unsafe { sys::dqt_session_memory(model.as_raw(), &sized(options), &mut memory) })?;
        Ok(memory)
    }
    /// The options in effect.
    pub fn options(&self) -> Result<SessionOptions> {
        let mut options = SessionOptions::default();
        // SAFETY: the session is alive.
        self.model.context().check(unsafe { sys::dqt_session_get_options(self.raw.as_ptr(), &mut options) })?;
        Ok(options)
    }
    /// Appends tokens; the logarithm of the probability of each after all that is before it.
    pub fn score(&mut self, tokens: &[i32]) -> Result<Vec<f32>> {
        let mut log_probs = vec![0.0; tokens.len()];
        let _lock = self.model.read();
        // SAFETY: room for every token's; the weights are locked for reading.
        self.model.context().check(unsafe {
            sys::dqt_session_score(self.raw.as_ptr(), tokens.as_ptr(), tokens.len(), log_probs.as_mut_ptr())
        })?;
        Ok(log_probs)
    }
    /// A session of its own with the same content.
    pub fn fork(&self) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the session is alive and borrowed.
        self.model.context().check(unsafe { sys::dqt_session_fork(self.raw.as_ptr(), &mut raw) })?;
        Ok(Self { raw: NonNull::new(raw).expect("a session"), model: self.model })
    }
    /// Takes the content of another session of the same model.
    pub fn copy_from(&mut self, source: &Session<'_>) -> Result<()> {
        // SAFETY: ours alone, and a source that is borrowed.
        self.model.context().check(unsafe { sys::dqt_session_copy(self.raw.as_ptr(), source.raw.as_ptr()) })
    }
    /// Goes back to fewer tokens.
    pub fn truncate(&mut self, length: usize) -> Result<()> {
        // SAFETY: ours alone.
        self.model.context().check(unsafe { sys::dqt_session_truncate(self.raw.as_ptr(), length) })
    }
}

/// Appends tokens to several sessions of one model in one pass: the logits after the last of each.
pub fn sessions_append(steps: &mut [(&mut Session<'_>, &[i32])]) -> Result<Vec<Vec<f32>>> {
    let Some((first, _)) = steps.first() else { return Ok(Vec::new()) };
    let (ctx, model, vocab) = (first.model.context(), first.model.as_raw(), first.model.config().vocab_size);
    let list = first.model.list();
    if steps.iter().any(|(session, _)| session.model.as_raw() != model) {
        return ctx.refuse(sys::DQT_E_ARGUMENT, "sessions are of several models; they must be of one".into());
    }
    let mut logits = vec![vec![0.0; vocab]; steps.len()];
    let raw: Vec<_> = std::iter::zip(steps.iter(), &mut logits)
        .map(|((session, tokens), logits)| sys::dqt_session_step {
            session: session.raw.as_ptr(),
            tokens: tokens.as_ptr(),
            count: tokens.len(),
            logits: logits.as_mut_ptr(),
            ..Default::default()
        })
        .collect();
    let _lock = list.read();
    // SAFETY: different sessions, each ours alone, with room for a vocabulary of logits; the weights are locked for reading.
    ctx.check(unsafe { sys::dqt_sessions_append(raw.as_ptr(), raw.len()) })?;
    Ok(logits)
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

impl Sampler<'_> {
    /// Draws made so far.
    pub fn draws(&self) -> Result<u64> {
        let mut draws = 0;
        // SAFETY: the sampler is alive.
        self.ctx.check(unsafe { sys::dqt_sampler_get_draws(self.raw.as_ptr(), &mut draws) })?;
        Ok(draws)
    }
    pub fn set_draws(&mut self, draws: u64) -> Result<()> {
        // SAFETY: ours alone.
        self.ctx.check(unsafe { sys::dqt_sampler_set_draws(self.raw.as_ptr(), draws) })
    }
}

impl Drop for Sampler<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { sys::dqt_sampler_destroy(self.raw.as_ptr()) }
    }
}
