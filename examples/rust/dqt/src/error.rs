use crate::sys;
use std::ffi::CStr;
use std::fmt;

/// Why a call was refused; `Other` is a status that this binding does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    Argument,
    Shape,
    Memory,
    Unsupported,
    Format,
    Io,
    Numeric,
    State,
    Cancelled,
    Other(i32),
}

impl From<i32> for Status {
    fn from(status: i32) -> Self {
        match status {
            sys::DQT_E_ARGUMENT => Self::Argument,
            sys::DQT_E_SHAPE => Self::Shape,
            sys::DQT_E_MEMORY => Self::Memory,
            sys::DQT_E_UNSUPPORTED => Self::Unsupported,
            sys::DQT_E_FORMAT => Self::Format,
            sys::DQT_E_IO => Self::Io,
            sys::DQT_E_NUMERIC => Self::Numeric,
            sys::DQT_E_STATE => Self::State,
            sys::DQT_E_CANCELLED => Self::Cancelled,
            other => Self::Other(other),
        }
    }
}

/// A status and the library's sentence: the argument, its value, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    code: i32,
    sentence: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn status(&self) -> Status {
        self.code.into()
    }
    pub fn sentence(&self) -> &str {
        &self.sentence
    }
    pub(crate) fn new(code: i32, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }
    /// The calling thread's latest failure in a context, which may be null.
    pub(crate) fn check(code: i32, ctx: *const sys::dqt_context) -> Result<()> {
        if code == sys::DQT_OK {
            return Ok(());
        }
        // SAFETY: ctx is null or alive; the sentence is copied before this thread's next call.
        let sentence = unsafe { CStr::from_ptr(sys::dqt_last_error(ctx)) };
        Err(Self::new(code, sentence.to_string_lossy()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: a static string for any number.
        let name = unsafe { CStr::from_ptr(sys::dqt_status_string(self.code)) };
        write!(f, "{}: {}", name.to_string_lossy(), self.sentence)
    }
}

impl std::error::Error for Error {}
