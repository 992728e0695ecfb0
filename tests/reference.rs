//! The library's numbers against those of PyTorch and diffusers, which `data/reference.py` made, and what has to hold
//! for any numbers.
//!
//! ```text
//! cargo test --test reference
//! cargo test --test reference -- --nocapture samplers    # prints the worst error of each sampler
//! ```

use std::path::Path;

use serde::de::DeserializeOwned;

/// The cases of `data/reference/{name}.json`.
fn cases<T: DeserializeOwned>(name: &str) -> Vec<T> {
    #[derive(serde::Deserialize)]
    struct File<T> {
        cases: Vec<T>,
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/reference/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file: File<T> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(!file.cases.is_empty(), "{} has no cases", path.display());
    file.cases
}

/// The greatest difference, in units of the greatest expected number.
#[track_caller]
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, |most, x| {
        assert!(!x.is_nan());
        f64::max(most, x)
    });
    worst / f64::from(scale)
}

mod noise {
    //! Here belongs what a seed gives: PyTorch's numbers, draw by draw.

    use latentflow::noise::{Generator, chunk_seed, randn};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        seed: u64,
        draws: Vec<Draw>,
    }

    #[derive(Deserialize)]
    struct Draw {
        n: usize,
        head: Vec<f32>,
        tail: Vec<f32>,
    }

    #[test]
    fn draws_are_those_of_torch_whatever_their_length_seed_and_order() {
        for case in super::cases::<Case>("noise") {
            let mut generator = Generator::new(case.seed);
            let plan: Vec<usize> = case.draws.iter().map(|draw| draw.n).collect();
            for draw in case.draws {
                let mut found = vec![0.0; draw.n];
                generator.randn(&mut found);
                let head = &found[..draw.head.len()];
                let tail = &found[found.len() - draw.tail.len()..];
                for (found, expected) in head.iter().zip(&draw.head).chain(tail.iter().zip(&draw.tail)) {
                    assert!(
                        (found - expected).abs() < 1e-6,
                        "seed {} draws {plan:?}, draw of {}: {found} instead of {expected}",
                        case.seed,
                        draw.n
                    );
                }
            }
        }
    }

    #[test]
    fn only_the_lower_half_of_a_seed_counts() {
        assert_eq!(randn(&[40], 7), randn(&[40], 7 + (1 << 32)));
        assert_ne!(randn(&[40], 7), randn(&[40], 8));
    }

    #[test]
    fn a_chunk_has_its_noise_whenever_it_is_made() {
        let chunks = |indices: [u64; 3]| indices.map(|index| randn(&[2, 3, 4], chunk_seed(99, index)));
        let [a, b, c] = chunks([0, 1, 2]);
        let [c2, a2, b2] = chunks([2, 0, 1]);
        assert_eq!((&a, &b, &c), (&a2, &b2, &c2));
        assert_eq!(a, randn(&[2, 3, 4], 99), "the first chunk is the clip of that seed");
        assert!(a != b && b != c && a != c);
    }
}

mod patches {
    //! Here belongs the order of tokens and of the numbers in them.

    use latentflow::{Error, patches};
    use ndarray::{Array2, Array4};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        shape: [usize; 4],
        patch_size: usize,
        patch_size_t: usize,
        tokens: Vec<Vec<f32>>,
    }

    fn counted(shape: [usize; 4]) -> Array4<f32> {
        let n = shape.iter().product::<usize>();
        Array4::from_shape_vec(shape, (0..n).map(|i| i as f32).collect()).unwrap()
    }

    #[test]
    fn tokens_are_in_the_order_of_diffusers_and_back() {
        for Case { shape, patch_size, patch_size_t, tokens } in super::cases("patches") {
            let latents = counted(shape);
            let found = patches::pack(latents.view(), patch_size, patch_size_t).unwrap();
            assert_eq!(found.rows().into_iter().map(|token| token.to_vec()).collect::<Vec<_>>(), tokens);
            assert_eq!(found.nrows(), patches::seq_len(shape, patch_size, patch_size_t).unwrap());
            assert_eq!(patches::unpack(found.view(), shape, patch_size, patch_size_t).unwrap(), latents);
        }
    }

    #[test]
    fn latents_in_any_memory_order_make_the_same_tokens() {
        let latents = counted([2, 2, 4, 6]);
        let mut frames_first = Array4::zeros([2, 2, 4, 6]);
        frames_first.swap_axes(0, 1);
        frames_first.assign(&latents.view().permuted_axes([1, 0, 2, 3]));
        frames_first.swap_axes(0, 1);
        assert_eq!(
            patches::pack(frames_first.view(), 2, 1).unwrap(),
            patches::pack(latents.view(), 2, 1).unwrap()
        );
    }

    #[test]
    fn shapes_that_do_not_divide_are_refused_with_the_reason() {
        let latents = counted([3, 2, 5, 6]);
        for (patch_size, patch_size_t) in [(2, 1), (1, 3), (0, 1), (1, 0)] {
            let error = patches::pack(latents.view(), patch_size, patch_size_t).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }));
            assert!(error.to_string().contains("[3, 2, 5, 6]"), "{error}");
            assert!(
                patches::unpack(Array2::zeros([1, 1]).view(), [3, 2, 5, 6], patch_size, patch_size_t)
                    .is_err()
            );
        }
        let error = patches::unpack(Array2::zeros([4, 12]).view(), [3, 2, 4, 4], 2, 1).unwrap_err();
        assert!(error.to_string().contains("[4, 12]") && error.to_string().contains("[8, 12]"), "{error}");
    }
}

mod samplers {
    //! Here belong schedules and whole loops as diffusers computes them, on a stand-in for a model.

    use std::collections::BTreeMap;

    use latentflow::noise::Generator;
    use latentflow::sampler::Sampler;
    use latentflow::schedule::SchedulerConfig;
    use serde::Deserialize;

    use super::relative_error;

    #[derive(Deserialize)]
    struct Case {
        config: SchedulerConfig,
        seq_len: usize,
        runs: BTreeMap<usize, Run>,
    }

    #[derive(Deserialize)]
    struct Run {
        timesteps: Vec<f32>,
        /// DDIM and the schedulers like it have none in diffusers.
        sigmas: Option<Vec<f32>>,
        init_noise_sigma: f32,
        /// `CLEAN` with the noise of the middle step; diffusers can't with inverted noise levels.
        noisy: Option<Vec<f32>>,
        /// The sample after each step, or only after the last one.
        r#loop: Vec<Vec<f32>>,
        /// The same from the middle step on.
        late_loop: Option<Vec<Vec<f32>>>,
    }

    const FIRST: [f32; 8] = [0.3, -1.2, 0.8, 2.1, -0.4, 0.05, -1.9, 1.1];
    const CLEAN: [f32; 8] = [-0.7, 0.2, 1.4, -1.1, 0.9, -0.3, 0.6, -2.0];

    /// The stand-in: mixes neighbours and bends, so that no mistake cancels.
    fn model(sample: &[f32], t: f32) -> Vec<f32> {
        let neighbours = sample.iter().cycle().skip(1);
        sample
            .iter()
            .zip(neighbours)
            .map(|(x, next)| (x * 0.5 + next / (1.0 + next.abs())) * ((t + 1.0) / (t + 2.0)))
            .collect()
    }

    /// Runs `sampler` from step `begin` on, with the noise of seed 7, and returns the sample after each step.
    fn run(sampler: &mut Sampler, begin: usize) -> Vec<Vec<f32>> {
        let mut generator = Generator::new(7);
        let mut sample = FIRST.map(|x| x * sampler.schedule().init_noise_sigma);
        (begin..sampler.schedule().len())
            .map(|index| {
                let scale = sampler.scale_model_input(index);
                let output = model(&sample.map(|x| x * scale), sampler.schedule().timesteps[index]);
                sampler.step(index, &mut sample, &output, |noise| generator.randn(noise));
                sample.to_vec()
            })
            .collect()
    }

    /// Holds all cases of a file against diffusers and prints the worst errors.
    ///
    /// Timesteps have to agree but for the logarithms in those of Karras' levels, noise levels within `sigma_tolerance` of each, samples
    /// within `tolerance` of their greatest number.
    fn check(name: &str, sigma_tolerance: f64, tolerance: f64) {
        let mut worst = [0.0f64; 2];
        for Case { config, seq_len, runs } in super::cases(name) {
            for (steps, expected) in runs {
                let context = format!("{steps} steps of {config:?}");
                let schedule = config.schedule(steps, seq_len).unwrap_or_else(|e| panic!("{e}: {context}"));

                assert_eq!(schedule.len(), expected.timesteps.len());
                for (found, expected) in schedule.timesteps.iter().zip(&expected.timesteps) {
                    let close = (found - expected).abs() <= 1e-6 * expected.abs();
                    assert!(close, "timestep {found} instead of {expected}: {context}");
                }
                for (found, expected) in schedule.sigmas.iter().zip(expected.sigmas.iter().flatten()) {
                    let error = f64::from((found - expected).abs() / expected.max(f32::MIN_POSITIVE));
                    assert!(error <= sigma_tolerance, "sigma {found} instead of {expected}: {context}");
                    worst[0] = worst[0].max(error);
                }
                let scale = [schedule.init_noise_sigma];
                assert!(relative_error(&scale, &[expected.init_noise_sigma]) < 1e-6, "{context}");

                let mut noisy = CLEAN;
                schedule.add_noise(&mut noisy, &FIRST, steps / 2);
                if let Some(expected) = &expected.noisy {
                    assert!(relative_error(&noisy, expected) < 1e-6, "{noisy:?}, {expected:?}: {context}");
                }

                let mut sampler = Sampler::new(schedule);
                let late = expected.late_loop.iter().map(|samples| (steps / 2, samples));
                for (begin, expected) in [(0, &expected.r#loop)].into_iter().chain(late) {
                    sampler.reset();
                    let found = run(&mut sampler, begin);
                    let recorded = found.len() - expected.len();
                    for (index, (found, expected)) in found[recorded..].iter().zip(expected).enumerate() {
                        let error = relative_error(found, expected);
                        let step = begin + recorded + index;
                        assert!(
                            error <= tolerance,
                            "{error:e} at step {step}: {found:?}, {expected:?}: {context}"
                        );
                        worst[1] = worst[1].max(error);
                    }
                }
            }
        }
        println!("{name}: worst relative error of sigmas {:.1e}, of samples {:.1e}", worst[0], worst[1]);
    }

    #[test]
    fn flow_matching_euler_is_that_of_diffusers() {
        check("flow_euler", 2e-7, 1e-6);
    }

    #[test]
    fn unipc_is_that_of_diffusers() {
        check("unipc", 2e-7, 2e-6);
    }

    #[test]
    fn unipc_with_betas_is_that_of_diffusers() {
        check("unipc_betas", 1e-6, 1e-5);
    }

    #[test]
    fn dpm_solver_with_flow_sigmas_is_that_of_diffusers() {
        check("dpm_flow", 2e-7, 1e-5);
    }

    #[test]
    fn dpm_solver_with_betas_is_that_of_diffusers() {
        check("dpm_betas", 1e-6, 1e-5);
    }

    #[test]
    fn cogvideox_dpm_is_that_of_diffusers() {
        check("cogvideox_dpm", 2e-7, 1e-5);
    }

    #[test]
    fn euler_ancestral_is_that_of_diffusers() {
        check("euler_ancestral", 1e-6, 1e-5);
    }

    #[test]
    fn lcm_is_that_of_diffusers() {
        check("lcm", 2e-7, 1e-5);
    }

    #[test]
    fn tcd_is_that_of_diffusers() {
        check("tcd", 2e-7, 1e-5);
    }

    #[test]
    fn ddim_is_that_of_diffusers() {
        check("ddim", 2e-7, 1e-5);
    }

    #[test]
    fn pndm_is_that_of_diffusers() {
        check("pndm", 2e-7, 1e-5);
    }

    #[test]
    fn cogvideox_ddim_is_that_of_diffusers() {
        check("cogvideox_ddim", 2e-7, 2e-6);
    }

    #[test]
    fn euler_discrete_is_that_of_diffusers() {
        check("euler_discrete", 1e-6, 2e-6);
    }

    /// The first sample is noise times 4096, to which diffusers adds what leaves a few units: of those single precision
    /// keeps three decimals there. The noise levels come from square roots, which PyTorch's mathematics library (MKL) doesn't
    /// round correctly.
    #[test]
    fn euler_discrete_from_zero_snr_is_that_of_diffusers_as_far_as_the_first_sample_tells() {
        check("euler_discrete_zero_snr", 4e-6, 5e-4);
    }

    #[test]
    fn timesteps_of_every_step_count_are_those_of_diffusers() {
        #[derive(Deserialize)]
        struct Spacing {
            timestep_spacing: String,
            weighted_sums: Vec<f64>,
        }
        for Spacing { timestep_spacing, weighted_sums } in super::cases("spacings") {
            let config = serde_json::json!({ "type": "DDIMScheduler", "timestep_spacing": timestep_spacing });
            let config: SchedulerConfig = serde_json::from_value(config).unwrap();
            for (steps, expected) in (1..).zip(weighted_sums) {
                let timesteps = config.schedule(steps, 0).unwrap().timesteps;
                let found: f64 = (1..).zip(timesteps).map(|(i, t)| f64::from(i) * f64::from(t)).sum();
                assert_eq!(found, expected, "{steps} steps, {timestep_spacing}");
            }
        }
    }
}

mod guidance {
    //! Here belongs what two predictions become.

    use latentflow::guidance::Guidance;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        scale: f32,
        rescale: f32,
        zero_star: bool,
        cond: Vec<f32>,
        uncond: Vec<f32>,
        guided: Vec<f32>,
    }

    #[test]
    fn guidance_is_that_of_diffusers() {
        for Case { scale, rescale, zero_star, cond, uncond, guided } in super::cases("guidance") {
            let mut found = cond;
            Guidance { scale, rescale, zero_star }.apply(&mut found, &uncond);
            let error = super::relative_error(&found, &guided);
            assert!(error < 1e-6, "{error:e}: scale {scale}, rescale {rescale}, zero star {zero_star}");
        }
    }
}

mod invariants {
    //! Here belongs what has to hold for any model and any number of steps.

    use std::sync::Arc;

    use latentflow::noise::Generator;
    use latentflow::sampler::Sampler;
    use latentflow::schedule::SchedulerConfig;

    /// One configuration of each type and of each way that its noise levels come about.
    fn configs() -> Vec<SchedulerConfig> {
        [
            "type = 'FlowMatchEulerDiscreteScheduler'\nshift = 3",
            "type = 'FlowMatchEulerDiscreteScheduler'\nsigma_schedule = 'linspace'\nuse_dynamic_shifting = true",
            "type = 'FlowMatchEulerDiscreteScheduler'\nsolver_order = 2",
            "type = 'UniPCMultistepScheduler'\nuse_flow_sigmas = true\nprediction_type = 'flow_prediction'\nflow_shift = 5",
            "type = 'UniPCMultistepScheduler'\nprediction_type = 'v_prediction'",
            "type = 'DPMSolverMultistepScheduler'\nuse_flow_sigmas = true\nprediction_type = 'flow_prediction'\nflow_shift = 3",
            "type = 'DPMSolverMultistepScheduler'\nuse_karras_sigmas = true\nsolver_order = 3",
            "type = 'DPMSolverMultistepScheduler'\nalgorithm_type = 'sde-dpmsolver++'\nprediction_type = 'v_prediction'",
            "type = 'DDIMScheduler'\nbeta_schedule = 'scaled_linear'\nclip_sample = false\nprediction_type = 'v_prediction'",
            "type = 'PNDMScheduler'\nskip_prk_steps = true\nset_alpha_to_one = true",
            "type = 'CogVideoXDDIMScheduler'\nprediction_type = 'v_prediction'\ntimestep_spacing = 'trailing'",
            "type = 'CogVideoXDPMScheduler'\nprediction_type = 'v_prediction'\ntimestep_spacing = 'trailing'",
            "type = 'EulerDiscreteScheduler'\nbeta_start = 0.00085\nbeta_end = 0.012",
            "type = 'EulerAncestralDiscreteScheduler'\nbeta_start = 0.00085\nbeta_end = 0.012",
            "type = 'LCMScheduler'\nprediction_type = 'v_prediction'",
            "type = 'TCDScheduler'",
        ]
        .map(|text| toml::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}")))
        .to_vec()
    }

    const STEPS: [usize; 10] = [1, 2, 3, 4, 7, 8, 20, 33, 61, 1000];

    #[test]
    fn noise_falls_to_nothing() {
        for config in configs() {
            for steps in STEPS {
                let schedule = match config.schedule(steps, 1024) {
                    Ok(schedule) => schedule,
                    // A distilled model has only so many steps, and a multistep solver divides by their distances.
                    Err(reason) if steps > 50 => {
                        let known = ["`original_inference_steps`", "can't tell apart"];
                        assert!(known.iter().any(|words| reason.contains(words)), "{reason}");
                        continue;
                    }
                    Err(reason) => panic!("{steps} {config:?}: {reason}"),
                };
                // PNDM does its second step twice.
                let twice = config.name() == "PNDMScheduler";
                let len = if twice && steps > 1 { steps + 1 } else { steps };
                assert_eq!((schedule.timesteps.len(), schedule.sigmas.len()), (len, len + 1));
                // TCD ends on the lowest level of training.
                let rest = if config.name() == "TCDScheduler" { 0.03 } else { 0.0 };
                assert!(schedule.sigmas[len] <= rest, "{config:?}");
                assert!(
                    schedule.sigmas.is_sorted_by(|a, b| a > b || twice && a == b),
                    "{steps} {config:?}: {:?}",
                    schedule.sigmas
                );
                assert!(schedule.timesteps.is_sorted_by(|a, b| a >= b && *b >= 0.0), "{steps} {config:?}");
                assert!(schedule.timesteps[0] <= 1000.0);
                if config.is_flow() && config.name() != "DPMSolverMultistepScheduler" {
                    assert!((schedule.sigmas[0] - 1.0).abs() < 2e-6, "flows begin with noise alone");
                }
            }
        }
    }

    #[test]
    fn inverted_noise_levels_say_the_signal() {
        let text = "type = 'FlowMatchEulerDiscreteScheduler'\nsigma_schedule = 'linear_quadratic'";
        let config = |text: &str| toml::from_str::<SchedulerConfig>(text).unwrap();
        let plain = config(text).schedule(6, 0).unwrap();
        let inverted = config(&format!("{text}\ninvert_sigmas = true")).schedule(6, 0).unwrap();
        for (noise, signal) in plain.sigmas.iter().zip(&inverted.sigmas) {
            assert!((noise + signal - 1.0).abs() < 1e-6);
        }
        for (sigma, timestep) in inverted.sigmas.iter().zip(&inverted.timesteps) {
            assert_eq!(sigma * 1000.0, *timestep);
        }
        for index in 0..=6 {
            let [mut a, mut b] = [[0.5, -2.0, 3.25]; 2];
            plain.add_noise(&mut a, &[1.0, -0.3, 0.2], index);
            inverted.add_noise(&mut b, &[1.0, -0.3, 0.2], index);
            assert!(super::relative_error(&a, &b) < 1e-6, "the noise is the same: {a:?} {b:?}");
        }
    }

    #[test]
    fn strength_is_the_share_of_the_steps_that_is_done() {
        let schedule = configs()[0].schedule(10, 0).unwrap();
        for (strength, begin) in
            [(0.0, 10), (0.09, 10), (0.1, 9), (0.55, 5), (1.0, 0), (2.0, 0), (-1.0, 10), (f64::NAN, 10)]
        {
            assert_eq!(schedule.begin_index(strength), begin, "strength {strength}");
        }
    }

    #[test]
    fn a_sample_is_clean_after_the_last_step() {
        for config in configs() {
            let schedule = config.schedule(4, 1024).unwrap();
            let mut sample = [0.5, -2.0, 3.25];
            schedule.add_noise(&mut sample, &[9.0, 9.0, 9.0], schedule.len());
            match config.name() {
                "TCDScheduler" => assert!(super::relative_error(&sample, &[0.5, -2.0, 3.25]) < 0.1),
                _ => assert_eq!(sample, [0.5, -2.0, 3.25], "{config:?}"),
            }
        }
    }

    #[test]
    fn a_model_that_knows_the_truth_is_led_to_it() {
        let (truth, first) = ([0.5f32, -2.0, 3.25, 0.0], [1.0f32, -0.3, 0.2, -1.5]);
        for config in configs() {
            for steps in [1, 2, 5, 20] {
                let schedule = Arc::new(config.schedule(steps, 1024).unwrap());
                let mut generator = Generator::new(1);
                let mut sampler = Sampler::new(schedule.clone());
                let mut sample = truth;
                schedule.add_noise(&mut sample, &first, 0);
                for index in 0..schedule.len() {
                    let (mut signal, mut sigma) = ([1.0], [0.0]);
                    schedule.add_noise(&mut signal, &[0.0], index);
                    schedule.add_noise(&mut sigma, &[1.0], index);
                    // What each kind of model would answer if it could see `truth`.
                    let answer: Vec<f32> = (0..4)
                        .map(|j| {
                            let noise = (sample[j] - signal[0] * truth[j]) / sigma[0];
                            match format!("{config:?}") {
                                _ if config.is_flow() => noise - truth[j],
                                text if text.contains("Epsilon") => noise,
                                _ => signal[0] * noise - sigma[0] * truth[j],
                            }
                        })
                        .collect();
                    sampler.step(index, &mut sample, &answer, |noise| generator.randn(noise));
                }
                let tolerance = if config.name() == "TCDScheduler" { 0.1 } else { 2e-5 };
                assert!(super::relative_error(&sample, &truth) < tolerance, "{steps} {config:?}: {sample:?}");
            }
        }
    }

    #[test]
    fn the_second_order_follows_a_flow_that_bends() {
        // dx/ds = 2s leads to x = s² - 1 from x = 0 at s = 1. A velocity that is linear in s is followed without error once two
        // of its values are known, at any spacing of the steps; Euler's method goes astray at each of them.
        let errors = |order: usize| -> Vec<f32> {
            let text = format!(
                "type = 'FlowMatchEulerDiscreteScheduler'\nshift = 3\nsigma_schedule = 'linspace'\nsolver_order = {order}"
            );
            let config: SchedulerConfig = toml::from_str(&text).unwrap();
            let schedule = Arc::new(config.schedule(6, 0).unwrap());
            let mut sampler = Sampler::new(schedule.clone());
            let mut sample = [0.0];
            (0..6)
                .map(|index| {
                    let (s, next) = (schedule.sigmas[index], schedule.sigmas[index + 1]);
                    let truth = sample[0] + next * next - s * s;
                    sampler.step(index, &mut sample, &[2.0 * s], |_| unreachable!());
                    (sample[0] - truth).abs()
                })
                .collect()
        };
        let (first, second) = (errors(1), errors(2));
        assert_eq!(first[0], second[0], "nothing is known before the first step");
        assert!(second[1..].iter().all(|error| *error < 1e-6), "{second:?}");
        assert!(first[1..].iter().all(|error| *error > 1e-3), "{first:?}");
    }

    #[test]
    fn noise_is_drawn_as_often_as_diffusers_draws() {
        for config in configs() {
            let schedule = config.schedule(5, 1024).unwrap();
            let mut sampler = Sampler::new(schedule);
            let draws: Vec<usize> = (0..5)
                .map(|index| {
                    let mut draws = 0;
                    sampler.step(index, &mut [0.5; 4], &[0.1; 4], |noise| {
                        assert_eq!(noise.len(), 4);
                        draws += 1;
                    });
                    draws
                })
                .collect();
            let expected = match config.name() {
                "EulerAncestralDiscreteScheduler" => [1, 1, 1, 1, 1],
                "DPMSolverMultistepScheduler" if format!("{config:?}").contains("Sde") => [1, 1, 1, 1, 1],
                "LCMScheduler" | "TCDScheduler" => [1, 1, 1, 1, 0],
                "CogVideoXDPMScheduler" => [1, 2, 2, 2, 1],
                _ => [0; 5],
            };
            assert_eq!(draws, expected, "{config:?}");
        }
    }

    #[test]
    fn a_run_leaves_no_trace_in_the_next_one() {
        fn run(sampler: &mut Sampler, steps: usize) -> Vec<f32> {
            let mut sample = vec![0.3, -1.2, 0.8];
            for index in 0..steps {
                let output: Vec<f32> = sample.iter().map(|x: &f32| x.sin() - 0.5).collect();
                sampler.step(index, &mut sample, &output, |noise| noise.fill(0.5));
            }
            sample
        }
        for config in configs() {
            let schedule = Arc::new(config.schedule(6, 1024).unwrap());
            let expected = run(&mut Sampler::new(schedule.clone()), 6);
            let mut sampler = Sampler::new(schedule);

            run(&mut sampler, 3);
            sampler.reset();
            assert_eq!(run(&mut sampler, 6), expected, "after reset: {config:?}");

            run(&mut sampler, 4);
            assert_eq!(run(&mut sampler, 6), expected, "after a cancelled run: {config:?}");

            sampler.step(0, &mut [1.0; 7], &[1.0; 7], |_| {});
            sampler.step(1, &mut [1.0; 7], &[1.0; 7], |_| {});
            assert_eq!(run(&mut sampler, 6), expected, "after another length: {config:?}");
        }
    }

    #[test]
    fn odd_configurations_are_refused_or_give_finite_samples() {
        let mut computed = 0;
        let mut try_out = |text: String| {
            let Ok(config) = toml::from_str::<SchedulerConfig>(&text) else { panic!("{text}") };
            for steps in [1, 2, 3, 9, 10] {
                let Ok(schedule) = config.schedule(steps, 4096) else { continue };
                assert!(
                    schedule.timesteps.iter().all(|t| t.is_finite() && *t >= 0.0),
                    "{text}: {schedule:?}"
                );
                assert!(schedule.sigmas.is_sorted_by(|a, b| a >= b), "{text}: {schedule:?}");
                let mut sampler = Sampler::new(schedule);
                let mut sample = [0.5, -1.0, 2.0].map(|x| x * sampler.schedule().init_noise_sigma);
                for index in 0..sampler.schedule().len() {
                    let scale = sampler.scale_model_input(index);
                    let output = sample.map(|x| (x * scale).clamp(-1.0, 1.0));
                    sampler.step(index, &mut sample, &output, |noise| noise.fill(0.5));
                }
                assert!(sample.iter().all(|x| x.is_finite()), "{steps} steps of {text}: {sample:?}");
                computed += 1;
            }
        };
        for train in [1, 2, 10, 1000] {
            for (shift, terminal) in [(0.01, 0.0), (1.0, 0.5), (12.0, 0.0), (1e6, 0.0), (1e12, 0.99)] {
                let rest = format!("num_train_timesteps = {train}\nshift_terminal = {terminal:?}\n");
                try_out(format!("type = 'FlowMatchEulerDiscreteScheduler'\n{rest}shift = {shift:?}"));
                try_out(format!(
                    "type = 'UniPCMultistepScheduler'\n{rest}flow_shift = {shift:?}\nsolver_order = 3\n\
                     use_flow_sigmas = true\nprediction_type = 'flow_prediction'"
                ));
                try_out(format!(
                    "type = 'DPMSolverMultistepScheduler'\nnum_train_timesteps = {train}\nflow_shift = {shift:?}\n\
                     solver_order = 3\nuse_flow_sigmas = true\nprediction_type = 'flow_prediction'"
                ));
            }
            for name in SchedulerConfig::NAMES.iter().filter(|name| !name.starts_with("FlowMatch")) {
                for (start, end) in [(0.0001, 0.02), (0.5, 0.99), (1e-12, 1e-12), (0.9, 0.1)] {
                    for spacing in ["linspace", "leading", "trailing"] {
                        for prediction in ["epsilon", "v_prediction", "sample"] {
                            for zero_snr in [false, true] {
                                let own = match *name {
                                    "PNDMScheduler" => "skip_prk_steps = true".into(),
                                    _ => format!("rescale_betas_zero_snr = {zero_snr}"),
                                };
                                try_out(format!(
                                    "type = '{name}'\nnum_train_timesteps = {train}\nbeta_start = {start:?}\n\
                                     beta_end = {end:?}\ntimestep_spacing = '{spacing}'\n\
                                     prediction_type = '{prediction}'\n{own}"
                                ));
                            }
                        }
                    }
                }
            }
        }
        assert!(computed > 4000, "{computed}");
    }
}

mod refusals {
    //! Here belongs what a package may not ask for, and the words that it is told so with.

    use latentflow::schedule::SchedulerConfig;

    /// What is said to a table with `type` and `fields`, on reading or on validation.
    fn refusal(r#type: &str, fields: &str) -> String {
        match toml::from_str::<SchedulerConfig>(&format!("type = '{type}'\n{fields}")) {
            Ok(config) => config.validate().expect_err(fields),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_name_is_a_type_and_nothing_else_is() {
        for name in SchedulerConfig::NAMES {
            let config: SchedulerConfig = toml::from_str(&format!("type = '{name}'")).unwrap();
            assert_eq!(config.name(), *name);
        }
        assert!(refusal("HeunDiscreteScheduler", "").contains("HeunDiscreteScheduler"));
    }

    #[test]
    fn unknown_fields_are_named() {
        for name in SchedulerConfig::NAMES {
            assert!(refusal(name, "skip_prk = true").contains("skip_prk"));
        }
    }

    #[test]
    fn what_is_not_implemented_is_named_with_its_value() {
        const FLOW: &str = "use_flow_sigmas = true\nprediction_type = 'flow_prediction'\n";
        for (name, fields, expected) in [
            ("FlowMatchEulerDiscreteScheduler", "shift = 0", "`shift` is 0"),
            ("FlowMatchEulerDiscreteScheduler", "shift = nan", "`shift` is NaN"),
            ("FlowMatchEulerDiscreteScheduler", "shift_terminal = 1.0", "`shift_terminal` is 1"),
            ("FlowMatchEulerDiscreteScheduler", "num_train_timesteps = 0", "`num_train_timesteps` is 0"),
            ("FlowMatchEulerDiscreteScheduler", "solver_order = 3", "`solver_order` is 3"),
            ("FlowMatchEulerDiscreteScheduler", "init_noise_sigma = 0", "`init_noise_sigma` is 0"),
            ("FlowMatchEulerDiscreteScheduler", "init_noise_sigma = 1.5", "`init_noise_sigma` is 1.5"),
            ("FlowMatchEulerDiscreteScheduler", "init_noise_sigma = nan", "`init_noise_sigma` is NaN"),
            ("FlowMatchEulerDiscreteScheduler", "use_karras_sigmas = true", "`use_karras_sigmas` is true"),
            (
                "FlowMatchEulerDiscreteScheduler",
                "stochastic_sampling = true",
                "`stochastic_sampling` is true",
            ),
            ("FlowMatchEulerDiscreteScheduler", "sigmas = [0.5, 1.0]", "`sigmas` is [0.5, 1.0]"),
            ("FlowMatchEulerDiscreteScheduler", "sigmas = [1.0, 0.0]", "`sigmas` is [1.0, 0.0]"),
            ("FlowMatchEulerDiscreteScheduler", "sigmas = []", "`sigmas` is []"),
            ("UniPCMultistepScheduler", "sigmas = [1.0]", "`use_flow_sigmas` is false"),
            ("UniPCMultistepScheduler", "use_flow_sigmas = true", "`prediction_type` is epsilon"),
            ("UniPCMultistepScheduler", &format!("{FLOW}solver_order = 4"), "`solver_order` is 4"),
            ("UniPCMultistepScheduler", &format!("{FLOW}solver_type = 'bh1'"), "`solver_type` is bh1"),
            ("UniPCMultistepScheduler", &format!("{FLOW}predict_x0 = false"), "`predict_x0` is false"),
            (
                "UniPCMultistepScheduler",
                &format!("{FLOW}lower_order_final = false"),
                "`lower_order_final` is false",
            ),
            ("UniPCMultistepScheduler", "use_beta_sigmas = true", "`use_beta_sigmas` is true"),
            (
                "UniPCMultistepScheduler",
                &format!("{FLOW}use_karras_sigmas = true"),
                "`use_karras_sigmas` is true",
            ),
            ("DPMSolverMultistepScheduler", "algorithm_type = 'dpmsolver'", "`algorithm_type` is dpmsolver"),
            ("DPMSolverMultistepScheduler", "use_lu_lambdas = true", "`use_lu_lambdas` is true"),
            ("DPMSolverMultistepScheduler", "solver_order = 0", "`solver_order` is 0"),
            ("DPMSolverMultistepScheduler", "use_flow_sigmas = true", "`prediction_type` is epsilon"),
            (
                "DPMSolverMultistepScheduler",
                &format!("{FLOW}final_sigmas_type = 'sigma_min'"),
                "`final_sigmas_type` is sigma_min",
            ),
            ("EulerAncestralDiscreteScheduler", "prediction_type = 'sample'", "`prediction_type` is sample"),
            ("PNDMScheduler", "", "`skip_prk_steps` is false"),
            ("LCMScheduler", "original_inference_steps = 1001", "`original_inference_steps` is 1001"),
            ("LCMScheduler", "timestep_scaling = 0", "`timestep_scaling` is 0"),
            ("TCDScheduler", "eta = 1.5", "`eta` is 1.5"),
            ("DDIMScheduler", "thresholding = true", "`thresholding` is true"),
            ("DDIMScheduler", "beta_end = 1.5", "`beta_end` is 1.5"),
            ("DDIMScheduler", "prediction_type = 'flow_prediction'", "`prediction_type` is flow_prediction"),
            ("DDIMScheduler", "beta_schedule = 'sigmoid'", "sigmoid"),
            ("CogVideoXDDIMScheduler", "snr_shift_scale = -1", "`snr_shift_scale` is -1"),
            ("EulerDiscreteScheduler", "timestep_type = 'continuous'", "`timestep_type` is continuous"),
            (
                "EulerDiscreteScheduler",
                "interpolation_type = 'log_linear'",
                "`interpolation_type` is log_linear",
            ),
        ] {
            let found = refusal(name, fields);
            assert!(found.contains(expected), "{name} {fields}: {found}");
        }
    }

    #[test]
    fn step_counts_that_can_not_be_are_named_with_what_would_do() {
        for (fields, steps, expected) in [
            ("type = 'FlowMatchEulerDiscreteScheduler'", 0, "must be from 1 to 10000"),
            ("type = 'FlowMatchEulerDiscreteScheduler'", 10_001, "must be from 1 to 10000"),
            ("type = 'DDIMScheduler'", 1001, "must be from 1 to 1000"),
            ("type = 'LCMScheduler'", 51, "must be from 1 to 50, `original_inference_steps`"),
            (
                "type = 'FlowMatchEulerDiscreteScheduler'\nsigma_schedule = 'linear_quadratic'",
                1,
                "must be at least 2",
            ),
            (
                "type = 'DPMSolverMultistepScheduler'\ntimestep_spacing = 'trailing'\nlambda_min_clipped = 0.0",
                20,
                "leaves `trailing` spacing too few",
            ),
            ("type = 'FlowMatchEulerDiscreteScheduler'\nsigmas = [1.0, 0.5]", 3, "must be 2, the length"),
            (
                "type = 'FlowMatchEulerDiscreteScheduler'\nshift_terminal = 0.1\nsigma_schedule = 'linspace'",
                1,
                "use at least 2 steps",
            ),
            (
                "type = 'EulerDiscreteScheduler'\ntimestep_spacing = 'leading'\nsteps_offset = 1",
                1000,
                "timestep 1000",
            ),
            (
                "type = 'DDIMScheduler'\nrescale_betas_zero_snr = true\ntimestep_spacing = 'trailing'",
                4,
                "`prediction_type` is epsilon",
            ),
            (
                "type = 'FlowMatchEulerDiscreteScheduler'\nuse_dynamic_shifting = true\ntime_shift_type = 'linear'\nbase_shift = -1.0",
                4,
                "dynamic shift of",
            ),
        ] {
            let config: SchedulerConfig = toml::from_str(fields).unwrap();
            let found = config.schedule(steps, 0).unwrap_err();
            assert!(found.contains(expected), "{fields}: {found}");
        }
    }

    #[test]
    fn a_scheduler_stands_in_for_another_of_its_kind_only() {
        let config = |text: &str| toml::from_str::<SchedulerConfig>(text).unwrap();
        let flow = config("type = 'FlowMatchEulerDiscreteScheduler'\nshift = 5.0");
        let unipc = flow.with_type("UniPCMultistepScheduler").unwrap();
        assert_eq!(unipc.validate(), Ok(()));
        assert_eq!(unipc.with_type("FlowMatchEulerDiscreteScheduler").unwrap(), flow);
        assert_eq!(flow.with_type(flow.name()).unwrap(), flow);

        let dpm = flow.with_type("DPMSolverMultistepScheduler").unwrap();
        assert!(dpm.is_flow() && dpm.validate() == Ok(()));
        assert_eq!(dpm.with_type("UniPCMultistepScheduler").unwrap(), unipc);

        let ddim = config("type = 'DDIMScheduler'\nclip_sample = false\nbeta_schedule = 'scaled_linear'");
        for name in [
            "PNDMScheduler",
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "DPMSolverMultistepScheduler",
            "UniPCMultistepScheduler",
            "LCMScheduler",
            "TCDScheduler",
        ] {
            let other = ddim.with_type(name).unwrap();
            assert_eq!((other.name(), other.is_flow()), (name, false));
            assert_eq!(other.with_type("DDIMScheduler").unwrap(), ddim, "there and back by {name}");
            assert!(other.with_type("FlowMatchEulerDiscreteScheduler").unwrap_err().contains("made for"));
        }
        let cogvideox = config("type = 'CogVideoXDDIMScheduler'\nsnr_shift_scale = 1.0");
        let dpm = cogvideox.with_type("CogVideoXDPMScheduler").unwrap();
        assert_eq!(dpm.with_type("CogVideoXDDIMScheduler").unwrap(), cogvideox);
        assert!(cogvideox.with_type("DDIMScheduler").unwrap_err().contains("made for `CogVideoXDDIM"));

        let pixels = config("type = 'DDIMScheduler'\nclip_sample_range = 2.0");
        assert!(pixels.with_type("EulerDiscreteScheduler").unwrap_err().contains("clip_sample"));
        assert_eq!(pixels.with_type("LCMScheduler").unwrap().with_type("DDIMScheduler").unwrap(), pixels);
        let clean = config("type = 'EulerDiscreteScheduler'\nprediction_type = 'sample'");
        let refused = clean.with_type("EulerAncestralDiscreteScheduler").unwrap_err();
        assert!(refused.contains("`prediction_type` is sample"), "{refused}");
        let table = config("type = 'FlowMatchEulerDiscreteScheduler'\nsigmas = [1.0, 0.5]");
        assert!(table.with_type("DPMSolverMultistepScheduler").unwrap_err().contains("no `sigmas`"));

        assert!(flow.with_type("DDIMScheduler").unwrap_err().contains("made for `FlowMatchEuler"));
        assert!(flow.with_type("Euler").unwrap_err().contains("expected one of FlowMatchEuler"));
        let dynamic = config("type = 'FlowMatchEulerDiscreteScheduler'\nuse_dynamic_shifting = true");
        assert!(dynamic.with_type("UniPCMultistepScheduler").unwrap_err().contains("use_dynamic_shifting"));
    }
}
