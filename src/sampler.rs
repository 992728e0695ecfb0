//! Samplers: one step from a noise level to the next.
//!
//! ```
//! # use latentflow::{sampler::{Sampler, guide}, schedule::SchedulerConfig};
//! # let config: SchedulerConfig = toml::from_str("type = 'FlowMatchEulerDiscreteScheduler'")?;
//! # let denoise = |latents: &[f32], _timestep: f32, _prompt: &str| latents.to_vec();
//! let mut latents = vec![1.0f32; 64]; // noise times `init_noise_sigma`
//! let mut sampler = Sampler::new(&config, config.schedule(4, 0)?);
//! for index in 0..sampler.schedule().len() {
//!     let timestep = sampler.schedule().timesteps[index];
//!     let scale = sampler.scale_model_input(index);
//!     let input: Vec<f32> = latents.iter().map(|x| x * scale).collect();
//!     let mut prediction = denoise(&input, timestep, "a cat");
//!     guide(&mut prediction, &denoise(&input, timestep, ""), 5.0);
//!     sampler.step(index, &mut latents, &prediction);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The arithmetic is single precision in diffusers' order of operations; `tests/reference.rs` holds whole loops
//! against it.

use std::sync::Arc;

use crate::schedule::{Precision, PredictionType, Schedule, SchedulerConfig};

/// This is the state of one loop: its schedule, and what a multistep solver remembers.
#[derive(Debug, Clone)]
pub struct Sampler {
    schedule: Arc<Schedule>,
    update: Update,
}

#[derive(Debug, Clone)]
enum Update {
    FlowEuler,
    UniPc(UniPc),
    Ddim { steps: Vec<DdimStep>, prediction: PredictionType, clip: Option<f32> },
    Euler(PredictionType),
}

impl Sampler {
    /// Returns a sampler at the beginning of `schedule`, which must be one of `config`.
    ///
    /// # Panics
    ///
    /// Where `schedule` is of another type of scheduler than `config`.
    pub fn new(config: &SchedulerConfig, schedule: impl Into<Arc<Schedule>>) -> Self {
        let schedule = schedule.into();
        let needs_alphas =
            matches!(config, SchedulerConfig::DDIMScheduler(_) | SchedulerConfig::CogVideoXDDIMScheduler(_));
        assert_eq!(needs_alphas, !schedule.alphas.is_empty(), "the schedule is not one of {}", config.name());
        let update = match config {
            SchedulerConfig::FlowMatchEulerDiscreteScheduler(_) => Update::FlowEuler,
            SchedulerConfig::UniPCMultistepScheduler(config) => {
                Update::UniPc(UniPc::new(config.solver_order, config.disable_corrector.clone()))
            }
            SchedulerConfig::DDIMScheduler(config) => Update::Ddim {
                steps: schedule.alphas.iter().map(|&alphas| DdimStep::new(alphas)).collect(),
                prediction: config.prediction_type,
                clip: config.clip_sample.then_some(config.clip_sample_range as f32),
            },
            SchedulerConfig::CogVideoXDDIMScheduler(config) => Update::Ddim {
                steps: schedule
                    .alphas
                    .iter()
                    .map(|&alphas| DdimStep::cogvideox(alphas, config.precision()))
                    .collect(),
                prediction: config.prediction_type,
                clip: None,
            },
            SchedulerConfig::EulerDiscreteScheduler(config) => Update::Euler(config.prediction_type),
        };
        Self { schedule, update }
    }

    /// Returns the schedule that this sampler goes through.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Returns what the sample is multiplied by before the model sees it at step `index`.
    ///
    /// It is 1/√(sigma² + 1) for `EulerDiscreteScheduler`, whose samples grow with the noise, and 1 for all others.
    ///
    /// # Panics
    ///
    /// Where `index` is not below the schedule's length.
    pub fn scale_model_input(&self, index: usize) -> f32 {
        assert!(index < self.schedule.len(), "step {index} of {}", self.schedule.len());
        match self.update {
            Update::Euler(_) => {
                let sigma = self.schedule.sigmas[index];
                1.0 / (sigma * sigma + 1.0).sqrt()
            }
            Update::FlowEuler | Update::UniPc(_) | Update::Ddim { .. } => 1.0,
        }
    }

    /// Takes `sample` over step `index`, from noise level `sigmas[index]` to `sigmas[index + 1]`, in place.
    ///
    /// `model_output` is what the model made of this sample at `timesteps[index]`, guidance included. Steps follow one
    /// another; a loop may begin at any index. A multistep solver that meets another index or length than the next one
    /// forgets what came before.
    ///
    /// # Panics
    ///
    /// Where `sample` and `model_output` differ in length, or `index` is not below the schedule's length.
    pub fn step(&mut self, index: usize, sample: &mut [f32], model_output: &[f32]) {
        assert_eq!(sample.len(), model_output.len(), "sample and model output differ in length");
        assert!(index < self.schedule.len(), "step {index} of {}", self.schedule.len());
        let (sigma, next) = (self.schedule.sigmas[index], self.schedule.sigmas[index + 1]);
        match &mut self.update {
            // Euler's method along the flow, dx/ds = v. Source: diffusers' scheduling_flow_match_euler_discrete.py.
            Update::FlowEuler => {
                let dt = next - sigma;
                for (x, v) in sample.iter_mut().zip(model_output) {
                    *x += dt * v;
                }
            }
            Update::UniPc(solver) => solver.step(&self.schedule.sigmas, index, sample, model_output),
            Update::Ddim { steps, prediction, clip } => {
                steps[index].apply(*prediction, *clip, sample, model_output)
            }
            Update::Euler(prediction) => euler(*prediction, sigma, next, sample, model_output),
        }
    }

    /// Forgets what a multistep solver remembers, for another run through the same schedule.
    pub fn reset(&mut self) {
        if let Update::UniPc(solver) = &mut self.update {
            solver.reset();
        }
    }
}

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

/// Euler's method in k-diffusion's form, dx/dσ = (x - x₀)/σ (Karras et al., arXiv 2206.00364, algorithm 2 without
/// churn). Source: diffusers' scheduling_euler_discrete.py.
fn euler(prediction: PredictionType, sigma: f32, next: f32, sample: &mut [f32], model_output: &[f32]) {
    let dt = next - sigma;
    let variance = sigma * sigma + 1.0;
    let c_out = -sigma / variance.sqrt();
    let original = |x: f32, out: f32| match prediction {
        PredictionType::VPrediction => out * c_out + x / variance,
        PredictionType::Sample => out,
        PredictionType::Epsilon | PredictionType::FlowPrediction => x - sigma * out,
    };
    for (x, &out) in sample.iter_mut().zip(model_output) {
        let derivative = (*x - original(*x, out)) / sigma;
        *x += derivative * dt;
    }
}

/// The factors of one DDIM step, ā being the cumulated alpha before it and ā' after it.
#[derive(Debug, Clone, Copy)]
struct DdimStep {
    /// √ā
    signal: f32,
    /// √(1 - ā)
    noise: f32,
    to: DdimTarget,
}

/// How the next sample is made up, which is the same number in two ways that round differently.
#[derive(Debug, Clone, Copy)]
enum DdimTarget {
    /// √ā'·x₀ + √(1 - ā')·ε: J. Song et al., "Denoising diffusion implicit models" (arXiv 2010.02502), equation 12
    /// with η = 0. Source: diffusers' scheduling_ddim.py.
    Noise { signal: f32, noise: f32 },
    /// a·x + b·x₀ with a = √((1 - ā')/(1 - ā)) and b = √ā' - √ā·a. Source: diffusers' scheduling_ddim_cogvideox.py.
    Sample { a: f32, b: f32 },
}

impl DdimStep {
    fn new((before, after): (f64, f64)) -> Self {
        let (before, after) = (before as f32, after as f32);
        Self {
            signal: before.sqrt(),
            noise: (1.0 - before).sqrt(),
            to: DdimTarget::Noise { signal: after.sqrt(), noise: (1.0 - after).sqrt() },
        }
    }

    fn cogvideox((before, after): (f64, f64), precision: Precision) -> Self {
        let r = |x| precision.round(x);
        let signal = r(before.sqrt());
        let a = r(r(r(1.0 - after) / r(1.0 - before)).sqrt());
        let b = r(r(after.sqrt()) - r(signal * a));
        Self {
            signal: signal as f32,
            noise: r(1.0 - before).sqrt() as f32,
            to: DdimTarget::Sample { a: a as f32, b: b as f32 },
        }
    }

    fn apply(&self, prediction: PredictionType, clip: Option<f32>, sample: &mut [f32], model_output: &[f32]) {
        let Self { signal, noise, to } = *self;
        for (x, &out) in sample.iter_mut().zip(model_output) {
            let (mut original, epsilon) = match prediction {
                PredictionType::VPrediction => (signal * *x - noise * out, signal * out + noise * *x),
                PredictionType::Sample => (out, (*x - signal * out) / noise),
                PredictionType::Epsilon | PredictionType::FlowPrediction => {
                    ((*x - noise * out) / signal, out)
                }
            };
            if let Some(range) = clip {
                original = original.clamp(-range, range);
            }
            *x = match to {
                DdimTarget::Noise { signal, noise } => signal * original + noise * epsilon,
                DdimTarget::Sample { a, b } => a * *x + b * original,
            };
        }
    }
}

/// UniPC: W. Zhao et al., "UniPC: a unified predictor-corrector framework" (arXiv 2302.04867), with B(h) = eʰ - 1 and
/// prediction of the clean sample, on rectified flow (signal 1 - σ, noise σ). Source: diffusers'
/// scheduling_unipc_multistep.py.
///
/// Each step first corrects the sample that the last step predicted, with what the model now said about it, and then
/// predicts the next one.
#[derive(Debug, Clone)]
struct UniPc {
    solver_order: usize,
    disable_corrector: Vec<usize>,
    /// Clean samples as the model saw them, the latest first. One more than the order, to write the newest into.
    originals: Vec<Vec<f32>>,
    /// The corrected sample that the last step began with.
    last_sample: Vec<f32>,
    /// How many entries of `originals` are of this run.
    known: usize,
    /// The order of the last prediction, which the next correction takes.
    order: usize,
    /// The index that continues this run.
    next_index: usize,
}

const MAX_ORDER: usize = 3;

impl UniPc {
    fn new(solver_order: usize, disable_corrector: Vec<usize>) -> Self {
        assert!((1..=MAX_ORDER).contains(&solver_order), "solver order {solver_order}");
        Self {
            solver_order,
            disable_corrector,
            originals: vec![Vec::new(); solver_order + 1],
            last_sample: Vec::new(),
            known: 0,
            order: 0,
            next_index: 0,
        }
    }

    fn reset(&mut self) {
        self.known = 0;
        self.order = 0;
    }

    fn step(&mut self, sigmas: &[f32], index: usize, sample: &mut [f32], model_output: &[f32]) {
        if self.last_sample.len() != sample.len() {
            self.last_sample = vec![0.0; sample.len()];
            self.originals.fill(vec![0.0; sample.len()]);
            self.reset();
        } else if self.known > 0 && index != self.next_index {
            self.reset();
        }

        // The oldest becomes the newest: originals[0] is of this step, originals[1] of the last one, ...
        self.originals.rotate_right(1);
        let sigma = sigmas[index];
        for ((original, x), v) in self.originals[0].iter_mut().zip(&*sample).zip(model_output) {
            *original = x - sigma * v;
        }

        if self.known > 0 && !self.disable_corrector.contains(&(index - 1)) {
            let weights = Weights::corrector(sigmas, index, self.order);
            weights.apply(&self.last_sample, &self.originals[1..], Some(&self.originals[0]), sample);
        }
        self.last_sample.copy_from_slice(sample);

        let steps = sigmas.len() - 1;
        self.order = self.solver_order.min(steps - index).min(self.known + 1);
        let weights = Weights::predictor(sigmas, index, self.order);
        weights.apply(&self.last_sample, &self.originals, None, sample);

        self.known = (self.known + 1).min(self.solver_order);
        self.next_index = index + 1;
    }
}

/// The numbers of one UniPC update from noise level s to t: keep·x - drift·m₀ - gain·(Σ rho·D), D being the differences
/// of the other clean samples to m₀ over their distances in half the logarithm of the signal-to-noise ratio.
///
/// All of it is single precision, as in diffusers, whose coefficients are tensors of single numbers.
#[derive(Debug)]
struct Weights {
    keep: f32,
    drift: f32,
    gain: f32,
    /// The distances of the earlier clean samples, in units of this step.
    distances: [f32; MAX_ORDER - 1],
    /// The weights of the earlier clean samples, then of the present one; `order` of them where there is a present one.
    rhos: [f32; MAX_ORDER],
    /// How many earlier clean samples count.
    earlier: usize,
}

impl Weights {
    /// UniP: from level `index` to the next, with the clean samples up to `index`.
    fn predictor(sigmas: &[f32], index: usize, order: usize) -> Self {
        let (mut weights, matrix, rhs) = Self::new(sigmas, index, index + 1, order);
        match order {
            1 => {}
            2 => weights.rhos[0] = 0.5,
            _ => weights.rhos = solve(matrix, rhs, order - 1),
        }
        weights
    }

    /// UniC: from the last level to that of `index`, with the clean sample at `index` as well.
    fn corrector(sigmas: &[f32], index: usize, order: usize) -> Self {
        let (mut weights, matrix, rhs) = Self::new(sigmas, index - 1, index, order);
        match order {
            1 => weights.rhos[0] = 0.5,
            _ => weights.rhos = solve(matrix, rhs, order),
        }
        weights
    }

    fn new(
        sigmas: &[f32],
        from: usize,
        to: usize,
        order: usize,
    ) -> (Self, [[f32; MAX_ORDER]; MAX_ORDER], [f32; MAX_ORDER]) {
        let half_log_snr = |index: usize| (1.0 - sigmas[index]).ln() - sigmas[index].ln();
        let origin = half_log_snr(from);
        let h = half_log_snr(to) - origin; // infinite in the last step, which is of order 1
        let phi_1 = (-h).exp_m1();

        let mut distances = [1.0; MAX_ORDER];
        for (k, distance) in distances[..order - 1].iter_mut().enumerate() {
            *distance = (half_log_snr(from - k - 1) - origin) / h;
        }
        let mut matrix = [[0.0; MAX_ORDER]; MAX_ORDER];
        let mut rhs = [0.0; MAX_ORDER];
        let mut phi_k = phi_1 / -h - 1.0;
        let mut factorial = 1.0;
        for row in 0..order {
            for column in 0..order {
                // The last column is the present sample, at distance 1.
                let distance = if column + 1 == order { 1.0 } else { distances[column] };
                matrix[row][column] = f32::powi(distance, row as i32);
            }
            rhs[row] = phi_k * factorial / phi_1;
            factorial *= (row + 2) as f32;
            phi_k = phi_k / -h - 1.0 / factorial;
        }

        let signal = 1.0 - sigmas[to];
        let weights = Self {
            keep: sigmas[to] / sigmas[from],
            drift: signal * phi_1,
            gain: signal * phi_1, // B(h) is the same function
            distances: [distances[0], distances[1]],
            rhos: [0.0; MAX_ORDER],
            earlier: order - 1,
        };
        (weights, matrix, rhs)
    }

    fn distances(&self) -> &[f32] {
        &self.distances[..self.earlier]
    }

    /// Writes the updated sample to `out`. `originals` begins with m₀; `present` is the corrector's.
    fn apply(&self, from: &[f32], originals: &[Vec<f32>], present: Option<&Vec<f32>>, out: &mut [f32]) {
        let Some((m0, earlier)) = originals.split_first() else {
            return;
        };
        for (j, out) in out.iter_mut().enumerate() {
            let mut sum = 0.0;
            for ((original, distance), rho) in earlier.iter().zip(self.distances()).zip(self.rhos) {
                sum += rho * ((original[j] - m0[j]) / distance);
            }
            if let Some(present) = present {
                sum += self.rhos[self.earlier] * (present[j] - m0[j]);
            }
            *out = self.keep * from[j] - self.drift * m0[j] - self.gain * sum;
        }
    }
}

/// Solves the first `n` equations for as many unknowns, by elimination with row exchanges.
fn solve(mut matrix: [[f32; MAX_ORDER]; MAX_ORDER], mut rhs: [f32; MAX_ORDER], n: usize) -> [f32; MAX_ORDER] {
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))
            .unwrap_or(column);
        matrix.swap(column, pivot);
        rhs.swap(column, pivot);
        for row in column + 1..n {
            let pivot_row = matrix[column];
            let factor = matrix[row][column] / pivot_row[column];
            for (x, pivot) in matrix[row].iter_mut().zip(pivot_row) {
                *x -= factor * pivot;
            }
            rhs[row] -= factor * rhs[column];
        }
    }
    let mut solution = [0.0; MAX_ORDER];
    for row in (0..n).rev() {
        let known: f32 = (row + 1..n).map(|k| matrix[row][k] * solution[k]).sum();
        solution[row] = (rhs[row] - known) / matrix[row][row];
    }
    solution
}
