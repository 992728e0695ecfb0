//! Guidance: what the prompt adds to a prediction without it.

/// Classifier-free guidance in place: `cond` becomes uncond + guidance_scale·(cond - uncond).
///
/// A scale of 1 leaves `cond`, up to rounding; below 1 there is no reason to run the model without the prompt. Source:
/// J. Ho and T. Salimans, "Classifier-free diffusion guidance" (arXiv 2207.12598), in the form that diffusers' pipelines
/// have.
///
/// # Panics
///
/// Where the two differ in length.
pub fn guide(cond: &mut [f32], uncond: &[f32], guidance_scale: f32) {
    assert_eq!(cond.len(), uncond.len(), "the two predictions differ in length");
    for (c, u) in cond.iter_mut().zip(uncond) {
        *c = u + guidance_scale * (*c - u);
    }
}
