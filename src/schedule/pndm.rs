//! `PNDMScheduler` without its Runge-Kutta steps: PLMS, the linear multistep method of Stable Diffusion 1.

use serde::Deserialize;

use super::betas::{Trained, Training};
use super::checks::{self, require};
use super::ddim::Run;
use super::spacing::Cut;
use super::steps::{Correction, Original, Schedule, Step, Update};
use super::words::{BetaSchedule, PredictionType, TimestepSpacing};

/// These are the fields of diffusers' `PNDMScheduler`.
///
/// Note diffusers' default: `skip_prk_steps = true` has to be said.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pndm {
    /// The number of training steps.
    pub num_train_timesteps: usize,
    /// The first beta, in `(0, 1)`.
    pub beta_start: f64,
    /// The last beta, in `(0, 1)`.
    pub beta_end: f64,
    /// How the betas go from the first to the last.
    pub beta_schedule: BetaSchedule,
    /// Must be true.
    pub skip_prk_steps: bool,
    /// Whether the last step goes to no noise at all, or else to the noise of training step 0.
    pub set_alpha_to_one: bool,
    /// Which training steps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// What `leading` spacing adds to each timestep.
    pub steps_offset: usize,
    /// `epsilon` or `v_prediction`.
    pub prediction_type: PredictionType,
}

impl Default for Pndm {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            skip_prk_steps: false,
            set_alpha_to_one: false,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
        }
    }
}

impl Trained for Pndm {
    fn training(&self) -> Training {
        Training {
            num_train_timesteps: self.num_train_timesteps,
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            beta_schedule: self.beta_schedule,
            rescale_betas_zero_snr: false,
            timestep_spacing: self.timestep_spacing,
            steps_offset: self.steps_offset,
            prediction_type: self.prediction_type,
        }
    }

    /// Leaves out `rescale_betas_zero_snr`, which this scheduler hasn't.
    fn with_training(self, training: Training) -> Self {
        Self {
            num_train_timesteps: training.num_train_timesteps,
            beta_start: training.beta_start,
            beta_end: training.beta_end,
            beta_schedule: training.beta_schedule,
            timestep_spacing: training.timestep_spacing,
            steps_offset: training.steps_offset,
            prediction_type: training.prediction_type,
            ..self
        }
    }
}

/// How many steps of a run differ from all later ones.
const WARM_UP: usize = 5;

impl Pndm {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.training().validate()?;
        checks::no_sample_prediction(self.prediction_type)?;
        require(self.skip_prk_steps, "skip_prk_steps", self.skip_prk_steps, "must be true")
    }

    /// `PNDMScheduler.set_timesteps`: the second timestep comes twice, so that there is one step more than asked for.
    pub(super) fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let mut timesteps = self.training().timesteps(Cut::Whole, steps)?;
        if let Some(&second) = timesteps.get(1) {
            timesteps.insert(1, second);
        }
        let alphas = self.training().alphas_cumprod();
        let last = if self.set_alpha_to_one { 1.0 } else { alphas[0] };
        let stride = alphas.len() / steps;
        let table = timesteps
            .iter()
            .enumerate()
            .map(|(index, &t)| {
                let t = t as usize;
                let down = (alphas[t], t.checked_sub(stride).map_or(last, |t| alphas[t]));
                let again = (alphas[(t + stride).min(alphas.len() - 1)], alphas[t]);
                (0..=WARM_UP.min(index)).map(|known| self.step(known, down, again)).collect()
            })
            .collect();
        let run = Run::new(&alphas, timesteps, self.set_alpha_to_one, self.prediction_type)?;
        Ok(Schedule { num_inference_steps: steps, ..run.schedule(table) })
    }

    /// A step where `known` steps went before it, between two cumulated alphas: `down` to the next timestep or, as the second
    /// of a run, the first step `again`. L. Liu et al., "Pseudo numerical methods for diffusion models" (arXiv 2202.09778),
    /// equations 9 and 12, begun as in K. Crowson's PLMS. Source: diffusers' scheduling_pndm.py.
    fn step(&self, known: usize, down: (f64, f64), again: (f64, f64)) -> Step {
        // What is looked back at are outputs of the model. That of the second step counts in no other.
        let weights = match known {
            0 => [1.0, 0.0, 0.0, 0.0, 0.0],
            1 => [1.0 / 2.0, 1.0 / 2.0, 0.0, 0.0, 0.0],
            2 => [3.0 / 2.0, 0.0, -1.0 / 2.0, 0.0, 0.0],
            3 => [23.0 / 12.0, -16.0 / 12.0, 0.0, 5.0 / 12.0, 0.0],
            4 => [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, 0.0, -9.0 / 24.0],
            _ => [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0, 0.0],
        };
        let (before, after) = if known == 1 { again } else { down };
        let (signal, noise) = (before.sqrt(), (1.0 - before).sqrt());
        let away = (before - after) / (before * (1.0 - after).sqrt() + signal * noise * after.sqrt());
        let [sample, output] = self.prediction_type.epsilon(signal, noise).map(|factor| away * factor);
        let [present, earlier @ ..] = weights.map(|weight| (weight * output) as f32);
        let update = Update {
            sample: ((after / before).sqrt() + sample) as f32,
            original: present,
            earlier,
            ..Update::default()
        };
        let model_output = Original { sample: 0.0, output: 1.0, clip: f32::INFINITY };
        let from_the_first = Correction { last_sample: 1.0, original: 0.0, earlier: [0.0; 3] };
        Step { correction: (known == 1).then_some(from_the_first), ..Step::new(model_output, update) }
    }
}
