//! A schedule as numbers: what the model is told, how much noise there is, and what each step multiplies by.

use super::words::PredictionType;

/// These are the steps of one run: what the model is told, how much noise there is, and how a step is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// What the model gets as its timestep, one for each step: never rising, or never falling with `invert_sigmas`.
    pub timesteps: Vec<f32>,
    /// The noise level before each step, and after the last one: one more than there are steps, never rising.
    ///
    /// In flow matching it is the share of noise, from 1 to 0, or that of the signal with `invert_sigmas`, which rises. In
    /// the other diffusions it is the ratio of noise to signal, which is infinite where the signal is zero.
    pub sigmas: Vec<f32>,
    /// What standard normal noise is multiplied by to be the first sample.
    pub init_noise_sigma: f32,
    /// How many steps were asked for, which the length may exceed.
    pub(super) num_inference_steps: usize,
    /// Signal and noise before each step, and after the last one.
    pub(super) levels: Vec<Level>,
    /// Each step, by the number of earlier steps of the run that the solver may look back at.
    pub(super) steps: Vec<Vec<Step>>,
}

impl Schedule {
    /// `levels` and `sigmas` are one more than `timesteps` and `steps`.
    pub(super) fn new(
        timesteps: Vec<f32>,
        sigmas: Vec<f32>,
        levels: Vec<Level>,
        steps: Vec<Vec<Step>>,
    ) -> Self {
        debug_assert!(timesteps.len() == steps.len() && sigmas.len() == levels.len());
        let num_inference_steps = steps.len();
        Self { timesteps, sigmas, init_noise_sigma: 1.0, num_inference_steps, levels, steps }
    }

    /// Returns the number of steps, which is that asked for but with `PNDMScheduler`, which does one more.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// Returns whether there are no steps, which no schedule of [`SchedulerConfig`](super::SchedulerConfig) has.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// Returns the index of the first step that a video prompt goes through at `strength`.
    ///
    /// `strength` is from 0, which keeps the prompt, to 1, which replaces it: the last `strength` share of the steps is
    /// done, rounded down. Values beyond are taken as the nearest of the two. The index is [`len`](Self::len) where no
    /// step is left. Source: `get_timesteps` of diffusers' image-to-image and video-to-video pipelines.
    pub fn begin_index(&self, strength: f64) -> usize {
        let steps = (self.num_inference_steps as f64 * strength) as usize; // saturates; NaN is 0
        match steps {
            0 => self.len(),
            steps => self.num_inference_steps.saturating_sub(steps),
        }
    }

    /// Brings a clean `sample` to the noise level before step `index`, in place; [`len`](Self::len) is the level after
    /// the last step.
    ///
    /// With a noise level s this is (1 - s)·sample + s·noise in flow matching, sample + s·noise for the Euler
    /// schedulers, and √ā·sample + √(1 - ā)·noise for the others. Source: `add_noise` and `scale_noise` of diffusers'
    /// schedulers. What comes out is the sample to go on with at `index`, without another factor of `init_noise_sigma`.
    ///
    /// # Panics
    ///
    /// Where `sample` and `noise` differ in length, or `index` is beyond [`len`](Self::len).
    pub fn add_noise(&self, sample: &mut [f32], noise: &[f32], index: usize) {
        assert_eq!(sample.len(), noise.len(), "sample and noise differ in length");
        let Level { signal, noise: sigma } = self.levels[index];
        for (x, n) in sample.iter_mut().zip(noise) {
            *x = signal * *x + sigma * n;
        }
    }

    /// Returns step `index` of a run in which `known` steps went before it.
    pub(crate) fn step(&self, index: usize, known: usize) -> &Step {
        let steps = &self.steps[index];
        &steps[known.min(steps.len() - 1)]
    }

    /// Returns whether all factors are numbers, which extreme betas can keep them from being.
    pub(super) fn is_finite(&self) -> bool {
        self.steps.iter().flatten().all(Step::is_finite)
    }

    /// Returns how many earlier clean samples the solver looks back at.
    pub(crate) fn history(&self) -> usize {
        self.steps.iter().map(|steps| steps.len() - 1).max().unwrap_or(0)
    }

    /// Returns whether the solver corrects samples.
    pub(crate) fn corrects(&self) -> bool {
        self.steps.iter().flatten().any(|step| step.correction.is_some())
    }
}

/// How much of the clean sample and how much standard normal noise a sample is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    pub signal: f32,
    pub noise: f32,
}

impl Level {
    /// Of flow matching: the two add up to 1.
    pub(super) fn flow(sigma: f32) -> Self {
        Self { signal: 1.0 - sigma, noise: sigma }
    }

    /// Of a cumulated alpha: the squares add up to 1.
    pub(super) fn variance_preserving(alpha: f32) -> Self {
        Self { signal: alpha.sqrt(), noise: (1.0 - alpha).sqrt() }
    }

    /// The same from the ratio of noise to signal.
    pub(super) fn of_ratio(sigma: f32) -> Self {
        let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
        Self { signal, noise: sigma * signal }
    }

    /// Of samples that keep the signal whole and grow with the noise.
    pub(super) fn variance_exploding(sigma: f32) -> Self {
        Self { signal: 1.0, noise: sigma }
    }

    /// λ, half the logarithm of the signal-to-noise ratio: infinite without noise.
    pub(super) fn lambda(self) -> f32 {
        self.signal.ln() - self.noise.ln()
    }
}

/// One step as numbers. Every sampler here is linear in the sample, the model's output, the clean samples that they make
/// and the noise drawn, so that a sampler is no more than a way to find these factors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// What the sample is multiplied by before the model sees it.
    pub input_scale: f32,
    /// What the model says about the clean sample.
    pub original: Original,
    /// A look back that corrects the sample, once the model has seen it.
    pub correction: Option<Correction>,
    /// The next sample.
    pub update: Update,
    /// How often as many normal numbers as the sample has are drawn; the last draw counts.
    pub draws: usize,
}

impl Step {
    pub(super) fn new(original: Original, update: Update) -> Self {
        Self { input_scale: 1.0, original, correction: None, update, draws: 0 }
    }

    fn is_finite(&self) -> bool {
        let Self { original: o, update: u, .. } = self;
        let correction =
            self.correction.iter().flat_map(|c| [c.last_sample, c.original].into_iter().chain(c.earlier));
        [o.sample, o.output, u.sample, u.original, u.output, u.noise]
            .into_iter()
            .chain(u.earlier)
            .chain(correction)
            .all(f32::is_finite)
    }
}

/// The clean sample: sample·x + output·v, within ±clip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Original {
    pub sample: f32,
    pub output: f32,
    pub clip: f32,
}

/// The corrected sample: last_sample·x' + original·x₀ + Σ earlier·x₀', with the sample and the clean samples of the steps
/// before, the latest first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Correction {
    pub last_sample: f32,
    pub original: f32,
    pub earlier: [f32; 3],
}

/// The next sample: sample·x + original·x₀ + output·v + Σ earlier·x₀' + noise·n.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Update {
    pub sample: f32,
    pub original: f32,
    pub output: f32,
    pub earlier: [f32; 4],
    pub noise: f32,
}

impl PredictionType {
    /// x₀ at a level of `signal` and `noise`, as factors of the sample and of the output.
    ///
    /// `flow_prediction` holds for levels of flow matching, the others for variance-preserving ones.
    pub(super) fn original(self, signal: f64, noise: f64) -> Original {
        let (sample, output) = match self {
            Self::Epsilon => (1.0 / signal, -noise / signal),
            Self::VPrediction => (signal, -noise),
            Self::Sample => (0.0, 1.0),
            Self::FlowPrediction => (1.0, -noise),
        };
        Original { sample: sample as f32, output: output as f32, clip: f32::INFINITY }
    }

    /// The noise ε in the same form, of variance-preserving levels.
    pub(super) fn epsilon(self, signal: f64, noise: f64) -> [f64; 2] {
        match self {
            Self::Epsilon | Self::FlowPrediction => [0.0, 1.0],
            Self::VPrediction => [noise, signal],
            Self::Sample => [1.0 / noise, -signal / noise],
        }
    }
}
