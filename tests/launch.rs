//! Launch lines as users type them, run by the real `gst-launch-1.0`: what comes out is a video, whole, on time and the same
//! again.

mod util;

use std::path::Path;

use tempfile::tempdir;
use util::{launch, package, probe};

/// `textsrc ! latentdiffuse ! vaedecode` of tiny-stream for a second, with `between` between any two elements.
fn generate(seed: u32, between: &str) -> String {
    let model = package("tiny-stream").display().to_string();
    format!(
        "textsrc model={model} prompt=\"a red cat\" duration=1000000000 {between} ! latentdiffuse seed={seed} {between} \
         ! vaedecode {between} ! video/x-raw,width=64,height=48,framerate=24/1"
    )
}

/// The bytes of all frames of such a pipeline.
fn frames(seed: u32, between: &str) -> Vec<u8> {
    let folder = tempdir().unwrap();
    let file = folder.path().join("frames.rgb");
    launch(&format!(
        "{} {between} ! videoconvert ! video/x-raw,format=RGB ! filesink location={}",
        generate(seed, between),
        file.display()
    ))
    .succeed();
    std::fs::read(file).unwrap()
}

/// The video in `file` has `frames` frames of `size` (`WIDTH,HEIGHT`), evenly spaced at `rate`.
fn assert_video(file: &Path, size: &str, rate: u32, frames: usize) {
    // Containers of many programs name their streams more than once.
    let sizes = probe(file, "-select_streams v:0 -show_entries stream=width,height");
    assert!(!sizes.is_empty() && sizes.iter().all(|s| s == size), "{sizes:?}");
    let times = probe(file, "-select_streams v:0 -show_entries frame=pts_time");
    let times: Vec<f64> = times.iter().map(|t| t.parse().unwrap()).collect();
    assert_eq!(times.len(), frames, "frames of {}", file.display());
    for (index, time) in times.iter().enumerate() {
        let expected = times[0] + index as f64 / f64::from(rate);
        // Containers round to a millisecond (Matroska) or to their time scale.
        assert!((time - expected).abs() < 0.001, "frame {index} of {} is at {time}", file.display());
    }
}

#[test]
fn a_prompt_becomes_an_mp4_with_papercut_and_with_a_package_in_a_folder() {
    let model = format!("model={}", package("tiny-stream").display());
    for model in ["", &model] {
        let folder = tempdir().unwrap();
        let file = folder.path().join("dog.mp4");
        launch(&format!(
            "textsrc {model} prompt=\"a dog runs in the snow\" duration=3000000000 ! latentdiffuse seed=7 ! vaedecode \
             ! video/x-raw,width=256,height=160,framerate=24/1 ! videoconvert ! x264enc ! mp4mux ! filesink location={}",
            file.display()
        ))
        .succeed();
        assert_video(&file, "256,160", 24, 72);
        assert_eq!(probe(&file, "-show_entries format=duration")[0].parse::<f64>().unwrap(), 3.0);
    }
}

#[test]
fn papercut_gives_the_same_frames_again() {
    let frames = |seed: u32, between: &str| {
        let folder = tempdir().unwrap();
        let file = folder.path().join("frames.rgb");
        launch(&format!(
            "textsrc prompt=雪地里的狗 duration=500000000 {between} ! latentdiffuse seed={seed} {between} ! vaedecode {between} \
             ! video/x-raw,width=128,height=128,framerate=24/1 ! videoconvert ! video/x-raw,format=RGB ! filesink location={}",
            file.display()
        ))
        .succeed();
        std::fs::read(file).unwrap()
    };
    let first = frames(7, "");
    assert_eq!(first.len(), 12 * 128 * 128 * 3);
    assert!(first == frames(7, "! queue"), "in another process, with a thread an element");
    assert!(first != frames(8, ""), "of another seed");
}

#[test]
fn a_model_of_whole_clips_makes_its_clip() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("cat.mkv");
    launch(&format!(
        "textsrc model={} prompt=一只红色的猫 ! latentdiffuse ! vaedecode ! videoconvert ! x264enc ! matroskamux \
         ! filesink location={}",
        package("tiny-clip").display(),
        file.display()
    ))
    .succeed();
    assert_video(&file, "64,48", 24, 17);
}

#[test]
fn pictures_that_are_soon_made_play_through_a_queue() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = folder.path().join("prompts.txt");
    std::fs::write(&prompts, "a\nb\nc\nd\ne\nf\ng\nh\n").unwrap();
    let model = package("tiny-image");
    launch(&format!(
        "textsrc model={} location={} duration=1000000000 ! latentdiffuse num-inference-steps=4 ! queue ! vaedecode ! \
         video/x-raw,width=512,height=512 ! fakesink",
        model.display(),
        prompts.display()
    ))
    .succeed();
}

#[test]
fn a_model_of_one_size_and_rate_makes_its_video() {
    let copy = util::copy_of("tiny-stream");
    util::edit(
        &copy,
        "model.toml",
        "{ min = 16, max = 512, default = 64 }",
        "{ min = 64, max = 64, default = 64 }",
    );
    util::edit(&copy, "model.toml", "min = \"1/1\", max = \"120/1\"", "min = \"24/1\", max = \"24/1\"");
    let model = copy.path().display();
    let outcome = launch(&format!(
        "videotestsrc num-buffers=9 ! video/x-raw,height=48 ! videoconvert ! vaeencode model={model} ! d.video \
         textsrc model={model} prompt=red duration=500000000 ! latentdiffuse name=d ! vaedecode ! fakesink"
    ))
    .succeed();
    assert!(!outcome.output.contains("CRITICAL"), "{}", outcome.output);
}

#[test]
fn a_prompt_colours_its_video() {
    let model = package("tiny-stream").display().to_string();
    for (prompt, strongest) in [("red", 0), ("green", 1), ("蓝色", 2)] {
        let folder = tempdir().unwrap();
        let file = folder.path().join("frames.rgb");
        launch(&format!(
            "textsrc model={model} prompt={prompt} duration=500000000 ! latentdiffuse ! vaedecode ! videoconvert \
             ! video/x-raw,format=RGB,width=32,height=32 ! filesink location={}",
            file.display()
        ))
        .succeed();
        let bytes = std::fs::read(file).unwrap();
        assert_eq!(bytes.len(), 12 * 32 * 32 * 3, "{prompt}");
        let mean = |c: usize| bytes.iter().skip(c).step_by(3).map(|&b| u64::from(b)).sum::<u64>();
        let others = [(strongest + 1) % 3, (strongest + 2) % 3];
        assert!(others.iter().all(|&c| mean(strongest) > 3 * mean(c)), "{prompt}: {:?}", [0, 1, 2].map(mean));
    }
}

#[test]
fn the_same_seed_gives_the_same_frames_and_another_one_others() {
    let first = frames(7, "");
    assert_eq!(first.len(), 24 * 64 * 48 * 3);
    assert!(first == frames(7, ""), "in another process");
    assert!(first == frames(7, "! queue"), "with a thread an element");
    assert!(first != frames(8, ""), "of another seed");
}

#[test]
fn a_video_can_be_written_as_matroska() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("cat.mkv");
    let line = generate(1, "! queue");
    launch(&format!("{line} ! videoconvert ! x264enc ! matroskamux ! filesink location={}", file.display()))
        .succeed();
    assert_video(&file, "64,48", 24, 24);
}

#[test]
fn a_video_can_be_cut_into_segments_for_hls() {
    let folder = tempdir().unwrap();
    let at = folder.path().display();
    // In time: hlssink2 of 1.22 now and then loses an end that comes before it plays, whatever the source.
    launch(&format!(
        "{} ! clocksync ! videoconvert ! x264enc key-int-max=6 ! h264parse ! hlssink2 target-duration=1 max-files=0 \
         playlist-length=0 location={at}/%03d.ts playlist-location={at}/list.m3u8",
        generate(1, "")
    ))
    .succeed();
    assert_video(&folder.path().join("list.m3u8"), "64,48", 24, 24);
    assert!(std::fs::read_to_string(folder.path().join("list.m3u8")).unwrap().contains("EXT-X-ENDLIST"));
}

#[test]
fn latents_can_be_decoded_twice() {
    let folder = tempdir().unwrap();
    let at = folder.path().display();
    launch(&format!(
        "textsrc model={} prompt=green duration=1000000000 ! latentdiffuse ! tee name=t \
         t. ! queue ! vaedecode ! video/x-raw,width=64,height=48 ! filesink location={at}/one \
         t. ! queue ! vaedecode ! video/x-raw,width=64,height=48 ! filesink location={at}/two",
        package("tiny-stream").display()
    ))
    .succeed();
    let [one, two] = ["one", "two"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    assert!(!one.is_empty() && one == two);
}

#[test]
fn latents_can_be_stored_and_decoded_later() {
    let folder = tempdir().unwrap();
    let at = folder.path().display();
    let model = package("tiny-stream").display().to_string();
    launch(&format!(
        "textsrc model={model} prompt=\"a red cat\" duration=1000000000 ! latentdiffuse seed=7 \
         ! video/x-latent,width=64,height=48,framerate=24/1 ! gdppay ! filesink location={at}/latents.gdp"
    ))
    .succeed();
    launch(&format!(
        "filesrc location={at}/latents.gdp ! gdpdepay ! vaedecode model={model} ! videoconvert \
         ! video/x-raw,format=RGB ! filesink location={at}/frames.rgb"
    ))
    .succeed();
    assert!(std::fs::read(folder.path().join("frames.rgb")).unwrap() == frames(7, ""));
}

#[test]
fn a_video_goes_through_the_encoder_and_back() {
    let model = package("tiny-stream").display().to_string();
    let folder = tempdir().unwrap();
    let file = folder.path().join("frames.rgb");
    launch(&format!(
        "videotestsrc num-buffers=17 pattern=red ! video/x-raw,width=64,height=48,framerate=24/1 ! videoconvert \
         ! vaeencode model={model} ! vaedecode ! videoconvert ! video/x-raw,format=RGB ! filesink location={}",
        file.display()
    ))
    .succeed();
    let bytes = std::fs::read(file).unwrap();
    assert_eq!(bytes.len(), 17 * 64 * 48 * 3);
    assert!(bytes.chunks(3).all(|p| p[0] > 200 && p[1] < 60 && p[2] < 60), "red stays red");
}

#[test]
fn every_element_has_a_page_in_gst_inspect() {
    for element in ["textsrc", "textencode", "latentdiffuse", "vaedecode", "vaeencode"] {
        let mut inspect = std::process::Command::new("gst-inspect-1.0");
        inspect.arg(element);
        let output = util::with_plugin(inspect).output().unwrap();
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{element}");
        for part in ["Factory Details", "Pad Templates", "execution-provider", "model "] {
            assert!(page.contains(part), "{element} has no {part:?}");
        }
    }
}
