use crate::layers::{Layers, List, Parameter};
use crate::{sized, sys, Batch, Context, Result, TapeMemory, TapeOptions};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

/// Activations and gradients of a model or a network, for one maximal batch and length.
pub struct Tape<'m> {
    raw: NonNull<sys::dqt_tape>,
    pub(crate) list: &'m List<'m>,
    /// Tokens of each layer's latest forward, and of a model's; 0: none.
    tokens: Vec<usize>,
    model_tokens: usize,
    /// Whether backward writes weights: inside [`Updater::update`](crate::Updater::update).
    pub(crate) updating: bool,
    /// Of each layer, what its latest backward got: see [`OwnGradient`].
    gradients: Vec<Option<OwnGradient<'m>>>,
    ready: Option<Box<Ready<'m>>>,
}

type Ready<'m> = Box<dyn FnMut(usize) -> bool + Send + 'm>;
type Make<'m> = dyn FnMut(&mut LogitsTile<'_>) -> bool + Send + 'm;

/// What goes backward from a head; a tied head's is read again by its embedding in an update.
enum OwnGradient<'m> {
    Whole(Vec<f32>),
    Tiles(Box<Box<Make<'m>>>),
}

// SAFETY: what changes a tape takes &mut; the layers are Sync and the closures Send.
unsafe impl Send for Tape<'_> {}
unsafe impl Sync for Tape<'_> {}

/// The gradient of a parameter, `[rows][cols]`, in the tape.
pub struct Gradient<'t> {
    pub parameter: Parameter,
    pub values: &'t mut [f32],
}

/// A tile of logits, which a loss of the host's own turns into their gradient, in place.
pub struct LogitsTile<'t> {
    raw: &'t sys::dqt_logits_tile,
}

impl LogitsTile<'_> {
    /// Of the pass's `batch * length`.
    pub fn tokens(&self) -> std::ops::Range<usize> {
        self.raw.first_token..self.raw.first_token + self.raw.num_tokens
    }
    pub fn classes(&self) -> std::ops::Range<usize> {
        self.raw.first_class..self.raw.first_class + self.raw.num_classes
    }
    /// The logits of one of [`Self::tokens`], of [`Self::classes`].
    pub fn row(&mut self, token: usize) -> &mut [f32] {
        assert!(self.tokens().contains(&token));
        let at = (token - self.raw.first_token) * self.raw.ld;
        // SAFETY: the tile has num_classes floats at each multiple of ld, borrowed with it.
        unsafe { std::slice::from_raw_parts_mut(self.raw.logits.add(at), self.raw.num_classes) }
    }
    /// Over all classes of one of [`Self::tokens`].
    pub fn log_sum_exp(&self, token: usize) -> f32 {
        assert!(self.tokens().contains(&token));
        // SAFETY: one for each token.
        unsafe { *self.raw.log_sum_exp.add(token - self.raw.first_token) }
    }
}

unsafe extern "C" fn make_tile(user_data: *mut c_void, tile: *const sys::dqt_logits_tile) -> i32 {
    // SAFETY: what the backward functions below pass, and a tile of the library's.
    let (make, raw) = unsafe { (&mut *user_data.cast::<Box<Make<'_>>>(), &*tile) };
    make(&mut LogitsTile { raw }).into()
}

unsafe extern "C" fn gradient_ready(user_data: *mut c_void, index: usize) -> i32 {
    // SAFETY: what Tape::on_gradient has set; the tape keeps it.
    let ready = unsafe { &mut *user_data.cast::<Ready<'_>>() };
    ready(index).into()
}

impl OwnGradient<'_> {
    /// Valid as long as this.
    fn raw(&mut self, ctx: &Context, count: usize) -> Result<sys::dqt_logits_gradient> {
        let mut raw = sys::dqt_logits_gradient::default();
        match self {
            Self::Whole(values) if values.len() != count => {
                let sentence = format!("gradient has {} elements; it must have {count}", values.len());
                return ctx.refuse(sys::DQT_E_SHAPE, sentence);
            }
            Self::Whole(values) => raw.dlogits = values.as_ptr(),
            Self::Tiles(make) => {
                raw.callback = Some(make_tile);
                raw.user_data = std::ptr::from_mut::<Box<Make<'_>>>(make).cast();
            }
        }
        Ok(raw)
    }
}

/// The weights' lock, as backward takes it.
enum Lock<'l> {
    Read(#[allow(dead_code)] RwLockReadGuard<'l, ()>),
    Write(#[allow(dead_code)] RwLockWriteGuard<'l, ()>),
}

impl<'m> Tape<'m> {
    pub fn new(of: &'m impl Layers, options: &TapeOptions) -> Result<Self> {
        let list: &'m List<'m> = of.list();
        let (layers, count) = list.raw();
        let mut raw = std::ptr::null_mut();
        // SAFETY: layers that outlive the tape, and options that say their size.
        list.context().check(unsafe {
            sys::dqt_tape_create(list.context().as_raw(), layers, count, &sized(options), &mut raw)
        })?;
        Ok(Self {
            raw: NonNull::new(raw).expect("a tape"),
            list,
            tokens: vec![0; count],
            model_tokens: 0,
            updating: false,
            gradients: (0..count).map(|_| None).collect(),
            ready: None,
        })
    }
    /// What such a tape would take.
    pub fn memory(of: &impl Layers, options: &TapeOptions) -> Result<TapeMemory> {
        let (list, mut memory) = (of.list(), TapeMemory::default());
        let (layers, count) = list.raw();
        // SAFETY: as in new.
        list.context().check(unsafe {
            sys::dqt_tape_memory(list.context().as_raw(), layers, count, &sized(options), &mut memory)
        })?;
        Ok(memory)
    }
    pub fn as_raw(&self) -> *mut sys::dqt_tape {
        self.raw.as_ptr()
    }
    fn ctx(&self) -> &'m Context {
        self.list.context()
    }
    fn lock(&self) -> Lock<'m> {
        if self.updating {
            Lock::Write(self.list.write())
        } else {
            Lock::Read(self.list.read())
        }
    }
    /// The options in effect.
    pub fn options(&self) -> Result<TapeOptions> {
        let mut options = TapeOptions::default();
        // SAFETY: the tape is alive.
        self.ctx().check(unsafe { sys::dqt_tape_get_options(self.as_raw(), &mut options) })?;
        Ok(options)
    }
    pub fn num_parameters(&self) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the tape is alive.
        self.ctx().check(unsafe { sys::dqt_tape_get_num_parameters(self.as_raw(), &mut count) })?;
        Ok(count)
    }
    pub fn zero_gradients(&mut self) -> Result<()> {
        // SAFETY: the tape is alive and ours alone.
        self.ctx().check(unsafe { sys::dqt_tape_zero_gradients(self.as_raw()) })
    }
    fn parameter(&self, index: usize) -> Result<sys::dqt_parameter> {
        let mut raw = sys::dqt_parameter::default();
        // SAFETY: the tape is alive.
        self.ctx().check(unsafe { sys::dqt_tape_get_parameter(self.as_raw(), index, &mut raw) })?;
        Ok(raw)
    }
    /// The gradient of parameter `index` in place: to look at, to change, to reduce over machines.
    pub fn gradient(&mut self, index: usize) -> Result<Gradient<'_>> {
        let (raw, mut values) = (self.parameter(index)?, std::ptr::null_mut());
        // SAFETY: the tape is alive, its gradients are floats [rows][cols] and borrowed with it.
        unsafe {
            self.ctx().check(sys::dqt_tape_gradient_data(self.as_raw(), index, &mut values))?;
            let values = std::slice::from_raw_parts_mut(values, raw.rows * raw.cols);
            Ok(Gradient { parameter: Parameter::from_raw(&raw), values })
        }
    }
    /// A copy of a gradient, whatever the format of the tape's gradients.
    pub fn get_gradient(&self, index: usize) -> Result<Vec<f32>> {
        let p = self.parameter(index)?;
        let mut values = vec![0.0; p.rows * p.cols];
        // SAFETY: room for all rows.
        self.ctx()
            .check(unsafe { sys::dqt_tape_get_gradient(self.as_raw(), index, 0, p.rows, values.as_mut_ptr()) })?;
        Ok(values)
    }
    pub fn set_gradient(&mut self, index: usize, values: &[f32]) -> Result<()> {
        let p = self.parameter(index)?;
        self.expect("values", values.len(), p.rows * p.cols)?;
        // SAFETY: all rows.
        self.ctx().check(unsafe { sys::dqt_tape_set_gradient(self.as_raw(), index, 0, p.rows, values.as_ptr()) })
    }
    fn expect(&self, name: &str, found: usize, wanted: usize) -> Result<()> {
        if found == wanted {
            return Ok(());
        }
        self.ctx().refuse(sys::DQT_E_SHAPE, format!("{name} has {found} elements; it must have {wanted}"))
    }
    /// `ready(index)` is called inside backward as soon as a gradient is complete; true ends backward. A panic in it ends
    /// the process.
    pub fn on_gradient(&mut self, ready: Option<impl FnMut(usize) -> bool + Send + 'm>) -> Result<()> {
        self.ready = ready.map(|f| Box::new(Box::new(f) as Ready<'m>));
        let (call, data): (sys::dqt_gradient_ready_fn, *mut c_void) = match &mut self.ready {
            Some(ready) => (Some(gradient_ready), std::ptr::from_mut::<Ready<'m>>(ready).cast()),
            None => (None, std::ptr::null_mut()),
        };
        // SAFETY: the tape keeps the closure, at an address that stays.
        self.ctx().check(unsafe { sys::dqt_tape_on_gradient(self.as_raw(), call, data) })
    }
    /// Calls of backward functions, see `dqt_tape_get_pass`.
    pub fn pass(&self) -> Result<u64> {
        let mut pass = 0;
        // SAFETY: the tape is alive.
        self.ctx().check(unsafe { sys::dqt_tape_get_pass(self.as_raw(), &mut pass) })?;
        Ok(pass)
    }
    /// Goes on where the tape of a checkpoint was.
    pub fn set_pass(&mut self, pass: u64) -> Result<()> {
        // SAFETY: the tape is alive and ours alone.
        self.ctx().check(unsafe { sys::dqt_tape_set_pass(self.as_raw(), pass) })
    }
    /// # Safety
    /// `updater` stays alive and is nobody else's until `end_raw`.
    pub(crate) unsafe fn begin_raw(
        &mut self,
        updater: *mut sys::dqt_updater,
        options: &sys::dqt_step_options,
    ) -> Result<()> {
        self.ctx().check(unsafe { sys::dqt_tape_begin_update(self.as_raw(), updater, options) })?;
        self.updating = true;
        Ok(())
    }
    pub(crate) fn end_raw(&mut self, stats: &mut sys::dqt_step_stats) -> Result<()> {
        self.updating = false;
        // SAFETY: the tape is alive and ours alone.
        self.ctx().check(unsafe { sys::dqt_tape_end_update(self.as_raw(), stats) })
    }
    pub(crate) fn end_part_raw(&mut self, sums: &mut sys::dqt_step_sums, stats: &mut sys::dqt_step_stats) -> Result<()> {
        self.updating = false;
        // SAFETY: the tape is alive and ours alone.
        self.ctx().check(unsafe { sys::dqt_tape_end_update_part(self.as_raw(), sums, stats) })
    }
}

/// Of a tape of a [`Llama`](crate::Llama).
impl<'m> Tape<'m> {
    fn model(&self) -> Result<(*mut sys::dqt_llama, usize)> {
        if self.list.model.is_null() {
            return self.ctx().refuse(sys::DQT_E_ARGUMENT, "this tape is a network's; it must be a model's".into());
        }
        Ok((self.list.model, self.list.layer_info(self.list.layers.len() - 1)?.out_features))
    }
    /// Forward and mean cross-entropy of the targets.
    pub fn loss(&mut self, batch: &Batch<'_>) -> Result<f32> {
        let raw = batch.to_raw(self.ctx())?;
        let (model, _) = self.model()?;
        let mut loss = 0.0;
        self.model_tokens = raw.batch * raw.length;
        let _lock = self.list.read();
        // SAFETY: slices of batch * length; the weights are locked for reading.
        self.ctx()
            .check(unsafe { sys::dqt_llama_loss(model, self.as_raw(), &raw, &mut loss, std::ptr::null_mut()) })?;
        Ok(loss)
    }
    /// The loss, and each target's, unweighted; 0 for those that are ignored.
    pub fn token_losses(&mut self, batch: &Batch<'_>) -> Result<(f32, Vec<f32>)> {
        let raw = batch.to_raw(self.ctx())?;
        let (model, _) = self.model()?;
        let (mut loss, mut losses) = (0.0, vec![0.0; raw.batch * raw.length]);
        self.model_tokens = losses.len();
        let _lock = self.list.read();
        // SAFETY: as in loss, with room for every token's.
        self.ctx().check(unsafe { sys::dqt_llama_loss(model, self.as_raw(), &raw, &mut loss, losses.as_mut_ptr()) })?;
        Ok((loss, losses))
    }
    /// Forward to logits `[batch * length][vocab]`.
    pub fn logits(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let raw = batch.to_raw(self.ctx())?;
        let (model, vocab) = self.model()?;
        self.model_tokens = raw.batch * raw.length;
        let mut logits = vec![0.0; self.model_tokens * vocab];
        let _lock = self.list.read();
        // SAFETY: as in loss, with room for every token's logits.
        self.ctx().check(unsafe { sys::dqt_llama_forward(model, self.as_raw(), &raw, logits.as_mut_ptr()) })?;
        Ok(logits)
    }
    /// Backward of the latest loss, times `loss_scale`; adds to the gradients.
    pub fn backward(&mut self, loss_scale: f32) -> Result<()> {
        let (model, _) = self.model()?;
        let _lock = self.lock();
        // SAFETY: the weights are locked, for writing where they are written.
        self.ctx().check(unsafe { sys::dqt_llama_backward(model, self.as_raw(), loss_scale) })
    }
    fn backward_own(&mut self, mut gradient: OwnGradient<'_>) -> Result<()> {
        let (model, vocab) = self.model()?;
        let raw = gradient.raw(self.ctx(), self.model_tokens * vocab)?;
        let _lock = self.lock();
        // SAFETY: as in backward; the gradient outlives the call.
        self.ctx().check(unsafe { sys::dqt_llama_backward_logits(model, self.as_raw(), &raw) })
    }
    /// The same from the gradient of a loss of one's own, `[batch * length][vocab]`.
    pub fn backward_logits(&mut self, gradient: &[f32]) -> Result<()> {
        self.backward_own(OwnGradient::Whole(gradient.to_vec()))
    }
    /// The same, made tile by tile. `make` is pure, for it may see a tile twice; true ends backward. A panic in it ends the
    /// process.
    pub fn backward_tiles(&mut self, make: impl FnMut(&mut LogitsTile<'_>) -> bool + Send) -> Result<()> {
        self.backward_own(OwnGradient::Tiles(Box::new(Box::new(make))))
    }
}

/// Layer by layer, by their numbers in the list; x, y, dx and dy are `[batch * length][features]`.
impl<'m> Tape<'m> {
    /// Before the forward of a layer: the layer, the batch and its number of tokens. x: what enters, of a layer of floats.
    fn enter(
        &mut self,
        index: usize,
        batch: &Batch<'_>,
        x: Option<&[f32]>,
    ) -> Result<(*mut sys::dqt_layer, sys::dqt_batch, sys::dqt_layer_info)> {
        let (layer, info) = (self.list.layer(index)?, self.list.layer_info(index)?);
        let raw = batch.to_raw(self.ctx())?;
        if let Some(x) = x {
            self.expect("x", x.len(), raw.batch * raw.length * info.in_features)?;
        }
        self.tokens[index] = raw.batch * raw.length;
        Ok((layer, raw, info))
    }
    /// A layer that has a forward to go back from, its number of tokens and what it is like.
    fn leave(&self, index: usize) -> Result<(*mut sys::dqt_layer, usize, sys::dqt_layer_info)> {
        let (layer, info) = (self.list.layer(index)?, self.list.layer_info(index)?);
        if self.tokens[index] == 0 {
            return self.ctx().refuse(sys::DQT_E_STATE, format!("layer {index} has no forward pass to go back from"));
        }
        Ok((layer, self.tokens[index], info))
    }
    pub fn layer_forward(&mut self, layer: usize, batch: &Batch<'_>, x: &[f32]) -> Result<Vec<f32>> {
        let (layer, raw, info) = self.enter(layer, batch, Some(x))?;
        let mut y = vec![0.0; raw.batch * raw.length * info.out_features];
        let _lock = self.list.read();
        // SAFETY: x and y are [batch * length] of the layer's features; the weights are locked.
        self.ctx().check(unsafe { sys::dqt_layer_forward(layer, self.as_raw(), &raw, x.as_ptr(), y.as_mut_ptr()) })?;
        Ok(y)
    }
    /// The gradient with respect to what entered.
    pub fn layer_backward(&mut self, layer: usize, dy: &[f32]) -> Result<Vec<f32>> {
        let (layer, tokens, info) = self.leave(layer)?;
        self.expect("dy", dy.len(), tokens * info.out_features)?;
        let mut dx = vec![0.0; tokens * info.in_features];
        let _lock = self.lock();
        // SAFETY: dy and dx are as large as the latest forward's y and x.
        self.ctx().check(unsafe { sys::dqt_layer_backward(layer, self.as_raw(), dy.as_ptr(), dx.as_mut_ptr()) })?;
        Ok(dx)
    }
    pub fn embedding_forward(&mut self, layer: usize, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let (layer, raw, info) = self.enter(layer, batch, None)?;
        let mut y = vec![0.0; raw.batch * raw.length * info.out_features];
        let _lock = self.list.read();
        // SAFETY: as in layer_forward.
        self.ctx().check(unsafe { sys::dqt_embedding_forward(layer, self.as_raw(), &raw, y.as_mut_ptr()) })?;
        Ok(y)
    }
    pub fn embedding_backward(&mut self, layer: usize, dy: &[f32]) -> Result<()> {
        let (layer, tokens, info) = self.leave(layer)?;
        self.expect("dy", dy.len(), tokens * info.out_features)?;
        let _lock = self.lock();
        // SAFETY: as in layer_backward; a tied head's gradient is kept in self.gradients.
        self.ctx().check(unsafe { sys::dqt_embedding_backward(layer, self.as_raw(), dy.as_ptr()) })
    }
    /// Cross-entropy of the targets.
    pub fn head_loss(&mut self, layer: usize, batch: &Batch<'_>, x: &[f32]) -> Result<f32> {
        let (layer, raw, _) = self.enter(layer, batch, Some(x))?;
        let mut loss = 0.0;
        let _lock = self.list.read();
        // SAFETY: as in layer_forward.
        self.ctx().check(unsafe {
            sys::dqt_head_loss(layer, self.as_raw(), &raw, x.as_ptr(), &mut loss, std::ptr::null_mut())
        })?;
        Ok(loss)
    }
    pub fn head_logits(&mut self, layer: usize, batch: &Batch<'_>, x: &[f32]) -> Result<Vec<f32>> {
        let (layer, raw, info) = self.enter(layer, batch, Some(x))?;
        let mut y = vec![0.0; raw.batch * raw.length * info.out_features];
        let _lock = self.list.read();
        // SAFETY: as in layer_forward.
        self.ctx().check(unsafe { sys::dqt_head_logits(layer, self.as_raw(), &raw, x.as_ptr(), y.as_mut_ptr()) })?;
        Ok(y)
    }
    /// Backward of the latest [`Self::head_loss`], times `loss_scale`.
    pub fn head_backward(&mut self, layer: usize, loss_scale: f32) -> Result<Vec<f32>> {
        let (layer, tokens, info) = self.leave(layer)?;
        let mut dx = vec![0.0; tokens * info.in_features];
        let _lock = self.lock();
        // SAFETY: as in layer_backward.
        self.ctx().check(unsafe { sys::dqt_head_backward(layer, self.as_raw(), loss_scale, dx.as_mut_ptr()) })?;
        Ok(dx)
    }
    fn head_backward_own(&mut self, layer: usize, mut gradient: OwnGradient<'m>) -> Result<Vec<f32>> {
        let index = layer;
        let (layer, tokens, info) = self.leave(index)?;
        let raw = gradient.raw(self.ctx(), tokens * info.out_features)?;
        let mut dx = vec![0.0; tokens * info.in_features];
        let _lock = self.lock();
        // SAFETY: as in layer_backward. What raw points to is kept until the layer's next backward replaces it, which in an
        // update the library refuses while a tied head's embedding has not gone backward.
        let status = unsafe { sys::dqt_head_backward_logits(layer, self.as_raw(), &raw, dx.as_mut_ptr()) };
        if status == sys::DQT_OK {
            self.gradients[index] = Some(gradient);
        }
        self.ctx().check(status)?;
        Ok(dx)
    }
    /// Backward of the latest forward from the gradient of a loss of one's own, `[batch * length][classes]`.
    pub fn head_backward_logits(&mut self, layer: usize, gradient: Vec<f32>) -> Result<Vec<f32>> {
        self.head_backward_own(layer, OwnGradient::Whole(gradient))
    }
    /// The same, made tile by tile, see [`Self::backward_tiles`].
    pub fn head_backward_tiles(
        &mut self,
        layer: usize,
        make: impl FnMut(&mut LogitsTile<'_>) -> bool + Send + 'm,
    ) -> Result<Vec<f32>> {
        self.head_backward_own(layer, OwnGradient::Tiles(Box::new(Box::new(make))))
    }
}

impl Drop for Tape<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { sys::dqt_tape_destroy(self.as_raw()) }
    }
}
