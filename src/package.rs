//! A model package: `model.toml`, a tokenizer and ONNX graphs, read and validated whole before a session opens.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::onnx::{ElementType, Signature, TensorInfo};
use crate::schedule::SchedulerConfig;

/// The manifest's name in a package's folder.
pub const MANIFEST: &str = "model.toml";

/// Larger manifests and tokenizers than this many bytes are refused: they are none.
const TEXT_FILE_LIMIT: u64 = 64 << 20;

/// The manifest: what `model.toml` says. Every field is described in the README's package section.
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
    /// How a prompt becomes token ids.
    pub tokenizer: TokenizerConfig,
    /// The latent's geometry.
    pub latents: LatentConfig,
    /// Sizes, rates and lengths that the model can do.
    pub video: VideoConfig,
    /// Token ids to prompt embeddings.
    pub text_encoder: GraphFile,
    /// One denoiser, or several by timestep, the highest first.
    pub denoisers: Vec<DenoiserConfig>,
    /// Latents to frames.
    pub decoder: Option<CodecConfig>,
    /// Frames to latents.
    pub encoder: Option<CodecConfig>,
    /// Noise schedule and sampler.
    pub scheduler: SchedulerConfig,
    /// Defaults of a request.
    pub defaults: Defaults,
    /// There for causal models, which go on for ever; absent for models of clips.
    pub stream: Option<StreamConfig>,
}

/// How a prompt becomes token ids.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// `tokenizer.json` of the `tokenizers` library.
    pub file: PathBuf,
    /// Tokens to which a prompt is padded and cut.
    pub max_length: usize,
    /// The padding token.
    pub pad_token: String,
    /// The token that stands for unknown words, if the model has such a one.
    pub unk_token: Option<String>,
    /// Clean-ups before tokenizing, in order.
    #[serde(default)]
    pub clean: Vec<Clean>,
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
    /// Frames of the default clip.
    pub num_frames: usize,
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

/// A positive fraction, written `"24/1"`.
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
            Some((numer, denom)) if numer > 0 && denom > 0 => Ok(Self { numer, denom }),
            _ => Err(format!("`{text}` is no positive fraction such as `24/1`")),
        }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numer, self.denom)
    }
}

/// A graph alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphFile {
    /// The ONNX file.
    pub file: PathBuf,
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
    /// Its own guidance, where experts differ.
    pub guidance_scale: Option<f32>,
}

/// One half of the video compression network: a graph for whole clips, or a pair that streams.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum CodecConfig {
    /// Chunks of any length: `init` starts a scene, `step` goes on with the state that the one before left.
    Stream {
        /// The ONNX file for a scene's first chunk.
        init: PathBuf,
        /// The ONNX file for later chunks.
        step: PathBuf,
    },
    /// Every chunk stands for itself.
    Whole {
        /// The ONNX file.
        file: PathBuf,
    },
}

/// Defaults of a request.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Denoising steps.
    pub num_inference_steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance_scale: f32,
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
}

/// A validated package.
#[derive(Debug)]
pub struct Package {
    id: String,
    manifest: Manifest,
    source: Source,
    signatures: BTreeMap<PathBuf, Signature>,
}

#[derive(Debug)]
enum Source {
    Folder(PathBuf),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// A file's bytes: mapped, or built into the program.
pub(crate) enum Bytes {
    Mapped(memmap2::Mmap),
    Static(&'static [u8]),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl Package {
    /// Returns the package in `folder`, validated: manifest, files, sizes and graph signatures.
    ///
    /// # Errors
    /// [`Error::NotFound`] names the folder or file that is not there, [`Error::Package`] the file that can't be used,
    /// with what was found and what would do.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            let reason =
                if folder.exists() { "a package is a folder, and this is none" } else { "no such folder" };
            return Err(Error::NotFound {
                path: folder.to_owned(),
                reason: format!("{reason}; `model` takes a package's folder, which holds a {MANIFEST}"),
            });
        }
        Self::read(Source::Folder(folder.to_owned()))
    }

    /// Returns the package made of `files` (name, content) that are built into the program.
    ///
    /// # Errors
    /// As [`Package::open`].
    pub fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Result<Self> {
        Self::read(Source::Embedded(files))
    }

    fn read(source: Source) -> Result<Self> {
        let path = source.path(Path::new(MANIFEST));
        let bytes = source.bytes(Path::new(MANIFEST), "a package's folder holds one")?;
        let text = std::str::from_utf8(&bytes).map_err(|e| Error::package(&path, e))?;
        let manifest: Manifest =
            toml::from_str(text).map_err(|e| Error::package(&path, e.to_string().trim_end()))?;
        check_manifest(&manifest).map_err(|reason| Error::package(&path, reason))?;

        let mut hash = blake3::Hasher::new();
        hash_file(&mut hash, MANIFEST, &bytes);
        let mut signatures = BTreeMap::new();
        for file in graph_files(&manifest) {
            let bytes = source.bytes(file, &format!("{MANIFEST} names it"))?;
            let signature = Signature::parse(&bytes).map_err(|e| Error::package(source.path(file), e))?;
            hash_file(&mut hash, &file.to_string_lossy(), &bytes);
            for name in &signature.external_data {
                let beside = file.with_file_name(name);
                check_inside(&beside).map_err(|e| Error::package(source.path(file), e))?;
                let bytes = source.bytes(&beside, &format!("{} keeps its weights there", file.display()))?;
                hash_file(&mut hash, &beside.to_string_lossy(), &bytes);
            }
            signatures.insert(file.to_owned(), signature);
        }
        let tokenizer =
            source.bytes(&manifest.tokenizer.file, &format!("{MANIFEST} names it as tokenizer"))?;
        hash_file(&mut hash, "tokenizer", &tokenizer);

        let id = format!("{}-{}", manifest.name, &hash.finalize().to_hex()[..6]);
        let package = Self { id, manifest, source, signatures };
        package.check_signatures()?;
        Ok(package)
    }

    /// Returns the package's name with a hash of its content, `papercut-3f2a9c`: what caps carry.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns what `model.toml` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the folder, or `None` for a package that is built in.
    pub fn folder(&self) -> Option<&Path> {
        match &self.source {
            Source::Folder(folder) => Some(folder),
            Source::Embedded(_) => None,
        }
    }

    /// Returns the declared boundary of the graph in `file`, which the manifest names.
    pub(crate) fn signature(&self, file: &Path) -> &Signature {
        &self.signatures[file]
    }

    /// Returns the bytes of `file`, which the manifest or a graph names.
    pub(crate) fn bytes(&self, file: &Path) -> Result<Bytes> {
        self.source.bytes(file, &format!("{MANIFEST} names it"))
    }

    /// Returns where `file` is, for messages and for ONNX Runtime.
    pub(crate) fn path(&self, file: &Path) -> PathBuf {
        self.source.path(file)
    }

    fn check_signatures(&self) -> Result<()> {
        let m = &self.manifest;
        let text = self.graph(&m.text_encoder.file);
        text.input("input_ids", ElementType::I64, &[None, None])?;
        text.provided(|name| ["input_ids", "attention_mask"].contains(&name))?;
        text.output("prompt_embeds", 3)?;
        let channels = Some(m.latents.channels);
        for denoiser in &m.denoisers {
            let graph = self.graph(&denoiser.file);
            graph.input("latents", ElementType::F32, &[None, channels, None, None, None])?;
            let timestep = graph.find_input("timestep", ElementType::F32)?;
            if !(1..=2).contains(&timestep.shape.len()) {
                return Err(graph.wrong("timestep", &timestep.shape, "[B] or [B,T]"));
            }
            graph.output("prediction", 5)?;
            graph.provided(|name| {
                ["latents", "timestep", "guidance_scale", "frame_rate"].contains(&name)
                    || text.signature.output(name).is_some()
                    || (m.stream.is_some() && present_of(name).is_some())
            })?;
            for past in &graph.signature.inputs {
                let Some(present) = present_of(&past.name) else { continue };
                graph.output(&present, 5)?;
                graph.input(&past.name, ElementType::F32, &[None; 5])?;
                if past.shape[0].is_none() || past.shape[4].is_none() {
                    return Err(graph.wrong(
                        &past.name,
                        &past.shape,
                        "[layers,?,?,?,width] with both numbers",
                    ));
                }
            }
            if m.stream.is_some() && !graph.signature.inputs.iter().any(|i| present_of(&i.name).is_some()) {
                let reason = "[stream] needs a denoiser with inputs past_* and outputs present_*";
                return Err(Error::package(self.path(&denoiser.file), reason));
            }
        }
        if let Some(decoder) = &m.decoder {
            self.check_codec(decoder, ("latents", channels, 1), ("frames", Some(3), 4))?;
        }
        if let Some(encoder) = &m.encoder {
            self.check_codec(encoder, ("frames", Some(3), 4), ("latents", channels, 1))?;
        }
        Ok(())
    }

    /// `input` and `output`: name, channels, the axis of the channels.
    fn check_codec(
        &self,
        codec: &CodecConfig,
        input: (&str, Option<usize>, usize),
        output: (&str, Option<usize>, usize),
    ) -> Result<()> {
        let mut shape = [None; 5];
        shape[input.2] = input.1;
        for file in codec.files() {
            let graph = self.graph(file);
            graph.input(input.0, ElementType::F32, &shape)?;
            graph.output(output.0, 5)?;
        }
        match codec {
            CodecConfig::Whole { file } => self.graph(file).provided(|name| name == input.0),
            CodecConfig::Stream { init, step } => {
                let (init, step) = (self.graph(init), self.graph(step));
                init.provided(|name| name == input.0)?;
                step.provided(|name| name == input.0 || state_out_of(name).is_some())?;
                for state in step.signature.inputs.iter().filter_map(|i| state_out_of(&i.name)) {
                    init.find_output(&state)?;
                    step.find_output(&state)?;
                }
                Ok(())
            }
        }
    }

    fn graph<'a>(&'a self, file: &Path) -> GraphCheck<'a> {
        GraphCheck { path: self.path(file), signature: self.signature(file) }
    }
}

/// Returns the output that feeds the input `past_…` of the next chunk.
pub(crate) fn present_of(input: &str) -> Option<String> {
    input.strip_prefix("past_").map(|rest| format!("present_{rest}"))
}

/// Returns the output that feeds the input `state_…` of the next chunk.
pub(crate) fn state_out_of(input: &str) -> Option<String> {
    input.strip_prefix("state_").map(|rest| format!("state_out_{rest}"))
}

impl CodecConfig {
    pub(crate) fn files(&self) -> Vec<&Path> {
        match self {
            Self::Whole { file } => vec![file],
            Self::Stream { init, step } => vec![init, step],
        }
    }
}

impl Source {
    fn path(&self, file: &Path) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(file),
            Self::Embedded(_) => Path::new("(built in)").join(file),
        }
    }

    fn bytes(&self, file: &Path, why: &str) -> Result<Bytes> {
        let missing = |reason: String| Error::NotFound { path: self.path(file), reason };
        match self {
            Self::Folder(_) => {
                let path = self.path(file);
                let unreadable = |e: std::io::Error| missing(format!("{e}; {why}"));
                let open = std::fs::File::open(&path).map_err(unreadable)?;
                let length = open.metadata().map_err(unreadable)?;
                if !length.is_file() {
                    return Err(Error::package(path, "it is not a file"));
                }
                if file.extension().is_some_and(|e| e == "toml" || e == "json")
                    && length.len() > TEXT_FILE_LIMIT
                {
                    return Err(Error::package(path, format!("it is larger than {TEXT_FILE_LIMIT} bytes")));
                }
                // SAFETY: a package is not written to while it is in use; the README says so.
                Ok(Bytes::Mapped(unsafe { memmap2::Mmap::map(&open) }.map_err(unreadable)?))
            }
            Self::Embedded(files) => files
                .iter()
                .find(|(name, _)| Path::new(name) == file)
                .map(|(_, bytes)| Bytes::Static(bytes))
                .ok_or_else(|| missing(why.to_owned())),
        }
    }
}

/// A graph's signature with its path, to be held against what its role needs.
struct GraphCheck<'a> {
    path: PathBuf,
    signature: &'a Signature,
}

impl GraphCheck<'_> {
    fn wrong(&self, tensor: &str, found: &[Option<usize>], expected: &str) -> Error {
        let found: Vec<Cow<str>> =
            found.iter().map(|d| d.map_or("?".into(), |d| d.to_string().into())).collect();
        let found = found.join(",");
        Error::package(&self.path, format!("tensor `{tensor}` is [{found}], but {expected} is needed"))
    }

    fn find_input(&self, name: &str, element_type: ElementType) -> Result<&TensorInfo> {
        let Some(input) = self.signature.input(name) else {
            return Err(Error::package(&self.path, format!("it has no input `{name}`")));
        };
        if input.element_type != element_type {
            let reason =
                format!("input `{name}` is {:?}, but {element_type:?} is needed", input.element_type);
            return Err(Error::package(&self.path, reason));
        }
        Ok(input)
    }

    fn input(&self, name: &str, element_type: ElementType, shape: &[Option<usize>]) -> Result<()> {
        let found = &self.find_input(name, element_type)?.shape;
        let fits = |(f, s): (&Option<usize>, &Option<usize>)| f.is_none() || s.is_none() || f == s;
        if found.len() != shape.len() || !found.iter().zip(shape).all(fits) {
            let wanted: Vec<_> = shape.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
            return Err(self.wrong(name, found, &format!("[{}]", wanted.join(","))));
        }
        Ok(())
    }

    fn find_output(&self, name: &str) -> Result<&TensorInfo> {
        let missing = || Error::package(&self.path, format!("it has no output `{name}`"));
        self.signature.output(name).ok_or_else(missing)
    }

    fn output(&self, name: &str, rank: usize) -> Result<()> {
        let output = self.find_output(name)?;
        if output.element_type != ElementType::F32 {
            let reason = format!("output `{name}` is {:?}, but F32 is needed", output.element_type);
            return Err(Error::package(&self.path, reason));
        }
        if !output.shape.is_empty() && output.shape.len() != rank {
            return Err(self.wrong(name, &output.shape, &format!("a tensor of {rank} dimensions")));
        }
        Ok(())
    }

    /// Every input must be one that something provides.
    fn provided(&self, provided: impl Fn(&str) -> bool) -> Result<()> {
        match self.signature.inputs.iter().find(|i| !provided(&i.name)) {
            Some(input) => {
                let reason = format!("nothing provides its input `{}`", input.name);
                Err(Error::package(&self.path, reason))
            }
            None => Ok(()),
        }
    }
}

fn graph_files(manifest: &Manifest) -> Vec<&Path> {
    let mut files = vec![manifest.text_encoder.file.as_path()];
    files.extend(manifest.denoisers.iter().map(|d| d.file.as_path()));
    files.extend([&manifest.decoder, &manifest.encoder].into_iter().flatten().flat_map(CodecConfig::files));
    files
}

/// What the manifest says of itself, without looking at other files.
fn check_manifest(m: &Manifest) -> Result<(), String> {
    if m.format != 1 {
        return Err(format!("`format` is {}, and this version reads 1", m.format));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if m.name.is_empty() || !m.name.chars().all(allowed) {
        return Err(format!("`name` is `{}`; lower-case letters, digits, -, _ and . are allowed", m.name));
    }
    for file in graph_files(m).into_iter().chain([m.tokenizer.file.as_path()]) {
        check_inside(file)?;
    }
    let l = &m.latents;
    let positive = [
        ("tokenizer.max_length", m.tokenizer.max_length),
        ("latents.channels", l.channels),
        ("latents.spatial_compression_ratio", l.spatial_compression_ratio),
        ("latents.temporal_compression_ratio", l.temporal_compression_ratio),
        ("latents.size_multiple", l.size_multiple),
        ("video.num_frames", m.video.num_frames),
        ("defaults.num_inference_steps", m.defaults.num_inference_steps),
        ("denoisers", m.denoisers.len()),
    ];
    if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
        return Err(format!("`{field}` must not be 0"));
    }
    if !l.size_multiple.is_multiple_of(l.spatial_compression_ratio) {
        return Err("`latents.size_multiple` must be a multiple of the spatial compression ratio".into());
    }
    for (field, range) in [("video.width", m.video.width), ("video.height", m.video.height)] {
        if range.min == 0 || !range.contains(range.default) {
            return Err(format!("`{field}` must hold 0 < min <= default <= max"));
        }
        if range.max > 1 << 15 {
            return Err(format!("`{field}.max` is over {}", 1 << 15));
        }
    }
    if !m.video.frame_rate.contains(m.video.frame_rate.default) {
        return Err("`video.frame_rate` must hold min <= default <= max".into());
    }
    if let Some(s) = &m.stream
        && (s.chunk == 0 || s.window < s.chunk || s.sink >= s.window)
    {
        return Err("`stream` must hold 0 < chunk <= window and sink < window".into());
    }
    if !m.denoisers.is_sorted_by(|a, b| a.min_timestep > b.min_timestep) {
        return Err("`denoisers` must be in falling order of min_timestep, each one's its own".into());
    }
    m.scheduler.validate().map_err(|e| format!("`scheduler`: {e}"))
}

/// Refuses paths that lead out of the package's folder.
fn check_inside(file: &Path) -> Result<(), String> {
    if file.as_os_str().is_empty() || !file.components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(format!("`{}` leads out of the package's folder", file.display()));
    }
    Ok(())
}

fn hash_file(hash: &mut blake3::Hasher, name: &str, bytes: &[u8]) {
    // Weights of gigabytes are told apart by size and both ends: reading them whole costs seconds.
    const WHOLE: usize = 64 << 20;
    const END: usize = 1 << 20;
    hash.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    hash.update(&(bytes.len() as u64).to_le_bytes());
    if bytes.len() <= WHOLE {
        hash.update(bytes);
    } else {
        hash.update(&bytes[..END]).update(&bytes[bytes.len() - END..]);
    }
}
