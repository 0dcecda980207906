use crate::file::{c_string, read, write};
use crate::layers::{Layers, List};
use crate::{sized, sys, Context, ParameterRule, Result, StepOptions, StepStats, Tape, UpdaterMemory, UpdaterOptions};
use std::ffi::{CStr, CString};
use std::io::{Read, Write};
use std::ops::Range;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::ptr::NonNull;

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
    /// # Safety
    /// The pattern is null or a static string.
    pub(crate) unsafe fn from_static(raw: &sys::dqt_group_options) -> Group<'static> {
        let pattern = (!raw.pattern.is_null()).then(|| unsafe { CStr::from_ptr(raw.pattern) }.to_str().ok()).flatten();
        Group {
            class: raw.parameter_class,
            pattern,
            optimizer: raw.optimizer,
            rounding: raw.rounding,
            lr_factor: raw.lr_factor,
            weight_decay: raw.weight_decay,
            beta1: raw.beta1,
            rounding_noise: raw.rounding_noise,
            freeze: match raw.freeze {
                0 => None,
                freeze => Some(freeze > 0),
            },
        }
    }
    fn pattern(&self, ctx: &Context) -> Result<Option<CString>> {
        self.pattern.map(|pattern| c_string(ctx, "pattern", pattern)).transpose()
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

/// Optimiser, rounding rule and their state: the only thing that writes a weight.
pub struct Updater<'m> {
    raw: NonNull<sys::dqt_updater>,
    list: &'m List<'m>,
}

// SAFETY: what changes an updater takes &mut; the layers are Sync.
unsafe impl Send for Updater<'_> {}
unsafe impl Sync for Updater<'_> {}

impl<'m> Updater<'m> {
    pub fn new(of: &'m impl Layers, options: &UpdaterOptions) -> Result<Self> {
        Self::with_groups(of, options, &[])
    }
    /// With groups that hold from the first step on; they may differ in the optimiser. A later one wins.
    pub fn with_groups(of: &'m impl Layers, options: &UpdaterOptions, groups: &[Group<'_>]) -> Result<Self> {
        let list: &'m List<'m> = of.list();
        let ctx = list.context();
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
        let (layers, count) = list.raw();
        let mut raw = std::ptr::null_mut();
        // SAFETY: layers that outlive the updater, options that say their size, and groups that outlive the call.
        ctx.check(unsafe { sys::dqt_updater_create(ctx.as_raw(), layers, count, &options, &mut raw) })?;
        // SAFETY: a new updater of these layers.
        Ok(unsafe { Self::from_raw(list, raw) })
    }
    /// What such an updater would take, without groups.
    pub fn memory(of: &impl Layers, options: &UpdaterOptions) -> Result<UpdaterMemory> {
        let (list, mut memory) = (of.list(), UpdaterMemory::default());
        let (layers, count) = list.raw();
        let options = UpdaterOptions { groups: std::ptr::null(), num_groups: 0, ..sized(options) };
        // SAFETY: as in with_groups.
        list.context()
            .check(unsafe { sys::dqt_updater_memory(list.context().as_raw(), layers, count, &options, &mut memory) })?;
        Ok(memory)
    }
    /// # Safety
    /// `raw` is an updater of `list` that nobody else destroys.
    pub(crate) unsafe fn from_raw(list: &'m List<'m>, raw: *mut sys::dqt_updater) -> Self {
        Self { raw: NonNull::new(raw).expect("an updater"), list }
    }
    pub fn as_raw(&self) -> *mut sys::dqt_updater {
        self.raw.as_ptr()
    }
    fn ctx(&self) -> &'m Context {
        self.list.context()
    }
    /// Adds rules that hold from the next step on; returns how many parameters they are for.
    pub fn add_group(&mut self, group: &Group<'_>) -> Result<usize> {
        let pattern = group.pattern(self.ctx())?;
        let mut matched = 0;
        // SAFETY: the pattern outlives the call.
        self.ctx()
            .check(unsafe { sys::dqt_updater_add_group(self.as_raw(), &group.to_raw(&pattern), &mut matched) })?;
        Ok(matched)
    }
    /// The options in effect, without groups.
    pub fn options(&self) -> Result<UpdaterOptions> {
        let mut options = UpdaterOptions::default();
        // SAFETY: the updater is alive; so in the following.
        self.ctx().check(unsafe { sys::dqt_updater_get_options(self.as_raw(), &mut options) })?;
        Ok(options)
    }
    /// What holds for parameter `index` after all groups.
    pub fn rule(&self, index: usize) -> Result<ParameterRule> {
        let mut rule = ParameterRule::default();
        self.ctx().check(unsafe { sys::dqt_updater_get_rule(self.as_raw(), index, &mut rule) })?;
        Ok(rule)
    }
    /// The rows of parameter `index` that belong to part `part` of `num_parts`.
    pub fn part(&self, index: usize, part: usize, num_parts: usize) -> Result<Range<usize>> {
        let (mut row, mut count) = (0, 0);
        self.ctx()
            .check(unsafe { sys::dqt_updater_get_part(self.as_raw(), index, part, num_parts, &mut row, &mut count) })?;
        Ok(row..row + count)
    }
    /// Steps done.
    pub fn steps(&self) -> Result<u64> {
        let mut steps = 0;
        self.ctx().check(unsafe { sys::dqt_updater_get_step(self.as_raw(), &mut steps) })?;
        Ok(steps)
    }
    pub fn set_steps(&mut self, steps: u64) -> Result<()> {
        self.ctx().check(unsafe { sys::dqt_updater_set_step(self.as_raw(), steps) })
    }
    /// One update of every weight from the gradients of a tape of the same layers. Waits for others that read the weights.
    pub fn step(&mut self, tape: &mut Tape<'_>, options: &StepOptions) -> Result<StepStats> {
        self.same_layers(tape)?;
        let mut stats = StepStats::default();
        let _lock = self.list.write();
        // SAFETY: tape and updater are ours alone, the weights are locked for writing.
        self.ctx()
            .check(unsafe { sys::dqt_updater_step(self.as_raw(), tape.as_raw(), &sized(options), &mut stats) })?;
        Ok(stats)
    }
    /// The same of an updater of one part, or of a partial model: `exchange` is called with the sums of all parts, of which those from
    /// `offsets[k]` to `offsets[k + 1]` are part `k`'s, and gathers the others' into place. Where it fails the step stays
    /// open, and this updater makes no other.
    pub fn step_part(
        &mut self,
        tape: &mut Tape<'_>,
        options: &StepOptions,
        mut exchange: impl FnMut(&mut [u8], &[usize]) -> Result<()>,
    ) -> Result<StepStats> {
        self.same_layers(tape)?;
        let mut sums = sys::dqt_step_sums::default();
        let _lock = self.list.write();
        // SAFETY: as in step.
        self.ctx().check(unsafe {
            sys::dqt_updater_begin_step(self.as_raw(), tape.as_raw(), &sized(options), &mut sums)
        })?;
        self.exchange_all(tape, sums, StepStats::default(), &mut exchange)
    }
    /// With the lock.
    fn exchange_all(
        &mut self,
        tape: &mut Tape<'_>,
        mut sums: sys::dqt_step_sums,
        mut stats: StepStats,
        exchange: &mut impl FnMut(&mut [u8], &[usize]) -> Result<()>,
    ) -> Result<StepStats> {
        while !sums.data.is_null() {
            // SAFETY: the updater's arrays, which are nobody else's until the next call.
            let parts = sums.num_parts as usize;
            let (data, offsets) = unsafe {
                let offsets = std::slice::from_raw_parts(sums.offsets, parts + 1);
                (std::slice::from_raw_parts_mut(sums.data.cast::<u8>(), offsets[parts]), offsets)
            };
            exchange(data, offsets)?;
            // SAFETY: as in step.
            self.ctx().check(unsafe {
                sys::dqt_updater_continue_step(self.as_raw(), tape.as_raw(), &mut sums, &mut stats)
            })?;
        }
        Ok(stats)
    }
    /// Backward of the tape's latest loss and the update in one pass, for tapes without gradient buffers.
    pub fn backward_step(&mut self, tape: &mut Tape<'_>, options: &StepOptions) -> Result<StepStats> {
        self.same_layers(tape)?;
        if self.list.model.is_null() {
            return self.ctx().refuse(sys::DQT_E_ARGUMENT, "this updater is a network's; it must be a model's".into());
        }
        let mut stats = StepStats::default();
        let _lock = self.list.write();
        // SAFETY: as in step.
        self.ctx().check(unsafe {
            let model = self.list.model;
            sys::dqt_llama_backward_update(model, tape.as_raw(), self.as_raw(), &sized(options), &mut stats)
        })?;
        Ok(stats)
    }
    /// The update inside backward, of any list of layers: the tape's backward functions that `passes` calls apply each
    /// weight's gradient as it is made. Each layer goes backward once. The update ends with `passes`, whose error comes
    /// before the update's own. Putting another tape in the place of the one that is lent ends the process.
    pub fn update<'t>(
        &mut self,
        tape: &mut Tape<'t>,
        options: &StepOptions,
        passes: impl FnOnce(&mut Tape<'t>) -> Result<()>,
    ) -> Result<StepStats> {
        let mut stats = StepStats::default();
        let result = self.run_passes(tape, options, passes)?;
        let ended = tape.end_raw(&mut stats);
        result.unwrap_or_else(|panic| resume_unwind(panic))?;
        ended.map(|()| stats)
    }
    /// The same of an updater of one part, on a tape with `no_gradient_buffers` 2; `exchange` as in
    /// [`Updater::step_part`].
    pub fn update_part<'t>(
        &mut self,
        tape: &mut Tape<'t>,
        options: &StepOptions,
        passes: impl FnOnce(&mut Tape<'t>) -> Result<()>,
        mut exchange: impl FnMut(&mut [u8], &[usize]) -> Result<()>,
    ) -> Result<StepStats> {
        let (mut stats, mut sums) = (StepStats::default(), sys::dqt_step_sums::default());
        let result = self.run_passes(tape, options, passes)?;
        let ended = tape.end_part_raw(&mut sums, &mut stats);
        result.unwrap_or_else(|panic| resume_unwind(panic))?;
        ended?;
        let _lock = self.list.write();
        self.exchange_all(tape, sums, stats, &mut exchange)
    }
    /// Begins an update; what `passes` gave, or its panic.
    fn run_passes<'t>(
        &mut self,
        tape: &mut Tape<'t>,
        options: &StepOptions,
        passes: impl FnOnce(&mut Tape<'t>) -> Result<()>,
    ) -> Result<std::thread::Result<Result<()>>> {
        self.same_layers(tape)?;
        let raw = tape.as_raw();
        // SAFETY: the updater is ours alone until the end.
        unsafe { tape.begin_raw(self.as_raw(), &sized(options))? };
        let result = catch_unwind(AssertUnwindSafe(|| passes(tape)));
        if tape.as_raw() != raw {
            std::process::abort(); // elsewhere it would go on to update with what is borrowed here
        }
        Ok(result)
    }
    /// The rules and the state alone, to a writer. A panic in it ends the process.
    pub fn write_to<W: Write>(&self, out: &mut W) -> Result<()> {
        let out = std::ptr::from_mut(out).cast();
        // SAFETY: the writer is used during the call only, on this thread.
        self.ctx().check(unsafe { sys::dqt_updater_write(self.as_raw(), Some(write::<W>), out) })
    }
    /// What the replica that saves reads through [`crate::Saved::read_part`]; of an updater of one part.
    pub fn write_part_to<W: Write>(&self, out: &mut W) -> Result<()> {
        let out = std::ptr::from_mut(out).cast();
        // SAFETY: as in write_to.
        self.ctx().check(unsafe { sys::dqt_updater_write_part(self.as_raw(), Some(write::<W>), out) })
    }
    /// Back, into an updater of the same options and parameters. A panic in the reader ends the process.
    pub fn read_from<R: Read>(&mut self, input: &mut R) -> Result<()> {
        let input = std::ptr::from_mut(input).cast();
        // SAFETY: as in write_to; the updater is ours alone.
        self.ctx().check(unsafe { sys::dqt_updater_read(self.as_raw(), Some(read::<R>), input) })
    }
    /// The lock is one list's: a tape of another would be read unlocked.
    fn same_layers(&self, tape: &Tape<'_>) -> Result<()> {
        if std::ptr::eq(self.list, tape.list) {
            return Ok(());
        }
        self.ctx().refuse(sys::DQT_E_ARGUMENT, "tape is of other layers; it must be of the updater's".into())
    }
    pub(crate) fn list(&self) -> &List<'m> {
        self.list
    }
}

impl Drop for Updater<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { sys::dqt_updater_destroy(self.as_raw()) }
    }
}
