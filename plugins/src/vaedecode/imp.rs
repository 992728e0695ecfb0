//! The element's workings.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::prelude::*;
use latentflow::vae::{Decoder, Frames};
use latentflow::{Cancel, Error, Model, vae};

use crate::caps::{self, LatentInfo};
use crate::frame_times::{FrameTimes, shown_frames};
use crate::glue::{self, ExecutionProvider, ModelSettings, Progress, TileSettings};
use crate::latency::ChunkLatency;
use crate::latent;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("vaedecode", gst::DebugColorFlags::empty(), Some("Latents to video"))
});

/// What the negotiated caps made.
struct Stream {
    model: Arc<Model>,
    keep_loaded: bool,
    latent: LatentInfo,
    video: gst_video::VideoInfo,
    decoder: Decoder,
}

#[derive(Default)]
struct State {
    stream: Option<Stream>,
    /// When the last frame ended; `None` before the first since a start or flush.
    end: Option<gst::ClockTime>,
    /// Whether a frame was shown since a start or flush.
    shown: bool,
    /// The index after the last frame's, for chunks that don't say theirs.
    next_offset: u64,
    /// Scene cuts told.
    cuts: u32,
    /// The caps that were last refused: upstream may try again, and one error is enough.
    refused: Option<gst::Caps>,
}

#[derive(Default, glib::Properties)]
#[properties(wrapper_type = super::VaeDecode)]
pub struct VaeDecode {
    #[property(name = "model", get, set, type = Option<String>, member = model, nick = "Model", mutable_ready,
        blurb = "Folder of the model package; unset, the one that made the latents if it is open in this process, \
        else papercut. The latents' package and this one have to be the same")]
    #[property(name = "execution-provider", get, set, type = ExecutionProvider, member = execution_provider,
        nick = "Execution provider", blurb = "Where the decoder runs; a provider that is named is used, or it is \
        an error", builder(ExecutionProvider::Auto).mutable_ready())]
    #[property(name = "device-id", get, set, type = u32, member = device_id, default = 0, mutable_ready,
        nick = "Device ID", blurb = "Which GPU, from 0")]
    #[property(name = "num-threads", get, set, type = u32, member = num_threads, default = 0, maximum = 1024, mutable_ready,
        nick = "Threads", blurb = "Threads of an operation on the CPU; 0 is one a core")]
    #[property(name = "keep-loaded", get, set, type = bool, member = keep_loaded, default = true, mutable_ready,
        nick = "Keep loaded", blurb = "Keep the decoder open. If false, it closes after each clip, or at the end of a stream that goes on, and opens again for the next; \
        elements with false take turns, so that one network of a model is in memory at a time")]
    model_settings: Mutex<ModelSettings>,
    #[property(name = "tile-size", get, set, type = i32, member = size, default = -1, minimum = -1,
        maximum = 16384, mutable_ready, nick = "Tile size", blurb = "Width and height in pixels of the tiles that \
        large frames are decoded in to save memory; 0 is whole frames, -1 is tiles of 512 for frames of more than \
        1024x1024 pixels")]
    #[property(name = "tile-overlap", get, set, type = u32, member = overlap, default = 64, maximum = 8192,
        mutable_ready, nick = "Tile overlap", blurb = "Pixels that neighbouring tiles share, where they are blended")]
    tile_settings: Mutex<TileSettings>,
    #[property(name = "active-execution-provider", get, type = Option<String>,
        nick = "Active execution provider", blurb = "Where the decoder runs, once it is open")]
    active_execution_provider: Mutex<Option<String>>,
    state: Mutex<State>,
    cancel: Cancel,
    latency: ChunkLatency,
}

#[glib::object_subclass]
impl ObjectSubclass for VaeDecode {
    const NAME: &'static str = "GstVaeDecode";
    type Type = super::VaeDecode;
    type ParentType = gst_base::BaseTransform;
}

#[glib::derived_properties]
impl ObjectImpl for VaeDecode {}

impl GstObjectImpl for VaeDecode {}

impl ElementImpl for VaeDecode {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Latent video decoder",
                "Decoder/Video",
                "Decodes latents to video with the video autoencoder of a model package: textsrc prompt=\"a garden\" ! \
                 latentdiffuse ! vaedecode ! queue ! videoconvert ! autovideosink",
                "The Latentflow authors",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let pad = |name, direction, caps: &gst::Caps| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps)
                    .expect("valid template")
            };
            vec![
                pad("sink", gst::PadDirection::Sink, &caps::any_latent()),
                pad("src", gst::PadDirection::Src, &caps::any_rgb()),
            ]
        });
        TEMPLATES.as_ref()
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::PausedToReady {
            self.cancel.cancel();
        }
        self.parent_change_state(transition)
    }
}

impl BaseTransformImpl for VaeDecode {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::NeverInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        // The base class drops whole inputs for QoS, and the decoder goes on from one to the next.
        self.obj().set_qos(false);
        self.cancel.reset();
        self.latency.reset();
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.state() = State::default();
        *self.active_execution_provider.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn transform_caps(
        &self,
        direction: gst::PadDirection,
        caps: &gst::Caps,
        filter: Option<&gst::Caps>,
    ) -> Option<gst::Caps> {
        let other = match direction {
            gst::PadDirection::Sink => caps::decoded(caps),
            _ => caps::latent_of_rgb(&caps.intersect(&caps::decoded(&caps::any_latent()))),
        };
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&other, gst::CapsIntersectMode::First),
            None => other,
        })
    }

    fn fixate_caps(&self, direction: gst::PadDirection, caps: &gst::Caps, other: gst::Caps) -> gst::Caps {
        let other = self.parent_fixate_caps(direction, caps, other);
        match gst_video::VideoInfo::from_caps(&other).and_then(|info| info.to_caps()) {
            // With the colorimetry and the like that follow from the format.
            Ok(whole) if direction == gst::PadDirection::Sink => whole,
            _ => other,
        }
    }

    fn set_caps(&self, incaps: &gst::Caps, outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let video = gst_video::VideoInfo::from_caps(outcaps)?;
        let latent = LatentInfo::from_caps(incaps);
        if let (Ok(latent), Some(stream)) = (&latent, &mut self.state().stream)
            && stream.latent == *latent
        {
            stream.video = video;
            return Ok(());
        }
        let result = latent.and_then(|latent| self.open(latent, video));
        let mut state = self.state();
        match result {
            Ok(stream) => {
                state.stream = Some(stream);
                state.refused = None;
                Ok(())
            }
            Err(error) => {
                state.stream = None;
                // Who stops the pipeline while it opens has no error to hear of.
                let stopped = matches!(error, Error::Cancelled);
                let known =
                    !stopped && state.refused.replace(incaps.clone()).is_some_and(|caps| caps == *incaps);
                drop(state);
                if !known && !stopped {
                    self.post_error_message(glue::error_message(&error));
                }
                Err(gst::loggable_error!(CAT, "{error}"))
            }
        }
    }

    fn decide_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        let (Some(caps), _) = query.get_owned() else {
            return Err(gst::loggable_error!(CAT, "an allocation query without caps"));
        };
        let info = gst_video::VideoInfo::from_caps(&caps)?;
        let with_meta = query.find_allocation_meta::<gst_video::VideoMeta>().is_some();
        let proposed = query.allocation_pools().next();
        let replace = proposed.is_some();
        let (theirs, size, min, max) = proposed.unwrap_or((None, 0, 0, 0));
        let size = size.max(info.size() as u32);
        let configure = |pool: &gst::BufferPool| {
            let mut config = pool.config();
            config.set_params(Some(&caps), size, min, max);
            if with_meta {
                config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META);
            }
            pool.set_config(config)
        };
        let pool = match theirs.filter(|pool| configure(pool).is_ok()) {
            Some(pool) => pool,
            None => {
                let own = gst_video::VideoBufferPool::new().upcast();
                configure(&own)?;
                own
            }
        };
        if replace {
            query.set_nth_allocation_pool(0, Some(&pool), size, min, max);
        } else {
            query.add_allocation_pool(Some(&pool), size, min, max);
        }
        self.parent_decide_allocation(query)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        if !BaseTransformImplExt::parent_query(self, direction, query) {
            return false;
        }
        if let (gst::PadDirection::Src, gst::QueryViewMut::Latency(query)) = (direction, query.view_mut()) {
            self.latency.add_to(query);
        }
        true
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => self.cancel.cancel(),
            gst::EventView::FlushStop(_) => {
                self.cancel.reset();
                let mut state = self.state();
                let stream = state.stream.take();
                *state = State { stream, cuts: state.cuts, ..State::default() };
                if let Some(stream) = &mut state.stream {
                    stream.decoder.reset();
                }
            }
            // Where it stays open between chunks all the same, since a stream goes on.
            gst::EventView::Eos(_) => {
                if let Some(stream) = self.state().stream.as_mut().filter(|stream| !stream.keep_loaded) {
                    stream.decoder.close();
                }
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }

    /// Pushes the frames itself: the base class would copy DISCONT, which is a scene cut here, to the first of them.
    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        let Some(buffer) = self.take_queued_buffer() else {
            return Ok(GenerateOutputSuccess::NoOutput);
        };
        // Out of the lock while it works: only this thread uses it.
        let Some(mut stream) = self.state().stream.take() else {
            return Err(gst::FlowError::NotNegotiated);
        };
        let result = self.decode(&mut stream, &buffer);
        self.state().stream = Some(stream);
        match result {
            Ok(()) => Ok(GenerateOutputSuccess::NoOutput),
            Err(Failure::Library(error)) => Err(glue::flow_error(&*self.obj(), &error)),
            Err(Failure::Flow(flow)) => Err(flow),
        }
    }
}

/// Why a chunk was not decoded to its end.
enum Failure {
    Library(Error),
    /// What downstream said.
    Flow(gst::FlowError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

/// A frame on its way out, behind the event that tells of a scene cut, if it begins with one.
type Shown = (Option<gst::Event>, gst::Buffer);

/// A chunk on its way out.
struct Chunk<'a> {
    video: &'a gst_video::VideoInfo,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
    times: FrameTimes,
    /// The chunk's places that its frames take.
    places: std::ops::Range<u64>,
    /// How long a chunk of one frame says that it lasts, which for pictures is what counts.
    duration: Option<gst::ClockTime>,
    /// A scene cut is yet to be told.
    cut: bool,
    /// Frames that were decoded.
    done: u64,
    /// Frames that were pushed.
    pushed: u64,
}

impl VaeDecode {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, latent: LatentInfo, video: gst_video::VideoInfo) -> latentflow::Result<Stream> {
        let settings = self.model_settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tiling = self.tile_settings.lock().unwrap_or_else(PoisonError::into_inner).tiling();
        let model = settings.resolve(&latent.model)?;
        glue::check_frame_rate(model.manifest(), latent.framerate)?;
        let (width, height) = (latent.width as usize, latent.height as usize);
        let decoder = Decoder::new(model.clone(), width, height, tiling)?.keep_loaded(settings.keep_loaded);
        let mut stream = Stream { model, keep_loaded: settings.keep_loaded, latent, video, decoder };
        if settings.keep_loaded {
            self.open_graphs(&mut stream)?;
        }
        Ok(stream)
    }

    /// Opens the decoder's graphs, which takes seconds for large models, and says so then.
    fn open_graphs(&self, stream: &mut Stream) -> latentflow::Result<()> {
        let known = stream.decoder.provider().is_some();
        let text = format!("opening the decoder of {}", stream.model.id());
        glue::with_progress(&*self.obj(), "open", &text, || stream.decoder.open(&self.cancel))?;
        let provider = stream.decoder.provider().map(|provider| provider.to_string());
        if !known {
            gst::info!(CAT, imp = self, "decoder of {} opened on {provider:?}", stream.model.id());
            *self.active_execution_provider.lock().unwrap_or_else(PoisonError::into_inner) = provider;
            self.obj().notify_active_execution_provider();
        }
        Ok(())
    }

    /// Decodes the chunk in `buffer` and pushes its frames as they come, or, where the decoder is to close first, in the end.
    fn decode(&self, stream: &mut Stream, buffer: &gst::BufferRef) -> Result<(), Failure> {
        let Stream { model, keep_loaded, .. } = stream;
        let (model, keep_loaded) = (model.clone(), *keep_loaded);
        let is_discont = buffer.flags().contains(gst::BufferFlags::DISCONT);
        if is_discont {
            stream.decoder.reset();
        }
        if let Some(position) = latent::noise_position(buffer) {
            stream.decoder.set_noise_position(position);
        }
        let map = buffer.map_readable().map_err(|e| glue::unreadable(&e))?;
        let [c, _, h, w] = stream.decoder.latent_shape(1);
        let one = c * h * w * size_of::<f32>();
        if map.is_empty() || !map.len().is_multiple_of(one) {
            return Err(Failure::Library(Error::Shape {
                what: "a buffer of latents".into(),
                found: format!("{} bytes", map.len()),
                expected: format!("a multiple of {one} bytes ([{c},T,{h},{w}] of 32-bit floats)"),
            }));
        }
        let latents = latent::floats_in(&map, None)?;
        let frames = |first| vae::num_frames(&model.manifest().latents, map.len() / one, first) as u64;
        let len = frames(stream.decoder.is_first());
        let video = stream.video.clone();
        let mut chunk = self.chunk(buffer, &video, stream.latent.framerate, (len, frames(false)));

        let turn = glue::turn(&model, keep_loaded, &self.cancel)?;
        if !keep_loaded {
            self.open_graphs(stream)?;
        }
        // Nothing is pushed during the turn: who waits for it may be what downstream waits for.
        let mut held = Vec::<Shown>::new();
        let (mut worked, mut begin) = (Duration::ZERO, Instant::now());
        // A stream's chunks are short, and many.
        let progress = model.manifest().stream.is_none().then(|| {
            let text = format!("decoding {} of {}", glue::counted(len, "frame"), model.id());
            Progress::new(&*self.obj(), "decode", text)
        });
        let mut tell = |done, all| progress.iter().for_each(|progress| progress.tell(done, all));
        let result = stream.decoder.decode_each(&latents, &self.cancel, &mut tell, |frames: Frames| {
            worked += begin.elapsed();
            if turn.is_none() {
                progress.iter().for_each(|progress| progress.end(gst::ProgressType::Complete));
            }
            for index in 0..frames.len() {
                let Some(shown) = self.frame(&mut chunk, &frames, index, turn.is_none())? else { continue };
                match turn {
                    Some(_) => held.push(shown),
                    None => self.push(&mut chunk, shown)?,
                }
            }
            begin = Instant::now();
            Ok::<(), Failure>(())
        });
        if let Some(progress) = progress {
            progress.end(match &result {
                Ok(()) => gst::ProgressType::Complete,
                Err(Failure::Library(error)) => glue::progress_of(Some(error)),
                Err(Failure::Flow(_)) => gst::ProgressType::Canceled,
            });
        }
        if turn.is_some() {
            stream.decoder.close();
        }
        match result {
            // Past the segment's end nothing is wanted, and what lies before it is shown.
            Ok(()) | Err(Failure::Flow(gst::FlowError::Eos)) => (),
            Err(failure) => return self.unless_reconfigured(&chunk, failure),
        }
        gst::log!(CAT, imp = self, "{len} frames in {worked:?}");
        if self.latency.took(worked) {
            glue::post_latency(&*self.obj());
        }
        drop(turn);
        for shown in held {
            if let Err(failure) = self.push(&mut chunk, shown) {
                return self.unless_reconfigured(&chunk, failure);
            }
        }
        result
    }

    fn push(&self, chunk: &mut Chunk, (cut, frame): Shown) -> Result<(), Failure> {
        if let Some(cut) = cut {
            self.obj().src_pad().push_event(cut);
        }
        self.obj().src_pad().push(frame).map_err(Failure::Flow)?;
        chunk.pushed += 1;
        Ok(())
    }

    /// Returns `failure`, unless it is that downstream has come to want something else in the middle of the chunk: what is left of that is left out, or
    /// upstream would make it anew and show its beginning twice.
    fn unless_reconfigured(&self, chunk: &Chunk, failure: Failure) -> Result<(), Failure> {
        match failure {
            Failure::Flow(gst::FlowError::NotNegotiated)
                if chunk.pushed > 0 && self.obj().src_pad().needs_reconfigure() =>
            {
                gst::info!(
                    CAT,
                    imp = self,
                    "{} frames of a chunk, then downstream wants others",
                    chunk.pushed
                );
                Ok(())
            }
            failure => Err(failure),
        }
    }

    /// Returns what to show of the `len` frames that `buffer` decodes to, and of the `whole` that it would where it followed on others.
    fn chunk<'a>(
        &self,
        buffer: &gst::BufferRef,
        video: &'a gst_video::VideoInfo,
        framerate: gst::Fraction,
        (len, whole): (u64, u64),
    ) -> Chunk<'a> {
        let mut state = self.state();
        let places = shown_frames(len, whole, latent::num_frames(buffer));
        if places.start > 0 {
            gst::warning!(CAT, imp = self, "{} frames are missing: the chunk before was lost", places.start);
        }
        let times = FrameTimes {
            pts: buffer.pts(),
            offset: latent::first_frame(buffer).unwrap_or(state.next_offset),
            framerate,
        };
        state.next_offset = times.offset.saturating_add(places.end);
        let cut = buffer.flags().contains(gst::BufferFlags::DISCONT) && state.shown;
        drop(state);
        let segment = self.obj().segment().downcast::<gst::ClockTime>().ok();
        let duration = buffer.duration().filter(|_| places == (0..1));
        Chunk { video, segment, times, places, duration, cut, done: 0, pushed: 0 }
    }

    /// Returns the chunk's next frame, which is frame `index` of `frames`, if it is shown; `pooled` is whether the buffer comes from
    /// the pool, which may hold only so many.
    fn frame(
        &self,
        chunk: &mut Chunk,
        frames: &Frames,
        index: usize,
        pooled: bool,
    ) -> Result<Option<Shown>, Failure> {
        let place = chunk.places.start + chunk.done;
        chunk.done += 1;
        if !chunk.places.contains(&place) {
            return Ok(None);
        }
        let times = &chunk.times;
        let mut pts = times.pts(place);
        let mut duration = chunk.duration.unwrap_or_else(|| times.duration(place));
        if let (Some(segment), Some(start)) = (&chunk.segment, pts) {
            if segment.stop().is_some_and(|stop| start >= stop) && segment.rate() > 0.0 {
                return Err(Failure::Flow(gst::FlowError::Eos));
            }
            let Some((Some(first), end)) = segment.clip(start, start.saturating_add(duration)) else {
                gst::trace!(CAT, imp = self, "frame at {start} is outside the segment");
                return Ok(None);
            };
            pts = Some(first);
            duration = end.map_or(duration, |end| end - first);
        }
        let cut = std::mem::take(&mut chunk.cut).then(|| self.cut(pts, chunk.segment.as_ref()));
        let mut out = self.acquire(chunk.video, pooled).map_err(Failure::Flow)?;
        {
            let out = out.get_mut().ok_or(Failure::Flow(gst::FlowError::Error))?;
            out.set_pts(pts);
            // A picture without a rate or a length of its own is shown until the next one.
            out.set_duration(Some(duration).filter(|duration| !duration.is_zero()));
            out.set_offset(times.offset.saturating_add(place));
            out.set_offset_end(times.offset.saturating_add(place + 1));
            if self.is_discont(pts, duration) {
                out.set_flags(gst::BufferFlags::DISCONT);
            }
            let unmapped = || {
                gst::element_imp_error!(self, gst::ResourceError::Write, ["a frame can't be mapped"]);
                Failure::Flow(gst::FlowError::Error)
            };
            let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(out, chunk.video)
                .map_err(|_| unmapped())?;
            let stride = frame.plane_stride()[0] as usize;
            frames.write_rgb(index, frame.plane_data_mut(0).map_err(|_| unmapped())?, stride);
        }
        Ok(Some((cut, out)))
    }

    /// Returns whether a frame at `pts` does not follow the one before in time, and takes note of it.
    fn is_discont(&self, pts: Option<gst::ClockTime>, duration: gst::ClockTime) -> bool {
        let mut state = self.state();
        let first = !std::mem::replace(&mut state.shown, true);
        let end = std::mem::replace(&mut state.end, pts.and_then(|pts| pts.checked_add(duration)));
        // Chunks from elsewhere may be timed a little less exactly.
        let apart = end
            .zip(pts)
            .is_some_and(|(end, pts)| end.nseconds().abs_diff(pts.nseconds()) > duration.nseconds() / 2);
        first || apart
    }

    /// Returns the event that tells encoders of a scene cut at `pts`.
    fn cut(
        &self,
        pts: Option<gst::ClockTime>,
        segment: Option<&gst::FormattedSegment<gst::ClockTime>>,
    ) -> gst::Event {
        let count = {
            let mut state = self.state();
            state.cuts = state.cuts.wrapping_add(1);
            state.cuts
        };
        gst_video::DownstreamForceKeyUnitEvent::builder()
            .timestamp(pts)
            .stream_time(segment.and_then(|s| s.to_stream_time(pts)))
            .running_time(segment.and_then(|s| s.to_running_time(pts)))
            .all_headers(true)
            .count(count)
            .build()
    }

    fn acquire(&self, video: &gst_video::VideoInfo, pooled: bool) -> Result<gst::Buffer, gst::FlowError> {
        match self.obj().buffer_pool().filter(|_| pooled) {
            Some(pool) => {
                pool.set_active(true).map_err(|_| gst::FlowError::Error)?;
                pool.acquire_buffer(None)
            }
            None => gst::Buffer::with_size(video.size()).map_err(|_| gst::FlowError::Error),
        }
    }
}
