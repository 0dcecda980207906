//! Declarations of libdqt's C interface, made from `dqt.h` by `generate.sh`; the contracts are in the header. The layout
//! of every struct is asserted when this crate is compiled.
#![no_std]
#![allow(non_camel_case_types)]

#[rustfmt::skip]
mod bindings;
pub use bindings::*;

/// `Default` gives the library's defaults.
macro_rules! defaults {
    ($($options:ty, $init:ident;)*) => {$(
        impl Default for $options {
            fn default() -> Self {
                let mut options = core::mem::MaybeUninit::zeroed();
                // SAFETY: a zeroed options struct is valid, and this is its size.
                unsafe {
                    let status = $init(options.as_mut_ptr(), core::mem::size_of::<Self>());
                    assert_eq!(status, DQT_OK, "the library is older than its declarations");
                    options.assume_init()
                }
            }
        }
    )*};
}

defaults! {
    dqt_context_options, dqt_context_options_init;
    dqt_tensor_options, dqt_tensor_options_init;
    dqt_layer_options, dqt_layer_options_init;
    dqt_tape_options, dqt_tape_options_init;
    dqt_llama_config, dqt_llama_config_init;
    dqt_updater_options, dqt_updater_options_init;
    dqt_group_options, dqt_group_options_init;
    dqt_preset_options, dqt_preset_options_init;
    dqt_session_options, dqt_session_options_init;
    dqt_sampler_options, dqt_sampler_options_init;
    dqt_save_options, dqt_save_options_init;
    dqt_load_options, dqt_load_options_init;
    dqt_import_options, dqt_import_options_init;
    dqt_open_options, dqt_open_options_init;
    dqt_gguf_options, dqt_gguf_options_init;
    dqt_safetensors_options, dqt_safetensors_options_init;
}

/// `Default` gives zeros with the size set, as `DQT_INIT` does.
macro_rules! zeros {
    ($($structure:ty)*) => {$(
        impl Default for $structure {
            fn default() -> Self {
                // SAFETY: numbers and pointers, which may be zero.
                let zeros: Self = unsafe { core::mem::zeroed() };
                Self { struct_size: core::mem::size_of::<Self>() as u32, ..zeros }
            }
        }
    )*};
}

zeros! {
    dqt_tensor_info dqt_tensor_stats
    dqt_layer_info dqt_parameter dqt_batch dqt_logits_tile dqt_logits_gradient
    dqt_tape_memory_info dqt_llama_memory_info dqt_updater_memory_info dqt_session_memory_info
    dqt_parameter_rule dqt_step_options dqt_step_stats dqt_step_sums
    dqt_preset dqt_session_step dqt_checkpoint
}

/// Whether a struct and everything embedded in it says its own size, as functions that read it need.
pub trait Sized32 {
    fn set_sizes(&mut self);
}

macro_rules! sizes {
    ($($options:ty: $($member:ident)*;)*) => {$(
        impl Sized32 for $options {
            fn set_sizes(&mut self) {
                self.struct_size = core::mem::size_of::<Self>() as u32;
                $(self.$member.set_sizes();)*
            }
        }
    )*};
}

sizes! {
    dqt_tensor_options: ;
    dqt_layer_options: weight;
    dqt_tape_options: ;
    dqt_llama_config: linear embedding head;
    dqt_updater_options: ;
    dqt_step_options: ;
    dqt_session_options: ;
    dqt_sampler_options: ;
    dqt_load_options: ;
    dqt_preset_options: ;
    dqt_import_options: ;
    dqt_open_options: linear embedding head;
    dqt_gguf_options: ;
    dqt_safetensors_options: ;
}
