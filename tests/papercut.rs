//! The embedded model in real pipelines: that it is there, what decides its frames, and that it says what the prompt says.

mod util;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;
use latentflow::{Cancel, DiffuseOptions, Diffuser, Model, RuntimeOptions, TextEncoder};
use util::init;

const SIZE: &str = "width=256,height=160,framerate=24/1";

/// A frame: when it is, and its RGB bytes.
type Frame = (gst::ClockTime, Vec<u8>);

/// `textsrc … ! latentdiffuse … ! vaedecode ! appsink`.
struct Video(gst::Pipeline);

impl Video {
    fn new(source: &str, diffuse: &str, between: &str, caps: &str) -> Self {
        init();
        let line = format!(
            "textsrc {source} {between} ! latentdiffuse {diffuse} {between} ! vaedecode {between} ! \
             video/x-raw,format=RGB,{caps} ! appsink name=out sync=false"
        );
        let video = Self(gst::parse::launch(&line).unwrap().downcast().unwrap());
        video.0.set_state(gst::State::Playing).unwrap();
        video
    }

    /// Returns the frames up to the end of the stream.
    fn frames(&self) -> Vec<Frame> {
        let out = self.0.by_name("out").unwrap();
        let mut frames = Vec::new();
        while let Some(sample) = out.emit_by_name::<Option<gst::Sample>>("pull-sample", &[]) {
            let buffer = sample.buffer().unwrap();
            frames.push((buffer.pts().unwrap(), buffer.map_readable().unwrap().to_vec()));
        }
        let bus = self.0.bus().unwrap();
        if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
            panic!("{message:?}");
        }
        frames
    }
}

impl Drop for Video {
    fn drop(&mut self) {
        self.0.set_state(gst::State::Null).unwrap();
    }
}

fn source(prompt: &str, milliseconds: u64) -> String {
    format!("prompt=\"{prompt}\" duration={}", milliseconds * 1_000_000)
}

fn frames(prompt: &str, seed: u64) -> Vec<Frame> {
    Video::new(&source(prompt, 500), &format!("seed={seed}"), "", SIZE).frames()
}

/// The mean of a channel over all frames, 0 to 255.
fn mean(frames: &[Frame], channel: usize) -> f64 {
    let values = frames.iter().flat_map(|(_, rgb)| rgb.iter().skip(channel).step_by(3));
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), v| (sum + f64::from(*v), count + 1.0));
    sum / count
}

#[test]
fn is_built_in_and_small_enough_for_it() {
    let package = latentflow::papercut().unwrap();
    assert!(package.id().starts_with("papercut-"), "{}", package.id());
    assert!(package.manifest().stream.is_some(), "it goes on for ever");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/papercut");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(files.sum::<u64>() <= 60_000_000);
}

mod the_frames {
    use super::*;

    #[test]
    fn are_on_time() {
        let frames = frames("a garden", 1);
        assert_eq!(frames.len(), 12);
        for (index, (pts, rgb)) in frames.iter().enumerate() {
            assert_eq!(pts.nseconds(), index as u64 * 1_000_000_000 / 24);
            assert_eq!(rgb.len(), 256 * 160 * 3);
        }
    }

    #[test]
    fn are_the_same_with_queues_or_without_and_others_of_another_seed() {
        let direct = frames("a dog runs in the snow", 7);
        let queued = Video::new(&source("a dog runs in the snow", 500), "seed=7", "! queue", SIZE).frames();
        assert!(direct == queued);
        assert!(direct != frames("a dog runs in the snow", 8));
    }

    #[test]
    fn are_the_same_after_a_seek() {
        let source = source("一只橙色的猫坐在窗台上看日落", 1500);
        let whole = Video::new(&source, "seed=3", "", SIZE).frames();
        let video = Video::new(&source, "seed=3", "", SIZE);
        let out = video.0.by_name("out").unwrap();
        out.emit_by_name::<Option<gst::Sample>>("pull-sample", &[]).unwrap();
        let position = gst::ClockTime::from_mseconds(1000);
        video.0.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, position).unwrap();
        let rest = video.frames();
        assert_eq!(rest.len(), 12);
        assert!(rest == whole[24..]);
    }

    #[test]
    fn are_of_any_shape_that_is_asked_for() {
        for (width, height) in [(160, 256), (192, 192), (320, 160), (200, 150)] {
            let caps = format!("width={width},height={height},framerate=25/1");
            let frames = Video::new(&source("a city", 200), "", "", &caps).frames();
            assert_eq!(frames.len(), 5, "{width} by {height}");
        }
    }

    #[test]
    fn show_motion() {
        let frames = frames("a dog runs to the left in the snow", 5);
        let (first, last) = (&frames[0].1, &frames[11].1);
        let moved: f64 = first.iter().zip(last).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        assert!(moved / first.len() as f64 > 1.0, "a frozen picture");
    }
}

#[test]
fn a_prompt_that_leans_away_from_itself_is_as_without_guidance_also_where_that_comes_in_the_middle() {
    let model = Arc::new(Model::new(Arc::new(latentflow::papercut().unwrap()), RuntimeOptions::default()));
    let text = TextEncoder::new(model.clone()).unwrap();
    let prompt =
        text.encode("a dog runs in the snow", Some("a dog runs in the snow"), &Cancel::new()).unwrap();
    let chunks = |scales: [f32; 5]| -> Vec<f32> {
        let options = DiffuseOptions { width: 128, height: 128, ..DiffuseOptions::new(&model) };
        let mut diffuser = Diffuser::new(model.clone(), options).unwrap();
        let mut made = Vec::new();
        for scale in scales {
            let options = DiffuseOptions { guidance_scale: Some(scale), ..diffuser.options().clone() };
            diffuser.set_options(options).unwrap();
            let (positive, negative) = (prompt.positive(), prompt.negative());
            made.extend(diffuser.chunk(positive, negative, 3, &Cancel::new(), &mut |_, _, _| ()).unwrap());
        }
        made
    };
    let plain = chunks([1.0; 5]);
    for guided in [[3.0; 5], [1.0, 1.0, 3.0, 1.0, 3.0]] {
        let apart = chunks(guided).iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-2, "{apart} with {guided:?}");
    }
}

mod the_prompt {
    use super::*;

    #[test]
    fn says_the_time_of_day_in_both_languages() {
        for (day, night) in [("a city in the daytime", "a city at night"), ("白天的花园", "夜晚的花园")]
        {
            let (day, night) = (frames(day, 1), frames(night, 1));
            let brightness = |frames: &[Frame]| (0..3).map(|c| mean(frames, c)).sum::<f64>();
            assert!(brightness(&day) > 1.3 * brightness(&night));
        }
    }

    #[test]
    fn says_the_place_in_both_languages() {
        for (garden, sea) in [("a garden", "underwater ruins"), ("花园", "水下遗迹")] {
            let (garden, sea) = (frames(garden, 2), frames(sea, 2));
            let blueness = |frames: &[Frame]| mean(frames, 2) - mean(frames, 0);
            assert!(blueness(&sea) > blueness(&garden) + 20.0);
        }
    }

    #[test]
    fn may_be_written_as_in_taiwan() {
        assert!(frames("一隻貓坐在窗臺上看日落", 3) == frames("一只猫坐在窗台上看日落", 3));
    }

    #[test]
    fn with_words_that_it_does_not_know_is_warned_of_in_both_languages() {
        let unknown = [
            ("a garden with a platypus", "`platypus`"),
            ("花园里的鸭嘴兽", "`鸭嘴兽`"),
            ("月球上的猫", "`月`"),
        ];
        for (prompt, word) in unknown {
            let video = Video::new(&source(prompt, 1), "", "", SIZE);
            let told = [gst::MessageType::Warning, gst::MessageType::Error];
            let message = video.0.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &told);
            let message = message.expect("a message within a minute");
            let gst::MessageView::Warning(warning) = message.view() else { panic!("{message:?}") };
            assert!(warning.error().to_string().contains(word), "{}", warning.error());
        }
    }

    #[test]
    fn that_changes_while_playing_is_the_next_chunk() {
        let video = Video::new("name=text prompt=\"a garden\"", "name=diffuse", "", SIZE);
        let [text, diffuse] = ["text", "diffuse"].map(|name| video.0.by_name(name).unwrap());
        let (arrived, arrival) = channel();
        diffuse.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let _ = arrived.send(());
            gst::PadProbeReturn::Ok
        });
        // As the second chunk leaves, the prompt changes, and the third is not begun before it has arrived.
        let (chunks, arrival) = (AtomicUsize::new(0), Mutex::new(arrival));
        diffuse.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            if chunks.fetch_add(1, Ordering::SeqCst) == 1 {
                let arrival = arrival.lock().unwrap();
                arrival.try_iter().for_each(drop);
                text.set_property("prompt", "underwater ruins");
                arrival.recv_timeout(Duration::from_secs(60)).unwrap();
                std::thread::sleep(Duration::from_millis(200));
            }
            gst::PadProbeReturn::Ok
        });
        let out = video.0.by_name("out").unwrap();
        let mut blueness = (0..33).map(|_| {
            let sample = out.emit_by_name::<Option<gst::Sample>>("pull-sample", &[]).unwrap();
            let rgb = sample.buffer().unwrap().map_readable().unwrap().to_vec();
            let frame = [(gst::ClockTime::ZERO, rgb)];
            mean(&frame, 2) - mean(&frame, 0)
        });
        // A scene's first chunk has 9 frames, later ones have 12.
        let garden: Vec<f64> = blueness.by_ref().take(21).collect();
        let sea: Vec<f64> = blueness.collect();
        let most = garden.into_iter().fold(f64::MIN, f64::max);
        assert!(sea.iter().all(|blue| *blue > most + 20.0), "{most}, {sea:?}");
    }
}
