//! The scheduler table of a package: diffusers' fields, defaults and words, and nothing computed.

use serde::Deserialize;

/// This is what a package's scheduler table says: which sampler, with which numbers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type")]
pub enum SchedulerConfig {
    /// Rectified flow, one Euler step at a time.
    FlowMatchEulerDiscreteScheduler(FlowMatchEulerDiscrete),
    /// Rectified flow, a multistep predictor and corrector.
    UniPCMultistepScheduler(UniPCMultistep),
    /// Variance-preserving diffusion, deterministic.
    DDIMScheduler(Ddim),
    /// The same with a shifted signal-to-noise ratio.
    CogVideoXDDIMScheduler(CogVideoXDdim),
    /// Variance-exploding view of the same diffusion, one Euler step at a time.
    EulerDiscreteScheduler(EulerDiscrete),
}

/// How the betas go from `beta_start` to `beta_end` over the training steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// In equal steps.
    Linear,
    /// Their square roots in equal steps (latent diffusion).
    ScaledLinear,
    /// From a squared cosine, without regard to `beta_start` and `beta_end` (Nichol and Dhariwal, 2021).
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredcosCapV2,
}

/// Which training steps the inference steps are, in the words of table 2 of Lin et al., "Common diffusion noise
/// schedules and sample steps are flawed" (arXiv 2305.08891).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Both the first and the last training step, and equal distances between.
    Linspace,
    /// Multiples of a whole number from 0 upwards.
    Leading,
    /// Equal distances from the last training step downwards.
    Trailing,
}

/// What the model's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise in the sample.
    Epsilon,
    /// The velocity of Salimans and Ho, "Progressive distillation" (arXiv 2202.00512).
    VPrediction,
    /// The clean sample.
    Sample,
    /// The velocity of rectified flow, noise minus clean sample.
    FlowPrediction,
}

/// How a shift that depends on the number of tokens bends the noise levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeShiftType {
    /// By a shift of `exp(mu)`.
    Exponential,
    /// By a shift of `mu`.
    Linear,
}

/// Which noise levels a flow-matching pipeline asks for before shifting.
///
/// diffusers has no such field: there it is the pipeline that passes `sigmas` to `set_timesteps`, or doesn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigmaSchedule {
    /// None: the scheduler spaces its training timesteps evenly, which are shifted already, and shifts them again
    /// (Wan with an Euler scheduler).
    #[default]
    Timesteps,
    /// `linspace(1, 1/n, n)` (LTX, HunyuanVideo and others).
    Linspace,
}

/// Which form of the function B(h) UniPC uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverType {
    /// B(h) = h. Refused: with a final sigma of zero it isn't finite.
    Bh1,
    /// B(h) = eʰ - 1.
    Bh2,
}

/// What follows the last noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigmasType {
    /// No noise.
    Zero,
    /// The lowest noise level of training.
    SigmaMin,
}

/// These are the fields of diffusers' `FlowMatchEulerDiscreteScheduler`, plus `sigmas` and `sigma_schedule`.
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
    /// Must be false.
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
            invert_sigmas: false,
            stochastic_sampling: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
        }
    }
}

/// These are the fields of diffusers' `UniPCMultistepScheduler`, plus `sigmas`; only its flow-matching half is here.
///
/// Note diffusers' defaults: `use_flow_sigmas = true` and `prediction_type = "flow_prediction"` have to be said.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UniPCMultistep {
    /// What a noise level of 1 is as a timestep.
    pub num_train_timesteps: usize,
    /// The order of the solver, 1 to 3.
    pub solver_order: usize,
    /// Must be `flow_prediction`.
    pub prediction_type: PredictionType,
    /// Must be true.
    pub use_flow_sigmas: bool,
    /// Static shift towards high noise, above 0; 1 is none.
    pub flow_shift: f64,
    /// The noise level that the last step is stretched to, in `[0, 1)`; none and 0 leave the levels alone.
    pub shift_terminal: Option<f64>,
    /// A table of noise levels before shifting: falling, above 0 and up to 1, without the final zero.
    /// `num_inference_steps` must be its length.
    pub sigmas: Option<Vec<f64>>,
    /// Indices of the steps after which the corrector is left out.
    pub disable_corrector: Vec<usize>,
    /// Must be `bh2`.
    pub solver_type: SolverType,
    /// Must be true.
    pub predict_x0: bool,
    /// Must be true.
    pub lower_order_final: bool,
    /// Must be `zero`.
    pub final_sigmas_type: FinalSigmasType,
    /// Must be false.
    pub use_dynamic_shifting: bool,
    /// Idle, as dynamic shifting is refused.
    pub time_shift_type: TimeShiftType,
    /// Must be false.
    pub thresholding: bool,
    /// Idle, as thresholding is refused.
    pub dynamic_thresholding_ratio: f64,
    /// Idle, as thresholding is refused.
    pub sample_max_value: f64,
    /// Must be false.
    pub use_karras_sigmas: bool,
    /// Must be false.
    pub use_exponential_sigmas: bool,
    /// Must be false.
    pub use_beta_sigmas: bool,
    /// Must be false.
    pub rescale_betas_zero_snr: bool,
    /// Idle with flow sigmas.
    pub beta_start: f64,
    /// Idle with flow sigmas.
    pub beta_end: f64,
    /// Idle with flow sigmas.
    pub beta_schedule: BetaSchedule,
    /// Idle with flow sigmas.
    pub timestep_spacing: TimestepSpacing,
    /// Idle with flow sigmas.
    pub steps_offset: usize,
}

impl Default for UniPCMultistep {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            solver_order: 2,
            prediction_type: PredictionType::Epsilon,
            use_flow_sigmas: false,
            flow_shift: 1.0,
            shift_terminal: None,
            sigmas: None,
            disable_corrector: Vec::new(),
            solver_type: SolverType::Bh2,
            predict_x0: true,
            lower_order_final: true,
            final_sigmas_type: FinalSigmasType::Zero,
            use_dynamic_shifting: false,
            time_shift_type: TimeShiftType::Exponential,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            rescale_betas_zero_snr: false,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
        }
    }
}

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

/// These are the fields of diffusers' `CogVideoXDDIMScheduler`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CogVideoXDdim {
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
    /// Idle: this scheduler of diffusers never clips, whatever its configuration says.
    pub clip_sample: bool,
    /// Idle, like `clip_sample`.
    pub clip_sample_range: f64,
    /// Idle, like `clip_sample`.
    pub sample_max_value: f64,
}

impl Default for CogVideoXDdim {
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

/// How diffusers' Euler scheduler finds a noise level between two training steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterpolationType {
    /// On a straight line.
    Linear,
    /// Refused.
    LogLinear,
}

/// What diffusers' Euler scheduler gives the model as the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepType {
    /// A training step.
    Discrete,
    /// A quarter of the logarithm of the noise level. Refused.
    Continuous,
}

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
    /// Must be false.
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
