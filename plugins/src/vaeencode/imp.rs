//! The element's workings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::prelude::*;
use latentflow::vae::{self, Encoded, Encoder};
use latentflow::{Cancel, Error, Model};

use crate::caps::{self, LatentInfo};
use crate::frame_times::FrameTimes;
use crate::glue::{self, ExecutionProvider, ModelSettings, Progress, TileSettings};
use crate::latency::ChunkLatency;
use crate::latent;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("vaeencode", gst::DebugColorFlags::empty(), Some("Video to latents"))
});

#[derive(Default)]
struct Settings {
    /// Latent frames a buffer; 0 is the least for models that stream, and the default clip for others.
    chunk: u32,
}

/// What the negotiated caps made.
struct Stream {
    model: Arc<Model>,
    keep_loaded: bool,
    latent: LatentInfo,
    video: gst_video::VideoInfo,
    encoder: Encoder,
    chunk: usize,
    /// The times of the frames that wait; before the first of a scene, of the last that went.
    times: FrameTimes,
    /// When the last frame ended; `None` where the next one starts a scene.
    end: Option<gst::ClockTime>,
}

#[derive(Default)]
struct State {
    /// The package of the property `model`, opened on start, to tell its sizes in caps.
    model: Option<Arc<Model>>,
    stream: Option<Stream>,
    /// The caps that were last refused: upstream may try again, and one error is enough.
    refused: Option<gst::Caps>,
    /// Whether it was told that upstream has no size and rate that the model takes, or another rate than it says.
    warned: bool,
}

#[derive(Default, glib::Properties)]
#[properties(wrapper_type = super::VaeEncode)]
pub struct VaeEncode {
    #[property(name = "model", get, set, type = Option<String>, member = model, nick = "Model", mutable_ready,
        blurb = "Folder of the model package; unset, the one that the elements downstream ask for, else papercut")]
    #[property(name = "execution-provider", get, set, type = ExecutionProvider, member = execution_provider,
        nick = "Execution provider", blurb = "Where the encoder runs; a provider that is named is used, or it is \
        an error", builder(ExecutionProvider::Auto).mutable_ready())]
    #[property(name = "device-id", get, set, type = u32, member = device_id, default = 0, mutable_ready,
        nick = "Device ID", blurb = "Which GPU, from 0")]
    #[property(name = "num-threads", get, set, type = u32, member = num_threads, default = 0, maximum = 1024, mutable_ready,
        nick = "Threads", blurb = "Threads of an operation on the CPU; 0 is one a core")]
    #[property(name = "keep-loaded", get, set, type = bool, member = keep_loaded, default = true, mutable_ready,
        nick = "Keep loaded", blurb = "Keep the encoder open. If false, it closes after each clip, or at the end of a stream that goes on, and opens again for the next; \
        elements with false take turns, so that one network of a model is in memory at a time")]
    model_settings: Mutex<ModelSettings>,
    #[property(name = "tile-size", get, set, type = i32, member = size, default = -1, minimum = -1,
        maximum = 16384, mutable_ready, nick = "Tile size", blurb = "Width and height in pixels of the tiles that \
        large frames are encoded in to save memory; 0 is whole frames, -1 is tiles of 512 for frames of more than \
        1024x1024 pixels")]
    #[property(name = "tile-overlap", get, set, type = u32, member = overlap, default = 64, maximum = 8192,
        mutable_ready, nick = "Tile overlap", blurb = "Pixels that neighbouring tiles share, where they are blended")]
    tile_settings: Mutex<TileSettings>,
    #[property(name = "chunk", get, set, type = u32, member = chunk, default = 0, maximum = 4096, mutable_ready,
        nick = "Chunk", blurb = "Latent frames a buffer: more are faster, and wait for more frames. 0 is 1 for \
        models that stream, and the default clip's number for others, of which every buffer is a scene")]
    settings: Mutex<Settings>,
    #[property(name = "active-execution-provider", get, type = Option<String>,
        nick = "Active execution provider", blurb = "Where the encoder runs, once it is open")]
    active_execution_provider: Mutex<Option<String>>,
    state: Mutex<State>,
    cancel: Cancel,
    latency: ChunkLatency,
    /// Set while upstream only asks whether caps would do.
    probed: AtomicBool,
}

#[glib::object_subclass]
impl ObjectSubclass for VaeEncode {
    const NAME: &'static str = "GstVaeEncode";
    type Type = super::VaeEncode;
    type ParentType = gst_base::BaseTransform;
}

#[glib::derived_properties]
impl ObjectImpl for VaeEncode {}

impl GstObjectImpl for VaeEncode {}

impl ElementImpl for VaeEncode {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Latent video encoder",
                "Encoder/Video",
                "Encodes video to latents with the video autoencoder of a model package: videotestsrc ! \
                 video/x-raw,width=256,height=160,framerate=24/1 ! videoconvert ! vaeencode ! vaedecode ! queue ! videoconvert ! \
                 autovideosink",
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
                pad("sink", gst::PadDirection::Sink, &caps::any_rgb()),
                pad("src", gst::PadDirection::Src, &caps::any_latent()),
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

impl BaseTransformImpl for VaeEncode {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::NeverInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        // The base class drops inputs for QoS, which would leave holes in the latents.
        self.obj().set_qos(false);
        self.cancel.reset();
        self.latency.reset();
        let settings = self.model_settings();
        if settings.model.is_some() {
            self.state().model = Some(settings.open().map_err(|error| glue::error_message(&error))?);
        }
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
        let model = self.state().model.clone();
        let able = match &model {
            Some(model) => caps::model_latent(model.id(), model.manifest()),
            None => caps::any_latent(),
        };
        let other = match direction {
            gst::PadDirection::Sink => {
                let wanted = caps::latent_of_rgb(caps);
                let other = wanted.intersect(&able);
                if let (Some(model), true, false) = (model, other.is_empty(), wanted.is_empty()) {
                    self.warn_of_limits(&model);
                }
                other
            }
            _ => caps::rgb_of_latent(&caps.intersect(&able)),
        };
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&other, gst::CapsIntersectMode::First),
            None => other,
        })
    }

    fn accept_caps(&self, direction: gst::PadDirection, caps: &gst::Caps) -> bool {
        self.probed.store(true, Ordering::Relaxed);
        let accepted = self.parent_accept_caps(direction, caps);
        self.probed.store(false, Ordering::Relaxed);
        accepted
    }

    fn fixate_caps(&self, direction: gst::PadDirection, caps: &gst::Caps, other: gst::Caps) -> gst::Caps {
        let mut other = self.parent_fixate_caps(direction, caps, other);
        let named = other.structure(0).is_none_or(|s| s.has_field("model"));
        if direction == gst::PadDirection::Sink && !named {
            // What downstream asks for, else papercut; `set_caps` tells why there is none.
            let peer = self.obj().src_pad().peer_query_caps(Some(&other));
            let asked = peer.iter().find_map(|s| s.get::<String>("model").ok());
            if let Some(id) = asked.or_else(|| Some(self.model_settings().open().ok()?.id().to_owned())) {
                other.make_mut().set("model", id);
            }
        }
        other
    }

    fn set_caps(&self, incaps: &gst::Caps, outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let video = gst_video::VideoInfo::from_caps(incaps)?;
        let unchanged = |stream: &Stream| {
            LatentInfo::from_caps(outcaps).is_ok_and(|latent| latent == stream.latent)
                && stream.video == video
        };
        if self.state().stream.as_ref().is_some_and(unchanged) {
            return Ok(());
        }
        // Downstream asks for another package in mid-stream; new input was drained by its caps event.
        let _ = self.drain();
        let result = self.open(outcaps, video);
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

    fn propose_allocation(
        &self,
        decide_query: Option<&gst::query::Allocation>,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        query.add_allocation_meta::<gst_video::VideoMeta>(None);
        self.parent_propose_allocation(decide_query, query)
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
                if let Some(stream) = &mut self.state().stream {
                    stream.encoder.reset();
                    stream.end = None;
                }
            }
            gst::EventView::Caps(event) => {
                let current = self.obj().sink_pad().current_caps();
                if current.is_some_and(|current| current.as_ref() != event.caps()) {
                    // A flow that fails is told to the next buffer, too.
                    let _ = self.drain();
                }
            }
            gst::EventView::Segment(_) | gst::EventView::SegmentDone(_) | gst::EventView::Gap(_) => {
                let _ = self.drain();
            }
            gst::EventView::Eos(_) => {
                let _ = self.drain();
                if let Some(stream) = self.state().stream.as_mut().filter(|stream| !stream.keep_loaded) {
                    stream.encoder.close();
                }
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }

    /// Pushes the latents itself, as at the end of the stream.
    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        let Some(buffer) = self.take_queued_buffer() else {
            return Ok(GenerateOutputSuccess::NoOutput);
        };
        let jumps = self.state().stream.as_ref().is_some_and(|stream| stream.jumps(&buffer));
        if jumps {
            self.drain()?;
        }
        self.warn_of_rate(&buffer);
        let full = match &mut self.state().stream {
            Some(stream) => {
                stream.push(&buffer).map(|()| stream.encoder.len() >= stream.encoder.num_frames(stream.chunk))
            }
            None => return Err(gst::FlowError::NotNegotiated),
        };
        let full = full.map_err(|error| glue::flow_error(&*self.obj(), &error))?;
        if full {
            self.encode()?;
        }
        Ok(GenerateOutputSuccess::NoOutput)
    }
}

impl VaeEncode {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn model_settings(&self) -> ModelSettings {
        self.model_settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says once why upstream finds no caps: it would fail with no word of the reason.
    fn warn_of_limits(&self, model: &Model) {
        if self.probed.load(Ordering::Relaxed) || std::mem::replace(&mut self.state().warned, true) {
            return;
        }
        let latentflow::package::VideoConfig { width, height, frame_rate, .. } = &model.manifest().video;
        gst::element_imp_warning!(
            self,
            gst::CoreError::Negotiation,
            (
                "{} takes video of {} to {} by {} to {} pixels with {} to {} frames a second; put videoscale and \
                videorate before it",
                model.id(),
                width.min,
                width.max,
                height.min,
                height.max,
                frame_rate.min,
                frame_rate.max
            )
        );
    }

    /// Says once that frames last longer than their caps say, for that is how they are shown in the end.
    fn warn_of_rate(&self, buffer: &gst::BufferRef) {
        let mut state = self.state();
        let Some((stream, duration)) = state.stream.as_ref().zip(buffer.duration()) else { return };
        let framerate = stream.latent.framerate;
        let frame = caps::frame_time(1, framerate);
        // What ends a file or a pause may last.
        let is_long = !frame.is_zero() && duration > frame * 3 / 2 && !stream.encoder.is_empty();
        if !is_long || std::mem::replace(&mut state.warned, true) {
            return;
        }
        drop(state);
        gst::element_imp_warning!(
            self,
            gst::StreamError::Format,
            ("a frame lasts {duration}, and at the caps' rate of {framerate} frames a second it would last {frame}: \
                 frames will be shown at that rate, with gaps; put videorate before vaeencode")
        );
    }

    fn open(&self, outcaps: &gst::CapsRef, video: gst_video::VideoInfo) -> latentflow::Result<Stream> {
        let settings = self.model_settings();
        if !outcaps.structure(0).is_some_and(|s| s.has_field("model")) {
            // `fixate_caps` had none to name: opening it says why.
            settings.open()?;
        }
        if video.is_interlaced() {
            return Err(Error::Shape {
                what: "video to encode".into(),
                found: format!("interlaced ({})", video.interlace_mode().to_str()),
                expected: "whole frames; put `deinterlace` before vaeencode".into(),
            });
        }
        let latent = LatentInfo::from_caps(outcaps)?;
        let tiling = self.tile_settings.lock().unwrap_or_else(PoisonError::into_inner).tiling();
        let chunk = self.settings.lock().unwrap_or_else(PoisonError::into_inner).chunk as usize;
        let model = settings.resolve(&latent.model)?;
        let manifest = model.manifest();
        glue::check_frame_rate(manifest, latent.framerate)?;
        let (width, height) = (latent.width as usize, latent.height as usize);
        let encoder = Encoder::new(model.clone(), width, height, tiling)?;
        let mut encoder = encoder.keep_loaded(settings.keep_loaded);
        if settings.keep_loaded {
            self.open_graphs(&model, &mut encoder)?;
        }
        let chunk = match chunk {
            0 if encoder.is_stream() => 1,
            0 => vae::num_latent_frames(&manifest.latents, manifest.video.num_frames.default, true),
            chunk => chunk,
        };
        let longest = encoder.max_frames(chunk) as u64;
        if self.latency.hold(caps::frame_time(longest - 1, latent.framerate)) {
            glue::post_latency(&*self.obj());
        }
        let times = FrameTimes { pts: None, offset: 0, framerate: latent.framerate };
        let keep_loaded = settings.keep_loaded;
        Ok(Stream { model, keep_loaded, latent, video, encoder, chunk, times, end: None })
    }

    /// Opens the encoder's graphs, which takes seconds for large models, and says so then.
    fn open_graphs(&self, model: &Model, encoder: &mut Encoder) -> latentflow::Result<()> {
        let known = encoder.provider().is_some();
        let text = format!("opening the encoder of {}", model.id());
        glue::with_progress(&*self.obj(), "open", &text, || encoder.open(&self.cancel))?;
        let provider = encoder.provider().map(|provider| provider.to_string());
        if !known {
            gst::info!(CAT, imp = self, "encoder of {} opened on {provider:?}", model.id());
            *self.active_execution_provider.lock().unwrap_or_else(PoisonError::into_inner) = provider;
            self.obj().notify_active_execution_provider();
        }
        Ok(())
    }

    /// Encodes the frames that wait, in its turn where it is one of those who take turns.
    fn run(&self, stream: &mut Stream) -> latentflow::Result<Encoded> {
        let turn = glue::turn(&stream.model, stream.keep_loaded, &self.cancel)?;
        if !stream.keep_loaded {
            self.open_graphs(&stream.model, &mut stream.encoder)?;
        }
        // A stream's chunks are short, and many.
        let progress = (!stream.encoder.is_stream()).then(|| {
            let frames = glue::counted(stream.encoder.len() as u64, "frame");
            Progress::new(&*self.obj(), "encode", format!("encoding {frames} for {}", stream.model.id()))
        });
        let mut tell = |done, all| progress.iter().for_each(|progress| progress.tell(done, all));
        let result = stream.encoder.encode(&self.cancel, &mut tell);
        if let Some(progress) = progress {
            progress.end(glue::progress_of(result.as_ref().err()));
        }
        if turn.is_some() {
            stream.encoder.close();
        }
        result
    }

    /// Encodes the frames that wait, if any, and lets the next one start a scene.
    fn drain(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        let waiting = self.state().stream.as_ref().is_some_and(|stream| !stream.encoder.is_empty());
        let result = if waiting { self.encode() } else { Ok(gst::FlowSuccess::Ok) };
        if let Some(stream) = &mut self.state().stream {
            stream.encoder.reset();
            stream.end = None;
        }
        result
    }

    /// Encodes the frames that wait and pushes the latents.
    fn encode(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        // Out of the lock while it works: only this thread uses it.
        let mut stream = self.state().stream.take().ok_or(gst::FlowError::NotNegotiated)?;
        let begin = Instant::now();
        let result = self.run(&mut stream);
        let (times, end) = (stream.times, stream.end);
        if let Ok(encoded) = &result {
            stream.times.offset = times.offset.saturating_add(encoded.num_frames as u64);
        }
        self.state().stream = Some(stream);
        let encoded = result.map_err(|error| glue::flow_error(&*self.obj(), &error))?;
        gst::log!(CAT, imp = self, "{} frames in {:?}", encoded.num_frames, begin.elapsed());
        if self.latency.took(begin.elapsed()) {
            glue::post_latency(&*self.obj());
        }

        let mut buffer = latent::buffer_from_floats(encoded.latents);
        {
            let buffer = buffer.get_mut().ok_or(gst::FlowError::Error)?;
            buffer.set_pts(times.pts);
            buffer.set_duration(end.zip(times.pts).and_then(|(end, pts)| end.checked_sub(pts)));
            buffer.set_offset(times.offset);
            buffer.set_offset_end(times.offset.saturating_add(encoded.num_frames as u64));
            buffer.set_flags(latent::scene_flags(encoded.first));
        }
        self.obj().src_pad().push(buffer)
    }
}

impl Stream {
    /// Returns whether `buffer` does not follow the frame before.
    fn jumps(&self, buffer: &gst::BufferRef) -> bool {
        let apart = self.end.zip(buffer.pts()).is_some_and(|(end, pts)| {
            let frame = caps::frame_time(1, self.latent.framerate);
            end.nseconds().abs_diff(pts.nseconds()) > frame.nseconds()
        });
        apart || buffer.flags().contains(gst::BufferFlags::DISCONT)
    }

    /// Takes a frame.
    fn push(&mut self, buffer: &gst::BufferRef) -> latentflow::Result<()> {
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &self.video)
            .map_err(|e| glue::unreadable(&e))?;
        let data = frame.plane_data(0).map_err(|e| glue::unreadable(&e))?;
        if self.encoder.is_empty() {
            self.times.pts = buffer.pts().or(self.end);
            if let (None, Some(pts)) = (self.end, buffer.pts()) {
                // A scene's first frame: its index is that of the frame that has its time.
                self.times.offset = self.latent.frames_in(pts);
            }
        }
        let index = self.encoder.len() as u64;
        self.encoder.push(data, frame.plane_stride()[0] as usize)?;
        let duration = buffer.duration().unwrap_or_else(|| self.times.duration(index));
        let pts = buffer.pts().or_else(|| self.times.pts(index));
        self.end = pts.and_then(|pts| pts.checked_add(duration));
        Ok(())
    }
}
