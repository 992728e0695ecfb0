//! The training of a model with betas: what its schedulers have in common.

use super::checks;
use super::precision::Precision;
use super::spacing::{self, Cut, interpolate, linspace, torch_linspace};
use super::words::{BetaSchedule, FinalSigmasType, PredictionType, TimestepSpacing};

/// What every scheduler of a model with betas is told: the fields that diffusers' classes share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Training {
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    pub rescale_betas_zero_snr: bool,
    pub timestep_spacing: TimestepSpacing,
    pub steps_offset: usize,
    pub prediction_type: PredictionType,
}

/// This is the table of a scheduler of a model with betas, which gives and takes the fields that such tables share.
pub(super) trait Trained {
    fn training(&self) -> Training;
    fn with_training(self, training: Training) -> Self;
}

macro_rules! trained_with_betas {
    ($($config:ty),*) => {$(
        impl Trained for $config {
            fn training(&self) -> Training {
                Training {
                    num_train_timesteps: self.num_train_timesteps,
                    beta_start: self.beta_start,
                    beta_end: self.beta_end,
                    beta_schedule: self.beta_schedule,
                    rescale_betas_zero_snr: self.rescale_betas_zero_snr,
                    timestep_spacing: self.timestep_spacing,
                    steps_offset: self.steps_offset,
                    prediction_type: self.prediction_type,
                }
            }

            fn with_training(mut self, training: Training) -> Self {
                self.num_train_timesteps = training.num_train_timesteps;
                self.beta_start = training.beta_start;
                self.beta_end = training.beta_end;
                self.beta_schedule = training.beta_schedule;
                self.rescale_betas_zero_snr = training.rescale_betas_zero_snr;
                self.timestep_spacing = training.timestep_spacing;
                self.steps_offset = training.steps_offset;
                self.prediction_type = training.prediction_type;
                self
            }
        }
    )*};
}
trained_with_betas!(
    super::Ddim,
    super::CogVideoX,
    super::EulerDiscrete,
    super::EulerAncestralDiscrete,
    super::DpmSolverMultistep,
    super::UniPCMultistep,
    super::Lcm,
    super::Tcd
);

/// Each step has to begin with some noise, and for Euler's method with some signal, in single precision.
pub(super) const UNUSABLE: &str = "`num_train_timesteps`, `beta_start`, `beta_end` and the fields that rescale them leave a \
                                   step no noise or no signal";

impl Training {
    pub(super) fn validate(&self) -> Result<(), String> {
        checks::train_timesteps(self.num_train_timesteps)?;
        checks::betas(self.beta_start, self.beta_end)?;
        checks::no_flow_prediction(self.prediction_type)
    }

    /// The training steps to visit, highest first.
    pub(super) fn timesteps(&self, cut: Cut, steps: usize) -> Result<Vec<f64>, String> {
        let train = self.num_train_timesteps;
        spacing::timesteps(self.timestep_spacing, cut, train, train, steps, self.steps_offset)
    }

    /// ā of each training step, as the constructors of most schedulers make them.
    pub(super) fn alphas_cumprod(&self) -> Vec<f64> {
        let mut betas = self.betas(Precision::Single);
        if self.rescale_betas_zero_snr {
            rescale_betas_zero_snr(&mut betas);
        }
        cumulate(&betas, Precision::Single)
    }

    /// The same with a signal-to-noise ratio that is divided by `snr_shift_scale`, and rescaled afterwards: CogVideoX.
    pub(super) fn shifted_alphas_cumprod(&self, snr_shift_scale: f64) -> Vec<f64> {
        let precision = self.cogvideox_precision();
        let r = |x| precision.round(x);
        let mut alphas = cumulate(&self.betas(precision), precision);
        // ā / (k + (1 - k)·ā) divides the signal-to-noise ratio ā/(1 - ā) by k.
        let k = snr_shift_scale;
        for alpha in &mut alphas {
            *alpha = r(*alpha / r(r(k) + r(r(1.0 - k) * *alpha)));
        }
        if self.rescale_betas_zero_snr {
            rescale_zero_snr(&mut alphas, precision);
        }
        alphas
    }

    /// The precision of CogVideoX' tensors in diffusers, which is double only where the betas are made so.
    pub(super) fn cogvideox_precision(&self) -> Precision {
        match self.beta_schedule {
            BetaSchedule::ScaledLinear => Precision::Double,
            BetaSchedule::Linear | BetaSchedule::SquaredcosCapV2 => Precision::Single,
        }
    }

    /// The ratio of noise to signal of each training step, finite even where `rescale_betas_zero_snr` leaves no signal.
    pub(super) fn sigmas(&self) -> Vec<f32> {
        let mut alphas = self.alphas_cumprod();
        if self.rescale_betas_zero_snr
            && let Some(last) = alphas.last_mut()
        {
            *last = f64::from(2f32.powi(-24));
        }
        alphas.iter().map(|&alpha| noise_to_signal(alpha as f32)).collect()
    }

    /// The betas of training, as the constructors of diffusers' schedulers make them.
    fn betas(&self, precision: Precision) -> Vec<f64> {
        let (start, end, train) = (self.beta_start, self.beta_end, self.num_train_timesteps);
        let r = |x| precision.round(x);
        match self.beta_schedule {
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
}

/// The noise levels of a run among those of training, and their training steps.
pub(super) struct Levels {
    /// What the model gets as its timestep.
    pub timesteps: Vec<f64>,
    /// One more than there are timesteps.
    pub sigmas: Vec<f32>,
}

impl Levels {
    /// The noise levels in `table` at `timesteps`, and what follows the last of them: `set_timesteps` of the Euler and
    /// multistep schedulers.
    pub(super) fn at(timesteps: Vec<f64>, table: &[f32], end: FinalSigmasType) -> Result<Self, String> {
        let sigmas = timesteps.iter().map(|&t| interpolate(table, t)).collect();
        Self::new(timesteps, sigmas, table, end)
    }

    /// The noise levels of Karras et al. (arXiv 2206.00364), equation 5 with ρ = 7, from `max` to `min`, at fractions of the
    /// training steps in `table`.
    pub(super) fn karras(
        [max, min]: [f64; 2],
        steps: usize,
        table: &[f32],
        end: FinalSigmasType,
    ) -> Result<Self, String> {
        const RHO: f64 = 7.0;
        let [max, min] = [max, min].map(|sigma| sigma.powf(1.0 / RHO));
        let sigmas: Vec<f64> =
            linspace(0.0, 1.0, steps).into_iter().map(|ramp| (max + ramp * (min - max)).powf(RHO)).collect();
        let logs: Vec<f64> = table.iter().map(|sigma| f64::from(sigma.ln())).collect();
        let timesteps = sigmas.iter().map(|&sigma| position(&logs, sigma.ln())).collect();
        Self::new(timesteps, sigmas, table, end)
    }

    fn new(
        timesteps: Vec<f64>,
        sigmas: Vec<f64>,
        table: &[f32],
        end: FinalSigmasType,
    ) -> Result<Self, String> {
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        if !sigmas.iter().all(|sigma| *sigma > 0.0 && sigma.is_finite()) {
            return Err(UNUSABLE.into());
        }
        sigmas.push(match end {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => table[0],
        });
        Ok(Self { timesteps, sigmas })
    }
}

/// Where between the rising numbers of a table `value` lies: `_sigma_to_t` of diffusers' schedulers.
fn position(table: &[f64], value: f64) -> f64 {
    let low = table.partition_point(|&x| x <= value).saturating_sub(1).min(table.len().saturating_sub(2));
    let Some(&next) = table.get(low + 1) else { return 0.0 };
    let weight = ((table[low] - value) / (table[low] - next)).clamp(0.0, 1.0);
    (1.0 - weight) * low as f64 + weight * (low + 1) as f64
}

/// √((1 - ā)/ā)
pub(super) fn noise_to_signal(alpha: f32) -> f32 {
    ((1.0 - alpha) / alpha).sqrt()
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

/// The same on betas, in single precision: `rescale_zero_terminal_snr` of most of diffusers' schedulers.
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

/// Refuses the ways to space noise levels that no scheduler here has.
pub(super) fn refuse_exotic_sigmas(exponential: bool, beta: bool) -> Result<(), String> {
    checks::refuse("use_exponential_sigmas", exponential)?;
    checks::refuse("use_beta_sigmas", beta)
}
