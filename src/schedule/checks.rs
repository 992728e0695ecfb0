//! What a table of a package may not say, in words that name the field, its value and what would do.

use super::words::{FinalSigmasType, PredictionType, Word};

/// The most steps that a schedule may have, which keeps a mistyped number from filling the memory.
pub(super) const MAX_INFERENCE_STEPS: usize = 10_000;
/// The most training steps that a table of betas may have, for the same reason.
const MAX_TRAIN_TIMESTEPS: usize = 1_000_000;

pub(super) fn require(
    holds: bool,
    field: &str,
    value: impl std::fmt::Display,
    rule: impl std::fmt::Display,
) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("`{field}` is {value}: {rule}")) }
}

pub(super) fn refuse(field: &str, value: bool) -> Result<(), String> {
    require(!value, field, value, "not implemented, must be false")
}

/// Refuses what a type of scheduler has no field for.
pub(super) fn absent(name: &str, field: &str, asked: bool) -> Result<(), String> {
    if asked { Err(format!("`{name}` has no `{field}`, which this model needs")) } else { Ok(()) }
}

pub(super) fn positive(field: &str, value: f64) -> Result<(), String> {
    require(value > 0.0 && value.is_finite(), field, value, "must be a finite number above 0")
}

pub(super) fn train_timesteps(value: usize) -> Result<(), String> {
    require(
        (1..=MAX_TRAIN_TIMESTEPS).contains(&value),
        "num_train_timesteps",
        value,
        format_args!("must be from 1 to {MAX_TRAIN_TIMESTEPS}"),
    )
}

pub(super) fn betas(start: f64, end: f64) -> Result<(), String> {
    let rule = "must be above 0 and below 1";
    let inside = |beta: f64| beta > 0.0 && beta < 1.0;
    require(inside(start), "beta_start", start, rule)?;
    require(inside(end), "beta_end", end, rule)
}

pub(super) fn no_flow_prediction(value: PredictionType) -> Result<(), String> {
    require(
        value != PredictionType::FlowPrediction,
        "prediction_type",
        "flow_prediction",
        "must be `epsilon`, `v_prediction` or `sample`",
    )
}

pub(super) fn no_sample_prediction(value: PredictionType) -> Result<(), String> {
    require(
        value != PredictionType::Sample,
        "prediction_type",
        "sample",
        "must be `epsilon` or `v_prediction`",
    )
}

/// What `use_flow_sigmas` of the multistep schedulers goes with.
pub(super) fn flow_sigmas(
    prediction_type: PredictionType,
    flow_shift: f64,
    final_sigmas_type: FinalSigmasType,
) -> Result<(), String> {
    require(
        prediction_type == PredictionType::FlowPrediction,
        "prediction_type",
        Word(prediction_type),
        "must be `flow_prediction`, as `use_flow_sigmas` is true",
    )?;
    positive("flow_shift", flow_shift)?;
    require(
        final_sigmas_type == FinalSigmasType::Zero,
        "final_sigmas_type",
        Word(final_sigmas_type),
        "must be `zero`, as `use_flow_sigmas` is true",
    )
}

pub(super) fn shift_terminal(value: Option<f64>) -> Result<(), String> {
    let value = value.unwrap_or(0.0);
    require((0.0..1.0).contains(&value), "shift_terminal", value, "must be at least 0 and below 1")
}

pub(super) fn sigmas(sigmas: Option<&[f64]>) -> Result<(), String> {
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

pub(super) fn solver_order(value: usize) -> Result<(), String> {
    require((1..=3).contains(&value), "solver_order", value, "must be from 1 to 3")
}
