//! `latentdiffuse` on the tests' packages: caps, time, scenes, flush, seek, errors.

mod util;

use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use gst::prelude::*;
use gst_check::Harness;

use latentflow::{Cancel, TextEncoder};
use util::{init, model, package};

/// The element with a package, fed by hand.
struct Fixture {
    harness: Harness,
    bus: gst::Bus,
    text: TextEncoder,
    id: String,
}

impl Fixture {
    fn new(name: &str, downstream: &str) -> Self {
        Self::of(name, downstream, false)
    }

    /// With prompts from a live source, or not.
    fn of(name: &str, downstream: &str, live: bool) -> Self {
        init();
        let model = model(name);
        let mut harness = Harness::new("latentdiffuse");
        harness.element().unwrap().set_property("model", package(name).to_str().unwrap());
        harness.set_live(live);
        let bus = gst::Bus::new();
        harness.element().unwrap().set_bus(Some(&bus));
        let id = model.id().to_owned();
        harness.set_sink_caps(gst::Caps::from_str(downstream).unwrap());
        harness.set_src_caps(gst::Caps::builder("application/x-prompt-embeds").field("model", &id).build());
        Self { harness, bus, text: TextEncoder::new(model).unwrap(), id }
    }

    /// With prompts from a live source whose clock stands at 0, after the first chunk, of so many frames, of the first one.
    fn live(name: &str, first: u64) -> Self {
        let mut fixture = Self::of(name, "video/x-latent", true);
        fixture.harness.set_time(gst::ClockTime::ZERO).unwrap();
        fixture.push("red", Some(0), None);
        assert_eq!(frames(&[fixture.harness.pull().unwrap()]), [(0, first, true)]);
        fixture
    }

    fn push(&mut self, prompt: &str, pts: Option<u64>, duration: Option<u64>) {
        let embeds = self.text.encode(prompt, Some(""), &Cancel::new()).unwrap();
        let mut buffer = gst::Buffer::from_slice(embeds.to_safetensors().unwrap());
        let buffer_ref = buffer.get_mut().unwrap();
        buffer_ref.set_pts(pts.map(gst::ClockTime::from_mseconds));
        buffer_ref.set_duration(duration.map(gst::ClockTime::from_mseconds));
        // What downstream refuses is on the bus, and may reach the next push or not.
        let _ = self.harness.push(buffer);
    }

    fn error(&self) -> String {
        error_on(&self.bus)
    }

    /// Ends the stream and returns all that came.
    fn finish(&mut self) -> Vec<gst::Buffer> {
        self.harness.push_event(gst::event::Eos::new());
        let mut buffers = Vec::new();
        loop {
            match self.harness.pull_event().expect("an event within a minute").type_() {
                gst::EventType::Eos => break,
                _ => continue,
            }
        }
        while let Some(buffer) = self.harness.try_pull() {
            buffers.push(buffer);
        }
        buffers
    }
}

fn error_on(bus: &gst::Bus) -> String {
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Error]);
    match message.expect("an error within a minute").view() {
        gst::MessageView::Error(error) => error.error().to_string(),
        _ => unreachable!(),
    }
}

/// All warnings so far; an error is none.
fn warnings_on(bus: &gst::Bus) -> Vec<String> {
    let next = || bus.pop_filtered(&[gst::MessageType::Warning, gst::MessageType::Error]);
    let text = |message: gst::Message| match message.view() {
        gst::MessageView::Warning(warning) => warning.error().to_string(),
        other => panic!("{other:?}"),
    };
    std::iter::from_fn(next).map(text).collect()
}

fn frames(buffers: &[gst::Buffer]) -> Vec<(u64, u64, bool)> {
    let discont = |b: &gst::Buffer| b.flags().contains(gst::BufferFlags::DISCONT);
    buffers.iter().map(|b| (b.offset(), b.offset_end(), discont(b))).collect()
}

fn bytes(buffer: &gst::Buffer) -> Vec<u8> {
    buffer.map_readable().unwrap().to_vec()
}

mod caps {
    use super::*;

    #[test]
    fn are_the_models_defaults_where_downstream_does_not_care() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        fixture.push("red", Some(0), Some(1000));
        fixture.finish();
        let caps = fixture.harness.sinkpad().unwrap().current_caps().unwrap();
        let expected = format!(
            "video/x-latent, model=(string){}, width=64, height=48, framerate=24/1, pixel-aspect-ratio=1/1",
            fixture.id
        );
        assert_eq!(caps, gst::Caps::from_str(&expected).unwrap());
    }

    #[test]
    fn follow_a_capsfilter_downstream() {
        let mut fixture =
            Fixture::new("tiny-stream", "video/x-latent, width=100, height=50, framerate=30000/1001");
        fixture.push("red", Some(0), Some(1001));
        let buffers = fixture.finish();
        // 100 by 50 is rounded up to 112 by 64: 14 by 8 latents.
        assert!(buffers.iter().all(|b| b.size() == 4 * 2 * 8 * 14 * 4));
        assert_eq!(buffers.last().unwrap().offset_end(), 30);
    }

    #[test]
    fn that_the_model_cannot_do_are_refused_with_the_reason() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent, width=4096, height=48");
        fixture.push("red", Some(0), Some(1000));
        let text = fixture.error();
        assert!(text.contains("4096") && text.contains("[ 16, 512 ]"), "{text}");
    }

    #[test]
    fn of_another_package_are_refused_with_the_reason() {
        init();
        let element = gst::ElementFactory::make("latentdiffuse").build().unwrap();
        element.set_property("model", package("tiny-stream").to_str().unwrap());
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let mut harness = Harness::with_element(&element, Some("sink"), Some("src"));
        let caps = gst::Caps::builder("application/x-prompt-embeds").field("model", "other-000000").build();
        harness.set_src_caps(caps);
        let text = error_on(&bus);
        assert!(text.contains("other-000000") && text.contains("tiny-stream-"), "{text}");
    }
}

mod time {
    use super::*;

    #[test]
    fn is_scaled_from_the_frame_index_and_the_last_chunk_is_cut() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        fixture.push("red", Some(0), Some(1000));
        let buffers = fixture.finish();
        assert_eq!(frames(&buffers), [(0, 5, true), (5, 13, false), (13, 21, false), (21, 24, false)]);
        let time = |frame: u64| gst::ClockTime::from_nseconds(frame * 1_000_000_000 / 24);
        for buffer in &buffers {
            assert_eq!(buffer.pts(), Some(time(buffer.offset())));
            assert_eq!(buffer.duration(), Some(time(buffer.offset_end()) - time(buffer.offset())));
        }
    }

    #[test]
    fn of_a_prompt_shorter_than_a_frame_is_a_frame() {
        for package in ["tiny-stream", "tiny-clip"] {
            let mut fixture = Fixture::new(package, "video/x-latent");
            fixture.push("red", Some(0), Some(1));
            assert_eq!(frames(&fixture.finish()), [(0, 1, true)], "{package}");
        }
    }

    #[test]
    fn of_prompts_has_no_gap_and_each_starts_a_scene() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        fixture.push("red", Some(500), Some(250));
        fixture.push("a dog", Some(1000), Some(250));
        let buffers = fixture.finish();
        let expected =
            [(0, 5, true), (5, 13, false), (13, 21, false), (21, 24, false), (24, 29, true), (29, 30, false)];
        assert_eq!(frames(&buffers), expected);
    }

    #[test]
    fn of_a_scene_that_grows_out_of_another_goes_on_without_a_cut_after_a_whole_chunk() {
        let made = |chunks: u32| {
            let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
            fixture.harness.element().unwrap().set_property("transition-chunks", chunks);
            fixture.push("red", Some(0), Some(250));
            fixture.push("a dog", Some(250), Some(1000));
            fixture.finish()
        };
        let grown = made(2);
        let expected = [(0, 5, true), (5, 13, false), (13, 21, false), (21, 29, false), (29, 30, false)];
        assert_eq!(frames(&grown), expected);
        // Between the scenes, which are those of a cut, is a chunk of both.
        let cut = made(0);
        assert_eq!(frames(&cut)[1..3], [(5, 6, false), (6, 11, true)]);
        assert!((0..2).all(|chunk| bytes(&grown[chunk]) == bytes(&cut[chunk])));
        assert!(cut.iter().all(|cut| bytes(&grown[2]) != bytes(cut)));
        assert!((3..5).all(|chunk| bytes(&grown[chunk]) == bytes(&cut[chunk - 1])));
    }

    #[test]
    fn of_an_open_ended_prompt_is_the_models_default_at_the_end_of_the_stream() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        fixture.push("red", None, None);
        let buffers = fixture.finish();
        assert!(buffers.last().unwrap().offset_end() >= 17);
    }

    #[test]
    fn of_a_clip_model_is_one_chunk_a_prompt() {
        let mut fixture = Fixture::new("tiny-clip", "video/x-latent");
        fixture.push("red", Some(0), None);
        fixture.push("a dog", Some(1000), Some(500));
        let buffers = fixture.finish();
        assert_eq!(frames(&buffers), [(0, 17, true), (24, 36, true)]);

        // Also where no prompt says when, and each comes as it is typed.
        let mut fixture = Fixture::new("tiny-clip", "video/x-latent");
        fixture.push("red", None, None);
        fixture.harness.pull().unwrap();
        fixture.push("a dog", None, None);
        assert_eq!(frames(&[fixture.harness.pull().unwrap()]), [(17, 34, true)]);
        assert_eq!(fixture.finish().len(), 0);
    }

    #[test]
    fn of_a_live_stream_is_the_clocks_however_late_its_first_prompt_comes() {
        let mut fixture = Fixture::of("tiny-stream", "video/x-latent", true);
        fixture.harness.set_time(3 * gst::ClockTime::SECOND).unwrap();
        fixture.push("red", Some(0), None);
        assert_eq!(frames(&[fixture.harness.pull().unwrap()]), [(72, 77, true)]);

        // Nor is it any shorter.
        let mut fixture = Fixture::of("tiny-stream", "video/x-latent", true);
        fixture.harness.set_time(3 * gst::ClockTime::SECOND).unwrap();
        fixture.push("red", Some(0), Some(500));
        let first = fixture.harness.pull().unwrap();
        // The end is known before the next chunk is due, or a live stream goes on past it.
        fixture.harness.push_event(gst::event::Eos::new());
        fixture.harness.set_time(4 * gst::ClockTime::SECOND).unwrap();
        let rest = fixture.finish();
        assert_eq!(frames(&[first, rest[0].clone()]), [(72, 77, true), (77, 84, false)]);
        assert_eq!(rest.len(), 1);
    }

    #[test]
    fn of_a_live_stream_is_kept_to() {
        let mut fixture = Fixture::live("tiny-stream", 5);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(fixture.harness.buffers_in_queue(), 0, "the next one's time has not come");
        // What comes on meanwhile does so at once.
        fixture.push("a dog", None, None);
        fixture.harness.set_time(gst::ClockTime::from_mseconds(209)).unwrap();
        assert_eq!(frames(&[fixture.harness.pull().unwrap()]), [(5, 10, true)]);
        // And is over when it is stopped.
        let id = fixture.harness.srcpad().unwrap().stream_id();
        let stop = gst::Structure::builder("latentflow-stop").field("stream-id", id).build();
        fixture.harness.push_event(gst::event::CustomDownstreamOob::new(stop));
        fixture.harness.set_time(gst::ClockTime::SECOND).unwrap();
        let rest = fixture.finish();
        let last = rest.last().map_or(10, |b| b.offset_end());
        assert!(last <= 26, "{last} frames of which at most two chunks were due");
    }
}

#[test]
fn a_live_stream_that_fell_behind_goes_on_where_the_clock_is() {
    let mut fixture = Fixture::live("tiny-stream", 5);
    fixture.harness.set_time(10 * gst::ClockTime::SECOND).unwrap();
    // The scene goes on as if nothing had been left out.
    assert_eq!(frames(&[fixture.harness.pull().unwrap()]), [(240, 248, false)]);
    fixture.push("a dog", None, None);
    fixture.harness.set_time(20 * gst::ClockTime::SECOND).unwrap();
    let next: Vec<_> =
        (0..2).map(|_| fixture.harness.pull().unwrap()).skip_while(|b| b.offset() < 480).take(1).collect();
    assert_eq!(frames(&next), [(480, 485, true)]);
}

#[test]
fn a_clip_of_a_live_stream_begins_when_its_prompt_comes() {
    let mut fixture = Fixture::live("tiny-clip", 17);
    for (prompt, start, now) in [("a dog", None, 4), ("red", Some(500), 8)] {
        let now = now * gst::ClockTime::SECOND;
        fixture.harness.set_time(now).unwrap();
        fixture.push(prompt, start, None);
        assert_eq!(fixture.harness.pull().unwrap().pts(), Some(now), "{prompt}");
    }
}

mod determinism {
    use super::*;

    fn run(seed: u64, prompts: &[(&str, u64, u64)]) -> Vec<Vec<u8>> {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        fixture.harness.element().unwrap().set_property("seed", seed);
        for (prompt, pts, duration) in prompts {
            fixture.push(prompt, Some(*pts), Some(*duration));
        }
        fixture.finish().iter().map(bytes).collect()
    }

    #[test]
    fn same_seed_same_bytes_and_another_seed_others() {
        let prompts = [("red", 0, 500), ("a dog", 500, 500)];
        assert_eq!(run(7, &prompts), run(7, &prompts));
        assert_ne!(run(7, &prompts)[0], run(8, &prompts)[0]);
    }

    #[test]
    fn after_a_seek_the_scene_is_made_again_from_its_start() {
        let whole = run(42, &[("red", 0, 500), ("a dog", 500, 1000)]);
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        fixture.push("red", Some(0), Some(500));
        fixture.harness.push_event(gst::event::FlushStart::new());
        fixture.harness.push_event(gst::event::FlushStop::builder(true).build());
        while fixture.harness.try_pull().is_some() {}
        while fixture.harness.try_pull_event().is_some() {}
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(gst::ClockTime::from_mseconds(900));
        segment.set_position(gst::ClockTime::from_mseconds(900));
        fixture.harness.push_event(gst::event::Segment::new(&segment));
        fixture.push("a dog", Some(500), Some(1000));
        let buffers = fixture.finish();
        assert_eq!(frames(&buffers)[0], (12, 17, true));
        // Two chunks of red came before in the whole stream.
        assert_eq!(buffers.iter().map(bytes).collect::<Vec<_>>(), whole[2..]);
    }
}

mod stopping {
    use super::*;

    #[test]
    fn ends_a_stream_that_would_go_on_for_ever() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        fixture.push("red", None, None);
        let first = fixture.harness.pull().unwrap();
        assert!(first.flags().contains(gst::BufferFlags::DISCONT));
        let element = fixture.harness.element().unwrap();
        assert_eq!(element.set_state(gst::State::Null), Ok(gst::StateChangeSuccess::Success));
        let stats = element.property::<gst::Structure>("stats");
        assert!(stats.get::<u64>("chunks").unwrap() >= 1);
    }

    #[test]
    fn lets_go_of_a_prompt_that_waits() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        let element = fixture.harness.element().unwrap();
        for second in 0..2 {
            fixture.push("red", Some(second * 3_600_000), Some(3_600_000));
        }
        let stop = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            element.set_state(gst::State::Null).unwrap();
        });
        let embeds = fixture.text.encode("red", Some(""), &Cancel::new()).unwrap();
        let mut flow = Ok(gst::FlowSuccess::Ok);
        while flow.is_ok() {
            flow = fixture.harness.push(gst::Buffer::from_slice(embeds.to_safetensors().unwrap()));
        }
        assert_eq!(flow, Err(gst::FlowError::Flushing));
        stop.join().unwrap();
    }
}

mod properties {
    use super::*;

    /// Its name and its value, as for `gst-launch-1.0`.
    type Property<'a> = (&'a str, &'a str);

    /// A second for each of two prompts.
    const SECONDS: [(Option<u64>, Option<u64>); 2] = [(Some(0), Some(1000)), (Some(1000), Some(1000))];

    /// Returns what a second of `red` and then one of `a dog` become where `before` sets the element up and `change` is made in
    /// the moment in which chunk `at` leaves it; and the element.
    fn changed(at: usize, before: &[Property], change: &[Property]) -> (Vec<gst::Buffer>, gst::Element) {
        changed_in(SECONDS, at, before, change)
    }

    /// The same with other starts and lengths in milliseconds.
    fn changed_in(
        spans: [(Option<u64>, Option<u64>); 2],
        at: usize,
        before: &[Property],
        change: &[Property],
    ) -> (Vec<gst::Buffer>, gst::Element) {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        let element = fixture.harness.element().unwrap();
        let set = |element: &gst::Element, properties: &[(String, String)]| {
            properties.iter().for_each(|(name, value)| element.set_property_from_str(name, value));
        };
        let owned = |properties: &[Property]| -> Vec<(String, String)> {
            properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        set(&element, &owned(before));
        let (change, chunks) = (owned(change), AtomicUsize::new(0));
        element.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
            if chunks.fetch_add(1, Ordering::SeqCst) == at {
                set(&pad.parent_element().unwrap(), &change);
            }
            gst::PadProbeReturn::Ok
        });
        for (prompt, (start, duration)) in ["red", "a dog"].into_iter().zip(spans) {
            fixture.push(prompt, start, duration);
        }
        (fixture.finish(), element)
    }

    #[test]
    fn change_while_playing_from_the_next_chunk_on() {
        let cases: [(&[Property], Property); 6] = [
            (&[], ("seed", "7")),
            (&[], ("num-inference-steps", "3")),
            (&[], ("guidance-scale", "9")),
            (&[("guidance-scale", "9")], ("guidance-rescale", "0.7")),
            (&[("guidance-scale", "9")], ("cfg-zero-star", "true")),
            (&[("guidance-scale", "9"), ("cfg-zero-star", "true")], ("cfg-zero-init-steps", "2")),
        ];
        for (before, change) in cases {
            let (as_before, _) = changed(1, before, &[]);
            let (found, _) = changed(1, before, &[change]);
            assert_eq!(frames(&found), frames(&as_before), "{change:?}");
            for chunk in 0..found.len() {
                let same = bytes(&found[chunk]) == bytes(&as_before[chunk]);
                assert_eq!(same, chunk < 2, "chunk {chunk} after {change:?}");
            }
            // As if it had always been so, from the next scene on.
            let always: Vec<_> = before.iter().copied().chain([change]).collect();
            let (always, _) = changed(1, &always, &[]);
            assert_eq!(bytes(&found[4]), bytes(&always[4]), "{change:?}");
        }
    }

    #[test]
    fn leave_out_steps_from_the_next_chunk_on() {
        let many = [("num-inference-steps", "12")];
        let skipped = |at| {
            let (_, element) = changed(at, &many, &[("cache-threshold", "1.0")]);
            element.property::<gst::Structure>("stats").get::<u64>("skipped-steps").unwrap()
        };
        let (all, most) = (skipped(usize::MAX), skipped(0));
        assert_eq!(all, 0);
        assert!(most > 0 && skipped(3) > 0 && skipped(3) < most, "{most}, {}", skipped(3));
    }

    #[test]
    fn grow_the_next_scene_out_of_this_one_from_the_next_prompt_on() {
        let (cut, _) = changed(0, &[], &[]);
        let (grown, _) = changed(0, &[("transition-chunks", "2")], &[]);
        let scenes =
            |chunks: &[gst::Buffer]| frames(chunks).iter().filter(|(_, _, discont)| *discont).count();
        assert_eq!((scenes(&cut), scenes(&grown)), (2, 1));
        // Set while the first scene plays, it is as if it had always been so; while the second does, it comes too late.
        for (at, expected) in [(0, &grown), (4, &cut)] {
            let (found, _) = changed(at, &[], &[("transition-chunks", "2")]);
            assert_eq!(frames(&found), frames(expected));
            assert!(found.iter().map(bytes).eq(expected.iter().map(bytes)));
        }
        // Also in the chunk before a prompt that comes as it is typed.
        let (typed, _) = changed_in([(None, None); 2], 0, &[], &[("transition-chunks", "2")]);
        assert_eq!(scenes(&typed), 1);
    }

    #[test]
    fn of_the_model_stay_until_the_element_stops() {
        let (whole, _) = changed(0, &[], &[]);
        let (found, element) = changed(0, &[], &[("keep-loaded", "false"), ("num-threads", "1")]);
        assert!(found.iter().map(bytes).eq(whole.iter().map(bytes)));
        for name in ["model", "execution-provider", "device-id", "num-threads", "keep-loaded"] {
            let flags = element.find_property(name).unwrap().flags();
            assert!(flags.contains(gst::PARAM_FLAG_MUTABLE_READY), "{name}");
            assert!(!flags.contains(gst::PARAM_FLAG_MUTABLE_PLAYING), "{name}");
        }
    }

    #[test]
    fn in_use_are_told_by_stats() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        let element = fixture.harness.element().unwrap();
        element.set_property("num-inference-steps", 3u32);
        fixture.push("red", Some(0), Some(1000));
        fixture.finish();
        let stats = element.property::<gst::Structure>("stats");
        assert_eq!(stats.get::<u32>("num-inference-steps"), Ok(3));
        assert_eq!(stats.get::<u64>("frames"), Ok(24));
        assert_eq!(element.property::<Option<String>>("active-execution-provider").as_deref(), Some("cpu"));
    }

    #[test]
    fn leave_out_steps_and_say_how_many() {
        let mut fixture = Fixture::new("tiny-clip", "video/x-latent");
        let element = fixture.harness.element().unwrap();
        element.set_property("num-inference-steps", 12u32);
        element.set_property("cache-threshold", 1.0);
        element.set_property("guidance-rescale", 0.5);
        fixture.push("red", Some(0), None);
        fixture.finish();
        let stats = element.property::<gst::Structure>("stats");
        assert_eq!(stats.get::<u64>("skipped-steps"), Ok(7));

        let mut fixture = Fixture::new("tiny-clip", "video/x-latent");
        let element = fixture.harness.element().unwrap();
        element.set_property("cfg-zero-star", true);
        element.set_property("cfg-zero-init-steps", 2u32);
        fixture.push("red", Some(0), None);
        fixture.finish();
        let stats = element.property::<gst::Structure>("stats");
        assert_eq!(stats.get::<u64>("skipped-steps"), Ok(2));
    }

    #[test]
    fn an_unknown_scheduler_is_refused_by_name() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        let element = fixture.harness.element().unwrap();
        element.set_property("scheduler", "Guesswork");
        fixture.push("red", Some(0), Some(1000));
        let text = fixture.error();
        assert!(text.contains("`Guesswork`") && text.contains("UniPCMultistepScheduler"), "{text}");
    }
}

#[test]
fn latency_is_told_of_a_live_source_alone() {
    let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
    fixture.push("red", Some(0), Some(500));
    fixture.finish();
    assert_eq!(fixture.harness.query_latency(), Some(gst::ClockTime::ZERO));
    fixture.harness.set_live(true);
    // Two chunks of eight frames.
    assert_eq!(fixture.harness.query_latency(), Some(gst::ClockTime::from_nseconds(333_333_333 * 2)));
}

#[test]
fn latency_is_known_before_a_prompt_comes() {
    let fixture = Fixture::of("tiny-stream", "video/x-latent, framerate=12/1", true);
    let told = fixture.bus.timed_pop_filtered(gst::ClockTime::from_seconds(10), &[gst::MessageType::Latency]);
    assert!(told.is_some());
    assert_eq!(fixture.harness.query_latency(), Some(gst::ClockTime::from_nseconds(666_666_666 * 2)));
}

#[test]
fn a_scheduler_that_cannot_be_had_while_it_plays_gets_one_warning() {
    let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
    fixture.push("red", Some(0), Some(500));
    fixture.harness.pull().unwrap();
    fixture.harness.element().unwrap().set_property("scheduler", "EulerDiscreteScheduler");
    fixture.push("a dog", Some(500), Some(500));
    let end = fixture.finish().last().map(|b| b.offset_end());
    assert_eq!(end, Some(24), "what plays goes on");
    let texts = warnings_on(&fixture.bus);
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains("`EulerDiscreteScheduler`") && texts[0].contains("goes on"), "{texts:?}");
}

#[test]
fn steps_that_the_scheduler_cannot_do_get_one_warning_while_it_plays() {
    let table = util::copy_of("tiny-stream");
    util::edit(&table, "model.toml", "shift = 1.0", "shift = 1.0\nsigmas = [1.0, 0.5]");
    let line = pipeline(&format!(
        "textsrc model={} prompt=red duration=2000000000 ! latentdiffuse name=d ! appsink name=out sync=false max-buffers=1",
        table.path().display()
    ));
    let (element, out, bus) = (line.by_name("d").unwrap(), line.by_name("out").unwrap(), line.bus().unwrap());
    line.set_state(gst::State::Playing).unwrap();
    let pull = || out.emit_by_name::<Option<gst::Sample>>("pull-sample", &[]);
    assert!(pull().is_some());
    element.set_property("num-inference-steps", 5u32);
    let last = std::iter::from_fn(pull).last().unwrap();
    assert_eq!(last.buffer().unwrap().offset_end(), 48, "what plays goes on");
    assert_eq!(element.property::<gst::Structure>("stats").get::<u32>("num-inference-steps"), Ok(2));
    let texts = warnings_on(&bus);
    line.set_state(gst::State::Null).unwrap();
    assert!(
        texts.len() == 1 && texts[0].contains("num-inference-steps") && texts[0].contains("goes on"),
        "{texts:?}"
    );
}

#[test]
fn a_prompt_without_an_end_is_over_when_it_is_stopped() {
    let long = util::copy_of("tiny-stream");
    util::edit(&long, "model.toml", "default = 17 }", "default = 257 }");
    let line = pipeline(&format!(
        "textsrc name=t model={} prompt=red ! latentdiffuse ! appsink name=out sync=false max-buffers=1",
        long.path().to_str().unwrap()
    ));
    let out = line.by_name("out").unwrap();
    line.set_state(gst::State::Playing).unwrap();
    let pull = || out.emit_by_name::<Option<gst::Sample>>("pull-sample", &[]);
    assert!(pull().is_some());
    line.send_event(gst::event::Eos::new());
    let rest = std::iter::from_fn(pull).count();
    line.set_state(gst::State::Null).unwrap();
    assert!(rest < 20, "{rest} chunks of 32: those under way until it is heard, and no more");
}

#[test]
fn prompts_with_ends_are_over_when_they_are_stopped_and_who_stops_them_does_not_wait() {
    let folder = tempfile::tempdir().unwrap();
    let story = folder.path().join("story.txt");
    std::fs::write(&story, "red\na cat\na dog\na bird\nred\na cat").unwrap();
    for script in ["prompt=red", &format!("location={}", story.display())] {
        let line = pipeline(&format!(
            "textsrc name=t model={} {script} duration=3600000000000 ! latentdiffuse ! appsink name=out sync=false max-buffers=1",
            package("tiny-stream").to_str().unwrap()
        ));
        let out = line.by_name("out").unwrap();
        line.set_state(gst::State::Playing).unwrap();
        let pull = || out.emit_by_name::<Option<gst::Sample>>("pull-sample", &[]);
        assert!(pull().is_some());
        std::thread::sleep(std::time::Duration::from_millis(100));
        line.send_event(gst::event::Eos::new());
        let rest = std::iter::from_fn(pull).count();
        line.set_state(gst::State::Null).unwrap();
        assert!(
            rest < 500,
            "{script}: {rest} chunks of 10,800: those under way until it is heard, and no more"
        );
    }
}

#[test]
fn of_prompts_in_quick_succession_the_last_comes_on_next() {
    let line = pipeline(&format!(
        "textsrc name=t model={} prompt=red ! latentdiffuse ! appsink name=out sync=false max-buffers=1",
        package("tiny-stream").to_str().unwrap()
    ));
    let (text, out) = (line.by_name("t").unwrap(), line.by_name("out").unwrap());
    line.set_state(gst::State::Playing).unwrap();
    let pull = || out.emit_by_name::<Option<gst::Sample>>("pull-sample", &[]).unwrap();
    pull();
    for prompt in ["a cat", "a dog", "a bird", "a cat", "a dog", "red bird"] {
        text.set_property("prompt", prompt);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // What was made ahead comes first.
    let scenes = (0..12).filter(|_| pull().buffer().unwrap().flags().contains(gst::BufferFlags::DISCONT));
    let scenes = scenes.count();
    line.set_state(gst::State::Null).unwrap();
    assert!((1..=2).contains(&scenes), "{scenes} scenes");
}

#[test]
fn a_text_with_a_length_and_no_time_is_on_for_its_length() {
    for (name, prompts, ends) in
        [("tiny-stream", ["red"].as_slice(), [5, 9].as_slice()), ("tiny-clip", &["red", "a cat"], &[9, 18])]
    {
        let mut fixture = Fixture::new(name, "video/x-latent");
        for prompt in prompts {
            fixture.push(prompt, None, Some(375));
        }
        let made: Vec<u64> = fixture.finish().iter().map(|buffer| buffer.offset_end()).collect();
        assert_eq!(made, ends, "{name}: nine frames each");
    }
}

#[test]
fn another_size_may_be_asked_for_at_any_time() {
    // An element that can't scale itself asks for it in the middle of a chunk. What a queue holds has the size before, and must pass.
    for between in [
        "! vaedecode ! capsfilter",
        "! vaedecode ! videoconvert ! capsfilter",
        "! queue ! vaedecode ! queue ! capsfilter caps-change-mode=delayed",
    ] {
        let line = pipeline(&format!(
            "textsrc model={} prompt=red ! latentdiffuse {between} name=size caps=video/x-raw,width=64,height=48 ! \
             appsink name=out sync=false max-buffers=1 drop=true",
            package("tiny-stream").to_str().unwrap()
        ));
        resize(&line);
    }
}

/// Asks for another size again and again, at any moment of a chunk, and sees to it that it comes and no time twice.
fn resize(line: &gst::Pipeline) {
    let mut last = None;
    let (size, out) = (line.by_name("size").unwrap(), line.by_name("out").unwrap());
    line.set_state(gst::State::Playing).unwrap();
    for (round, width) in [96, 64, 80, 48].into_iter().cycle().take(24).enumerate() {
        std::thread::sleep(std::time::Duration::from_millis(3 + 7 * round as u64 % 20));
        let caps = gst::Caps::from_str(&format!("video/x-raw, width={width}, height=48")).unwrap();
        size.set_property("caps", &caps);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let sample = out.emit_by_name::<Option<gst::Sample>>("try-pull-sample", &[&1_000_000_000u64]);
            let pts = sample.as_ref().and_then(|sample| sample.buffer()?.pts());
            assert!(pts.is_none() || pts > last, "round {round}: {pts:?} after {last:?}");
            last = pts.or(last);
            let s = sample.and_then(|sample| sample.caps_owned());
            if s.is_some_and(|caps| caps.structure(0).unwrap().get("width") == Ok(width)) {
                break;
            }
            let error = line.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
            assert!(error.is_none(), "round {round}: {error:?}");
            assert!(std::time::Instant::now() < deadline, "round {round}: no frame of {width} pixels");
        }
    }
    line.set_state(gst::State::Null).unwrap();
}

/// Plays `line` into an appsink with the name `out`; returns what comes with the base of its segment, and what ends it.
fn play(pipeline: &gst::Pipeline) -> (Vec<(gst::Buffer, gst::ClockTime)>, gst::Message) {
    let out = pipeline.by_name("out").unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut buffers = Vec::new();
    while let Some(sample) = out.emit_by_name::<Option<gst::Sample>>("pull-sample", &[]) {
        let base = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap().base();
        buffers.push((sample.buffer_owned().unwrap(), base.unwrap_or_default()));
    }
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends);
    pipeline.set_state(gst::State::Null).unwrap();
    (buffers, end.expect("an end within a minute"))
}

fn pipeline(line: &str) -> gst::Pipeline {
    init();
    gst::parse::launch(line).unwrap().downcast().unwrap()
}

mod segments {
    use super::*;

    const SECOND: gst::ClockTime = gst::ClockTime::SECOND;

    /// Plays prompts of two packages one after the other.
    fn run(first: &str, second: &str) -> Vec<(gst::Buffer, gst::ClockTime)> {
        let prompt = |name, text| {
            format!(
                "textsrc model={} prompt={text} duration=1000000000 ! c.",
                package(name).to_str().unwrap()
            )
        };
        let (buffers, end) = play(&pipeline(&format!(
            "concat name=c ! latentdiffuse ! appsink name=out sync=false {} {}",
            prompt(first, "red"),
            prompt(second, "dog")
        )));
        assert_eq!(end.type_(), gst::MessageType::Eos);
        buffers
    }

    #[test]
    fn follow_each_other_and_each_is_counted_anew() {
        let buffers = run("tiny-stream", "tiny-stream");
        let (first, second): (Vec<_>, Vec<_>) = buffers.into_iter().partition(|(_, base)| base.is_zero());
        assert!(second.iter().all(|(_, base)| *base == SECOND));
        let expected = [(0, 5, true), (5, 13, false), (13, 21, false), (21, 24, false)];
        for part in [first, second] {
            assert_eq!(frames(&part.into_iter().map(|(buffer, _)| buffer).collect::<Vec<_>>()), expected);
        }
    }

    #[test]
    fn that_go_on_in_the_same_time_show_nothing_twice() {
        let mut fixture = Fixture::new("tiny-stream", "video/x-latent");
        fixture.push("red", Some(0), None);
        let mut buffers: Vec<_> = (0..3).map(|_| fixture.harness.pull().unwrap()).collect();
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        fixture.harness.push_event(gst::event::Segment::new(&segment));
        // What is on goes on until a prompt is there.
        buffers.extend((0..3).map(|_| fixture.harness.pull().unwrap()));
        fixture.push("a dog", None, None);
        buffers.extend(fixture.finish());
        let frames = frames(&buffers);
        assert!(frames.windows(2).all(|pair| pair[0].1 == pair[1].0), "{frames:?}");
        assert_eq!(frames.iter().filter(|(_, _, discont)| *discont).count(), 2, "{frames:?}");
    }

    /// Plays the first second of `line` twice, the second time right after the first.
    fn looped(line: &gst::Pipeline) -> [Vec<gst::Buffer>; 2] {
        let seek = |flags| {
            let set = gst::SeekType::Set;
            line.seek(1.0, flags | gst::SeekFlags::SEGMENT, set, gst::ClockTime::ZERO, set, SECOND).unwrap();
        };
        let out = line.by_name("out").unwrap();
        let pulled = || {
            let mut buffers: Vec<gst::Buffer> = Vec::new();
            let mut until = gst::ClockTime::ZERO;
            while until < SECOND {
                let sample = out.emit_by_name::<Option<gst::Sample>>("try-pull-sample", &[&(20 * SECOND)]);
                buffers.push(sample.expect("more within seconds").buffer_owned().unwrap());
                let last = buffers.last().unwrap();
                until = last.pts().unwrap() + last.duration().unwrap() + gst::ClockTime::from_useconds(1);
            }
            buffers
        };
        line.set_state(gst::State::Paused).unwrap();
        line.state(10 * SECOND).0.unwrap();
        seek(gst::SeekFlags::FLUSH);
        line.set_state(gst::State::Playing).unwrap();
        let first = pulled();
        seek(gst::SeekFlags::empty());
        let both = [first, pulled()];
        line.set_state(gst::State::Null).unwrap();
        both
    }

    #[test]
    fn that_stop_in_a_prompt_can_be_looped() {
        let model = package("tiny-stream");
        let [first, second] = looped(&pipeline(&format!(
            "textsrc model={} prompt=red duration=3000000000 ! latentdiffuse ! vaedecode ! appsink name=out sync=false",
            model.display()
        )));
        assert_eq!((first.len(), second.len()), (24, 24));
        assert!(first.iter().map(bytes).eq(second.iter().map(bytes)));
    }

    #[test]
    fn that_end_a_video_prompt_are_made_to_their_end() {
        let line = a_video_prompt::of(0.5, "prompt=red duration=1000000000", a_video_prompt::ENDLESS);
        for buffers in looped(&line) {
            assert_eq!(buffers.last().unwrap().offset_end(), 24);
        }
    }

    #[test]
    fn may_be_of_different_packages() {
        let buffers: Vec<_> = run("tiny-stream", "tiny-clip").into_iter().map(|(buffer, _)| buffer).collect();
        assert_eq!(frames(&buffers)[3..], [(21, 24, false), (0, 24, true)]);
    }
}

mod a_video_prompt {
    use super::*;

    /// Restyles 17 frames of a video and goes on for 12 more; returns offsets and bytes of the latents.
    fn run(strength: f64, prompts: &str) -> Vec<gst::Buffer> {
        init();
        let source = "videotestsrc num-buffers=17 ! video/x-raw,width=80,height=48,framerate=24/1";
        let (buffers, end) = play(&of(strength, prompts, source));
        assert_eq!(end.type_(), gst::MessageType::Eos);
        buffers.into_iter().map(|(buffer, _)| buffer).collect()
    }

    /// A pipeline that makes latents of `source`.
    pub fn of(strength: f64, prompts: &str, source: &str) -> gst::Pipeline {
        let folder = package("tiny-stream");
        let folder = folder.to_str().unwrap();
        pipeline(&format!(
            "latentdiffuse name=d strength={strength} ! appsink name=out sync=false \
             textsrc model={folder} {prompts} ! d.sink {source} ! videoconvert ! vaeencode model={folder} ! d.video"
        ))
    }

    #[test]
    fn is_asked_for_in_latents_of_the_prompts_package() {
        let fixture = Fixture::new("tiny-stream", "video/x-latent");
        let pad = fixture.harness.element().unwrap().request_pad_simple("video").unwrap();
        let wanted = pad.query_caps(None);
        assert_eq!(wanted.structure(0).unwrap().get::<&str>("model"), Ok(fixture.id.as_str()));
        // Those of another come through, and are refused with the reason.
        let other = gst::Caps::builder("video/x-latent").field("model", "other-000000").build();
        assert!(wanted.can_intersect(&other));
    }

    pub const ENDLESS: &str = "videotestsrc name=v pattern=smpte75 horizontal-speed=1 ! video/x-raw,width=80,height=48,framerate=24/1";

    #[test]
    fn is_shown_from_where_a_seek_leads() {
        const SECOND: gst::ClockTime = gst::ClockTime::SECOND;
        let from = |line: gst::Pipeline| {
            line.set_state(gst::State::Paused).unwrap();
            line.state(10 * SECOND).0.unwrap();
            line.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, SECOND).unwrap();
            play(&line).0.into_iter().map(|(buffer, _)| buffer).collect::<Vec<_>>()
        };
        let shown = from(of(0.0, "prompt=red duration=2000000000", ENDLESS));
        assert_eq!(frames(&shown), [(24, 29, true), (29, 37, false), (37, 45, false), (45, 48, false)]);
        assert_eq!(shown[0].pts(), Some(SECOND));
        // Its first two latent frames are those of the source there.
        let encoded = from(pipeline(&format!(
            "{ENDLESS} ! videoconvert ! vaeencode model={} ! identity eos-after=8 ! appsink name=out sync=false",
            package("tiny-stream").to_str().unwrap()
        )));
        let cells = 10 * 6 * size_of::<f32>();
        let (shown, encoded) = (bytes(&shown[0]), [bytes(&encoded[0]), bytes(&encoded[1])]);
        for (at, channel) in shown.chunks(cells).enumerate() {
            assert_eq!(channel, &encoded[at % 2][at / 2 * cells..][..cells], "channel {}", at / 2);
        }
    }

    #[test]
    fn can_be_sought_alone_while_it_waits_for_room() {
        let line = of(0.5, "prompt=red duration=60000000000", ENDLESS);
        line.set_state(gst::State::Paused).unwrap();
        line.state(gst::ClockTime::from_seconds(10)).0.unwrap();
        let (done, waits) = std::sync::mpsc::channel();
        let source = line.by_name("v").unwrap();
        // A thread of its own: it would never come back.
        std::thread::spawn(move || {
            done.send(source.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::SECOND).is_ok())
        });
        assert_eq!(waits.recv_timeout(std::time::Duration::from_secs(30)), Ok(true));
        line.set_state(gst::State::Null).unwrap();
    }

    /// A line of the prompts, of which few latents are made ahead.
    fn slow(prompts: &str) -> (gst::Pipeline, impl Fn() -> gst::Buffer) {
        let line = of(0.5, prompts, ENDLESS);
        let out = line.by_name("out").unwrap();
        out.set_property("max-buffers", 1u32);
        line.set_state(gst::State::Playing).unwrap();
        // A flush on the way there would leave the sink behind.
        line.state(20 * gst::ClockTime::SECOND).0.unwrap();
        (line, move || {
            let sample =
                out.emit_by_name::<Option<gst::Sample>>("try-pull-sample", &[&(20 * gst::ClockTime::SECOND)]);
            sample.expect("more within seconds").buffer_owned().unwrap()
        })
    }

    #[test]
    fn goes_on_in_a_new_scene_where_its_prompts_alone_are_flushed() {
        let (line, pull) = slow("name=t prompt=red duration=60000000000");
        assert_eq!(frames(&[pull(), pull()]), [(0, 5, true), (5, 13, false)]);
        line.by_name("t").unwrap().seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO).unwrap();
        let after: Vec<_> = (0..6).map(|_| pull()).skip_while(|buffer| buffer.offset() > 0).take(3).collect();
        assert_eq!(frames(&after), [(0, 5, true), (5, 13, false), (13, 21, false)]);
        line.set_state(gst::State::Null).unwrap();
    }

    #[test]
    fn stays_where_it_is_if_its_prompts_cannot_be_sought() {
        let (line, pull) = slow("prompt=red");
        assert_eq!(frames(&[pull(), pull()]), [(0, 5, true), (5, 13, false)]);
        assert!(line.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::SECOND).is_err());
        assert_eq!(frames(&[pull(), pull()]), [(13, 21, false), (21, 29, false)]);
        line.set_state(gst::State::Null).unwrap();
    }

    #[test]
    fn lasts_for_whole_chunks_where_prompts_change_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let story = folder.path().join("story.srt");
        std::fs::write(
            &story,
            "1\n00:00:00,000 --> 00:00:00,300\nred\n\n2\n00:00:00,300 --> 00:00:01,000\na dog\n",
        )
        .unwrap();
        let (buffers, _) = play(&of(0.5, &format!("location={}", story.display()), ENDLESS));
        let buffers: Vec<_> = buffers.into_iter().map(|(buffer, _)| buffer).collect();
        assert_eq!(frames(&buffers), [(0, 5, true), (5, 13, false), (13, 21, false), (21, 24, false)]);
        // The second prompt is on from the first chunk behind its start.
        let red = of(0.5, "prompt=red duration=1000000000", ENDLESS);
        let same: Vec<_> =
            play(&red).0.iter().zip(&buffers).map(|((a, _), b)| bytes(a) == bytes(b)).collect();
        assert_eq!(same, [true, true, false, false]);
    }

    #[test]
    fn from_a_camera_makes_the_stream_live() {
        let (line, pull) = slow("prompt=red");
        pull();
        let told = |line: &gst::Pipeline| {
            let mut query = gst::query::Latency::new();
            assert!(line.by_name("d").unwrap().static_pad("src").unwrap().query(&mut query));
            (query.result().0, query.result().1)
        };
        assert_eq!(told(&line), (false, gst::ClockTime::ZERO));
        line.set_state(gst::State::Null).unwrap();
        line.by_name("v").unwrap().set_property("is-live", true);
        line.set_state(gst::State::Playing).unwrap();
        pull();
        let (live, least) = told(&line);
        // Two chunks of eight frames, and the chunk of the video that the encoder waits for.
        assert!(live && least > gst::ClockTime::from_nseconds(333_333_333 * 2), "{live}, {least}");
        line.set_state(gst::State::Null).unwrap();
    }

    #[test]
    fn of_several_scenes_is_one_of_several_and_of_their_lengths() {
        let source = "concat name=c videotestsrc num-buffers=24 ! video/x-raw,width=80,height=48,framerate=24/1 ! c. \
                      videotestsrc pattern=ball num-buffers=24 ! video/x-raw,width=80,height=48,framerate=24/1 ! c. c.";
        for strength in [0.0, 0.5] {
            let (buffers, _) = play(&of(strength, "prompt=red duration=3000000000", source));
            let buffers: Vec<_> = buffers.into_iter().map(|(buffer, _)| buffer).collect();
            let scene = |first: u64| {
                [
                    (first, first + 5, true),
                    (first + 5, first + 13, false),
                    (first + 13, first + 21, false),
                    (first + 21, first + 24, false),
                ]
            };
            assert_eq!(frames(&buffers)[..8], [scene(0), scene(24)].concat());
            // The model goes on from there.
            assert_eq!(frames(&buffers)[8..], [(48, 56, false), (56, 64, false), (64, 72, false)]);
        }
    }

    #[test]
    fn cannot_change_its_size_while_it_plays() {
        let source = "concat name=c videotestsrc num-buffers=33 ! video/x-raw,width=64,height=48,framerate=24/1 ! c. \
                      videotestsrc num-buffers=33 ! video/x-raw,width=32,height=32,framerate=24/1 ! c. c.";
        let (_, end) = play(&of(0.5, "prompt=red duration=6000000000", source));
        let gst::MessageView::Error(error) = end.view() else { panic!("{end:?}") };
        let text = error.error().to_string();
        assert!(text.contains("64x48") && text.contains("videoscale"), "{text}");
    }

    #[test]
    fn gives_its_size_and_the_model_goes_on_where_it_ends() {
        let buffers = run(0.5, "prompt=red duration=1208333333");
        // 80 by 48 is 10 by 6 latents.
        assert_eq!(buffers[0].size(), 4 * 2 * 6 * 10 * 4);
        assert_eq!(frames(&buffers), [(0, 5, true), (5, 13, false), (13, 21, false), (21, 29, false)]);
    }

    #[test]
    fn passes_as_it_is_without_strength_whatever_the_prompt() {
        let (red, dog) =
            (run(0.0, "prompt=red duration=500000000"), run(0.0, "prompt=dog duration=500000000"));
        assert_eq!(bytes(&red[0]), bytes(&dog[0]));
        let (red, dog) =
            (run(1.0, "prompt=red duration=500000000"), run(1.0, "prompt=dog duration=500000000"));
        assert_ne!(bytes(&red[0]), bytes(&dog[0]));
    }

    #[test]
    fn of_another_package_is_refused_with_the_reason() {
        init();
        let pipeline = gst::parse::launch(&format!(
            "latentdiffuse name=d ! fakesink textsrc model={} prompt=red duration=1000000000 ! d.sink \
             videotestsrc num-buffers=17 ! video/x-raw,width=80,height=48,framerate=24/1 ! videoconvert ! \
             vaeencode model={} ! d.video",
            package("tiny-stream").to_str().unwrap(),
            package("tiny-clip").to_str().unwrap(),
        ))
        .unwrap();
        // Fails at once or a moment later.
        let _ = pipeline.set_state(gst::State::Playing);
        let text = error_on(&pipeline.bus().unwrap());
        pipeline.set_state(gst::State::Null).unwrap();
        assert!(text.contains("tiny-clip-") && text.contains("tiny-stream-"), "{text}");
    }
}
