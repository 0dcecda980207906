use crate::{sized, sys, Context, Result, TensorInfo, TensorOptions, TensorStats};
use std::ptr::NonNull;

/// A packed weight matrix of the host's own.
pub struct Tensor<'c> {
    raw: NonNull<sys::dqt_tensor>,
    ctx: &'c Context,
    rows: usize,
    cols: usize,
}

// SAFETY: writing takes &mut.
unsafe impl Send for Tensor<'_> {}
unsafe impl Sync for Tensor<'_> {}

impl<'c> Tensor<'c> {
    pub fn new(ctx: &'c Context, rows: usize, cols: usize, options: &TensorOptions) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is alive and the options say their size.
        ctx.check(unsafe { sys::dqt_tensor_create(ctx.as_raw(), rows, cols, &sized(options), &mut raw) })?;
        Ok(Self { raw: NonNull::new(raw).expect("a tensor"), ctx, rows, cols })
    }
    /// Sets scales by the tensor's rule and codes by rounding; `rounding` is STOCHASTIC (seeded) or NEAREST.
    pub fn quantize(&mut self, weights: &[f32], rounding: i32, seed: u64) -> Result<()> {
        self.expect("weights", weights.len(), self.rows * self.cols)?;
        // SAFETY: rows * cols weights.
        self.ctx.check(unsafe { sys::dqt_tensor_quantize(self.raw.as_ptr(), weights.as_ptr(), rounding, seed) })
    }
    /// The weights as floats, `[rows][cols]`.
    pub fn dequantize(&self) -> Result<Vec<f32>> {
        let mut weights = vec![0.0; self.rows * self.cols];
        // SAFETY: room for all rows.
        let status = unsafe { sys::dqt_tensor_dequantize(self.raw.as_ptr(), 0, self.rows, weights.as_mut_ptr()) };
        self.ctx.check(status)?;
        Ok(weights)
    }
    pub fn info(&self) -> Result<TensorInfo> {
        let mut info = TensorInfo::default();
        // SAFETY: the tensor is alive; so in the following.
        self.ctx.check(unsafe { sys::dqt_tensor_get_info(self.raw.as_ptr(), &mut info) })?;
        Ok(info)
    }
    /// Counts of the codes.
    pub fn stats(&self) -> Result<TensorStats> {
        let mut stats = TensorStats::default();
        self.ctx.check(unsafe { sys::dqt_tensor_get_stats(self.raw.as_ptr(), &mut stats) })?;
        Ok(stats)
    }
    /// The codes, one byte each, `[rows][cols]`.
    pub fn codes(&self) -> Result<Vec<i8>> {
        let mut codes = vec![0; self.rows * self.cols];
        // SAFETY: room for all rows.
        self.ctx.check(unsafe { sys::dqt_tensor_get_codes(self.raw.as_ptr(), 0, self.rows, codes.as_mut_ptr()) })?;
        Ok(codes)
    }
    pub fn set_codes(&mut self, codes: &[i8]) -> Result<()> {
        self.expect("codes", codes.len(), self.rows * self.cols)?;
        // SAFETY: all rows.
        self.ctx.check(unsafe { sys::dqt_tensor_set_codes(self.raw.as_ptr(), 0, self.rows, codes.as_ptr()) })
    }
    pub fn scales(&self) -> Result<Vec<f32>> {
        let mut scales = vec![0.0; self.info()?.num_scales];
        // SAFETY: room for all of them.
        self.ctx.check(unsafe { sys::dqt_tensor_get_scales(self.raw.as_ptr(), scales.as_mut_ptr()) })?;
        Ok(scales)
    }
    pub fn set_scales(&mut self, scales: &[f32]) -> Result<()> {
        self.expect("scales", scales.len(), self.info()?.num_scales)?;
        // SAFETY: all of them.
        self.ctx.check(unsafe { sys::dqt_tensor_set_scales(self.raw.as_ptr(), scales.as_ptr()) })
    }
    fn expect(&self, name: &str, found: usize, wanted: usize) -> Result<()> {
        if found == wanted {
            return Ok(());
        }
        self.ctx.refuse(sys::DQT_E_SHAPE, format!("{name} has {found} elements; it must have {wanted}"))
    }
    /// Takes codes and scales of another tensor of the same shape and format.
    pub fn copy_from(&mut self, source: &Tensor<'_>) -> Result<()> {
        // SAFETY: ours alone, and a source that is borrowed.
        self.ctx.check(unsafe { sys::dqt_tensor_copy(self.raw.as_ptr(), source.raw.as_ptr()) })
    }
    /// A tensor of other options from the dequantised weights.
    pub fn convert(&self, options: &TensorOptions, rounding: i32, seed: u64) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the tensor is alive and the options say their size.
        self.ctx
            .check(unsafe { sys::dqt_tensor_convert(self.raw.as_ptr(), rounding, seed, &sized(options), &mut raw) })?;
        Ok(Self { raw: NonNull::new(raw).expect("a tensor"), ..*self })
    }
    /// Changes the packed bytes, where codes stay within their range.
    ///
    /// # Safety
    /// Codes that do not exist, such as a ternary 2, may make later results undefined.
    pub unsafe fn edit_packed(&mut self, edit: impl FnOnce(&mut [u8])) -> Result<()> {
        let (mut data, mut bytes) = (std::ptr::null_mut(), 0);
        // SAFETY: the tensor's own bytes, ours alone.
        self.ctx.check(unsafe { sys::dqt_tensor_data(self.raw.as_ptr(), &mut data, &mut bytes) })?;
        edit(unsafe { std::slice::from_raw_parts_mut(data.cast(), bytes) });
        self.ctx.check(unsafe { sys::dqt_tensor_touch(self.raw.as_ptr()) })
    }
    /// The packed bytes: 4 ternary codes each, for example.
    pub fn packed(&self) -> Result<&[u8]> {
        let (mut data, mut bytes) = (std::ptr::null_mut(), 0);
        // SAFETY: the tensor's own bytes, borrowed with it.
        self.ctx.check(unsafe { sys::dqt_tensor_data(self.raw.as_ptr(), &mut data, &mut bytes) })?;
        Ok(unsafe { std::slice::from_raw_parts(data.cast(), bytes) })
    }
}

impl Drop for Tensor<'_> {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { sys::dqt_tensor_destroy(self.raw.as_ptr()) }
    }
}
