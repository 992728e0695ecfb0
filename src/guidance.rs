//! Guidance: what the prompt adds to a prediction without it.

/// How a prediction with the prompt and one without it become the one that the sampler takes.
///
/// ```
/// use latentflow::guidance::Guidance;
///
/// let mut cond = [2.0, 1.0];
/// Guidance::new(3.0).apply(&mut cond, &[1.0, -1.0]);
/// assert_eq!(cond, [4.0, 5.0]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// How far to go from the prediction without the prompt through that with it; 1 is that with it.
    pub scale: f32,
    /// How much of the contrast that guidance adds is taken away again, from 0 to 1.
    pub rescale: f32,
    /// Whether the prediction without the prompt is brought to the length that fits the other best.
    pub zero_star: bool,
}

impl Guidance {
    /// Returns plain classifier-free guidance.
    pub fn new(scale: f32) -> Self {
        Self { scale, rescale: 0.0, zero_star: false }
    }

    /// Makes `cond` the guided prediction, in place.
    ///
    /// # Panics
    ///
    /// Where the two differ in length.
    pub fn apply(&self, cond: &mut [f32], uncond: &[f32]) {
        assert_eq!(cond.len(), uncond.len(), "the two predictions differ in length");
        let length = if self.zero_star { zero_star_scale(cond, uncond) } else { 1.0 };
        let contrast = if self.rescale > 0.0 { standard_deviation(cond) } else { 0.0 };
        guide(cond, uncond, length, self.scale);
        if self.rescale > 0.0 {
            rescale(cond, contrast, self.rescale);
        }
    }
}

/// `cond` becomes u + scale·(cond - u) with u = length·uncond. Source: J. Ho and T. Salimans, "Classifier-free diffusion
/// guidance" (arXiv 2207.12598), in the form that diffusers' pipelines have.
fn guide(cond: &mut [f32], uncond: &[f32], length: f32, scale: f32) {
    for (c, u) in cond.iter_mut().zip(uncond) {
        let u = length * u;
        *c = u + scale * (*c - u);
    }
}

/// The factor of `uncond` that brings it nearest to `cond`: their product over its square. Source: W. Fan et al.,
/// "CFG-Zero*" (arXiv 2503.18886), equation 8; diffusers' classifier_free_zero_star_guidance.py.
fn zero_star_scale(cond: &[f32], uncond: &[f32]) -> f32 {
    let sum = |a: &[f32]| a.iter().zip(uncond).map(|(a, u)| f64::from(*a) * f64::from(*u)).sum::<f64>();
    (sum(cond) / (sum(uncond) + 1e-8)) as f32
}

/// Multiplies `guided` so that its standard deviation is `contrast` for a `share` of 1, and stays for 0. Source: S. Lin et al.,
/// "Common diffusion noise schedules and sample steps are flawed" (arXiv 2305.08891), section 3.4; `rescale_noise_cfg` of
/// diffusers' pipelines.
fn rescale(guided: &mut [f32], contrast: f64, share: f32) {
    let found = standard_deviation(guided);
    if found > 0.0 {
        let factor = share * (contrast / found) as f32 + (1.0 - share);
        guided.iter_mut().for_each(|x| *x *= factor);
    }
}

/// With n - 1 below, as PyTorch has it; 0 for a single number.
fn standard_deviation(x: &[f32]) -> f64 {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let squares = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
    (squares / (n - 1.0).max(1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COND: [f32; 4] = [2.0, 1.0, -3.0, 0.5];
    const UNCOND: [f32; 4] = [1.0, -1.0, -2.0, 0.25];

    fn guided(guidance: Guidance) -> [f32; 4] {
        let mut cond = COND;
        guidance.apply(&mut cond, &UNCOND);
        cond
    }

    #[test]
    fn it_goes_from_one_prediction_through_the_other() {
        assert_eq!(guided(Guidance::new(0.0)), UNCOND);
        assert_eq!(guided(Guidance::new(1.0)), COND);
        assert_eq!(guided(Guidance::new(3.0)), [4.0, 5.0, -5.0, 1.0]);
    }

    #[test]
    fn rescaling_gives_the_prompts_contrast_back() {
        let plain = guided(Guidance::new(7.0));
        let rescaled = guided(Guidance { rescale: 1.0, ..Guidance::new(7.0) });
        assert!((standard_deviation(&rescaled) - standard_deviation(&COND)).abs() < 1e-6);
        assert!(standard_deviation(&plain) > 2.0 * standard_deviation(&COND));
        let none = guided(Guidance { rescale: 0.0, ..Guidance::new(7.0) });
        assert_eq!(none, plain);
    }

    #[test]
    fn what_has_no_contrast_stays() {
        let mut flat = [1.0; 4];
        Guidance { rescale: 0.7, ..Guidance::new(3.0) }.apply(&mut flat, &[1.0; 4]);
        assert_eq!(flat, [1.0; 4]);
        let mut single = [1.0];
        Guidance { rescale: 0.7, ..Guidance::new(3.0) }.apply(&mut single, &[0.0]);
        assert_eq!(single, [3.0]);
    }

    #[test]
    fn zero_star_leaves_only_what_the_prompt_changes_in_direction() {
        let star = Guidance { zero_star: true, ..Guidance::new(5.0) };
        let mut longer = UNCOND.map(|x| 2.0 * x);
        star.apply(&mut longer, &UNCOND);
        for (found, expected) in longer.iter().zip(UNCOND) {
            assert!(
                (found - 2.0 * expected).abs() < 1e-6,
                "the same direction needs no guidance: {longer:?}"
            );
        }
        let mut cond = COND;
        star.apply(&mut cond, &[0.0; 4]);
        assert_eq!(cond, COND.map(|x| 5.0 * x), "a prediction of nothing is no direction");
    }
}
