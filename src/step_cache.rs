//! Step caching: leaving out passes of a denoiser whose outcome can be told from those before.
//!
//! Between neighbouring steps a prediction hardly changes, and what changes goes on as it went. How much it changes for a
//! change of its input is much the same from step to step, so that two passes tell how far the next ones would be off: as
//! long as that stays small, they are left out. This needs to know nothing about the network.
//!
//! The rule for leaving out is that of X. Zhou et al., "Less is enough: training-free video diffusion acceleration via
//! runtime-adaptive caching" (EasyCache, arXiv 2507.02860), section 3; in place of the last prediction stands the straight line
//! through the last two, the first order of J. Liu et al., "From reusing to forecasting: accelerating diffusion models with
//! TaylorSeers" (arXiv 2503.06923), taken on the prediction rather than on features. `docs/step-caching.md` says what that
//! gains and costs.

/// This decides which passes of a run are left out, and gives their predictions.
///
/// ```
/// use latentflow::step_cache::StepCache;
///
/// let mut cache = StepCache::new(0.1);
/// let mut passes = 0;
/// for step in 0..10 {
///     let (timestep, latents) = (1000.0 - 100.0 * step as f32, [10.0 - step as f32]);
///     let prediction = match cache.predict(timestep, &latents) {
///         Some(prediction) => prediction.to_vec(),
///         None => {
///             passes += 1;
///             let prediction = [2.0 + 0.001 * timestep]; // the network's
///             cache.record(timestep, &latents, &prediction);
///             prediction.to_vec()
///         }
///     };
///     assert!((prediction[0] - 2.0 - 0.001 * timestep).abs() < 1e-5);
/// }
/// assert!(passes < 10);
/// ```
#[derive(Debug, Clone, Default)]
pub struct StepCache {
    threshold: f64,
    /// The latest first.
    passes: [Pass; 2],
    /// How many of them there are.
    known: usize,
    /// How much of a prediction changes for a change of its input, by the last two passes.
    rate: f64,
    /// The input of the last step, and the size of its prediction.
    last_input: Vec<f32>,
    last_size: f64,
    /// What the predictions since the last pass may be off by, in units of their size.
    error: f64,
    prediction: Vec<f32>,
}

#[derive(Debug, Clone, Default)]
struct Pass {
    timestep: f32,
    input: Vec<f32>,
    prediction: Vec<f32>,
}

impl StepCache {
    /// Returns a cache that leaves out passes as long as predictions are expected to be off by less than `threshold` of their
    /// size, in all since the last pass. At 0 no pass is left out and nothing is remembered.
    pub fn new(threshold: f32) -> Self {
        Self { threshold: f64::from(threshold), ..Self::default() }
    }

    /// Returns the prediction for `input` at `timestep` if the pass can be left out.
    ///
    /// It can't before two passes are [recorded](Self::record), and where it would give what isn't a number. A caller whose
    /// last step counts most doesn't ask at it.
    ///
    /// # Panics
    ///
    /// Where `input` differs in length from those recorded.
    pub fn predict(&mut self, timestep: f32, input: &[f32]) -> Option<&[f32]> {
        if self.known < 2 {
            return None;
        }
        self.error += self.rate * distance(input, &self.last_input) / self.last_size;
        let is_small = self.error < self.threshold; // not where it isn't a number
        if !is_small {
            return None;
        }
        let [last, before] = &self.passes;
        let reach = (timestep - last.timestep) / (last.timestep - before.timestep);
        if !reach.is_finite() {
            return None;
        }
        let line = last
            .prediction
            .iter()
            .zip(&before.prediction)
            .map(|(last, before)| last + reach * (last - before));
        self.prediction.iter_mut().zip(line).for_each(|(prediction, line)| *prediction = line);
        self.last_input.copy_from_slice(input);
        self.last_size = size(&self.prediction);
        Some(&self.prediction)
    }

    /// Remembers what a pass made of `input` at `timestep`.
    ///
    /// # Panics
    ///
    /// Where `input` and `prediction` differ in length.
    pub fn record(&mut self, timestep: f32, input: &[f32], prediction: &[f32]) {
        assert_eq!(input.len(), prediction.len(), "input and prediction differ in length");
        if self.threshold <= 0.0 {
            return;
        }
        if self.prediction.len() != prediction.len() {
            self.known = 0;
            let buffers = [&mut self.last_input, &mut self.prediction];
            let passes = self.passes.iter_mut().flat_map(|pass| [&mut pass.input, &mut pass.prediction]);
            buffers.into_iter().chain(passes).for_each(|buffer| buffer.resize(prediction.len(), 0.0));
        }
        self.passes.rotate_right(1);
        let [last, before] = &mut self.passes;
        last.timestep = timestep;
        last.input.copy_from_slice(input);
        last.prediction.copy_from_slice(prediction);
        self.last_input.copy_from_slice(input);
        self.last_size = size(prediction);
        self.error = 0.0;
        self.known = (self.known + 1).min(2);
        if self.known == 2 {
            self.rate = distance(prediction, &before.prediction) / distance(input, &before.input);
        }
    }

    /// Forgets all passes: what comes next has nothing to do with them.
    pub fn reset(&mut self) {
        self.known = 0;
    }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "inputs differ in length");
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

fn size(a: &[f32]) -> f64 {
    a.iter().map(|&a| f64::from(a).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs 32 Euler steps of a flow to 3, whose prediction bends with the time, and returns the end and the passes run.
    fn run(threshold: f32) -> (f32, usize) {
        let (mut cache, mut x, mut passes) = (StepCache::new(threshold), [1.0f32], 0);
        for step in 0..32 {
            let timestep = 1000.0 - step as f32 * 1000.0 / 32.0;
            let prediction = match cache.predict(timestep, &x).filter(|_| step < 31) {
                Some(prediction) => prediction[0],
                None => {
                    passes += 1;
                    let share = timestep / 1000.0;
                    let prediction = (x[0] - 3.0) / share + 0.3 * (6.0 * share).sin();
                    cache.record(timestep, &x, &[prediction]);
                    prediction
                }
            };
            x[0] -= prediction / 32.0;
        }
        (x[0], passes)
    }

    #[test]
    fn a_higher_threshold_leaves_out_more_and_is_off_by_more() {
        let runs = [0.0, 0.02, 0.1, 0.3].map(run);
        assert_eq!(runs[0].1, 32, "at 0 every pass is run");
        assert!(runs.is_sorted_by(|a, b| a.1 > b.1), "{runs:?}");
        for (end, _) in runs {
            assert!((end - runs[0].0).abs() < 0.05, "{runs:?}");
        }
    }

    #[test]
    fn two_passes_are_run_before_one_is_left_out() {
        let mut cache = StepCache::new(10.0);
        assert!(cache.predict(1000.0, &[1.0]).is_none());
        cache.record(1000.0, &[1.0], &[1.0]);
        assert!(cache.predict(900.0, &[0.9]).is_none());
        cache.record(900.0, &[0.9], &[1.1]);
        assert!((cache.predict(800.0, &[0.8]).unwrap()[0] - 1.2).abs() < 1e-6);
        cache.reset();
        assert!(cache.predict(700.0, &[0.7]).is_none(), "nothing is left of another run");
    }

    #[test]
    fn what_is_not_a_number_is_not_predicted() {
        let record = |cache: &mut StepCache, timestep: f32, x: f32, prediction: f32| {
            assert!(cache.predict(timestep, &[x]).is_none());
            cache.record(timestep, &[x], &[prediction]);
        };
        let mut cache = StepCache::new(10.0);
        record(&mut cache, 900.0, 1.0, 1.0);
        record(&mut cache, 900.0, 0.9, 1.1);
        assert!(cache.predict(800.0, &[0.8]).is_none(), "the same timestep twice has no line through it");

        let mut cache = StepCache::new(10.0);
        record(&mut cache, 900.0, 1.0, 1.0);
        record(&mut cache, 800.0, 1.0, 1.1);
        assert!(cache.predict(700.0, &[0.8]).is_none(), "the same input twice tells no rate");

        let mut cache = StepCache::new(10.0);
        record(&mut cache, 900.0, 1.0, 0.0);
        record(&mut cache, 800.0, 0.9, 0.0);
        assert!(cache.predict(700.0, &[0.8]).is_none(), "nothing has no size");
    }

    #[test]
    fn another_length_is_another_run() {
        let mut cache = StepCache::new(10.0);
        cache.record(1000.0, &[1.0], &[1.0]);
        cache.record(900.0, &[1.0, 2.0], &[1.0, 2.0]);
        assert!(cache.predict(800.0, &[1.0, 2.0]).is_none());
    }
}
