use crate::file::c_string;
use crate::{sized, sys, Context, LayerInfo, LayerOptions, Result};
use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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
    pub(crate) unsafe fn from_raw(raw: &sys::dqt_parameter) -> Self {
        let name = unsafe { CStr::from_ptr(raw.name) }.to_string_lossy().into_owned();
        Self { name, class: raw.parameter_class, rows: raw.rows, cols: raw.cols }
    }
}

/// A list of layers, and the lock that their weights sit behind.
pub struct List<'c> {
    ctx: &'c Context,
    pub(crate) layers: Vec<NonNull<sys::dqt_layer>>,
    /// Null: of a [`Network`].
    pub(crate) model: *mut sys::dqt_llama,
    weights: RwLock<()>,
}

// SAFETY: reading and writing of the weights go through the lock; the rest of layers does not change.
unsafe impl Send for List<'_> {}
unsafe impl Sync for List<'_> {}

/// What tapes and updaters are made for: a [`Llama`](crate::Llama) or a [`Network`].
pub trait Layers {
    fn list(&self) -> &List<'_>;
}

impl<'c> List<'c> {
    pub(crate) fn new(ctx: &'c Context, model: *mut sys::dqt_llama) -> Self {
        Self { ctx, layers: Vec::new(), model, weights: RwLock::new(()) }
    }
    pub fn context(&self) -> &'c Context {
        self.ctx
    }
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, ()> {
        self.weights.read().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.weights.write().unwrap_or_else(PoisonError::into_inner)
    }
    /// For calls: the list as C takes it.
    pub(crate) fn raw(&self) -> (*const *mut sys::dqt_layer, usize) {
        (self.layers.as_ptr().cast(), self.layers.len())
    }
    pub(crate) fn layer(&self, index: usize) -> Result<*mut sys::dqt_layer> {
        self.layers.get(index).map_or_else(
            || {
                let sentence = format!("layer is {index}; it must be below {}", self.layers.len());
                self.ctx.refuse(sys::DQT_E_ARGUMENT, sentence)
            },
            |layer| Ok(layer.as_ptr()),
        )
    }
    fn info_of(&self, layer: *const sys::dqt_layer) -> Result<LayerInfo> {
        let mut info = LayerInfo::default();
        // SAFETY: a layer of the list or of one of its blocks.
        self.ctx.check(unsafe { sys::dqt_layer_get_info(layer, &mut info) })?;
        Ok(info)
    }
    /// What layer `index` is like.
    pub fn layer_info(&self, index: usize) -> Result<LayerInfo> {
        self.info_of(self.layer(index)?)
    }
    /// What the layers that it is made of are like.
    pub fn sublayer_infos(&self, index: usize) -> Result<Vec<LayerInfo>> {
        let layer = self.layer(index)?;
        let count = self.layer_info(index)?.num_sublayers;
        let mut infos = Vec::new();
        for i in 0..count {
            let mut sublayer = std::ptr::null_mut();
            // SAFETY: the layer is alive.
            self.ctx.check(unsafe { sys::dqt_layer_get_sublayer(layer, i, &mut sublayer) })?;
            infos.push(self.info_of(sublayer)?);
        }
        Ok(infos)
    }
    fn raw_parameters(&self) -> Result<Vec<sys::dqt_parameter>> {
        let mut all = Vec::new();
        for layer in &self.layers {
            for index in 0..self.info_of(layer.as_ptr())?.num_parameters {
                let mut parameter = sys::dqt_parameter::default();
                // SAFETY: a layer of the list; the struct says its size.
                self.ctx.check(unsafe { sys::dqt_layer_get_parameter(layer.as_ptr(), index, &mut parameter) })?;
                all.push(parameter);
            }
        }
        Ok(all)
    }
    /// All parameters, numbered as in tapes and updaters.
    pub fn parameters(&self) -> Result<Vec<Parameter>> {
        // SAFETY: names live as long as the layers.
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
        // SAFETY: the tensor is a layer's, and there is room for all its rows.
        self.ctx.check(unsafe { sys::dqt_tensor_get_codes(p.tensor, 0, p.rows, codes.as_mut_ptr()) })?;
        Ok(codes)
    }
}

/// Copies the weights of one list of layers into another of the same kinds, shapes and formats: a snapshot.
pub fn layers_copy(to: &impl Layers, from: &impl Layers) -> Result<()> {
    let (to, from) = (to.list(), from.list());
    let ctx = to.context();
    if std::ptr::eq(to, from) {
        return ctx.refuse(sys::DQT_E_ARGUMENT, "to and from are the same".into());
    }
    if to.layers.len() != from.layers.len() {
        let sentence = format!("from has {} layers; it must have {}", from.layers.len(), to.layers.len());
        return ctx.refuse(sys::DQT_E_SHAPE, sentence);
    }
    // In the order of addresses, so that two copies in opposite directions do not wait for each other.
    let call = || {
        // SAFETY: both lists are alive, locked, and of this length.
        ctx.check(unsafe { sys::dqt_layers_copy(to.raw().0, from.raw().0, to.layers.len()) })
    };
    if std::ptr::from_ref(to) < std::ptr::from_ref(from) {
        let _to = to.write();
        let _from = from.read();
        call()
    } else {
        let _from = from.read();
        let _to = to.write();
        call()
    }
}

/// Layers of the host's own, in the order in which they are added: each call gives the layer's number. `name` is the prefix
/// of its parameters' names; "": the kind's name.
pub struct Network<'c> {
    list: List<'c>,
}

impl Layers for Network<'_> {
    fn list(&self) -> &List<'_> {
        &self.list
    }
}

impl<'c> std::ops::Deref for Network<'c> {
    type Target = List<'c>;
    fn deref(&self) -> &List<'c> {
        &self.list
    }
}

type Out = *mut *mut sys::dqt_layer;

impl<'c> Network<'c> {
    pub fn new(ctx: &'c Context) -> Self {
        Self { list: List::new(ctx, std::ptr::null_mut()) }
    }
    fn add(
        &mut self,
        name: &str,
        options: &LayerOptions,
        create: impl FnOnce(*mut sys::dqt_context, &LayerOptions, Out) -> i32,
    ) -> Result<usize> {
        let ctx = self.list.ctx;
        if !options.name.is_null() {
            return ctx.refuse(sys::DQT_E_ARGUMENT, "options has a name; it is an argument of its own".into());
        }
        let name = c_string(ctx, "name", name)?;
        let mut options = sized(options);
        if !name.is_empty() {
            options.name = name.as_ptr();
        }
        let mut raw = std::ptr::null_mut();
        ctx.check(create(ctx.as_raw(), &options, &mut raw))?;
        self.list.layers.push(NonNull::new(raw).expect("a layer"));
        Ok(self.list.layers.len() - 1)
    }
    pub fn embedding(&mut self, name: &str, vocab: usize, hidden: usize, options: &LayerOptions) -> Result<usize> {
        // SAFETY: the context is alive and the options say their size; so in the following.
        self.add(name, options, |ctx, o, out| unsafe { sys::dqt_embedding_create(ctx, vocab, hidden, o, out) })
    }
    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize, options: &LayerOptions) -> Result<usize> {
        self.add(name, options, |ctx, o, out| unsafe { sys::dqt_linear_create(ctx, inputs, outputs, o, out) })
    }
    pub fn rmsnorm(&mut self, name: &str, features: usize, options: &LayerOptions) -> Result<usize> {
        self.add(name, options, |ctx, o, out| unsafe { sys::dqt_rmsnorm_create(ctx, features, o, out) })
    }
    pub fn attention(
        &mut self,
        name: &str,
        hidden: usize,
        heads: usize,
        kv_heads: usize,
        options: &LayerOptions,
    ) -> Result<usize> {
        self.add(name, options, |ctx, o, out| unsafe {
            sys::dqt_attention_create(ctx, hidden, heads, kv_heads, o, out)
        })
    }
    pub fn mlp(&mut self, name: &str, hidden: usize, intermediate: usize, options: &LayerOptions) -> Result<usize> {
        self.add(name, options, |ctx, o, out| unsafe { sys::dqt_mlp_create(ctx, hidden, intermediate, o, out) })
    }
    /// heads: of queries, and of keys and values.
    pub fn block(
        &mut self,
        name: &str,
        hidden: usize,
        intermediate: usize,
        heads: (usize, usize),
        options: &LayerOptions,
    ) -> Result<usize> {
        self.add(name, options, |ctx, o, out| unsafe {
            sys::dqt_block_create(ctx, hidden, intermediate, heads.0, heads.1, o, out)
        })
    }
    /// tied: an embedding of this network, whose weight is used.
    pub fn head(
        &mut self,
        name: &str,
        hidden: usize,
        classes: usize,
        tied: Option<usize>,
        options: &LayerOptions,
    ) -> Result<usize> {
        let tied = tied.map_or(Ok(std::ptr::null_mut()), |index| self.list.layer(index))?;
        self.add(name, options, |ctx, o, out| unsafe { sys::dqt_head_create(ctx, tied, hidden, classes, o, out) })
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        // Tied heads come after their embeddings.
        for layer in self.list.layers.iter().rev() {
            // SAFETY: ours; everything made from it has borrowed it and is gone.
            unsafe { sys::dqt_layer_destroy(layer.as_ptr()) }
        }
    }
}
