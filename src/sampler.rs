//! Samplers: one step from a noise level to the next.
//!
//! ```
//! # use latentflow::{guidance::Guidance, noise::Generator, sampler::Sampler, schedule::SchedulerConfig};
//! # let config: SchedulerConfig = toml::from_str("type = 'FlowMatchEulerDiscreteScheduler'")?;
//! # let denoise = |latents: &[f32], _timestep: f32, _prompt: &str| latents.to_vec();
//! let mut generator = Generator::new(42);
//! let mut latents = vec![0.0; 64];
//! generator.randn(&mut latents); // times `init_noise_sigma`, which is 1 here
//! let mut sampler = Sampler::new(config.schedule(4, 0)?);
//! for index in 0..sampler.schedule().len() {
//!     let timestep = sampler.schedule().timesteps[index];
//!     let scale = sampler.scale_model_input(index);
//!     let input: Vec<f32> = latents.iter().map(|x| x * scale).collect();
//!     let mut prediction = denoise(&input, timestep, "a cat");
//!     Guidance::new(5.0).apply(&mut prediction, &denoise(&input, timestep, ""));
//!     sampler.step(index, &mut latents, &prediction, |noise| generator.randn(noise));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What a step multiplies by is worked out by [`schedule`](crate::schedule), a file for each scheduler; here is what is
//! multiplied. `tests/reference.rs` holds whole loops against diffusers.

use std::sync::Arc;

use crate::schedule::Schedule;

/// This is the state of one loop: its schedule, and what a multistep solver remembers.
#[derive(Debug, Clone)]
pub struct Sampler {
    schedule: Arc<Schedule>,
    /// Clean samples as the model saw them, the latest first: the present one, and those that the solver looks back at.
    originals: Vec<Vec<f32>>,
    corrects: bool,
    /// The sample that the last step began with, for solvers that correct.
    last_sample: Vec<f32>,
    noise: Vec<f32>,
    /// How many steps of this run went before, as far as the solver looks back.
    known: usize,
    /// The index that continues this run.
    next_index: usize,
}

impl Sampler {
    /// Returns a sampler at the beginning of `schedule`.
    pub fn new(schedule: impl Into<Arc<Schedule>>) -> Self {
        let schedule = schedule.into();
        Self {
            originals: vec![Vec::new(); schedule.history() + 1],
            corrects: schedule.corrects(),
            schedule,
            last_sample: Vec::new(),
            noise: Vec::new(),
            known: 0,
            next_index: 0,
        }
    }

    /// Returns the schedule that this sampler goes through.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Returns what the sample is multiplied by before the model sees it at step `index`.
    ///
    /// It is 1/√(sigma² + 1) for the Euler schedulers with betas, whose samples grow with the noise, and 1 for all others.
    ///
    /// # Panics
    ///
    /// Where `index` is not below the schedule's length.
    pub fn scale_model_input(&self, index: usize) -> f32 {
        self.schedule.step(index, 0).input_scale
    }

    /// Takes `sample` over step `index`, from noise level `sigmas[index]` to `sigmas[index + 1]`, in place.
    ///
    /// `model_output` is what the model made of this sample at `timesteps[index]`, guidance included. `randn` fills what it
    /// is given with normal noise; it is called by samplers that add some, as often as diffusers draws. Steps follow one
    /// another; a loop may begin at any index. A multistep solver that meets another index or length than the next one
    /// forgets what came before.
    ///
    /// # Panics
    ///
    /// Where `sample` and `model_output` differ in length, or `index` is not below the schedule's length.
    pub fn step(
        &mut self,
        index: usize,
        sample: &mut [f32],
        model_output: &[f32],
        mut randn: impl FnMut(&mut [f32]),
    ) {
        assert_eq!(sample.len(), model_output.len(), "sample and model output differ in length");
        if self.originals[0].len() != sample.len() {
            self.originals.iter_mut().for_each(|original| original.resize(sample.len(), 0.0));
            self.reset();
        } else if index != self.next_index {
            self.reset();
        }
        let step = self.schedule.step(index, self.known);

        // The oldest becomes the newest: originals[0] is of this step, originals[1] of the last one, ...
        self.originals.rotate_right(1);
        let Some((present, earlier)) = self.originals.split_first_mut() else { return };
        let from = step.original;
        for ((original, x), output) in present.iter_mut().zip(&*sample).zip(model_output) {
            *original = (from.sample * x + from.output * output).clamp(-from.clip, from.clip);
        }

        if let Some(correction) = &step.correction {
            for ((x, last), original) in sample.iter_mut().zip(&self.last_sample).zip(&*present) {
                *x = correction.last_sample * last + correction.original * original;
            }
            add(sample, earlier, &correction.earlier);
        }
        if self.corrects {
            self.last_sample.resize(sample.len(), 0.0);
            self.last_sample.copy_from_slice(sample);
        }

        let update = &step.update;
        for ((x, original), output) in sample.iter_mut().zip(&*present).zip(model_output) {
            *x = update.sample * *x + update.original * original + update.output * output;
        }
        add(sample, earlier, &update.earlier);

        for _ in 0..step.draws {
            self.noise.resize(sample.len(), 0.0);
            randn(&mut self.noise);
        }
        if step.draws > 0 {
            for (x, noise) in sample.iter_mut().zip(&self.noise) {
                *x += update.noise * noise;
            }
        }

        self.known = (self.known + 1).min(earlier.len());
        self.next_index = index + 1;
    }

    /// Forgets what a multistep solver remembers, for another run through the same schedule.
    pub fn reset(&mut self) {
        self.known = 0;
    }
}

/// Adds each of `terms` to `sum`, multiplied by its factor; factors of nothing are left out.
fn add(sum: &mut [f32], terms: &[Vec<f32>], factors: &[f32]) {
    for (term, &factor) in terms.iter().zip(factors).filter(|(_, factor)| **factor != 0.0) {
        for (sum, x) in sum.iter_mut().zip(term) {
            *sum += factor * x;
        }
    }
}
