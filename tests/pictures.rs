//! Pictures out of a pipeline, and pictures into one: models of images, the pad `image`, the lengths of clips.

mod util;

use gst::prelude::*;
use util::{copy_of, edit, init, launch, package, probe};

/// A frame: when it is, for how long, and its RGB bytes.
type Frame = (Option<gst::ClockTime>, Option<gst::ClockTime>, Vec<u8>);

/// Returns the caps and the frames that `line` gives to its end, which has to be a good one.
fn run(line: &str) -> (gst::Caps, Vec<Frame>) {
    try_run(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Returns the first error on the bus where there is one.
fn try_run(line: &str) -> Result<(gst::Caps, Vec<Frame>), String> {
    init();
    let pipeline = gst::parse::launch(&format!("{line} appsink name=out sync=false")).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    // The error is on the bus.
    let _ = pipeline.set_state(gst::State::Playing);
    let out = pipeline.by_name("out").unwrap();
    let (mut caps, mut frames) = (gst::Caps::new_empty(), Vec::new());
    let bus = pipeline.bus().unwrap();
    while let Some(sample) = out.emit_by_name::<Option<gst::Sample>>("try-pull-sample", &[&20_000_000_000u64])
    {
        let buffer = sample.buffer().unwrap();
        caps = sample.caps_owned().unwrap();
        frames.push((buffer.pts(), buffer.duration(), buffer.map_readable().unwrap().to_vec()));
    }
    let error = bus.pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    match error.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => Err(error.error().to_string()),
        _ => Ok((caps, frames)),
    }
}

fn model(name: &str) -> String {
    package(name).display().to_string()
}

fn seconds(seconds: f64) -> Option<gst::ClockTime> {
    Some(gst::ClockTime::from_seconds_f64(seconds))
}

fn times(frames: &[Frame]) -> Vec<(Option<gst::ClockTime>, Option<gst::ClockTime>)> {
    frames.iter().map(|(pts, duration, _)| (*pts, *duration)).collect()
}

/// The mean of a channel over a frame.
fn mean(rgb: &[u8], channel: usize) -> f64 {
    let values: Vec<f64> = rgb.iter().skip(channel).step_by(3).map(|v| f64::from(*v)).collect();
    values.iter().sum::<f64>() / values.len() as f64
}

mod a_model_of_images {
    use super::*;

    fn line(source: &str, rest: &str) -> String {
        format!("textsrc model={} {source} ! latentdiffuse ! vaedecode ! {rest}", model("tiny-image"))
    }

    #[test]
    fn makes_one_picture_of_a_prompt() {
        let (caps, frames) = run(&line("prompt=red", ""));
        assert_eq!(times(&frames), [(seconds(0.0), seconds(1.0))]);
        assert!(mean(&frames[0].2, 0) > mean(&frames[0].2, 1) + 50.0);
        let caps = caps.structure(0).unwrap();
        assert_eq!(caps.get::<gst::Fraction>("framerate"), Ok(gst::Fraction::new(1, 1)));
    }

    #[test]
    fn makes_one_of_each_cue_for_as_long_as_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let story = folder.path().join("story.srt");
        let cues = "1\n00:00:00,000 --> 00:00:01,500\nred\n\n2\n00:00:01,500 --> 00:00:04,250\nblue\n";
        std::fs::write(&story, cues).unwrap();
        for caps in ["", "video/x-raw,framerate=0/1 !", "video/x-raw,framerate=24/1 !"] {
            let (_, frames) = run(&line(&format!("location={}", story.display()), caps));
            let expected = [(seconds(0.0), seconds(1.5)), (seconds(1.5), seconds(2.75))];
            assert_eq!(times(&frames), expected, "{caps}");
            assert!(
                mean(&frames[0].2, 0) > mean(&frames[1].2, 0)
                    && mean(&frames[0].2, 2) < mean(&frames[1].2, 2)
            );
        }
    }

    #[test]
    fn makes_one_of_each_line() {
        let folder = tempfile::tempdir().unwrap();
        let lines = folder.path().join("prompts.txt");
        std::fs::write(&lines, "red\n绿色\nblue\n").unwrap();
        let (_, frames) = run(&line(&format!("location={} duration=500000000", lines.display()), ""));
        let expected = [0.0, 0.5, 1.0].map(|start| (seconds(start), seconds(0.5)));
        assert_eq!(times(&frames), expected);
    }

    #[test]
    fn goes_into_image_files() {
        let folder = tempfile::tempdir().unwrap();
        let png = folder.path().join("red.png");
        let sink = format!("videoconvert ! pngenc ! filesink location={}", png.display());
        launch(&line("prompt=red", &sink)).succeed();
        assert_eq!(probe(&png, "-show_entries stream=codec_name,width,height"), ["png,64,48"]);

        // An encoder that wants no more than a picture ends the pipeline.
        let snapshot = "videoconvert ! pngenc snapshot=true ! fakesink";
        launch(&line("prompt=red", snapshot)).succeed();

        let lines = folder.path().join("prompts.txt");
        std::fs::write(&lines, "red\ngreen\n").unwrap();
        let pattern = folder.path().join("%02d.jpg");
        let sink = format!("videoconvert ! jpegenc ! multifilesink location={}", pattern.display());
        launch(&line(&format!("location={}", lines.display()), &sink)).succeed();
        for name in ["00.jpg", "01.jpg"] {
            let entries = "-show_entries stream=codec_name,width,height";
            assert_eq!(probe(&folder.path().join(name), entries), ["mjpeg,64,48"]);
        }
        assert!(!folder.path().join("02.jpg").exists());
    }

    #[test]
    fn reads_text_streams_too() {
        init();
        let line = format!("textencode model={} ! latentdiffuse ! vaedecode", model("tiny-image"));
        let mut harness = gst_check::Harness::new_parse(&line);
        harness.set_src_caps_str("text/x-raw,format=utf8");
        for prompt in ["red", "blue"] {
            let mut buffer = gst::Buffer::from_slice(prompt);
            buffer.get_mut().unwrap().set_pts(gst::ClockTime::ZERO);
            harness.push(buffer).unwrap();
        }
        harness.push_event(gst::event::Eos::new());
        let frames: Vec<_> = (0..2).map(|_| harness.pull().unwrap()).collect();
        assert_eq!(frames.len(), 2);
    }
}

mod the_image_pad {
    use super::*;

    /// `image` is a source of the picture.
    fn frames(package: &str, image: &str) -> Result<Vec<Frame>, String> {
        let prompt = format!("textsrc model={package} prompt=red ! d.sink");
        let line = format!("latentdiffuse name=d ! vaedecode name=last {prompt} {image} ! d.image last. !");
        try_run(&line).map(|(_, frames)| frames)
    }

    /// One picture of a colour.
    const BLUE: &str = "videotestsrc num-buffers=1 pattern=blue ! video/x-raw,width=64,height=48";

    #[test]
    fn takes_the_picture_that_the_clip_starts_with() {
        let blue = frames(&model("tiny-guest"), BLUE).unwrap();
        assert_eq!(blue.len(), 17, "the default clip");
        let first = &blue[0].2;
        assert!(mean(first, 2) > 200.0 && mean(first, 0) < 60.0, "{} {}", mean(first, 0), mean(first, 2));
    }

    #[test]
    fn takes_any_format_and_size_and_the_first_frame_alone() {
        for image in [
            "videotestsrc pattern=blue ! video/x-raw,format=I420,width=320,height=240",
            "videotestsrc num-buffers=3 pattern=blue ! video/x-raw,format=GRAY16_LE,width=100,height=30",
            "videotestsrc num-buffers=1 pattern=blue ! jpegenc ! jpegdec ! imagefreeze",
            "videotestsrc num-buffers=1 pattern=blue ! pngenc ! decodebin",
        ] {
            let frames = frames(&model("tiny-guest"), image).unwrap();
            assert_eq!(frames.len(), 17, "{image}");
        }
    }

    #[test]
    fn without_a_picture_is_as_if_it_were_not_there() {
        let none = frames(&model("tiny-guest"), "videotestsrc num-buffers=0").unwrap();
        let line = format!("textsrc model={} prompt=red ! latentdiffuse ! vaedecode !", model("tiny-guest"));
        assert!(none == run(&line).1);
    }

    #[test]
    fn of_a_model_that_takes_none_is_an_error() {
        let error = frames(&model("tiny-clip"), BLUE).unwrap_err();
        assert!(error.contains("`image`") && error.contains("[conditioner]"), "{error}");
        let error = frames(&model("tiny-stream"), BLUE).unwrap_err();
        assert!(error.contains("`image`") && error.contains("vaeencode"), "{error}");
    }

    #[test]
    fn that_is_needed_and_not_linked_is_an_error() {
        let package = copy_of("tiny-guest");
        edit(&package, "model.toml", "required = false", "required = true");
        let folder = package.path().display();
        let error =
            try_run(&format!("textsrc model={folder} prompt=red ! latentdiffuse ! vaedecode !")).unwrap_err();
        assert!(
            error.contains("`image`") && error.contains("missing") && error.contains("d.image"),
            "{error}"
        );
    }
}

mod a_clip {
    use super::*;

    fn line(duration: u64) -> String {
        format!(
            "textsrc model={} prompt=red duration={duration} ! latentdiffuse ! vaedecode ! video/x-raw,framerate=8/1 !",
            model("tiny-guest")
        )
    }

    #[test]
    fn is_cut_from_the_next_length_that_the_model_can_do() {
        for (milliseconds, frames) in [(250, 2), (1250, 10), (5000, 40)] {
            assert_eq!(run(&line(milliseconds * 1_000_000)).1.len(), frames);
        }
    }

    #[test]
    fn longer_than_the_model_can_do_is_an_error() {
        let error = try_run(&line(6_000_000_000)).unwrap_err();
        assert!(
            error.contains("`duration`") && error.contains("48 frames") && error.contains("41"),
            "{error}"
        );
    }
}

mod keep_loaded {
    use super::*;

    #[test]
    fn changes_no_frame() {
        let folder = tempfile::tempdir().unwrap();
        let story = folder.path().join("story.txt");
        std::fs::write(&story, "red\nblue\na green cat\n").unwrap();
        for name in ["tiny-clip", "tiny-guest", "tiny-image", "tiny-stream"] {
            let line = |keep: &str, queue: &str| {
                format!(
                    "textsrc model={} location={} {keep} ! {queue} latentdiffuse {keep} ! {queue} vaedecode {keep} !",
                    model(name),
                    story.display()
                )
            };
            let kept = run(&line("", "")).1;
            assert!(kept == run(&line("keep-loaded=false", "")).1, "{name}");
            assert!(kept == run(&line("keep-loaded=false", "queue !")).1, "{name} with queues");
        }
    }

    #[test]
    fn lets_two_branches_of_a_model_run_side_by_side() {
        let model = model("tiny-clip");
        let prompt =
            format!("textsrc model={model} prompt=red keep-loaded=false ! latentdiffuse keep-loaded=false");
        let branch = format!("{prompt} ! vaedecode keep-loaded=false ! mix.");
        let line = format!("compositor name=mix {branch} {branch}");
        assert_eq!(run(&format!("{line} mix. ! videoconvert ! ")).1.len(), 17);
    }
}
