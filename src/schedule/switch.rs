//! One scheduler in place of another: the element's `scheduler` property.

use super::betas::{Trained, Training};
use super::checks::absent;
use super::{
    Ddim, DpmSolverMultistep, EulerAncestralDiscrete, EulerDiscrete, FlowMatchEulerDiscrete, Lcm, Pndm,
    PredictionType, SchedulerConfig, Tcd, UniPCMultistep,
};

impl SchedulerConfig {
    /// Returns the configuration with which the scheduler `name` samples the same model.
    ///
    /// The flow-matching schedulers stand in for each other, the two of CogVideoX, and those of diffusion with betas. What
    /// the training fixed (shift, betas, prediction type, spacing) is carried over, the rest has its defaults: in diffusers
    /// `from_config(pipe.scheduler.config)`.
    ///
    /// # Errors
    ///
    /// Says why where `name` is unknown or can't sample this model.
    pub fn with_type(&self, name: &str) -> Result<Self, String> {
        if name == self.name() {
            return Ok(self.clone());
        }
        if !Self::NAMES.contains(&name) {
            return Err(format!("unknown scheduler `{name}`, expected one of {}", Self::NAMES.join(", ")));
        }
        let other = match (self, name) {
            (Self::CogVideoXDDIMScheduler(config), "CogVideoXDPMScheduler") => {
                Some(Self::CogVideoXDPMScheduler(config.clone()))
            }
            (Self::CogVideoXDPMScheduler(config), "CogVideoXDDIMScheduler") => {
                Some(Self::CogVideoXDDIMScheduler(config.clone()))
            }
            _ => match (Flow::of(self), BetaTraining::of(self)) {
                (Some(flow), _) => flow.with_type(name)?,
                (_, Some(training)) => training.with_type(name)?,
                _ => None,
            },
        };
        let other = other
            .ok_or_else(|| format!("scheduler `{name}` can't sample a model made for `{}`", self.name()))?;
        other.validate().map_err(|reason| format!("scheduler `{name}` can't sample this model: {reason}"))?;
        Ok(other)
    }
}

/// What the schedulers of rectified flow have in common.
struct Flow<'a> {
    num_train_timesteps: usize,
    shift: f64,
    shift_terminal: Option<f64>,
    sigmas: Option<&'a Vec<f64>>,
    /// Whether noise levels come about in a way that only `FlowMatchEulerDiscreteScheduler` has.
    special: Option<&'static str>,
}

impl<'a> Flow<'a> {
    fn of(config: &'a SchedulerConfig) -> Option<Self> {
        match config {
            SchedulerConfig::FlowMatchEulerDiscreteScheduler(config) => Some(Self {
                num_train_timesteps: config.num_train_timesteps,
                shift: config.shift,
                shift_terminal: config.shift_terminal,
                sigmas: config.sigmas.as_ref(),
                special: match config {
                    config if config.use_dynamic_shifting => Some("use_dynamic_shifting"),
                    config if config.invert_sigmas => Some("invert_sigmas"),
                    _ => None,
                },
            }),
            SchedulerConfig::UniPCMultistepScheduler(config) if config.use_flow_sigmas => Some(Self {
                num_train_timesteps: config.num_train_timesteps,
                shift: config.flow_shift,
                shift_terminal: config.shift_terminal,
                sigmas: config.sigmas.as_ref(),
                special: None,
            }),
            SchedulerConfig::DPMSolverMultistepScheduler(config) if config.use_flow_sigmas => Some(Self {
                num_train_timesteps: config.num_train_timesteps,
                shift: config.flow_shift,
                shift_terminal: None,
                sigmas: None,
                special: None,
            }),
            _ => None,
        }
    }

    fn with_type(&self, name: &str) -> Result<Option<SchedulerConfig>, String> {
        let (shift_terminal, sigmas) = (self.shift_terminal, self.sigmas.cloned());
        if let Some(field) = self.special {
            absent(name, field, true)?;
        }
        Ok(Some(match name {
            "FlowMatchEulerDiscreteScheduler" => {
                SchedulerConfig::FlowMatchEulerDiscreteScheduler(FlowMatchEulerDiscrete {
                    num_train_timesteps: self.num_train_timesteps,
                    shift: self.shift,
                    shift_terminal,
                    sigmas,
                    ..FlowMatchEulerDiscrete::default()
                })
            }
            "UniPCMultistepScheduler" => SchedulerConfig::UniPCMultistepScheduler(UniPCMultistep {
                num_train_timesteps: self.num_train_timesteps,
                flow_shift: self.shift,
                shift_terminal,
                sigmas,
                use_flow_sigmas: true,
                prediction_type: PredictionType::FlowPrediction,
                ..UniPCMultistep::default()
            }),
            "DPMSolverMultistepScheduler" => {
                absent(name, "shift_terminal", shift_terminal.is_some_and(|terminal| terminal != 0.0))?;
                absent(name, "sigmas", sigmas.is_some())?;
                SchedulerConfig::DPMSolverMultistepScheduler(DpmSolverMultistep {
                    num_train_timesteps: self.num_train_timesteps,
                    flow_shift: self.shift,
                    use_flow_sigmas: true,
                    prediction_type: PredictionType::FlowPrediction,
                    ..DpmSolverMultistep::default()
                })
            }
            _ => return Ok(None),
        }))
    }
}

/// What the schedulers of diffusion with betas have in common.
struct BetaTraining {
    training: Training,
    /// The magnitude that clean samples are clamped to.
    clip: Option<f64>,
}

impl BetaTraining {
    fn of(config: &SchedulerConfig) -> Option<Self> {
        let (training, clip) = match config {
            SchedulerConfig::UniPCMultistepScheduler(config) => (config.training(), None),
            SchedulerConfig::DPMSolverMultistepScheduler(config) => (config.training(), None),
            SchedulerConfig::EulerDiscreteScheduler(config) => (config.training(), None),
            SchedulerConfig::EulerAncestralDiscreteScheduler(config) => (config.training(), None),
            SchedulerConfig::TCDScheduler(config) => (config.training(), None),
            SchedulerConfig::PNDMScheduler(config) => (config.training(), None),
            SchedulerConfig::DDIMScheduler(config) => {
                (config.training(), config.clip_sample.then_some(config.clip_sample_range))
            }
            SchedulerConfig::LCMScheduler(config) => {
                (config.training(), config.clip_sample.then_some(config.clip_sample_range))
            }
            _ => return None,
        };
        Some(Self { training, clip })
    }

    fn with_type(&self, name: &str) -> Result<Option<SchedulerConfig>, String> {
        let Self { training, clip } = *self;
        let (clip_sample, clip_sample_range) = (clip.is_some(), clip.unwrap_or(1.0));
        let clips = matches!(name, "DDIMScheduler" | "LCMScheduler");
        absent(name, "clip_sample", clip_sample && !clips)?;
        Ok(Some(match name {
            "DDIMScheduler" => SchedulerConfig::DDIMScheduler(
                Ddim { clip_sample, clip_sample_range, ..Ddim::default() }.with_training(training),
            ),
            "LCMScheduler" => SchedulerConfig::LCMScheduler(
                Lcm { clip_sample, clip_sample_range, ..Lcm::default() }.with_training(training),
            ),
            "TCDScheduler" => SchedulerConfig::TCDScheduler(Tcd::default().with_training(training)),
            "PNDMScheduler" => {
                absent(name, "rescale_betas_zero_snr", training.rescale_betas_zero_snr)?;
                SchedulerConfig::PNDMScheduler(
                    Pndm { skip_prk_steps: true, ..Pndm::default() }.with_training(training),
                )
            }
            "EulerDiscreteScheduler" => {
                SchedulerConfig::EulerDiscreteScheduler(EulerDiscrete::default().with_training(training))
            }
            "EulerAncestralDiscreteScheduler" => SchedulerConfig::EulerAncestralDiscreteScheduler(
                EulerAncestralDiscrete::default().with_training(training),
            ),
            "DPMSolverMultistepScheduler" => SchedulerConfig::DPMSolverMultistepScheduler(
                DpmSolverMultistep::default().with_training(training),
            ),
            "UniPCMultistepScheduler" => {
                SchedulerConfig::UniPCMultistepScheduler(UniPCMultistep::default().with_training(training))
            }
            _ => return Ok(None),
        }))
    }
}
