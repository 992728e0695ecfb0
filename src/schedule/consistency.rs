//! `LCMScheduler` and `TCDScheduler`: models distilled to a handful of steps, each of which goes to the clean sample and back
//! up with fresh noise.

use serde::Deserialize;

use super::betas::{Trained, noise_to_signal};
use super::checks::{self, refuse, require};
use super::ddim::check_alphas;
use super::steps::{Level, Original, Schedule, Step, Update};
use super::words::{BetaSchedule, PredictionType, TimestepSpacing};

/// These are the fields of diffusers' `LCMScheduler`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lcm {
    /// The number of training steps.
    pub num_train_timesteps: usize,
    /// The first beta, in `(0, 1)`.
    pub beta_start: f64,
    /// The last beta, in `(0, 1)`.
    pub beta_end: f64,
    /// How the betas go from the first to the last.
    pub beta_schedule: BetaSchedule,
    /// Whether the betas are rescaled so that the last training step is pure noise (arXiv 2305.08891).
    pub rescale_betas_zero_snr: bool,
    /// The number of steps of the distillation, of which the steps of a run are some.
    pub original_inference_steps: usize,
    /// `epsilon`, `v_prediction` or `sample`.
    pub prediction_type: PredictionType,
    /// What a timestep is multiplied by to say how much of the sample a step may keep, above 0.
    pub timestep_scaling: f64,
    /// Whether the clean sample is clamped at each step.
    pub clip_sample: bool,
    /// The magnitude that it is clamped to, above 0.
    pub clip_sample_range: f64,
    /// Idle: the steps are those of the distillation.
    pub timestep_spacing: TimestepSpacing,
    /// Idle, like `timestep_spacing`.
    pub steps_offset: usize,
    /// Idle: no step goes below the lowest level of training.
    pub set_alpha_to_one: bool,
    /// Must be false.
    pub thresholding: bool,
    /// Idle, as thresholding is refused.
    pub dynamic_thresholding_ratio: f64,
    /// Idle, as thresholding is refused.
    pub sample_max_value: f64,
}

impl Default for Lcm {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            rescale_betas_zero_snr: false,
            original_inference_steps: 50,
            prediction_type: PredictionType::Epsilon,
            timestep_scaling: 10.0,
            clip_sample: false,
            clip_sample_range: 1.0,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
        }
    }
}

/// These are the fields of diffusers' `TCDScheduler`, plus `eta`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tcd {
    /// The number of training steps.
    pub num_train_timesteps: usize,
    /// The first beta, in `(0, 1)`.
    pub beta_start: f64,
    /// The last beta, in `(0, 1)`.
    pub beta_end: f64,
    /// How the betas go from the first to the last.
    pub beta_schedule: BetaSchedule,
    /// Whether the betas are rescaled so that the last training step is pure noise (arXiv 2305.08891).
    pub rescale_betas_zero_snr: bool,
    /// The number of steps of the distillation, of which the steps of a run are some.
    pub original_inference_steps: usize,
    /// `epsilon`, `v_prediction` or `sample`.
    pub prediction_type: PredictionType,
    /// γ, how much of each step is drawn afresh, from 0 to 1. In diffusers it is an argument of `step`, with this default,
    /// for which pipelines have a default of 0.
    pub eta: f64,
    /// Idle: this scheduler of diffusers never clips, whatever its configuration says.
    pub clip_sample: bool,
    /// Idle, like `clip_sample`.
    pub clip_sample_range: f64,
    /// Idle, as diffusers doesn't look at it.
    pub timestep_scaling: f64,
    /// Idle: the steps are those of the distillation.
    pub timestep_spacing: TimestepSpacing,
    /// Idle, like `timestep_spacing`.
    pub steps_offset: usize,
    /// Idle: no step goes below the lowest level of training.
    pub set_alpha_to_one: bool,
    /// Must be false.
    pub thresholding: bool,
    /// Idle, as thresholding is refused.
    pub dynamic_thresholding_ratio: f64,
    /// Idle, as thresholding is refused.
    pub sample_max_value: f64,
}

impl Default for Tcd {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            rescale_betas_zero_snr: false,
            original_inference_steps: 50,
            prediction_type: PredictionType::Epsilon,
            eta: 0.3,
            clip_sample: false,
            clip_sample_range: 1.0,
            timestep_scaling: 10.0,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
        }
    }
}

impl Lcm {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.training().validate()?;
        check_original_steps(self.original_inference_steps, self.num_train_timesteps)?;
        checks::positive("timestep_scaling", self.timestep_scaling)?;
        checks::positive("clip_sample_range", self.clip_sample_range)?;
        refuse("thresholding", self.thresholding)
    }

    /// `LCMScheduler.set_timesteps` and `step`: S. Luo et al., "Latent consistency models" (arXiv 2310.04378), algorithm 1.
    pub(super) fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let timesteps = timesteps(self.original_inference_steps, self.num_train_timesteps, steps)?;
        let alphas = self.training().alphas_cumprod();
        let clip = if self.clip_sample { self.clip_sample_range as f32 } else { f32::INFINITY };
        let step = |index: usize| {
            let t = timesteps[index];
            let (signal, noise) = (alphas[t].sqrt(), (1.0 - alphas[t]).sqrt());
            // How much of the sample and of x₀ make the denoised one: nothing but the sample at timestep 0.
            const SIGMA_DATA: f64 = 0.5;
            let scaled = t as f64 * self.timestep_scaling;
            let total = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
            let (skip, out) = (SIGMA_DATA * SIGMA_DATA / total, scaled / total.sqrt());
            // The last step stays clean.
            let next = timesteps.get(index + 1).map_or(1.0, |&t| alphas[t]);
            let update = Update {
                sample: (next.sqrt() * skip) as f32,
                original: (next.sqrt() * out) as f32,
                noise: (1.0 - next).sqrt() as f32,
                ..Update::default()
            };
            let original = Original { clip, ..self.prediction_type.original(signal, noise) };
            Step { draws: usize::from(index + 1 < timesteps.len()), ..Step::new(original, update) }
        };
        let steps = (0..steps).map(|index| vec![step(index)]).collect();
        schedule(&timesteps, &alphas, 1.0, self.prediction_type, steps)
    }
}

impl Tcd {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.training().validate()?;
        check_original_steps(self.original_inference_steps, self.num_train_timesteps)?;
        require((0.0..=1.0).contains(&self.eta), "eta", self.eta, "must be from 0 to 1")?;
        refuse("thresholding", self.thresholding)
    }

    /// `TCDScheduler.set_timesteps` and `step`: J. Zheng et al., "Trajectory consistency distillation" (arXiv 2402.19159),
    /// strategic stochastic sampling, algorithm 4.
    pub(super) fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let timesteps = timesteps(self.original_inference_steps, self.num_train_timesteps, steps)?;
        let alphas = self.training().alphas_cumprod();
        let step = |index: usize| {
            let t = timesteps[index];
            let (signal, noise) = (alphas[t].sqrt(), (1.0 - alphas[t]).sqrt());
            let next = timesteps.get(index + 1).copied().unwrap_or(0);
            // Down to timestep s without noise, and back up to the next one with it.
            let s = ((1.0 - self.eta) as f32 * next as f32) as usize;
            let draws = self.eta > 0.0 && index + 1 < timesteps.len();
            let ratio = if draws { alphas[next] / alphas[s] } else { 1.0 };
            let to = ratio.sqrt();
            let [sample, output] = self
                .prediction_type
                .epsilon(signal, noise)
                .map(|e| (to * (1.0 - alphas[s]).sqrt() * e) as f32);
            let update = Update {
                sample,
                original: (to * alphas[s].sqrt()) as f32,
                output,
                noise: (1.0 - ratio).sqrt() as f32,
                ..Update::default()
            };
            let original = self.prediction_type.original(signal, noise);
            Step { draws: usize::from(draws), ..Step::new(original, update) }
        };
        let steps = (0..steps).map(|index| vec![step(index)]).collect();
        schedule(&timesteps, &alphas, alphas[0], self.prediction_type, steps)
    }
}

fn schedule(
    timesteps: &[usize],
    alphas: &[f64],
    last: f64,
    prediction_type: PredictionType,
    steps: Vec<Vec<Step>>,
) -> Result<Schedule, String> {
    let mut levels: Vec<f64> = timesteps.iter().map(|&t| alphas[t]).collect();
    check_alphas(&levels, prediction_type)?;
    levels.push(last);
    let levels = || levels.iter().map(|&alpha| alpha as f32);
    Ok(Schedule::new(
        timesteps.iter().map(|&t| t as f32).collect(),
        levels().map(noise_to_signal).collect(),
        levels().map(Level::variance_preserving).collect(),
        steps,
    ))
}

/// The training steps to visit, highest first: evenly spaced ones of the distillation's.
fn timesteps(original: usize, train: usize, steps: usize) -> Result<Vec<usize>, String> {
    require(
        steps <= original,
        "num_inference_steps",
        steps,
        format_args!("must be from 1 to {original}, `original_inference_steps`"),
    )?;
    let stride = original as f64 / steps as f64;
    Ok((0..steps).map(|i| (original - (i as f64 * stride) as usize) * (train / original) - 1).collect())
}

fn check_original_steps(value: usize, train: usize) -> Result<(), String> {
    require(
        (1..=train).contains(&value),
        "original_inference_steps",
        value,
        format_args!("must be from 1 to {train}, `num_train_timesteps`"),
    )
}
