//! `EulerDiscreteScheduler` and `EulerAncestralDiscreteScheduler`: a variance-exploding view of diffusion with betas, one
//! Euler step at a time.

use serde::Deserialize;

use super::betas::{Levels, Trained, refuse_exotic_sigmas};
use super::checks::{self, require};
use super::spacing::{Cut, interpolate};
use super::steps::{Level, Original, Schedule, Step, Update};
use super::words::{
    BetaSchedule, FinalSigmasType, InterpolationType, PredictionType, TimestepSpacing, TimestepType, Word,
};

/// These are the fields of diffusers' `EulerDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EulerDiscrete {
    /// The number of training steps.
    pub num_train_timesteps: usize,
    /// The first beta, in `(0, 1)`.
    pub beta_start: f64,
    /// The last beta, in `(0, 1)`.
    pub beta_end: f64,
    /// How the betas go from the first to the last.
    pub beta_schedule: BetaSchedule,
    /// Whether the betas are rescaled so that the last training step is nearly pure noise.
    pub rescale_betas_zero_snr: bool,
    /// Which training steps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// What `leading` spacing adds to each timestep.
    pub steps_offset: usize,
    /// `epsilon`, `v_prediction` or `sample`.
    pub prediction_type: PredictionType,
    /// What follows the last noise level.
    pub final_sigmas_type: FinalSigmasType,
    /// Must be `linear`.
    pub interpolation_type: InterpolationType,
    /// Must be `discrete`.
    pub timestep_type: TimestepType,
    /// Whether the noise levels are those of Karras et al. (arXiv 2206.00364), between the first and the last one.
    pub use_karras_sigmas: bool,
    /// Must be false.
    pub use_exponential_sigmas: bool,
    /// Must be false.
    pub use_beta_sigmas: bool,
}

impl Default for EulerDiscrete {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            rescale_betas_zero_snr: false,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
            final_sigmas_type: FinalSigmasType::Zero,
            interpolation_type: InterpolationType::Linear,
            timestep_type: TimestepType::Discrete,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
        }
    }
}

/// These are the fields of diffusers' `EulerAncestralDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EulerAncestralDiscrete {
    /// The number of training steps.
    pub num_train_timesteps: usize,
    /// The first beta, in `(0, 1)`.
    pub beta_start: f64,
    /// The last beta, in `(0, 1)`.
    pub beta_end: f64,
    /// How the betas go from the first to the last.
    pub beta_schedule: BetaSchedule,
    /// Whether the betas are rescaled so that the last training step is nearly pure noise.
    pub rescale_betas_zero_snr: bool,
    /// Which training steps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// What `leading` spacing adds to each timestep.
    pub steps_offset: usize,
    /// `epsilon` or `v_prediction`.
    pub prediction_type: PredictionType,
}

impl Default for EulerAncestralDiscrete {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            rescale_betas_zero_snr: false,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
        }
    }
}

impl EulerDiscrete {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.training().validate()?;
        require(
            self.interpolation_type == InterpolationType::Linear,
            "interpolation_type",
            Word(self.interpolation_type),
            "must be `linear`",
        )?;
        require(
            self.timestep_type == TimestepType::Discrete,
            "timestep_type",
            Word(self.timestep_type),
            "must be `discrete`",
        )?;
        refuse_exotic_sigmas(self.use_exponential_sigmas, self.use_beta_sigmas)
    }

    /// `EulerDiscreteScheduler.set_timesteps`.
    pub(super) fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let table = self.training().sigmas();
        let timesteps = self.training().timesteps(Cut::Exact, steps)?;
        let levels = if self.use_karras_sigmas {
            let ends = [timesteps[0], timesteps[steps - 1]].map(|t| interpolate(&table, t));
            Levels::karras(ends, steps, &table, self.final_sigmas_type)?
        } else {
            Levels::at(timesteps, &table, self.final_sigmas_type)?
        };
        Ok(schedule(levels, self.timestep_spacing, |sigma, next| {
            step(self.prediction_type, sigma, next, Update::default())
        }))
    }
}

impl EulerAncestralDiscrete {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.training().validate()?;
        checks::no_sample_prediction(self.prediction_type)
    }

    /// `EulerAncestralDiscreteScheduler.set_timesteps`.
    pub(super) fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let timesteps = self.training().timesteps(Cut::Exact, steps)?;
        let levels = Levels::at(timesteps, &self.training().sigmas(), FinalSigmasType::Zero)?;
        Ok(schedule(levels, self.timestep_spacing, |sigma, next| {
            // A part of the next level is taken down to and the rest drawn afresh: k-diffusion's get_ancestral_step. Source:
            // diffusers' scheduling_euler_ancestral_discrete.py.
            let up = (next * next * (sigma * sigma - next * next) / (sigma * sigma)).sqrt();
            let down = (next * next - up * up).sqrt();
            let step = step(self.prediction_type, sigma, down, Update { noise: up, ..Update::default() });
            Step { draws: 1, ..step }
        }))
    }
}

fn schedule(levels: Levels, spacing: TimestepSpacing, step: impl Fn(f32, f32) -> Step) -> Schedule {
    let Levels { timesteps, sigmas } = levels;
    let init_noise_sigma = match spacing {
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => sigmas[0],
        TimestepSpacing::Leading => (sigmas[0] * sigmas[0] + 1.0).sqrt(),
    };
    let steps = sigmas.windows(2).map(|ends| vec![step(ends[0], ends[1])]).collect();
    let levels = sigmas.iter().map(|&sigma| Level::variance_exploding(sigma)).collect();
    let timesteps = timesteps.into_iter().map(|t| t as f32).collect();
    Schedule { init_noise_sigma, ..Schedule::new(timesteps, sigmas, levels, steps) }
}

/// Euler's method in k-diffusion's form, dx/dσ = (x - x₀)/σ (Karras et al., arXiv 2206.00364, algorithm 2 without churn):
/// the next sample is (σ'/σ)·x + (1 - σ'/σ)·x₀. Source: diffusers' scheduling_euler_discrete.py.
fn step(prediction: PredictionType, sigma: f32, next: f32, update: Update) -> Step {
    let variance = sigma * sigma + 1.0;
    let (sample, output) = match prediction {
        PredictionType::VPrediction => (1.0 / variance, -sigma / variance.sqrt()),
        PredictionType::Sample => (0.0, 1.0),
        PredictionType::Epsilon | PredictionType::FlowPrediction => (1.0, -sigma),
    };
    let original = Original { sample, output, clip: f32::INFINITY };
    let kept = next / sigma;
    let update = Update { sample: kept, original: 1.0 - kept, ..update };
    Step { input_scale: 1.0 / variance.sqrt(), ..Step::new(original, update) }
}
