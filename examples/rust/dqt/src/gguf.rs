use crate::file::{c_string, path_string, write};
use crate::{sized, sys, Context, GgufOptions, Llama, Result};
use std::ffi::{c_char, CString};
use std::io::Write;
use std::path::Path;
use std::ptr::null;

/// The vocabulary of a GGUF file, see `dqt_gguf_options`.
#[derive(Debug, Clone, Copy, Default)]
pub enum Vocabulary<'a> {
    /// The 256 bytes.
    #[default]
    Bytes,
    /// In the notation of a "llama" tokenizer; scores `None`: zeros, types `None`: normal.
    Pieces { tokens: &'a [&'a str], scores: Option<&'a [f32]>, types: Option<&'a [i32]> },
    /// Byte-level BPE: merges are "left right".
    Merges { tokens: &'a [&'a str], types: Option<&'a [i32]>, merges: &'a [&'a str], pre_tokenizer: &'a str },
    /// The text of a tokenizer.json; pre_tokenizer `None`: as it says.
    Json { text: &'a [u8], pre_tokenizer: Option<&'a str> },
    /// The path of a tokenizer.json.
    JsonFile { path: &'a Path, pre_tokenizer: Option<&'a str> },
    /// The path of a GGUF file whose keys go out too.
    Source(&'a Path),
}

/// The value of a key of the host's own.
#[derive(Debug, Clone, Copy)]
pub enum GgufValue<'a> {
    Uint32(u32),
    Int32(i32),
    Float32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(&'a [&'a str]),
    /// At most `i64::MAX`.
    Uint64(u64),
    Int64(i64),
    Float64(f64),
}

/// Texts as C has them.
struct Texts {
    raw: Vec<*const c_char>,
    _texts: Vec<CString>,
}

impl Texts {
    fn new(ctx: &Context, what: &str, texts: &[&str]) -> Result<Self> {
        let texts = texts.iter().map(|text| c_string(ctx, what, text)).collect::<Result<Vec<_>>>()?;
        Ok(Self { raw: texts.iter().map(|text| text.as_ptr()).collect(), _texts: texts })
    }
    fn as_ptr(&self) -> *const *const c_char {
        if self.raw.is_empty() {
            null()
        } else {
            self.raw.as_ptr()
        }
    }
}

/// What options point to during a call.
#[derive(Default)]
struct Kept {
    lists: Vec<Texts>,
    texts: Vec<CString>,
    keys: Vec<sys::dqt_gguf_key>,
}

impl Kept {
    fn text(&mut self, text: CString) -> *const c_char {
        let raw = text.as_ptr(); // of its own bytes, which do not move with it
        self.texts.push(text);
        raw
    }
    fn list(&mut self, ctx: &Context, what: &str, texts: &[&str]) -> Result<(*const *const c_char, usize)> {
        let list = Texts::new(ctx, what, texts)?;
        let raw = (list.as_ptr(), list.raw.len());
        self.lists.push(list);
        Ok(raw)
    }
    fn tokens(
        &mut self,
        ctx: &Context,
        o: &mut GgufOptions,
        tokens: &[&str],
        scores: Option<&[f32]>,
        types: Option<&[i32]>,
    ) -> Result<()> {
        let count = tokens.len();
        if scores.is_some_and(|s| s.len() != count) || types.is_some_and(|t| t.len() != count) {
            return ctx.refuse(sys::DQT_E_SHAPE, format!("scores and types must have {count} elements, as tokens"));
        }
        (o.tokens, o.num_tokens) = self.list(ctx, "a token", tokens)?;
        o.scores = scores.map_or(null(), <[f32]>::as_ptr);
        o.types = types.map_or(null(), <[i32]>::as_ptr);
        Ok(())
    }
    fn pre_tokenizer(&mut self, ctx: &Context, o: &mut GgufOptions, name: Option<&str>) -> Result<()> {
        if let Some(name) = name {
            o.pre_tokenizer = self.text(c_string(ctx, "pre_tokenizer", name)?);
        }
        Ok(())
    }
    fn vocabulary(&mut self, ctx: &Context, o: &mut GgufOptions, vocabulary: &Vocabulary<'_>) -> Result<()> {
        match *vocabulary {
            Vocabulary::Bytes => Ok(()),
            Vocabulary::Pieces { tokens, scores, types } => self.tokens(ctx, o, tokens, scores, types),
            Vocabulary::Merges { tokens, types, merges, pre_tokenizer } => {
                self.tokens(ctx, o, tokens, None, types)?;
                (o.merges, o.num_merges) = self.list(ctx, "a merge", merges)?;
                self.pre_tokenizer(ctx, o, Some(pre_tokenizer))
            }
            Vocabulary::Json { text, pre_tokenizer } => {
                if text.is_empty() {
                    return ctx.refuse(sys::DQT_E_ARGUMENT, "the text of tokenizer.json is empty".into());
                }
                o.tokenizer_json = text.as_ptr().cast();
                o.tokenizer_json_size = text.len();
                self.pre_tokenizer(ctx, o, pre_tokenizer)
            }
            Vocabulary::JsonFile { path, pre_tokenizer } => {
                o.tokenizer = self.text(path_string(ctx, path)?);
                self.pre_tokenizer(ctx, o, pre_tokenizer)
            }
            Vocabulary::Source(path) => {
                o.source = self.text(path_string(ctx, path)?);
                Ok(())
            }
        }
    }
    fn key(&mut self, ctx: &Context, name: &str, value: GgufValue<'_>) -> Result<()> {
        let key = self.text(c_string(ctx, "a key", name)?);
        let (mut integer, mut number, mut text, mut texts) = (0, 0.0, null(), (null(), 0));
        let value_type = match value {
            GgufValue::Uint32(x) => (integer = x.into(), sys::DQT_GGUF_VALUE_UINT32).1,
            GgufValue::Int32(x) => (integer = x.into(), sys::DQT_GGUF_VALUE_INT32).1,
            GgufValue::Float32(x) => (number = x.into(), sys::DQT_GGUF_VALUE_FLOAT32).1,
            GgufValue::Bool(x) => (integer = x.into(), sys::DQT_GGUF_VALUE_BOOL).1,
            GgufValue::Text(x) => (text = self.text(c_string(ctx, "a value", x)?), sys::DQT_GGUF_VALUE_STRING).1,
            GgufValue::Texts(x) => (texts = self.list(ctx, "a value", x)?, sys::DQT_GGUF_VALUE_STRINGS).1,
            // The library refuses what is negative.
            GgufValue::Uint64(x) => (integer = i64::try_from(x).unwrap_or(-1), sys::DQT_GGUF_VALUE_UINT64).1,
            GgufValue::Int64(x) => (integer = x, sys::DQT_GGUF_VALUE_INT64).1,
            GgufValue::Float64(x) => (number = x, sys::DQT_GGUF_VALUE_FLOAT64).1,
        };
        let (texts, num_texts) = texts;
        let struct_size = std::mem::size_of::<sys::dqt_gguf_key>() as u32;
        self.keys.push(sys::dqt_gguf_key { struct_size, value_type, integer, number, key, text, texts, num_texts });
        Ok(())
    }
}

impl Llama<'_> {
    fn with_gguf(
        &self,
        options: &GgufOptions,
        vocabulary: &Vocabulary<'_>,
        keys: &[(&str, GgufValue<'_>)],
        f: impl FnOnce(&GgufOptions) -> i32,
    ) -> Result<()> {
        let (ctx, mut o, mut kept) = (self.context(), sized(options), Kept::default());
        let pointers = [o.source, o.pre_tokenizer, o.tokenizer, o.tokenizer_json.cast(), o.scores.cast()];
        let more = [o.tokens.cast(), o.merges.cast(), o.types.cast(), o.keys.cast::<c_char>()];
        if pointers.iter().chain(&more).any(|p| !p.is_null())
            || [o.num_tokens, o.num_merges, o.num_keys, o.tokenizer_json_size] != [0; 4]
        {
            return ctx.refuse(sys::DQT_E_ARGUMENT, "options has pointers; vocabulary and keys are arguments".into());
        }
        kept.vocabulary(ctx, &mut o, vocabulary)?;
        for &(name, value) in keys {
            kept.key(ctx, name, value)?;
        }
        if !kept.keys.is_empty() {
            (o.keys, o.num_keys) = (kept.keys.as_ptr(), kept.keys.len());
        }
        let _lock = self.read();
        ctx.check(f(&o))
    }
    /// As a GGUF file, with keys of the host's own.
    pub fn export_gguf(
        &self,
        path: impl AsRef<Path>,
        options: &GgufOptions,
        vocabulary: &Vocabulary<'_>,
        keys: &[(&str, GgufValue<'_>)],
    ) -> Result<()> {
        let path = path_string(self.context(), path.as_ref())?;
        // SAFETY: the weights are locked for reading; what the options point to outlives the call.
        self.with_gguf(options, vocabulary, keys, |o| unsafe {
            sys::dqt_llama_export_gguf(self.as_raw(), path.as_ptr(), o)
        })
    }
    /// The same to a writer. A panic in it ends the process.
    pub fn write_gguf<W: Write>(
        &self,
        out: &mut W,
        options: &GgufOptions,
        vocabulary: &Vocabulary<'_>,
        keys: &[(&str, GgufValue<'_>)],
    ) -> Result<()> {
        let out = std::ptr::from_mut(out).cast();
        // SAFETY: as in export_gguf; the writer is used during the call only, on this thread.
        self.with_gguf(options, vocabulary, keys, |o| unsafe {
            sys::dqt_llama_write_gguf(self.as_raw(), Some(write::<W>), out, o)
        })
    }
}
