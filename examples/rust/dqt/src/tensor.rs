use crate::{sized, sys, Context, Result, TensorOptions};
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
        if weights.len() != self.rows * self.cols {
            let sentence =
                format!("weights has {} elements; it must have {} * {}", weights.len(), self.rows, self.cols);
            return self.ctx.refuse(sys::DQT_E_SHAPE, sentence);
        }
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
