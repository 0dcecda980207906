use crate::{sys, Error, Result};
use std::ffi::{c_char, c_void, CStr};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

type ParallelFor = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + Send + Sync;
type Log = dyn Fn(i32, &str) + Send + Sync;
type Interrupt = dyn Fn() -> bool + Send + Sync;

/// What the library calls back; at an address that stays.
#[derive(Default)]
struct Callbacks {
    parallel_for: Option<Box<ParallelFor>>,
    log: Option<Box<Log>>,
    interrupt: Option<Box<Interrupt>>,
}

/// Allocator, threads, instruction set and log: everything else is made from a context.
pub struct Context {
    raw: NonNull<sys::dqt_context>,
    _callbacks: Box<Callbacks>,
}

// SAFETY: the library allows calls in one context from several threads, and the callbacks are Send and Sync.
unsafe impl Send for Context {}
unsafe impl Sync for Context {}

/// Options of a [`Context`].
#[derive(Default)]
pub struct Builder {
    options: sys::dqt_context_options,
    callbacks: Box<Callbacks>,
}

impl Builder {
    /// 0: OpenMP's default, or 1 without OpenMP.
    pub fn num_threads(mut self, n: i32) -> Self {
        self.options.num_threads = n;
        self
    }
    /// The highest `DQT_ISA_*` to use.
    pub fn isa(mut self, isa: i32) -> Self {
        self.options.isa = isa;
        self
    }
    /// `f(count, task)` calls `task(i)` for each `i` below `count`, in any order, from any threads, and returns when all
    /// have returned. Where it leaves one out, that is made up for; a second call of one does nothing. A panic in it ends
    /// the process.
    pub fn parallel_for(mut self, f: impl Fn(usize, &(dyn Fn(usize) + Sync)) + Send + Sync + 'static) -> Self {
        self.callbacks.parallel_for = Some(Box::new(f));
        self
    }
    /// `f(level, sentence)` gets messages up to `level`, from whichever thread is inside the library. A panic in it ends the
    /// process.
    pub fn log(mut self, level: i32, f: impl Fn(i32, &str) + Send + Sync + 'static) -> Self {
        self.options.log_level = level;
        self.callbacks.log = Some(Box::new(f));
        self
    }
    /// `f` is asked now and then, on the thread that is inside the library: true ends the call with
    /// [`Status::Cancelled`](crate::Status::Cancelled). A panic in it ends the process.
    pub fn interrupt(mut self, f: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.callbacks.interrupt = Some(Box::new(f));
        self
    }
    pub fn build(mut self) -> Result<Context> {
        let user_data = std::ptr::from_ref::<Callbacks>(&self.callbacks) as *mut c_void;
        if self.callbacks.parallel_for.is_some() {
            self.options.parallel_for = Some(parallel_for);
            self.options.parallel_user_data = user_data;
        }
        if self.callbacks.log.is_some() {
            self.options.log = Some(log);
            self.options.log_user_data = user_data;
        }
        if self.callbacks.interrupt.is_some() {
            self.options.interrupt = Some(interrupt);
            self.options.interrupt_user_data = user_data;
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: the options are the library's own, with callbacks that live as long as the context.
        Error::check(unsafe { sys::dqt_context_create(&self.options, &mut raw) }, std::ptr::null())?;
        Ok(Context { raw: NonNull::new(raw).expect("a context"), _callbacks: self.callbacks })
    }
}

struct Task {
    function: unsafe extern "C" fn(*mut c_void, usize),
    data: *mut c_void,
    done: Vec<AtomicBool>,
}

// SAFETY: the library's tasks may run on any thread, each once, which `done` sees to.
unsafe impl Sync for Task {}

impl Task {
    fn run(&self, index: usize) {
        if !self.done[index].swap(true, Ordering::Relaxed) {
            // SAFETY: inside the library's call of parallel_for, and the first time for this index.
            unsafe { (self.function)(self.data, index) }
        }
    }
}

unsafe extern "C" fn parallel_for(user_data: *mut c_void, count: usize, function: sys::dqt_task_fn, data: *mut c_void) {
    // SAFETY: what Builder::build has set; the context keeps it.
    let callbacks = unsafe { &*user_data.cast::<Callbacks>() };
    let (Some(f), Some(function)) = (&callbacks.parallel_for, function) else { return };
    let task = Task { function, data, done: (0..count).map(|_| AtomicBool::new(false)).collect() };
    f(count, &|index| task.run(index));
    for index in 0..count {
        task.run(index);
    }
}

unsafe extern "C" fn log(user_data: *mut c_void, level: i32, message: *const c_char) {
    // SAFETY: as above; the message is a string during the call.
    let (callbacks, message) = unsafe { (&*user_data.cast::<Callbacks>(), CStr::from_ptr(message)) };
    if let Some(f) = &callbacks.log {
        f(level, &message.to_string_lossy());
    }
}

unsafe extern "C" fn interrupt(user_data: *mut c_void) -> i32 {
    // SAFETY: as above.
    let callbacks = unsafe { &*user_data.cast::<Callbacks>() };
    callbacks.interrupt.as_ref().is_some_and(|f| f()).into()
}

impl Context {
    /// A context with the library's defaults.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }
    pub fn builder() -> Builder {
        Builder::default()
    }
    pub fn as_raw(&self) -> *mut sys::dqt_context {
        self.raw.as_ptr()
    }
    /// The `DQT_ISA_*` in use.
    pub fn isa(&self) -> i32 {
        // SAFETY: the context is alive; so in the following.
        unsafe { sys::dqt_context_isa(self.as_raw()) }
    }
    pub fn num_threads(&self) -> i32 {
        unsafe { sys::dqt_context_num_threads(self.as_raw()) }
    }
    /// `DQT_CPU_*` bits of what CPU and system offer.
    pub fn cpu_features(&self) -> u64 {
        unsafe { sys::dqt_context_cpu_features(self.as_raw()) }
    }
    /// Bytes allocated now.
    pub fn allocated(&self) -> usize {
        unsafe { sys::dqt_context_allocated(self.as_raw()) }
    }
    pub(crate) fn check(&self, code: i32) -> Result<()> {
        Error::check(code, self.as_raw())
    }
    pub(crate) fn refuse<T>(&self, code: i32, sentence: String) -> Result<T> {
        Err(Error::new(code, sentence))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: everything made from it has borrowed it and is gone.
        unsafe { sys::dqt_context_destroy(self.as_raw()) }
    }
}
