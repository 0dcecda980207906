use crate::{
    sized, sys, Context, LlamaConfig, Result, StepOptions, StepStats, TapeOptions, TensorOptions, UpdaterOptions,
};
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
}

impl Default for Batch<'_> {
    /// No tokens, of one sequence.
    fn default() -> Self {
        Self { tokens: &[], targets: None, batch: 1, weights: None, segments: None, divisor: 0.0 }
    }
}

impl Batch<'_> {
    /// The same for the library, valid as long as this.
    fn to_raw(self, ctx: &Context) -> Result<sys::dqt_batch> {
        fn part<T>(ctx: &Context, name: &str, values: Option<&[T]>, tokens: usize) -> Result<*const T> {
            match values {
                Some(values) if values.len() != tokens => {
                    let sentence = format!("{name} has {} elements; it must have {tokens}, as tokens", values.len());
                    ctx.refuse(sys::DQT_E_SHAPE, sentence)
                }
                values => Ok(values.map_or(std::ptr::null(), <[T]>::as_ptr)),
            }
        }
        let (count, batch) = (self.tokens.len(), self.batch);
        if batch == 0 || count == 0 || count % batch != 0 {
            let sentence = format!("tokens has {count} elements; it must have {batch} sequences of equal length");
            return ctx.refuse(sys::DQT_E_SHAPE, sentence);
        }
        Ok(sys::dqt_batch {
            divisor: self.divisor,
            batch,
            length: count / batch,
            tokens: self.tokens.as_ptr(),
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
            patterns.push(c_string(ctx, pattern)?);
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
        Self { raw: NonNull::new(raw).expect("a model"), ctx, weights: RwLock::new(()) }
    }
    /// For calls of [`sys`]; the lock is the caller's to keep.
    pub fn as_raw(&self) -> *mut sys::dqt_llama {
        self.raw.as_ptr()
    }
    pub fn context(&self) -> &'c Context {
        self.ctx
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
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, ()> {
        self.weights.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.weights.write().unwrap_or_else(PoisonError::into_inner)
    }
    fn layers(&self) -> Result<(*const *mut sys::dqt_layer, usize)> {
        let (mut layers, mut count) = (std::ptr::null(), 0);
        // SAFETY: the model is alive; the list is its own and does not change.
        self.ctx.check(unsafe { sys::dqt_llama_get_layers(self.as_raw(), &mut layers, &mut count) })?;
        Ok((layers, count))
    }
    fn raw_parameters(&self) -> Result<Vec<sys::dqt_parameter>> {
        let (layers, count) = self.layers()?;
        let mut all = Vec::new();
        // SAFETY: `count` layers of the model; the structs say their sizes.
        for &layer in unsafe { std::slice::from_raw_parts(layers, count) } {
            let mut info = sys::dqt_layer_info::default();
            self.ctx.check(unsafe { sys::dqt_layer_get_info(layer, &mut info) })?;
            for index in 0..info.num_parameters {
                let mut parameter = sys::dqt_parameter::default();
                self.ctx.check(unsafe { sys::dqt_layer_get_parameter(layer, index, &mut parameter) })?;
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
    pub fn zero_gradients(&mut self) -> Result<()> {
        // SAFETY: the tape is alive and ours alone.
        self.model.ctx.check(unsafe { sys::dqt_tape_zero_gradients(self.as_raw()) })
    }
    /// Forward and mean cross-entropy of the targets.
    pub fn loss(&mut self, batch: &Batch<'_>) -> Result<f32> {
        let raw = batch.to_raw(self.model.ctx)?;
        let mut loss = 0.0;
        let _lock = self.model.read();
        // SAFETY: slices of batch * length; the weights are locked for reading.
        self.model.ctx.check(unsafe {
            sys::dqt_llama_loss(self.model.as_raw(), self.as_raw(), &raw, &mut loss, std::ptr::null_mut())
        })?;
        Ok(loss)
    }
    /// Forward to logits `[batch * length][vocab]`.
    pub fn logits(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let raw = batch.to_raw(self.model.ctx)?;
        let mut logits = vec![0.0; batch.tokens.len() * self.model.config().vocab_size];
        let _lock = self.model.read();
        // SAFETY: as in loss, with room for every token's logits.
        self.model
            .ctx
            .check(unsafe { sys::dqt_llama_forward(self.model.as_raw(), self.as_raw(), &raw, logits.as_mut_ptr()) })?;
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
        let (mut raw, mut values) = (sys::dqt_parameter::default(), std::ptr::null_mut());
        // SAFETY: the tape is alive, its gradients are floats [rows][cols] and borrowed with it.
        unsafe {
            self.model.ctx.check(sys::dqt_tape_get_parameter(self.as_raw(), index, &mut raw))?;
            self.model.ctx.check(sys::dqt_tape_gradient_data(self.as_raw(), index, &mut values))?;
            let values = std::slice::from_raw_parts_mut(values, raw.rows * raw.cols);
            Ok(Gradient { parameter: Parameter::from_raw(&raw), values })
        }
    }
    /// Backward passes done, which the rounding of gradients of few bits depends on.
    pub fn pass(&self) -> Result<u64> {
        let mut pass = 0;
        // SAFETY: the tape is alive.
        self.model.ctx.check(unsafe { sys::dqt_tape_get_pass(self.as_raw(), &mut pass) })?;
        Ok(pass)
    }
    /// Goes on where the tape of a checkpoint was.
    pub fn set_pass(&mut self, pass: u64) -> Result<()> {
        // SAFETY: the tape is alive and ours alone.
        self.model.ctx.check(unsafe { sys::dqt_tape_set_pass(self.as_raw(), pass) })
    }
}

impl Drop for Tape<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { sys::dqt_tape_destroy(self.as_raw()) }
    }
}

/// Rules for parameters whose name matches `pattern` (with * and ?; `None`: any) and whose class is `class` (0: any).
/// What is 0 or `None` keeps what holds so far; see dqt_group_options.
#[derive(Debug, Clone, Default)]
pub struct Group<'a> {
    pub class: i32,
    pub pattern: Option<&'a str>,
    /// `DQT_OPTIMIZER_*`; only where an updater is created.
    pub optimizer: i32,
    pub rounding: i32,
    pub lr_factor: f32,
    /// Negative: none.
    pub weight_decay: f32,
    pub beta1: f32,
    pub rounding_noise: f32,
    /// Whether these parameters stay as they are.
    pub freeze: Option<bool>,
}

impl Group<'_> {
    fn pattern(&self, ctx: &Context) -> Result<Option<CString>> {
        self.pattern.map(|pattern| c_string(ctx, pattern)).transpose()
    }
    fn to_raw(&self, pattern: &Option<CString>) -> sys::dqt_group_options {
        sys::dqt_group_options {
            parameter_class: self.class,
            pattern: pattern.as_ref().map_or(std::ptr::null(), |p| p.as_ptr()),
            optimizer: self.optimizer,
            rounding: self.rounding,
            lr_factor: self.lr_factor,
            weight_decay: self.weight_decay,
            beta1: self.beta1,
            rounding_noise: self.rounding_noise,
            freeze: self.freeze.map_or(0, |freeze| if freeze { 1 } else { -1 }),
            ..Default::default()
        }
    }
}

fn c_string(ctx: &Context, pattern: &str) -> Result<CString> {
    CString::new(pattern).or_else(|_| ctx.refuse(sys::DQT_E_ARGUMENT, "pattern has a zero byte".into()))
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
        Self::with_groups(model, options, &[])
    }
    /// With groups that hold from the first step on; they may differ in the optimiser. A later one wins.
    pub fn with_groups(model: &'m Llama<'_>, options: &UpdaterOptions, groups: &[Group<'_>]) -> Result<Self> {
        let ctx = model.ctx;
        if !options.groups.is_null() || options.num_groups != 0 {
            return ctx.refuse(sys::DQT_E_ARGUMENT, "options has groups; they are an argument of their own".into());
        }
        let mut patterns = Vec::new();
        for group in groups {
            patterns.push(group.pattern(ctx)?);
        }
        let raw_groups: Vec<_> = std::iter::zip(groups, &patterns).map(|(g, pattern)| g.to_raw(pattern)).collect();
        let mut options = sized(options);
        if !raw_groups.is_empty() {
            options.groups = raw_groups.as_ptr();
            options.num_groups = raw_groups.len();
        }
        let (layers, count) = model.layers()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the model's own layers, options that say their size, and groups that outlive the call.
        ctx.check(unsafe { sys::dqt_updater_create(ctx.as_raw(), layers, count, &options, &mut raw) })?;
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
    /// Adds rules that hold from the next step on; returns how many parameters they are for.
    pub fn add_group(&mut self, group: &Group<'_>) -> Result<usize> {
        let pattern = group.pattern(self.model.ctx)?;
        let mut matched = 0;
        // SAFETY: the pattern outlives the call.
        self.model
            .ctx
            .check(unsafe { sys::dqt_updater_add_group(self.as_raw(), &group.to_raw(&pattern), &mut matched) })?;
        Ok(matched)
    }
    /// One update of every weight from the gradients of a tape of the same model. Waits for others that read the weights.
    pub fn step(&mut self, tape: &mut Tape<'_>, options: &StepOptions) -> Result<StepStats> {
        self.same_model(tape)?;
        let mut stats = StepStats::default();
        let _lock = self.model.write();
        // SAFETY: tape and updater are ours alone, the weights are locked for writing.
        self.model
            .ctx
            .check(unsafe { sys::dqt_updater_step(self.as_raw(), tape.as_raw(), &sized(options), &mut stats) })?;
        Ok(stats)
    }
    /// Backward of the tape's latest loss and the update in one pass, for tapes without gradient buffers.
    pub fn backward_step(&mut self, tape: &mut Tape<'_>, options: &StepOptions) -> Result<StepStats> {
        self.same_model(tape)?;
        let mut stats = StepStats::default();
        let _lock = self.model.write();
        // SAFETY: as in step.
        self.model.ctx.check(unsafe {
            let model = self.model.as_raw();
            sys::dqt_llama_backward_update(model, tape.as_raw(), self.as_raw(), &sized(options), &mut stats)
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
