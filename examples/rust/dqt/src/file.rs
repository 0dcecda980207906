use crate::{sys, Context, Llama, Result, Updater};
use std::ffi::{c_void, CString};
use std::io::{Read, Write};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// A model from a checkpoint, with the updater's state if the file has one and the host's bytes.
pub struct Loaded<'c> {
    // Before the model: fields are dropped in this order.
    updater: Mutex<Option<RawUpdater>>,
    model: Llama<'c>,
    host: Vec<u8>,
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
    /// The updater with its state; `None` if the file has none or it was taken before.
    pub fn take_updater(&self) -> Option<Updater<'_>> {
        let kept = self.updater.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let raw = kept.0.as_ptr();
        std::mem::forget(kept);
        // SAFETY: an updater of this model, no longer kept here.
        Some(unsafe { Updater::from_raw(&self.model, raw) })
    }
    pub fn into_model(self) -> Llama<'c> {
        self.model
    }
}

fn path_string(ctx: &Context, path: &Path) -> Result<CString> {
    let bytes = path.to_str().and_then(|p| CString::new(p).ok());
    bytes.map_or_else(
        || ctx.refuse(sys::DQT_E_ARGUMENT, format!("path is {path:?}; it must be UTF-8 without zeros")),
        Ok,
    )
}

unsafe extern "C" fn write<W: Write>(user_data: *mut c_void, bytes: *const c_void, size: usize) -> i32 {
    // SAFETY: what Llama::write passes, and bytes of the library's.
    let (out, bytes) = unsafe { (&mut *user_data.cast::<W>(), std::slice::from_raw_parts(bytes.cast(), size)) };
    out.write_all(bytes).map_or_else(|e| e.raw_os_error().filter(|&n| n != 0).unwrap_or(1), |()| 0)
}

unsafe extern "C" fn read<R: Read>(user_data: *mut c_void, buffer: *mut c_void, size: usize) -> usize {
    // SAFETY: what Loaded::read passes; the buffer is zeroed first, for a reader may look at it.
    let (input, buffer) = unsafe {
        std::ptr::write_bytes(buffer.cast::<u8>(), 0, size);
        (&mut *user_data.cast::<R>(), std::slice::from_raw_parts_mut(buffer.cast(), size))
    };
    input.read(buffer).map_or(usize::MAX, |n| n.min(size))
}

impl<'c> Llama<'c> {
    fn of(&self, updater: Option<&Updater<'_>>) -> Result<*mut sys::dqt_updater> {
        match updater {
            Some(u) if u.model().as_raw() != self.as_raw() => {
                self.context().refuse(sys::DQT_E_ARGUMENT, "updater is another model's".into())
            }
            Some(u) => Ok(u.as_raw()),
            None => Ok(std::ptr::null_mut()),
        }
    }
    /// Writes a checkpoint under a temporary name and renames it.
    pub fn save(&self, updater: Option<&Updater<'_>>, host: &[u8], path: impl AsRef<Path>) -> Result<()> {
        let (path, updater) = (path_string(self.context(), path.as_ref())?, self.of(updater)?);
        let _lock = self.read();
        // SAFETY: the weights are locked for reading; the updater is borrowed, so nobody steps.
        self.context().check(unsafe {
            sys::dqt_llama_save(self.as_raw(), updater, host.as_ptr().cast(), host.len(), path.as_ptr())
        })
    }
    /// Writes a checkpoint to a writer. A panic in it ends the process.
    pub fn write_to<W: Write>(&self, updater: Option<&Updater<'_>>, host: &[u8], out: &mut W) -> Result<()> {
        let updater = self.of(updater)?;
        let _lock = self.read();
        // SAFETY: as in save; the writer is used during the call only, on this thread.
        self.context().check(unsafe {
            let out = std::ptr::from_mut(out).cast();
            sys::dqt_llama_write(self.as_raw(), updater, host.as_ptr().cast(), host.len(), Some(write::<W>), out)
        })
    }
    pub fn load(ctx: &'c Context, path: impl AsRef<Path>) -> Result<Loaded<'c>> {
        let path = path_string(ctx, path.as_ref())?;
        Loaded::create(ctx, |model, updater, host, size| {
            // SAFETY: out-pointers of create.
            unsafe { sys::dqt_llama_load(ctx.as_raw(), path.as_ptr(), model, updater, host, size) }
        })
    }
    /// Reads exactly a checkpoint's bytes from a reader. A panic in it ends the process.
    pub fn read_from<R: Read>(ctx: &'c Context, input: &mut R) -> Result<Loaded<'c>> {
        let input = std::ptr::from_mut(input).cast();
        Loaded::create(ctx, |model, updater, host, size| {
            // SAFETY: as above; the reader is used during the call only, on this thread.
            unsafe { sys::dqt_llama_read(ctx.as_raw(), Some(read::<R>), input, model, updater, host, size) }
        })
    }
}

type Out<'a, T> = &'a mut *mut T;

impl<'c> Loaded<'c> {
    fn create(
        ctx: &'c Context,
        f: impl FnOnce(Out<'_, sys::dqt_llama>, Out<'_, sys::dqt_updater>, Out<'_, c_void>, &mut usize) -> i32,
    ) -> Result<Self> {
        let (mut model, mut updater) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (mut bytes, mut size) = (std::ptr::null_mut(), 0);
        ctx.check(f(&mut model, &mut updater, &mut bytes, &mut size))?;
        let mut host = Vec::new();
        if !bytes.is_null() {
            // SAFETY: `size` bytes of the library's, copied and given back.
            unsafe {
                host.extend_from_slice(std::slice::from_raw_parts(bytes.cast::<u8>(), size));
                sys::dqt_host_bytes_free(ctx.as_raw(), bytes, size);
            }
        }
        // SAFETY: a new model and updater, ours.
        let model = unsafe { Llama::from_raw(ctx, model) };
        Ok(Self { updater: Mutex::new(NonNull::new(updater).map(RawUpdater)), model, host })
    }
}
