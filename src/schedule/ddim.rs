//! `DDIMScheduler`: variance-preserving diffusion, deterministic.

use serde::Deserialize;

use super::betas::{Trained, UNUSABLE, noise_to_signal};
use super::checks::{self, refuse, require};
use super::spacing::Cut;
use super::steps::{Level, Original, Schedule, Step, Update};
use super::words::{BetaSchedule, PredictionType, TimestepSpacing};

/// These are the fields of diffusers' `DDIMScheduler`.
///
/// Note diffusers' default `clip_sample = true`, which is for pixels: models of latents have to say `false`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ddim {
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
    /// Whether the last step goes to no noise at all, or else to the noise of training step 0.
    pub set_alpha_to_one: bool,
    /// Which training steps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// What `leading` spacing adds to each timestep.
    pub steps_offset: usize,
    /// `epsilon`, `v_prediction` or `sample`.
    pub prediction_type: PredictionType,
    /// Whether the clean sample is clamped at each step.
    pub clip_sample: bool,
    /// The magnitude that it is clamped to, above 0.
    pub clip_sample_range: f64,
    /// Must be false.
    pub thresholding: bool,
    /// Idle, as thresholding is refused.
    pub dynamic_thresholding_ratio: f64,
    /// Idle, as thresholding is refused.
    pub sample_max_value: f64,
}

impl Default for Ddim {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            rescale_betas_zero_snr: false,
            set_alpha_to_one: true,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
            clip_sample: true,
            clip_sample_range: 1.0,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
        }
    }
}

impl Ddim {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.training().validate()?;
        checks::positive("clip_sample_range", self.clip_sample_range)?;
        refuse("thresholding", self.thresholding)
    }

    pub(super) fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let run = Run::new(
            &self.training().alphas_cumprod(),
            self.training().timesteps(Cut::Whole, steps)?,
            self.set_alpha_to_one,
            self.prediction_type,
        )?;
        let clip = if self.clip_sample { self.clip_sample_range as f32 } else { f32::INFINITY };
        let steps = run.ends().map(|ends| vec![step(self.prediction_type, clip, ends)]).collect();
        Ok(run.schedule(steps))
    }
}

/// √ā'·x₀ + √(1 - ā')·ε: J. Song et al., "Denoising diffusion implicit models" (arXiv 2010.02502), equation 12 with η = 0.
/// Source: diffusers' scheduling_ddim.py. Clipping x₀ leaves ε alone.
fn step(prediction: PredictionType, clip: f32, [before, after]: [f64; 2]) -> Step {
    // Single, as diffusers' tables are.
    let [before, after] = [before, after].map(|alpha| f64::from(alpha as f32));
    let (signal, noise) = (before.sqrt(), (1.0 - before).sqrt());
    let next_noise = (1.0 - after).sqrt();
    let [sample, output] = prediction.epsilon(signal, noise).map(|factor| (next_noise * factor) as f32);
    let update = Update { sample, original: after.sqrt() as f32, output, ..Update::default() };
    Step::new(Original { clip, ..prediction.original(signal, noise) }, update)
}

/// The cumulated alphas along a run of diffusers' DDIM schedulers.
pub(super) struct Run {
    timesteps: Vec<f64>,
    /// One more than there are timesteps, the last being that of the end.
    before: Vec<f64>,
    after: Vec<f64>,
}

impl Run {
    /// The level after a step is that of the training step `num_train_timesteps / steps` further down, which is the next
    /// timestep only where the division leaves no rest. That is diffusers' arithmetic.
    pub(super) fn new(
        alphas_cumprod: &[f64],
        timesteps: Vec<f64>,
        set_alpha_to_one: bool,
        prediction_type: PredictionType,
    ) -> Result<Self, String> {
        let stride = alphas_cumprod.len() / timesteps.len();
        let last = if set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
        let after = |t: &f64| (*t as usize).checked_sub(stride).map_or(last, |t| alphas_cumprod[t]);
        let after = timesteps.iter().map(after).collect();
        let mut before: Vec<f64> = timesteps.iter().map(|&t| alphas_cumprod[t as usize]).collect();
        check_alphas(&before, prediction_type)?;
        before.push(last);
        Ok(Self { timesteps, before, after })
    }

    /// The training step at which step `index` begins.
    pub(super) fn timestep(&self, index: usize) -> usize {
        self.timesteps[index] as usize
    }

    /// ā before and after each step.
    pub(super) fn ends(&self) -> impl Iterator<Item = [f64; 2]> {
        self.before.iter().zip(&self.after).map(|(&before, &after)| [before, after])
    }

    pub(super) fn schedule(&self, steps: Vec<Vec<Step>>) -> Schedule {
        let alphas = || self.before.iter().map(|&alpha| alpha as f32);
        let timesteps = self.timesteps.iter().map(|&t| t as f32).collect();
        let levels = alphas().map(Level::variance_preserving).collect();
        Schedule::new(timesteps, alphas().map(noise_to_signal).collect(), levels, steps)
    }
}

/// Refuses cumulated alphas that a step can't begin with.
pub(super) fn check_alphas(before: &[f64], prediction_type: PredictionType) -> Result<(), String> {
    // Not a number where the rescaling had but one training step to work on.
    if !before.iter().all(|&alpha| (0.0..1.0).contains(&(alpha as f32))) {
        return Err(UNUSABLE.into());
    }
    require(
        prediction_type != PredictionType::Epsilon
            || before.iter().all(|&alpha| alpha as f32 >= f32::MIN_POSITIVE),
        "prediction_type",
        "epsilon",
        "a step of pure noise (`rescale_betas_zero_snr`) needs `v_prediction` or `sample`",
    )
}
