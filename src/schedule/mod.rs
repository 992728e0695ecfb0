//! Schedules: from `num_inference_steps` to the timesteps and noise levels that a loop visits.
//!
//! A package's scheduler table has the class names, field names, defaults and meanings of diffusers'
//! `scheduler_config.json`, with the class name as `type` and without entries that are `null`:
//!
//! ```
//! # use latentflow::schedule::SchedulerConfig;
//! let config: SchedulerConfig = toml::from_str(r#"
//!     type = "FlowMatchEulerDiscreteScheduler"
//!     shift = 3.0
//! "#)?;
//! let schedule = config.schedule(4, 0)?;
//! assert_eq!(schedule.timesteps.len(), 4);
//! assert_eq!(schedule.sigmas.len(), 5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A field that diffusers has and this library can't honour is refused by [`SchedulerConfig::validate`] as soon as it
//! differs from the value that makes it idle; a field that diffusers hasn't is refused on reading.
//!
//! Arithmetic follows diffusers operation by operation, single precision where NumPy and PyTorch round to single and
//! double where they don't, since a model sees a timestep to the last digit. Sources are named at each formula; the
//! numbers are held against diffusers by `tests/reference.rs`.

mod betas;
mod checks;
mod cogvideox;
mod consistency;
mod ddim;
mod dpm;
mod euler;
mod flow;
mod pndm;
mod precision;
mod spacing;
mod steps;
mod switch;
mod unipc;
mod words;

use serde::Deserialize;

pub use cogvideox::CogVideoX;
pub use consistency::{Lcm, Tcd};
pub use ddim::Ddim;
pub use dpm::DpmSolverMultistep;
pub use euler::{EulerAncestralDiscrete, EulerDiscrete};
pub use flow::FlowMatchEulerDiscrete;
pub use pndm::Pndm;
pub use steps::Schedule;
pub use unipc::UniPCMultistep;
pub use words::{
    AlgorithmType, BetaSchedule, FinalSigmasType, InterpolationType, PredictionType, SigmaSchedule,
    SolverType, TimeShiftType, TimestepSpacing, TimestepType,
};

/// This is what a package's scheduler table says: which sampler, with which numbers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type")]
pub enum SchedulerConfig {
    /// Rectified flow, one Euler step at a time.
    FlowMatchEulerDiscreteScheduler(FlowMatchEulerDiscrete),
    /// A multistep predictor and corrector, for rectified flow and diffusion with betas.
    UniPCMultistepScheduler(UniPCMultistep),
    /// DPM-Solver++, a multistep solver for both.
    DPMSolverMultistepScheduler(DpmSolverMultistep),
    /// Variance-preserving diffusion, deterministic.
    DDIMScheduler(Ddim),
    /// The same by a linear multistep method.
    PNDMScheduler(Pndm),
    /// Variance-preserving diffusion with a shifted signal-to-noise ratio.
    CogVideoXDDIMScheduler(CogVideoX),
    /// The same by a multistep solver with fresh noise at each step.
    CogVideoXDPMScheduler(CogVideoX),
    /// Variance-exploding view of diffusion with betas, one Euler step at a time.
    EulerDiscreteScheduler(EulerDiscrete),
    /// The same with fresh noise at each step.
    EulerAncestralDiscreteScheduler(EulerAncestralDiscrete),
    /// Latent consistency models.
    LCMScheduler(Lcm),
    /// Trajectory consistency models.
    TCDScheduler(Tcd),
}

/// Calls a method of the table inside.
macro_rules! inner {
    ($config:expr, $table:ident => $call:expr) => {
        match $config {
            SchedulerConfig::FlowMatchEulerDiscreteScheduler($table) => $call,
            SchedulerConfig::UniPCMultistepScheduler($table) => $call,
            SchedulerConfig::DPMSolverMultistepScheduler($table) => $call,
            SchedulerConfig::DDIMScheduler($table) => $call,
            SchedulerConfig::PNDMScheduler($table) => $call,
            SchedulerConfig::CogVideoXDDIMScheduler($table) => $call,
            SchedulerConfig::CogVideoXDPMScheduler($table) => $call,
            SchedulerConfig::EulerDiscreteScheduler($table) => $call,
            SchedulerConfig::EulerAncestralDiscreteScheduler($table) => $call,
            SchedulerConfig::LCMScheduler($table) => $call,
            SchedulerConfig::TCDScheduler($table) => $call,
        }
    };
}

impl SchedulerConfig {
    /// The values that `type` may have: diffusers' class names.
    pub const NAMES: &[&str] = &[
        "FlowMatchEulerDiscreteScheduler",
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DDIMScheduler",
        "PNDMScheduler",
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "LCMScheduler",
        "TCDScheduler",
    ];

    /// Returns this configuration's `type`, one of [`NAMES`](Self::NAMES).
    pub fn name(&self) -> &'static str {
        match self {
            Self::FlowMatchEulerDiscreteScheduler(_) => "FlowMatchEulerDiscreteScheduler",
            Self::UniPCMultistepScheduler(_) => "UniPCMultistepScheduler",
            Self::DPMSolverMultistepScheduler(_) => "DPMSolverMultistepScheduler",
            Self::DDIMScheduler(_) => "DDIMScheduler",
            Self::PNDMScheduler(_) => "PNDMScheduler",
            Self::CogVideoXDDIMScheduler(_) => "CogVideoXDDIMScheduler",
            Self::CogVideoXDPMScheduler(_) => "CogVideoXDPMScheduler",
            Self::EulerDiscreteScheduler(_) => "EulerDiscreteScheduler",
            Self::EulerAncestralDiscreteScheduler(_) => "EulerAncestralDiscreteScheduler",
            Self::LCMScheduler(_) => "LCMScheduler",
            Self::TCDScheduler(_) => "TCDScheduler",
        }
    }

    /// Returns whether the model was trained by flow matching, so that a noise level is a share between 0 and 1.
    pub fn is_flow(&self) -> bool {
        match self {
            Self::FlowMatchEulerDiscreteScheduler(_) => true,
            Self::UniPCMultistepScheduler(config) => config.use_flow_sigmas,
            Self::DPMSolverMultistepScheduler(config) => config.use_flow_sigmas,
            _ => false,
        }
    }

    /// Returns how many timesteps the model was trained with: pure noise, of rectified flow, is at this one.
    pub fn num_train_timesteps(&self) -> usize {
        inner!(self, config => config.num_train_timesteps)
    }

    /// Returns whether timesteps rise, a clean sample being at the highest (`invert_sigmas`).
    pub fn is_inverted(&self) -> bool {
        matches!(self, Self::FlowMatchEulerDiscreteScheduler(config) if config.invert_sigmas)
    }

    /// Returns whether this library can do what the configuration asks for.
    ///
    /// # Errors
    ///
    /// Names the first field that is out of range or asks for what isn't implemented, its value, and what would do.
    pub fn validate(&self) -> Result<(), String> {
        inner!(self, config => config.validate())
    }

    /// Returns the timesteps and noise levels of `num_inference_steps` steps.
    ///
    /// `seq_len` is the number of tokens that the denoiser makes of the latents; only `use_dynamic_shifting` looks at
    /// it.
    ///
    /// # Errors
    ///
    /// Fails as [`validate`](Self::validate) does, and where `num_inference_steps` is 0, differs from the length of a
    /// table of `sigmas`, or is too many or too few for the other fields.
    pub fn schedule(&self, num_inference_steps: usize, seq_len: usize) -> Result<Schedule, String> {
        self.validate()?;
        let most = match self.is_flow() {
            true => checks::MAX_INFERENCE_STEPS,
            false => self.num_train_timesteps().min(checks::MAX_INFERENCE_STEPS),
        };
        checks::require(
            (1..=most).contains(&num_inference_steps),
            "num_inference_steps",
            num_inference_steps,
            format_args!("must be from 1 to {most}"),
        )?;
        let schedule = match self {
            Self::FlowMatchEulerDiscreteScheduler(config) => config.schedule(num_inference_steps, seq_len),
            Self::UniPCMultistepScheduler(config) => config.schedule(num_inference_steps),
            Self::DPMSolverMultistepScheduler(config) => config.schedule(num_inference_steps),
            Self::DDIMScheduler(config) => config.schedule(num_inference_steps),
            Self::PNDMScheduler(config) => config.schedule(num_inference_steps),
            Self::CogVideoXDDIMScheduler(config) => config.ddim_schedule(num_inference_steps),
            Self::CogVideoXDPMScheduler(config) => config.dpm_schedule(num_inference_steps),
            Self::EulerDiscreteScheduler(config) => config.schedule(num_inference_steps),
            Self::EulerAncestralDiscreteScheduler(config) => config.schedule(num_inference_steps),
            Self::LCMScheduler(config) => config.schedule(num_inference_steps),
            Self::TCDScheduler(config) => config.schedule(num_inference_steps),
        }?;
        if schedule.is_finite() { Ok(schedule) } else { Err(betas::UNUSABLE.into()) }
    }
}
