//! `UniPCMultistepScheduler`: a multistep predictor and corrector.

use serde::Deserialize;

use super::betas::{Levels, Trained, refuse_exotic_sigmas};
use super::checks::{self, refuse, require};
use super::flow::{of_table, shifted, stretch_to_terminal};
use super::precision::Precision;
use super::spacing::{Cut, linspace};
use super::steps::{Correction, Level, Schedule, Step, Update};
use super::words::{
    BetaSchedule, FinalSigmasType, PredictionType, SolverType, TimeShiftType, TimestepSpacing, Word,
};

/// These are the fields of diffusers' `UniPCMultistepScheduler`, plus `sigmas`.
///
/// Note diffusers' defaults: for flow matching `use_flow_sigmas = true` and `prediction_type = "flow_prediction"` have to be
/// said.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UniPCMultistep {
    /// The number of training steps: in flow matching what a noise level of 1 is as a timestep.
    pub num_train_timesteps: usize,
    /// The order of the solver, 1 to 3.
    pub solver_order: usize,
    /// `flow_prediction` with flow sigmas; `epsilon`, `v_prediction` or `sample` otherwise.
    pub prediction_type: PredictionType,
    /// Whether the model was trained by flow matching.
    pub use_flow_sigmas: bool,
    /// Static shift of flow sigmas towards high noise, above 0; 1 is none.
    pub flow_shift: f64,
    /// The noise level that flow sigmas are stretched to, in `[0, 1)`; none and 0 leave the levels alone.
    pub shift_terminal: Option<f64>,
    /// A table of flow sigmas before shifting: falling, above 0 and up to 1, without the final zero.
    /// `num_inference_steps` must be its length.
    pub sigmas: Option<Vec<f64>>,
    /// Indices of the steps after which the corrector is left out.
    pub disable_corrector: Vec<usize>,
    /// Anything but `bh1`.
    pub solver_type: SolverType,
    /// Must be true.
    pub predict_x0: bool,
    /// Must be true.
    pub lower_order_final: bool,
    /// What follows the last noise level; must be `zero` with flow sigmas.
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
    /// Whether the noise levels are those of Karras et al. (arXiv 2206.00364); must be false with flow sigmas.
    pub use_karras_sigmas: bool,
    /// Must be false.
    pub use_exponential_sigmas: bool,
    /// Must be false.
    pub use_beta_sigmas: bool,
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

impl UniPCMultistep {
    pub(super) fn validate(&self) -> Result<(), String> {
        checks::solver_order(self.solver_order)?;
        require(self.solver_type != SolverType::Bh1, "solver_type", Word(self.solver_type), "must be `bh2`")?;
        require(self.predict_x0, "predict_x0", self.predict_x0, "must be true")?;
        require(self.lower_order_final, "lower_order_final", self.lower_order_final, "must be true")?;
        refuse("use_dynamic_shifting", self.use_dynamic_shifting)?;
        refuse("thresholding", self.thresholding)?;
        refuse_exotic_sigmas(self.use_exponential_sigmas, self.use_beta_sigmas)?;
        if !self.use_flow_sigmas {
            require(
                self.sigmas.is_none(),
                "use_flow_sigmas",
                self.use_flow_sigmas,
                "must be true for a table `sigmas`",
            )?;
            return self.training().validate();
        }
        checks::train_timesteps(self.num_train_timesteps)?;
        checks::flow_sigmas(self.prediction_type, self.flow_shift, self.final_sigmas_type)?;
        checks::shift_terminal(self.shift_terminal)?;
        checks::sigmas(self.sigmas.as_deref())?;
        refuse("use_karras_sigmas", self.use_karras_sigmas)
    }

    /// `UniPCMultistepScheduler.set_timesteps`.
    pub(super) fn schedule(&self, steps: usize) -> Result<Schedule, String> {
        let (Levels { timesteps, sigmas }, level): (_, fn(f32) -> Level) = match self.use_flow_sigmas {
            true => (self.flow_levels(steps)?, Level::flow),
            false => (self.vp_levels(steps)?, Level::of_ratio),
        };
        let levels: Vec<Level> = sigmas.iter().map(|&sigma| level(sigma)).collect();
        let table = self.steps(&levels, steps);
        Ok(Schedule::new(timesteps.into_iter().map(|t| t as f32).collect(), sigmas, levels, table))
    }

    fn flow_levels(&self, steps: usize) -> Result<Levels, String> {
        let train = self.num_train_timesteps as f64;
        let mut sigmas = match &self.sigmas {
            Some(table) => of_table(table, steps)?,
            None => linspace(1.0, 1.0 / train, steps + 1),
        };
        sigmas.truncate(steps);
        for sigma in &mut sigmas {
            *sigma = shifted(Precision::Double, self.flow_shift, *sigma);
        }
        stretch_to_terminal(Precision::Double, &mut sigmas, self.shift_terminal)?;
        // The solver takes the logarithm of 1 - sigma.
        if (sigmas[0] - 1.0).abs() < 1e-6 {
            sigmas[0] -= 1e-6;
        }
        // PyTorch gets them as integers, cut off rather than rounded.
        let timesteps = sigmas.iter().map(|sigma| (sigma * train).trunc()).collect();
        let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).chain([0.0]).collect();
        distinct(&sigmas, steps)?;
        Ok(Levels { timesteps, sigmas })
    }

    fn vp_levels(&self, steps: usize) -> Result<Levels, String> {
        let table = self.training().sigmas();
        let levels = if self.use_karras_sigmas {
            let ends = [table[table.len() - 1], table[0]].map(f64::from);
            let mut levels = Levels::karras(ends, steps, &table, self.final_sigmas_type)?;
            levels.timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
            levels
        } else {
            let timesteps = self.training().timesteps(Cut::WithoutLowest, steps)?;
            Levels::at(timesteps, &table, self.final_sigmas_type)?
        };
        distinct(&levels.sigmas, steps)?;
        Ok(levels)
    }

    /// Each step, by the number of steps before it: up to the order they raise it.
    fn steps(&self, levels: &[Level], steps: usize) -> Vec<Vec<Step>> {
        let order_at = |index: usize, known: usize| self.solver_order.min(steps - index).min(known + 1);
        let step = |index: usize, known: usize| {
            let predictor = Weights::predictor(levels, index, order_at(index, known));
            let correct = known > 0 && !self.disable_corrector.contains(&(index - 1));
            let level = levels[index];
            let original = self.prediction_type.original(f64::from(level.signal), f64::from(level.noise));
            Step {
                // The order of the prediction that is corrected.
                correction: correct
                    .then(|| Weights::corrector(levels, index, order_at(index - 1, known - 1)).correction()),
                ..Step::new(original, predictor.update())
            }
        };
        (0..steps).map(|i| (0..=self.solver_order.min(i)).map(|known| step(i, known)).collect()).collect()
    }
}

/// Refuses noise levels that a multistep solver can't tell apart.
pub(super) fn distinct(sigmas: &[f32], steps: usize) -> Result<(), String> {
    require(
        sigmas.is_sorted_by(|a, b| a > b),
        "num_inference_steps",
        steps,
        "makes noise levels that a multistep solver can't tell apart",
    )
}

const MAX_ORDER: usize = 3;

/// UniPC: W. Zhao et al., "UniPC: a unified predictor-corrector framework" (arXiv 2302.04867), with B(h) = eʰ - 1 and
/// prediction of the clean sample. Source: diffusers' scheduling_unipc_multistep.py.
///
/// These are the numbers of one update from noise level s to t: keep·x - drift·(m₀ + Σ rho·D), D being the differences of the
/// other clean samples to m₀ over their distances in half the logarithm of the signal-to-noise ratio.
///
/// All of it is single precision, as in diffusers, whose coefficients are tensors of single numbers.
#[derive(Debug)]
struct Weights {
    keep: f32,
    drift: f32,
    /// The distances of the earlier clean samples, in units of this step.
    distances: [f32; MAX_ORDER - 1],
    /// The weights of the earlier clean samples, then of the present one; `order` of them where there is a present one.
    rhos: [f32; MAX_ORDER],
    /// How many earlier clean samples count.
    earlier: usize,
}

impl Weights {
    /// UniP: from level `index` to the next, with the clean samples up to `index`.
    fn predictor(levels: &[Level], index: usize, order: usize) -> Self {
        let (mut weights, matrix, rhs) = Self::new(levels, index, index + 1, order);
        match order {
            1 => {}
            2 => weights.rhos[0] = 0.5,
            _ => weights.rhos = solve(matrix, rhs, order - 1),
        }
        weights
    }

    /// UniC: from the last level to that of `index`, with the clean sample at `index` as well.
    fn corrector(levels: &[Level], index: usize, order: usize) -> Self {
        let (mut weights, matrix, rhs) = Self::new(levels, index - 1, index, order);
        match order {
            1 => weights.rhos[0] = 0.5,
            _ => weights.rhos = solve(matrix, rhs, order),
        }
        weights
    }

    fn new(
        levels: &[Level],
        from: usize,
        to: usize,
        order: usize,
    ) -> (Self, [[f32; MAX_ORDER]; MAX_ORDER], [f32; MAX_ORDER]) {
        let half_log_snr = |index: usize| levels[index].lambda();
        let origin = half_log_snr(from);
        let h = half_log_snr(to) - origin; // infinite in the last step, which is of order 1
        let phi_1 = (-h).exp_m1();

        let mut distances = [1.0; MAX_ORDER];
        for (k, distance) in distances[..order - 1].iter_mut().enumerate() {
            *distance = (half_log_snr(from - k - 1) - origin) / h;
        }
        let mut matrix = [[0.0; MAX_ORDER]; MAX_ORDER];
        let mut rhs = [0.0; MAX_ORDER];
        let mut phi_k = phi_1 / -h - 1.0;
        let mut factorial = 1.0;
        for row in 0..order {
            for column in 0..order {
                // The last column is the present sample, at distance 1.
                let distance = if column + 1 == order { 1.0 } else { distances[column] };
                matrix[row][column] = f32::powi(distance, row as i32);
            }
            rhs[row] = phi_k * factorial / phi_1;
            factorial *= (row + 2) as f32;
            phi_k = phi_k / -h - 1.0 / factorial;
        }

        let weights = Self {
            keep: levels[to].noise / levels[from].noise,
            drift: levels[to].signal * phi_1, // B(h) is the same function
            distances: [distances[0], distances[1]],
            rhos: [0.0; MAX_ORDER],
            earlier: order - 1,
        };
        (weights, matrix, rhs)
    }

    /// The factors of the earlier clean samples, and what they leave for m₀.
    fn factors(&self) -> ([f32; MAX_ORDER - 1], f32) {
        let (mut factors, mut first) = ([0.0; MAX_ORDER - 1], -self.drift);
        for (k, factor) in factors[..self.earlier].iter_mut().enumerate() {
            *factor = -self.drift * self.rhos[k] / self.distances[k];
            first -= *factor;
        }
        (factors, first)
    }

    fn update(&self) -> Update {
        let ([second, third], first) = self.factors();
        let earlier = [second, third, 0.0, 0.0];
        Update { sample: self.keep, original: first, earlier, ..Update::default() }
    }

    /// Here m₀ is the clean sample of the last step.
    fn correction(&self) -> Correction {
        let ([second, third], first) = self.factors();
        let present = -self.drift * self.rhos[self.earlier];
        Correction { last_sample: self.keep, original: present, earlier: [first - present, second, third] }
    }
}

/// Solves the first `n` equations for as many unknowns, by elimination with row exchanges.
fn solve(mut matrix: [[f32; MAX_ORDER]; MAX_ORDER], mut rhs: [f32; MAX_ORDER], n: usize) -> [f32; MAX_ORDER] {
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))
            .unwrap_or(column);
        matrix.swap(column, pivot);
        rhs.swap(column, pivot);
        for row in column + 1..n {
            let pivot_row = matrix[column];
            let factor = matrix[row][column] / pivot_row[column];
            for (x, pivot) in matrix[row].iter_mut().zip(pivot_row) {
                *x -= factor * pivot;
            }
            rhs[row] -= factor * rhs[column];
        }
    }
    let mut solution = [0.0; MAX_ORDER];
    for row in (0..n).rev() {
        let known: f32 = (row + 1..n).map(|k| matrix[row][k] * solution[k]).sum();
        solution[row] = (rhs[row] - known) / matrix[row][row];
    }
    solution
}
