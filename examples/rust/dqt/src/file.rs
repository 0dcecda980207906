use crate::layers::{Layers, List};
use crate::{
    sized, sys, Context, ImportOptions, Llama, LoadOptions, OpenOptions, Result, SafetensorsOptions, Tape, Updater,
};
use std::ffi::{c_void, CString};
use std::io::{Read, Write};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// What a checkpoint holds beside the weights.
#[derive(Clone, Copy, Default)]
pub struct Saved<'a> {
    pub updater: Option<&'a Updater<'a>>,
    /// Bytes of the host's own.
    pub host: &'a [u8],
    /// Its `pass` is saved.
    pub tape: Option<&'a Tape<'a>>,
    /// With an updater of one part: where the others' rows come from.
    pub read_part: Option<ReadPart<'a>>,
}

/// Fills the buffer with the next bytes of what a part's [`Updater::write_part_to`] writes and returns how many; 0: the
/// end, `usize::MAX`: an error. A panic in it ends the process.
pub type ReadPart<'a> = &'a dyn Fn(usize, &mut [u8]) -> usize;

unsafe extern "C" fn read_part(data: *mut c_void, part: usize, buffer: *mut c_void, size: usize) -> usize {
    // SAFETY: `Saved::options` gave the pointer, and the library the buffer.
    let (read, buffer) = unsafe { (*data.cast::<ReadPart<'_>>(), std::slice::from_raw_parts_mut(buffer.cast(), size)) };
    read(part, buffer)
}

impl Saved<'_> {
    fn options(&self) -> sys::dqt_save_options {
        sys::dqt_save_options {
            host: if self.host.is_empty() { std::ptr::null() } else { self.host.as_ptr().cast() },
            host_size: self.host.len(),
            tape: self.tape.map_or(std::ptr::null(), |tape| tape.as_raw()),
            read_part: if self.read_part.is_some() { Some(read_part) } else { None },
            part_user_data: self.read_part.as_ref().map_or(std::ptr::null_mut(), |f| std::ptr::from_ref(f).cast_mut().cast()),
            ..Default::default()
        }
    }
}

/// A model from a checkpoint, with the updater's state if the file has one and the host's bytes.
pub struct Loaded<'c> {
    // Before the model: fields are dropped in this order.
    updater: Mutex<Option<RawUpdater>>,
    model: Llama<'c>,
    host: Vec<u8>,
    pass: u64,
}

struct RawUpdater(NonNull<sys::dqt_updater>);

// SAFETY: it is only kept, taken and dropped.
unsafe impl Send for RawUpdater {}

impl Drop for RawUpdater {
    fn drop(&mut self) {
        // SAFETY: ours alone, and the model is still there.
        unsafe { sys::dqt_updater_destroy(self.0.as_ptr()) }
    }
}

impl<'c> Loaded<'c> {
    pub fn model(&self) -> &Llama<'c> {
        &self.model
    }
    pub fn host(&self) -> &[u8] {
        &self.host
    }
    /// For [`Tape::set_pass`].
    pub fn pass(&self) -> u64 {
        self.pass
    }
    /// The updater with its state; `None` if the file has none or it was taken before.
    pub fn take_updater(&self) -> Option<Updater<'_>> {
        let kept = self.updater.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let raw = kept.0.as_ptr();
        std::mem::forget(kept);
        // SAFETY: an updater of this model, no longer kept here.
        Some(unsafe { Updater::from_raw(self.model.list(), raw) })
    }
    pub fn into_model(self) -> Llama<'c> {
        self.model
    }
}

pub(crate) fn c_string(ctx: &Context, what: &str, text: &str) -> Result<CString> {
    CString::new(text).or_else(|_| ctx.refuse(sys::DQT_E_ARGUMENT, format!("{what} has a zero byte")))
}

pub(crate) fn path_string(ctx: &Context, path: &Path) -> Result<CString> {
    let bytes = path.to_str().and_then(|p| CString::new(p).ok());
    bytes.map_or_else(
        || ctx.refuse(sys::DQT_E_ARGUMENT, format!("path is {path:?}; it must be UTF-8 without zeros")),
        Ok,
    )
}

pub(crate) unsafe extern "C" fn write<W: Write>(user_data: *mut c_void, bytes: *const c_void, size: usize) -> i32 {
    // SAFETY: what Llama::write passes, and bytes of the library's.
    let (out, bytes) = unsafe { (&mut *user_data.cast::<W>(), std::slice::from_raw_parts(bytes.cast(), size)) };
    out.write_all(bytes).map_or_else(|e| e.raw_os_error().filter(|&n| n != 0).unwrap_or(1), |()| 0)
}

pub(crate) unsafe extern "C" fn read<R: Read>(user_data: *mut c_void, buffer: *mut c_void, size: usize) -> usize {
    // SAFETY: what Loaded::read passes; the buffer is zeroed first, for a reader may look at it.
    let (input, buffer) = unsafe {
        std::ptr::write_bytes(buffer.cast::<u8>(), 0, size);
        (&mut *user_data.cast::<R>(), std::slice::from_raw_parts_mut(buffer.cast(), size))
    };
    input.read(buffer).map_or(usize::MAX, |n| n.min(size))
}

fn updater_of(list: &List<'_>, updater: Option<&Updater<'_>>) -> Result<*mut sys::dqt_updater> {
    match updater {
        Some(u) if !std::ptr::eq(u.list(), list) => {
            list.context().refuse(sys::DQT_E_ARGUMENT, "updater is of other layers".into())
        }
        Some(u) => Ok(u.as_raw()),
        None => Ok(std::ptr::null_mut()),
    }
}

impl<'c> Llama<'c> {
    /// A model of another program: a Hugging Face folder or a GGUF file.
    pub fn open(ctx: &'c Context, path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let path = path_string(ctx, path.as_ref())?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is alive and the options say their size.
        ctx.check(unsafe { sys::dqt_llama_open(ctx.as_raw(), path.as_ptr(), &sized(options), &mut raw) })?;
        // SAFETY: a new model of this context.
        Ok(unsafe { Self::from_raw(ctx, raw) })
    }
    /// Writes a checkpoint under a temporary name and renames it.
    pub fn save(&self, path: impl AsRef<Path>, saved: &Saved<'_>) -> Result<()> {
        let (path, updater) = (path_string(self.context(), path.as_ref())?, updater_of(self.list(), saved.updater)?);
        let _lock = self.read();
        // SAFETY: the weights are locked for reading; updater and tape are borrowed, so nobody changes them.
        self.context().check(unsafe { sys::dqt_llama_save(self.as_raw(), updater, path.as_ptr(), &saved.options()) })
    }
    /// Writes a checkpoint to a writer. A panic in it ends the process.
    pub fn write_to<W: Write>(&self, out: &mut W, saved: &Saved<'_>) -> Result<()> {
        let updater = updater_of(self.list(), saved.updater)?;
        let _lock = self.read();
        // SAFETY: as in save; the writer is used during the call only, on this thread.
        self.context().check(unsafe {
            let out = std::ptr::from_mut(out).cast();
            sys::dqt_llama_write(self.as_raw(), updater, Some(write::<W>), out, &saved.options())
        })
    }
    /// What the partial model that saves reads through [`Saved::read_part`]; of another partial model.
    pub fn write_part_to<W: Write>(&self, out: &mut W, updater: Option<&Updater<'_>>) -> Result<()> {
        let updater = updater_of(self.list(), updater)?;
        let _lock = self.read();
        let out = std::ptr::from_mut(out).cast();
        // SAFETY: as in write_to.
        self.context().check(unsafe { sys::dqt_llama_write_part(self.as_raw(), updater, Some(write::<W>), out) })
    }
    pub fn load(ctx: &'c Context, path: impl AsRef<Path>, options: &LoadOptions) -> Result<Loaded<'c>> {
        let path = path_string(ctx, path.as_ref())?;
        // SAFETY: the options say their size, the struct is create's.
        Loaded::create(ctx, |out| unsafe { sys::dqt_llama_load(ctx.as_raw(), path.as_ptr(), &sized(options), out) })
    }
    /// Reads exactly a checkpoint's bytes from a reader. A panic in it ends the process.
    pub fn read_from<R: Read>(ctx: &'c Context, input: &mut R, options: &LoadOptions) -> Result<Loaded<'c>> {
        let input = std::ptr::from_mut(input).cast();
        // SAFETY: as above; the reader is used during the call only, on this thread.
        Loaded::create(ctx, |out| unsafe {
            sys::dqt_llama_read(ctx.as_raw(), Some(read::<R>), input, &sized(options), out)
        })
    }
}

impl<'c> Loaded<'c> {
    fn create(ctx: &'c Context, f: impl FnOnce(&mut sys::dqt_checkpoint) -> i32) -> Result<Self> {
        let mut raw = sys::dqt_checkpoint::default();
        ctx.check(f(&mut raw))?;
        let host = take_host(ctx, &raw);
        // SAFETY: a new model and updater, ours.
        let model = unsafe { Llama::from_raw(ctx, raw.model) };
        Ok(Self { updater: Mutex::new(NonNull::new(raw.updater).map(RawUpdater)), model, host, pass: raw.passes })
    }
}

fn take_host(ctx: &Context, raw: &sys::dqt_checkpoint) -> Vec<u8> {
    let mut host = Vec::new();
    if !raw.host.is_null() {
        // SAFETY: bytes of the library's, copied and given back.
        unsafe {
            host.extend_from_slice(std::slice::from_raw_parts(raw.host.cast::<u8>(), raw.host_size));
            sys::dqt_host_bytes_free(ctx.as_raw(), raw.host, raw.host_size);
        }
    }
    host
}

/// What a file holds beside the weights of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    pub host: Vec<u8>,
    /// For [`Tape::set_pass`].
    pub pass: u64,
}

/// [`Llama::save`] of any list of layers.
pub fn layers_save(of: &impl Layers, path: impl AsRef<Path>, saved: &Saved<'_>) -> Result<()> {
    let list = of.list();
    let (path, updater) = (path_string(list.context(), path.as_ref())?, updater_of(list, saved.updater)?);
    let (layers, count) = list.raw();
    let _lock = list.read();
    // SAFETY: as in Llama::save.
    list.context().check(unsafe { sys::dqt_layers_save(layers, count, updater, path.as_ptr(), &saved.options()) })
}

/// [`Llama::write_to`] of any list of layers.
pub fn layers_write<W: Write>(of: &impl Layers, out: &mut W, saved: &Saved<'_>) -> Result<()> {
    let list = of.list();
    let updater = updater_of(list, saved.updater)?;
    let (layers, count) = list.raw();
    let _lock = list.read();
    // SAFETY: as in Llama::write_to.
    list.context().check(unsafe {
        let out = std::ptr::from_mut(out).cast();
        sys::dqt_layers_write(layers, count, updater, Some(write::<W>), out, &saved.options())
    })
}

fn load_into(
    of: &impl Layers,
    updater: Option<&mut Updater<'_>>,
    f: impl FnOnce(*const *mut sys::dqt_layer, usize, *mut sys::dqt_updater, &mut sys::dqt_checkpoint) -> i32,
) -> Result<Resumed> {
    let list = of.list();
    let updater = updater_of(list, updater.as_deref())?;
    let (layers, count) = list.raw();
    let mut raw = sys::dqt_checkpoint::default();
    let _lock = list.write();
    list.context().check(f(layers, count, updater, &mut raw))?;
    Ok(Resumed { host: take_host(list.context(), &raw), pass: raw.passes })
}

/// Reads a file into existing layers, and into an updater of theirs (`None`: its state is skipped).
pub fn layers_load(
    of: &impl Layers,
    updater: Option<&mut Updater<'_>>,
    path: impl AsRef<Path>,
    options: &LoadOptions,
) -> Result<Resumed> {
    let path = path_string(of.list().context(), path.as_ref())?;
    // SAFETY: the weights are locked for writing, the updater is ours alone, the options say their size.
    load_into(of, updater, |layers, count, updater, out| unsafe {
        sys::dqt_layers_load(layers, count, updater, path.as_ptr(), &sized(options), out)
    })
}

/// The same from a reader. A panic in it ends the process.
pub fn layers_read<R: Read>(
    of: &impl Layers,
    updater: Option<&mut Updater<'_>>,
    input: &mut R,
    options: &LoadOptions,
) -> Result<Resumed> {
    let input = std::ptr::from_mut(input).cast();
    // SAFETY: as in layers_load; the reader is used during the call only, on this thread.
    load_into(of, updater, |layers, count, updater, out| unsafe {
        sys::dqt_layers_read(layers, count, updater, Some(read::<R>), input, &sized(options), out)
    })
}

/// The exchange with other programs.
impl Llama<'_> {
    /// As a safetensors file with the names of Hugging Face's LlamaForCausalLM.
    pub fn export_safetensors(&self, path: impl AsRef<Path>, options: &SafetensorsOptions) -> Result<()> {
        let path = path_string(self.context(), path.as_ref())?;
        let _lock = self.read();
        // SAFETY: the weights are locked for reading and the options say their size.
        self.context()
            .check(unsafe { sys::dqt_llama_export_safetensors(self.as_raw(), path.as_ptr(), &sized(options)) })
    }
    /// As config.json and model.safetensors for transformers, into a folder that exists.
    pub fn export_folder(&self, folder: impl AsRef<Path>, options: &SafetensorsOptions) -> Result<()> {
        let folder = path_string(self.context(), folder.as_ref())?;
        let _lock = self.read();
        // SAFETY: the weights are locked for reading and the options say their size.
        self.context().check(unsafe { sys::dqt_llama_export_folder(self.as_raw(), folder.as_ptr(), &sized(options)) })
    }
    /// The same to a writer. A panic in it ends the process.
    pub fn write_safetensors<W: Write>(&self, out: &mut W, options: &SafetensorsOptions) -> Result<()> {
        let out = std::ptr::from_mut(out).cast();
        let _lock = self.read();
        // SAFETY: as in export_safetensors; the writer is used during the call only, on this thread.
        self.context()
            .check(unsafe { sys::dqt_llama_write_safetensors(self.as_raw(), Some(write::<W>), out, &sized(options)) })
    }
    /// Weights from such a file.
    pub fn import_safetensors(&self, path: impl AsRef<Path>, options: &ImportOptions) -> Result<()> {
        let path = path_string(self.context(), path.as_ref())?;
        let _lock = self.write();
        // SAFETY: the weights are locked for writing and the options say their size.
        self.context()
            .check(unsafe { sys::dqt_llama_import_safetensors(self.as_raw(), path.as_ptr(), &sized(options)) })
    }
}
