//! Graphs' boundaries held against their roles: every input must be given by something, in a shape that fits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::manifest::MOST_VALUES;
use super::{CodecConfig, DenoiserConfig, Manifest, Package};
use crate::error::{Error, Result};
use crate::onnx::{ElementType, Signature, TensorInfo};

/// Names that the runtime gives to graphs, which no output of a text encoder or conditioner may have.
const OWN: [&str; 9] = [
    "latents",
    "timestep",
    "guidance_scale",
    "frame_rate",
    "image",
    "noise",
    "image_noise",
    "decode_noise",
    "prediction",
];

/// The axes whose lengths are known wherever a parameter is filled in.
const AXES: [&str; 6] = ["B", "C", "T", "H", "W", "F"];

/// Returns the output that feeds the input `past_…` of the next chunk.
pub(crate) fn present_of(input: &str) -> Option<String> {
    input.strip_prefix("past_").map(|rest| format!("present_{rest}"))
}

/// Returns the output of a chunk's first pass that feeds the input `chunk_…` of its others.
pub(crate) fn chunk_out_of(input: &str) -> Option<String> {
    input.strip_prefix("chunk_").map(|rest| format!("chunk_out_{rest}"))
}

/// Returns the output that feeds the input `state_…` of the next chunk.
pub(crate) fn state_out_of(input: &str) -> Option<String> {
    input.strip_prefix("state_").map(|rest| format!("state_out_{rest}"))
}

/// Returns whether a number can fill `input`: all its axes are numbers or of known length, and memory may hold it.
fn is_fillable(input: &TensorInfo) -> bool {
    let mut axes = input.shape.iter().zip(&input.axes);
    let values = input.shape.iter().flatten().try_fold(1, |n: usize, &length| n.checked_mul(length));
    input.element_type == ElementType::F32
        && values.is_some_and(|n| n as u128 <= MOST_VALUES)
        && axes.all(|(length, name)| length.is_some() || AXES.contains(&name.as_str()))
}

/// Checks every graph of `package`.
///
/// # Errors
/// [`Error::Package`] names the file, the tensor and what would do.
pub(super) fn check(package: &Package) -> Result<()> {
    let check = Check { package, m: package.manifest() };
    let mut offers = check.text_encoders()?;
    check.conditioner(&mut offers)?;
    check.denoisers(&offers)?;
    let channels = Some(check.m.latents.channels);
    if let Some(decoder) = &check.m.decoder {
        check.codec(decoder, ("latents", channels, 1), ("frames", Some(3), 4))?;
    }
    if let Some(encoder) = &check.m.encoder {
        check.codec(encoder, ("frames", Some(3), 4), ("latents", channels, 1))?;
    }
    Ok(())
}

/// What graphs give to denoisers, by name, and which file gives it.
type Offers<'a> = BTreeMap<&'a str, Offer<'a>>;

struct Offer<'a> {
    tensor: &'a TensorInfo,
    file: &'a Path,
    /// Only with an image.
    optional: bool,
}

struct Check<'a> {
    package: &'a Package,
    m: &'a Manifest,
}

impl<'a> Check<'a> {
    fn graph(&self, file: &Path) -> GraphCheck<'a> {
        GraphCheck { path: self.package.path(file), signature: self.package.signature(file), m: self.m }
    }

    fn text_encoders(&self) -> Result<Offers<'a>> {
        let mut offers = Offers::new();
        for encoder in &self.m.text_encoders {
            let graph = self.graph(&encoder.file);
            let ids = [Some(1), Some(encoder.tokenizer.max_length)];
            graph.input("input_ids", ElementType::I64, &ids)?;
            for input in &graph.signature.inputs {
                match input.name.as_str() {
                    "input_ids" => (),
                    "attention_mask" => graph.input(&input.name, ElementType::I64, &ids)?,
                    _ => return Err(graph.not_provided(&input.name)),
                }
            }
            graph.offer(&encoder.file, &[], false, &mut offers)?;
        }
        Ok(offers)
    }

    fn conditioner(&self, offers: &mut Offers<'a>) -> Result<()> {
        let Some(conditioner) = &self.m.conditioner else { return Ok(()) };
        let graph = self.graph(&conditioner.file);
        let latents = [Some(1), Some(self.m.latents.channels), None, None, None];
        graph.input("image", ElementType::F32, &[Some(1), Some(1), None, None, Some(3)])?;
        for input in &graph.signature.inputs {
            match input.name.as_str() {
                "image" => (),
                "noise" => graph.input("noise", ElementType::F32, &latents)?,
                "image_noise" => graph.fillable(input, "noise")?,
                _ => graph.parameter(input)?,
            }
        }
        graph.output("latents", &latents)?;
        graph.offer(&conditioner.file, &["latents"], !conditioner.required, offers)?;
        let Some(step) = &conditioner.step else { return Ok(()) };
        let step = self.graph(step);
        step.input("latents", ElementType::F32, &latents)?;
        for input in &step.signature.inputs {
            match input.name.as_str() {
                "latents" => (),
                "timestep" => step.input("timestep", ElementType::F32, &[None])?,
                "noise" => step.fillable(input, "noise")?,
                name => match offers.get(name).filter(|offer| offer.file == conditioner.file) {
                    Some(offer) => step.given(input, offer)?,
                    None => step.parameter(input)?,
                },
            }
        }
        step.output("sample", &latents)
    }

    fn denoisers(&self, offers: &Offers) -> Result<()> {
        let latents = [Some(1), Some(self.m.latents.channels), None, None, None];
        for denoiser in &self.m.denoisers {
            let graph = self.graph(&denoiser.file);
            graph.input("latents", ElementType::F32, &latents)?;
            let timestep = graph.find_input("timestep", ElementType::F32)?;
            if !(1..=2).contains(&timestep.shape.len()) {
                return Err(graph.wrong("timestep", &timestep.shape, "[B] or [B,T]"));
            }
            graph.output("prediction", &latents)?;
            for input in &graph.signature.inputs {
                match input.name.as_str() {
                    "latents" | "timestep" => (),
                    "guidance_scale" | "frame_rate" => graph.input(&input.name, ElementType::F32, &[None])?,
                    name if self.m.stream.is_some() && present_of(name).is_some() => graph.past(input)?,
                    name if chunk_out_of(name).is_some() => graph.of_chunk(input)?,
                    name => match offers.get(name) {
                        Some(offer) => graph.taken(input, offer)?,
                        None => graph.parameter(input)?,
                    },
                }
            }
            let looks_back = graph.signature.inputs.iter().any(|i| present_of(&i.name).is_some());
            if let Some(other) =
                self.m.denoisers.iter().find(|other| self.pasts(other) != self.pasts(denoiser))
            {
                let reason = format!(
                    "its inputs past_* are not those of {}, and all denoisers of a model look back at the same",
                    other.file.display()
                );
                return Err(Error::package(graph.path, reason));
            }
            if self.m.stream.is_some() && !looks_back {
                let reason = "[stream] needs a denoiser with inputs past_* and outputs present_*";
                return Err(Error::package(graph.path, reason));
            }
        }
        Ok(())
    }

    /// The names of what a denoiser looks back at, with layers and width.
    fn pasts(&self, denoiser: &DenoiserConfig) -> BTreeMap<&'a str, (Option<usize>, Option<usize>)> {
        let inputs = self.package.signature(&denoiser.file).inputs.iter();
        let axis = |input: &TensorInfo, axis: usize| input.shape.get(axis).copied().flatten();
        let pasts = inputs.filter(|input| present_of(&input.name).is_some());
        pasts.map(|input| (input.name.as_str(), (axis(input, 0), axis(input, 4)))).collect()
    }

    /// `input` and `output`: name, channels, the axis of the channels.
    fn codec(
        &self,
        codec: &CodecConfig,
        input: (&str, Option<usize>, usize),
        output: (&str, Option<usize>, usize),
    ) -> Result<()> {
        for file in codec.files() {
            let graph = self.graph(file);
            let is_init = codec.init.as_deref() == Some(file);
            let is_step = codec.step.as_deref() == Some(file);
            let shape = |(_, channels, axis)| {
                let mut shape = [Some(1), None, None, None, None];
                shape[axis] = channels;
                shape
            };
            graph.input(input.0, ElementType::F32, &shape(input))?;
            graph.output(output.0, &shape(output))?;
            // What a graph is made for and the manifest does not name would be found out at the end of a clip.
            let made_for = graph.signature.input("latents").and_then(|latents| latents.shape[2]);
            let named = if is_step { ("chunk", codec.chunk) } else { ("first", codec.first) };
            if let Some(frames) = made_for.filter(|_| is_init || is_step)
                && named.1 != Some(frames)
            {
                let reason = format!(
                    "it is made for {frames} latent frames; say `decoder.{} = {frames}` in {}",
                    named.0,
                    super::MANIFEST
                );
                return Err(Error::package(graph.path, reason));
            }
            for other in graph.signature.inputs.iter().filter(|i| i.name != input.0) {
                match other.name.as_str() {
                    "decode_noise" if input.0 == "latents" => {
                        graph.input("decode_noise", ElementType::F32, &shape(input))?
                    }
                    name if is_step && state_out_of(name).is_some() => (),
                    _ => graph.parameter(other)?,
                }
            }
        }
        let Some((init, step)) = codec.pair() else { return Ok(()) };
        let (init, step) = (self.graph(init), self.graph(step));
        for state in step.signature.inputs.iter().filter_map(|i| state_out_of(&i.name)) {
            init.find_output(&state)?;
            step.find_output(&state)?;
        }
        Ok(())
    }
}

/// A graph's signature with its path, to be held against what its role needs.
struct GraphCheck<'a> {
    path: PathBuf,
    signature: &'a Signature,
    m: &'a Manifest,
}

impl<'a> GraphCheck<'a> {
    fn wrong(&self, tensor: &str, found: &[Option<usize>], expected: &str) -> Error {
        let reason = format!("tensor `{tensor}` is {}, but {expected} is needed", shape_text(found));
        Error::package(&self.path, reason)
    }

    fn not_provided(&self, input: &str) -> Error {
        let reason = format!(
            "nothing provides its input `{input}`: no output of a text encoder or conditioner is called so, and [parameters] \
             of {} holds no number for it",
            super::MANIFEST
        );
        Error::package(&self.path, reason)
    }

    fn find_input(&self, name: &str, element_type: ElementType) -> Result<&'a TensorInfo> {
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
        if !fits(found, shape) {
            return Err(self.wrong(name, found, &shape_text(shape)));
        }
        Ok(())
    }

    fn find_output(&self, name: &str) -> Result<&'a TensorInfo> {
        let missing = || Error::package(&self.path, format!("it has no output `{name}`"));
        self.signature.output(name).ok_or_else(missing)
    }

    /// The output `name`, if it says of what shape it is, has this one.
    fn output(&self, name: &str, shape: &[Option<usize>]) -> Result<()> {
        let output = self.find_output(name)?;
        if output.element_type != ElementType::F32 {
            let reason = format!("output `{name}` is {:?}, but F32 is needed", output.element_type);
            return Err(Error::package(&self.path, reason));
        }
        if !output.shape.is_empty() && !fits(&output.shape, shape) {
            return Err(self.wrong(name, &output.shape, &shape_text(shape)));
        }
        Ok(())
    }

    /// Adds the outputs but those in `except` to what denoisers may take.
    fn offer(&self, file: &'a Path, except: &[&str], optional: bool, offers: &mut Offers<'a>) -> Result<()> {
        for tensor in self.signature.outputs.iter().filter(|o| !except.contains(&o.name.as_str())) {
            let wrong = |reason: String| {
                Err(Error::package(&self.path, format!("output `{}` {reason}", tensor.name)))
            };
            if !matches!(tensor.element_type, ElementType::F32 | ElementType::I64) {
                return wrong(format!("is {:?}, but F32 or I64 is needed", tensor.element_type));
            }
            let kept =
                ["negative_", "past_", "state_", "chunk_"].iter().find(|p| tensor.name.starts_with(**p));
            if let Some(prefix) = kept {
                return wrong(format!(
                    "begins with `{prefix}`, which is kept for the runtime's own; rename it"
                ));
            }
            if OWN.contains(&tensor.name.as_str()) {
                return wrong("has a name that is kept for the runtime's own; rename it".into());
            }
            if let Some(other) = offers.get(tensor.name.as_str()) {
                return wrong(format!(
                    "is an output of {}, too; names have to be unique",
                    other.file.display()
                ));
            }
            offers.insert(&tensor.name, Offer { tensor, file, optional });
        }
        Ok(())
    }

    /// `input` is what another graph gives.
    fn given(&self, input: &TensorInfo, offer: &Offer) -> Result<()> {
        let Offer { tensor, file, .. } = offer;
        self.find_input(&input.name, tensor.element_type)?;
        if !tensor.shape.is_empty() && !fits(&input.shape, &tensor.shape) {
            let expected = format!("{}, as {} gives it,", shape_text(&tensor.shape), file.display());
            return Err(self.wrong(&input.name, &input.shape, &expected));
        }
        Ok(())
    }

    /// `input` is what another graph gives, or a number where that does not run.
    fn taken(&self, input: &TensorInfo, offer: &Offer) -> Result<()> {
        self.given(input, offer)?;
        let Offer { file, optional, .. } = offer;
        if *optional && !self.m.parameters.contains_key(&input.name) {
            let reason = format!(
                "its input `{}` comes of {} alone, which runs only with an image; give it a number in [parameters], or say \
                 conditioner.required = true",
                input.name,
                file.display()
            );
            return Err(Error::package(&self.path, reason));
        }
        if *optional { self.parameter(input) } else { Ok(()) }
    }

    /// `input` is filled with a number of the manifest.
    fn parameter(&self, input: &TensorInfo) -> Result<()> {
        if !self.m.parameters.contains_key(&input.name) {
            return Err(self.not_provided(&input.name));
        }
        self.fillable(input, "a number of [parameters]")
    }

    /// `input` has a known shape, to be filled with what `filling` says.
    fn fillable(&self, input: &TensorInfo, filling: &str) -> Result<()> {
        if !is_fillable(input) {
            let named = input.shape.iter().zip(&input.axes);
            let axes: Vec<Cow<str>> = named
                .map(|(length, name)| match length {
                    Some(length) => length.to_string().into(),
                    None if name.is_empty() => "?".into(),
                    None => name.as_str().into(),
                })
                .collect();
            let reason = format!(
                "its input `{}` is {:?} [{}], and {filling} can fill F32 alone, of 2^30 values at most, with axes that are numbers or called {}",
                input.name,
                input.element_type,
                axes.join(","),
                AXES.join(", ")
            );
            return Err(Error::package(&self.path, reason));
        }
        Ok(())
    }

    /// `past` is what the output `present_…` of the chunk before was.
    fn past(&self, past: &TensorInfo) -> Result<()> {
        let Some(present) = present_of(&past.name) else { return Ok(()) };
        self.output(&present, &[None; 5])?;
        self.input(&past.name, ElementType::F32, &[None; 5])?;
        if past.shape[0].is_none() || past.shape[4].is_none() {
            return Err(self.wrong(&past.name, &past.shape, "[layers,?,?,?,width] with both numbers"));
        }
        Ok(())
    }

    /// `input` is nothing in a chunk's first pass, and what the output `chunk_out_…` of that was in its others.
    fn of_chunk(&self, input: &TensorInfo) -> Result<()> {
        let Some(found_out) = chunk_out_of(&input.name) else { return Ok(()) };
        self.output(&found_out, &vec![None; input.shape.len()])?;
        self.find_input(&input.name, ElementType::F32)?;
        if input.shape.get(1).is_none_or(Option::is_some) {
            let expected = "[B,?,…], whose second axis is empty in a chunk's first pass,";
            return Err(self.wrong(&input.name, &input.shape, expected));
        }
        Ok(())
    }
}

/// Whether a tensor can have both shapes.
fn fits(found: &[Option<usize>], shape: &[Option<usize>]) -> bool {
    let fits = |(f, s): (&Option<usize>, &Option<usize>)| f.is_none() || s.is_none() || f == s;
    found.len() == shape.len() && found.iter().zip(shape).all(fits)
}

fn shape_text(shape: &[Option<usize>]) -> String {
    let lengths: Vec<Cow<str>> =
        shape.iter().map(|d| d.map_or("?".into(), |d| d.to_string().into())).collect();
    format!("[{}]", lengths.join(","))
}
