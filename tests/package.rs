//! Packages: those of the tests open whole, and their graphs run; what is wrong with a manifest or a graph is said with file, field
//! and cure.

mod util;

use latentflow::package::CodecConfig;
use latentflow::{Cancel, Feeds, Package, Tensor};
use util::model as open;

#[test]
fn the_id_is_the_name_with_a_hash_of_the_content() {
    let (stream, clip) = (open("tiny-stream"), open("tiny-clip"));
    assert!(stream.id().starts_with("tiny-stream-"), "{}", stream.id());
    assert_eq!(stream.id(), open("tiny-stream").id());
    assert_ne!(stream.id(), clip.id());
    assert!(stream.manifest().stream.is_some() && clip.manifest().stream.is_none());
}

#[test]
fn a_graph_with_weights_in_a_file_of_their_own_runs() {
    let model = open("tiny-stream");
    let (init, _) = model.manifest().decoder.as_ref().and_then(CodecConfig::pair).unwrap();
    let latents = Tensor::from_f32(&[1, 4, 2, 4, 6], vec![0.0; 4 * 2 * 4 * 6]).unwrap();
    let feeds = Feeds::from([("latents", &latents)]);
    let out = model.graph(init, &Cancel::new()).unwrap().run(&feeds, &Cancel::new()).unwrap();
    assert_eq!(out["frames"].shape(), [1, 5, 32, 48, 3]);
    assert!((out["frames"].f32().unwrap()[0] - 0.537_43).abs() < 1e-4, "the sigmoid of the ramp's end, 0.15");
}

#[test]
fn a_cache_may_be_empty() {
    let model = open("tiny-stream");
    let zeros = |shape: &[usize]| Tensor::from_f32(shape, vec![0.0; shape.iter().product()]).unwrap();
    let (latents, timestep) = (zeros(&[1, 4, 2, 4, 6]), zeros(&[1, 2]));
    let (embeds, mask) = (zeros(&[1, 8, 4]), Tensor::from_f32(&[1, 8], vec![1.0; 8]).unwrap());
    let past = zeros(&[1, 1, 0, 6, 4]);
    let feeds = Feeds::from([
        ("latents", &latents),
        ("timestep", &timestep),
        ("prompt_embeds", &embeds),
        ("prompt_mask", &mask),
        ("past_key", &past),
        ("past_value", &past),
    ]);
    let denoiser = model.graph(&model.manifest().denoisers[0].file, &Cancel::new()).unwrap();
    let out = denoiser.run(&feeds, &Cancel::new()).unwrap();
    assert_eq!(out["prediction"].shape(), [1, 4, 2, 4, 6]);
    assert_eq!(out["present_key"].shape(), [1, 1, 2, 6, 4]);
}

#[test]
fn what_a_chunk_s_first_pass_finds_out_must_come_out() {
    let copy = util::copy_of("tiny-stream");
    util::edit(&copy, "model.toml", "\"denoiser.onnx\"", "\"drafting_denoiser.onnx\"");
    Package::open(copy.path()).expect("a valid package");
    let path = copy.path().join("drafting_denoiser.onnx");
    let graph = std::fs::read(&path).unwrap();
    std::fs::write(&path, renamed(&graph, b"chunk_out_mean", b"chunk_lost_men")).unwrap();
    let error = Package::open(copy.path()).unwrap_err().to_string();
    assert!(error.contains("drafting_denoiser.onnx") && error.contains("`chunk_out_mean`"), "{error}");
}

/// Returns `graph` with `other` wherever it says `name`.
fn renamed(graph: &[u8], name: &[u8], other: &[u8]) -> Vec<u8> {
    assert_eq!(name.len(), other.len());
    let mut renamed = graph.to_vec();
    for at in 0..=graph.len() - name.len() {
        if graph[at..].starts_with(name) {
            renamed[at..][..name.len()].copy_from_slice(other);
        }
    }
    assert_ne!(graph, renamed);
    renamed
}

#[test]
fn denoisers_that_look_back_at_something_else_each_are_refused() {
    let copy = util::copy_of("tiny-stream");
    let graph = std::fs::read(copy.path().join("denoiser.onnx")).unwrap();
    let other = renamed(&renamed(&graph, b"past_key", b"past_kee"), b"present_key", b"present_kee");
    std::fs::write(copy.path().join("other.onnx"), other).unwrap();
    let both = "file = \"denoiser.onnx\"\nmin_timestep = 500.0\n[[denoisers]]\nfile = \"other.onnx\"";
    util::edit(&copy, "model.toml", "file = \"denoiser.onnx\"", both);
    let error = Package::open(copy.path()).unwrap_err().to_string();
    assert!(error.contains("past_*") && error.contains("other.onnx"), "{error}");
}

#[test]
fn a_graph_of_a_set_length_that_the_manifest_does_not_name_is_refused() {
    for (line, cure) in [("first = 3\n", "`decoder.first = 3`"), ("chunk = 2\n", "`decoder.chunk = 2`")] {
        let error = wrong("tiny-guest", line, "");
        assert!(error.contains("decoder_") && error.contains(cure), "{error}");
    }
}

#[test]
fn a_graph_whose_output_says_that_it_has_other_channels_is_refused_where_the_package_opens() {
    let copy = util::copy_of("tiny-guest");
    let path = copy.path().join("denoiser.onnx");
    let mut graph = std::fs::read(&path).unwrap();
    let (output, four) = (b"prediction", [0x0a, 2, 8, 4]); // a dimension of 4 in ONNX's protobuf
    let name = graph.windows(output.len()).rposition(|bytes| bytes == output).unwrap();
    let channels = name + graph[name..].windows(four.len()).position(|bytes| bytes == four).unwrap();
    graph[channels + 3] = 5;
    std::fs::write(&path, graph).unwrap();
    let error = Package::open(copy.path()).unwrap_err().to_string();
    for words in ["denoiser.onnx", "`prediction` is [?,5,?,?,?]", "[1,4,?,?,?] is needed"] {
        assert!(error.contains(words), "{error}");
    }
}

/// What is wrong with tiny-guest once `from` is `to` in its manifest.
fn wrong(name: &str, from: &str, to: &str) -> String {
    let copy = util::copy_of(name);
    util::edit(&copy, "model.toml", from, to);
    Package::open(copy.path()).unwrap_err().to_string()
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    for (from, to, words) in [
        ("frame_step = 8", "frame_step = 6", ["latents.frame_step", "multiple"]),
        ("frame_step = 8", "frame_step = 0", ["latents.frame_step", "0"]),
        ("default = 17 }", "default = 18 }", ["video.num_frames", "multiple of 8 frames"]),
        ("min = 9, max", "min = 1, max", ["decoder.first", "1 latent frames"]),
        ("chunk = 2", "chunk = 3", ["decoder.chunk", "steps of 8 frames"]),
        ("chunk = 2", "chunk = 0", ["decoder.chunk", "0"]),
        ("init = \"decoder_init.onnx\"\n", "", ["decoder", "`init` and `step` together"]),
        ("noise_layout = \"TCHW\"", "noise_layout = \"THWC\"", ["THWC", "TCHW"]),
        ("\"fix_text\"", "\"fix_everything\"", ["fix_everything", "fix_text"]),
        ("a {} in the snow", "in the snow", ["text_encoders.tokenizer.template", "{}"]),
        ("max_length = 12", "max_length = 0", ["text_encoders.tokenizer.max_length", "0"]),
        ("style = 0.5", "style = nan", ["parameters.style", "finite"]),
        ("guidance_scale = 6.0", "guidance_scale = inf", ["defaults.guidance_scale", "finite"]),
        (
            "guidance_scale = 6.0",
            "guidance_scale = 6.0\nguidance_rescale = 2.0",
            ["defaults.guidance_rescale", "0 to 1"],
        ),
        (
            "guidance_scale = 6.0",
            "guidance_scale = 6.0\n[stream]\nchunk = 1\nwindow = 1",
            ["conditioner", "[encoder]"],
        ),
        ("required = false", "required = false\nstrength = 1", ["strength", "required"]),
        (
            "file = \"denoiser.onnx\"",
            "file = \"denoiser.onnx\"\nguidance_scale = nan",
            ["guidance_scale", "denoiser.onnx"],
        ),
        ("file = \"denoiser.onnx\"", "file = \"./../denoiser.onnx\"", ["denoiser.onnx", "leads out"]),
        (
            "num_inference_steps = 2",
            "num_inference_steps = 20000",
            ["defaults.num_inference_steps", "must be from 1 to"],
        ),
    ] {
        let error = wrong("tiny-guest", from, to);
        assert!(error.contains("model.toml"), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{from} -> {to}: {error}");
    }
}

#[test]
fn a_stream_s_timesteps_end_at_0() {
    let inverted = "type = \"FlowMatchEulerDiscreteScheduler\"\ninvert_sigmas = true";
    let error = wrong("tiny-stream", "type = \"FlowMatchEulerDiscreteScheduler\"", inverted);
    for word in ["model.toml", "`scheduler.invert_sigmas`", "[stream]"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_stream_s_pieces_go_on_from_each_other() {
    let copy = util::copy_of("tiny-stream");
    std::fs::copy(util::package("tiny-clip").join("decoder.onnx"), copy.path().join("decoder.onnx")).unwrap();
    let pair = "init = \"decoder_init.onnx\"\nstep = \"decoder_step.onnx\"";
    util::edit(&copy, "model.toml", pair, "file = \"decoder.onnx\"");
    let error = Package::open(copy.path()).unwrap_err().to_string();
    for word in ["model.toml", "`decoder`", "`init` and `step`", "[stream]"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn clips_whose_first_piece_is_of_any_length_are_of_any_length() {
    let copy = util::copy_of("tiny-guest");
    for file in ["decoder_init.onnx", "decoder_step.onnx", "decoder.weights"] {
        std::fs::copy(util::package("tiny-stream").join(file), copy.path().join(file)).unwrap();
    }
    util::edit(&copy, "model.toml", "first = 3\n", "");
    util::edit(&copy, "model.toml", "min = 9, max", "min = 1, max");
    Package::open(copy.path()).unwrap();
}

#[test]
fn a_file_may_be_written_with_a_dot_before_it() {
    let copy = util::copy_of("tiny-guest");
    util::edit(&copy, "model.toml", "file = \"denoiser.onnx\"", "file = \"./denoiser.onnx\"");
    Package::open(copy.path()).unwrap();
}

#[test]
fn a_stream_s_chunks_are_what_its_codecs_take_at_once() {
    for (from, to, field) in [
        ("step = \"decoder_step.onnx\"", "step = \"decoder_step.onnx\"\nfirst = 3", "`decoder.first` 3"),
        (
            "step = \"decoder_step.onnx\"",
            "step = \"decoder_step.onnx\"\nfirst = 1\nchunk = 2",
            "`decoder.chunk` 2",
        ),
        ("step = \"encoder_step.onnx\"", "step = \"encoder_step.onnx\"\nchunk = 3", "`encoder.chunk` 3"),
    ] {
        let error = wrong("tiny-stream", from, to);
        for word in ["model.toml", field, "2 latent frames (`stream.chunk`)"] {
            assert!(error.contains(word), "{error}");
        }
    }
}

#[test]
fn numbers_that_no_model_has_are_refused() {
    let long = |chunk| ("chunk = 2\nwindow = 4", format!("chunk = {chunk}\nwindow = {chunk}"));
    let set = |from, to: &str| (from, to.to_owned());
    for (edits, field) in [
        (vec![set("size_multiple = 16", "size_multiple = 1048576")], "`latents.size_multiple`"),
        (vec![set("channels = 4", "channels = 2000000000")], "`latents.channels`"),
        (vec![long(2_000_000_000)], "`stream.window`"),
        (vec![set("channels = 4", "channels = 16384"), long(16384)], "at once"),
        (
            vec![set("step = \"encoder_step.onnx\"", "step = \"encoder_step.onnx\"\nchunk = 1000000000")],
            "`encoder`",
        ),
        (vec![set("\"120/1\"", "\"4294967295/1\"")], "`4294967295/1`"),
    ] {
        let copy = util::copy_of("tiny-stream");
        edits.iter().for_each(|(from, to)| util::edit(&copy, "model.toml", from, to));
        let error = Package::open(copy.path()).unwrap_err().to_string();
        assert!(error.contains("model.toml") && error.contains(field), "{edits:?}: {error}");
    }
}

#[test]
fn a_stream_begins_in_a_step_at_least() {
    let error = wrong("tiny-stream", "[stream]", "[stream]\nfirst_num_inference_steps = 0");
    assert!(error.contains("`stream.first_num_inference_steps` must not be 0"), "{error}");
}

#[test]
fn a_stream_s_noise_is_within_bounds_and_for_flows() {
    for (noise, words) in [
        ("context_noise = 1.0", ["stream.context_noise", "below 1"]),
        ("context_noise = -0.1", ["stream.context_noise", "from 0"]),
        ("init_noise_sigma = 0.0", ["stream.init_noise_sigma", "above 0 and at most 1"]),
        ("init_noise_sigma = 1.5", ["stream.init_noise_sigma", "above 0 and at most 1"]),
        ("init_noise_sigma = nan", ["stream.init_noise_sigma", "above 0 and at most 1"]),
    ] {
        let error = wrong("tiny-stream", "[stream]", &format!("[stream]\n{noise}"));
        assert!(words.iter().all(|word| error.contains(word)), "{noise}: {error}");
    }
    for noise in ["context_noise = 0.1", "init_noise_sigma = 0.5"] {
        let copy = util::copy_of("tiny-stream");
        util::edit(&copy, "model.toml", "[stream]", &format!("[stream]\n{noise}"));
        util::edit(&copy, "model.toml", "\"FlowMatchEulerDiscreteScheduler\"", "\"EulerDiscreteScheduler\"");
        util::edit(&copy, "model.toml", "shift = 1.0", "beta_end = 0.02");
        let error = Package::open(copy.path()).expect_err("another scheduler").to_string();
        let field = noise.split(' ').next().unwrap();
        assert!(error.contains(&format!("stream.{field}")) && error.contains("rectified flow"), "{error}");
    }
}

#[test]
fn segments_of_clips_are_whole_latent_frames_of_a_decoder_for_clips() {
    let decoder = "file = \"decoder.onnx\"\n";
    let (min, stride) = ("tile_sample_min_num_frames", "tile_sample_stride_num_frames");
    let fields = |a: usize, b: usize| format!("{decoder}{min} = {a}\n{stride} = {b}\n");
    for (to, words) in [
        (format!("{decoder}{min} = 16\n"), [min, "together"]),
        (format!("{decoder}{stride} = 16\n"), [stride, "together"]),
        (fields(16, 20), [stride, "stride <= min"]),
        (fields(16, 0), [stride, "0 < stride"]),
        (fields(16, 6), [stride, "multiples of 4 frames"]),
        (fields(17, 8), [min, "multiples of 4 frames"]),
    ] {
        let error = wrong("tiny-clip", decoder, &to);
        assert!(error.contains("model.toml"), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{to}: {error}");
    }
    let init = "init = \"decoder_init.onnx\"\n";
    let error = wrong("tiny-stream", init, &format!("{init}{min} = 16\n{stride} = 8\n"));
    assert!(error.contains("`init` and `step` need no segments"), "{error}");
}

#[test]
fn every_input_of_every_graph_has_to_come_from_somewhere() {
    let named = "file = \"text_encoder_2.onnx\"";
    for (from, to, words) in [
        ("style = 0.5\n", "", ["denoiser.onnx", "`style`", "[parameters]"]),
        ("grain = 0.25\n", "", ["conditioner.onnx", "`grain`", "[parameters]"]),
        ("decode_noise_scale = 0.1\n", "", ["decoder.onnx", "`decode_noise_scale`", "[parameters]"]),
        ("condition_mask = 1.0\n", "", ["denoiser.onnx", "`condition_mask`", "conditioner.required = true"]),
        // Another graph in the place of one: what it lacks, or what comes twice.
        (named, "file = \"text_encoder.onnx\"", ["text_encoder.onnx", "`prompt_embeds`", "unique"]),
        (named, "file = \"denoiser.onnx\"", ["denoiser.onnx", "`input_ids`", "no input"]),
        ("file = \"conditioner.onnx\"", "file = \"decoder.onnx\"", ["decoder.onnx", "`image`", "no input"]),
        (
            "file = \"denoiser.onnx\"",
            "file = \"conditioner.onnx\"",
            ["conditioner.onnx", "`latents`", "no input"],
        ),
        ("channels = 4", "channels = 8", ["conditioner.onnx", "`noise`", "[1,8,?,?,?]"]),
    ] {
        let error = wrong("tiny-guest", from, to);
        assert!(words.iter().all(|word| error.contains(word)), "{from} -> {to}: {error}");
    }
    // A conditioner's step is held against its role, too.
    for (step, words) in [
        ("conditioner.onnx", ["conditioner.onnx", "`latents`", "no input"]),
        ("decoder.onnx", ["decoder.onnx", "`decode_noise`", "[parameters]"]),
    ] {
        let error = wrong("tiny-guest", "required = false", &format!("required = false\nstep = \"{step}\""));
        assert!(words.iter().all(|word| error.contains(word)), "{step}: {error}");
    }
    let unneeded = util::copy_of("tiny-guest");
    util::edit(&unneeded, "model.toml", "required = false", "required = true");
    util::edit(&unneeded, "model.toml", "condition_mask = 1.0\n", "");
    Package::open(unneeded.path()).unwrap();
}

#[test]
fn a_number_fills_only_what_has_a_known_shape() {
    // The decoder of a stream: its state has an axis that nothing here names, and is no state in the place of `file`.
    let copy = util::copy_of("tiny-stream");
    util::edit(&copy, "model.toml", "init = \"decoder_init.onnx\"\nstep = ", "file = ");
    util::edit(&copy, "model.toml", "temporal_compression_ratio = 4", "temporal_compression_ratio = 1");
    util::edit(&copy, "model.toml", "[stream]", "[parameters]\nstate_frame = 1.0\n\n[stream]");
    let error = Package::open(copy.path()).unwrap_err().to_string();
    for word in ["decoder_step.onnx", "`state_frame`", "[B,1,1,h,w]", "B, C, T, H, W, F"] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn large_weights_are_told_apart_by_their_pieces() {
    let copy = util::copy_of("tiny-stream");
    let id = || Package::open(copy.path()).unwrap().id().to_owned();
    let weights = std::fs::File::options().write(true).open(copy.path().join("decoder.weights")).unwrap();
    // A hole: it takes no room.
    weights.set_len(256 << 20).unwrap();
    let before = id();
    std::os::unix::fs::FileExt::write_at(&weights, b"another weight", (256 << 20) / 64 * 5).unwrap();
    assert_ne!(before, id());
}
