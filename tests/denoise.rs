//! The denoising loop on the tests' packages: what decides a chunk, and what it refuses.

mod util;

use std::sync::Arc;

use latentflow::{
    Cancel, DiffuseOptions, Diffuser, Error, Model, Package, PromptEmbeds, RuntimeOptions, TextEncoder,
};
use util::model;

fn embeds(model: &Arc<Model>, prompt: &str) -> PromptEmbeds {
    TextEncoder::new(model.clone()).unwrap().encode(prompt, Some(""), &Cancel::new()).unwrap()
}

fn diffuser(model: &Arc<Model>, change: impl FnOnce(&mut DiffuseOptions)) -> Diffuser {
    let mut options = DiffuseOptions::new(model);
    change(&mut options);
    Diffuser::new(model.clone(), options).unwrap()
}

fn chunk(diffuser: &mut Diffuser, prompt: &PromptEmbeds, frames: usize) -> Vec<f32> {
    diffuser.chunk(prompt.positive(), prompt.negative(), frames, &Cancel::new(), &mut |_, _, _| ()).unwrap()
}

fn channel_mean(latents: &[f32], channel: usize) -> f32 {
    let channel = latents.chunks_exact(latents.len() / 4).nth(channel).unwrap();
    channel.iter().sum::<f32>() / channel.len() as f32
}

mod guidance {
    //! Here belongs what guides, and steps that need no pass.

    use super::*;

    fn made(change: impl FnOnce(&mut DiffuseOptions)) -> (Vec<f32>, usize) {
        let model = model("tiny-clip");
        let mut diffuser = diffuser(&model, |options| {
            (options.num_inference_steps, options.guidance_scale) = (12, Some(4.0));
            change(options);
        });
        let latents = chunk(&mut diffuser, &embeds(&model, "red"), 2);
        (latents, diffuser.skipped_steps())
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn takes_its_contrast_back_and_its_own_length() {
        let (plain, skipped) = made(|_| ());
        assert_eq!(skipped, 0);
        let (rescaled, _) = made(|options| options.guidance_rescale = 0.7);
        let (star, skipped) =
            made(|options| (options.cfg_zero_star, options.cfg_zero_init_steps) = (true, 0));
        assert_eq!(skipped, 0);
        assert!(distance(&plain, &rescaled) > 1e-3 && distance(&plain, &star) > 1e-3);
        assert!(rescaled.iter().chain(&star).all(|x| x.is_finite()));
        let (_, skipped) = made(|options| (options.cfg_zero_star, options.cfg_zero_init_steps) = (true, 2));
        assert_eq!(skipped, 2, "steps that stand still need no pass");
        let (noise, skipped) =
            made(|options| (options.cfg_zero_star, options.cfg_zero_init_steps) = (true, 99));
        assert_eq!(skipped, 12);
        assert_eq!(noise, latentflow::noise::randn(&[noise.len()], 42).into_raw_vec_and_offset().0);
    }

    #[test]
    fn step_caching_leaves_out_passes_and_stays_near() {
        let (plain, _) = made(|_| ());
        let (cached, skipped) = made(|options| options.cache_threshold = 0.1);
        assert!((1..=7).contains(&skipped), "{skipped}");
        assert!(distance(&plain, &cached) < 0.2, "{}", distance(&plain, &cached));
        let (_, most) = made(|options| options.cache_threshold = 1e9);
        assert_eq!(most, 12 - 2 * 2 - 1, "two passes of each denoiser and the last one are always run");
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_its_name() {
        let model = model("tiny-clip");
        for (name, change) in [
            ("guidance-rescale", (|o| o.guidance_rescale = 1.5) as fn(&mut DiffuseOptions)),
            ("guidance-rescale", |o| o.guidance_rescale = f32::NAN),
            ("cache-threshold", |o| o.cache_threshold = -0.1),
            ("cache-threshold", |o| o.cache_threshold = f32::NAN),
        ] {
            let mut options = DiffuseOptions::new(&model);
            change(&mut options);
            let error = Diffuser::new(model.clone(), options).err().expect("refused").to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

mod a_chunk {
    use super::*;

    /// A model whose table has one more line, and the package's folder.
    fn model_that_says(table: &str, line: &str) -> (tempfile::TempDir, Arc<Model>) {
        edited(table, &format!("{table}\n{line}"))
    }

    /// A model in whose manifest `from` is `to`, and the package's folder.
    fn edited(from: &str, to: &str) -> (tempfile::TempDir, Arc<Model>) {
        let copy = util::copy_of("tiny-stream");
        util::edit(&copy, "model.toml", from, to);
        let package = Package::open(copy.path()).expect("a valid package");
        (copy, Arc::new(Model::new(Arc::new(package), RuntimeOptions::default())))
    }

    #[test]
    fn says_what_the_prompt_says_in_both_languages() {
        let model = model("tiny-stream");
        let mut diffuser = diffuser(&model, |_| ());
        for (prompt, channel) in [("red", 0), ("绿色", 1), ("a blue bird", 2)] {
            diffuser.start_scene();
            let latents = chunk(&mut diffuser, &embeds(&model, prompt), 2);
            let others = (0..3).filter(|c| *c != channel).map(|c| channel_mean(&latents, c));
            assert!(others.fold(f32::MIN, f32::max) < channel_mean(&latents, channel), "{prompt}");
        }
    }

    #[test]
    fn has_the_shape_of_the_size_rounded_up() {
        let model = model("tiny-stream");
        let diffuser = diffuser(&model, |o| (o.width, o.height) = (50, 33));
        assert_eq!(diffuser.latent_shape(2), [4, 2, 6, 8]);
    }

    #[test]
    fn follows_from_a_scene_s_first_frames_where_the_package_wants_these_first() {
        let (_folder, wants) = model_that_says("[stream]", "first = 1");
        let plain = model("tiny-stream");
        let red = embeds(&plain, "red");
        let (mut made, mut by_hand) = (diffuser(&wants, |_| ()), diffuser(&plain, |_| ()));
        let mut steps = Vec::new();
        let mut on_step = |step, of, sample: &[f32]| steps.push((step, of, sample.len()));
        let whole = made.chunk(red.positive(), red.negative(), 2, &Cancel::new(), &mut on_step).unwrap();
        let (head, tail) = (chunk(&mut by_hand, &red, 1), chunk(&mut by_hand, &red, 1));
        for channel in 0..4 {
            let of = |latents: &[f32]| latents.chunks_exact(latents.len() / 4).nth(channel).unwrap().to_vec();
            assert_eq!(of(&whole), [of(&head), of(&tail)].concat());
        }
        let all = steps.len();
        let told = (1..=all).map(|step| (step, all, head.len())).collect::<Vec<_>>();
        assert_eq!(steps, told, "progress goes through both");
        assert_eq!(chunk(&mut made, &red, 2), chunk(&mut by_hand, &red, 2), "later chunks are made at once");
    }

    #[test]
    fn is_seen_through_noise_by_later_ones_where_the_package_wants_that() {
        let (_folder, wants) = model_that_says("[stream]", "context_noise = 0.25");
        let run = |model: &Arc<Model>| {
            let (mut diffuser, red) = (diffuser(model, |_| ()), embeds(model, "red"));
            [0; 3].map(|_| chunk(&mut diffuser, &red, 2))
        };
        let (noisy, clean) = (run(&wants), run(&model("tiny-stream")));
        assert_eq!(noisy[..2], clean[..2], "the scene's beginning, its sink, is seen as it is");
        assert_ne!(noisy[2], clean[2], "the chunk after that through noise");
        assert_eq!(noisy, run(&wants), "the same again");
    }

    /// Its denoiser adds the mean of the noise that its chunk began with, found out in the first pass, to where denoising ends and to the
    /// values that later chunks look back at.
    #[test]
    fn is_made_with_what_its_first_pass_found_out() {
        let (_folder, drafting) = edited("\"denoiser.onnx\"", "\"drafting_denoiser.onnx\"");
        let run = |model: &Arc<Model>, change: fn(&mut DiffuseOptions)| {
            let (mut diffuser, red) = (diffuser(model, change), embeds(model, "red"));
            [0; 2].map(|_| {
                let latents = chunk(&mut diffuser, &red, 2);
                [0, 1, 2, 3].map(|channel| channel_mean(&latents, channel))
            })
        };
        let noise = run(&model("tiny-stream"), |o| (o.cfg_zero_star, o.cfg_zero_init_steps) = (true, 99));
        let (plain, drafted) = (run(&model("tiny-stream"), |_| ()), run(&drafting, |_| ()));
        for channel in 0..4 {
            let [first, second] = noise.map(|chunk| chunk[channel]);
            let more = |chunk: usize| drafted[chunk][channel] - plain[chunk][channel];
            // Two steps, to σ 0.001 and to 0, each to a target that has a tenth of the sample.
            let of_first = 1.0999 * first;
            assert!((more(0) - of_first).abs() < 1e-3, "{} and {of_first}", more(0));
            // A tenth of what the chunk before left: its values, and half of its keys, which have no draft.
            let of_second = 1.0999 * (second + 0.1 * (1.5 * of_first + first));
            assert!((more(1) - of_second).abs() < 1e-3, "{} and {of_second}", more(1));
        }
        let guided = |o: &mut DiffuseOptions| o.guidance_scale = Some(1.5);
        let distance = run(&drafting, guided)[1][0] - run(&drafting, |_| ())[1][0];
        assert!(distance > 0.1, "the pass without the prompt has its own: {distance}");
    }

    #[test]
    fn begins_with_noise_as_loud_as_the_package_says() {
        let (_folder, quiet) = model_that_says("[scheduler]", "init_noise_sigma = 0.5");
        let noise = |model: &Arc<Model>| {
            let still = |o: &mut DiffuseOptions| (o.cfg_zero_star, o.cfg_zero_init_steps) = (true, 99);
            chunk(&mut diffuser(model, still), &embeds(model, "red"), 2)
        };
        let half: Vec<f32> = noise(&model("tiny-stream")).iter().map(|x| 0.5 * x).collect();
        assert_eq!(noise(&quiet), half);
    }

    #[test]
    fn follows_with_noise_as_loud_as_the_package_says() {
        let (_folder, quiet) = model_that_says("[stream]", "init_noise_sigma = 0.5");
        let noise = |model: &Arc<Model>| {
            let still = |o: &mut DiffuseOptions| (o.cfg_zero_star, o.cfg_zero_init_steps) = (true, 99);
            let (mut diffuser, red) = (diffuser(model, still), embeds(model, "red"));
            [0; 3].map(|_| chunk(&mut diffuser, &red, 2))
        };
        let [begins, follows, last] = noise(&model("tiny-stream"));
        let half = |chunk: Vec<f32>| chunk.iter().map(|x| 0.5 * x).collect::<Vec<_>>();
        assert_eq!(
            noise(&quiet),
            [begins, half(follows), half(last)],
            "what a scene begins with is as loud as ever"
        );
    }

    #[test]
    fn begins_in_more_steps_where_the_package_says() {
        let (_folder, fine) = model_that_says("[stream]", "first = 1\nfirst_num_inference_steps = 5");
        let steps_of = |steps: usize| {
            let (mut diffuser, red) =
                (diffuser(&fine, |o| o.num_inference_steps = steps), embeds(&fine, "red"));
            [0; 2].map(|_| {
                let mut told = Vec::new();
                let mut on_step = |step, of, _: &[f32]| told.push((step, of));
                diffuser.chunk(red.positive(), red.negative(), 2, &Cancel::new(), &mut on_step).unwrap();
                told
            })
        };
        let counted = |all: usize| (1..=all).map(|step| (step, all)).collect::<Vec<_>>();
        assert_eq!(steps_of(2), [counted(5 + 2), counted(2)], "its first frame in five, all else in two");
        assert_eq!(steps_of(8), [counted(8 + 8), counted(8)], "never in fewer than are asked for");
    }

    #[test]
    fn is_decided_by_seed_prompt_and_the_chunks_before() {
        let model = model("tiny-stream");
        let (red, dog) = (embeds(&model, "red"), embeds(&model, "dog"));
        let run = |seed, prompts: &[&PromptEmbeds]| -> Vec<Vec<f32>> {
            let mut diffuser = diffuser(&model, |o| o.seed = seed);
            prompts.iter().map(|prompt| chunk(&mut diffuser, prompt, 2)).collect()
        };
        let first = run(7, &[&red, &red, &red]);
        assert_eq!(first, run(7, &[&red, &red, &red]), "the same again");
        assert_ne!(first[0], run(8, &[&red])[0], "another seed");
        assert_ne!(first[0], run(7, &[&dog])[0], "another prompt");
        assert_ne!(first[0], first[1], "another index, another noise");
        assert_ne!(first[1], run(7, &[&dog, &red])[1], "another past");
    }

    #[test]
    fn of_a_new_scene_knows_nothing_of_the_last_one() {
        let model = model("tiny-stream");
        let (red, dog) = (embeds(&model, "red"), embeds(&model, "dog"));
        let mut diffuser = diffuser(&model, |_| ());
        let fresh = chunk(&mut diffuser, &red, 2);
        chunk(&mut diffuser, &dog, 2);
        diffuser.start_scene();
        assert_eq!(chunk(&mut diffuser, &red, 2), fresh);
    }

    #[test]
    fn goes_on_past_the_window() {
        let model = model("tiny-stream");
        let mut diffuser = diffuser(&model, |_| ());
        let red = embeds(&model, "red");
        for _ in 0..8 {
            assert!(chunk(&mut diffuser, &red, 2).iter().all(|x| x.is_finite()));
        }
        assert!(chunk(&mut diffuser, &red, 5).iter().all(|x| x.is_finite()), "longer than the window");
    }

    #[test]
    fn leans_away_from_the_negative_prompt_under_guidance() {
        let model = model("tiny-clip");
        let red = embeds(&model, "red");
        let strength = |scale| {
            let mut diffuser = diffuser(&model, |o| o.guidance_scale = Some(scale));
            channel_mean(&chunk(&mut diffuser, &red, 3), 0)
        };
        assert!(strength(3.0) > strength(1.5));
        assert!(strength(1.5) > strength(1.0));
    }

    #[test]
    fn tells_of_every_step() {
        let model = model("tiny-clip");
        let mut diffuser = diffuser(&model, |o| o.num_inference_steps = 3);
        let (red, mut told) = (embeds(&model, "red"), Vec::new());
        diffuser
            .chunk(red.positive(), red.negative(), 3, &Cancel::new(), &mut |step, of, _| {
                told.push((step, of))
            })
            .unwrap();
        assert_eq!(told, [(1, 3), (2, 3), (3, 3)]);
    }
}

mod a_chunk_of_a_video {
    use super::*;

    fn restyled(strength: f64) -> (Vec<f32>, Vec<f32>) {
        let model = model("tiny-stream");
        let blue = chunk(&mut diffuser(&model, |_| ()), &embeds(&model, "blue"), 2);
        let red = embeds(&model, "red");
        let mut diffuser = diffuser(&model, |o| o.num_inference_steps = 4);
        let out = diffuser
            .chunk_of_video(&blue, strength, red.positive(), None, &Cancel::new(), &mut |_, _, _| ())
            .unwrap();
        (blue, out)
    }

    #[test]
    fn is_the_video_itself_without_strength() {
        let (blue, out) = restyled(0.0);
        assert_eq!(blue, out);
    }

    #[test]
    fn is_what_the_prompt_says_with_all_of_it() {
        let (_, out) = restyled(1.0);
        assert!(channel_mean(&out, 0) > channel_mean(&out, 2), "red, not blue");
    }

    #[test]
    fn does_its_share_of_the_steps() {
        let model = model("tiny-stream");
        let red = embeds(&model, "red");
        let mut diffuser = diffuser(&model, |o| o.num_inference_steps = 4);
        let (mut told, video) = (Vec::new(), vec![0.5; 4 * 2 * 6 * 8]);
        let mut on_step = |step, of, _: &[f32]| told.push((step, of));
        diffuser.chunk_of_video(&video, 0.5, red.positive(), None, &Cancel::new(), &mut on_step).unwrap();
        assert_eq!(told, [(1, 2), (2, 2)]);
    }

    #[test]
    fn does_not_stand_still_with_the_noise_that_it_was_given() {
        let model = model("tiny-stream");
        let red = embeds(&model, "red");
        let mut diffuser = diffuser(&model, |o| (o.num_inference_steps, o.cfg_zero_star) = (4, true));
        let video = vec![0.5; 4 * 2 * 6 * 8];
        diffuser
            .chunk_of_video(&video, 0.5, red.positive(), None, &Cancel::new(), &mut |_, _, _| ())
            .unwrap();
        assert_eq!(diffuser.skipped_steps(), 0);
    }

    #[test]
    fn of_two_goes_tells_the_steps_that_neither_took() {
        let copy = util::copy_of("tiny-stream");
        util::edit(&copy, "model.toml", "chunk = 2", "chunk = 2\nfirst = 1");
        let package = Package::open(copy.path()).unwrap();
        let model = Arc::new(Model::new(Arc::new(package), RuntimeOptions::default()));
        let still = |o: &mut DiffuseOptions| {
            (o.num_inference_steps, o.cfg_zero_star, o.cfg_zero_init_steps) = (8, true, 3);
        };
        let mut diffuser = diffuser(&model, still);
        chunk(&mut diffuser, &embeds(&model, "red"), 2);
        assert_eq!(diffuser.skipped_steps(), 6, "a scene's first frame, then the rest of its chunk");
        chunk(&mut diffuser, &embeds(&model, "red"), 2);
        assert_eq!(diffuser.skipped_steps(), 3);
    }

    #[test]
    fn is_what_the_next_chunk_goes_on_from() {
        let model = model("tiny-stream");
        let (red, video) = (embeds(&model, "red"), vec![0.5; 4 * 2 * 6 * 8]);
        let next = |value: f32| {
            let mut diffuser = diffuser(&model, |_| ());
            let video: Vec<f32> = video.iter().map(|x| x * value).collect();
            diffuser
                .chunk_of_video(&video, 0.0, red.positive(), None, &Cancel::new(), &mut |_, _, _| ())
                .unwrap();
            chunk(&mut diffuser, &red, 2)
        };
        assert_ne!(next(1.0), next(-1.0));
    }

    #[test]
    fn of_another_shape_or_strength_is_refused() {
        let model = model("tiny-stream");
        let red = embeds(&model, "red");
        let mut diffuser = diffuser(&model, |_| ());
        let mut refusal = |video: &[f32], strength| {
            let result = diffuser.chunk_of_video(
                video,
                strength,
                red.positive(),
                None,
                &Cancel::new(),
                &mut |_, _, _| (),
            );
            result.unwrap_err().to_string()
        };
        assert!(refusal(&[0.0; 100], 0.5).contains("multiple of 192"));
        assert!(refusal(&[], 0.5).contains("multiple of 192"));
        assert!(refusal(&[0.0; 192], 1.5).contains("`strength`"));
    }
}

mod refused {
    use super::*;

    fn refusal(name: &str, change: impl FnOnce(&mut DiffuseOptions)) -> String {
        let model = model(name);
        let mut options = DiffuseOptions::new(&model);
        change(&mut options);
        Diffuser::new(model, options).err().expect("an error").to_string()
    }

    #[test]
    fn are_sizes_that_the_model_cannot_do() {
        let error = refusal("tiny-stream", |o| o.width = 1024);
        assert!(
            error.contains("`width`") && error.contains("1024") && error.contains("16 to 512"),
            "{error}"
        );
        let error = refusal("tiny-stream", |o| o.height = 8);
        assert!(error.contains("`height`"), "{error}");
    }

    #[test]
    fn are_no_steps_and_guidance_that_is_no_number() {
        assert!(refusal("tiny-stream", |o| o.num_inference_steps = 0).contains("num-inference-steps"));
        assert!(refusal("tiny-stream", |o| o.guidance_scale = Some(f32::NAN)).contains("guidance-scale"));
    }

    #[test]
    fn is_guidance_without_a_negative_prompt() {
        let model = model("tiny-clip");
        let prompt = TextEncoder::new(model.clone()).unwrap().encode("red", None, &Cancel::new()).unwrap();
        let mut diffuser = diffuser(&model, |_| ());
        let error =
            diffuser.chunk(prompt.positive(), prompt.negative(), 3, &Cancel::new(), &mut |_, _, _| ());
        assert!(error.unwrap_err().to_string().contains("negative prompt"));
    }

    #[test]
    fn is_a_second_chunk_of_a_clip() {
        let model = model("tiny-clip");
        let red = embeds(&model, "red");
        let mut diffuser = diffuser(&model, |_| ());
        chunk(&mut diffuser, &red, 3);
        let error = diffuser.chunk(red.positive(), red.negative(), 3, &Cancel::new(), &mut |_, _, _| ());
        assert!(error.unwrap_err().to_string().contains("one clip"));
    }

    #[test]
    fn is_everything_once_it_is_cancelled() {
        let model = model("tiny-stream");
        let red = embeds(&model, "red");
        let cancel = Cancel::new();
        let mut diffuser = diffuser(&model, |o| o.num_inference_steps = 50);
        let mut steps = 0;
        let result = diffuser.chunk(red.positive(), None, 2, &cancel, &mut |_, _, _| {
            steps += 1;
            cancel.cancel();
        });
        assert!(matches!(result, Err(Error::Cancelled)) && steps == 1);
        cancel.reset();
        diffuser.start_scene();
        assert_eq!(
            diffuser.chunk(red.positive(), None, 2, &cancel, &mut |_, _, _| ()).unwrap().len(),
            4 * 2 * 6 * 8
        );
    }
}
