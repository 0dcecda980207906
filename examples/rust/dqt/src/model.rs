use crate::{sized, sys, Context, LlamaConfig, Result, StepStats, TapeOptions, UpdaterOptions};
use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A LLaMA-structured model with packed weights.
pub struct Llama<'c> {
    raw: NonNull<sys::dqt_llama>,
    ctx: &'c Context,
    weights: RwLock<()>,
}

// SAFETY: reading and writing of the weights go through the lock; the rest of a model does not change.
unsafe impl Send for Llama<'_> {}
unsafe impl Sync for Llama<'_> {}

/// A parameter's name, `DQT_CLASS_*` and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub class: i32,
    pub rows: usize,
    pub cols: usize,
}

impl Parameter {
    /// # Safety
    /// The name is a string that is alive.
    unsafe fn from_raw(raw: &sys::dqt_parameter) -> Self {
        let name = unsafe { CStr::from_ptr(raw.name) }.to_string_lossy().into_owned();
        Self { name, class: raw.parameter_class, rows: raw.rows, cols: raw.cols }
    }
}

fn empty_parameter() -> sys::dqt_parameter {
    sys::dqt_parameter {
        struct_size: size_of::<sys::dqt_parameter>() as u32,
        parameter_class: 0,
        name: std::ptr::null(),
        tensor: std::ptr::null_mut(),
        rows: 0,
        cols: 0,
    }
}

fn empty_stats() -> StepStats {
    StepStats {
        struct_size: size_of::<StepStats>() as u32,
        reserved: 0,
        gradient_norm: 0.0,
        update_rms: 0.0,
        flipped: 0,
        saturated: 0,
        quantized: 0,
        step: 0,
    }
}

impl<'c> Llama<'c> {
    pub fn new(ctx: &'c Context, config: &LlamaConfig) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is alive and the config says its size; a model has no pointers in its config.
        ctx.check(unsafe { sys::dqt_llama_create(ctx.as_raw(), &sized(config), &mut raw) })?;
        // SAFETY: a new model of this context.
        Ok(unsafe { Self::from_raw(ctx, raw) })
    }
    /// # Safety
    /// `raw` is a model of `ctx` that nobody else destroys.
    pub(crate) unsafe fn from_raw(ctx: &'c Context, raw: *mut sys::dqt_llama) -> Self {
        Self { raw: NonNull::new(raw).expect("a model"), ctx, weights: RwLock::new(()) }
    }
    /// For calls of [`sys`]; the lock is the caller's to keep.
    pub fn as_raw(&self) -> *mut sys::dqt_llama {
        self.raw.as_ptr()
    }
    pub fn context(&self) -> &'c Context {
        self.ctx
    }
    pub fn config(&self) -> LlamaConfig {
        let mut config = LlamaConfig::default();
        // SAFETY: the model is alive and the config says its size.
        let status = unsafe { sys::dqt_llama_get_config(self.as_raw(), &mut config) };
        assert_eq!(status, sys::DQT_OK);
        config
    }
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, ()> {
        self.weights.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.weights.write().unwrap_or_else(PoisonError::into_inner)
    }
    fn layers(&self) -> Result<(*const *mut sys::dqt_layer, usize)> {
        let (mut layers, mut count) = (std::ptr::null(), 0);
        // SAFETY: the model is alive; the list is its own and does not change.
        self.ctx.check(unsafe { sys::dqt_llama_layers(self.as_raw(), &mut layers, &mut count) })?;
        Ok((layers, count))
    }
    fn raw_parameters(&self) -> Result<Vec<sys::dqt_parameter>> {
        let (layers, count) = self.layers()?;
        let mut all = Vec::new();
        // SAFETY: `count` layers of the model; the structs say their sizes.
        for &layer in unsafe { std::slice::from_raw_parts(layers, count) } {
            let mut info = sys::dqt_layer_info {
                struct_size: size_of::<sys::dqt_layer_info>() as u32,
                kind: 0,
                in_: 0,
                out: 0,
                num_parameters: 0,
                num_parts: 0,
            };
            self.ctx.check(unsafe { sys::dqt_layer_get_info(layer, &mut info) })?;
            for index in 0..info.num_parameters {
                let mut parameter = empty_parameter();
                self.ctx.check(unsafe { sys::dqt_layer_parameter(layer, index, &mut parameter) })?;
                all.push(parameter);
            }
        }
        Ok(all)
    }
    /// All parameters, numbered as in tapes and updaters.
    pub fn parameters(&self) -> Result<Vec<Parameter>> {
        // SAFETY: names live as long as the model.
        Ok(self.raw_parameters()?.iter().map(|p| unsafe { Parameter::from_raw(p) }).collect())
    }
    /// A copy of the codes of parameter `index`, one byte each, `[rows][cols]`.
    pub fn codes(&self, index: usize) -> Result<Vec<i8>> {
        let all = self.raw_parameters()?;
        let Some(p) = all.get(index) else {
            return self.ctx.refuse(sys::DQT_E_ARGUMENT, format!("index is {index}; it must be below {}", all.len()));
        };
        let mut codes = vec![0; p.rows * p.cols];
        let _lock = self.read();
        // SAFETY: the tensor is the model's, and there is room for all its rows.
        self.ctx.check(unsafe { sys::dqt_tensor_get_codes(p.tensor, 0, p.rows, codes.as_mut_ptr()) })?;
        Ok(codes)
    }
}

impl Drop for Llama<'_> {
    fn drop(&mut self) {
        // SAFETY: everything made from it has borrowed it and is gone.
        unsafe { sys::dqt_llama_destroy(self.as_raw()) }
    }
}

/// Activations and gradients of one model, for one maximal batch and length.
pub struct Tape<'m> {
    raw: NonNull<sys::dqt_tape>,
    model: &'m Llama<'m>,
}

// SAFETY: what changes a tape takes &mut; the model is Sync.
unsafe impl Send for Tape<'_> {}
unsafe impl Sync for Tape<'_> {}

/// The gradient of a parameter, `[rows][cols]`, in the tape.
pub struct Gradient<'t> {
    pub parameter: Parameter,
    pub values: &'t mut [f32],
}

impl<'m> Tape<'m> {
    pub fn new(model: &'m Llama<'_>, options: &TapeOptions) -> Result<Self> {
        let (layers, count) = model.layers()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the model's own layers, and options that say their size.
        model
            .ctx
            .check(unsafe { sys::dqt_tape_create(model.ctx.as_raw(), layers, count, &sized(options), &mut raw) })?;
        Ok(Self { raw: NonNull::new(raw).expect("a tape"), model })
    }
    pub fn as_raw(&self) -> *mut sys::dqt_tape {
        self.raw.as_ptr()
    }
    fn tokens(&self, name: &str, tokens: &[i32], batch: usize, length: usize) -> Result<()> {
        if batch.checked_mul(length) == Some(tokens.len()) {
            return Ok(());
        }
        let sentence = format!("{name} has {} elements; it must have batch * length, {batch} * {length}", tokens.len());
        self.model.ctx.refuse(sys::DQT_E_SHAPE, sentence)
    }
    pub fn zero_gradients(&mut self) -> Result<()> {
        // SAFETY: the tape is alive and ours alone.
        self.model.ctx.check(unsafe { sys::dqt_tape_zero_gradients(self.as_raw()) })
    }
    /// Forward and mean cross-entropy of `tokens[batch][length]`; targets of -1 are ignored.
    pub fn loss(&mut self, tokens: &[i32], targets: &[i32], batch: usize, length: usize) -> Result<f32> {
        self.tokens("tokens", tokens, batch, length)?;
        self.tokens("targets", targets, batch, length)?;
        let mut loss = 0.0;
        let _lock = self.model.read();
        // SAFETY: slices of batch * length; the weights are locked for reading.
        self.model.ctx.check(unsafe {
            let (tokens, targets, none) = (tokens.as_ptr(), targets.as_ptr(), std::ptr::null_mut());
            sys::dqt_llama_loss(self.model.as_raw(), self.as_raw(), tokens, targets, batch, length, &mut loss, none)
        })?;
        Ok(loss)
    }
    /// Forward to logits `[batch * length][vocab]`.
    pub fn logits(&mut self, tokens: &[i32], batch: usize, length: usize) -> Result<Vec<f32>> {
        self.tokens("tokens", tokens, batch, length)?;
        let mut logits = vec![0.0; tokens.len() * self.model.config().vocab_size];
        let _lock = self.model.read();
        // SAFETY: as in loss, with room for every token's logits.
        self.model.ctx.check(unsafe {
            let (tokens, logits) = (tokens.as_ptr(), logits.as_mut_ptr());
            sys::dqt_llama_forward(self.model.as_raw(), self.as_raw(), tokens, batch, length, logits)
        })?;
        Ok(logits)
    }
    /// Backward of the latest loss, times `loss_scale`; adds to the gradients.
    pub fn backward(&mut self, loss_scale: f32) -> Result<()> {
        let _lock = self.model.read();
        // SAFETY: the weights are locked for reading.
        self.model.ctx.check(unsafe { sys::dqt_llama_backward(self.model.as_raw(), self.as_raw(), loss_scale) })
    }
    /// The gradient of parameter `index` in place: to look at, to change, to reduce over machines.
    pub fn gradient(&mut self, index: usize) -> Result<Gradient<'_>> {
        let (mut raw, mut values) = (empty_parameter(), std::ptr::null_mut());
        // SAFETY: the tape is alive, its gradients are floats [rows][cols] and borrowed with it.
        unsafe {
            self.model.ctx.check(sys::dqt_tape_parameter(self.as_raw(), index, &mut raw))?;
            self.model.ctx.check(sys::dqt_tape_gradient(self.as_raw(), index, &mut values))?;
            let values = std::slice::from_raw_parts_mut(values, raw.rows * raw.cols);
            Ok(Gradient { parameter: Parameter::from_raw(&raw), values })
        }
    }
}

impl Drop for Tape<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { sys::dqt_tape_destroy(self.as_raw()) }
    }
}

/// Rules for parameters whose name matches `pattern` (with * and ?; `None`: any) and whose class is `class` (0: any).
/// `None` keeps what holds so far.
#[derive(Debug, Clone, Default)]
pub struct Group<'a> {
    pub class: i32,
    pub pattern: Option<&'a str>,
    pub lr_factor: Option<f32>,
    pub weight_decay: Option<f32>,
    pub rounding: Option<i32>,
    /// First-moment decay; needs an updater that keeps a first moment.
    pub beta1: Option<f32>,
    /// 0 to 1; see dqt_updater_options.
    pub rounding_noise: Option<f32>,
}

/// Optimiser, rounding rule and their state: the only thing that writes a weight.
pub struct Updater<'m> {
    raw: NonNull<sys::dqt_updater>,
    model: &'m Llama<'m>,
}

// SAFETY: what changes an updater takes &mut; the model is Sync.
unsafe impl Send for Updater<'_> {}
unsafe impl Sync for Updater<'_> {}

impl<'m> Updater<'m> {
    pub fn new(model: &'m Llama<'_>, options: &UpdaterOptions) -> Result<Self> {
        let (layers, count) = model.layers()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the model's own layers, and options that say their size.
        model
            .ctx
            .check(unsafe { sys::dqt_updater_create(model.ctx.as_raw(), layers, count, &sized(options), &mut raw) })?;
        // SAFETY: a new updater of this model.
        Ok(unsafe { Self::from_raw(model, raw) })
    }
    /// # Safety
    /// `raw` is an updater of `model` that nobody else destroys.
    pub(crate) unsafe fn from_raw(model: &'m Llama<'_>, raw: *mut sys::dqt_updater) -> Self {
        Self { raw: NonNull::new(raw).expect("an updater"), model }
    }
    pub fn as_raw(&self) -> *mut sys::dqt_updater {
        self.raw.as_ptr()
    }
    /// Adds rules before the first step; returns how many parameters they are for.
    pub fn add_group(&mut self, group: &Group<'_>) -> Result<usize> {
        let pattern = match group.pattern.map(CString::new).transpose() {
            Ok(pattern) => pattern,
            Err(_) => return self.model.ctx.refuse(sys::DQT_E_ARGUMENT, "pattern has a zero byte".into()),
        };
        let mut options = sys::dqt_group_options { parameter_class: group.class, ..Default::default() };
        options.pattern = pattern.as_ref().map_or(std::ptr::null(), |p| p.as_ptr());
        options.lr_factor = group.lr_factor.unwrap_or(options.lr_factor);
        options.weight_decay = group.weight_decay.unwrap_or(options.weight_decay);
        options.rounding = group.rounding.unwrap_or(options.rounding);
        options.beta1 = group.beta1.unwrap_or(options.beta1);
        options.rounding_noise = group.rounding_noise.unwrap_or(options.rounding_noise);
        let mut matched = 0;
        // SAFETY: the pattern outlives the call.
        self.model.ctx.check(unsafe { sys::dqt_updater_add_group(self.as_raw(), &options, &mut matched) })?;
        Ok(matched)
    }
    /// One update of every weight from the gradients of a tape of the same model. Waits for others that read the weights.
    pub fn step(&mut self, tape: &mut Tape<'_>, learning_rate: f32) -> Result<StepStats> {
        self.same_model(tape)?;
        let mut stats = empty_stats();
        let _lock = self.model.write();
        // SAFETY: tape and updater are ours alone, the weights are locked for writing.
        self.model
            .ctx
            .check(unsafe { sys::dqt_updater_step(self.as_raw(), tape.as_raw(), learning_rate, &mut stats) })?;
        Ok(stats)
    }
    /// Backward of the tape's latest loss and the update in one pass, for tapes without gradient buffers.
    pub fn backward_step(&mut self, tape: &mut Tape<'_>, learning_rate: f32) -> Result<StepStats> {
        self.same_model(tape)?;
        let mut stats = empty_stats();
        let _lock = self.model.write();
        // SAFETY: as in step.
        self.model.ctx.check(unsafe {
            let model = self.model.as_raw();
            sys::dqt_llama_backward_update(model, tape.as_raw(), self.as_raw(), learning_rate, &mut stats)
        })?;
        Ok(stats)
    }
    /// The lock is one model's: a tape of another would be read unlocked.
    fn same_model(&self, tape: &Tape<'_>) -> Result<()> {
        if self.model.raw == tape.model.raw {
            return Ok(());
        }
        self.model.ctx.refuse(sys::DQT_E_ARGUMENT, "tape is another model's; it must be of the updater's".into())
    }
    pub(crate) fn model(&self) -> &Llama<'m> {
        self.model
    }
}

impl Drop for Updater<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { sys::dqt_updater_destroy(self.as_raw()) }
    }
}
