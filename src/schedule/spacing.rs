//! Which training steps the steps of a run are, and NumPy's and PyTorch's ways to count.

use super::checks::require;
use super::precision::Precision;
use super::words::TimestepSpacing;

/// How a scheduler of diffusers cuts the training steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Into as many as there are steps, whole ones: the DDIM schedulers.
    Whole,
    /// The same without rounding those of `linspace`: the Euler schedulers.
    Exact,
    /// Into one more than there are steps, the lowest of which is left out: the multistep schedulers.
    WithoutLowest,
}

/// The training steps to visit, highest first, from the step below `last` on.
pub(super) fn timesteps(
    spacing: TimestepSpacing,
    cut: Cut,
    train: usize,
    last: usize,
    steps: usize,
    steps_offset: usize,
) -> Result<Vec<f64>, String> {
    let spare = usize::from(cut == Cut::WithoutLowest);
    let timesteps: Vec<f64> = match spacing {
        TimestepSpacing::Linspace => linspace(0.0, (last - 1) as f64, steps + spare)
            .into_iter()
            .skip(spare)
            .rev()
            .map(|t| if cut == Cut::Exact { f64::from(t as f32) } else { t.round_ties_even() })
            .collect(),
        TimestepSpacing::Leading => {
            let stride = last / (steps + spare);
            (spare..steps + spare).rev().map(|i| (i * stride + steps_offset) as f64).collect()
        }
        TimestepSpacing::Trailing => {
            // The way that numpy.arange fills: multiples of the difference of its first two values.
            let last = last as f64;
            let stride = (last - train as f64 / steps as f64) - last;
            (0..steps).map(|i| (last + i as f64 * stride).round_ties_even() - 1.0).collect()
        }
    };
    require(
        timesteps[0] < train as f64,
        "steps_offset",
        steps_offset,
        format_args!("leads to timestep {}, but the last one of training is {}", timesteps[0], train - 1),
    )?;
    require(
        timesteps[steps - 1] >= 0.0,
        "lambda_min_clipped",
        format_args!("{} training steps", train - last),
        "leaves `trailing` spacing too few",
    )?;
    Ok(timesteps)
}

/// Linear interpolation in a table at a position within it: `numpy.interp`.
pub(super) fn interpolate(table: &[f32], at: f64) -> f64 {
    let low = at as usize;
    let y = f64::from(table[low]);
    match table.get(low + 1) {
        Some(&next) => (f64::from(next) - y) * (at - low as f64) + y,
        None => y,
    }
}

/// `numpy.linspace` in double precision.
pub(super) fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    let step = (end - start) / n.saturating_sub(1).max(1) as f64;
    (0..n).map(|i| if i > 0 && i + 1 == n { end } else { i as f64 * step + start }).collect()
}

/// `torch.linspace`, which counts from the nearer end and takes `start` for a single value.
pub(super) fn torch_linspace(start: f64, end: f64, n: usize, precision: Precision) -> Vec<f64> {
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
