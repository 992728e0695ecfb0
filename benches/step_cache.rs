//! What step caching gains and costs: passes, time and the distance of the frames to those of all steps.
//!
//! ```text
//! cargo bench --bench step_cache -- [--model FOLDER] [--steps N] [--guidance SCALE] [--prompts N]
//! ```
//!
//! Prints a Markdown table. For comparison each threshold is followed by as few plain steps as it ran passes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use latentflow::vae::{Decoder, Tiling};
use latentflow::{
    Cancel, DiffuseOptions, Diffuser, Model, Package, PromptEmbeds, RuntimeOptions, TextEncoder,
};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const USAGE: &str = "step_cache [--model FOLDER] [--steps N] [--guidance SCALE] [--prompts 1..4]";
const PROMPTS: [&str; 4] = [
    "an orange cat sits on a windowsill at sunset",
    "a dog runs in the snow at night",
    "一只蝴蝶在花园里飞舞",
    "a fish swims in underwater ruins",
];
const THRESHOLDS: [f32; 5] = [0.02, 0.05, 0.1, 0.2, 0.3];

struct Arguments {
    model: Option<PathBuf>,
    steps: usize,
    guidance: Option<f32>,
    prompts: usize,
}

fn arguments() -> Result<Arguments> {
    use lexopt::prelude::*;
    let mut parsed = Arguments { model: None, steps: 32, guidance: None, prompts: PROMPTS.len() };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("model") => parsed.model = Some(PathBuf::from(parser.value()?)),
            Long("steps") => parsed.steps = parser.value()?.parse()?,
            Long("guidance") => parsed.guidance = Some(parser.value()?.parse()?),
            Long("prompts") => parsed.prompts = parser.value()?.parse()?,
            // What `cargo bench` passes on its own account.
            Long("bench") => (),
            Long("help") => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other => return Err(format!("{}; usage: {USAGE}", other.unexpected()).into()),
        }
    }
    Ok(parsed)
}

/// Made with each prompt: the frames, how long their latents took, and how many passes that was.
struct Made {
    frames: Vec<Vec<f32>>,
    time: Duration,
    passes: usize,
}

struct Bench {
    model: Arc<Model>,
    options: DiffuseOptions,
    prompts: Vec<PromptEmbeds>,
    latent_frames: usize,
}

impl Bench {
    fn make(&self, steps: usize, cache_threshold: f32) -> Result<Made> {
        let mut options =
            DiffuseOptions { num_inference_steps: steps, cache_threshold, ..self.options.clone() };
        let (width, height) = (options.width, options.height);
        let mut made = Made { frames: Vec::new(), time: Duration::ZERO, passes: 0 };
        for (seed, prompt) in (0..).zip(&self.prompts) {
            options.seed = seed;
            let mut diffuser = Diffuser::new(self.model.clone(), options.clone())?;
            let started = Instant::now();
            let mut steps = 0; // where a scene begins with a chunk of two goes, those of both
            let latents = diffuser.chunk(
                prompt.positive(),
                prompt.negative(),
                self.latent_frames,
                &Cancel::new(),
                &mut |_, all, _| steps = all,
            )?;
            made.time += started.elapsed();
            made.passes += steps - diffuser.skipped_steps();
            let mut decoder = Decoder::new(self.model.clone(), width, height, Tiling::default())?;
            let frames = decoder.decode(&latents, &Cancel::new())?;
            made.frames.push((0..frames.len()).flat_map(|i| frames.rows(i).flatten().copied()).collect());
        }
        Ok(made)
    }
}

/// Decibels of all frames, in 0..1; infinite where they are the same.
fn psnr(made: &Made, reference: &Made) -> f64 {
    let pairs = || made.frames.iter().flatten().zip(reference.frames.iter().flatten());
    let squares = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    -10.0 * (squares / pairs().count() as f64).log10()
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let package = match &arguments.model {
        Some(folder) => Package::open(folder)?,
        None => latentflow::papercut()?,
    };
    let model = Arc::new(Model::new(Arc::new(package), RuntimeOptions::default()));
    let mut options = DiffuseOptions::new(&model);
    options.guidance_scale = arguments.guidance.or(options.guidance_scale);
    let text = TextEncoder::new(model.clone())?;
    let prompts = PROMPTS.iter().take(arguments.prompts);
    let prompts =
        prompts.map(|prompt| text.encode(prompt, Some(""), &Cancel::new())).collect::<Result<_, _>>()?;
    let m = model.manifest();
    let latent_frames = match m.stream {
        Some(stream) => stream.chunk,
        None => 1 + (m.video.num_frames.default - 1) / m.latents.temporal_compression_ratio,
    };
    let bench = Bench { model: model.clone(), options, prompts, latent_frames };

    bench.make(arguments.steps, 0.0)?; // warms up
    let plain = bench.make(arguments.steps, 0.0)?;
    println!("| `cache-threshold` | Passes | Faster | PSNR | as many plain steps |\n|---|---|---|---|---|");
    let prompts = bench.prompts.len() as f64;
    println!("| 0 | {} | 1.00 | – | |", plain.passes as f64 / prompts);
    for threshold in THRESHOLDS {
        let cached = bench.make(arguments.steps, threshold)?;
        let passes = cached.passes as f64 / prompts;
        let share = cached.passes as f64 / plain.passes as f64;
        let fewer = bench.make(((arguments.steps as f64 * share).round() as usize).max(1), 0.0)?;
        println!(
            "| {threshold} | {passes:.1} | {:.2} | {:.1} dB | {:.1} dB |",
            plain.time.as_secs_f64() / cached.time.as_secs_f64(),
            psnr(&cached, &plain),
            psnr(&fewer, &plain)
        );
    }
    Ok(())
}
