//! Packages: those of the tests open whole, and their graphs run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use latentflow::package::CodecConfig;
use latentflow::{Cancel, Feeds, Model, Package, RuntimeOptions, Tensor};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/packages").join(name)
}

fn open(name: &str) -> Model {
    Model::new(Arc::new(Package::open(&folder(name)).unwrap()), RuntimeOptions::default())
}

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
