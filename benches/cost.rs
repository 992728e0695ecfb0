//! What Latentflow adds to the bare ONNX sessions, measured side by side in one run on the same package.
//!
//! `pipelines/bench.sh` runs it and says what the figures mean. Rounds of all alternate, and the fastest of each counts:
//! what else the machine does can only make one slower.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use gst::prelude::*;
use latentflow::package::CodecConfig;
use latentflow::vae::{self, Decoder, Tiling};
use latentflow::{
    Cancel, DiffuseOptions, Diffuser, Feeds, Graph, Model, Package, RuntimeOptions, Tensor, Tensors,
    TextEncoder,
};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const PROMPT: &str = "an orange cat sits on a windowsill at sunset, 一只橙色的猫坐在窗台上看日落";
const USAGE: &str = "cost [--json] [--model FOLDER] [--seconds N] [--rounds N]";

struct Arguments {
    json: bool,
    model: Option<PathBuf>,
    seconds: u64,
    rounds: usize,
    child: Option<String>,
}

fn arguments() -> Result<Arguments> {
    use lexopt::prelude::*;
    let mut parsed = Arguments { json: false, model: None, seconds: 10, rounds: 3, child: None };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => parsed.json = true,
            Long("model") => parsed.model = Some(PathBuf::from(parser.value()?).canonicalize()?),
            Long("seconds") => parsed.seconds = parser.value()?.parse()?,
            Long("rounds") => parsed.rounds = parser.value()?.parse()?,
            Long("child") => parsed.child = Some(parser.value()?.string()?),
            // What `cargo bench` passes on its own account.
            Long("bench") => (),
            Long("help") => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other => return Err(format!("{}; usage: {USAGE}", other.unexpected()).into()),
        }
    }
    if parsed.seconds < 2 || parsed.rounds == 0 {
        return Err("at least 2 seconds and a round are needed".into());
    }
    Ok(parsed)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    gst::init()?;
    gstlatentflow::plugin_register_static()?;
    match &arguments.child {
        Some(what) => child(&arguments, what),
        None => measure(&arguments),
    }
}

fn open(arguments: &Arguments) -> Result<Arc<Model>> {
    let package = match &arguments.model {
        Some(folder) => Package::open(folder)?,
        None => latentflow::papercut()?,
    };
    Ok(Arc::new(Model::new(Arc::new(package), RuntimeOptions::default())))
}

/// The figures that one process can't give of itself: a cold start, and how much memory a length takes.
fn child(arguments: &Arguments, what: &str) -> Result<()> {
    let started = Instant::now();
    match what {
        "first-frame" => {
            let run = Pipeline::new(arguments, 1, NOTHING)?.run()?;
            println!("{}", (run.first_frame - started).as_secs_f64());
        }
        seconds => {
            Pipeline::new(arguments, seconds.parse()?, NOTHING)?.run()?;
            let status = std::fs::read_to_string("/proc/self/status")?;
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
            println!("{}", peak.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0);
        }
    }
    Ok(())
}

fn ask_child(arguments: &Arguments, what: &str) -> Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child", what]);
    if let Some(model) = &arguments.model {
        command.arg("--model").arg(model);
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

fn measure(arguments: &Arguments) -> Result<()> {
    let model = open(arguments)?;
    let rate = model.manifest().video.frame_rate.default;
    let rate = f64::from(rate.numer) / f64::from(rate.denom);
    // Keeps the pipelines' sessions open between rounds.
    let warm = Pipeline::new(arguments, 1, NOTHING)?;
    warm.run()?;

    let bare = Bare::new(&model)?;
    let chunks = chunks_in(&model, (arguments.seconds as f64 * rate).round() as usize);
    let [mut sessions, mut library, mut pipeline, mut encoded, mut first_frame_warm] = [Duration::MAX; 5];
    let mut frames = 0;
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        sessions = sessions.min(bare.run(chunks)?);
        library = library.min(run_library(&model, chunks)?);
        let run = Pipeline::new(arguments, arguments.seconds, NOTHING)?.run()?;
        pipeline = pipeline.min(run.steady);
        first_frame_warm = first_frame_warm.min(run.first_frame - run.started);
        frames = run.steady_frames;
        // Last, for it slows down what comes right after it.
        encoded = encoded.min(Pipeline::new(arguments, arguments.seconds, ENCODER)?.run()?.steady);
    }
    drop(warm);
    let fps = |duration: Duration| frames as f64 / duration.as_secs_f64();
    let ratio = |duration: Duration| duration.as_secs_f64() / sessions.as_secs_f64();
    let figures = [
        ("sessions_s", sessions.as_secs_f64()),
        ("library_s", library.as_secs_f64()),
        ("pipeline_s", pipeline.as_secs_f64()),
        ("library_ratio", ratio(library)),
        ("pipeline_ratio", ratio(pipeline)),
        ("fps", fps(pipeline)),
        ("realtime_factor", fps(pipeline) / rate),
        ("encoded_realtime_factor", fps(encoded) / rate),
        ("first_frame_cold_s", ask_child(arguments, "first-frame")?),
        ("first_frame_warm_s", first_frame_warm.as_secs_f64()),
        ("peak_rss_mib_10s", ask_child(arguments, "10")?),
        ("peak_rss_mib_60s", ask_child(arguments, "60")?),
    ];
    if arguments.json {
        let mut object: serde_json::Map<_, _> =
            figures.iter().map(|(name, value)| (name.to_string(), serde_json::json!(value))).collect();
        object.insert("package".into(), model.id().into());
        object.insert("frames".into(), frames.into());
        println!("{}", serde_json::Value::from(object));
    } else {
        println!("{} of {} s, {frames} frames from the second chunk on", model.id(), arguments.seconds);
        figures.iter().for_each(|(name, value)| println!("{name:<24} {value:>10.3}"));
    }
    Ok(())
}

/// Returns how many chunks of a causal model `frames` take.
fn chunks_in(model: &Model, frames: usize) -> usize {
    let m = model.manifest();
    let chunk = m.stream.map_or(1, |s| s.chunk);
    vae::num_latent_frames(&m.latents, frames, true).div_ceil(chunk).max(2)
}

/// The graphs of one chunk after another with inputs made beforehand, and nothing else.
struct Bare {
    denoiser: Arc<Graph>,
    inputs: Vec<Tensors>,
    steps: usize,
    init: Arc<Graph>,
    step: Arc<Graph>,
}

impl Bare {
    /// Takes the inputs from a real run, one chunk in the middle of a scene.
    fn new(model: &Arc<Model>) -> Result<Self> {
        let m = model.manifest();
        let Some(stream) = m.stream else { return Err("the benchmark needs a causal model".into()) };
        let Some((init, step)) = m.decoder.as_ref().and_then(CodecConfig::pair) else {
            return Err("the benchmark needs a decoder that streams".into());
        };
        let cancel = Cancel::new();
        let denoiser = model.graph(&m.denoisers[0].file, &cancel)?;
        let options = DiffuseOptions::new(model);
        let guidance_scale = m.defaults.guidance_scale;
        if guidance_scale > 1.0 {
            eprintln!("guidance is {guidance_scale}: every step counts twice");
        }
        let caches = if guidance_scale > 1.0 { 2 } else { 1 };
        let steps = options.num_inference_steps * caches;
        let diffuser = Diffuser::new(model.clone(), options)?;
        let [c, t, h, w] = diffuser.latent_shape(stream.chunk);
        let token = m.latents.size_multiple / m.latents.spatial_compression_ratio;
        // One set of inputs for each number of past frames, up to a full window.
        let pasts = (0..).map(|chunk| (chunk * stream.chunk).min(stream.window));
        let mut inputs = Vec::new();
        for past in pasts {
            let text = TextEncoder::new(model.clone())?.encode(PROMPT, None, &Cancel::new())?;
            let mut feeds: Tensors = HashMap::new();
            for (name, tensor) in text.positive() {
                feeds.insert(name.clone(), Tensor::from_f32(&tensor.shape(), tensor.f32()?.to_vec())?);
            }
            feeds.insert("latents".into(), Tensor::from_f32(&[1, c, t, h, w], vec![0.1; c * t * h * w])?);
            for input in &denoiser.signature().inputs {
                if input.name == "timestep" {
                    let shape = if input.shape.len() == 2 { vec![1, t] } else { vec![1] };
                    let length = shape.iter().product();
                    feeds.insert("timestep".into(), Tensor::from_f32(&shape, vec![500.0; length])?);
                } else if input.name.starts_with("past_") {
                    let fixed = |axis: usize| input.shape[axis].unwrap_or(1);
                    let shape = [fixed(0), 1, past, (h / token) * (w / token), fixed(4)];
                    let length = shape.iter().product();
                    feeds.insert(input.name.clone(), Tensor::from_f32(&shape, vec![0.1; length])?);
                } else if input.name.starts_with("chunk_") {
                    let mut shape: Vec<usize> = input.shape.iter().map(|d| d.unwrap_or(1)).collect();
                    shape[1] = 0;
                    feeds.insert(input.name.clone(), Tensor::from_f32(&shape, Vec::new())?);
                }
            }
            inputs.push(feeds);
            if past == stream.window {
                break;
            }
        }
        Ok(Self {
            denoiser,
            inputs,
            steps: steps + caches,
            init: model.graph(init, &cancel)?,
            step: model.graph(step, &cancel)?,
        })
    }

    /// Returns how long `chunks` take from the second one on.
    fn run(&self, chunks: usize) -> Result<Duration> {
        let cancel = Cancel::new();
        let mut started = Instant::now();
        let mut states = Tensors::new();
        for chunk in 0..chunks {
            let inputs = &self.inputs[chunk.min(self.inputs.len() - 1)];
            let mut feeds: Feeds = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            // What a chunk's first pass finds out its others are given.
            let outputs = self.denoiser.run(&feeds, &cancel)?;
            let given: Vec<_> = feeds
                .keys()
                .filter_map(|name| Some((*name, outputs.get(&name.replacen("chunk_", "chunk_out_", 1))?)))
                .collect();
            feeds.extend(given);
            for _ in 1..self.steps {
                self.denoiser.run(&feeds, &cancel)?;
            }
            let decoder = if chunk == 0 { &self.init } else { &self.step };
            let mut feeds: Feeds = states.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            feeds.insert("latents", &inputs["latents"]);
            let outputs = decoder.run(&feeds, &cancel)?;
            states = outputs
                .into_iter()
                .map(|(name, tensor)| (name.replacen("state_out_", "state_", 1), tensor))
                .collect();
            if chunk == 0 {
                started = Instant::now();
            }
        }
        Ok(started.elapsed())
    }
}

/// The library's own loop to RGB frames, without GStreamer: how long `chunks` take from the second one on.
fn run_library(model: &Arc<Model>, chunks: usize) -> Result<Duration> {
    let m = model.manifest();
    let cancel = Cancel::new();
    let options = DiffuseOptions::new(model);
    let (width, height) = (options.width, options.height);
    let embeds = TextEncoder::new(model.clone())?.encode(PROMPT, Some(""), &cancel)?;
    let mut diffuser = Diffuser::new(model.clone(), options)?;
    let mut decoder = Decoder::new(model.clone(), width, height, Tiling::Auto)?;
    let mut rgb = vec![0; width * height * 3];
    let chunk = m.stream.map_or(1, |s| s.chunk);
    let mut started = Instant::now();
    for index in 0..chunks {
        let latents =
            diffuser.chunk(embeds.positive(), embeds.negative(), chunk, &cancel, &mut |_, _, _| ())?;
        let frames = decoder.decode(&latents, &cancel)?;
        (0..frames.len()).for_each(|frame| frames.write_rgb(frame, &mut rgb, width * 3));
        if index == 0 {
            started = Instant::now();
        }
    }
    Ok(started.elapsed())
}

/// What makes frames of latents and takes them: nothing more, or an encoder, with the queues of `pipelines/`.
const NOTHING: &str = "vaedecode name=decoder ! fakesink";
const ENCODER: &str = "queue ! vaedecode name=decoder ! queue ! videoconvert ! video/x-raw,format=I420 ! x264enc ! mp4mux ! fakesink";

/// `textsrc ! latentdiffuse !` and the rest.
struct Pipeline {
    pipeline: gst::Pipeline,
    frames: std::sync::mpsc::Receiver<Instant>,
    first_chunk: usize,
}

struct Run {
    started: Instant,
    first_frame: Instant,
    /// From the end of the first chunk to the end of the stream.
    steady: Duration,
    steady_frames: usize,
}

impl Pipeline {
    fn new(arguments: &Arguments, seconds: u64, rest: &str) -> Result<Self> {
        let model = open(arguments)?;
        let m = model.manifest();
        let rate = m.video.frame_rate.default;
        let frames = (seconds * u64::from(rate.numer)).div_ceil(u64::from(rate.denom)) as usize;
        let chunk = m.stream.map_or(1, |s| s.chunk);
        // Whole chunks, so that nothing is made to be thrown away.
        let (first_chunk, chunks) = (vae::num_frames(&m.latents, chunk, true), chunks_in(&model, frames));
        let frames = vae::num_frames(&m.latents, chunks * chunk, true) as u64;
        let duration =
            gst::ClockTime::SECOND.nseconds() * frames * u64::from(rate.denom) / u64::from(rate.numer);
        let source =
            gst::ElementFactory::make("textsrc").property("prompt", PROMPT).property("duration", duration);
        let source = match &arguments.model {
            Some(folder) => source.property("model", folder.to_str().ok_or("the folder is not UTF-8")?),
            None => source,
        };
        let diffuser = gst::ElementFactory::make("latentdiffuse").build()?;
        let rest = gst::parse::bin_from_description(rest, true)?;
        let decoder = rest.by_name("decoder").ok_or("there is a decoder")?;
        let elements = [source.build()?, diffuser, rest.upcast()];
        let pipeline = gst::Pipeline::new();
        pipeline.add_many(&elements)?;
        gst::Element::link_many(&elements)?;
        let (sender, frames) = channel();
        let pad = decoder.static_pad("src").ok_or("vaedecode has a pad")?;
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            // Fails only once nobody asks any more.
            sender.send(Instant::now()).map_or(gst::PadProbeReturn::Remove, |()| gst::PadProbeReturn::Ok)
        });
        Ok(Self { pipeline, frames, first_chunk })
    }

    fn run(&self) -> Result<Run> {
        let started = Instant::now();
        self.pipeline.set_state(gst::State::Playing)?;
        let bus = self.pipeline.bus().ok_or("a pipeline has a bus")?;
        let message = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]);
        if let Some(gst::MessageView::Error(error)) = message.as_ref().map(|m| m.view()) {
            return Err(error.error().to_string().into());
        }
        let ended = Instant::now();
        let frames: Vec<Instant> = self.frames.try_iter().collect();
        if frames.len() <= self.first_chunk {
            return Err(format!("the pipeline gave {} frames", frames.len()).into());
        }
        Ok(Run {
            started,
            first_frame: frames[0],
            steady: ended - frames[self.first_chunk - 1],
            steady_frames: frames.len() - self.first_chunk,
        })
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Nothing is left to do where it fails.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
