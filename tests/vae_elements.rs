//! `vaedecode` and `vaeencode` on the tests' packages: times, scenes, loss, flush, caps, errors, and both in pipelines.

mod util;

use std::str::FromStr;
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gst_check::Harness;
use latentflow::Cancel;
use latentflow::vae::{Decoder, Tiling};
use util::{copy_of, edit, init, model, package};

const SIZE: (usize, usize) = (64, 48);

/// When frame `index` starts, in nanoseconds, by the arithmetic of this test.
fn time(index: u64, (n, d): (u64, u64)) -> u64 {
    (u128::from(index) * 1_000_000_000 * u128::from(d) / u128::from(n)) as u64
}

fn ns(time: u64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(time)
}

fn is_discont(buffer: &gst::BufferRef) -> bool {
    buffer.flags().contains(gst::BufferFlags::DISCONT)
}

fn bytes(buffer: &gst::Buffer) -> Vec<u8> {
    buffer.map_readable().unwrap().to_vec()
}

/// (PTS, duration, OFFSET, DISCONT) of every buffer.
fn stamps(buffers: &[gst::Buffer]) -> Vec<(u64, u64, u64, bool)> {
    let stamp = |b: &gst::Buffer| {
        assert_eq!(b.offset_end(), b.offset() + 1);
        (b.pts().unwrap().nseconds(), b.duration().unwrap().nseconds(), b.offset(), is_discont(b))
    };
    buffers.iter().map(stamp).collect()
}

/// An element fed by hand.
struct Fixture {
    harness: Harness,
    bus: gst::Bus,
}

impl Fixture {
    fn new(element: &str, properties: &[(&str, &str)]) -> Self {
        init();
        let element = gst::ElementFactory::make(element).build().unwrap();
        for (name, value) in properties {
            element.set_property_from_str(name, value);
        }
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let mut harness = Harness::with_element(&element, Some("sink"), Some("src"));
        harness.play();
        Self { harness, bus }
    }

    fn start(&mut self, caps: &gst::Caps) {
        self.harness.push_event(gst::event::StreamStart::new("test"));
        self.harness.push_event(gst::event::Caps::new(caps));
        self.segment(0, None);
    }

    fn segment(&mut self, start: u64, stop: Option<u64>) {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(ns(start));
        segment.set_time(ns(start));
        segment.set_stop(stop.map(ns));
        self.harness.push_event(gst::event::Segment::new(&segment));
    }

    fn flush(&mut self) {
        self.harness.push_event(gst::event::FlushStart::new());
        self.harness.push_event(gst::event::FlushStop::new(true));
        self.segment(0, None);
    }

    fn pulled(&mut self) -> Vec<gst::Buffer> {
        std::iter::from_fn(|| self.harness.try_pull()).collect()
    }

    /// The events so far whose structure is called `name`.
    fn custom_events(&mut self, name: &str) -> Vec<gst::Event> {
        let events = std::iter::from_fn(|| self.harness.try_pull_event());
        events.filter(|e| e.structure().is_some_and(|s| s.name() == name)).collect()
    }

    fn error(&self) -> (String, String) {
        let message = self.bus.pop_filtered(&[gst::MessageType::Error]).expect("an error");
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        let details = error.debug().map(|d| d.to_string()).unwrap_or_default();
        (format!("{:?}", error.error()), format!("{} {details}", error.error()))
    }

    fn no_error(&self) {
        if self.bus.pop_filtered(&[gst::MessageType::Error]).is_some() {
            panic!("there is an error on the bus");
        }
    }
}

mod decode {
    use super::*;

    fn caps_for(id: &str, (width, height): (usize, usize), rate: &str) -> gst::Caps {
        gst::Caps::from_str(&format!(
            "video/x-latent, model=(string){id}, width={width}, height={height}, framerate={rate}, \
            pixel-aspect-ratio=1/1"
        ))
        .unwrap()
    }

    fn id(name: &str) -> String {
        model(name).id().to_owned()
    }

    fn decoder(name: &str, size: (usize, usize), rate: &str, properties: &[(&str, &str)]) -> Fixture {
        let folder = package(name);
        let mut properties = properties.to_vec();
        properties.push(("model", folder.to_str().unwrap()));
        let mut fixture = Fixture::new("vaedecode", &properties);
        fixture.start(&caps_for(&id(name), size, rate));
        fixture
    }

    fn latents(size: (usize, usize), num_latent_frames: usize, seed: usize) -> Vec<f32> {
        let cells = size.0.next_multiple_of(16) / 8 * size.1.next_multiple_of(16) / 8;
        (0..4 * num_latent_frames * cells).map(|i| ((i * 7 + seed * 13) as f32 * 0.37).sin() * 2.0).collect()
    }

    fn buffer(latents: &[f32], offset: u64, end: u64, rate: (u64, u64), discont: bool) -> gst::Buffer {
        let data: Vec<u8> = latents.iter().flat_map(|v| v.to_ne_bytes()).collect();
        let mut buffer = gst::Buffer::from_mut_slice(data);
        let b = buffer.get_mut().unwrap();
        b.set_pts(ns(time(offset, rate)));
        b.set_duration(ns(time(end, rate) - time(offset, rate)));
        b.set_offset(offset);
        b.set_offset_end(end);
        if discont {
            b.set_flags(gst::BufferFlags::DISCONT);
        }
        buffer
    }

    /// A chunk of a 64×48 stream at 24 frames a second.
    fn chunk(num_latent_frames: usize, seed: usize, offset: u64, end: u64, discont: bool) -> gst::Buffer {
        buffer(&latents(SIZE, num_latent_frames, seed), offset, end, (24, 1), discont)
    }

    /// What the library makes of chunks of one scene.
    fn expected(name: &str, size: (usize, usize), chunks: &[Vec<f32>]) -> Vec<Vec<u8>> {
        let mut decoder = Decoder::new(model(name), size.0, size.1, Tiling::Off).unwrap();
        let stride = (size.0 * 3).next_multiple_of(4);
        let mut out = Vec::new();
        for chunk in chunks {
            let frames = decoder.decode(chunk, &Cancel::new()).unwrap();
            for index in 0..frames.len() {
                let mut rgb = vec![0; stride * size.1];
                frames.write_rgb(index, &mut rgb, stride);
                out.push(rgb);
            }
        }
        out
    }

    /// Whether the pictures are those, whatever is in the padding of rows.
    fn same_pictures(buffers: &[gst::Buffer], expected: &[Vec<u8>], width: usize) -> bool {
        let stride = (width * 3).next_multiple_of(4);
        let same = |buffer: &gst::Buffer, expected: &Vec<u8>| {
            let data = bytes(buffer);
            data.len() == expected.len()
                && data
                    .chunks(stride)
                    .zip(expected.chunks(stride))
                    .all(|(a, b)| a[..width * 3] == b[..width * 3])
        };
        buffers.len() == expected.len() && buffers.iter().zip(expected).all(|(b, e)| same(b, e))
    }

    #[test]
    fn every_frame_has_its_exact_time() {
        for (text, rate) in [("24/1", (24, 1)), ("30000/1001", (30000, 1001))] {
            let mut fixture = decoder("tiny-stream", SIZE, text, &[]);
            let chunks = [latents(SIZE, 2, 0), latents(SIZE, 1, 1), latents(SIZE, 2, 2)];
            for (latents, (offset, end)) in chunks.iter().zip([(0, 5), (5, 9), (9, 17)]) {
                fixture.harness.push(buffer(latents, offset, end, rate, offset == 0)).unwrap();
            }
            let buffers = fixture.pulled();
            let expected_stamps: Vec<_> =
                (0..17).map(|i| (time(i, rate), time(i + 1, rate) - time(i, rate), i, i == 0)).collect();
            assert_eq!(stamps(&buffers), expected_stamps);
            assert!(same_pictures(&buffers, &expected("tiny-stream", SIZE, &chunks), SIZE.0));
        }
    }

    #[test]
    fn a_chunk_may_start_anywhere_in_time() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        let mut late = chunk(1, 0, 7, 8, true);
        late.get_mut().unwrap().set_pts(ns(1_000_000_007));
        fixture.harness.push(late).unwrap();
        let duration = time(8, (24, 1)) - time(7, (24, 1));
        assert_eq!(stamps(&fixture.pulled()), [(1_000_000_007, duration, 7, true)]);
    }

    #[test]
    fn caps_are_those_of_raw_video() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        fixture.harness.push(chunk(1, 0, 0, 1, true)).unwrap();
        let caps = fixture.harness.sinkpad().unwrap().current_caps().unwrap();
        let expected = "video/x-raw, format=RGB, width=64, height=48, framerate=24/1, pixel-aspect-ratio=1/1, \
            interlace-mode=progressive, colorimetry=sRGB";
        assert_eq!(caps, gst::Caps::from_str(expected).unwrap());
        let element = fixture.harness.element().unwrap();
        assert_eq!(element.property::<Option<String>>("active-execution-provider").as_deref(), Some("cpu"));
    }

    #[test]
    fn the_last_chunk_may_be_trimmed() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        fixture.harness.push(chunk(2, 0, 0, 5, true)).unwrap();
        fixture.harness.push(chunk(1, 1, 5, 7, false)).unwrap();
        let offsets: Vec<_> = fixture.pulled().iter().map(|b| b.offset()).collect();
        assert_eq!(offsets, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn discont_starts_a_scene_and_asks_for_a_key_frame() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        fixture.harness.push(chunk(1, 0, 0, 1, true)).unwrap();
        fixture.harness.push(chunk(2, 1, 1, 9, false)).unwrap();
        assert_eq!(fixture.pulled().len(), 9);
        assert!(fixture.custom_events("GstForceKeyUnit").is_empty(), "the stream's start is no cut");

        fixture.harness.push(chunk(2, 2, 9, 14, true)).unwrap();
        let scene = fixture.pulled();
        assert!(same_pictures(&scene, &expected("tiny-stream", SIZE, &[latents(SIZE, 2, 2)]), SIZE.0));
        assert!(scene.iter().all(|b| !is_discont(b)), "time goes on");
        let cuts = fixture.custom_events("GstForceKeyUnit");
        assert_eq!(cuts.len(), 1);
        assert_eq!(cuts[0].structure().unwrap().get("timestamp"), Ok(ns(time(9, (24, 1)))));
    }

    #[test]
    fn a_jump_in_time_is_a_discont() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        fixture.harness.push(chunk(1, 0, 0, 1, true)).unwrap();
        fixture.harness.push(chunk(1, 1, 24, 25, true)).unwrap();
        assert!(fixture.pulled().iter().all(|b| is_discont(b)));
    }

    #[test]
    fn the_first_chunk_starts_a_scene_whether_marked_or_not() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        fixture.harness.push(chunk(2, 3, 0, 5, false)).unwrap();
        let scene = fixture.pulled();
        assert!(same_pictures(&scene, &expected("tiny-stream", SIZE, &[latents(SIZE, 2, 3)]), SIZE.0));
        assert!(is_discont(&scene[0]));
    }

    #[test]
    fn who_joins_late_gets_the_frames_at_their_times() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        fixture.harness.push(chunk(2, 3, 9, 17, false)).unwrap();
        fixture.harness.push(chunk(1, 4, 17, 21, false)).unwrap();
        let times: Vec<_> = stamps(&fixture.pulled()).iter().map(|s| (s.0, s.2)).collect();
        assert_eq!(times, (12..21).map(|i| (time(i, (24, 1)), i)).collect::<Vec<_>>());
    }

    #[test]
    fn the_only_frame_left_of_a_chunk_lasts_as_long_as_any() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        fixture.harness.push(chunk(1, 3, 5, 9, false)).unwrap();
        fixture.harness.push(chunk(1, 4, 9, 13, false)).unwrap();
        let length = |i| time(i + 1, (24, 1)) - time(i, (24, 1));
        let expected: Vec<_> = (8..13).map(|i| (time(i, (24, 1)), length(i), i, i == 8)).collect();
        assert_eq!(stamps(&fixture.pulled()), expected);
    }

    #[test]
    fn frames_are_counted_where_chunks_do_not_say_their_place() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        for (seed, at) in [(0, 0), (1, 1), (2, 5)] {
            let mut chunk = chunk(1, seed, at, at + 1, seed == 0);
            chunk.get_mut().unwrap().set_offset(u64::MAX);
            chunk.get_mut().unwrap().set_offset_end(u64::MAX);
            fixture.harness.push(chunk).unwrap();
        }
        let times: Vec<_> = stamps(&fixture.pulled()).iter().map(|s| (s.0, s.2)).collect();
        assert_eq!(times, (0..9).map(|i| (time(i, (24, 1)), i)).collect::<Vec<_>>());
    }

    #[test]
    fn chunks_of_a_clip_model_are_scenes() {
        let mut fixture = decoder("tiny-clip", SIZE, "24/1", &[]);
        fixture.harness.push(chunk(2, 0, 0, 5, true)).unwrap();
        fixture.harness.push(chunk(2, 0, 5, 10, true)).unwrap();
        let buffers = fixture.pulled();
        assert_eq!(buffers.len(), 10);
        assert!(bytes(&buffers[0]) == bytes(&buffers[5]));
    }

    #[test]
    fn odd_sizes_have_padded_rows() {
        let size = (61, 35);
        let mut fixture = decoder("tiny-stream", size, "24/1", &[]);
        let chunks = [latents(size, 2, 5)];
        fixture.harness.push(buffer(&chunks[0], 0, 5, (24, 1), true)).unwrap();
        assert!(same_pictures(&fixture.pulled(), &expected("tiny-stream", size, &chunks), size.0));
    }

    #[test]
    fn tiles_leave_no_trace() {
        let size = (91, 67);
        let mut fixture =
            decoder("tiny-stream", size, "24/1", &[("tile-size", "32"), ("tile-overlap", "16")]);
        let chunks = [latents(size, 1, 5), latents(size, 2, 6)];
        fixture.harness.push(buffer(&chunks[0], 0, 1, (24, 1), true)).unwrap();
        fixture.harness.push(buffer(&chunks[1], 1, 9, (24, 1), false)).unwrap();
        assert!(same_pictures(&fixture.pulled(), &expected("tiny-stream", size, &chunks), size.0));
    }

    #[test]
    fn frames_outside_the_segment_are_dropped() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        let half_a_frame = time(1, (24, 1)) / 2;
        fixture.segment(time(3, (24, 1)) + half_a_frame, Some(time(7, (24, 1))));
        fixture.harness.push(chunk(2, 0, 0, 5, true)).unwrap();
        let result = fixture.harness.push(chunk(1, 1, 5, 9, false));
        assert_eq!(result, Err(gst::FlowError::Eos), "nothing after it is wanted");
        let stamps = stamps(&fixture.pulled());
        let times: Vec<_> = stamps.iter().map(|s| (s.0, s.2)).collect();
        let expected = [
            (time(3, (24, 1)) + half_a_frame, 3),
            (time(4, (24, 1)), 4),
            (time(5, (24, 1)), 5),
            (time(6, (24, 1)), 6),
        ];
        assert_eq!(times, expected, "the first is shown for what is left of it");
        assert_eq!(stamps[0].0 + stamps[0].1, time(4, (24, 1)));
    }

    #[test]
    fn a_clip_of_which_the_segment_has_a_part_is_shown_as_far() {
        for keep_loaded in ["true", "false"] {
            let mut fixture = decoder("tiny-clip", SIZE, "24/1", &[("keep-loaded", keep_loaded)]);
            fixture.segment(0, Some(time(3, (24, 1))));
            assert_eq!(fixture.harness.push(chunk(2, 0, 0, 5, true)), Err(gst::FlowError::Eos));
            let offsets: Vec<_> = fixture.pulled().iter().map(|b| b.offset()).collect();
            assert_eq!(offsets, [0, 1, 2], "keep-loaded={keep_loaded}");
        }
    }

    #[test]
    fn caps_that_lack_something_are_an_error_that_names_it() {
        let mut fixture = Fixture::new("vaedecode", &[]);
        fixture.start(&gst::Caps::from_str("video/x-latent, width=64, height=48, framerate=24/1").unwrap());
        let (_, text) = fixture.error();
        assert!(text.contains("says no `model`"), "{text}");
    }

    #[test]
    fn a_flush_forgets_the_scene() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        fixture.harness.push(chunk(2, 0, 0, 5, true)).unwrap();
        fixture.pulled();
        fixture.flush();
        fixture.harness.push(chunk(2, 1, 0, 5, false)).unwrap();
        let scene = fixture.pulled();
        assert!(same_pictures(&scene, &expected("tiny-stream", SIZE, &[latents(SIZE, 2, 1)]), SIZE.0));
        assert!(is_discont(&scene[0]));
        assert!(fixture.custom_events("GstForceKeyUnit").is_empty());
        fixture.no_error();
    }

    #[test]
    fn size_and_package_may_change_in_mid_stream() {
        let mut fixture = Fixture::new("vaedecode", &[]);
        let alive = [model("tiny-stream"), model("tiny-clip")];
        // Open elsewhere in the process, as an element upstream would have it.
        let _holders: Vec<_> = alive.iter().map(|m| decoder(&m.manifest().name, SIZE, "24/1", &[])).collect();
        for (model, size) in [(&alive[0], SIZE), (&alive[0], (32, 32)), (&alive[1], SIZE)] {
            fixture.start(&caps_for(model.id(), size, "24/1"));
            let chunks = [latents(size, 2, 1)];
            fixture.harness.push(buffer(&chunks[0], 0, 5, (24, 1), true)).unwrap();
            assert!(same_pictures(
                &fixture.pulled(),
                &expected(&model.manifest().name, size, &chunks),
                size.0
            ));
        }
        fixture.no_error();
    }

    #[test]
    fn a_buffer_of_another_length_is_an_error_that_says_what_would_do() {
        for length in [0, 4, 4 * 6 * 8 * 4 + 4] {
            let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
            let result = fixture.harness.push(gst::Buffer::from_mut_slice(vec![0u8; length]));
            assert_eq!(result, Err(gst::FlowError::Error));
            let (kind, text) = fixture.error();
            assert!(kind.contains("gst-stream-error-quark"), "{kind}");
            assert!(text.contains(&format!("{length} bytes")) && text.contains("768 bytes"), "{text}");
        }
    }

    #[test]
    fn another_package_is_an_error_that_names_both() {
        let path = package("tiny-clip");
        let mut fixture = Fixture::new("vaedecode", &[("model", path.to_str().unwrap())]);
        fixture.start(&caps_for("other-123456", SIZE, "24/1"));
        assert!(fixture.harness.push(chunk(1, 0, 0, 1, true)).is_err());
        let (_, text) = fixture.error();
        assert!(text.contains("other-123456") && text.contains("tiny-clip-"), "{text}");
    }

    #[test]
    fn sizes_and_rates_out_of_range_are_errors_with_the_reason() {
        for (size, rate, field, range) in
            [((1024, 48), "24/1", "width", "16 to 512"), (SIZE, "240/1", "framerate", "1/1 to 120/1")]
        {
            let path = package("tiny-stream");
            let mut fixture = Fixture::new("vaedecode", &[("model", path.to_str().unwrap())]);
            fixture.start(&caps_for(&id("tiny-stream"), size, rate));
            assert!(fixture.harness.push(buffer(&latents(size, 1, 0), 0, 1, (24, 1), true)).is_err());
            let (_, text) = fixture.error();
            assert!(text.contains(field) && text.contains(range), "{text}");
            fixture.no_error();
        }
    }

    #[test]
    fn hostile_times_and_offsets_do_no_harm() {
        let mut fixture = decoder("tiny-stream", SIZE, "24/1", &[]);
        for (pts, offset, end) in [
            (u64::MAX - 2, u64::MAX - 2, u64::MAX - 1),
            (u64::MAX - 2, 0, u64::MAX - 1),
            (5, u64::MAX, 0),
            (5, 9, 3),
            (5, 9, 9),
        ] {
            let mut buffer = chunk(1, 0, 0, 1, true);
            let b = buffer.get_mut().unwrap();
            b.set_pts(ns(pts));
            b.set_offset(offset);
            b.set_offset_end(end);
            let _ = fixture.harness.push(buffer);
        }
        fixture.no_error();
    }
}

mod encode {
    use super::*;

    fn encoder(name: &str, rate: &str, properties: &[(&str, &str)]) -> Fixture {
        let folder = package(name);
        let mut properties = properties.to_vec();
        properties.push(("model", folder.to_str().unwrap()));
        let mut fixture = Fixture::new("vaeencode", &properties);
        fixture.start(&raw(rate, ""));
        fixture
    }

    fn raw(rate: &str, more: &str) -> gst::Caps {
        let (width, height) = SIZE;
        let caps = format!("video/x-raw, format=RGB, width={width}, height={height}, framerate={rate}{more}");
        gst::Caps::from_str(&caps).unwrap()
    }

    fn frame(index: u64, rate: (u64, u64), discont: bool) -> gst::Buffer {
        let mut buffer = gst::Buffer::from_mut_slice(vec![(index * 20 % 256) as u8; SIZE.0 * SIZE.1 * 3]);
        let b = buffer.get_mut().unwrap();
        b.set_pts(ns(time(index, rate)));
        b.set_duration(ns(time(index + 1, rate) - time(index, rate)));
        if discont {
            b.set_flags(gst::BufferFlags::DISCONT);
        }
        buffer
    }

    /// (OFFSET, OFFSET_END, DISCONT) of every buffer, whose times are held against them.
    fn chunks(buffers: &[gst::Buffer], rate: (u64, u64)) -> Vec<(u64, u64, bool)> {
        let chunk = |b: &gst::Buffer| {
            assert_eq!(b.pts().unwrap().nseconds(), time(b.offset(), rate));
            assert_eq!((b.pts().unwrap() + b.duration().unwrap()).nseconds(), time(b.offset_end(), rate));
            (b.offset(), b.offset_end(), is_discont(b))
        };
        buffers.iter().map(chunk).collect()
    }

    #[test]
    fn a_scene_is_one_frame_then_groups_and_the_rest_at_its_end() {
        for (text, rate) in [("24/1", (24, 1)), ("30000/1001", (30000, 1001))] {
            let mut fixture = encoder("tiny-stream", text, &[]);
            for index in 0..11 {
                fixture.harness.push(frame(index, rate, index == 0)).unwrap();
                let held = fixture.harness.buffers_received();
                assert_eq!(u64::from(held), 1 + index / 4, "a chunk leaves as soon as it is full");
            }
            fixture.harness.push_event(gst::event::Eos::new());
            let buffers = fixture.pulled();
            assert_eq!(chunks(&buffers, rate), [(0, 1, true), (1, 5, false), (5, 9, false), (9, 11, false)]);
            let goes_on = |b: &gst::Buffer| b.flags().contains(gst::BufferFlags::DELTA_UNIT);
            assert!(buffers.iter().all(|b| goes_on(b) != is_discont(b)), "as after a key frame");
            assert!(buffers.iter().all(|b| b.size() == 4 * 6 * 8 * 4));
        }
    }

    #[test]
    fn chunks_may_be_longer() {
        let mut fixture = encoder("tiny-stream", "24/1", &[("chunk", "2")]);
        for index in 0..13 {
            fixture.harness.push(frame(index, (24, 1), index == 0)).unwrap();
        }
        let buffers = fixture.pulled();
        assert_eq!(chunks(&buffers, (24, 1)), [(0, 5, true), (5, 13, false)]);
        assert!(buffers.iter().all(|b| b.size() == 2 * 4 * 6 * 8 * 4));
    }

    #[test]
    fn a_clip_model_gets_its_default_clips() {
        let mut fixture = encoder("tiny-clip", "24/1", &[]);
        for index in 0..36 {
            fixture.harness.push(frame(index, (24, 1), index == 0)).unwrap();
        }
        fixture.harness.push_event(gst::event::Eos::new());
        let expected = [(0, 17, true), (17, 34, true), (34, 36, true)];
        assert_eq!(chunks(&fixture.pulled(), (24, 1)), expected);
    }

    #[test]
    fn discont_and_jumps_in_time_start_scenes() {
        for discont in [true, false] {
            let jump = if discont { 3 } else { 30 };
            let mut fixture = encoder("tiny-stream", "24/1", &[]);
            for index in [0, 1, 2, jump, jump + 1] {
                let flag = index == 0 || (discont && index == jump);
                fixture.harness.push(frame(index, (24, 1), flag)).unwrap();
            }
            fixture.harness.push_event(gst::event::Eos::new());
            let expected = [(0, 1, true), (1, 3, false), (jump, jump + 1, true), (jump + 1, jump + 2, false)];
            assert_eq!(chunks(&fixture.pulled(), (24, 1)), expected);
        }
    }

    #[test]
    fn offsets_are_those_of_the_frames_times() {
        let mut fixture = encoder("tiny-stream", "30000/1001", &[]);
        for index in 1000..1005 {
            fixture.harness.push(frame(index, (30000, 1001), index == 1000)).unwrap();
        }
        assert_eq!(chunks(&fixture.pulled(), (30000, 1001)), [(1000, 1001, true), (1001, 1005, false)]);
    }

    #[test]
    fn a_flush_forgets_frames_that_wait() {
        let mut fixture = encoder("tiny-stream", "24/1", &[]);
        for index in 0..3 {
            fixture.harness.push(frame(index, (24, 1), index == 0)).unwrap();
        }
        fixture.pulled();
        fixture.flush();
        for index in 40..45 {
            fixture.harness.push(frame(index, (24, 1), false)).unwrap();
        }
        assert_eq!(chunks(&fixture.pulled(), (24, 1)), [(40, 41, true), (41, 45, false)]);
        fixture.no_error();
    }

    #[test]
    fn caps_tell_what_the_model_can_do() {
        let fixture = encoder("tiny-stream", "24/1", &[]);
        let caps = fixture.harness.srcpad().unwrap().peer_query_caps(None);
        let expected = "video/x-raw, format=RGB, width=[16,512], height=[16,512], framerate=[1/1,120/1]";
        assert_eq!(caps, gst::Caps::from_str(expected).unwrap());
    }

    #[test]
    fn video_that_the_model_cannot_do_gets_a_warning_with_the_reason() {
        let mut fixture = encoder("tiny-stream", "24/1", &[]);
        let pad = fixture.harness.srcpad().unwrap();
        let large =
            gst::Caps::from_str("video/x-raw, format=RGB, width=1024, height=48, framerate=24/1").unwrap();
        assert!(!pad.peer_query_accept_caps(&large));
        assert!(fixture.bus.pop_filtered(&[gst::MessageType::Warning]).is_none(), "nobody insists yet");
        for _ in 0..2 {
            assert!(pad.peer_query_caps(Some(&large)).is_empty());
        }
        let message = fixture.bus.pop_filtered(&[gst::MessageType::Warning]).expect("a warning");
        let gst::MessageView::Warning(warning) = message.view() else { unreachable!() };
        let text = warning.error().to_string();
        assert!(text.contains("16 to 512") && text.contains("videoscale"), "{text}");
        assert!(fixture.bus.pop_filtered(&[gst::MessageType::Warning]).is_none(), "once is enough");
        fixture.harness.push(frame(0, (24, 1), true)).unwrap();
    }

    #[test]
    fn a_missing_package_fails_the_start_and_is_named() {
        init();
        let element =
            gst::ElementFactory::make("vaeencode").property("model", "no/such/folder").build().unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        assert!(element.set_state(gst::State::Paused).is_err());
        let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("an error");
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        assert!(error.error().matches(gst::ResourceError::NotFound));
        element.set_state(gst::State::Null).unwrap();
    }

    #[test]
    fn latency_is_the_time_until_a_chunk_is_full() {
        let fixture = encoder("tiny-stream", "24/1", &[]);
        let latency = fixture.harness.query_latency().unwrap();
        assert_eq!(latency.nseconds(), time(3, (24, 1)), "three frames wait for the fourth");

        let pairs = copy_of("tiny-stream");
        edit(&pairs, "model.toml", "step = \"encoder_step.onnx\"", "step = \"encoder_step.onnx\"\nchunk = 2");
        let mut fixture = Fixture::new("vaeencode", &[("model", pairs.path().to_str().unwrap())]);
        fixture.start(&raw("24/1", ""));
        let latency = fixture.harness.query_latency().unwrap();
        assert_eq!(latency.nseconds(), time(7, (24, 1)), "as many as the network takes at once");
    }

    #[test]
    fn a_clip_is_as_long_as_the_package_has_them() {
        let steps = copy_of("tiny-clip");
        edit(&steps, "model.toml", "size_multiple = 16", "size_multiple = 16\nframe_step = 8");
        let mut fixture = Fixture::new("vaeencode", &[("model", steps.path().to_str().unwrap())]);
        fixture.start(&raw("24/1", ""));
        for index in 0..20 {
            fixture.harness.push(frame(index, (24, 1), index == 0)).unwrap();
        }
        fixture.harness.push_event(gst::event::Eos::new());
        let buffers = fixture.pulled();
        assert_eq!(chunks(&buffers, (24, 1)), [(0, 17, true), (17, 20, true)]);
        let latent_frames: Vec<_> = buffers.iter().map(|b| b.size() / (4 * 6 * 8 * 4)).collect();
        assert_eq!(latent_frames, [5, 3], "1+k·8 frames, of which what is over is cut by the decoder");
    }

    #[test]
    fn pixels_keep_their_shape() {
        let mut fixture = encoder("tiny-stream", "24/1", &[]);
        fixture.harness.push_event(gst::event::Caps::new(&raw("24/1", ", pixel-aspect-ratio=16/11")));
        fixture.harness.push(frame(0, (24, 1), true)).unwrap();
        let caps = fixture.harness.sinkpad().unwrap().current_caps().unwrap();
        assert_eq!(
            caps.structure(0).unwrap().get("pixel-aspect-ratio"),
            Ok(gst::Fraction::new(16, 11)),
            "{caps}"
        );
    }

    #[test]
    fn interlaced_video_is_refused_with_the_cure() {
        let mut fixture = Fixture::new("vaeencode", &[]);
        fixture.start(&raw("24/1", ", interlace-mode=interleaved"));
        let (_, text) = fixture.error();
        assert!(text.contains("interleaved") && text.contains("deinterlace"), "{text}");
    }

    #[test]
    fn frames_that_last_longer_than_their_rate_says_get_one_warning() {
        let mut fixture = encoder("tiny-stream", "24/1", &[]);
        let warning = || fixture.bus.pop_filtered(&[gst::MessageType::Warning]);
        for index in 0..5 {
            fixture.harness.push(frame(index, (24, 1), index == 0)).unwrap();
        }
        assert!(warning().is_none());
        for index in 3..9 {
            fixture.harness.push(frame(index, (12, 1), false)).unwrap();
        }
        let message = warning().expect("a warning");
        let gst::MessageView::Warning(told) = message.view() else { unreachable!() };
        assert!(told.error().to_string().contains("videorate"), "{}", told.error());
        assert!(warning().is_none(), "once is enough");
    }
}

mod pipelines {
    use super::*;

    /// Runs `launch` to its end and returns what reached the sinks called `sink…`, in order of their names.
    fn run(launch: &str) -> Vec<Vec<gst::Buffer>> {
        init();
        let pipeline = gst::parse::launch(launch).unwrap().downcast::<gst::Pipeline>().unwrap();
        let mut sinks: Vec<_> = pipeline
            .iterate_sinks()
            .into_iter()
            .map(Result::unwrap)
            .filter(|e| e.name().starts_with("sink"))
            .collect();
        sinks.sort_by_key(|e| e.name());
        let collect = |sink: &gst::Element| {
            let buffers = Arc::new(Mutex::new(Vec::new()));
            let into = buffers.clone();
            sink.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                into.lock().unwrap().push(info.buffer().unwrap().clone());
                gst::PadProbeReturn::Ok
            });
            buffers
        };
        let collected: Vec<_> = sinks.iter().map(collect).collect();
        pipeline.set_state(gst::State::Playing).unwrap();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends);
        pipeline.set_state(gst::State::Null).unwrap();
        match message.expect("an end within a minute").view() {
            gst::MessageView::Eos(_) => {}
            other => panic!("{other:?}"),
        }
        collected.into_iter().map(|b| std::mem::take(&mut *b.lock().unwrap())).collect()
    }

    /// The pictures without the padding of their rows, whose bytes are anything.
    fn pictures(buffers: &[gst::Buffer]) -> Vec<Vec<u8>> {
        let visible = |b: &gst::Buffer| bytes(b).chunks(752).flat_map(|row| row[..750].to_vec()).collect();
        buffers.iter().map(visible).collect()
    }

    fn source(frames: u64, rate: &str) -> String {
        format!(
            "videotestsrc pattern=ball num-buffers={frames} \
            ! video/x-raw,format=RGB,width=250,height=160,framerate={rate}"
        )
    }

    fn encode(name: &str) -> String {
        format!("vaeencode model={}", package(name).display())
    }

    #[test]
    fn what_goes_in_comes_out_frame_for_frame() {
        for name in ["tiny-stream", "tiny-clip"] {
            for (text, rate) in [("24/1", (24, 1)), ("30000/1001", (30000, 1001))] {
                for frames in [1, 50] {
                    let launch = format!(
                        "{} ! {} ! vaedecode ! fakesink name=sink",
                        source(frames, text),
                        encode(name)
                    );
                    let out = run(&launch).remove(0);
                    let expected: Vec<_> = (0..frames)
                        .map(|i| (time(i, rate), time(i + 1, rate) - time(i, rate), i, i == 0))
                        .collect();
                    assert_eq!(stamps(&out), expected);
                }
            }
        }
    }

    #[test]
    fn a_stream_decoded_twice_is_the_same() {
        let launch = format!(
            "{} ! {} ! tee name=t t. ! queue ! vaedecode ! fakesink name=sink0 t. ! queue ! vaedecode ! \
            fakesink name=sink1",
            source(20, "24/1"),
            encode("tiny-stream")
        );
        let out = run(&launch);
        assert_eq!(out[0].len(), 20);
        assert!(pictures(&out[0]) == pictures(&out[1]));
    }

    #[test]
    fn a_stream_survives_transport() {
        let decode = |between: &str| {
            let encode = encode("tiny-stream");
            let mut out = run(&format!(
                "{} ! {encode} ! {between} vaedecode ! fakesink name=sink",
                source(11, "30000/1001")
            ));
            out.remove(0)
        };
        let (direct, sent) = (decode(""), decode("gdppay ! gdpdepay !"));
        assert_eq!(stamps(&direct), stamps(&sent));
        assert!(pictures(&direct) == pictures(&sent));
    }

    #[test]
    fn stopping_in_mid_stream_is_quick_and_clean() {
        init();
        let launch =
            format!("{} ! {} ! vaedecode ! fakesink", source(100_000, "24/1"), encode("tiny-stream"));
        let pipeline = gst::parse::launch(&launch).unwrap().downcast::<gst::Pipeline>().unwrap();
        for _ in 0..3 {
            pipeline.set_state(gst::State::Playing).unwrap();
            let started = pipeline.state(gst::ClockTime::from_seconds(60)).0;
            started.unwrap();
            std::thread::sleep(std::time::Duration::from_millis(30));
            pipeline.set_state(gst::State::Null).unwrap();
        }
        let error = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
        assert!(error.is_none(), "{error:?}");
    }

    #[test]
    fn what_downstream_wants_is_negotiated_through_both() {
        let launch = format!(
            "videotestsrc num-buffers=5 ! videoconvert ! videoscale ! videorate ! {} ! vaedecode ! \
            video/x-raw,width=96,height=64,framerate=12/1 ! fakesink name=sink",
            encode("tiny-stream")
        );
        let out = run(&launch).remove(0);
        assert!(out.iter().all(|b| b.size() == 96 * 64 * 3));
        assert_eq!(out[1].pts().unwrap().nseconds(), time(1, (12, 1)));
    }
}
