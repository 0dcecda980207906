use crate::{sized, sys, Error, Group, LlamaConfig, PresetOptions, Result, UpdaterOptions};
use std::ffi::CStr;

/// A recipe of docs/results.md: for [`Llama::new`](crate::Llama::new) and
/// [`Updater::with_groups`](crate::Updater::with_groups).
#[derive(Clone)]
pub struct Preset {
    pub config: LlamaConfig,
    pub updater: UpdaterOptions,
    pub groups: Vec<Group<'static>>,
    /// Peak, at hidden size 256; see `dqt_preset`.
    pub learning_rate: f32,
    pub warmup_fraction: f32,
    pub final_fraction: f32,
    pub bytes_per_weight: f32,
    pub name: &'static str,
}

impl Preset {
    /// On top of a config, whose shape stays.
    pub fn get(options: &PresetOptions, config: &LlamaConfig) -> Result<Self> {
        let mut config = LlamaConfig { overrides: std::ptr::null(), num_overrides: 0, ..sized(config) };
        let (mut updater, mut raw) = (UpdaterOptions::default(), sys::dqt_preset::default());
        // SAFETY: the structs say their sizes; the groups and the name that come back are static.
        unsafe {
            let status = sys::dqt_preset_get(&sized(options), &mut config, &mut updater, &mut raw);
            Error::check(status, std::ptr::null())?;
            let mut groups = Vec::new();
            for i in 0..updater.num_groups {
                groups.push(Group::from_static(&*updater.groups.add(i)));
            }
            updater.groups = std::ptr::null();
            updater.num_groups = 0;
            Ok(Self {
                config,
                updater,
                groups,
                learning_rate: raw.learning_rate,
                warmup_fraction: raw.warmup_fraction,
                final_fraction: raw.final_fraction,
                bytes_per_weight: raw.bytes_per_weight,
                name: CStr::from_ptr(raw.name).to_str().unwrap_or_default(),
            })
        }
    }
}
