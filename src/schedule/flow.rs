//! `FlowMatchEulerDiscreteScheduler`: rectified flow, one step of Euler or Adams-Bashforth at a time.

use serde::Deserialize;

use super::checks::{self, refuse, require};
use super::precision::Precision;
use super::spacing::linspace;
use super::steps::{Level, Original, Schedule, Step, Update};
use super::words::{SigmaSchedule, TimeShiftType};

/// These are the fields of diffusers' `FlowMatchEulerDiscreteScheduler`, plus `sigmas`, `sigma_schedule`,
/// `solver_order` and `init_noise_sigma`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowMatchEulerDiscrete {
    /// What a noise level of 1 is as a timestep.
    pub num_train_timesteps: usize,
    /// Static shift towards high noise, above 0; 1 is none. Idle under `use_dynamic_shifting`.
    pub shift: f64,
    /// Whether the shift depends on the number of tokens.
    pub use_dynamic_shifting: bool,
    /// mu at `base_image_seq_len` tokens.
    pub base_shift: f64,
    /// mu at `max_image_seq_len` tokens.
    pub max_shift: f64,
    /// The number of tokens where mu is `base_shift`.
    pub base_image_seq_len: usize,
    /// The number of tokens where mu is `max_shift`.
    pub max_image_seq_len: usize,
    /// How mu bends the noise levels.
    pub time_shift_type: TimeShiftType,
    /// The noise level that the last step is stretched to, in `[0, 1)`; none and 0 leave the levels alone.
    pub shift_terminal: Option<f64>,
    /// Which noise levels come before shifting.
    pub sigma_schedule: SigmaSchedule,
    /// A table of noise levels before shifting, for distilled models: falling, above 0 and up to 1, without the final
    /// zero. `num_inference_steps` must be its length.
    pub sigmas: Option<Vec<f64>>,
    /// 1 is Euler's method. 2 also looks at the velocity of the step before, so that flows that bend evenly are followed
    /// in fewer steps for the same work each.
    pub solver_order: usize,
    /// What standard normal noise is multiplied by to be the first sample, above 0 and up to 1. Below 1 the model makes
    /// what is likelier: calmer and steadier, less various (the truncation of arXiv 1809.11096, the temperature of arXiv
    /// 1807.03039). What a video prompt is noised with stays as it is.
    pub init_noise_sigma: f64,
    /// Whether noise levels and timesteps say the share of the signal instead, rising to 1 (Mochi).
    pub invert_sigmas: bool,
    /// Must be false.
    pub stochastic_sampling: bool,
    /// Must be false.
    pub use_karras_sigmas: bool,
    /// Must be false.
    pub use_exponential_sigmas: bool,
    /// Must be false.
    pub use_beta_sigmas: bool,
}

impl Default for FlowMatchEulerDiscrete {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: 0.5,
            max_shift: 1.15,
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            time_shift_type: TimeShiftType::Exponential,
            shift_terminal: None,
            sigma_schedule: SigmaSchedule::Timesteps,
            sigmas: None,
            solver_order: 1,
            init_noise_sigma: 1.0,
            invert_sigmas: false,
            stochastic_sampling: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
        }
    }
}

impl FlowMatchEulerDiscrete {
    pub(super) fn validate(&self) -> Result<(), String> {
        checks::train_timesteps(self.num_train_timesteps)?;
        checks::positive("shift", self.shift)?;
        checks::shift_terminal(self.shift_terminal)?;
        checks::sigmas(self.sigmas.as_deref())?;
        require((1..=2).contains(&self.solver_order), "solver_order", self.solver_order, "must be 1 or 2")?;
        let quiet = self.init_noise_sigma > 0.0 && self.init_noise_sigma <= 1.0;
        require(quiet, "init_noise_sigma", self.init_noise_sigma, "must be above 0 and at most 1")?;
        let finite = "must be a finite number";
        require(self.base_shift.is_finite(), "base_shift", self.base_shift, finite)?;
        require(self.max_shift.is_finite(), "max_shift", self.max_shift, finite)?;
        require(
            !self.use_dynamic_shifting || self.base_image_seq_len < self.max_image_seq_len,
            "max_image_seq_len",
            self.max_image_seq_len,
            format_args!("must exceed `base_image_seq_len`, {}", self.base_image_seq_len),
        )?;
        refuse("stochastic_sampling", self.stochastic_sampling)?;
        refuse("use_karras_sigmas", self.use_karras_sigmas)?;
        refuse("use_exponential_sigmas", self.use_exponential_sigmas)?;
        refuse("use_beta_sigmas", self.use_beta_sigmas)
    }

    /// `FlowMatchEulerDiscreteScheduler.set_timesteps`.
    ///
    /// Passed sigmas are single precision all the way, the scheduler's own are double.
    pub(super) fn schedule(&self, steps: usize, seq_len: usize) -> Result<Schedule, String> {
        let (mut sigmas, precision) = self.unshifted(steps)?;
        if self.use_dynamic_shifting {
            let shift = self.dynamic_shift(seq_len)?;
            sigmas.iter_mut().for_each(|sigma| *sigma = time_shift(precision, shift, *sigma));
        } else {
            sigmas.iter_mut().for_each(|sigma| *sigma = shifted(precision, self.shift, *sigma));
        }
        stretch_to_terminal(precision, &mut sigmas, self.shift_terminal)?;

        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        sigmas.push(0.0);
        let mut levels: Vec<Level> = sigmas.iter().map(|&sigma| Level::flow(sigma)).collect();
        if self.invert_sigmas {
            // 1 - s is what says the signal then, rounded once: the levels follow it.
            sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - *sigma);
            levels = sigmas.iter().map(|&signal| Level { signal, noise: 1.0 - signal }).collect();
        }
        let timesteps = sigmas[..steps].iter().map(|sigma| sigma * self.num_train_timesteps as f32).collect();
        let ways: Vec<f32> = sigmas.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mut steps: Vec<Vec<Step>> = ways.iter().map(|&ds| vec![euler(ds)]).collect();
        if self.solver_order == 2 {
            for (step, pair) in steps[1..].iter_mut().zip(ways.windows(2)) {
                step.push(adams_bashforth(pair[0], pair[1]));
            }
        }
        let init_noise_sigma = self.init_noise_sigma as f32;
        Ok(Schedule { init_noise_sigma, ..Schedule::new(timesteps, sigmas, levels, steps) })
    }

    /// The noise levels before shifting, and the precision that shifting has.
    fn unshifted(&self, steps: usize) -> Result<(Vec<f64>, Precision), String> {
        let train = self.num_train_timesteps as f64;
        let given = match (&self.sigmas, self.sigma_schedule) {
            (Some(table), _) => of_table(table, steps)?,
            (None, SigmaSchedule::Linspace) => linspace(1.0, 1.0 / steps as f64, steps),
            (None, SigmaSchedule::LinearQuadratic) => linear_quadratic(steps)?,
            (None, SigmaSchedule::Timesteps) => {
                // The ends of the training range, shifted once here and once more later, as in diffusers.
                let [max, min] = [1.0, Precision::Single.round(1.0 / train)].map(|sigma| {
                    match self.use_dynamic_shifting {
                        true => sigma,
                        false => shifted(Precision::Single, self.shift, sigma),
                    }
                });
                let timesteps = linspace(max * train, min * train, steps);
                return Ok((timesteps.iter().map(|t| t / train).collect(), Precision::Double));
            }
        };
        Ok((given.into_iter().map(|sigma| Precision::Single.round(sigma)).collect(), Precision::Single))
    }

    /// The shift for `seq_len` tokens, from the straight line through the two given ones: `calculate_shift` of diffusers'
    /// LTX and Flux pipelines.
    fn dynamic_shift(&self, seq_len: usize) -> Result<f64, String> {
        let (base, max) = (self.base_image_seq_len as f64, self.max_image_seq_len as f64);
        let slope = (self.max_shift - self.base_shift) / (max - base);
        let mu = seq_len as f64 * slope + (self.base_shift - slope * base);
        let shift = match self.time_shift_type {
            TimeShiftType::Exponential => mu.exp(),
            TimeShiftType::Linear => mu,
        };
        require(
            shift > 0.0 && shift.is_finite(),
            "seq_len",
            seq_len,
            format_args!("gives a dynamic shift of {shift}, which must be above 0"),
        )?;
        Ok(shift)
    }
}

/// What a step remembers for the next one: the velocity dx/ds itself, noise minus clean sample or the reverse.
const VELOCITY: Original = Original { sample: 0.0, output: 1.0, clip: f32::INFINITY };

/// Euler's method along the flow, over `ds`.
fn euler(ds: f32) -> Step {
    Step::new(VELOCITY, Update { sample: 1.0, output: ds, ..Update::default() })
}

/// The second-order Adams-Bashforth step over `ds` after one over `before`: the velocity goes on as it changed. Source:
/// Hairer, Nørsett and Wanner, "Solving Ordinary Differential Equations I", chapter III.5.
fn adams_bashforth(before: f32, ds: f32) -> Step {
    let further = ds / (2.0 * before);
    let earlier = [-ds * further, 0.0, 0.0, 0.0];
    Step::new(VELOCITY, Update { sample: 1.0, output: ds * (1.0 + further), earlier, ..Update::default() })
}

/// A table of noise levels, if it has as many as there are steps.
pub(super) fn of_table(sigmas: &[f64], steps: usize) -> Result<Vec<f64>, String> {
    require(
        steps == sigmas.len(),
        "num_inference_steps",
        steps,
        format_args!("must be {}, the length of the table `sigmas`", sigmas.len()),
    )?;
    Ok(sigmas.to_vec())
}

/// shift·s / (1 + (shift - 1)·s), the resolution shift of Esser et al. (arXiv 2403.03206), equation 23.
pub(super) fn shifted(precision: Precision, shift: f64, sigma: f64) -> f64 {
    let r = |x| precision.round(x);
    r(r(r(shift) * sigma) / r(1.0 + r(r(shift - 1.0) * sigma)))
}

/// The same as shift / (shift + (1/s - 1)), the form that diffusers' `time_shift` has.
fn time_shift(precision: Precision, shift: f64, sigma: f64) -> f64 {
    let r = |x| precision.round(x);
    r(r(shift) / r(r(shift) + r(r(1.0 / sigma) - 1.0)))
}

/// Stretches 1 - s so that the last level is `terminal`: diffusers' `stretch_shift_to_terminal`, from LTX-Video.
pub(super) fn stretch_to_terminal(
    precision: Precision,
    sigmas: &mut [f64],
    terminal: Option<f64>,
) -> Result<(), String> {
    let (Some(terminal), Some(&last)) = (terminal.filter(|&t| t != 0.0), sigmas.last()) else {
        return Ok(());
    };
    let r = |x| precision.round(x);
    let factor = r(r(1.0 - last) / r(1.0 - terminal));
    require(
        factor > 0.0,
        "shift_terminal",
        terminal,
        "needs a last noise level below 1 to stretch: use at least 2 steps",
    )?;
    for sigma in sigmas {
        *sigma = r(1.0 - r(r(1.0 - *sigma) / factor));
    }
    Ok(())
}

/// A line down to 1 - 0.025 for half of the steps, then the parabola that continues it to 0: `linear_quadratic_schedule`
/// of diffusers' Mochi pipeline.
fn linear_quadratic(steps: usize) -> Result<Vec<f64>, String> {
    const THRESHOLD_NOISE: f64 = 0.025;
    require(steps >= 2, "num_inference_steps", steps, "must be at least 2 for `linear_quadratic`")?;
    let linear = steps / 2;
    let (n, half) = (steps as f64, linear as f64);
    let rest = (n - half).powi(2);
    let difference = half - THRESHOLD_NOISE * n;
    let quadratic_coef = difference / (half * rest);
    let linear_coef = THRESHOLD_NOISE / half - 2.0 * difference / rest;
    let constant = quadratic_coef * half.powi(2);
    let gone = (0..steps).map(|i| match (i < linear, i as f64) {
        (true, i) => i * THRESHOLD_NOISE / half,
        (false, i) => quadratic_coef * i.powi(2) + linear_coef * i + constant,
    });
    Ok(gone.map(|gone| 1.0 - gone).collect())
}
