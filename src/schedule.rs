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

mod config;

pub use config::{
    BetaSchedule, CogVideoXDdim, Ddim, EulerDiscrete, FinalSigmasType, FlowMatchEulerDiscrete,
    InterpolationType, PredictionType, SchedulerConfig, SigmaSchedule, SolverType, TimeShiftType,
    TimestepSpacing, TimestepType, UniPCMultistep,
};

/// The most steps that a schedule may have, which keeps a mistyped number from filling the memory.
const MAX_INFERENCE_STEPS: usize = 10_000;
/// The most training steps that a table of betas may have, for the same reason.
const MAX_TRAIN_TIMESTEPS: usize = 1_000_000;

impl SchedulerConfig {
    /// The values that `type` may have: diffusers' class names.
    pub const NAMES: &[&str] = &[
        "FlowMatchEulerDiscreteScheduler",
        "UniPCMultistepScheduler",
        "DDIMScheduler",
        "CogVideoXDDIMScheduler",
        "EulerDiscreteScheduler",
    ];

    /// Returns this configuration's `type`, one of [`NAMES`](Self::NAMES).
    pub fn name(&self) -> &'static str {
        match self {
            Self::FlowMatchEulerDiscreteScheduler(_) => "FlowMatchEulerDiscreteScheduler",
            Self::UniPCMultistepScheduler(_) => "UniPCMultistepScheduler",
            Self::DDIMScheduler(_) => "DDIMScheduler",
            Self::CogVideoXDDIMScheduler(_) => "CogVideoXDDIMScheduler",
            Self::EulerDiscreteScheduler(_) => "EulerDiscreteScheduler",
        }
    }

    /// Returns whether the model was trained by flow matching, so that a noise level is a share between 0 and 1.
    pub fn is_flow(&self) -> bool {
        matches!(self, Self::FlowMatchEulerDiscreteScheduler(_) | Self::UniPCMultistepScheduler(_))
    }

    /// Returns the configuration with which the scheduler `name` samples the same model.
    ///
    /// The two flow-matching schedulers stand in for each other, and so do `DDIMScheduler` and
    /// `EulerDiscreteScheduler`: what the training fixed (shift, betas, prediction type, spacing) is carried over, the
    /// rest has its defaults.
    ///
    /// # Errors
    ///
    /// Says why where `name` is unknown or can't sample this model.
    pub fn with_type(&self, name: &str) -> Result<Self, String> {
        if name == self.name() {
            return Ok(self.clone());
        }
        match (self, name) {
            (Self::FlowMatchEulerDiscreteScheduler(from), "UniPCMultistepScheduler") => {
                if from.use_dynamic_shifting {
                    return Err(format!("`{name}` has no `use_dynamic_shifting`, which this model needs"));
                }
                Ok(Self::UniPCMultistepScheduler(UniPCMultistep {
                    num_train_timesteps: from.num_train_timesteps,
                    flow_shift: from.shift,
                    shift_terminal: from.shift_terminal,
                    sigmas: from.sigmas.clone(),
                    use_flow_sigmas: true,
                    prediction_type: PredictionType::FlowPrediction,
                    ..UniPCMultistep::default()
                }))
            }
            (Self::UniPCMultistepScheduler(from), "FlowMatchEulerDiscreteScheduler") => {
                Ok(Self::FlowMatchEulerDiscreteScheduler(FlowMatchEulerDiscrete {
                    num_train_timesteps: from.num_train_timesteps,
                    shift: from.flow_shift,
                    shift_terminal: from.shift_terminal,
                    sigmas: from.sigmas.clone(),
                    ..FlowMatchEulerDiscrete::default()
                }))
            }
            (Self::DDIMScheduler(from), "EulerDiscreteScheduler") => {
                if from.clip_sample {
                    return Err(format!("`{name}` has no `clip_sample`, which this model needs"));
                }
                Ok(Self::EulerDiscreteScheduler(EulerDiscrete {
                    num_train_timesteps: from.num_train_timesteps,
                    beta_start: from.beta_start,
                    beta_end: from.beta_end,
                    beta_schedule: from.beta_schedule,
                    rescale_betas_zero_snr: from.rescale_betas_zero_snr,
                    timestep_spacing: from.timestep_spacing,
                    steps_offset: from.steps_offset,
                    prediction_type: from.prediction_type,
                    ..EulerDiscrete::default()
                }))
            }
            (Self::EulerDiscreteScheduler(from), "DDIMScheduler") => Ok(Self::DDIMScheduler(Ddim {
                num_train_timesteps: from.num_train_timesteps,
                beta_start: from.beta_start,
                beta_end: from.beta_end,
                beta_schedule: from.beta_schedule,
                rescale_betas_zero_snr: from.rescale_betas_zero_snr,
                timestep_spacing: from.timestep_spacing,
                steps_offset: from.steps_offset,
                prediction_type: from.prediction_type,
                clip_sample: false,
                ..Ddim::default()
            })),
            _ if Self::NAMES.contains(&name) => {
                Err(format!("scheduler `{name}` can't sample a model made for `{}`", self.name()))
            }
            _ => Err(format!("unknown scheduler `{name}`, expected one of {}", Self::NAMES.join(", "))),
        }
    }

    /// Returns whether this library can do what the configuration asks for.
    ///
    /// # Errors
    ///
    /// Names the first field that is out of range or asks for what isn't implemented, its value, and what would do.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::FlowMatchEulerDiscreteScheduler(config) => config.validate(),
            Self::UniPCMultistepScheduler(config) => config.validate(),
            Self::DDIMScheduler(config) => config.validate(),
            Self::CogVideoXDDIMScheduler(config) => config.validate(),
            Self::EulerDiscreteScheduler(config) => config.validate(),
        }
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
        let most = match self {
            Self::FlowMatchEulerDiscreteScheduler(_) | Self::UniPCMultistepScheduler(_) => {
                MAX_INFERENCE_STEPS
            }
            Self::DDIMScheduler(Ddim { num_train_timesteps, .. })
            | Self::CogVideoXDDIMScheduler(CogVideoXDdim { num_train_timesteps, .. })
            | Self::EulerDiscreteScheduler(EulerDiscrete { num_train_timesteps, .. }) => {
                MAX_INFERENCE_STEPS.min(*num_train_timesteps)
            }
        };
        require(
            (1..=most).contains(&num_inference_steps),
            "num_inference_steps",
            num_inference_steps,
            format_args!("must be from 1 to {most}"),
        )?;
        match self {
            Self::FlowMatchEulerDiscreteScheduler(config) => config.schedule(num_inference_steps, seq_len),
            Self::UniPCMultistepScheduler(config) => config.schedule(num_inference_steps),
            Self::DDIMScheduler(config) => config.schedule(num_inference_steps),
            Self::CogVideoXDDIMScheduler(config) => config.schedule(num_inference_steps),
            Self::EulerDiscreteScheduler(config) => config.schedule(num_inference_steps),
        }
    }
}

/// These are the steps of one run: what the model is told, and how much noise there is.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// What the model gets as its timestep, one for each step, falling.
    pub timesteps: Vec<f32>,
    /// The noise level before each step, and after the last one: one more than there are steps, falling.
    ///
    /// In flow matching it is the share of noise, from 1 to 0. In the other diffusions it is the ratio of noise to
    /// signal, which is infinite where the signal is zero.
    pub sigmas: Vec<f32>,
    /// What standard normal noise is multiplied by to be the first sample.
    pub init_noise_sigma: f32,
    /// What `add_noise` multiplies sample and noise by at each noise level.
    mix: Vec<(f32, f32)>,
    /// Cumulated alphas before and after each step; empty unless DDIM needs them. Double, as some are in diffusers.
    pub(crate) alphas: Vec<(f64, f64)>,
}

impl Schedule {
    /// Returns the number of steps.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// Returns whether there are no steps, which no schedule of [`SchedulerConfig::schedule`] has.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// Returns the index of the first step that a video prompt goes through at `strength`.
    ///
    /// `strength` is from 0, which keeps the prompt, to 1, which replaces it: the last `strength` share of the steps is
    /// done, rounded down. Values beyond are taken as the nearest of the two. The index is [`len`](Self::len) where no
    /// step is left. Source: `get_timesteps` of diffusers' image-to-image and video-to-video pipelines.
    pub fn begin_index(&self, strength: f64) -> usize {
        let steps = (self.len() as f64 * strength) as usize; // saturates; NaN is 0
        self.len() - steps.min(self.len())
    }

    /// Brings a clean `sample` to the noise level before step `index`, in place; [`len`](Self::len) is the level after
    /// the last step.
    ///
    /// With a noise level s this is (1 - s)·sample + s·noise in flow matching, sample + s·noise for
    /// `EulerDiscreteScheduler`, and √ā·sample + √(1 - ā)·noise for the DDIM ones. Source: `add_noise` and
    /// `scale_noise` of diffusers' schedulers. What comes out is the sample to go on with at `index`, without another
    /// factor of `init_noise_sigma`.
    ///
    /// # Panics
    ///
    /// Where `sample` and `noise` differ in length, or `index` is beyond [`len`](Self::len).
    pub fn add_noise(&self, sample: &mut [f32], noise: &[f32], index: usize) {
        assert_eq!(sample.len(), noise.len(), "sample and noise differ in length");
        let (signal, sigma) = self.mix[index];
        for (x, n) in sample.iter_mut().zip(noise) {
            *x = signal * *x + sigma * n;
        }
    }
}

// Flow matching --------------------------------------------------------------------------------------------------

impl FlowMatchEulerDiscrete {
    fn validate(&self) -> Result<(), String> {
        check_train_timesteps(self.num_train_timesteps)?;
        check_shift("shift", self.shift)?;
        check_shift_terminal(self.shift_terminal)?;
        check_sigmas(self.sigmas.as_deref())?;
        let finite = "must be a finite number";
        require(self.base_shift.is_finite(), "base_shift", self.base_shift, finite)?;
        require(self.max_shift.is_finite(), "max_shift", self.max_shift, finite)?;
        require(
            !self.use_dynamic_shifting || self.base_image_seq_len < self.max_image_seq_len,
            "max_image_seq_len",
            self.max_image_seq_len,
            format_args!("must exceed `base_image_seq_len`, {}", self.base_image_seq_len),
        )?;
        refuse("invert_sigmas", self.invert_sigmas)?;
        refuse("stochastic_sampling", self.stochastic_sampling)?;
        refuse("use_karras_sigmas", self.use_karras_sigmas)?;
        refuse("use_exponential_sigmas", self.use_exponential_sigmas)?;
        refuse("use_beta_sigmas", self.use_beta_sigmas)
    }

    /// `FlowMatchEulerDiscreteScheduler.set_timesteps`.
    ///
    /// Passed sigmas are single precision all the way, the scheduler's own are double.
    fn schedule(&self, steps: usize, seq_len: usize) -> Result<Schedule, String> {
        let train = self.num_train_timesteps as f64;
        let (sigmas, precision) = match (&self.sigmas, self.sigma_schedule) {
            (Some(table), _) => (check_table(table, steps)?, Precision::Single),
            (None, SigmaSchedule::Linspace) => (linspace(1.0, 1.0 / steps as f64, steps), Precision::Single),
            (None, SigmaSchedule::Timesteps) => {
                // The ends of the training range, shifted once here and once more below, as in diffusers.
                let [max, min] = [1.0, Precision::Single.round(1.0 / train)].map(|sigma| {
                    match self.use_dynamic_shifting {
                        true => sigma,
                        false => Precision::Single.shift(self.shift, sigma),
                    }
                });
                let timesteps = linspace(max * train, min * train, steps);
                (timesteps.iter().map(|t| t / train).collect(), Precision::Double)
            }
        };
        let mut sigmas: Vec<f64> = sigmas.into_iter().map(|sigma| precision.round(sigma)).collect();
        if self.use_dynamic_shifting {
            let mu = self.mu(seq_len);
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
            sigmas.iter_mut().for_each(|sigma| *sigma = precision.time_shift(shift, *sigma));
        } else {
            sigmas.iter_mut().for_each(|sigma| *sigma = precision.shift(self.shift, *sigma));
        }
        precision.stretch_to_terminal(&mut sigmas, self.shift_terminal)?;

        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        let timesteps = sigmas.iter().map(|sigma| sigma * train as f32).collect();
        sigmas.push(0.0);
        Ok(Schedule::flow(timesteps, sigmas))
    }

    /// The straight line through the two given shifts: `calculate_shift` of diffusers' LTX and Flux pipelines.
    fn mu(&self, seq_len: usize) -> f64 {
        let (base, max) = (self.base_image_seq_len as f64, self.max_image_seq_len as f64);
        let slope = (self.max_shift - self.base_shift) / (max - base);
        seq_len as f64 * slope + (self.base_shift - slope * base)
    }
}

impl UniPCMultistep {
    fn validate(&self) -> Result<(), String> {
        check_train_timesteps(self.num_train_timesteps)?;
        require(
            (1..=3).contains(&self.solver_order),
            "solver_order",
            self.solver_order,
            "must be from 1 to 3",
        )?;
        require(
            self.use_flow_sigmas,
            "use_flow_sigmas",
            self.use_flow_sigmas,
            "must be true: UniPC is implemented for flow matching only",
        )?;
        require(
            self.prediction_type == PredictionType::FlowPrediction,
            "prediction_type",
            format_args!("{:?}", self.prediction_type),
            "must be `flow_prediction`",
        )?;
        check_shift("flow_shift", self.flow_shift)?;
        check_shift_terminal(self.shift_terminal)?;
        check_sigmas(self.sigmas.as_deref())?;
        require(
            self.solver_type == SolverType::Bh2,
            "solver_type",
            format_args!("{:?}", self.solver_type),
            "must be `bh2`",
        )?;
        require(self.predict_x0, "predict_x0", self.predict_x0, "must be true")?;
        require(self.lower_order_final, "lower_order_final", self.lower_order_final, "must be true")?;
        require(
            self.final_sigmas_type == FinalSigmasType::Zero,
            "final_sigmas_type",
            format_args!("{:?}", self.final_sigmas_type),
            "must be `zero`",
        )?;
        refuse("use_dynamic_shifting", self.use_dynamic_shifting)?;
        refuse("thresholding", self.thresholding)?;
        refuse("use_karras_sigmas", self.use_karras_sigmas)?;
        refuse("use_exponential_sigmas", self.use_exponential_sigmas)?;
        refuse("use_beta_sigmas", self.use_beta_sigmas)?;
        refuse("rescale_betas_zero_snr", self.rescale_betas_zero_snr)
    }

    /// `UniPCMultistepScheduler.set_timesteps` with flow sigmas.
    fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let train = self.num_train_timesteps as f64;
        let mut sigmas = match &self.sigmas {
            Some(table) => check_table(table, steps)?,
            None => linspace(1.0, 1.0 / train, steps + 1),
        };
        sigmas.truncate(steps);
        for sigma in &mut sigmas {
            *sigma = Precision::Double.shift(self.flow_shift, *sigma);
        }
        Precision::Double.stretch_to_terminal(&mut sigmas, self.shift_terminal)?;
        // The solver takes the logarithm of 1 - sigma.
        if (sigmas[0] - 1.0).abs() < 1e-6 {
            sigmas[0] -= 1e-6;
        }
        // PyTorch gets them as integers, cut off rather than rounded.
        let timesteps = sigmas.iter().map(|sigma| (sigma * train).trunc() as f32).collect();
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        sigmas.push(0.0);
        require(
            sigmas[0] < 1.0 && sigmas.is_sorted_by(|a, b| a > b),
            "num_inference_steps",
            steps,
            "makes noise levels that UniPC can't tell apart",
        )?;
        Ok(Schedule::flow(timesteps, sigmas))
    }
}

impl Schedule {
    fn flow(timesteps: Vec<f32>, sigmas: Vec<f32>) -> Self {
        let mix = sigmas.iter().map(|&sigma| (1.0 - sigma, sigma)).collect();
        Self { timesteps, sigmas, init_noise_sigma: 1.0, mix, alphas: Vec::new() }
    }
}

/// The precision that diffusers computes with, which NumPy and PyTorch decide by what the numbers came from.
///
/// Single precision is double precision rounded after each operation, which gives the very same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    Single,
    Double,
}

impl Precision {
    pub(crate) fn round(self, x: f64) -> f64 {
        match self {
            Self::Single => f64::from(x as f32),
            Self::Double => x,
        }
    }

    /// shift·s / (1 + (shift - 1)·s), the resolution shift of Esser et al. (arXiv 2403.03206), equation 23.
    fn shift(self, shift: f64, sigma: f64) -> f64 {
        let r = |x| self.round(x);
        r(r(r(shift) * sigma) / r(1.0 + r(r(shift - 1.0) * sigma)))
    }

    /// The same as shift / (shift + (1/s - 1)), the form that diffusers' `time_shift` has.
    fn time_shift(self, shift: f64, sigma: f64) -> f64 {
        let r = |x| self.round(x);
        r(r(shift) / r(r(shift) + r(r(1.0 / sigma) - 1.0)))
    }

    /// Stretches 1 - s so that the last level is `terminal`: diffusers' `stretch_shift_to_terminal`, from LTX-Video.
    fn stretch_to_terminal(self, sigmas: &mut [f64], terminal: Option<f64>) -> Result<(), String> {
        let (Some(terminal), Some(&last)) = (terminal.filter(|&t| t != 0.0), sigmas.last()) else {
            return Ok(());
        };
        let r = |x| self.round(x);
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
}

// Diffusion with betas -------------------------------------------------------------------------------------------

impl Ddim {
    fn validate(&self) -> Result<(), String> {
        check_train_timesteps(self.num_train_timesteps)?;
        check_betas(self.beta_start, self.beta_end)?;
        check_prediction(self.prediction_type)?;
        require(
            self.clip_sample_range > 0.0 && self.clip_sample_range.is_finite(),
            "clip_sample_range",
            self.clip_sample_range,
            "must be a finite number above 0",
        )?;
        refuse("thresholding", self.thresholding)
    }

    fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let mut betas = betas(
            self.beta_schedule,
            self.beta_start,
            self.beta_end,
            self.num_train_timesteps,
            Precision::Single,
        );
        if self.rescale_betas_zero_snr {
            rescale_betas_zero_snr(&mut betas);
        }
        let timesteps = spaced_timesteps(
            self.timestep_spacing,
            self.num_train_timesteps,
            steps,
            self.steps_offset,
            true,
        )?;
        ddim_schedule(
            &cumulate(&betas, Precision::Single),
            timesteps,
            self.set_alpha_to_one,
            self.prediction_type,
        )
    }
}

impl CogVideoXDdim {
    fn validate(&self) -> Result<(), String> {
        check_train_timesteps(self.num_train_timesteps)?;
        check_betas(self.beta_start, self.beta_end)?;
        check_prediction(self.prediction_type)?;
        require(
            self.snr_shift_scale > 0.0 && self.snr_shift_scale.is_finite(),
            "snr_shift_scale",
            self.snr_shift_scale,
            "must be a finite number above 0",
        )
    }

    /// The precision of diffusers' tensors, which is double only where the betas are made so.
    pub(crate) fn precision(&self) -> Precision {
        match self.beta_schedule {
            BetaSchedule::ScaledLinear => Precision::Double,
            BetaSchedule::Linear | BetaSchedule::SquaredcosCapV2 => Precision::Single,
        }
    }

    fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let precision = self.precision();
        let r = |x| precision.round(x);
        let betas =
            betas(self.beta_schedule, self.beta_start, self.beta_end, self.num_train_timesteps, precision);
        let mut alphas = cumulate(&betas, precision);
        // ā / (k + (1 - k)·ā) divides the signal-to-noise ratio ā/(1 - ā) by k.
        let k = self.snr_shift_scale;
        for alpha in &mut alphas {
            *alpha = r(*alpha / r(r(k) + r(r(1.0 - k) * *alpha)));
        }
        if self.rescale_betas_zero_snr {
            rescale_zero_snr(&mut alphas, precision);
        }
        let timesteps = spaced_timesteps(
            self.timestep_spacing,
            self.num_train_timesteps,
            steps,
            self.steps_offset,
            true,
        )?;
        ddim_schedule(&alphas, timesteps, self.set_alpha_to_one, self.prediction_type)
    }
}

impl EulerDiscrete {
    fn validate(&self) -> Result<(), String> {
        check_train_timesteps(self.num_train_timesteps)?;
        check_betas(self.beta_start, self.beta_end)?;
        check_prediction(self.prediction_type)?;
        require(
            self.interpolation_type == InterpolationType::Linear,
            "interpolation_type",
            format_args!("{:?}", self.interpolation_type),
            "must be `linear`",
        )?;
        require(
            self.timestep_type == TimestepType::Discrete,
            "timestep_type",
            format_args!("{:?}", self.timestep_type),
            "must be `discrete`",
        )?;
        refuse("use_karras_sigmas", self.use_karras_sigmas)?;
        refuse("use_exponential_sigmas", self.use_exponential_sigmas)?;
        refuse("use_beta_sigmas", self.use_beta_sigmas)
    }

    /// `EulerDiscreteScheduler.set_timesteps` and `init_noise_sigma`.
    fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let mut betas = betas(
            self.beta_schedule,
            self.beta_start,
            self.beta_end,
            self.num_train_timesteps,
            Precision::Single,
        );
        if self.rescale_betas_zero_snr {
            rescale_betas_zero_snr(&mut betas);
        }
        let mut alphas = cumulate(&betas, Precision::Single);
        if self.rescale_betas_zero_snr
            && let Some(last) = alphas.last_mut()
        {
            *last = f64::from(2f32.powi(-24)); // keeps the first sigma finite
        }
        let table: Vec<f32> = alphas.iter().map(|&alpha| noise_to_signal(alpha as f32)).collect();
        let timesteps = spaced_timesteps(
            self.timestep_spacing,
            self.num_train_timesteps,
            steps,
            self.steps_offset,
            false,
        )?;
        let mut sigmas: Vec<f32> = timesteps.iter().map(|&t| interpolate(&table, t)).collect();
        let init_noise_sigma = match self.timestep_spacing {
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => sigmas[0],
            TimestepSpacing::Leading => (sigmas[0] * sigmas[0] + 1.0).sqrt(),
        };
        if !sigmas.iter().all(|sigma| *sigma > 0.0 && sigma.is_finite()) {
            return Err(UNUSABLE_BETAS.into());
        }
        sigmas.push(match self.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => table[0],
        });
        Ok(Schedule {
            timesteps: timesteps.into_iter().map(|t| t as f32).collect(),
            mix: sigmas.iter().map(|&sigma| (1.0, sigma)).collect(),
            sigmas,
            init_noise_sigma,
            alphas: Vec::new(),
        })
    }
}

/// The schedule of both DDIM schedulers of diffusers, from cumulated alphas and timesteps.
///
/// The level after a step is that of the training step `num_train_timesteps / steps` further down, which is the next
/// timestep only where the division leaves no rest. That is diffusers' arithmetic.
fn ddim_schedule(
    alphas_cumprod: &[f64],
    timesteps: Vec<f64>,
    set_alpha_to_one: bool,
    prediction_type: PredictionType,
) -> Result<Schedule, String> {
    let stride = alphas_cumprod.len() / timesteps.len();
    let last = if set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
    let alphas: Vec<(f64, f64)> = timesteps
        .iter()
        .map(|&t| {
            let before = alphas_cumprod[t as usize];
            let after = (t as usize).checked_sub(stride).map_or(last, |t| alphas_cumprod[t]);
            (before, after)
        })
        .collect();
    // Not a number where the rescaling had but one training step to work on.
    if !alphas.iter().all(|&(before, _)| (0.0..1.0).contains(&(before as f32))) {
        return Err(UNUSABLE_BETAS.into());
    }
    require(
        prediction_type != PredictionType::Epsilon
            || alphas.iter().all(|&(before, _)| before as f32 >= f32::MIN_POSITIVE),
        "prediction_type",
        "epsilon",
        "a step of pure noise (`rescale_betas_zero_snr`) needs `v_prediction` or `sample`",
    )?;
    let levels = || alphas.iter().map(|&(before, _)| before).chain([last]).map(|alpha| alpha as f32);
    Ok(Schedule {
        timesteps: timesteps.into_iter().map(|t| t as f32).collect(),
        sigmas: levels().map(noise_to_signal).collect(),
        init_noise_sigma: 1.0,
        mix: levels().map(|alpha| (alpha.sqrt(), (1.0 - alpha).sqrt())).collect(),
        alphas,
    })
}

/// √((1 - ā)/ā)
fn noise_to_signal(alpha: f32) -> f32 {
    ((1.0 - alpha) / alpha).sqrt()
}

/// The betas of training, as the constructors of diffusers' schedulers make them.
fn betas(schedule: BetaSchedule, start: f64, end: f64, train: usize, precision: Precision) -> Vec<f64> {
    let r = |x| precision.round(x);
    match schedule {
        BetaSchedule::Linear => torch_linspace(start, end, train, precision),
        BetaSchedule::ScaledLinear => torch_linspace(start.sqrt(), end.sqrt(), train, precision)
            .into_iter()
            .map(|root| r(root * root))
            .collect(),
        BetaSchedule::SquaredcosCapV2 => {
            let alpha_bar = |i: usize| {
                let t = i as f64 / train as f64;
                ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2)
            };
            (0..train).map(|i| r((1.0 - alpha_bar(i + 1) / alpha_bar(i)).min(0.999))).collect()
        }
    }
}

/// Products of all 1 - beta so far. PyTorch keeps the running product in double precision.
fn cumulate(betas: &[f64], precision: Precision) -> Vec<f64> {
    betas
        .iter()
        .scan(1.0, |product, beta| {
            *product *= precision.round(1.0 - beta);
            Some(precision.round(*product))
        })
        .collect()
}

/// Algorithm 1 of Lin et al. (arXiv 2305.08891) on cumulated alphas: the last becomes 0, the first stays.
fn rescale_zero_snr(alphas: &mut [f64], precision: Precision) {
    let r = |x| precision.round(x);
    let (Some(first), Some(last)) = (alphas.first(), alphas.last()) else {
        return;
    };
    let (first, last) = (r(first.sqrt()), r(last.sqrt()));
    let scale = r(first / r(first - last));
    for alpha in alphas {
        let root = r(r(r(alpha.sqrt()) - last) * scale);
        *alpha = r(root * root);
    }
}

/// The same on betas, in single precision: `rescale_zero_terminal_snr` of diffusers' DDIM and Euler schedulers.
fn rescale_betas_zero_snr(betas: &mut [f64]) {
    let r = |x| Precision::Single.round(x);
    let mut alphas = cumulate(betas, Precision::Single);
    rescale_zero_snr(&mut alphas, Precision::Single);
    let mut previous = 1.0;
    for (beta, alpha) in betas.iter_mut().zip(alphas) {
        *beta = r(1.0 - r(alpha / previous));
        previous = alpha;
    }
}

/// The training steps to visit, highest first. `whole` rounds the ones of `linspace`, as DDIM does and Euler doesn't.
fn spaced_timesteps(
    spacing: TimestepSpacing,
    train: usize,
    steps: usize,
    steps_offset: usize,
    whole: bool,
) -> Result<Vec<f64>, String> {
    let timesteps: Vec<f64> = match spacing {
        TimestepSpacing::Linspace => linspace(0.0, (train - 1) as f64, steps)
            .into_iter()
            .rev()
            .map(|t| if whole { t.round_ties_even() } else { f64::from(t as f32) })
            .collect(),
        TimestepSpacing::Leading => {
            (0..steps).rev().map(|i| (i * (train / steps) + steps_offset) as f64).collect()
        }
        TimestepSpacing::Trailing => {
            // The way that numpy.arange fills: multiples of the difference of its first two values.
            let train = train as f64;
            let stride = (train - train / steps as f64) - train;
            (0..steps).map(|i| (train + i as f64 * stride).round_ties_even() - 1.0).collect()
        }
    };
    require(
        timesteps[0] < train as f64,
        "steps_offset",
        steps_offset,
        format_args!("leads to timestep {}, but the last one of training is {}", timesteps[0], train - 1),
    )?;
    Ok(timesteps)
}

/// Linear interpolation in a table at a position within it: `numpy.interp`.
fn interpolate(table: &[f32], at: f64) -> f32 {
    let low = at as usize;
    let y = f64::from(table[low]);
    match table.get(low + 1) {
        Some(&next) => ((f64::from(next) - y) * (at - low as f64) + y) as f32,
        None => y as f32,
    }
}

/// `numpy.linspace` in double precision.
fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    let step = (end - start) / n.saturating_sub(1).max(1) as f64;
    (0..n).map(|i| if i > 0 && i + 1 == n { end } else { i as f64 * step + start }).collect()
}

/// `torch.linspace`, which counts from the nearer end and takes `start` for a single value.
fn torch_linspace(start: f64, end: f64, n: usize, precision: Precision) -> Vec<f64> {
    let r = |x| precision.round(x);
    let (start, end) = (r(start), r(end));
    let step = r(r(end - start) / n.saturating_sub(1).max(1) as f64);
    (0..n)
        .map(|i| {
            if i < n / 2 || n == 1 {
                r(start + r(step * i as f64))
            } else {
                r(end - r(step * (n - 1 - i) as f64))
            }
        })
        .collect()
}

// Refusals -------------------------------------------------------------------------------------------------------

fn require(
    holds: bool,
    field: &str,
    value: impl std::fmt::Display,
    rule: impl std::fmt::Display,
) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("`{field}` is {value}: {rule}")) }
}

/// Each step has to begin with some noise, and for Euler's method with some signal, in single precision.
const UNUSABLE_BETAS: &str = "`num_train_timesteps`, `beta_start`, `beta_end` and the fields that rescale them leave a \
                              step no noise or no signal";

fn refuse(field: &str, value: bool) -> Result<(), String> {
    require(!value, field, value, "not implemented, must be false")
}

fn check_train_timesteps(value: usize) -> Result<(), String> {
    require(
        (1..=MAX_TRAIN_TIMESTEPS).contains(&value),
        "num_train_timesteps",
        value,
        format_args!("must be from 1 to {MAX_TRAIN_TIMESTEPS}"),
    )
}

fn check_shift(field: &str, value: f64) -> Result<(), String> {
    require(value > 0.0 && value.is_finite(), field, value, "must be a finite number above 0")
}

fn check_shift_terminal(value: Option<f64>) -> Result<(), String> {
    let value = value.unwrap_or(0.0);
    require((0.0..1.0).contains(&value), "shift_terminal", value, "must be at least 0 and below 1")
}

fn check_sigmas(sigmas: Option<&[f64]>) -> Result<(), String> {
    let Some(sigmas) = sigmas else { return Ok(()) };
    require(
        (1..=MAX_INFERENCE_STEPS).contains(&sigmas.len())
            && sigmas.iter().all(|&sigma| sigma > 0.0 && sigma <= 1.0)
            && sigmas.is_sorted_by(|a, b| a > b),
        "sigmas",
        format_args!("{sigmas:?}"),
        "must be falling numbers up to 1 and above 0, without the final 0",
    )
}

fn check_table(sigmas: &[f64], steps: usize) -> Result<Vec<f64>, String> {
    require(
        steps == sigmas.len(),
        "num_inference_steps",
        steps,
        format_args!("must be {}, the length of the table `sigmas`", sigmas.len()),
    )?;
    Ok(sigmas.to_vec())
}

fn check_betas(start: f64, end: f64) -> Result<(), String> {
    let rule = "must be above 0 and below 1";
    let inside = |beta: f64| beta > 0.0 && beta < 1.0;
    require(inside(start), "beta_start", start, rule)?;
    require(inside(end), "beta_end", end, rule)
}

fn check_prediction(value: PredictionType) -> Result<(), String> {
    require(
        value != PredictionType::FlowPrediction,
        "prediction_type",
        "flow_prediction",
        "must be `epsilon`, `v_prediction` or `sample`",
    )
}
