//! What `model.toml` says, and what it must hold by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::schedule::SchedulerConfig;

/// The manifest: what `model.toml` says. `docs/package.md` describes every field.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format's version; 1 is the only one.
    pub format: u32,
    /// The model's name: lower-case letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The model's version.
    pub version: String,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// The weights' licence.
    #[serde(default)]
    pub license: String,
    /// Where the weights come from.
    #[serde(default)]
    pub provenance: String,
    /// Prompts to embeddings: one text encoder or several, whose outputs are merged by name.
    pub text_encoders: Vec<TextEncoderConfig>,
    /// The latent's geometry.
    pub latents: LatentConfig,
    /// Sizes, rates and lengths that the model can do.
    pub video: VideoConfig,
    /// One denoiser, or several by timestep, the highest first.
    pub denoisers: Vec<DenoiserConfig>,
    /// An image and noise to the first sample.
    pub conditioner: Option<ConditionerConfig>,
    /// Latents to frames.
    pub decoder: Option<CodecConfig>,
    /// Frames to latents.
    pub encoder: Option<CodecConfig>,
    /// Numbers by name, for inputs of graphs that nothing else gives.
    #[serde(default)]
    pub parameters: BTreeMap<String, f32>,
    /// Noise schedule and sampler.
    pub scheduler: SchedulerConfig,
    /// Defaults of a request.
    pub defaults: Defaults,
    /// There for causal models, which go on for ever; absent for models of clips.
    pub stream: Option<StreamConfig>,
}

impl Manifest {
    /// Returns whether the model makes single images.
    pub fn is_image(&self) -> bool {
        self.video.num_frames.max == 1 && self.stream.is_none()
    }

    /// Returns how many frames a clip has in which `num_frames` are shown: as many or a few more, which the decoder leaves out.
    ///
    /// # Errors
    /// [`Error::Setting`] if the model's clips are shorter.
    pub fn clip_frames(&self, num_frames: usize) -> Result<usize> {
        let (step, range) = (self.latents.frame_step(), self.video.num_frames);
        let clip = num_frames.max(range.min).saturating_sub(1).next_multiple_of(step) + 1;
        if clip <= range.max {
            return Ok(clip);
        }
        let reason = format!(
            "{} makes clips of at most {} frames; ask for a shorter one, or for a lower frame rate",
            self.name, range.max
        );
        Err(Error::Setting { setting: "duration", value: format!("{num_frames} frames"), reason })
    }
}

/// A text encoder with its tokenizer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderConfig {
    /// The ONNX file.
    pub file: PathBuf,
    /// How a prompt becomes token ids.
    pub tokenizer: TokenizerConfig,
    /// Whether an empty negative prompt gives zeros instead of an empty prompt's embeddings.
    #[serde(default)]
    pub zero_negative: bool,
}

/// How a prompt becomes token ids.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// `tokenizer.json` of the `tokenizers` library.
    pub file: PathBuf,
    /// Tokens to which a prompt is padded and cut, those of the template included.
    pub max_length: usize,
    /// The padding token.
    pub pad_token: String,
    /// The token that stands for unknown words, if the model has such a one.
    pub unk_token: Option<String>,
    /// Another `tokenizer.json`, with the same token for unknown words, which holds whole words where `file` holds their
    /// characters: it says of which words the model knows no more than these.
    pub words: Option<PathBuf>,
    /// Clean-ups before tokenizing, in order.
    #[serde(default)]
    pub clean: Vec<Clean>,
    /// A text in which `{}` is where the cleaned prompt goes.
    pub template: Option<String>,
}

/// A clean-up of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clean {
    /// Runs of white space become one space.
    CollapseWhitespace,
    /// White space at both ends goes.
    Strip,
    /// Letters become small.
    Lowercase,
    /// HTML's character references become characters, twice: `&amp;lt;` is `<`.
    HtmlUnescape,
    /// Full-width and half-width forms get their usual width, quotation marks become straight, ligatures come apart, line breaks
    /// are `\n`, control characters go, and the rest is in Unicode's normalisation form C.
    FixText,
}

/// The latent's geometry, in diffusers' words.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentConfig {
    /// Channels of a latent.
    pub channels: usize,
    /// Pixels a latent's side.
    pub spatial_compression_ratio: usize,
    /// Frames a latent frame; the first latent frame of a scene stands for one frame alone.
    pub temporal_compression_ratio: usize,
    /// Width and height are multiples of this many pixels inside; other sizes are cropped by the decoder.
    pub size_multiple: usize,
    /// A clip has one frame and a multiple of this many; `None` is `temporal_compression_ratio`.
    pub frame_step: Option<usize>,
    /// The order in which noise is drawn.
    #[serde(default)]
    pub noise_layout: NoiseLayout,
}

impl LatentConfig {
    /// Returns the frames by which the lengths of clips differ.
    pub fn frame_step(&self) -> usize {
        self.frame_step.unwrap_or(self.temporal_compression_ratio)
    }
}

/// The order in which the numbers of a chunk's noise are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum NoiseLayout {
    /// Channel by channel, as latents are.
    #[default]
    #[serde(rename = "CTHW")]
    ChannelsFirst,
    /// Latent frame by latent frame.
    #[serde(rename = "TCHW")]
    FramesFirst,
}

/// Sizes, rates and lengths that the model can do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoConfig {
    /// Width in pixels.
    pub width: Range<usize>,
    /// Height in pixels.
    pub height: Range<usize>,
    /// Frames a second.
    pub frame_rate: Range<Fraction>,
    /// Frames of a clip; a causal model goes on past the largest number, and a model of images has 1 alone.
    pub num_frames: Range<usize>,
}

/// A closed range with its default.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range<T> {
    /// The smallest value.
    pub min: T,
    /// The largest value.
    pub max: T,
    /// The value when nothing is asked for.
    pub default: T,
}

impl<T: PartialOrd + Copy> Range<T> {
    /// Returns whether `value` is in the range.
    pub fn contains(&self, value: T) -> bool {
        self.min <= value && value <= self.max
    }
}

/// A positive fraction, written `"24/1"`, of numbers up to 2147483647, as GStreamer has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Fraction {
    /// The numerator.
    pub numer: u32,
    /// The denominator.
    pub denom: u32,
}

impl PartialOrd for Fraction {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
        product(self.numer, other.denom).partial_cmp(&product(other.numer, self.denom))
    }
}

impl TryFrom<String> for Fraction {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(n, d)| Some((n.parse().ok()?, d.parse().ok()?)));
        match parts {
            Some((numer, denom)) if [numer, denom].iter().all(|n| (1..=i32::MAX as u32).contains(n)) => {
                Ok(Self { numer, denom })
            }
            _ => Err(format!("`{text}` is no positive fraction such as `24/1`")),
        }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numer, self.denom)
    }
}

/// A denoiser.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenoiserConfig {
    /// The ONNX file.
    pub file: PathBuf,
    /// It serves timesteps from this one upwards.
    #[serde(default)]
    pub min_timestep: f32,
    /// Its own guidance where nothing else is asked for.
    pub guidance_scale: Option<f32>,
}

/// The graph that takes an image in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionerConfig {
    /// The ONNX file.
    pub file: PathBuf,
    /// The ONNX file that changes the sample before each step, if there is one.
    pub step: Option<PathBuf>,
    /// Whether the model can't do without an image.
    pub required: bool,
}

impl ConditionerConfig {
    fn files(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.file.as_path()).chain(self.step.as_deref())
    }
}

/// One half of the video compression network: a graph for whole clips, a pair that streams, or both.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodecConfig {
    /// The ONNX file for a whole clip.
    pub file: Option<PathBuf>,
    /// The ONNX file for a scene's first piece.
    pub init: Option<PathBuf>,
    /// The ONNX file for later pieces, which goes on from the state that the one before left.
    pub step: Option<PathBuf>,
    /// Latent frames that `init` has to be fed; `None` is any number.
    pub first: Option<usize>,
    /// Latent frames that `step` has to be fed; `None` is any number.
    pub chunk: Option<usize>,
    /// Frames of the overlapping segments in which longer clips are coded by `file`; `None` codes them whole.
    pub tile_sample_min_num_frames: Option<usize>,
    /// Frames from a segment's start to the next one's.
    pub tile_sample_stride_num_frames: Option<usize>,
}

impl CodecConfig {
    /// Returns the pair of graphs that streams.
    pub fn pair(&self) -> Option<(&Path, &Path)> {
        self.init.as_deref().zip(self.step.as_deref())
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.file, &self.init, &self.step].into_iter().flatten().map(PathBuf::as_path)
    }

    fn check(&self, table: &str, m: &Manifest) -> Result<(), String> {
        if self.init.is_some() != self.step.is_some() {
            return Err(format!("`{table}` must have `init` and `step` together"));
        }
        if self.file.is_none() && self.init.is_none() {
            return Err(format!("`{table}` must have `file`, or `init` and `step`"));
        }
        if self.init.is_none() && (self.first.is_some() || self.chunk.is_some()) {
            return Err(format!(
                "`{table}.first` and `{table}.chunk` are for `init` and `step`, which it has not"
            ));
        }
        if self.first == Some(0) || self.chunk == Some(0) {
            return Err(format!("`{table}.first` and `{table}.chunk` must not be 0"));
        }
        if m.stream.is_some() && self.init.is_none() && m.latents.temporal_compression_ratio > 1 {
            return Err(format!(
                "`{table}` must have `init` and `step` where there is [stream]: each piece goes on from the one before"
            ));
        }
        self.check_segments(table, m.latents.temporal_compression_ratio)?;
        let (first, chunk) = (self.first.unwrap_or(1), self.chunk.unwrap_or(1));
        if let Some(StreamConfig { chunk: of_stream, .. }) = m.stream {
            let rest = of_stream.checked_sub(self.first.unwrap_or(of_stream));
            if !rest.is_some_and(|rest| rest.is_multiple_of(chunk)) || !of_stream.is_multiple_of(chunk) {
                return Err(format!(
                    "`{table}.first` {first} and `{table}.chunk` {chunk} can't make up chunks of {of_stream} latent frames \
                     (`stream.chunk`), where a scene begins and after that"
                ));
            }
        }
        if m.stream.is_none() && self.init.is_some() && self.first.is_some() {
            let ratio = m.latents.temporal_compression_ratio;
            let shortest = 1 + (m.video.num_frames.min - 1) / ratio;
            let fits = shortest >= first && (shortest - first).is_multiple_of(chunk);
            let steps = m.video.num_frames.min == m.video.num_frames.max
                || (m.latents.frame_step() / ratio).is_multiple_of(chunk);
            if !fits || !steps {
                return Err(format!(
                    "`{table}.first` {first} and `{table}.chunk` {chunk} can't make up clips of {shortest} latent frames and more in \
                     steps of {} frames; change them, `video.num_frames` or `latents.frame_step`",
                    m.latents.frame_step()
                ));
            }
        }
        Ok(())
    }
}

impl CodecConfig {
    fn check_segments(&self, table: &str, ratio: usize) -> Result<(), String> {
        let (min, stride) = (self.tile_sample_min_num_frames, self.tile_sample_stride_num_frames);
        let names =
            format!("`{table}.tile_sample_min_num_frames` and `{table}.tile_sample_stride_num_frames`");
        match (min, stride) {
            (None, None) => Ok(()),
            _ if self.init.is_some() => Err(format!(
                "{names} are for a graph for whole clips alone; `init` and `step` need no segments"
            )),
            (Some(min), Some(stride))
                if stride > 0 && stride <= min && [min, stride].iter().all(|n| n.is_multiple_of(ratio)) =>
            {
                Ok(())
            }
            (Some(min), Some(stride)) => Err(format!(
                "{names} are {min} and {stride}; 0 < stride <= min is needed, in multiples of {ratio} frames \
                 (`latents.temporal_compression_ratio`)"
            )),
            _ => Err(format!("{names} must be there together")),
        }
    }
}

/// Defaults of a request.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Denoising steps.
    pub num_inference_steps: usize,
    /// Classifier-free guidance, or what a denoiser with an input `guidance_scale` is told; 1 is none.
    pub guidance_scale: f32,
    /// The share of the guided prediction that is rescaled to the spread of the unguided one; 0 is none.
    #[serde(default)]
    pub guidance_rescale: f32,
}

/// How a causal model goes on.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Latent frames a chunk.
    pub chunk: usize,
    /// Past latent frames whose keys and values are kept.
    pub window: usize,
    /// Of these, how many are the scene's first.
    #[serde(default)]
    pub sink: usize,
    /// Of a scene's first chunk, how many latent frames are made before the others, which then are made to follow from them.
    pub first: Option<usize>,
    /// Denoising steps, at least, of what a scene begins with: the details that it lacks, all that follows lacks. Where more
    /// steps are asked for, it takes as many.
    pub first_num_inference_steps: Option<usize>,
    /// The noise level, a share from 0 to below 1, at which later chunks see those before, but for the scene's first `sink`
    /// frames: what is wrong is then less believed, so that a long video stays sound (`context_noise` of Self Forcing,
    /// arXiv:2506.08009).
    #[serde(default)]
    pub context_noise: f32,
    /// What the first noise of chunks that follow on others is multiplied by, above 0 and up to 1, in the place of
    /// `scheduler.init_noise_sigma`: a scene may begin in many ways, and then go on calmly.
    pub init_noise_sigma: Option<f32>,
}

/// No number that counts channels, pixels of a latent or latent frames is larger: what is was mistyped.
const LARGEST: usize = 1 << 14;
/// Nor has what is made at once, of the default size and length, as many values, which would take 4 GiB.
pub(super) const MOST_VALUES: u128 = 1 << 30;

impl Manifest {
    /// Returns every ONNX file, each once.
    pub(crate) fn graph_files(&self) -> Vec<&Path> {
        let encoders = self.text_encoders.iter().map(|e| e.file.as_path());
        let denoisers = self.denoisers.iter().map(|d| d.file.as_path());
        let codecs = [&self.decoder, &self.encoder].into_iter().flatten().flat_map(CodecConfig::files);
        let conditioner = self.conditioner.iter().flat_map(ConditionerConfig::files);
        let mut files: Vec<&Path> = Vec::new();
        for file in encoders.chain(denoisers).chain(conditioner).chain(codecs) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        files
    }

    /// Checks what the manifest says of itself, without looking at other files.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.format != 1 {
            return Err(format!("`format` is {}, and this version reads 1", self.format));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if self.name.is_empty() || !self.name.chars().all(allowed) {
            return Err(format!(
                "`name` is `{}`; lower-case letters, digits, -, _ and . are allowed",
                self.name
            ));
        }
        let tokenizers = self.text_encoders.iter().flat_map(|e| e.tokenizer.files());
        for file in self.graph_files().into_iter().chain(tokenizers) {
            check_inside(file)?;
        }
        self.text_encoders.iter().try_for_each(|e| e.tokenizer.check())?;
        self.check_geometry()?;
        if self.denoisers.is_empty() || self.text_encoders.is_empty() {
            return Err("`text_encoders` and `denoisers` must each hold one at least".into());
        }
        if !self.denoisers.is_sorted_by(|a, b| a.min_timestep > b.min_timestep) {
            return Err("`denoisers` must be in falling order of min_timestep, each one's its own".into());
        }
        for DenoiserConfig { file, min_timestep, guidance_scale } in &self.denoisers {
            if !min_timestep.is_finite() || guidance_scale.is_some_and(|scale| !scale.is_finite()) {
                return Err(format!(
                    "`denoisers` of {}: `min_timestep` and `guidance_scale` must be finite numbers",
                    file.display()
                ));
            }
        }
        if let Some((name, value)) = self.parameters.iter().find(|(_, value)| !value.is_finite()) {
            return Err(format!("`parameters.{name}` is {value}, and must be a finite number"));
        }
        self.defaults.check()?;
        self.scheduler.validate().map_err(|e| format!("`scheduler`: {e}"))?;
        self.check_steps()?;
        if let Some(stream) = &self.stream {
            stream.check(&self.scheduler)?;
            if self.conditioner.is_some() {
                return Err("`conditioner` is for models of clips; a causal one with [stream] takes images as a video prompt, \
                            by its [encoder]"
                    .into());
            }
            if self.scheduler.is_inverted() {
                return Err("`scheduler.invert_sigmas` is for models of clips; a causal one with [stream] looks back at clean chunks, \
                            which are at timestep 0"
                    .into());
            }
        }
        for (table, codec) in [("decoder", &self.decoder), ("encoder", &self.encoder)] {
            codec.iter().try_for_each(|codec| codec.check(table, self))?;
        }
        Ok(())
    }

    /// Checks that the scheduler can do as many steps as are taken by default.
    fn check_steps(&self) -> Result<(), String> {
        let (steps, video) = (self.defaults.num_inference_steps, &self.video);
        // Only how far apart the steps lie depends on the number of tokens.
        let tokens = video.width.default * video.height.default / 256;
        let first = self.stream.and_then(|stream| stream.first_num_inference_steps);
        let of_scenes = first.map(|first| ("stream.first_num_inference_steps", first.max(steps)));
        for (field, steps) in [("defaults.num_inference_steps", steps)].into_iter().chain(of_scenes) {
            let wrong = |reason| format!("`{field}`: `scheduler` can't do {steps} steps: {reason}");
            self.scheduler.schedule(steps, tokens).map_err(wrong)?;
        }
        Ok(())
    }

    fn check_geometry(&self) -> Result<(), String> {
        let (l, v) = (&self.latents, &self.video);
        let positive = [
            ("latents.channels", l.channels),
            ("latents.spatial_compression_ratio", l.spatial_compression_ratio),
            ("latents.temporal_compression_ratio", l.temporal_compression_ratio),
            ("latents.size_multiple", l.size_multiple),
            ("latents.frame_step", l.frame_step()),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{field}` must not be 0"));
        }
        let chunk = self.stream.map_or(0, |stream| stream.chunk.max(stream.window));
        let pieces = [&self.decoder, &self.encoder].into_iter().flatten().flat_map(|c| [c.first, c.chunk]);
        let pieces = pieces.flatten().max().unwrap_or_default();
        let bounded = positive.into_iter().chain([
            ("stream.chunk` or `stream.window", chunk),
            ("first` or `chunk` of `decoder` or `encoder", pieces),
        ]);
        if let Some((field, value)) = bounded.into_iter().find(|(_, value)| *value > LARGEST) {
            return Err(format!("`{field}` is {value}, which is over {LARGEST}"));
        }
        if !l.size_multiple.is_multiple_of(l.spatial_compression_ratio) {
            return Err(
                "`latents.size_multiple` must be a multiple of `latents.spatial_compression_ratio`".into()
            );
        }
        if !l.frame_step().is_multiple_of(l.temporal_compression_ratio) {
            return Err(
                "`latents.frame_step` must be a multiple of `latents.temporal_compression_ratio`".into()
            );
        }
        for (field, range, limit) in [
            ("video.width", v.width, 1 << 15),
            ("video.height", v.height, 1 << 15),
            ("video.num_frames", v.num_frames, 1 << 20),
        ] {
            if range.min == 0 || !range.contains(range.default) {
                return Err(format!("`{field}` must hold 0 < min <= default <= max"));
            }
            if range.max > limit {
                return Err(format!("`{field}.max` is over {limit}"));
            }
        }
        if !v.frame_rate.contains(v.frame_rate.default) {
            return Err("`video.frame_rate` must hold min <= default <= max".into());
        }
        let frames = self.stream.map_or(1 + v.num_frames.default / l.temporal_compression_ratio, |s| s.chunk);
        let cells = |pixels: usize| pixels.next_multiple_of(l.size_multiple) / l.spatial_compression_ratio;
        let values = [l.channels, frames, cells(v.width.default), cells(v.height.default)];
        if values.iter().map(|&count| count as u128).product::<u128>() > MOST_VALUES {
            return Err(format!(
                "the latents that it makes at once would be {values:?} values; change `latents`, `stream.chunk` or the defaults of `video`"
            ));
        }
        let Range { min, max, default } = v.num_frames;
        let step = l.frame_step();
        if self.stream.is_none() && [min, max, default].iter().any(|n| !(n - 1).is_multiple_of(step)) {
            return Err(format!(
                "`video.num_frames` must be 1 and a multiple of {step} frames (`latents.frame_step`) in min, max and default"
            ));
        }
        Ok(())
    }
}

impl TokenizerConfig {
    /// Returns the files of the `tokenizers` library.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.file), self.words.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }

    fn check(&self) -> Result<(), String> {
        if self.max_length == 0 {
            return Err("`text_encoders.tokenizer.max_length` must not be 0".into());
        }
        if self.words.is_some() && self.unk_token.is_none() {
            return Err(
                "`text_encoders.tokenizer.words` needs `unk_token`, the token of unknown words".into()
            );
        }
        match &self.template {
            Some(template) if template.matches("{}").count() != 1 => {
                Err("`text_encoders.tokenizer.template` must hold {} once, where the prompt goes".into())
            }
            _ => Ok(()),
        }
    }
}

impl Defaults {
    fn check(&self) -> Result<(), String> {
        if self.num_inference_steps == 0 {
            return Err("`defaults.num_inference_steps` must not be 0".into());
        }
        if !self.guidance_scale.is_finite() {
            return Err("`defaults.guidance_scale` must be a finite number".into());
        }
        if !(0.0..=1.0).contains(&self.guidance_rescale) {
            return Err("`defaults.guidance_rescale` must be from 0 to 1".into());
        }
        Ok(())
    }
}

impl StreamConfig {
    fn check(&self, scheduler: &SchedulerConfig) -> Result<(), String> {
        if self.chunk == 0 || self.window < self.chunk || self.sink >= self.window {
            return Err("`stream` must hold 0 < chunk <= window and sink < window".into());
        }
        if self.first.is_some_and(|first| first == 0 || first >= self.chunk) {
            return Err("`stream.first` must be above 0 and below `stream.chunk`".into());
        }
        if self.first_num_inference_steps == Some(0) {
            return Err("`stream.first_num_inference_steps` must not be 0".into());
        }
        if !(0.0..1.0).contains(&self.context_noise) {
            return Err(format!(
                "`stream.context_noise` is {}; it must be from 0 to below 1",
                self.context_noise
            ));
        }
        if let Some(sigma) = self.init_noise_sigma.filter(|&sigma| !(sigma > 0.0 && sigma <= 1.0)) {
            return Err(format!("`stream.init_noise_sigma` is {sigma}; it must be above 0 and at most 1"));
        }
        let of_flows = [
            ("context_noise", self.context_noise > 0.0),
            ("init_noise_sigma", self.init_noise_sigma.is_some()),
        ];
        if let Some((field, _)) = of_flows.iter().find(|(_, wanted)| *wanted && !scheduler.is_flow()) {
            return Err(format!(
                "`stream.{field}` is about noise as models of rectified flow know it; {} does not",
                scheduler.name()
            ));
        }
        Ok(())
    }
}

/// Refuses paths that lead out of the package's folder.
pub(super) fn check_inside(file: &Path) -> Result<(), String> {
    let mut parts = file.components().filter(|c| *c != Component::CurDir).peekable();
    if parts.peek().is_none() || !parts.all(|c| matches!(c, Component::Normal(_))) {
        return Err(format!("`{}` leads out of the package's folder", file.display()));
    }
    Ok(())
}
