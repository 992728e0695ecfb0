//! `DPMSolverMultistepScheduler`: DPM-Solver++, a multistep solver, with or without fresh noise.

use serde::Deserialize;

use super::betas::{Levels, Trained, refuse_exotic_sigmas};
use super::checks::{self, refuse, require};
use super::flow::shifted;
use super::precision::Precision;
use super::spacing::{self, Cut, linspace};
use super::steps::{Level, Schedule, Step, Update};
use super::unipc::distinct;
use super::words::{
    AlgorithmType, BetaSchedule, FinalSigmasType, PredictionType, SolverType, TimeShiftType, TimestepSpacing,
    Word,
};

/// These are the fields of diffusers' `DPMSolverMultistepScheduler`.
///
/// Note diffusers' defaults: for flow matching `use_flow_sigmas = true` and `prediction_type = "flow_prediction"` have to be
/// said.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpmSolverMultistep {
    /// The number of training steps: in flow matching what a noise level of 1 is as a timestep.
    pub num_train_timesteps: usize,
    /// The order of the solver, 1 to 3.
    pub solver_order: usize,
    /// `dpmsolver++`, or `sde-dpmsolver++`, which adds noise at each step.
    pub algorithm_type: AlgorithmType,
    /// How the second order is taken: by `heun` or, for any other word, by `midpoint`.
    pub solver_type: SolverType,
    /// Whether the last two steps of a run of fewer than 15 are of lower order.
    pub lower_order_final: bool,
    /// Whether the last step is of order 1 in any case.
    pub euler_at_final: bool,
    /// `flow_prediction` with flow sigmas; `epsilon`, `v_prediction` or `sample` otherwise.
    pub prediction_type: PredictionType,
    /// Whether the model was trained by flow matching.
    pub use_flow_sigmas: bool,
    /// Static shift of flow sigmas towards high noise, above 0; 1 is none.
    pub flow_shift: f64,
    /// What follows the last noise level; must be `zero` with flow sigmas.
    pub final_sigmas_type: FinalSigmasType,
    /// Whether the noise levels are those of Karras et al. (arXiv 2206.00364); must be false with flow sigmas.
    pub use_karras_sigmas: bool,
    /// Must be false.
    pub use_exponential_sigmas: bool,
    /// Must be false.
    pub use_beta_sigmas: bool,
    /// Must be false.
    pub use_lu_lambdas: bool,
    /// Must be false.
    pub use_dynamic_shifting: bool,
    /// Idle, as dynamic shifting is refused.
    pub time_shift_type: TimeShiftType,
    /// The lowest half logarithm of the signal-to-noise ratio of the training steps to visit, for cosine betas; `-inf` takes
    /// all of them.
    pub lambda_min_clipped: f64,
    /// Must be false.
    pub thresholding: bool,
    /// Idle, as thresholding is refused.
    pub dynamic_thresholding_ratio: f64,
    /// Idle, as thresholding is refused.
    pub sample_max_value: f64,
    /// Whether the betas are rescaled so that the last training step is nearly pure noise.
    pub rescale_betas_zero_snr: bool,
    /// The first beta, in `(0, 1)`; idle with flow sigmas, as are the fields below.
    pub beta_start: f64,
    /// The last beta, in `(0, 1)`.
    pub beta_end: f64,
    /// How the betas go from the first to the last.
    pub beta_schedule: BetaSchedule,
    /// Which training steps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// What `leading` spacing adds to each timestep.
    pub steps_offset: usize,
}

impl Default for DpmSolverMultistep {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            solver_order: 2,
            algorithm_type: AlgorithmType::DpmSolverPlusPlus,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            prediction_type: PredictionType::Epsilon,
            use_flow_sigmas: false,
            flow_shift: 1.0,
            final_sigmas_type: FinalSigmasType::Zero,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            use_lu_lambdas: false,
            use_dynamic_shifting: false,
            time_shift_type: TimeShiftType::Exponential,
            lambda_min_clipped: f64::NEG_INFINITY,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            rescale_betas_zero_snr: false,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
        }
    }
}

impl DpmSolverMultistep {
    pub(super) fn validate(&self) -> Result<(), String> {
        checks::solver_order(self.solver_order)?;
        require(
            matches!(
                self.algorithm_type,
                AlgorithmType::DpmSolverPlusPlus | AlgorithmType::SdeDpmSolverPlusPlus
            ),
            "algorithm_type",
            Word(self.algorithm_type),
            "must be `dpmsolver++` or `sde-dpmsolver++`",
        )?;
        require(!self.lambda_min_clipped.is_nan(), "lambda_min_clipped", "NaN", "must be a number")?;
        refuse("use_dynamic_shifting", self.use_dynamic_shifting)?;
        refuse("use_lu_lambdas", self.use_lu_lambdas)?;
        refuse("thresholding", self.thresholding)?;
        refuse_exotic_sigmas(self.use_exponential_sigmas, self.use_beta_sigmas)?;
        if !self.use_flow_sigmas {
            return self.training().validate();
        }
        checks::train_timesteps(self.num_train_timesteps)?;
        checks::flow_sigmas(self.prediction_type, self.flow_shift, self.final_sigmas_type)?;
        refuse("use_karras_sigmas", self.use_karras_sigmas)
    }

    /// `DPMSolverMultistepScheduler.set_timesteps`.
    pub(super) fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let (Levels { timesteps, sigmas }, level): (_, fn(f32) -> Level) = match self.use_flow_sigmas {
            true => (self.flow_levels(steps), Level::flow),
            false => (self.vp_levels(steps)?, Level::of_ratio),
        };
        distinct(&sigmas, steps)?;
        let levels: Vec<Level> = sigmas.iter().map(|&sigma| level(sigma)).collect();
        let table = (0..steps)
            .map(|i| (0..self.solver_order.min(i + 1)).map(|known| self.step(&levels, i, known)).collect())
            .collect();
        // PyTorch gets the timesteps as integers, cut off rather than rounded.
        let timesteps = timesteps.into_iter().map(|t| t.trunc() as f32).collect();
        Ok(Schedule::new(timesteps, sigmas, levels, table))
    }

    fn flow_levels(&self, steps: usize) -> Levels {
        let train = self.num_train_timesteps as f64;
        let signals = linspace(1.0, 1.0 / train, steps + 1);
        let shifted = |signal: &f64| shifted(Precision::Double, self.flow_shift, 1.0 - signal);
        let sigmas: Vec<f64> = signals[1..].iter().rev().map(shifted).collect();
        Levels {
            timesteps: sigmas.iter().map(|sigma| sigma * train).collect(),
            sigmas: sigmas.into_iter().map(|sigma| sigma as f32).chain([0.0]).collect(),
        }
    }

    fn vp_levels(&self, steps: usize) -> Result<Levels, String> {
        let (training, end) = (self.training(), self.final_sigmas_type);
        let table = training.sigmas();
        if self.use_karras_sigmas {
            let ends = [table[table.len() - 1], table[0]].map(f64::from);
            let mut levels = Levels::karras(ends, steps, &table, end)?;
            if self.beta_schedule != BetaSchedule::SquaredcosCapV2 {
                levels.timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
            }
            return Ok(levels);
        }
        // Training steps with less signal than asked for are left out.
        let train = training.num_train_timesteps;
        let last = table.partition_point(|sigma| -f64::from(sigma.ln()) >= self.lambda_min_clipped);
        require(last > 0, "lambda_min_clipped", self.lambda_min_clipped, "leaves out all training steps")?;
        let timesteps = spacing::timesteps(
            training.timestep_spacing,
            Cut::WithoutLowest,
            train,
            last,
            steps,
            training.steps_offset,
        )?;
        Levels::at(timesteps, &table, end)
    }

    /// Step `index` where `known` steps went before it: C. Lu et al., "DPM-Solver++" (arXiv 2211.01095), algorithm 2 and its
    /// stochastic form, the second order by Taylor (`heun`) or the middle value. Source: diffusers'
    /// scheduling_dpmsolver_multistep.py, whose coefficients are tensors of single numbers.
    fn step(&self, levels: &[Level], index: usize, known: usize) -> Step {
        let (from, to) = (levels[index], levels[index + 1]);
        let h = to.lambda() - from.lambda(); // infinite in a last step, which is of order 1
        let keep = to.noise / from.noise;
        // What the clean sample counts, its first and its second derivative.
        let (sample, value, slope, bend, noise) = match self.algorithm_type {
            AlgorithmType::SdeDpmSolver | AlgorithmType::SdeDpmSolverPlusPlus => {
                let gone = 1.0 - (-2.0 * h).exp();
                (
                    keep * (-h).exp(),
                    gone,
                    gone / (-2.0 * h) + 1.0,
                    (gone - 2.0 * h) / (2.0 * h).powi(2) - 0.5,
                    to.noise * gone.sqrt(),
                )
            }
            AlgorithmType::DpmSolver | AlgorithmType::DpmSolverPlusPlus => {
                let phi = (-h).exp() - 1.0;
                (keep, -phi, phi / h + 1.0, -((phi + h) / (h * h) - 0.5), 0.0)
            }
        };
        let [value, slope, bend] = [value, slope, bend].map(|factor| to.signal * factor);
        let mut update = Update { sample, original: value, noise, ..Update::default() };
        let ratio = |back: usize| (levels[index - back].lambda() - levels[index - back - 1].lambda()) / h;
        match self.order_at(index, known, levels.len() - 1) {
            1 => {}
            2 => {
                let slope = if self.solver_type == SolverType::Heun { slope } else { 0.5 * value };
                let factor = slope / ratio(0);
                update.original += factor;
                update.earlier[0] = -factor;
            }
            _ => {
                // The derivatives, from the two slopes between the three clean samples.
                let (near, far) = (ratio(0), ratio(1));
                let bent = (slope * near + bend) / (near + far);
                let (near, far) = ((slope + bent) / near, -bent / far);
                update.original += near;
                update.earlier = [far - near, -far, 0.0, 0.0];
            }
        }
        let original = self.prediction_type.original(f64::from(from.signal), f64::from(from.noise));
        let draws = usize::from(self.algorithm_type == AlgorithmType::SdeDpmSolverPlusPlus);
        Step { draws, ..Step::new(original, update) }
    }

    fn order_at(&self, index: usize, known: usize, steps: usize) -> usize {
        let short = self.lower_order_final && steps < 15;
        let left = steps - index;
        let to_the_end = self.euler_at_final || short || self.final_sigmas_type == FinalSigmasType::Zero;
        let most = match left {
            1 if to_the_end => 1,
            2 if short => 2,
            _ => 3,
        };
        self.solver_order.min(known + 1).min(most)
    }
}
