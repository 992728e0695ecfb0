//! A package of a family that nobody has heard of: it runs if its graphs have the right boundaries.
//!
//! tiny-guest has two text encoders, guidance in its denoiser, a conditioner, parameters, and a decoder that adds noise and takes
//! fixed numbers of latent frames. What its graphs compute is said in tests/data/packages.py.

mod util;

use std::path::Path;
use std::sync::Arc;

use latentflow::noise::Position;
use latentflow::package::Manifest;
use latentflow::vae::{Decoder, Tiling};
use latentflow::{
    Cancel, DiffuseOptions, Diffuser, Error, Model, Package, PromptEmbeds, RuntimeOptions, TextEncoder,
};
use util::rgb;

fn model_in(folder: &Path) -> Arc<Model> {
    Arc::new(Model::new(Arc::new(Package::open(folder).unwrap()), RuntimeOptions::default()))
}

fn guest() -> Arc<Model> {
    model_in(&util::package("tiny-guest"))
}

/// The guest's package with `from` in its manifest replaced by `to`.
fn changed(from: &str, to: &str) -> (tempfile::TempDir, Arc<Model>) {
    let copy = util::copy_of("tiny-guest");
    util::edit(&copy, "model.toml", from, to);
    let model = model_in(copy.path());
    (copy, model)
}

fn embeds(model: &Arc<Model>, prompt: &str) -> PromptEmbeds {
    TextEncoder::new(model.clone()).unwrap().encode(prompt, Some(""), &Cancel::new()).unwrap()
}

fn clip(diffuser: &mut Diffuser, prompt: &PromptEmbeds, latent_frames: usize) -> Result<Vec<f32>, Error> {
    diffuser.start_scene();
    diffuser.chunk(prompt.positive(), prompt.negative(), latent_frames, &Cancel::new(), &mut |_, _, _| ())
}

fn diffuser(model: &Arc<Model>, change: impl FnOnce(&mut DiffuseOptions)) -> Diffuser {
    let mut options = DiffuseOptions::new(model);
    change(&mut options);
    Diffuser::new(model.clone(), options).unwrap()
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
}

mod text_encoders {
    use super::*;

    #[test]
    fn are_merged_by_name() {
        let embeds = embeds(&guest(), "red");
        let mut names: Vec<&str> = embeds.positive().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["pooled_embeds", "prompt_embeds", "prompt_mask"]);
        assert!(names.iter().all(|name| embeds.negative().unwrap().contains_key(*name)));
    }

    #[test]
    fn read_the_prompt_each_in_its_own_way() {
        let model = guest();
        // The mean of [BOS] a red in the snow: the template is the second encoder's alone.
        let red = embeds(&model, "red");
        let pooled = red.positive()["pooled_embeds"].f32().unwrap().to_vec();
        let expected = [7.0 / 6.0, -3.0 / 6.0, -2.0 / 6.0, 0.1 / 6.0];
        assert!(pooled.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{pooled:?}");
        // The clean-ups are the first one's alone.
        let rows = |prompt| embeds(&model, prompt).positive()["prompt_embeds"].f32().unwrap().to_vec();
        assert_eq!(rows(" ｒｅｄ&amp;#44; cat "), rows("red, cat"));
    }

    #[test]
    fn can_give_zeros_for_an_empty_negative_prompt() {
        let model = model_in(&util::package("tiny-image"));
        let encoder = TextEncoder::new(model).unwrap();
        let negative = |text| {
            let embeds = encoder.encode("red", Some(text), &Cancel::new()).unwrap();
            embeds.negative().unwrap()["pooled_embeds"].f32().unwrap().to_vec()
        };
        assert_eq!(negative(""), [0.0; 4]);
        assert_eq!(negative(" "), [0.0; 4]);
        assert!(negative("blue")[2] > 0.0);
        assert_eq!(negative(""), [0.0; 4]);
    }

    #[test]
    fn are_open_one_at_a_time_where_they_are_not_kept() {
        let model = guest();
        let kept = TextEncoder::new(model.clone()).unwrap();
        let (cancel, prompt) = (Cancel::new(), "a red cat");
        let first = kept.encode(prompt, None, &cancel).unwrap();
        assert_eq!(model.open_graphs(), 2);
        drop(kept);
        assert_eq!(model.open_graphs(), 0, "a graph closes with the last who holds it");
        let closing = TextEncoder::new(model.clone()).unwrap().keep_loaded(false);
        let second = closing.encode(prompt, None, &cancel).unwrap();
        assert_eq!(model.open_graphs(), 0);
        assert_eq!(first.to_safetensors().unwrap().len(), second.to_safetensors().unwrap().len());
        let pooled = |embeds: &PromptEmbeds| embeds.positive()["pooled_embeds"].f32().unwrap().to_vec();
        assert_eq!(pooled(&first), pooled(&second));
    }

    #[test]
    fn are_found_open_where_they_were_opened_ahead() {
        let (model, cancel) = (guest(), Cancel::new());
        let files: Vec<_> =
            model.manifest().text_encoders.iter().map(|encoder| encoder.file.clone()).collect();
        let ahead = model.open_ahead(files.clone(), &cancel).unwrap().join().unwrap();
        assert_eq!((ahead.len(), model.open_graphs()), (2, 2));
        let graph = model.graph(&files[1], &cancel).unwrap();
        assert!(Arc::ptr_eq(&graph, &ahead[1]));
        drop(ahead);
        assert_eq!(model.open_graphs(), 1, "what was taken stays open");
        cancel.cancel();
        let ahead = model.open_ahead(files.clone(), &cancel).unwrap().join().unwrap();
        assert!(ahead.is_empty(), "it ends where who asked for it stops");
    }
}

mod a_denoiser {
    use super::*;

    #[test]
    fn with_guidance_in_it_needs_no_negative_prompt_and_is_told_the_scale() {
        let model = guest();
        let prompt = embeds(&model, "red");
        let run = |scale| {
            let mut diffuser = diffuser(&model, |o| o.guidance_scale = scale);
            diffuser.chunk(prompt.positive(), None, 3, &Cancel::new(), &mut |_, _, _| ()).unwrap()
        };
        assert_eq!(run(None), run(Some(6.0)), "the package's default");
        let more = mean(&run(Some(56.0))) - mean(&run(Some(6.0)));
        assert!(
            (more - 1.1 * 0.5).abs() < 0.01,
            "a hundredth of the scale, and a tenth of the step before: {more}"
        );
    }

    #[test]
    fn is_told_the_numbers_of_the_manifest() {
        let model = guest();
        let (_folder, louder) = changed("style = 0.5", "style = 1.5");
        let red = |model: &Arc<Model>| {
            let prompt = embeds(model, "red");
            mean(&clip(&mut diffuser(model, |_| ()), &prompt, 3).unwrap()[..3 * 48])
        };
        let more = red(&louder) - red(&model);
        assert!((more - 1.1 * 7.0 / 6.0).abs() < 0.01, "{more}");
    }

    #[test]
    fn has_guidance_of_its_own_that_the_user_overrules() {
        let copy = util::copy_of("tiny-clip");
        util::edit(&copy, "model.toml", "min_timestep = 500\n", "min_timestep = 500\nguidance_scale = 5.0\n");
        let (own, plain) = (model_in(copy.path()), model_in(&util::package("tiny-clip")));
        let run = |model: &Arc<Model>, scale| {
            let prompt = embeds(model, "red");
            clip(&mut diffuser(model, |o| o.guidance_scale = scale), &prompt, 3).unwrap()
        };
        assert_ne!(run(&own, None), run(&plain, None), "its own where nothing is asked for");
        assert_eq!(run(&own, Some(3.0)), run(&plain, None), "3 is the package's default");
        assert_eq!(run(&own, Some(1.0)), run(&plain, Some(1.0)));
    }

    #[test]
    fn is_open_alone_where_none_is_kept() {
        let model = model_in(&util::package("tiny-clip"));
        let prompt = embeds(&model, "red");
        let mut kept = diffuser(&model, |_| ());
        let latents = clip(&mut kept, &prompt, 3).unwrap();
        assert_eq!(model.open_graphs(), 2);
        drop(kept);
        let mut closing = diffuser(&model, |o| o.keep_loaded = false);
        let mut open = Vec::new();
        let mut on_step = |_, _, _: &[f32]| open.push(model.open_graphs());
        let same =
            closing.chunk(prompt.positive(), prompt.negative(), 3, &Cancel::new(), &mut on_step).unwrap();
        assert_eq!(latents, same);
        assert_eq!(open, [1; 4], "one expert after the other");
        assert_eq!(model.open_graphs(), 0);
    }
}

mod an_image {
    use super::*;

    /// 64×48 pixels of one colour.
    fn picture(rgb: [u8; 3]) -> Vec<u8> {
        rgb.repeat(64 * 48)
    }

    #[test]
    fn is_what_the_clip_starts_with() {
        let model = guest();
        let prompt = embeds(&model, "red");
        let mut diffuser = diffuser(&model, |_| ());
        let without = clip(&mut diffuser, &prompt, 3).unwrap();
        diffuser.set_image(&picture([51, 127, 204]), 64 * 3).unwrap();
        let with = clip(&mut diffuser, &prompt, 3).unwrap();
        let logit = |byte: f32| (byte / (255.0 - byte)).ln();
        for (channel, expected) in [logit(51.0), logit(127.0), logit(204.0), 0.25].into_iter().enumerate() {
            let frames: Vec<&[f32]> = with[channel * 3 * 48..][..3 * 48].chunks(48).collect();
            assert!(
                frames[0].iter().all(|x| (x - expected).abs() < 1e-4),
                "channel {channel}: {:?}",
                frames[0]
            );
            assert_eq!(
                frames[1],
                &without[channel * 3 * 48 + 48..][..48],
                "later frames start from the same noise"
            );
        }
        diffuser.clear_image();
        assert_eq!(clip(&mut diffuser, &prompt, 3).unwrap(), without);
    }

    #[test]
    fn may_be_drawn_around_and_kept_at_every_step() {
        let folder = util::copy_of("tiny-guest");
        let graphs = "file = \"sampling_conditioner.onnx\"\nstep = \"conditioner_step.onnx\"\n";
        util::edit(&folder, "model.toml", "file = \"conditioner.onnx\"\n", graphs);
        util::edit(&folder, "model.toml", "grain = 0.25\n", "step_noise_scale = 0.5\n");
        let model = model_in(folder.path());
        let prompt = embeds(&model, "red");
        let mut diffuser = diffuser(&model, |options| options.seed = 7);
        let without = clip(&mut diffuser, &prompt, 3).unwrap();
        diffuser.set_image(&picture([51, 102, 153]), 64 * 3).unwrap();
        let with = clip(&mut diffuser, &prompt, 3).unwrap();

        // What the graphs declare first is drawn first, then what each step takes; 48 cells a frame.
        let mut generator = latentflow::noise::Generator::new(7);
        let (mut image_noise, mut fresh) = (vec![0.0; 4 * 48], vec![0.0; 48 * 4]);
        generator.randn(&mut image_noise);
        generator.latents([4, 3, 6, 8], latentflow::package::NoiseLayout::FramesFirst);
        let options = DiffuseOptions::new(&model);
        let timesteps = options.scheduler.schedule(options.num_inference_steps, 3 * 12).unwrap().timesteps;
        timesteps.iter().for_each(|_| generator.randn(&mut fresh));
        let level = timesteps.last().unwrap() / 1000.0 * 0.5;
        for cell in 0..48 {
            for channel in 0..4 {
                let expected = 0.4 + image_noise[channel * 48 + cell] + level * fresh[cell * 4 + channel];
                let found = with[channel * 3 * 48 + cell];
                assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
            }
        }
        assert!(with[48..3 * 48] != without[48..3 * 48], "later frames start from other noise");
    }

    #[test]
    fn is_closed_out_before_the_denoiser_opens_where_nothing_is_kept() {
        let model = guest();
        let prompt = embeds(&model, "red");
        let mut diffuser = diffuser(&model, |o| o.keep_loaded = false);
        diffuser.set_image(&picture([0, 0, 0]), 64 * 3).unwrap();
        diffuser.open(&Cancel::new()).unwrap();
        let mut open = Vec::new();
        let mut on_step = |_, _, _: &[f32]| open.push(model.open_graphs());
        diffuser.chunk(prompt.positive(), None, 3, &Cancel::new(), &mut on_step).unwrap();
        assert_eq!((open, model.open_graphs()), (vec![1; 2], 0));
    }

    #[test]
    fn that_is_needed_and_missing_is_an_error() {
        let (_folder, model) = changed("required = false", "required = true");
        let prompt = embeds(&model, "red");
        let mut diffuser = diffuser(&model, |_| ());
        let error = clip(&mut diffuser, &prompt, 3).unwrap_err().to_string();
        assert!(error.contains("`image`") && error.contains("d.image"), "{error}");
        diffuser.set_image(&picture([9, 9, 9]), 64 * 3).unwrap();
        clip(&mut diffuser, &prompt, 3).unwrap();
    }

    #[test]
    fn that_the_model_does_not_take_is_an_error_with_the_way_that_it_does() {
        for (name, words) in [("tiny-stream", "`vaeencode`"), ("tiny-clip", "no [conditioner]")] {
            let model = model_in(&util::package(name));
            let error = diffuser(&model, |_| ()).set_image(&picture([0; 3]), 64 * 3).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let model = guest();
        let error = diffuser(&model, |_| ()).set_image(&[0; 100], 64 * 3).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }) && error.to_string().contains("64×48"), "{error}");
    }
}

mod a_decoder {
    use super::*;

    fn latents(decoder: &Decoder, count: usize) -> Vec<f32> {
        (0..decoder.latent_shape(count).iter().product()).map(|i| (i as f32 * 0.37).sin() * 2.0).collect()
    }

    fn decode(model: &Arc<Model>, count: usize, tiling: Tiling, seed: u64) -> Vec<Vec<u8>> {
        let mut decoder = Decoder::new(model.clone(), 64, 48, tiling).unwrap();
        decoder.set_noise_position(Position { seed, drawn: 0 });
        rgb(&decoder.decode(&latents(&decoder, count), &Cancel::new()).unwrap())
    }

    #[test]
    fn of_pieces_gives_the_frames_of_the_whole() {
        let (_folder, whole) =
            changed("init = \"decoder_init.onnx\"\nstep = \"decoder_step.onnx\"\nfirst = 3\nchunk = 2\n", "");
        let pieces = guest();
        for count in [3, 5, 9] {
            let frames = decode(&pieces, count, Tiling::Off, 42);
            assert_eq!(frames.len(), 1 + (count - 1) * 4);
            assert!(frames == decode(&whole, count, Tiling::Off, 42), "{count} latent frames");
            let tiles = Tiling::Tiles { width: 32, height: 32, overlap: 16 };
            assert!(frames == decode(&pieces, count, tiles, 42), "in tiles");
            assert!(frames == decode(&whole, count, tiles, 42), "whole clips in tiles");
        }
        assert_eq!(decode(&pieces, 4, Tiling::Off, 42).len(), 13, "what the pair can't, the whole can");
    }

    #[test]
    fn gives_frames_as_they_come() {
        let mut decoder = Decoder::new(guest(), 64, 48, Tiling::Off).unwrap();
        let (latents, mut lengths) = (latents(&decoder, 7), Vec::new());
        decoder
            .decode_each(&latents, &Cancel::new(), &mut |_, _| (), |frames| {
                lengths.push(frames.len());
                Ok::<(), Error>(())
            })
            .unwrap();
        assert_eq!(lengths, [9, 8, 8]);
    }

    #[test]
    fn is_fed_what_it_takes_or_says_what_that_is() {
        let (_folder, model) = changed("file = \"decoder.onnx\"\n", "");
        let mut decoder = Decoder::new(model, 64, 48, Tiling::Off).unwrap();
        let error = decoder.decode(&latents(&decoder, 4), &Cancel::new()).unwrap_err().to_string();
        assert!(
            error.contains("4 latent frames") && error.contains("3 latent frames and a multiple of 2"),
            "{error}"
        );
        assert_eq!(decoder.decode(&latents(&decoder, 5), &Cancel::new()).unwrap().len(), 17);
    }

    #[test]
    fn adds_the_noise_that_the_generator_gives_after_that_of_the_latents() {
        let model = guest();
        assert!(decode(&model, 3, Tiling::Off, 1) == decode(&model, 3, Tiling::Off, 1));
        assert!(decode(&model, 3, Tiling::Off, 1) != decode(&model, 3, Tiling::Off, 2));
        // As if the noise, drawn frame by frame, were part of the latents of a decoder that adds none.
        let (_folder, quiet) = changed("decode_noise_scale = 0.1", "decode_noise_scale = 0.0");
        let mut decoder = Decoder::new(quiet, 64, 48, Tiling::Off).unwrap();
        let shape = decoder.latent_shape(3);
        let mut generator = latentflow::noise::Generator::new(7);
        let layout = latentflow::package::NoiseLayout::FramesFirst;
        generator.latents(shape, layout);
        let position = generator.position();
        let noise = generator.latents(shape, layout);
        let noisy: Vec<f32> = latents(&decoder, 3).iter().zip(noise).map(|(x, n)| x + 0.1 * n).collect();
        let expected = rgb(&decoder.decode(&noisy, &Cancel::new()).unwrap());
        let mut decoder = Decoder::new(model, 64, 48, Tiling::Off).unwrap();
        decoder.set_noise_position(position);
        let found = rgb(&decoder.decode(&latents(&decoder, 3), &Cancel::new()).unwrap());
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 1));
        }
    }

    #[test]
    fn of_a_pair_has_one_open_where_they_are_not_kept() {
        let model = guest();
        let open = |keep_loaded| {
            let decoder = Decoder::new(model.clone(), 64, 48, Tiling::Off).unwrap();
            let mut decoder = decoder.keep_loaded(keep_loaded);
            let (latents, mut open) = (latents(&decoder, 5), Vec::new());
            decoder.open(&Cancel::new()).unwrap();
            let each = |_| {
                open.push(model.open_graphs());
                Ok::<(), Error>(())
            };
            decoder.decode_each(&latents, &Cancel::new(), &mut |_, _| (), each).unwrap();
            open
        };
        assert_eq!((open(true), open(false)), (vec![2, 2], vec![1, 1]));
    }
}

#[test]
fn opening_a_graph_can_be_cancelled() {
    let (model, cancel) = (guest(), Cancel::new());
    let mut diffuser = diffuser(&model, |_| ());
    cancel.cancel();
    assert!(matches!(diffuser.open(&cancel), Err(Error::Cancelled)));
    assert_eq!(model.open_graphs(), 0);
    cancel.reset();
    diffuser.open(&cancel).unwrap();
    assert_eq!(model.open_graphs(), 1);
}

#[test]
fn a_clip_has_one_frame_and_a_multiple_of_the_step() {
    let model = guest();
    let manifest: &Manifest = model.manifest();
    for (asked, made) in [(1, 9), (9, 9), (10, 17), (17, 17), (41, 41)] {
        assert_eq!(manifest.clip_frames(asked).unwrap(), made, "{asked} frames");
    }
    let error = manifest.clip_frames(42).unwrap_err().to_string();
    assert!(
        error.contains("`duration`") && error.contains("42 frames") && error.contains("at most 41"),
        "{error}"
    );
}

#[test]
fn rust_names_no_family() {
    let families = [
        "wan2",
        "wan_",
        "wanx",
        "ltx",
        "hunyuan",
        "mochi",
        "pixart",
        "sana_",
        "animatediff",
        "sdxl",
        "turbo",
        "stable_diffusion",
        "stable-diffusion",
        "umt5",
        "llama",
    ];
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()];
    folders = ["src", "plugins/src"].map(|folder| folders[0].join(folder)).to_vec();
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            read += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            // Comments may say whom a formula or a habit is of; code may not ask.
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code.map(str::to_lowercase) {
                let named = families.iter().find(|family| line.contains(**family));
                assert!(named.is_none(), "{}: {line}", path.display());
            }
        }
    }
    assert!(read > 40, "{read} files");
}
