//! The loop from noise, and perhaps an image, to a clean latent: guidance, several denoisers, clips and streams.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::guidance::Guidance;
use crate::model::Model;
use crate::noise::{Generator, Position, chunk_seed};
use crate::onnx::TensorInfo;
use crate::package::{NoiseLayout, chunk_out_of, present_of};
use crate::parameters::{self, Axes};
use crate::patches;
use crate::runtime::{Cancel, ExecutionProvider, Feeds, Graph, Tensor, Tensors};
use crate::sampler::Sampler;
use crate::schedule::{Schedule, SchedulerConfig};
use crate::step_cache::StepCache;
use crate::vae::{self, Pixels};

/// Of as many steps at most the last one is done for a video prompt of little strength: its noise is hardly any.
const MOST_STEPS: f64 = 100.0;

/// The seed where nobody asks for one.
pub const DEFAULT_SEED: u64 = 42;

/// The input of a denoiser that does its guidance itself.
const GUIDANCE_SCALE: &str = "guidance_scale";

/// What is asked of the denoiser.
#[derive(Debug, Clone, PartialEq)]
pub struct DiffuseOptions {
    /// Pixels across; latents cover it rounded up to the model's `size_multiple`.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Frames a second, for models that are told.
    pub frame_rate: f32,
    /// Denoising steps, from 1; what a scene begins with may take more (`stream.first_num_inference_steps`).
    pub num_inference_steps: usize,
    /// Classifier-free guidance (Ho and Salimans, 2022); at 1 and below the negative prompt is not looked at. A denoiser with
    /// guidance in it is told this number instead. `None` is the package's, each denoiser's own where it has one.
    pub guidance_scale: Option<f32>,
    /// How much of the contrast that guidance adds is taken away again, 0 to 1.
    pub guidance_rescale: f32,
    /// CFG-Zero* (Fan et al., 2025): guidance by the length of the unguided prediction that fits best, after
    /// `cfg_zero_init_steps` steps that stand still.
    pub cfg_zero_star: bool,
    /// Steps that stand still at the beginning, with `cfg_zero_star` and models of rectified flow only.
    pub cfg_zero_init_steps: usize,
    /// How far a prediction may be off, in units of its size, for its pass to be left out; 0 leaves out none
    /// ([`StepCache`]).
    pub cache_threshold: f32,
    /// Decides the noise, the same as `torch.Generator("cpu").manual_seed(seed)`.
    pub seed: u64,
    /// Noise schedule and sampler.
    pub scheduler: SchedulerConfig,
    /// Whether graphs stay open. Where they don't, one is open at a time, and none after a clip.
    pub keep_loaded: bool,
}

impl DiffuseOptions {
    /// Returns the model's defaults.
    pub fn new(model: &Model) -> Self {
        let m = model.manifest();
        Self {
            width: m.video.width.default,
            height: m.video.height.default,
            frame_rate: m.video.frame_rate.default.numer as f32 / m.video.frame_rate.default.denom as f32,
            num_inference_steps: m.defaults.num_inference_steps,
            guidance_scale: None,
            guidance_rescale: m.defaults.guidance_rescale,
            cfg_zero_star: false,
            cfg_zero_init_steps: 1,
            cache_threshold: 0.0,
            seed: DEFAULT_SEED,
            scheduler: m.scheduler.clone(),
            keep_loaded: true,
        }
    }

    fn check(&self, model: &Model) -> Result<()> {
        let video = &model.manifest().video;
        for (setting, value, range) in
            [("width", self.width, video.width), ("height", self.height, video.height)]
        {
            if !range.contains(value) {
                let reason = format!("{} can do {} to {}", model.id(), range.min, range.max);
                return Err(Error::Setting { setting, value: value.to_string(), reason });
            }
        }
        if self.num_inference_steps == 0 {
            let reason = "at least one step is needed".into();
            return Err(Error::Setting { setting: "num-inference-steps", value: "0".into(), reason });
        }
        // How long the sequence is shifts its steps, and leaves their number.
        self.scheduler.schedule(self.num_inference_steps, 1).map_err(|reason| {
            let value = self.num_inference_steps.to_string();
            Error::Setting { setting: "num-inference-steps", value, reason }
        })?;
        if let Some(value) = self.guidance_scale.filter(|scale| !scale.is_finite()) {
            let reason = "it must be a number".into();
            return Err(Error::Setting { setting: "guidance-scale", value: value.to_string(), reason });
        }
        for (setting, value, most) in [
            ("guidance-rescale", self.guidance_rescale, 1.0),
            ("cache-threshold", self.cache_threshold, f32::MAX),
        ] {
            if !(0.0..=most).contains(&value) {
                let reason = format!("it must be a number from 0{}", if most == 1.0 { " to 1" } else { "" });
                return Err(Error::Setting { setting, value: value.to_string(), reason });
            }
        }
        Ok(())
    }
}

/// A denoiser and the timesteps that it serves.
struct Expert {
    file: PathBuf,
    min_timestep: f32,
    /// The package's.
    guidance_scale: f32,
    graph: Option<Arc<Graph>>,
}

/// What a chunk starts from.
#[derive(Clone, Copy)]
enum Start<'a> {
    /// Noise, for as many latent frames.
    Noise(usize),
    /// Another video's latents and how much of the way is gone.
    Video(&'a [f32], f64),
}

/// Makes latents, a chunk at a time.
///
/// A scene begins with [`start_scene`](Self::start_scene). A model of clips makes a scene in one chunk of any length; a
/// causal one goes on, chunk after chunk, remembering the keys and values of the chunks before.
pub struct Diffuser {
    model: Arc<Model>,
    options: DiffuseOptions,
    experts: Vec<Expert>,
    conditioner: Option<Arc<Graph>>,
    /// What changes the sample before each step: a graph of a few nodes, which stays open.
    conditioner_step: Option<Arc<Graph>>,
    provider: Option<ExecutionProvider>,
    /// `[1, 1, h, w, 3]` in 0..1.
    image: Option<Tensor>,
    /// Of the prompt and of the negative prompt.
    caches: [Cache; 2],
    chunk_index: u64,
    skipped_steps: usize,
    noise_position: Option<Position>,
}

impl Diffuser {
    /// Returns the denoisers of `model`, which open when they are first needed.
    ///
    /// # Errors
    /// [`Error::Setting`] names the option that the model can't do.
    pub fn new(model: Arc<Model>, options: DiffuseOptions) -> Result<Self> {
        options.check(&model)?;
        let m = model.manifest();
        let expert = |d: &crate::package::DenoiserConfig| Expert {
            file: d.file.clone(),
            min_timestep: d.min_timestep,
            guidance_scale: d.guidance_scale.unwrap_or(m.defaults.guidance_scale),
            graph: None,
        };
        let experts = m.denoisers.iter().map(expert).collect();
        Ok(Self {
            model,
            options,
            experts,
            conditioner: None,
            conditioner_step: None,
            provider: None,
            image: None,
            caches: Default::default(),
            chunk_index: 0,
            skipped_steps: 0,
            noise_position: None,
        })
    }

    /// Opens what the next chunk needs at once: all graphs, or the first where one is open at a time.
    ///
    /// # Errors
    /// As [`Model::graph`].
    pub fn open(&mut self, cancel: &Cancel) -> Result<()> {
        if self.image.is_some() {
            self.open_conditioner(cancel)?;
        }
        match (self.options.keep_loaded, &self.conditioner) {
            (true, _) => {
                (0..self.experts.len()).try_for_each(|index| self.open_expert(index, cancel).map(drop))
            }
            (false, None) => self.open_expert(0, cancel).map(drop),
            (false, Some(_)) => Ok(()),
        }
    }

    /// Closes the graphs; they open again when they are needed.
    pub fn close(&mut self) {
        (self.conditioner, self.conditioner_step) = (None, None);
        self.experts.iter_mut().for_each(|expert| expert.graph = None);
    }

    fn open_conditioner(&mut self, cancel: &Cancel) -> Result<Option<Arc<Graph>>> {
        if self.conditioner.is_none()
            && let Some(config) = &self.model.manifest().conditioner
        {
            if !self.options.keep_loaded {
                self.experts.iter_mut().for_each(|expert| expert.graph = None);
            }
            self.conditioner = Some(self.model.graph(&config.file, cancel)?);
        }
        Ok(self.conditioner.clone())
    }

    fn open_expert(&mut self, index: usize, cancel: &Cancel) -> Result<Arc<Graph>> {
        if let Some(graph) = &self.experts[index].graph {
            return Ok(graph.clone());
        }
        if !self.options.keep_loaded {
            self.conditioner = None;
            self.experts.iter_mut().for_each(|expert| expert.graph = None);
        }
        let graph = self.model.graph(&self.experts[index].file, cancel)?;
        self.provider = Some(graph.provider());
        self.experts[index].graph = Some(graph.clone());
        Ok(graph)
    }

    /// Takes the image that the next clips start from, of the size asked for: RGB rows, `stride` bytes apart.
    ///
    /// # Errors
    /// [`Error::Setting`] if the model takes no image, [`Error::Shape`] if there are too few bytes.
    pub fn set_image(&mut self, rgb: &[u8], stride: usize) -> Result<()> {
        let m = self.model.manifest();
        if m.conditioner.is_none() {
            let reason = match (&m.stream, &m.encoder) {
                (Some(_), Some(_)) => {
                    "this model takes images as a video prompt: link `vaeencode` to the pad `video`"
                }
                _ => "this model makes video of prompts alone; its package has no [conditioner]",
            };
            let (setting, value) = ("image", "given".to_owned());
            return Err(Error::Setting { setting, value, reason: reason.into() });
        }
        let (width, height) = (self.options.width, self.options.height);
        let row = width * 3;
        let needed = stride.saturating_mul(height - 1).saturating_add(row);
        if stride < row || rgb.len() < needed {
            let found = format!("{} bytes in rows of {stride}", rgb.len());
            let expected = format!("{needed} bytes in rows of at least {row} ({width}×{height} RGB)");
            return Err(Error::Shape { what: "an image".into(), found, expected });
        }
        let data: Vec<u8> =
            rgb.chunks(stride).take(height).flat_map(|bytes| &bytes[..row]).copied().collect();
        let inside = |pixels: usize| pixels.next_multiple_of(m.latents.size_multiple);
        let (w, h) = (inside(width), inside(height));
        let mut image = Tensor::from_f32(&[1, 1, h, w, 3], vec![0.0; h * w * 3])?;
        Pixels { data: &data, width, height }.cut((0, 0), (w, h), image.f32_mut()?);
        self.image = Some(image);
        Ok(())
    }

    /// Lets the next clips start from noise alone.
    pub fn clear_image(&mut self) {
        self.image = None;
    }

    /// Returns the model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Returns what is asked of it.
    pub fn options(&self) -> &DiffuseOptions {
        &self.options
    }

    /// Asks for something else from the next chunk on; a change of size starts a new scene and forgets the image.
    ///
    /// # Errors
    /// [`Error::Setting`] names the option that the model can't do; then nothing changes.
    pub fn set_options(&mut self, options: DiffuseOptions) -> Result<()> {
        if options == self.options {
            return Ok(());
        }
        options.check(&self.model)?;
        if (options.width, options.height) != (self.options.width, self.options.height) {
            self.start_scene();
            self.image = None;
        }
        self.options = options;
        Ok(())
    }

    /// Returns where the denoisers run, once they were opened.
    pub fn provider(&self) -> Option<ExecutionProvider> {
        self.provider
    }

    /// Forgets the chunks before: the next one starts a scene.
    pub fn start_scene(&mut self) {
        self.caches = Default::default();
        self.chunk_index = 0;
    }

    /// Returns whether the next chunk starts a scene.
    pub fn is_scene_start(&self) -> bool {
        self.chunk_index == 0
    }

    /// Returns how many steps of the last chunk were done without a pass of a denoiser.
    pub fn skipped_steps(&self) -> usize {
        self.skipped_steps
    }

    /// Returns where the noise of the last chunk ended, for a decoder that goes on drawing from there.
    pub fn noise_position(&self) -> Option<Position> {
        self.noise_position
    }

    /// Returns the shape `[C, T, h, w]` of a chunk of `num_latent_frames`.
    pub fn latent_shape(&self, num_latent_frames: usize) -> [usize; 4] {
        let l = &self.model.manifest().latents;
        let cells = |pixels: usize| pixels.next_multiple_of(l.size_multiple) / l.spatial_compression_ratio;
        [l.channels, num_latent_frames, cells(self.options.height), cells(self.options.width)]
    }

    /// Makes the next chunk of the scene: latents `[C, T, h, w]`.
    ///
    /// `positive` and `negative` are the text encoders' outputs for the prompt and the negative prompt; `on_step` hears of
    /// each step that is done, of the number of all of them, and of the sample after it. Where the package has `stream.first`, a
    /// scene's first chunk is made in two goes, and the sample is what the go makes.
    ///
    /// # Errors
    /// [`Error::Setting`] if guidance is asked for without a negative prompt, more than one chunk a scene of a model of
    /// clips, or no image was given to a model that needs one; [`Error::Cancelled`] after [`Cancel::cancel`], and then the scene has to be started again; also as
    /// [`Graph::run`].
    pub fn chunk(
        &mut self,
        positive: &Tensors,
        negative: Option<&Tensors>,
        num_latent_frames: usize,
        cancel: &Cancel,
        on_step: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<Vec<f32>> {
        let first = self.model.manifest().stream.and_then(|stream| stream.first);
        let Some(first) = first.filter(|&first| self.is_scene_start() && first < num_latent_frames) else {
            return self.make(Start::Noise(num_latent_frames), positive, negative, cancel, on_step);
        };
        let rest = num_latent_frames - first;
        let steps = [self.schedule(first, true)?.len(), self.schedule(rest, false)?.len()];
        let mut go = |frames, done| {
            let mut on_step = |step, _, sample: &[f32]| on_step(done + step, steps[0] + steps[1], sample);
            let made = self.make(Start::Noise(frames), positive, negative, cancel, &mut on_step)?;
            Ok::<_, Error>((made, self.skipped_steps))
        };
        let ((head, skipped), (tail, _)) = (go(first, 0)?, go(rest, steps[0])?);
        self.skipped_steps += skipped;
        let channels = self.latent_shape(1)[0];
        let by_channel =
            head.chunks_exact(head.len() / channels).zip(tail.chunks_exact(tail.len() / channels));
        Ok(by_channel.flat_map(|(head, tail)| [head, tail]).flatten().copied().collect())
    }

    /// Makes the next chunk of the scene out of another video's: latents `[C, T, h, w]` like `video`.
    ///
    /// `strength` in 0..=1 is the share of the steps that are done: at 1 nothing of `video` is left, at 0 all of it, and the
    /// chunk is only remembered, so that the chunks after it go on from there. As diffusers' image-to-image pipelines, but that above 0 a step is
    /// always done: where the share of few steps is none, the last of more.
    ///
    /// # Errors
    /// [`Error::Shape`] if `video` is no whole number of latent frames, [`Error::Setting`] for a strength out of range;
    /// also as [`Diffuser::chunk`].
    pub fn chunk_of_video(
        &mut self,
        video: &[f32],
        strength: f64,
        positive: &Tensors,
        negative: Option<&Tensors>,
        cancel: &Cancel,
        on_step: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<Vec<f32>> {
        if !(0.0..=1.0).contains(&strength) {
            let reason = "it is a share, 0 to 1".into();
            return Err(Error::Setting { setting: "strength", value: strength.to_string(), reason });
        }
        self.make(Start::Video(video, strength), positive, negative, cancel, on_step)
    }

    /// Returns the steps of a chunk of `num_latent_frames`, which may be what a scene `begins` with.
    fn schedule(&self, num_latent_frames: usize, begins: bool) -> Result<Schedule> {
        let first = self.model.manifest().stream.filter(|_| begins).and_then(|s| s.first_num_inference_steps);
        self.schedule_in(num_latent_frames, self.options.num_inference_steps.max(first.unwrap_or(0)))
    }

    /// Returns the steps of a video prompt's chunk, and the first that is done. Where the share of so few would be none, it is the last of as many as
    /// it takes for one, or of those there are, where a schedule has no others: a little strength changes a little, not nothing.
    fn schedule_of_video(&self, num_latent_frames: usize, strength: f64) -> Result<(Schedule, usize)> {
        let schedule = self.schedule(num_latent_frames, false)?;
        let begin = schedule.begin_index(strength);
        if begin < schedule.len() || strength == 0.0 {
            return Ok((schedule, begin));
        }
        let finer = (1.0 / strength).ceil().min(MOST_STEPS) as usize;
        let most = |steps: usize| self.schedule_in(num_latent_frames, steps).ok();
        let schedule = (schedule.len()..=finer).rev().find_map(most).unwrap_or(schedule);
        let last = schedule.len() - 1;
        Ok((schedule, last))
    }

    fn schedule_in(&self, num_latent_frames: usize, steps: usize) -> Result<Schedule> {
        let config = &self.options.scheduler;
        let seq_len = patches::seq_len(self.latent_shape(num_latent_frames), self.token_size(), 1)?;
        config.schedule(steps, seq_len).map_err(|reason| Error::Setting {
            setting: "scheduler",
            value: config.name().into(),
            reason,
        })
    }

    fn make(
        &mut self,
        start: Start,
        positive: &Tensors,
        negative: Option<&Tensors>,
        cancel: &Cancel,
        on_step: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<Vec<f32>> {
        let num_latent_frames = match start {
            Start::Noise(frames) => frames,
            Start::Video(video, _) => {
                let frame: usize = self.latent_shape(1).iter().product();
                if video.is_empty() || !video.len().is_multiple_of(frame) {
                    let expected = format!("a multiple of {frame} values, a latent frame's");
                    return Err(Error::shape("a video prompt's chunk", video.len(), expected));
                }
                video.len() / frame
            }
        };
        let model = self.model.clone();
        let (stream, layout) = (model.manifest().stream, model.manifest().latents.noise_layout);
        if stream.is_none() && self.chunk_index > 0 {
            let reason = "this model makes one clip a prompt and can't go on".into();
            return Err(Error::Setting { setting: "duration", value: "longer than the clip".into(), reason });
        }
        let shape @ [c, t, h, w] = self.latent_shape(num_latent_frames);
        let begins = self.is_scene_start();
        let (schedule, begin) = match start {
            Start::Noise(_) => (self.schedule(t, begins)?, 0),
            Start::Video(_, strength) => self.schedule_of_video(t, strength)?,
        };
        let schedule = Arc::new(schedule);
        let mut sampler = Sampler::new(schedule.clone());

        let mut generator = Generator::new(chunk_seed(self.options.seed, self.chunk_index));
        let frames = vae::num_frames(&model.manifest().latents, t, self.chunk_index == 0);
        let axes = Axes { latents: shape, frames };
        let (mut noise, image_noise) = self.draw(&mut generator, axes, layout)?;
        let mut sample = match start {
            Start::Noise(_) => {
                let quieter = stream.filter(|_| !begins).and_then(|stream| stream.init_noise_sigma);
                let init_noise_sigma = quieter.unwrap_or(schedule.init_noise_sigma);
                if init_noise_sigma != 1.0 {
                    noise.iter_mut().for_each(|x| *x *= init_noise_sigma);
                }
                noise.clone()
            }
            Start::Video(video, _) => {
                let mut sample = video.to_vec();
                if begin < schedule.len() {
                    schedule.add_noise(&mut sample, &noise, begin);
                }
                sample
            }
        };
        let mut extras = self.condition(noise, image_noise, shape, cancel)?;
        if let (Some(first), Start::Noise(_)) = (extras.remove("latents"), start) {
            sample.copy_from_slice(first.f32()?);
        }
        let chunk = Chunk { positive, negative, extras, axes };

        let mut latents = Tensor::from_f32(&[1, c, t, h, w], sample.clone())?;
        let steps = schedule.len();
        let mut told = None;
        // Steps that stand still have a velocity of nothing, which is good for pure noise alone.
        let still_steps = match start {
            Start::Noise(_) if self.options.cfg_zero_star && self.options.scheduler.is_flow() => {
                self.options.cfg_zero_init_steps
            }
            _ => 0,
        };
        let still = vec![0.0; if still_steps > 0 { sample.len() } else { 0 }];
        let mut cache = StepCache::new(self.options.cache_threshold);
        let (mut last_expert, mut skipped_steps) = (None, 0);
        for (index, &timestep) in schedule.timesteps.iter().enumerate().skip(begin) {
            self.condition_step(&mut sample, timestep, &chunk, &mut generator, cancel)?;
            let scale = sampler.scale_model_input(index);
            for (input, x) in latents.f32_mut()?.iter_mut().zip(&sample) {
                *input = x * scale;
            }
            let expert = self.expert_at(timestep);
            if last_expert.replace(expert) != Some(expert) {
                cache.reset();
            }
            let computed;
            let prediction = if index - begin < still_steps {
                skipped_steps += 1;
                &still
            } else {
                // The last pass is always run: nothing after it makes up for what it is off by.
                let foretold = cache.predict(timestep, latents.f32()?).filter(|_| index + 1 < steps);
                match foretold {
                    Some(prediction) => {
                        skipped_steps += 1;
                        prediction
                    }
                    None => {
                        computed = self.predict(expert, &latents, timestep, &chunk, &mut told, cancel)?;
                        let prediction = computed.f32()?;
                        cache.record(timestep, latents.f32()?, prediction);
                        prediction
                    }
                }
            };
            let draw = |noise: &mut [f32]| generator.fill_latents(noise, shape, layout);
            sampler.step(index, &mut sample, prediction, draw);
            on_step(index + 1 - begin, steps - begin, &sample);
        }
        if let Some(stream) = stream {
            // One more pass over the clean latents, or nearly, gives the keys and values that later chunks look back at.
            let in_sink = self.caches[0].frames() < stream.sink;
            let level = if in_sink { 0.0 } else { stream.context_noise };
            let context = latents.f32_mut()?;
            context.copy_from_slice(&sample);
            if level > 0.0 {
                let noise = generator.latents(shape, layout);
                context.iter_mut().zip(noise).for_each(|(x, noise)| *x = (1.0 - level) * *x + level * noise);
            }
            let timestep = level * self.options.scheduler.num_train_timesteps() as f32;
            let expert = self.expert_at(timestep);
            let graph = self.open_expert(expert, cancel)?;
            let guidance_scale = self.guidance_scale(expert);
            let told = chunk.told(&model, expert, &graph, &mut told)?;
            let mut pass = Pass { graph: &graph, latents: &latents, timestep, guidance_scale, told };
            let branches = if is_guided(&graph, guidance_scale) && negative.is_some() { 2 } else { 1 };
            match branches {
                2 => self.catch_up()?,
                _ => self.caches[1] = Cache::default(),
            }
            // All are made before one is kept: they look back at the same chunks.
            let made = (0..branches).map(|branch| self.run(&mut pass, &chunk, branch, cancel));
            let made = made.collect::<Result<Vec<_>>>()?;
            for (cache, mut outputs) in self.caches.iter_mut().zip(made) {
                cache.append(&mut outputs, &stream)?;
            }
        } else if !self.options.keep_loaded {
            self.close();
        }
        self.chunk_index += 1;
        self.noise_position = Some(generator.position());
        self.skipped_steps = skipped_steps;
        Ok(sample)
    }

    /// Returns what a denoiser, guided, makes of `latents`: as many values.
    fn predict(
        &mut self,
        expert: usize,
        latents: &Tensor,
        timestep: f32,
        chunk: &Chunk,
        told: &mut Option<Told>,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let graph = self.open_expert(expert, cancel)?;
        let guidance_scale = self.guidance_scale(expert);
        let is_guided = is_guided(&graph, guidance_scale);
        if is_guided {
            self.catch_up()?;
        }
        let told = chunk.told(&self.model, expert, &graph, told)?;
        let mut pass = Pass { graph: &graph, latents, timestep, guidance_scale, told };
        let length = latents.f32()?.len();
        let mut run =
            |branch| sized(self.run(&mut pass, chunk, branch, cancel)?, "prediction", &graph, length);
        let mut guided = run(0)?;
        if is_guided {
            let guidance = Guidance {
                scale: guidance_scale,
                rescale: self.options.guidance_rescale,
                zero_star: self.options.cfg_zero_star,
            };
            guidance.apply(guided.f32_mut()?, run(1)?.f32()?);
        }
        Ok(guided)
    }

    /// Draws what a chunk starts from, `[C, T, h, w]`, and with an image the conditioner's `image_noise`: in the order of the
    /// conditioner's inputs.
    fn draw(
        &self,
        generator: &mut Generator,
        axes: Axes,
        layout: NoiseLayout,
    ) -> Result<(Vec<f32>, Option<Tensor>)> {
        let conditioner = self.model.manifest().conditioner.as_ref().filter(|_| self.image.is_some());
        let signature = conditioner.map(|config| self.model.package().signature(&config.file));
        let inputs = signature.map_or(&[][..], |signature| &signature.inputs);
        let place = |name: &str| inputs.iter().position(|input| input.name == name);
        let Some(index) = place("image_noise") else {
            return Ok((generator.latents(axes.latents, layout), None));
        };
        let image_noise = |generator: &mut Generator| draw(&inputs[index], "conditioner", axes, generator);
        if place("noise").is_none_or(|noise| noise < index) {
            let noise = generator.latents(axes.latents, layout);
            return Ok((noise, Some(image_noise(generator)?)));
        }
        let image_noise = image_noise(generator)?;
        Ok((generator.latents(axes.latents, layout), Some(image_noise)))
    }

    /// Lets the conditioner's `step` change `sample` before a step, if there is one and there is an image.
    fn condition_step(
        &mut self,
        sample: &mut [f32],
        timestep: f32,
        chunk: &Chunk,
        generator: &mut Generator,
        cancel: &Cancel,
    ) -> Result<()> {
        let model = self.model.clone();
        let step = model.manifest().conditioner.as_ref().and_then(|config| config.step.as_ref());
        let Some(file) = step.filter(|_| self.image.is_some()) else { return Ok(()) };
        let graph = match &self.conditioner_step {
            Some(graph) => graph.clone(),
            None => self.conditioner_step.insert(model.graph(file, cancel)?).clone(),
        };
        let [c, t, h, w] = chunk.axes.latents;
        let latents = Tensor::from_f32(&[1, c, t, h, w], sample.to_vec())?;
        let timestep = Tensor::from_f32(&[1], vec![timestep])?;
        let noise = graph.signature().input("noise");
        let noise = noise.map(|input| draw(input, graph.name(), chunk.axes, generator)).transpose()?;
        let given = |name: &str| chunk.extras.contains_key(name);
        let filled = parameters::fill(&graph, &model.manifest().parameters, chunk.axes, given)?;
        let mut feeds: Feeds =
            chunk.extras.iter().chain(&filled).map(|(name, tensor)| (name.as_str(), tensor)).collect();
        feeds.extend([("latents", &latents), ("timestep", &timestep)]);
        feeds.extend(noise.as_ref().map(|noise| ("noise", noise)));
        let changed = sized(graph.run(&feeds, cancel)?, "sample", &graph, sample.len())?;
        sample.copy_from_slice(changed.f32()?);
        Ok(())
    }

    /// Returns what the conditioner gives for the image and `noise` `[C, T, h, w]`: the first sample `latents`, and extras for the
    /// denoisers. Without a conditioner or an image that is nothing.
    fn condition(
        &mut self,
        noise: Vec<f32>,
        image_noise: Option<Tensor>,
        shape: [usize; 4],
        cancel: &Cancel,
    ) -> Result<Tensors> {
        let model = self.model.clone();
        let Some(config) = &model.manifest().conditioner else { return Ok(Tensors::new()) };
        if self.image.is_none() {
            if config.required {
                let reason = format!(
                    "{} makes video of an image; link one to the pad `image` of latentdiffuse: filesrc location=cat.jpg ! \
                     decodebin ! videoconvert ! videoscale ! d.image",
                    model.id()
                );
                return Err(Error::Setting { setting: "image", value: "missing".into(), reason });
            }
            return Ok(Tensors::new());
        }
        let (Some(graph), Some(image)) = (self.open_conditioner(cancel)?, &self.image) else {
            return Ok(Tensors::new());
        };
        let [c, t, h, w] = shape;
        let length = noise.len();
        let noise = Tensor::from_f32(&[1, c, t, h, w], noise)?;
        let mut feeds = Feeds::from([("image", image), ("noise", &noise)]);
        feeds.extend(image_noise.as_ref().map(|noise| ("image_noise", noise)));
        let axes = Axes { latents: shape, frames: 1 };
        let given = |name: &str| ["image", "noise", "image_noise"].contains(&name);
        let filled = parameters::fill(&graph, &model.manifest().parameters, axes, given)?;
        feeds.extend(filled.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        let outputs = graph.run(&feeds, cancel)?;
        let first = outputs.get("latents").map(|latents| latents.f32().map(<[f32]>::len)).transpose()?;
        if first != Some(length) {
            let what = format!("output `latents` of graph `{}`", graph.name());
            return Err(Error::shape(what, first, format!("{length} values")));
        }
        if !self.options.keep_loaded {
            self.conditioner = None;
        }
        Ok(outputs)
    }

    /// Returns the side of a token in latent cells: a token covers `size_multiple` pixels.
    fn token_size(&self) -> usize {
        let l = &self.model.manifest().latents;
        l.size_multiple / l.spatial_compression_ratio
    }

    /// Returns the index of the denoiser that serves `timestep`; the last one serves whatever the others leave.
    fn expert_at(&self, timestep: f32) -> usize {
        let serves = |expert: &Expert| timestep >= expert.min_timestep;
        self.experts.iter().position(serves).unwrap_or(self.experts.len() - 1)
    }

    /// Returns what was asked for, else the package's.
    fn guidance_scale(&self, expert: usize) -> f32 {
        self.options.guidance_scale.unwrap_or(self.experts[expert].guidance_scale)
    }

    /// Lets the negative prompt look back at the past as the prompt saw it, where guidance is asked for in the middle of a scene.
    fn catch_up(&mut self) -> Result<()> {
        if self.caches[1].frames() < self.caches[0].frames() {
            self.caches[1] = self.caches[0].copy()?;
        }
        Ok(())
    }

    fn run(&self, pass: &mut Pass, chunk: &Chunk, branch: usize, cancel: &Cancel) -> Result<Tensors> {
        let graph = pass.graph;
        let per_frame = graph.signature().input("timestep").is_some_and(|t| t.shape.len() == 2);
        let [_, frames, h, w] = chunk.axes.latents;
        let timestep = match per_frame {
            true => Tensor::from_f32(&[1, frames], vec![pass.timestep; frames])?,
            false => Tensor::from_f32(&[1], vec![pass.timestep])?,
        };
        let guidance_scale = Tensor::from_f32(&[1], vec![pass.guidance_scale])?;
        let frame_rate = Tensor::from_f32(&[1], vec![self.options.frame_rate])?;
        let embeds = if branch == 0 { chunk.positive } else { chunk.negative.ok_or_else(no_negative)? };
        let others = [embeds, &chunk.extras, &pass.told.parameters].into_iter().flatten();
        let mut feeds: Feeds = others.map(|(name, tensor)| (name.as_str(), tensor)).collect();
        feeds.extend([
            ("latents", pass.latents),
            ("timestep", &timestep),
            (GUIDANCE_SCALE, &guidance_scale),
            ("frame_rate", &frame_rate),
        ]);
        let tokens = (h / self.token_size()) * (w / self.token_size());
        let (cache, found_out) = (&self.caches[branch], &mut pass.told.found_out[branch]);
        let empty = cache.empty_for(graph, tokens)?;
        for (name, tensor) in cache.past.iter().chain(&empty).chain(&*found_out) {
            feeds.insert(name, tensor);
        }
        let mut outputs = graph.run(&feeds, cancel)?;
        for (name, tensor) in found_out {
            let found = chunk_out_of(name).and_then(|name| outputs.remove(&name));
            if let Some(found) = found.filter(|_| tensor.shape()[1] == 0) {
                *tensor = found;
            }
        }
        Ok(outputs)
    }
}

/// What stays the same in all passes of a chunk.
struct Chunk<'a> {
    positive: &'a Tensors,
    negative: Option<&'a Tensors>,
    /// The conditioner's.
    extras: Tensors,
    axes: Axes,
}

impl Chunk<'_> {
    /// Returns what `graph`, that of `expert`, is told: `told`, if that is its already.
    fn told<'a>(
        &self,
        model: &Model,
        expert: usize,
        graph: &Graph,
        told: &'a mut Option<Told>,
    ) -> Result<&'a mut Told> {
        if told.as_ref().is_none_or(|told| told.expert != expert) {
            let given = |name: &str| self.extras.contains_key(name) || self.positive.contains_key(name);
            let parameters = parameters::fill(graph, &model.manifest().parameters, self.axes, given)?;
            let found_out = [nothing_found_out(graph)?, nothing_found_out(graph)?];
            *told = Some(Told { expert, parameters, found_out });
        }
        Ok(told.as_mut().expect("told above"))
    }
}

/// What one denoiser is fed in all its passes over a chunk.
struct Told {
    expert: usize,
    /// Those of the manifest.
    parameters: Tensors,
    /// What the first pass found out for the others, nothing before: for the prompt and for the negative prompt.
    found_out: [Tensors; 2],
}

/// Returns what `graph` is fed in a chunk's first pass in the place of what that finds out.
fn nothing_found_out(graph: &Graph) -> Result<Tensors> {
    let inputs = graph.signature().inputs.iter().filter(|i| chunk_out_of(&i.name).is_some());
    inputs
        .map(|i| {
            let mut shape: Vec<usize> = i.shape.iter().map(|length| length.unwrap_or(1)).collect();
            shape[1] = 0;
            Ok((i.name.clone(), Tensor::from_f32(&shape, Vec::new())?))
        })
        .collect()
}

/// One step's call of a denoiser, but for the prompt.
struct Pass<'a> {
    graph: &'a Graph,
    latents: &'a Tensor,
    timestep: f32,
    guidance_scale: f32,
    told: &'a mut Told,
}

/// Returns whether a second pass, without the prompt, is needed.
fn is_guided(graph: &Graph, guidance_scale: f32) -> bool {
    guidance_scale > 1.0 && graph.signature().input(GUIDANCE_SCALE).is_none()
}

/// Returns the output `name` if it has `length` values.
fn sized(mut outputs: Tensors, name: &str, graph: &Graph, length: usize) -> Result<Tensor> {
    let what = || format!("output `{name}` of graph `{}`", graph.name());
    let Some(output) = outputs.remove(name) else {
        return Err(Error::shape(what(), "missing", "a tensor of that name"));
    };
    match output.f32()?.len() {
        found if found == length => Ok(output),
        found => Err(Error::shape(what(), found, format!("{length} values"))),
    }
}

/// Returns as much noise as `input` of `graph` takes, drawn in the order of its axes.
fn draw(input: &TensorInfo, graph: &str, axes: Axes, generator: &mut Generator) -> Result<Tensor> {
    let shape = axes.shape_of(input, graph)?;
    let mut noise = vec![0.0; shape.iter().product()];
    generator.randn(&mut noise);
    Tensor::from_f32(&shape, noise)
}

fn no_negative() -> Error {
    Error::Setting {
        setting: "guidance-scale",
        value: "over 1".into(),
        reason: "the prompt embeddings hold no negative prompt to guide away from".into(),
    }
}

/// Keys and values of past latent frames: `[layers, B, P, N, D]` by the name of the input that takes them.
#[derive(Default)]
struct Cache {
    past: Tensors,
}

impl Cache {
    /// Returns how many past frames it holds.
    fn frames(&self) -> usize {
        self.past.values().next().map_or(0, |past| past.shape()[2])
    }

    /// Returns the same of its own.
    fn copy(&self) -> Result<Self> {
        let copies = self
            .past
            .iter()
            .map(|(name, past)| Ok((name.clone(), Tensor::from_f32(&past.shape(), past.f32()?.to_vec())?)));
        Ok(Self { past: copies.collect::<Result<_>>()? })
    }

    /// Returns what `graph` is fed in a scene's first chunk: no past frames.
    fn empty_for(&self, graph: &Graph, tokens: usize) -> Result<Tensors> {
        let inputs = graph.signature().inputs.iter().filter(|i| present_of(&i.name).is_some());
        inputs
            .filter(|i| !self.past.contains_key(&i.name))
            .map(|i| {
                // The package's check has seen to it that layers and width are declared.
                let fixed = |axis: usize| i.shape.get(axis).copied().flatten().unwrap_or(1);
                let shape = [fixed(0), 1, 0, tokens, fixed(4)];
                Ok((i.name.clone(), Tensor::from_f32(&shape, Vec::new())?))
            })
            .collect()
    }

    /// Appends the frames that a pass over a clean chunk gave, and forgets those that the window has left.
    fn append(&mut self, outputs: &mut Tensors, stream: &crate::package::StreamConfig) -> Result<()> {
        let presents: Vec<String> = outputs.keys().filter(|n| n.starts_with("present_")).cloned().collect();
        for name in presents {
            let Some(present) = outputs.remove(&name) else { continue };
            let past_name = name.replacen("present_", "past_", 1);
            let past = self.past.remove(&past_name);
            self.past.insert(past_name, roll(past, present, stream.window, stream.sink)?);
        }
        Ok(())
    }
}

/// Returns `past` with `present` after it, along axis 2 of `[layers, B, P, N, D]`: the first `sink` frames and the last of the
/// rest, `window` in all.
fn roll(past: Option<Tensor>, present: Tensor, window: usize, sink: usize) -> Result<Tensor> {
    let shape = present.shape();
    let &[layers, b, new, n, d] = shape.as_slice() else {
        return Err(Error::shape("keys and values", shape, "[layers, B, T, N, D]"));
    };
    let (rows, frame) = (layers * b, n * d);
    match past {
        None if new <= window => Ok(present),
        Some(mut past) if past.shape()[2] == window && sink + new <= window => {
            shift(past.f32_mut()?, present.f32()?, rows, sink * frame);
            Ok(past)
        }
        past => {
            let old = past.as_ref().map(Tensor::f32).transpose()?.unwrap_or_default();
            let joined = join(old, present.f32()?, rows, frame, window, sink);
            let kept = joined.len() / (rows * frame);
            Tensor::from_f32(&[layers, b, kept, n, d], joined)
        }
    }
}

/// Appends `new` to each of the `rows` of `old` in place: what follows the first `sink` values moves up to make room.
fn shift(old: &mut [f32], new: &[f32], rows: usize, sink: usize) {
    let (old_row, new_row) = (old.len() / rows, new.len() / rows);
    for (row, new) in old.chunks_exact_mut(old_row).zip(new.chunks_exact(new_row)) {
        row.copy_within(sink + new_row.., sink);
        row[old_row - new_row..].copy_from_slice(new);
    }
}

/// Returns each of the `rows` of `old` with that of `new` after it, in frames of `frame` values, of which the first `sink` and the
/// last of the rest are kept, `window` in all.
fn join(old: &[f32], new: &[f32], rows: usize, frame: usize, window: usize, sink: usize) -> Vec<f32> {
    let (old_row, new_row) = (old.len() / rows, new.len() / rows);
    let frames = (old_row + new_row) / frame;
    let kept = frames.min(window);
    let dropped = sink..sink + frames - kept;
    let mut joined = Vec::with_capacity(rows * kept * frame);
    for row in 0..rows {
        let (old, new) = (&old[row * old_row..][..old_row], &new[row * new_row..][..new_row]);
        let frames = old.chunks_exact(frame).chain(new.chunks_exact(frame)).enumerate();
        frames.filter(|(i, _)| !dropped.contains(i)).for_each(|(_, values)| joined.extend_from_slice(values));
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::RuntimeOptions;

    #[test]
    fn however_little_strength_there_is_a_step_of_as_little_noise_is_done() {
        let model = Arc::new(Model::new(Arc::new(crate::papercut().unwrap()), RuntimeOptions::default()));
        let diffuser = Diffuser::new(model.clone(), DiffuseOptions::new(&model)).unwrap();
        let noise = |strength| {
            let (schedule, begin) = diffuser.schedule_of_video(3, strength).unwrap();
            (schedule.sigmas[begin], schedule.len() - begin)
        };
        let few = [0.02, 0.1, 0.2, 0.3, 0.5].map(noise);
        assert!(few.iter().all(|(_, steps)| *steps == 1), "{few:?}");
        assert!(few.is_sorted_by(|a, b| a.0 < b.0) && few[0].0 < 0.05, "{few:?}");
        assert_eq!((noise(0.0), noise(1.0)), ((0.0, 0), (1.0, 2)));
    }

    /// Two rows, a value a frame.
    #[test]
    fn the_window_keeps_the_first_frames_and_the_last() {
        let grown = join(&[1., 2., 11., 12.], &[3., 4., 13., 14.], 2, 1, 4, 1);
        assert_eq!(grown, [1., 2., 3., 4., 11., 12., 13., 14.]);
        let rolled = join(&grown, &[5., 6., 15., 16.], 2, 1, 4, 1);
        assert_eq!(rolled, [1., 4., 5., 6., 11., 14., 15., 16.]);
        let from_nothing = join(&[], &[1., 2., 3., 4., 5., 6.], 1, 2, 2, 1);
        assert_eq!(from_nothing, [1., 2., 5., 6.]);
    }

    #[test]
    fn a_full_window_rolls_in_place_to_the_same() {
        let full = [1., 2., 3., 4., 11., 12., 13., 14.];
        let new = [5., 6., 15., 16.];
        for sink in [0, 1, 2] {
            let mut rolled = full;
            shift(&mut rolled, &new, 2, sink);
            assert_eq!(rolled.to_vec(), join(&full, &new, 2, 1, 4, sink), "sink {sink}");
        }
    }
}
