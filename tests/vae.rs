//! The video compression network: chunks go on from one another, sizes are cropped, tiles leave no trace, long clips are cut up.

mod util;

use std::sync::Arc;

use latentflow::vae::{Decoder, Encoder, Frames, Tiling};
use latentflow::{Cancel, Error, Model, Package, RuntimeOptions};
use util::{model, rgb};

const TILES: Tiling = Tiling::Tiles { width: 32, height: 32, overlap: 16 };

fn decoder(name: &str, width: usize, height: usize, tiling: Tiling) -> Decoder {
    Decoder::new(model(name), width, height, tiling).unwrap()
}

/// Latents that differ from cell to cell and from `seed` to seed.
fn latents(shape: [usize; 4], seed: usize) -> Vec<f32> {
    (0..shape.iter().product()).map(|i| ((i * 7 + seed * 13) as f32 * 0.37).sin() * 2.0).collect()
}

/// The latent frames `range` of [C,T,h,w].
fn from_frame(latents: &[f32], shape: [usize; 4], range: std::ops::Range<usize>) -> Vec<f32> {
    let plane = shape[2] * shape[3];
    let channels = latents.chunks(shape[1] * plane);
    channels.flat_map(|c| c[range.start * plane..range.end * plane].to_vec()).collect()
}

#[test]
fn a_scene_in_chunks_is_the_scene_at_once() {
    let cancel = Cancel::new();
    let mut decoder = decoder("tiny-stream", 64, 48, Tiling::Off);
    let shape = decoder.latent_shape(5);
    let scene = latents(shape, 0);
    let at_once = rgb(&decoder.decode(&scene, &cancel).unwrap());
    assert_eq!(at_once.len(), 17);

    decoder.reset();
    let mut in_chunks = Vec::new();
    for range in [0..1, 1..3, 3..5] {
        assert_eq!(decoder.is_first(), range.start == 0);
        in_chunks.extend(rgb(&decoder.decode(&from_frame(&scene, shape, range), &cancel).unwrap()));
    }
    assert!(in_chunks == at_once);
}

#[test]
fn a_reset_forgets_the_scene() {
    let cancel = Cancel::new();
    let mut used = decoder("tiny-stream", 64, 48, Tiling::Off);
    let chunk = latents(used.latent_shape(2), 1);
    let first = rgb(&used.decode(&chunk, &cancel).unwrap());
    let second = rgb(&used.decode(&chunk, &cancel).unwrap());
    assert_eq!((first.len(), second.len()), (5, 8));
    assert!(first[0] != second[3], "the state has an effect");
    used.reset();
    assert!(rgb(&used.decode(&chunk, &cancel).unwrap()) == first);
}

#[test]
fn a_scene_goes_on_after_the_decoder_was_closed() {
    let (model, cancel) = (model("tiny-stream"), Cancel::new());
    let mut decoder = Decoder::new(model.clone(), 64, 48, Tiling::Off).unwrap();
    let chunk = latents(decoder.latent_shape(2), 1);
    let mut scene = |close: bool| {
        decoder.reset();
        decoder.decode(&chunk, &cancel).unwrap();
        if close {
            decoder.close();
            assert_eq!(model.open_graphs(), 0);
        }
        rgb(&decoder.decode(&chunk, &cancel).unwrap())
    };
    assert!(scene(false) == scene(true));
}

#[test]
fn a_size_between_multiples_is_a_part_of_the_next_one() {
    let cancel = Cancel::new();
    let mut whole = decoder("tiny-stream", 64, 48, Tiling::Off);
    let mut odd = decoder("tiny-stream", 61, 35, Tiling::Off);
    assert_eq!(odd.latent_shape(1), whole.latent_shape(1));
    let chunk = latents(odd.latent_shape(1), 2);
    let whole = rgb(&whole.decode(&chunk, &cancel).unwrap()).remove(0);
    let odd = rgb(&odd.decode(&chunk, &cancel).unwrap()).remove(0);
    for (odd, whole) in odd.chunks(61 * 3).zip(whole.chunks(64 * 3)) {
        assert!(odd == &whole[..61 * 3]);
    }
}

#[test]
fn tiles_leave_no_trace_in_frames() {
    let cancel = Cancel::new();
    for name in ["tiny-stream", "tiny-clip"] {
        for (width, height) in [(96, 80), (91, 67), (32, 96), (16, 16)] {
            let mut whole = decoder(name, width, height, Tiling::Off);
            let mut tiled = decoder(name, width, height, TILES);
            // The stream's pieces have two latent frames.
            for (seed, count) in [2, 5, 1, 4].into_iter().enumerate() {
                let chunk = latents(whole.latent_shape(count), seed);
                let frames = frames_of(&whole.decode(&chunk, &cancel).unwrap());
                let tiled = frames_of(&tiled.decode(&chunk, &cancel).unwrap());
                assert!(frames == tiled, "{name} {width}x{height}: to the last bit");
            }
        }
    }
}

#[test]
fn a_tile_goes_through_the_whole_chunk_before_the_next_one() {
    let pieces = |tiling| {
        let mut decoder = decoder("tiny-stream", 64, 48, tiling);
        let (chunk, told) = (latents(decoder.latent_shape(5), 0), std::cell::RefCell::new(Vec::new()));
        let mut tell = |done, all| told.borrow_mut().push((done, all, 0));
        let each = |frames: Frames| {
            told.borrow_mut().last_mut().unwrap().2 += frames.len();
            Ok::<(), Error>(())
        };
        decoder.decode_each(&chunk, &Cancel::new(), &mut tell, each).unwrap();
        told.into_inner()
    };
    assert_eq!(pieces(Tiling::Off), [(1, 3, 5), (2, 3, 8), (3, 3, 4)], "frames come as they are made");
    let tiled = pieces(TILES);
    assert_eq!(tiled.len(), 3 * 2 * 3);
    assert!(tiled[..17].iter().enumerate().all(|(i, told)| *told == (i + 1, 18, 0)));
    assert_eq!(tiled[17], (18, 18, 17), "frames come in the end");
}

#[test]
fn tiles_leave_no_trace_in_latents() {
    let cancel = Cancel::new();
    let (width, height) = (91, 67);
    let (_folder, clips) = clip_codec();
    for model in [model("tiny-stream"), clips] {
        let encoder = |tiling| Encoder::new(model.clone(), width, height, tiling).unwrap();
        let (mut whole, mut tiled) = (encoder(Tiling::Off), encoder(TILES));
        for (chunk, count) in [1, 5, 2].into_iter().enumerate() {
            for index in 0..whole.num_frames(count) {
                let rgb: Vec<u8> =
                    (0..width * height * 3).map(|i| (i * 5 + index * 9 + chunk) as u8).collect();
                whole.push(&rgb, width * 3).unwrap();
                tiled.push(&rgb, width * 3).unwrap();
            }
            let (mut runs, whole) = (0, whole.encode(&cancel, &mut |_, _| ()).unwrap());
            assert!(whole == tiled.encode(&cancel, &mut |_, all| runs = all).unwrap());
            assert!(runs >= 20, "{runs} runs");
        }
    }
}

/// A model of clips whose encoder and decoder go on from piece to piece; with its folder, which has to live as long.
fn clip_codec() -> (tempfile::TempDir, Arc<Model>) {
    let folder = util::copy_of("tiny-guest");
    for file in ["encoder_init.onnx", "encoder_step.onnx", "decoder.weights"] {
        std::fs::copy(util::package("tiny-stream").join(file), folder.path().join(file)).unwrap();
    }
    let encoder = "[encoder]\ninit = \"encoder_init.onnx\"\nstep = \"encoder_step.onnx\"\n";
    util::edit(&folder, "model.toml", "[parameters]\n", &format!("{encoder}\n[parameters]\n"));
    let package = Arc::new(Package::open(folder.path()).unwrap());
    (folder, Arc::new(Model::new(package, RuntimeOptions::default())))
}

#[test]
fn every_chunk_of_a_model_of_clips_is_a_scene() {
    let cancel = Cancel::new();
    let (_folder, pieces) = clip_codec();
    for model in [model("tiny-clip"), pieces] {
        let mut decoder = Decoder::new(model.clone(), 64, 48, TILES).unwrap();
        let clip = latents(decoder.latent_shape(5), 0);
        let frames = rgb(&decoder.decode(&clip, &cancel).unwrap());
        assert!(frames.len() == 17 && decoder.is_first());
        assert!(rgb(&decoder.decode(&clip, &cancel).unwrap()) == frames);

        let mut encoder = Encoder::new(model, 64, 48, TILES).unwrap();
        assert!(!encoder.is_stream());
        let mut encode = || {
            frames.iter().for_each(|frame| encoder.push(frame, 64 * 3).unwrap());
            encoder.encode(&cancel, &mut |_, _| ()).unwrap()
        };
        let encoded = encode();
        assert!(encoded.first && encode() == encoded);
    }
}

#[test]
fn what_was_decoded_encodes_to_the_same_latents() {
    let cancel = Cancel::new();
    for name in ["tiny-stream", "tiny-clip"] {
        let mut decoder = decoder(name, 64, 48, Tiling::Auto);
        let mut encoder = Encoder::new(model(name), 64, 48, Tiling::Auto).unwrap();
        assert_eq!(encoder.is_stream(), name == "tiny-stream");
        for _ in 0..2 {
            let chunk = vec![0.5; decoder.latent_shape(2).iter().product()];
            let frames = decoder.decode(&chunk, &cancel).unwrap();
            assert_eq!(frames.len(), encoder.num_frames(2));
            for frame in rgb(&frames) {
                encoder.push(&frame, 64 * 3).unwrap();
            }
            let encoded = encoder.encode(&cancel, &mut |_, _| ()).unwrap();
            assert_eq!(encoded.num_frames, frames.len());
            assert_eq!(encoded.latents.len(), chunk.len());
            let colours = encoded.latents.iter().take(chunk.len() / 4 * 3).zip(&chunk);
            for (encoded, latent) in colours {
                assert!((encoded - latent).abs() < 0.3, "{encoded} for {latent}");
            }
        }
    }
}

#[test]
fn the_last_group_is_padded_and_ends_the_scene() {
    let cancel = Cancel::new();
    let mut encoder = Encoder::new(model("tiny-stream"), 64, 48, Tiling::Auto).unwrap();
    let mut encode = |frames: usize| {
        for index in 0..frames {
            encoder.push(&[index as u8 * 10; 64 * 48 * 3], 64 * 3).unwrap();
        }
        encoder.encode(&cancel, &mut |_, _| ()).unwrap()
    };
    let (opening, partial, next) = (encode(1), encode(2), encode(1));
    assert_eq!((opening.num_frames, opening.first), (1, true));
    assert_eq!((partial.num_frames, partial.first), (2, false));
    assert_eq!(partial.latents.len(), opening.latents.len());
    assert!(next == opening, "a scene starts after a group that was not full");
    assert!(matches!(encoder.encode(&cancel, &mut |_, _| ()), Err(Error::Shape { .. })), "there is no frame");
}

#[test]
fn rows_may_be_further_apart_than_the_width() {
    let cancel = Cancel::new();
    let mut encoder = Encoder::new(model("tiny-stream"), 61, 35, Tiling::Auto).unwrap();
    let tight: Vec<u8> = (0..61 * 35 * 3).map(|i| (i % 251) as u8).collect();
    let mut wide = Vec::new();
    for row in tight.chunks(61 * 3) {
        wide.extend_from_slice(row);
        wide.extend([255; 9]);
    }
    encoder.push(&tight, 61 * 3).unwrap();
    let expected = encoder.encode(&cancel, &mut |_, _| ()).unwrap();
    encoder.reset();
    encoder.push(&wide[..wide.len() - 9], 61 * 3 + 9).unwrap();
    assert!(encoder.encode(&cancel, &mut |_, _| ()).unwrap() == expected);
    assert!(encoder.push(&tight[1..], 61 * 3).is_err());
    assert!(encoder.push(&wide, 61 * 3 - 1).is_err());
}

#[test]
fn sizes_out_of_range_are_named() {
    for (width, height, setting) in [(520, 48, "width"), (64, 8, "height"), (0, 0, "width")] {
        for error in [
            Decoder::new(model("tiny-stream"), width, height, Tiling::Auto).unwrap_err(),
            Encoder::new(model("tiny-stream"), width, height, Tiling::Auto).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(matches!(error, Error::Setting { setting: s, .. } if s == setting), "{text}");
            assert!(text.contains("16 to 512"), "{text}");
        }
    }
}

#[test]
fn a_chunk_of_another_length_is_refused_and_says_what_would_do() {
    let mut decoder = decoder("tiny-stream", 64, 48, Tiling::Auto);
    for length in [0, 1, 4 * 6 * 8 + 1] {
        let error = decoder.decode(&vec![0.0; length], &Cancel::new()).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }));
        assert!(error.to_string().contains("[4,T,6,8]"), "{error}");
    }
}

#[test]
fn a_package_without_the_other_half_says_so() {
    let folder = util::copy_of("tiny-clip");
    util::edit(&folder, "model.toml", "[encoder]\nfile = \"encoder.onnx\"\n", "");
    let package = Arc::new(Package::open(folder.path()).unwrap());
    let model = Arc::new(Model::new(package, RuntimeOptions::default()));
    let error = Encoder::new(model.clone(), 64, 48, Tiling::Auto).unwrap_err().to_string();
    assert!(error.contains("model.toml") && error.contains("[encoder]"), "{error}");
    assert!(Decoder::new(model, 64, 48, Tiling::Auto).is_ok());
}

#[test]
fn a_cancelled_chunk_ends_the_scene() {
    let cancel = Cancel::new();
    let mut decoder = decoder("tiny-stream", 64, 48, Tiling::Auto);
    let chunk = latents(decoder.latent_shape(1), 3);
    decoder.decode(&chunk, &cancel).unwrap();
    assert!(!decoder.is_first());
    cancel.cancel();
    assert!(matches!(decoder.decode(&chunk, &cancel), Err(Error::Cancelled)));
    cancel.reset();
    assert!(decoder.is_first());
    assert_eq!(decoder.decode(&chunk, &cancel).unwrap().len(), 1);
}

/// A model of clips, four frames a latent frame, that codes clips of more than `min` frames in segments, one every `stride` frames;
/// with its folder, which has to live as long.
fn segmented(min: usize, stride: usize) -> (tempfile::TempDir, Arc<Model>) {
    let folder = util::copy_of("tiny-clip");
    for codec in ["decoder", "encoder"] {
        let file = format!("file = \"{codec}.onnx\"\n");
        let fields =
            format!("tile_sample_min_num_frames = {min}\ntile_sample_stride_num_frames = {stride}\n");
        util::edit(&folder, "model.toml", &file, &format!("{file}{fields}"));
    }
    let package = Arc::new(Package::open(folder.path()).unwrap());
    (folder, Arc::new(Model::new(package, RuntimeOptions::default())))
}

/// diffusers' `blend_t` and the concatenation after it, on the coded segments, each a list of frames or latent frames: all of the first,
/// of later ones all but the first, from which the one before fades over `overlap`; `stride` of each are taken.
fn blended(mut segments: Vec<Vec<Vec<f32>>>, overlap: usize, stride: usize) -> Vec<Vec<f32>> {
    let mut clip = Vec::new();
    for index in 0..segments.len() {
        if index > 0 {
            segments[index].remove(0);
            let before = segments[index - 1].clone();
            let own = &mut segments[index];
            let overlap = overlap.min(before.len()).min(own.len());
            for x in 0..overlap {
                let share = x as f32 / overlap as f32;
                for (own, before) in own[x].iter_mut().zip(&before[before.len() - overlap + x]) {
                    *own = before * (1.0 - share) + *own * share;
                }
            }
        }
        clip.extend(segments[index].iter().take(stride + usize::from(index == 0)).cloned());
    }
    clip
}

fn frames_of(frames: &Frames) -> Vec<Vec<f32>> {
    (0..frames.len()).map(|index| frames.rows(index).flatten().copied().collect()).collect()
}

fn assert_same(found: &[Vec<f32>], right: &[Vec<f32>]) {
    assert_eq!(found.len(), right.len());
    for (index, (found, right)) in found.iter().zip(right).enumerate() {
        let worst = found.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == right.len() && worst < 1e-6, "frame {index} is off by {worst}");
    }
}

#[test]
fn a_long_clip_is_decoded_in_segments_that_fade_into_each_other() {
    let cancel = Cancel::new();
    let mut whole = decoder("tiny-clip", 64, 48, Tiling::Off);
    // Of 8 frames every 4 (and a last segment of 8 frames), and of 16 every 8 with half of each faded.
    for (min, stride, starts, count) in
        [(8, 4, vec![0..3, 1..4, 2..5, 3..5], 5), (16, 8, vec![0..5, 2..7, 4..7], 7)]
    {
        let shape = whole.latent_shape(count);
        let clip = latents(shape, 5);
        let mut part = |range| frames_of(&whole.decode(&from_frame(&clip, shape, range), &cancel).unwrap());
        let right = blended(starts.into_iter().map(&mut part).collect(), min - stride, stride);
        assert_eq!(right.len(), 1 + (count - 1) * 4);
        for tiling in [Tiling::Off, TILES] {
            let (_folder, model) = segmented(min, stride);
            let mut decoder = Decoder::new(model, 64, 48, tiling).unwrap();
            for _ in 0..2 {
                let mut found = Vec::new();
                let mut lengths = Vec::new();
                let each = |frames: Frames| {
                    lengths.push(frames.len());
                    found.extend(frames_of(&frames));
                    Ok::<(), Error>(())
                };
                decoder.decode_each(&clip, &cancel, &mut |_, _| (), each).unwrap();
                assert_eq!(lengths[..2], [stride + 1, stride], "frames come as they are final");
                assert_same(&found, &right);
            }
        }
    }
}

#[test]
fn a_clip_of_one_segment_is_decoded_whole() {
    let cancel = Cancel::new();
    let (_folder, model) = segmented(8, 4);
    let mut segmented = Decoder::new(model, 64, 48, Tiling::Off).unwrap();
    let clip = latents(segmented.latent_shape(2), 5);
    let right = decoder("tiny-clip", 64, 48, Tiling::Off).decode(&clip, &cancel).unwrap();
    assert!(frames_of(&segmented.decode(&clip, &cancel).unwrap()) == frames_of(&right));
}

#[test]
fn a_long_clip_is_encoded_in_segments_that_fade_into_each_other() {
    let cancel = Cancel::new();
    let clip: Vec<Vec<u8>> =
        (0..25).map(|n| (0..64 * 48 * 3).map(|i| (i * 5 + n * n * 3) as u8).collect()).collect();
    let encode = |model, frames: &[Vec<u8>]| {
        let mut encoder = Encoder::new(model, 64, 48, Tiling::Off).unwrap();
        frames.iter().for_each(|frame| encoder.push(frame, 64 * 3).unwrap());
        let latents = encoder.encode(&cancel, &mut |_, _| ()).unwrap().latents;
        let shape = encoder.latent_shape(latents.len() / encoder.latent_shape(1).iter().product::<usize>());
        (0..shape[1]).map(|t| from_frame(&latents, shape, t..t + 1)).collect::<Vec<_>>()
    };
    let parts = [0..17, 8..25, 16..25].map(|range| encode(model("tiny-clip"), &clip[range])).to_vec();
    let right = blended(parts, 2, 2);
    assert_eq!(right.len(), 7);
    let (_folder, model) = segmented(16, 8);
    assert_same(&encode(model, &clip), &right);
}
