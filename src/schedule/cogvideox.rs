//! `CogVideoXDDIMScheduler` and `CogVideoXDPMScheduler`: variance-preserving diffusion with a shifted signal-to-noise ratio.

use serde::Deserialize;

use super::betas::Trained;
use super::checks;
use super::ddim::Run;
use super::spacing::Cut;
use super::steps::{Schedule, Step, Update};
use super::words::{BetaSchedule, PredictionType, TimestepSpacing};

/// These are the fields of diffusers' `CogVideoXDDIMScheduler` and `CogVideoXDPMScheduler`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CogVideoX {
    /// The number of training steps.
    pub num_train_timesteps: usize,
    /// The first beta, in `(0, 1)`.
    pub beta_start: f64,
    /// The last beta, in `(0, 1)`.
    pub beta_end: f64,
    /// How the betas go from the first to the last.
    pub beta_schedule: BetaSchedule,
    /// What the signal-to-noise ratio is divided by, above 0; 1 leaves it alone.
    pub snr_shift_scale: f64,
    /// Whether the noise levels are rescaled so that the last training step is pure noise (arXiv 2305.08891).
    pub rescale_betas_zero_snr: bool,
    /// Whether the last step goes to no noise at all, or else to the noise of training step 0.
    pub set_alpha_to_one: bool,
    /// Which training steps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// What `leading` spacing adds to each timestep.
    pub steps_offset: usize,
    /// `epsilon`, `v_prediction` or `sample`.
    pub prediction_type: PredictionType,
    /// Idle: these schedulers of diffusers never clip, whatever its configuration says.
    pub clip_sample: bool,
    /// Idle, like `clip_sample`.
    pub clip_sample_range: f64,
    /// Idle, like `clip_sample`.
    pub sample_max_value: f64,
}

impl Default for CogVideoX {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            snr_shift_scale: 3.0,
            rescale_betas_zero_snr: false,
            set_alpha_to_one: true,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
            clip_sample: true,
            clip_sample_range: 1.0,
            sample_max_value: 1.0,
        }
    }
}

impl CogVideoX {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.training().validate()?;
        checks::positive("snr_shift_scale", self.snr_shift_scale)
    }

    /// The run of `CogVideoXDDIMScheduler`.
    pub(super) fn ddim_schedule(&self, steps: usize) -> Result<Schedule, String> {
        let run = self.run(steps)?;
        let steps = run.ends().map(|ends| vec![self.ddim_step(ends)]).collect();
        Ok(run.schedule(steps))
    }

    /// The run of `CogVideoXDPMScheduler`.
    pub(super) fn dpm_schedule(&self, steps: usize) -> Result<Schedule, String> {
        let run = self.run(steps)?;
        let ends: Vec<[f64; 2]> = run.ends().collect();
        let stride = self.num_train_timesteps / steps;
        let steps = (0..steps)
            .map(|i| {
                let first = self.dpm_step(ends[i], None);
                // A step to the very end looks back at nothing.
                match i.checked_sub(1).filter(|_| run.timestep(i) >= stride) {
                    Some(last) => vec![first, self.dpm_step(ends[i], Some(ends[last][0]))],
                    None => vec![first],
                }
            })
            .collect();
        Ok(run.schedule(steps))
    }

    fn run(&self, steps: usize) -> Result<Run, String> {
        Run::new(
            &self.training().shifted_alphas_cumprod(self.snr_shift_scale),
            self.training().timesteps(Cut::Whole, steps)?,
            self.set_alpha_to_one,
            self.prediction_type,
        )
    }

    /// a·x + b·x₀ with a = √((1 - ā')/(1 - ā)) and b = √ā' - √ā·a, which is DDIM. Source: diffusers'
    /// scheduling_ddim_cogvideox.py.
    fn ddim_step(&self, [before, after]: [f64; 2]) -> Step {
        let precision = self.training().cogvideox_precision();
        let r = |x| precision.round(x);
        let signal = r(before.sqrt());
        let a = r(r(r(1.0 - after) / r(1.0 - before)).sqrt());
        let b = r(r(after.sqrt()) - r(signal * a));
        let update = Update { sample: a as f32, original: b as f32, ..Update::default() };
        Step::new(self.prediction_type.original(signal, r(1.0 - before).sqrt()), update)
    }

    /// DPM-Solver++(2M) SDE with the clean sample extrapolated from the present one and the one at `back`, the level of the
    /// last step. Source: diffusers' scheduling_dpm_cogvideox.py, which draws the noise twice where it looks back.
    fn dpm_step(&self, [before, after]: [f64; 2], back: Option<f64>) -> Step {
        let precision = self.training().cogvideox_precision();
        let r = |x| precision.round(x);
        let lambda = |alpha: f64| r(r(r(alpha / r(1.0 - alpha)).sqrt()).ln());
        let h = r(lambda(after) - lambda(before));
        let sample = r(r(r(1.0 - after) / r(1.0 - before)).sqrt()) * r((-h).exp());
        let drift = -r(r((-2.0 * h).exp_m1()) * r(after.sqrt()));
        let noise = r((1.0 - after).sqrt()) * r((1.0 - r((-2.0 * h).exp())).sqrt());
        // The other one counts half of the difference over the ratio of the two distances, which is infinite after pure noise.
        let earlier = back.map_or(0.0, |back| 0.5 / r(r(lambda(before) - lambda(back)) / h));
        let update = Update {
            sample: sample as f32,
            original: (drift * (1.0 + earlier)) as f32,
            earlier: [(-drift * earlier) as f32, 0.0, 0.0, 0.0],
            noise: noise as f32,
            ..Update::default()
        };
        let original = self.prediction_type.original(r(before.sqrt()), r(1.0 - before).sqrt());
        Step { draws: if back.is_some() { 2 } else { 1 }, ..Step::new(original, update) }
    }
}
