//! The elements `textsrc` and `textencode`: what they send, when it holds, and what they say on the bus.

mod util;

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst_check::Harness;
use latentflow::PromptEmbeds;
use util::init;

const SECOND: gst::ClockTime = gst::ClockTime::SECOND;
const STORY: &str = "1\n00:00:01,000 --> 00:00:02,500\n<i>red cat</i>\n\n\
                     2\n00:00:04,000 --> 00:00:05,000\n蓝色的狗\n\n\
                     3\n00:00:06,000 --> 00:00:08,000\na bird\nin the snow\n";

fn package(name: &str) -> String {
    util::package(name).to_str().unwrap().to_owned()
}

/// Returns the element `name` of the package tiny-stream with `properties`, written as for `gst-launch-1.0`, and its bus.
fn element(name: &str, properties: &[(&str, &str)]) -> (gst::Element, gst::Bus) {
    init();
    let element = gst::ElementFactory::make(name).property("model", package("tiny-stream")).build().unwrap();
    for (property, value) in properties {
        element.set_property_from_str(property, value);
    }
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    (element, bus)
}

fn textsrc(properties: &[(&str, &str)]) -> (Harness, gst::Element, gst::Bus) {
    let (element, bus) = element("textsrc", properties);
    let mut harness = Harness::with_element(&element, None, Some("src"));
    harness.play();
    (harness, element, bus)
}

fn textencode(caps: &str, format: gst::Format) -> (Harness, gst::Element, gst::Bus) {
    let (element, bus) = element("textencode", &[]);
    let mut harness = Harness::with_element(&element, Some("sink"), Some("src"));
    harness.push_event(gst::event::StreamStart::new("text"));
    harness.push_event(gst::event::Caps::new(&caps.parse().unwrap()));
    harness.push_event(gst::event::Segment::new(&match format {
        gst::Format::Bytes => gst::FormattedSegment::<gst::format::Bytes>::new().upcast(),
        _ => gst::FormattedSegment::<gst::ClockTime>::new().upcast(),
    }));
    (harness, element, bus)
}

/// Writes a file of prompts that lasts as long as the folder.
fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

/// A prompt's start and length in milliseconds, and its text.
type Prompt = (Option<u64>, Option<u64>, String);

fn prompt_of(buffer: &gst::BufferRef) -> Prompt {
    let embeds = PromptEmbeds::from_safetensors(&buffer.map_readable().unwrap()).unwrap();
    assert_eq!(embeds.positive()["prompt_embeds"].shape(), [1, 8, 4]);
    assert!(embeds.negative().is_some(), "guidance may be turned on downstream");
    let millis = |time: Option<gst::ClockTime>| time.map(|time| time.mseconds());
    (millis(buffer.pts()), millis(buffer.duration()), embeds.prompt().to_owned())
}

fn pull(harness: &mut Harness) -> Prompt {
    prompt_of(&harness.pull().unwrap())
}

fn spanned(start: u64, duration: u64, text: &str) -> Prompt {
    (Some(start), Some(duration), text.into())
}

fn wait_for_eos(harness: &mut Harness) {
    while harness.pull_event().unwrap().type_() != gst::EventType::Eos {}
}

fn warning(bus: &gst::Bus) -> Option<String> {
    bus.pop_filtered(&[gst::MessageType::Warning]).map(|message| match message.view() {
        gst::MessageView::Warning(warning) => warning.error().to_string(),
        _ => unreachable!("filtered"),
    })
}

fn error(bus: &gst::Bus) -> glib::Error {
    let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("an error on the bus");
    match message.view() {
        gst::MessageView::Error(error) => error.error(),
        _ => unreachable!("filtered"),
    }
}

/// Returns what `textsrc` says when it can't start.
fn refusal(properties: &[(&str, &str)]) -> glib::Error {
    let (element, bus) = element("textsrc", properties);
    assert!(element.set_state(gst::State::Paused).is_err());
    let first = error(&bus);
    assert!(bus.pop_filtered(&[gst::MessageType::Error]).is_none(), "one error is enough");
    element.set_state(gst::State::Null).unwrap();
    first
}

/// Runs a pipeline to its end and returns the prompts that come to its sink, which is called `sink`.
fn run(launch: &str) -> Vec<Prompt> {
    init();
    let pipeline = gst::parse::launch(launch).unwrap().downcast::<gst::Pipeline>().unwrap();
    let prompts = Arc::new(Mutex::new(Vec::new()));
    let pad = pipeline.by_name("sink").unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, {
        let prompts = prompts.clone();
        move |_, info| {
            prompts.lock().unwrap().push(prompt_of(info.buffer().unwrap()));
            gst::PadProbeReturn::Ok
        }
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = pipeline.bus().unwrap().timed_pop_filtered(30 * SECOND, &ends).expect("an end");
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
    std::mem::take(&mut prompts.lock().unwrap())
}

// textsrc

#[test]
fn a_prompt_with_a_duration_is_one_buffer() {
    let (mut harness, element, bus) = textsrc(&[("prompt", "a red cat"), ("duration", "2000000000")]);
    assert_eq!(pull(&mut harness), spanned(0, 2000, "a red cat"));
    wait_for_eos(&mut harness);
    let caps = harness.sinkpad().unwrap().current_caps().unwrap();
    let caps = caps.structure(0).unwrap();
    assert_eq!(caps.name(), "application/x-prompt-embeds");
    assert!(caps.get::<&str>("model").unwrap().starts_with("tiny-stream-"));
    assert_eq!(element.property::<String>("active-execution-provider"), "cpu");
    let progress = |message: gst::Message| match message.view() {
        gst::MessageView::Progress(progress) => progress.get().2.to_owned(),
        _ => unreachable!("filtered"),
    };
    let told: Vec<String> = bus.iter_filtered(&[gst::MessageType::Progress]).map(progress).collect();
    assert!(told[0].contains("opening the text encoder of tiny-stream-"), "{told:?}");
    assert!(told[1].ends_with("runs on cpu"), "{told:?}");
}

#[test]
fn a_prompt_without_a_duration_waits_for_a_change() {
    let (mut harness, element, bus) = textsrc(&[("prompt", "a cat")]);
    assert_eq!(pull(&mut harness), (Some(0), None, "a cat".into()));
    element.set_property("prompt", "a cat");
    assert!(harness.try_pull().is_none(), "the same prompt is no change");
    element.set_property("prompt", "一只狗");
    assert_eq!(pull(&mut harness), (None, None, "一只狗".into()));

    element.set_property("negative-prompt", "white");
    let buffer = harness.pull().unwrap();
    let embeds = PromptEmbeds::from_safetensors(&buffer.map_readable().unwrap()).unwrap();
    assert_eq!((embeds.prompt(), embeds.negative_prompt()), ("一只狗", Some("white")));
    let white = [6.0, 6.0, 6.0, 0.0];
    assert_eq!(embeds.negative().unwrap()["prompt_embeds"].f32().unwrap()[4..8], white);

    element.set_property("prompt", " ");
    assert!(warning(&bus).unwrap().contains("the one before goes on"));
    assert_eq!(element.property::<String>("prompt"), "一只狗");

    assert!(element.send_event(gst::event::Eos::new()));
    wait_for_eos(&mut harness);
}

#[test]
fn of_changes_in_quick_succession_all_but_the_last_may_be_left_out() {
    let (mut harness, element, _) = textsrc(&[("prompt", "a cat")]);
    let may = |buffer: gst::Buffer| buffer.flags().contains(gst::BufferFlags::DROPPABLE);
    assert!(!may(harness.pull().unwrap()), "the first one begins the stream");
    element.set_property("prompt", "a dog");
    assert!(may(harness.pull().unwrap()));
}

#[test]
fn a_change_of_a_prompt_with_a_duration_is_said_to_wait() {
    let (mut harness, element, bus) = textsrc(&[("prompt", "a cat"), ("duration", "2000000000")]);
    harness.pull().unwrap();
    wait_for_eos(&mut harness);
    element.set_property("prompt", "a cat");
    assert_eq!(warning(&bus), None, "the same prompt is no change");
    element.set_property("prompt", "a dog");
    assert!(warning(&bus).unwrap().contains("after a seek"));
    harness.push_upstream_event(gst::event::Seek::new(
        1.0,
        gst::SeekFlags::FLUSH,
        gst::SeekType::Set,
        gst::ClockTime::ZERO,
        gst::SeekType::None,
        gst::ClockTime::NONE,
    ));
    assert_eq!(pull(&mut harness).2, "a dog");
}

#[test]
fn what_a_flush_lost_is_sent_again() {
    let (mut harness, element, _) = textsrc(&[("prompt", "a cat")]);
    for _ in 0..2 {
        assert_eq!(pull(&mut harness), (Some(0), None, "a cat".into()));
        assert!(element.send_event(gst::event::FlushStart::new()));
        assert!(element.send_event(gst::event::FlushStop::new(true)));
    }
    assert_eq!(pull(&mut harness), (Some(0), None, "a cat".into()));
    element.set_property("prompt", "a dog");
    assert_eq!(pull(&mut harness).2, "a dog");
}

#[test]
fn a_clip_of_default_length_leaves_its_length_to_the_model() {
    let clip = ("model", &*package("tiny-clip"));
    let (mut harness, element, _) = textsrc(&[clip, ("prompt", "a cat")]);
    let buffer = harness.pull().unwrap();
    assert_eq!((buffer.pts(), buffer.duration()), (Some(gst::ClockTime::ZERO), None));
    wait_for_eos(&mut harness);
    let about = element.query_duration::<gst::ClockTime>().unwrap();
    assert_eq!(about, gst::ClockTime::from_nseconds(17 * SECOND.nseconds() / 24));

    let (_folder, path) = file("prompts.txt", "a cat\na dog\na bird".as_bytes());
    let (mut harness, ..) = textsrc(&[clip, ("location", path.to_str().unwrap())]);
    let spans = [(); 3].map(|()| harness.pull().map(|b| (b.pts(), b.duration())).unwrap());
    assert_eq!(spans, [(Some(gst::ClockTime::ZERO), None), (None, None), (None, None)]);
}

#[test]
fn stopping_ends_the_wait() {
    for state in [gst::State::Ready, gst::State::Null] {
        let (mut harness, element, _) = textsrc(&[("prompt", "a cat")]);
        harness.pull().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let (stopped, wait) = channel();
        std::thread::spawn(move || stopped.send(element.set_state(state)));
        wait.recv_timeout(Duration::from_secs(10)).expect("it stops").unwrap();
    }
}

#[test]
fn stopping_is_safe_at_any_moment() {
    for moment in 0..40 {
        let (element, _) = element("textsrc", &[("prompt", "a cat")]);
        let mut harness = Harness::with_element(&element, None, Some("src"));
        harness.play();
        let (stopped, wait) = channel();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(moment * 100));
            element.set_property("prompt", "a dog");
            stopped.send(element.set_state(gst::State::Null))
        });
        wait.recv_timeout(Duration::from_secs(10)).expect("it stops").unwrap();
    }
}

#[test]
fn it_plays_again_after_a_stop() {
    let (mut harness, element, _) = textsrc(&[("prompt", "a cat"), ("duration", "1000000000")]);
    assert_eq!(pull(&mut harness), spanned(0, 1000, "a cat"));
    element.set_state(gst::State::Ready).unwrap();
    element.set_property("prompt", "a dog");
    element.set_state(gst::State::Playing).unwrap();
    assert_eq!(pull(&mut harness), spanned(0, 1000, "a dog"));
}

#[test]
fn cues_of_subtitles_are_a_storyboard() {
    let (_folder, path) = file("story.srt", STORY.as_bytes());
    let (mut harness, element, _) = textsrc(&[("location", path.to_str().unwrap())]);
    // No dead air: the first cue begins at once, each lasts until the next one.
    assert_eq!(pull(&mut harness), spanned(0, 4000, "red cat"));
    assert_eq!(pull(&mut harness), spanned(4000, 2000, "蓝色的狗"));
    assert_eq!(pull(&mut harness), spanned(6000, 2000, "a bird in the snow"));
    wait_for_eos(&mut harness);
    let mut query = gst::query::Duration::new(gst::Format::Time);
    assert!(element.static_pad("src").unwrap().query(&mut query));
    assert_eq!(query.result(), gst::GenericFormattedValue::from(8 * SECOND));
    let mut query = gst::query::Seeking::new(gst::Format::Time);
    assert!(element.static_pad("src").unwrap().query(&mut query));
    assert!(query.result().0);
}

#[test]
fn webvtt_is_a_storyboard_too() {
    let (_folder, path) = file("story.vtt", b"WEBVTT\n\n00:00.000 --> 00:01.500 align:start\n<b>a cat</b>\n");
    let (mut harness, ..) = textsrc(&[("location", path.to_str().unwrap())]);
    assert_eq!(pull(&mut harness), spanned(0, 1500, "a cat"));
    wait_for_eos(&mut harness);
}

#[test]
fn lines_last_for_the_default_clip_or_their_duration() {
    let (_folder, path) = file("prompts.txt", "# two\na cat\n\n一只狗\na bird".as_bytes());
    let location = ("location", path.to_str().unwrap());
    let (mut harness, ..) = textsrc(&[location]);
    // 17 frames at 24 a second, scaled from the first one.
    for (n, text) in (0..).zip(["a cat", "一只狗", "a bird"]) {
        let buffer = harness.pull().unwrap();
        let at = |n: u64| gst::ClockTime::from_nseconds(n * 17 * SECOND.nseconds() / 24);
        assert_eq!((buffer.pts(), buffer.duration()), (Some(at(n)), Some(at(n + 1) - at(n))));
        assert_eq!(prompt_of(&buffer).2, text);
    }
    wait_for_eos(&mut harness);

    let (mut harness, ..) = textsrc(&[location, ("duration", "500000000"), ("num-buffers", "2")]);
    assert_eq!(pull(&mut harness), spanned(0, 500, "a cat"));
    assert_eq!(pull(&mut harness), spanned(500, 500, "一只狗"));
    wait_for_eos(&mut harness);
}

#[test]
fn a_seek_sends_the_cue_that_covers_the_position() {
    let (_folder, path) = file("story.srt", STORY.as_bytes());
    let (mut harness, ..) = textsrc(&[("location", path.to_str().unwrap())]);
    wait_for_eos(&mut harness);
    while harness.try_pull().is_some() {}

    let seek = |start: gst::ClockTime, stop: Option<gst::ClockTime>| {
        let set = gst::SeekType::Set;
        gst::event::Seek::new(1.0, gst::SeekFlags::FLUSH, set, start, set, stop)
    };
    assert!(harness.push_upstream_event(seek(5 * SECOND, None)));
    assert_eq!(pull(&mut harness), spanned(4000, 2000, "蓝色的狗"));
    assert_eq!(pull(&mut harness), spanned(6000, 2000, "a bird in the snow"));
    let segment = loop {
        let event = harness.pull_event().unwrap();
        if let gst::EventView::Segment(segment) = event.view() {
            break segment.segment().clone();
        }
    };
    let segment = segment.downcast::<gst::ClockTime>().unwrap();
    assert_eq!((segment.start(), segment.time()), (Some(5 * SECOND), Some(5 * SECOND)));
    wait_for_eos(&mut harness);

    assert!(harness.push_upstream_event(seek(SECOND, Some(4 * SECOND))));
    assert_eq!(pull(&mut harness), spanned(0, 4000, "red cat"));
    wait_for_eos(&mut harness);
    assert!(harness.try_pull().is_none(), "it ends where the seek says");

    assert!(harness.push_upstream_event(seek(9 * SECOND, None)));
    wait_for_eos(&mut harness);
    assert!(harness.try_pull().is_none(), "nothing comes after the end");
}

#[test]
fn a_seek_backwards_is_refused_and_flushes_nothing() {
    let (mut harness, element, _) = textsrc(&[("prompt", "a cat"), ("duration", "2000000000")]);
    wait_for_eos(&mut harness);
    let set = gst::SeekType::Set;
    let backwards =
        gst::event::Seek::new(-1.0, gst::SeekFlags::FLUSH, set, gst::ClockTime::ZERO, set, SECOND);
    assert!(!harness.push_upstream_event(backwards));
    assert_eq!(pull(&mut harness), spanned(0, 2000, "a cat"));
    while let Some(event) = harness.try_pull_event() {
        assert_ne!(event.type_(), gst::EventType::FlushStart);
    }
    // Of the element alone, too, which flushes first.
    let zero = gst::ClockTime::ZERO;
    assert!(element.seek(-1.0, gst::SeekFlags::FLUSH, set, zero, set, SECOND).is_err());
}

#[test]
fn the_prompt_of_a_file_that_plays_cannot_be_set() {
    let (_folder, path) = file("story.srt", STORY.as_bytes());
    let (mut harness, element, bus) = textsrc(&[("location", path.to_str().unwrap())]);
    wait_for_eos(&mut harness);
    element.set_property("prompt", "a dog");
    assert!(warning(&bus).unwrap().contains("the prompts of `location` go on"));
    assert_eq!(element.property::<Option<String>>("prompt"), None);
}

#[test]
fn a_seek_in_a_pipeline_shows_frames_from_the_position_on() {
    init();
    let (_folder, path) = file("story.srt", STORY.as_bytes());
    let launch = format!(
        "textsrc location={} model={} ! latentdiffuse ! vaedecode ! fakesink name=sink sync=true",
        path.display(),
        package("tiny-stream")
    );
    let pipeline = gst::parse::launch(&launch).unwrap().downcast::<gst::Pipeline>().unwrap();
    let frames = Arc::new(Mutex::new(Vec::new()));
    let pad = pipeline.by_name("sink").unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_FLUSH, {
        let frames = frames.clone();
        move |_, info| {
            match info.buffer() {
                Some(buffer) => frames.lock().unwrap().push(buffer.pts().unwrap()),
                None => frames.lock().unwrap().clear(),
            }
            gst::PadProbeReturn::Ok
        }
    });
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(10 * SECOND).0.unwrap();
    pipeline.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, 7 * SECOND).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = pipeline.bus().unwrap().timed_pop_filtered(30 * SECOND, &ends).expect("an end");
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
    let frames = frames.lock().unwrap();
    assert_eq!((frames.first(), frames.len()), (Some(&(7 * SECOND)), 24), "{frames:?}");
}

#[test]
fn an_open_prompt_cannot_be_sought() {
    let (mut harness, element, _) = textsrc(&[("prompt", "a cat")]);
    harness.pull().unwrap();
    let mut query = gst::query::Seeking::new(gst::Format::Time);
    assert!(element.static_pad("src").unwrap().query(&mut query));
    assert!(!query.result().0);
}

#[test]
fn a_live_source_sends_nothing_before_it_plays() {
    let (element, _) = element("textsrc", &[("prompt", "a cat"), ("is-live", "true")]);
    assert_eq!(element.set_state(gst::State::Paused), Ok(gst::StateChangeSuccess::NoPreroll));
    let mut latency = gst::query::Latency::new();
    assert!(element.static_pad("src").unwrap().query(&mut latency));
    assert_eq!(latency.result(), (true, gst::ClockTime::ZERO, None), "prompts may wait");
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn words_that_the_model_does_not_know_are_named() {
    let (mut harness, _, bus) = textsrc(&[("prompt", "a Unicorn，雪里的麒麟"), ("negative-prompt", "ugly")]);
    harness.pull().unwrap();
    let words = warning(&bus).unwrap();
    assert!(words.contains("`prompt`") && words.contains("`Unicorn`"), "{words}");
    let cut = warning(&bus).unwrap();
    assert!(cut.contains("9 tokens") && cut.contains("cut to 8") && cut.contains("`麟`"), "{cut}");
    assert!(warning(&bus).unwrap().contains("`negative-prompt`: `ugly`"));
    assert_eq!(warning(&bus), None);
}

#[test]
fn nothing_to_play_or_too_much_is_an_error() {
    let neither = refusal(&[]);
    assert!(neither.matches(gst::LibraryError::Settings));
    assert!(neither.message().contains("`prompt`") && neither.message().contains("`location`"), "{neither}");
    let both = refusal(&[("prompt", "a cat"), ("location", "x.srt")]);
    assert!(both.matches(gst::LibraryError::Settings) && both.message().contains("only one of"), "{both}");
    let empty = refusal(&[("prompt", " ")]);
    assert!(empty.message().contains("`prompt` can't be empty"), "{empty}");
    let empty = refusal(&[("location", "")]);
    assert!(empty.message().contains("`location` can't be empty"), "{empty}");
}

#[test]
fn a_file_that_cannot_be_played_is_named_with_the_place() {
    let missing = refusal(&[("location", "does/not/exist.srt")]);
    assert!(missing.matches(gst::ResourceError::NotFound));
    assert!(missing.message().contains("`does/not/exist.srt`"), "{missing}");
    let cases: [(&str, &[u8], &str); 6] = [
        ("bytes.txt", b"a cat\n\xff\n", "line 2 is not UTF-8"),
        ("empty.txt", b"\n# nothing\n", "no prompt"),
        ("broken.srt", b"1\n00:00:00,000 --> nowhere\na cat\n", "line 2: "),
        ("empty.srt", b"", "no cue"),
        ("backwards.srt", b"1\n00:00:02,000 --> 00:00:01,000\na cat\n", "cue 1 "),
        ("broken.vtt", b"a cat\n", "line 1 "),
    ];
    for (name, content, place) in cases {
        let (_folder, path) = file(name, content);
        let error = refusal(&[("location", path.to_str().unwrap())]);
        assert!(error.matches(gst::ResourceError::Read), "{error}");
        assert!(error.message().contains(name) && error.message().contains(place), "{error}");
    }
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let error = refusal(&[("prompt", "a cat"), ("model", "does/not/exist")]);
    assert!(error.matches(gst::ResourceError::NotFound));
    assert!(error.message().contains("`does/not/exist`"), "{error}");
}

/// Set for the process whose standard input this file's tests write.
const READS_STANDARD_INPUT: &str = "LATENTFLOW_TEST_STANDARD_INPUT";

/// Runs a test of this file in a process whose standard input the caller writes.
fn with_a_standard_input_of_its_own(test: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(READS_STANDARD_INPUT, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn lines_on_standard_input_are_prompts_when_they_come() {
    if std::env::var_os(READS_STANDARD_INPUT).is_some() {
        for prompt in
            run(&format!("textsrc location=- model={} ! fakesink name=sink", package("tiny-stream")))
        {
            println!("{prompt:?}");
        }
        return;
    }
    let mut child = with_a_standard_input_of_its_own("lines_on_standard_input_are_prompts_when_they_come");
    child.stdin.take().unwrap().write_all("a cat\n\n# no\n一只狗".as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains("(Some(0), None, \"a cat\")\n(None, None, \"一只狗\")\n"), "{output}");
}

#[test]
fn standard_input_without_a_prompt_is_an_error() {
    if std::env::var_os(READS_STANDARD_INPUT).is_some() {
        let (element, bus) = element("textsrc", &[("location", "-")]);
        let mut harness = Harness::with_element(&element, None, Some("src"));
        harness.play();
        wait_for_eos(&mut harness);
        println!("{}", error(&bus));
        return;
    }
    let mut child = with_a_standard_input_of_its_own("standard_input_without_a_prompt_is_an_error");
    child.stdin.take().unwrap().write_all(b"# no\n\n").unwrap();
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.contains("standard input") && output.contains("it holds no prompt"), "{output}");
}

#[test]
fn stopping_does_not_wait_for_standard_input() {
    if std::env::var_os(READS_STANDARD_INPUT).is_some() {
        let (element, _) = element("textsrc", &[("location", "-")]);
        let mut harness = Harness::with_element(&element, None, Some("src"));
        harness.play();
        harness.pull().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        element.set_state(gst::State::Null).unwrap();
        println!("stopped");
        return;
    }
    let mut child = with_a_standard_input_of_its_own("stopping_does_not_wait_for_standard_input");
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "a cat").unwrap();
    // Standard input stays open until the child has gone.
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("stopped"));
}

// textencode

fn text(content: &str, start: Option<u64>, duration: Option<u64>) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_mut_slice(content.as_bytes().to_vec());
    let times = buffer.get_mut().unwrap();
    times.set_pts(start.map(gst::ClockTime::from_mseconds));
    times.set_duration(duration.map(gst::ClockTime::from_mseconds));
    buffer
}

#[test]
fn a_text_keeps_its_span() {
    let (mut harness, element, bus) = textencode("text/x-raw,format=utf8", gst::Format::Time);
    harness.push(text("a cat\nin snow", Some(1000), Some(500))).unwrap();
    assert_eq!(pull(&mut harness), spanned(1000, 500, "a cat in snow"));
    harness.push(text("一只狗", None, None)).unwrap();
    assert_eq!(pull(&mut harness), (None, None, "一只狗".into()));
    let caps = harness.sinkpad().unwrap().current_caps().unwrap();
    assert!(caps.structure(0).unwrap().get::<&str>("model").unwrap().starts_with("tiny-stream-"));
    assert_eq!(element.property::<String>("active-execution-provider"), "cpu");
    harness.push(text("\u{feff}a dog", None, None)).unwrap();
    assert_eq!(pull(&mut harness).2, "a dog");
    assert_eq!(warning(&bus), None);
    harness.push(text("a Unicorn", None, None)).unwrap();
    assert!(warning(&bus).unwrap().contains("`Unicorn`"));
}

#[test]
fn white_space_is_no_prompt() {
    let (mut harness, ..) = textencode("text/x-raw,format=utf8", gst::Format::Time);
    harness.push(text(" \n", Some(0), Some(500))).unwrap();
    harness.push(text("", Some(500), Some(500))).unwrap();
    assert!(harness.try_pull().is_none());
    harness.push(text("a cat", Some(1000), Some(500))).unwrap();
    assert_eq!(pull(&mut harness), spanned(1000, 500, "a cat"));
}

#[test]
fn pango_markup_is_taken_off() {
    let (mut harness, ..) = textencode("text/x-raw,format=pango-markup", gst::Format::Time);
    harness.push(text("<i>a cat</i> &amp; a dog", Some(0), None)).unwrap();
    assert_eq!(pull(&mut harness).2, "a cat & a dog");
}

#[test]
fn stopping_and_flushing_forget_what_came() {
    let (mut harness, element, _) = textencode("text/x-raw,format=utf8", gst::Format::Bytes);
    harness.push(text("a cat\na d", None, None)).unwrap();
    assert_eq!(pull(&mut harness), (Some(0), None, "a cat".into()));
    harness.push_event(gst::event::FlushStart::new());
    harness.push_event(gst::event::FlushStop::new(true));
    harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::format::Bytes>::new()));
    harness.push(text("a bird\n", None, None)).unwrap();
    assert_eq!(pull(&mut harness), (Some(0), None, "a bird".into()));
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn gaps_pass() {
    let (mut harness, ..) = textencode("text/x-raw,format=utf8", gst::Format::Time);
    harness.push_event(gst::event::Gap::builder(SECOND).duration(SECOND).build());
    loop {
        let event = harness.pull_event().unwrap();
        if let gst::EventView::Gap(gap) = event.view() {
            assert_eq!(gap.get(), (SECOND, Some(SECOND)));
            break;
        }
    }
}

#[test]
fn a_negative_prompt_takes_effect_with_the_next_text() {
    let (mut harness, element, _) = textencode("text/x-raw,format=utf8", gst::Format::Time);
    for negative in ["white", "red"] {
        element.set_property("negative-prompt", negative);
        harness.push(text("a cat", Some(0), None)).unwrap();
        let buffer = harness.pull().unwrap();
        let embeds = PromptEmbeds::from_safetensors(&buffer.map_readable().unwrap()).unwrap();
        assert_eq!(embeds.negative_prompt(), Some(negative));
    }
}

#[test]
fn text_that_is_none_is_an_error() {
    let (mut harness, _, bus) = textencode("text/x-raw,format=utf8", gst::Format::Time);
    let mut buffer = gst::Buffer::from_slice(b"a c\xfft");
    buffer.get_mut().unwrap().set_pts(2 * SECOND);
    assert_eq!(harness.push(buffer), Err(gst::FlowError::Error));
    let error = error(&bus);
    assert!(error.matches(gst::StreamError::Decode));
    assert!(error.message().contains("0:00:02") && error.message().contains("UTF-8"), "{error}");
}

#[test]
fn bytes_are_lines_of_prompts() {
    let (mut harness, ..) = textencode("text/x-raw,format=utf8", gst::Format::Bytes);
    harness.push(text("a c", None, None)).unwrap();
    assert!(harness.try_pull().is_none(), "the line has no end yet");
    harness.push(text("at\na dog\na bi", None, None)).unwrap();
    assert_eq!(pull(&mut harness), (Some(0), None, "a cat".into()));
    assert_eq!(pull(&mut harness), (None, None, "a dog".into()));
    harness.push(text("rd", None, None)).unwrap();
    harness.push_event(gst::event::Eos::new());
    assert_eq!(pull(&mut harness), (None, None, "a bird".into()));
}

#[test]
fn lines_of_two_streams_are_not_joined() {
    let (_first, first) = file("first.txt", b"a cat");
    let (_second, second) = file("second.txt", b"a dog\n");
    let prompts = run(&format!(
        "concat name=c ! textencode model={} ! fakesink name=sink filesrc location={} ! text/x-raw,format=utf8 ! c. \
         filesrc location={} ! text/x-raw,format=utf8 ! c.",
        package("tiny-stream"),
        first.display(),
        second.display()
    ));
    assert_eq!(prompts.iter().map(|prompt| &*prompt.2).collect::<Vec<_>>(), ["a cat", "a dog"]);
}

#[test]
fn subparse_and_textencode_play_subtitles() {
    let (_folder, path) = file("story.srt", STORY.as_bytes());
    let prompts = run(&format!(
        "filesrc location={} ! subparse ! textencode model={} ! fakesink name=sink",
        path.display(),
        package("tiny-clip")
    ));
    let expected = [
        spanned(1000, 1500, "red cat"),
        spanned(4000, 1000, "蓝色的狗"),
        spanned(6000, 2000, "a bird in the snow"),
    ];
    assert_eq!(prompts, expected);
}

#[test]
fn fdsrc_and_textencode_play_lines() {
    init();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all("a cat\n一只狗\na bird".as_bytes()).unwrap();
    drop(writer);
    let prompts = run(&format!(
        "fdsrc fd={} ! text/x-raw,format=utf8 ! textencode model={} ! fakesink name=sink",
        reader.as_raw_fd(),
        package("tiny-stream")
    ));
    let texts: Vec<&str> = prompts.iter().map(|(_, _, text)| text.as_str()).collect();
    assert_eq!(texts, ["a cat", "一只狗", "a bird"]);
    assert_eq!(prompts[0].0, Some(0));
}
