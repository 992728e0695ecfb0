//! The words that a scheduler table may use: diffusers' own, but for [`SigmaSchedule`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Shows a word as a table has it.
pub(super) struct Word<T>(pub T);

impl<T: Serialize> fmt::Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

/// How the betas go from `beta_start` to `beta_end` over the training steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SigmaSchedule {
    /// None: the scheduler spaces its training timesteps evenly, which are shifted already, and shifts them again
    /// (Wan with an Euler scheduler).
    #[default]
    Timesteps,
    /// `linspace(1, 1/n, n)` (LTX, HunyuanVideo and others).
    Linspace,
    /// The first half of the steps takes away 0.025 of the noise in equal parts, the second half the rest in growing ones
    /// (`linear_quadratic_schedule` of diffusers' Mochi pipeline).
    LinearQuadratic,
}

/// How a multistep solver goes from one noise level to the next.
///
/// Each of the two solvers takes the other's words for its own default, as diffusers does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverType {
    /// UniPC with B(h) = h. Refused there: with a final sigma of zero it isn't finite.
    Bh1,
    /// UniPC with B(h) = eʰ - 1, its default.
    Bh2,
    /// DPM-Solver++ by the value in the middle of the step, its default.
    Midpoint,
    /// DPM-Solver++ by the Taylor expansion.
    Heun,
    /// A word of DEIS for its default.
    Logrho,
}

/// Which of the DPM-Solvers it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum AlgorithmType {
    /// On the noise. Refused: diffusers has deprecated it.
    #[serde(rename = "dpmsolver")]
    DpmSolver,
    /// On the clean sample (Lu et al., arXiv 2211.01095).
    #[serde(rename = "dpmsolver++")]
    DpmSolverPlusPlus,
    /// On the noise, adding some. Refused: diffusers has deprecated it.
    #[serde(rename = "sde-dpmsolver")]
    SdeDpmSolver,
    /// On the clean sample, adding noise at each step.
    #[serde(rename = "sde-dpmsolver++")]
    SdeDpmSolverPlusPlus,
}

/// What follows the last noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigmasType {
    /// No noise.
    Zero,
    /// The lowest noise level of training.
    SigmaMin,
}

/// How diffusers' Euler scheduler finds a noise level between two training steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InterpolationType {
    /// On a straight line.
    Linear,
    /// Refused.
    LogLinear,
}

/// What diffusers' Euler scheduler gives the model as the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepType {
    /// A training step.
    Discrete,
    /// A quarter of the logarithm of the noise level. Refused.
    Continuous,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_shown_as_tables_have_them() {
        assert_eq!(Word(PredictionType::VPrediction).to_string(), "v_prediction");
        assert_eq!(Word(AlgorithmType::SdeDpmSolver).to_string(), "sde-dpmsolver");
    }
}
