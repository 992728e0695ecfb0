//! Families of open models against diffusers: for tiny random pipelines of each, exported by `models/recipes/export.sh`, the
//! library and the elements give the token ids, prompt embeddings, latents after every step and frames that diffusers gives
//! for `torch.Generator("cpu").manual_seed(42)`.
//!
//! `models/recipes/parity.sh` makes the archives, and `data/README.md` says what is in them.

use std::path::Path;
use std::sync::{Arc, Mutex, Once};

use gst::prelude::*;
use latentflow::noise::Position;
use latentflow::package::Package;
use latentflow::schedule::SchedulerConfig;
use latentflow::text::PromptTokenizer;
use latentflow::vae::{Decoder, Tiling, num_latent_frames};
use latentflow::{Cancel, DiffuseOptions, Diffuser, Model, PromptEmbeds, RuntimeOptions, TextEncoder};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use tempfile::TempDir;

/// Prompt embeddings differ by no more than this share of their largest value.
const EMBEDS: f32 = 2e-5;
/// Latents differ by no more than this share of the step's largest value.
const LATENTS: f32 = 1e-4;
/// Frames, in 0..1, differ by no more than this; they are stored in steps of 1/65535.
const FRAMES: f32 = 1e-4;

#[test]
fn wan_2_1_with_unipc_and_euler() {
    Instance::unpack("wan2.1-t2v").matches_diffusers();
}

#[test]
fn wan_2_1_from_an_image_with_clip() {
    Instance::unpack("wan2.1-i2v").matches_diffusers();
}

#[test]
fn wan_2_2_a14b_with_two_experts() {
    Instance::unpack("wan2.2-a14b").matches_diffusers();
}

#[test]
fn wan_2_2_i2v_a14b_with_two_experts_and_an_image() {
    Instance::unpack("wan2.2-i2v-a14b").matches_diffusers();
}

#[test]
fn wan_2_2_5b_from_text_and_from_an_image() {
    Instance::unpack("wan2.2-5b").matches_diffusers();
}

#[test]
fn ltx_video_0_9_0_from_text_and_from_an_image() {
    Instance::unpack("ltx-video-0.9.0").matches_diffusers();
}

#[test]
fn ltx_video_0_9_1_with_a_timestep_in_the_decoder() {
    Instance::unpack("ltx-video-0.9.1").matches_diffusers();
}

#[test]
fn ltx_video_0_9_5_with_conditions() {
    Instance::unpack("ltx-video-0.9.5").matches_diffusers();
}

#[test]
fn cogvideox_2b_with_positions_in_a_table() {
    Instance::unpack("cogvideox-2b").matches_diffusers();
}

#[test]
fn cogvideox_5b_with_rotary_positions() {
    Instance::unpack("cogvideox-5b").matches_diffusers();
}

#[test]
fn hunyuan_video_with_a_language_model_and_embedded_guidance() {
    Instance::unpack("hunyuan-video").matches_diffusers();
}

#[test]
fn stable_diffusion_1_5_with_pndm_and_ddim() {
    Instance::unpack("stable-diffusion-1.5").matches_diffusers();
}

#[test]
fn stable_diffusion_2_1_with_velocity() {
    Instance::unpack("stable-diffusion-2.1").matches_diffusers();
}

#[test]
fn sd_turbo_in_one_step_and_a_few() {
    Instance::unpack("sd-turbo").matches_diffusers();
}

#[test]
fn stable_diffusion_xl_with_two_text_encoders() {
    Instance::unpack("stable-diffusion-xl").matches_diffusers();
}

#[test]
fn sdxl_turbo_in_one_step_and_a_few() {
    Instance::unpack("sdxl-turbo").matches_diffusers();
}

#[test]
fn pixart_sigma_with_dpm_solver() {
    Instance::unpack("pixart-sigma").matches_diffusers();
}

#[test]
fn animatediff() {
    Instance::unpack("animatediff").matches_diffusers();
}

/// What was asked of diffusers' pipeline.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    prompt: String,
    negative_prompt: String,
    width: usize,
    height: usize,
    num_frames: usize,
    num_inference_steps: usize,
    /// `None` where the package's experts have their own.
    guidance_scale: Option<f32>,
    seed: u64,
    frame_rate: Option<u32>,
    /// Every so many of the frames' numbers are stored.
    frame_stride: usize,
    /// Another scheduler than the package's.
    scheduler: Option<SchedulerConfig>,
}

/// A package, and diffusers' numbers for it.
struct Instance {
    folder: TempDir,
    cases: Vec<Case>,
    reference: Vec<u8>,
}

impl Instance {
    fn unpack(name: &str) -> Self {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/parity/{name}.tar.xz"));
        let file = std::fs::File::open(&archive).unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
        let folder = tempfile::tempdir().unwrap();
        let plain = lzma_rust2::XzReader::new(std::io::BufReader::new(file), true);
        tar::Archive::new(plain).unpack(folder.path()).unwrap();
        let cases = std::fs::read(folder.path().join("cases.json")).unwrap();
        let reference = std::fs::read(folder.path().join("reference.safetensors")).unwrap();
        Self { cases: serde_json::from_slice(&cases).unwrap(), folder, reference }
    }

    fn matches_diffusers(&self) {
        let reference = Reference(SafeTensors::deserialize(&self.reference).unwrap());
        let package = Arc::new(Package::open(self.folder.path()).unwrap_or_else(|e| panic!("{e}")));
        let options = RuntimeOptions { num_threads: 1, ..RuntimeOptions::default() };
        let model = Arc::new(Model::new(package, options));
        let text = TextEncoder::new(model.clone()).unwrap();
        for case in &self.cases {
            let reference = CaseReference { all: &reference, case };
            reference.check_tokens(&model);
            let embeds = text.encode(&case.prompt, Some(&case.negative_prompt), &Cancel::new()).unwrap();
            reference.check_embeds(&embeds);
            let (latents, noise) = reference.check_latents(&model, &embeds);
            reference.check_frames(&model, &latents, noise);
            if case.scheduler.is_none() {
                reference.check_elements(self.folder.path());
            }
        }
    }
}

struct Reference<'a>(SafeTensors<'a>);

struct CaseReference<'a> {
    all: &'a Reference<'a>,
    case: &'a Case,
}

impl CaseReference<'_> {
    fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.all.0.tensor(&format!("{}.{name}", self.case.name)).ok()
    }

    fn f32s(&self, name: &str) -> Option<Vec<f32>> {
        self.tensor(name).map(|view| numbers(&view, f32::from_le_bytes))
    }

    fn said(&self, what: &str) -> String {
        format!("{what} of `{}`", self.case.name)
    }

    fn check_tokens(&self, model: &Model) {
        for (index, encoder) in model.manifest().text_encoders.iter().enumerate() {
            let tokenizer = PromptTokenizer::open(model.package(), &encoder.tokenizer).unwrap();
            let suffix = if index == 0 { String::new() } else { format!("_{}", index + 1) };
            for (prefix, prompt) in [("", &self.case.prompt), ("negative_", &self.case.negative_prompt)] {
                let name = format!("{prefix}input_ids{suffix}");
                let Some(expected) = self.tensor(&name) else { continue };
                let expected: Vec<i64> =
                    numbers(&expected, i32::from_le_bytes).into_iter().map(i64::from).collect();
                assert_eq!(tokenizer.tokenize(prompt).unwrap().input_ids, expected, "{}", self.said(&name));
            }
        }
    }

    fn check_embeds(&self, embeds: &PromptEmbeds) {
        let sides = [("", Some(embeds.positive())), ("negative_", embeds.negative())];
        for (prefix, tensors) in sides {
            let Some(tensors) = tensors else { continue };
            for (name, tensor) in tensors {
                let name = format!("{prefix}{name}");
                let Some(expected) = self.f32s(&name) else { continue };
                let found = tensor.f32().unwrap();
                let stride = found.len().div_ceil(expected.len());
                let found: Vec<f32> = found.iter().copied().step_by(stride).collect();
                close(&found, &expected, EMBEDS * largest(&expected).max(1.0), &self.said(&name));
            }
        }
    }

    fn check_latents(&self, model: &Arc<Model>, embeds: &PromptEmbeds) -> (Vec<f32>, Position) {
        let case = self.case;
        let mut options = DiffuseOptions::new(model);
        (options.width, options.height) = (case.width, case.height);
        (options.num_inference_steps, options.seed) = (case.num_inference_steps, case.seed);
        options.guidance_scale = case.guidance_scale;
        if let Some(frame_rate) = case.frame_rate {
            options.frame_rate = frame_rate as f32;
        }
        if let Some(scheduler) = &case.scheduler {
            options.scheduler = scheduler.clone();
        }
        let mut diffuser = Diffuser::new(model.clone(), options).unwrap();
        if let Some(image) = self.tensor("image") {
            diffuser.set_image(image.data(), case.width * 3).unwrap();
        }
        let frames = num_latent_frames(&model.manifest().latents, case.num_frames, true);
        let mut steps = Vec::new();
        let mut on_step = |_, _, latents: &[f32]| steps.push(latents.to_vec());
        let latents = diffuser
            .chunk(embeds.positive(), embeds.negative(), frames, &Cancel::new(), &mut on_step)
            .unwrap();
        let expected = self.f32s("latents").unwrap();
        assert_eq!(steps.concat().len(), expected.len(), "{}", self.said("latents"));
        for (index, (step, expected)) in steps.iter().zip(expected.chunks(latents.len())).enumerate() {
            let what = self.said(&format!("latents after step {}", index + 1));
            close(step, expected, LATENTS * largest(expected), &what);
        }
        (latents, diffuser.noise_position().unwrap())
    }

    fn check_frames(&self, model: &Arc<Model>, latents: &[f32], noise: Position) {
        let mut decoder =
            Decoder::new(model.clone(), self.case.width, self.case.height, Tiling::Off).unwrap();
        decoder.set_noise_position(noise);
        let frames = decoder.decode(latents, &Cancel::new()).unwrap();
        assert_eq!(frames.len(), self.case.num_frames);
        let values = (0..frames.len()).flat_map(|index| frames.rows(index)).flatten();
        let found: Vec<f32> = values.map(|value| value.clamp(0.0, 1.0)).collect();
        let found: Vec<f32> = found.into_iter().step_by(self.case.frame_stride).collect();
        close(&found, &self.frames(), FRAMES, &self.said("frames"));
    }

    /// The same through `textsrc ! latentdiffuse ! vaedecode`, to the rounding of 8 bit.
    fn check_elements(&self, folder: &Path) {
        let image = self.tensor("image");
        let bytes = play(folder, self.case, image.as_ref().map(|image| image.data()));
        assert_eq!(bytes.len(), self.case.num_frames * self.case.height * self.case.width * 3);
        let found: Vec<f32> =
            bytes.iter().step_by(self.case.frame_stride).map(|&byte| f32::from(byte) / 255.0).collect();
        close(&found, &self.frames(), FRAMES + 0.5 / 255.0, &self.said("frames from vaedecode"));
    }

    fn frames(&self) -> Vec<f32> {
        let stored = self.tensor("frames").unwrap();
        numbers(&stored, u16::from_le_bytes).into_iter().map(|x| f32::from(x) / 65535.0).collect()
    }
}

/// Plays a case, from `image` in RGB if there is one, and returns its frames in RGB.
fn play(folder: &Path, case: &Case, image: Option<&[u8]>) -> Vec<u8> {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstlatentflow::plugin_register_static().unwrap();
    });
    let rate = case.frame_rate.unwrap_or(8);
    let size = format!("video/x-raw,format=RGB,width={},height={}", case.width, case.height);
    let mut line = format!(
        "textsrc name=text num-threads=1 duration={} ! latentdiffuse name=diffuse num-threads=1 seed={} \
         num-inference-steps={} ! vaedecode num-threads=1 ! {size},framerate={rate}/1 ! fakesink name=sink sync=false",
        (gst::ClockTime::SECOND * case.num_frames as u64 / u64::from(rate)).nseconds(),
        case.seed,
        case.num_inference_steps,
    );
    if image.is_some() {
        line += &format!(" appsrc name=picture format=time caps={size},framerate=1/1 ! diffuse.image");
    }
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let element = |name| pipeline.by_name(name).unwrap();
    element("text").set_property("model", folder.to_str().unwrap());
    element("text").set_property("prompt", &case.prompt);
    element("text").set_property("negative-prompt", &case.negative_prompt);
    if let Some(guidance_scale) = case.guidance_scale {
        element("diffuse").set_property("guidance-scale", f64::from(guidance_scale));
    }
    let frames = Arc::new(Mutex::new(Vec::new()));
    let collected = frames.clone();
    let pad = element("sink").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        collected.lock().unwrap().extend_from_slice(&info.buffer().unwrap().map_readable().unwrap());
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    if let Some(image) = image {
        let mut buffer = gst::Buffer::from_slice(image.to_vec());
        buffer.get_mut().unwrap().set_pts(gst::ClockTime::ZERO);
        for (signal, values) in [("push-buffer", &[&buffer as &dyn ToValue][..]), ("end-of-stream", &[])] {
            let flow: gst::FlowReturn = element("picture").emit_by_name(signal, values);
            assert_eq!(flow, gst::FlowReturn::Ok, "{signal}");
        }
    }
    let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(120), &wanted);
    pipeline.set_state(gst::State::Null).unwrap();
    if let gst::MessageView::Error(error) = message.expect("it ends within two minutes").view() {
        panic!("`{}`: {}", case.name, error.error());
    }
    std::mem::take(&mut *frames.lock().unwrap())
}

fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let (mut worst, mut place) = (0.0, 0);
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        if error.is_nan() || error > worst {
            (worst, place) = (error, index);
        }
    }
    assert!(worst <= tolerance, "{what}: off by {worst:e} at {place}, where {tolerance:e} is allowed");
}

fn largest(numbers: &[f32]) -> f32 {
    numbers.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

fn numbers<const N: usize, T>(view: &TensorView, number: impl Fn([u8; N]) -> T) -> Vec<T> {
    view.data().as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
}
