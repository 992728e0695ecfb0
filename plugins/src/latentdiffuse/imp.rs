//! The element: prompts come in on the streaming thread of the sink pad, latents go out on a task of the source pad.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use latentflow::{Cancel, DiffuseOptions, Diffuser, Error, Model, PromptEmbeds, vae};

use super::timeline::{Span, Step, Timeline};
use super::video::VideoPrompt;
use crate::caps::{self, LatentInfo};
use crate::glue::{self, ExecutionProvider, ModelSettings, StatsStructure};
use crate::latent;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("latentdiffuse", gst::DebugColorFlags::empty(), Some("Latent video by diffusion"))
});

/// Prompts that may wait: the one that is on knows where it ends by the next one, and that is enough.
const MAX_WAITING: usize = 2;

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
struct Settings {
    seed: u64,
    num_inference_steps: u32,
    guidance_scale: f64,
    scheduler: Option<String>,
    strength: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { seed: 42, num_inference_steps: 0, guidance_scale: -1.0, scheduler: None, strength: 0.8 }
    }
}

/// A prompt as it came: its span is in time, since frames need a rate, which is negotiated later.
struct Arrived {
    embeds: Arc<PromptEmbeds>,
    start: Option<gst::ClockTime>,
    end: Option<gst::ClockTime>,
}

struct State {
    flushing: bool,
    /// What the last push downstream gave.
    flow: Result<gst::FlowSuccess, gst::FlowError>,
    model: Option<Arc<Model>>,
    arrived: VecDeque<Arrived>,
    eos: Option<gst::Event>,
    segment: Option<gst::Event>,
    segment_pushed: bool,
    info: Option<LatentInfo>,
    timeline: Option<Timeline<Arc<PromptEmbeds>>>,
    /// There while the video pad is.
    video: Option<VideoPrompt>,
    provider: Option<latentflow::ExecutionProvider>,
    stats: Stats,
}

impl Default for State {
    fn default() -> Self {
        Self {
            flushing: true,
            flow: Ok(gst::FlowSuccess::Ok),
            model: None,
            arrived: VecDeque::new(),
            eos: None,
            segment: None,
            segment_pushed: false,
            info: None,
            timeline: None,
            video: None,
            provider: None,
            stats: Stats::default(),
        }
    }
}

impl State {
    /// Forgets the stream, as after a flush; what was negotiated stays.
    fn restart(&mut self) {
        self.flow = Ok(gst::FlowSuccess::Ok);
        self.arrived.clear();
        self.eos = None;
        self.segment = None;
        self.segment_pushed = false;
        self.timeline = None;
    }

    fn waiting(&self) -> usize {
        self.arrived.len() + self.timeline.as_ref().map_or(0, Timeline::waiting)
    }
}

/// What is measured of a stream.
#[derive(Debug, Clone, Default)]
struct Stats {
    started: Option<Instant>,
    time_to_first_chunk: Duration,
    chunks: u64,
    frames: u64,
    video: gst::ClockTime,
    generating: Duration,
    deadline_hits: u64,
    num_inference_steps: u32,
    told: Option<Instant>,
}

impl Stats {
    fn to_structure(&self) -> gst::Structure {
        let generating = self.generating.as_secs_f64();
        let video = self.video.nseconds() as f64 / 1e9;
        gst::Structure::builder("application/x-latentflow-stats")
            .field("time-to-first-chunk", self.time_to_first_chunk.as_nanos() as u64)
            .field("chunks", self.chunks)
            .field("frames", self.frames)
            .field("real-time-factor", if generating > 0.0 { video / generating } else { 0.0 })
            .field("deadline-hits", self.deadline_hits)
            .field("num-inference-steps", self.num_inference_steps)
            .build()
    }
}

/// What to make next, with all that it takes.
struct Work {
    model: Arc<Model>,
    info: LatentInfo,
    embeds: Arc<PromptEmbeds>,
    scene_start: bool,
    first_frame: u64,
    frames: u64,
    latent_frames: usize,
    /// Latents that the chunk is made of, if there is a video prompt.
    video: Option<Vec<f32>>,
}

/// What the task does after an iteration.
enum Next {
    Go,
    Pause,
}

#[derive(Default, glib::Properties)]
#[properties(wrapper_type = super::LatentDiffuse)]
pub struct LatentDiffuse {
    #[property(name = "model", get, set, type = Option<String>, member = model, nick = "Model", mutable_ready,
        blurb = "Folder of the model package; unset, the package that made the prompt embeddings")]
    #[property(name = "execution-provider", get, set, type = ExecutionProvider, member = execution_provider,
        nick = "Execution provider", blurb = "Where the denoiser runs; a provider that is named is used, or it is \
        an error", builder(ExecutionProvider::Auto).mutable_ready())]
    #[property(name = "device-id", get, set, type = u32, member = device_id, default = 0, mutable_ready,
        nick = "Device ID", blurb = "Which GPU, from 0")]
    #[property(name = "num-threads", get, set, type = u32, member = num_threads, default = 0, mutable_ready,
        nick = "Threads", blurb = "Threads of an operation on the CPU; 0 is one a core")]
    model_settings: Mutex<ModelSettings>,
    #[property(name = "seed", get, set, type = u64, member = seed, default = 42, mutable_playing, controllable,
        nick = "Seed", blurb = "Decides the noise: the same seed and prompt give the same video. Takes effect at \
        the next chunk")]
    #[property(name = "num-inference-steps", get, set, type = u32, member = num_inference_steps, default = 0,
        maximum = 1000, mutable_playing, controllable, nick = "Inference steps",
        blurb = "Denoising steps a chunk; 0 is the package's default. Takes effect at the next chunk")]
    #[property(name = "guidance-scale", get, set, type = f64, member = guidance_scale, default = -1.0,
        minimum = -1.0, maximum = 100.0, mutable_playing, controllable, nick = "Guidance scale",
        blurb = "Classifier-free guidance: how far to lean away from the negative prompt; 1 is none, -1 is the \
        package's default. Takes effect at the next chunk")]
    #[property(name = "scheduler", get, set, type = Option<String>, member = scheduler, mutable_playing,
        nick = "Scheduler", blurb = "Noise schedule and sampler by diffusers' class name, such as \
        UniPCMultistepScheduler; unset, the package's. Takes effect at the next chunk")]
    #[property(name = "strength", get, set, type = f64, member = strength, default = 0.8, minimum = 0.0,
        maximum = 1.0, mutable_playing, controllable, nick = "Strength", blurb = "How far to lead away from the video \
        prompt on the video pad: at 1 nothing of it is left, at 0 it passes as it is, and the model goes on where it \
        ends. Takes effect at the next chunk")]
    settings: Mutex<Settings>,
    #[property(name = "active-execution-provider", get = Self::provider, type = Option<String>,
        nick = "Active execution provider", blurb = "Where the denoiser runs, once it is opened")]
    #[property(name = "stats", get = Self::stats, type = StatsStructure, nick = "Statistics",
        blurb = "Time to the first chunk, real-time factor of generation, chunks that came before their time, steps \
        in use")]
    state: Mutex<State>,
    /// Told when the state changes in a way that somebody may wait for.
    changed: Condvar,
    cancel: Cancel,
    /// Only the task uses it while the element runs.
    diffuser: Mutex<Option<Diffuser>>,
    pads: std::sync::OnceLock<(gst::Pad, gst::Pad)>,
}

#[glib::object_subclass]
impl ObjectSubclass for LatentDiffuse {
    const NAME: &'static str = "GstLatentDiffuse";
    type Type = super::LatentDiffuse;
    type ParentType = gst::Element;
}

#[glib::derived_properties]
impl ObjectImpl for LatentDiffuse {
    fn constructed(&self) {
        self.parent_constructed();
        let templates = Self::pad_templates();
        let [sink, src, _] = templates else { unreachable!("there are three templates") };
        let sinkpad = gst::Pad::builder_from_template(sink)
            .chain_function(|pad, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |this| this.sink_chain(pad, buffer),
                )
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_event(pad, event))
            })
            .build();
        let srcpad = gst::Pad::builder_from_template(src)
            .activatemode_function(|pad, parent, mode, active| {
                let failed = || Err(gst::loggable_error!(CAT, "panicked while the pad was activated"));
                Self::catch_panic_pad_function(parent, failed, |this| {
                    this.src_activatemode(pad, mode, active)
                })
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.src_query(pad, query))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.src_event(pad, event))
            })
            .build();
        self.obj().add_pad(&sinkpad).expect("a new element takes its pads");
        self.obj().add_pad(&srcpad).expect("a new element takes its pads");
        self.pads.set((sinkpad, srcpad)).expect("constructed once");
    }
}

impl GstObjectImpl for LatentDiffuse {}

impl ElementImpl for LatentDiffuse {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Latent diffusion",
                "Generator/Video",
                "Makes latent video of prompt embeddings with a diffusion transformer: textsrc ! latentdiffuse seed=7 ! \
                 vaedecode ! videoconvert ! autovideosink",
                "The Latentflow authors",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let template = |name, direction, caps: gst::Caps| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
                    .expect("a valid template")
            };
            vec![
                template("sink", gst::PadDirection::Sink, caps::prompt_embeds(None)),
                template("src", gst::PadDirection::Src, caps::any_latent()),
                gst::PadTemplate::new(
                    "video",
                    gst::PadDirection::Sink,
                    gst::PadPresence::Request,
                    &caps::any_latent(),
                )
                .expect("a valid template"),
            ]
        });
        &TEMPLATES
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        let pad = gst::Pad::builder_from_template(template)
            .chain_function(|pad, parent, buffer| {
                let failed = || Err(gst::FlowError::Error);
                Self::catch_panic_pad_function(parent, failed, |this| this.video_chain(pad, buffer))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.video_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.video_query(pad, query))
            })
            .build();
        // Active from the start where the element runs already.
        pad.set_active(self.obj().current_state() >= gst::State::Paused).ok()?;
        self.lock().video.get_or_insert_default();
        // Refused where there is one already: a chunk is made of one video.
        self.obj().add_pad(&pad).ok()?;
        Some(pad)
    }

    fn release_pad(&self, pad: &gst::Pad) {
        self.lock().video = None;
        self.changed.notify_all();
        // Fails only if the pad is gone already.
        let _ = pad.set_active(false);
        let _ = self.obj().remove_pad(pad);
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => {
                let mut state = self.lock();
                let video = state.video.take().map(|_| VideoPrompt::default());
                *state = State { video, ..State::default() };
            }
            // Lets go of the streaming thread and the task, which the parent then waits for.
            gst::StateChange::PausedToReady => self.start_flushing(),
            _ => (),
        }
        let success = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            let mut state = self.lock();
            let (stats, video) = (state.stats.clone(), state.video.take().map(|_| VideoPrompt::default()));
            *state = State { stats, video, ..State::default() };
            drop(state);
            *self.diffuser.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(success)
    }
}

impl LatentDiffuse {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn sinkpad(&self) -> &gst::Pad {
        &self.pads.get().expect("constructed").0
    }

    fn srcpad(&self) -> &gst::Pad {
        &self.pads.get().expect("constructed").1
    }

    fn settings(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn provider(&self) -> Option<String> {
        self.lock().provider.map(|provider| provider.to_string())
    }

    fn stats(&self) -> StatsStructure {
        StatsStructure(self.lock().stats.to_structure())
    }

    fn start_flushing(&self) {
        self.lock().flushing = true;
        self.cancel.cancel();
        self.changed.notify_all();
    }

    // The sink pad, on the streaming thread of upstream.

    fn sink_chain(&self, pad: &gst::Pad, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        gst::log!(CAT, obj = pad, "prompt {buffer:?}");
        let failed = |error: Error| glue::flow_error(&*self.obj(), &error);
        let map = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let embeds = Arc::new(PromptEmbeds::from_safetensors(&map).map_err(failed)?);
        let start = buffer.pts();
        let end = start.zip(buffer.duration()).map(|(start, duration)| start + duration);

        let mut state = self.lock();
        while state.waiting() >= MAX_WAITING && !state.flushing && state.flow.is_ok() {
            state = self.wait(state);
        }
        if state.flushing {
            return Err(gst::FlowError::Flushing);
        }
        state.flow?;
        if state.model.is_none() {
            return Err(gst::FlowError::NotNegotiated);
        }
        state.arrived.push_back(Arrived { embeds, start, end });
        self.changed.notify_all();
        Ok(gst::FlowSuccess::Ok)
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        use gst::EventView;
        gst::log!(CAT, obj = pad, "event {event:?}");
        match event.view() {
            EventView::Caps(caps) => self.set_sink_caps(caps.caps()),
            EventView::Segment(_) => {
                self.lock().segment = Some(event);
                true
            }
            EventView::Eos(_) => {
                self.lock().eos = Some(event);
                self.changed.notify_all();
                true
            }
            // Latents go on where prompts pause.
            EventView::Gap(_) => true,
            EventView::FlushStart(_) => {
                self.start_flushing();
                let forwarded = self.srcpad().push_event(event);
                let paused = self.srcpad().pause_task();
                forwarded && paused.is_ok()
            }
            EventView::FlushStop(_) => {
                let forwarded = self.srcpad().push_event(event);
                {
                    let mut state = self.lock();
                    state.restart();
                    state.flushing = false;
                    self.cancel.reset();
                }
                forwarded && self.start_task().is_ok()
            }
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    fn set_sink_caps(&self, caps: &gst::CapsRef) -> bool {
        let Some(id) = caps.structure(0).and_then(|s| s.get::<String>("model").ok()) else {
            gst::error!(CAT, imp = self, "no model in {caps}");
            return false;
        };
        let settings = self.model_settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match settings.resolve(&id) {
            Ok(model) => {
                let mut state = self.lock();
                if state.model.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &model)) {
                    state.model = Some(model);
                    state.info = None;
                }
                self.changed.notify_all();
                true
            }
            Err(error) => {
                self.obj().post_error_message(glue::error_message(&error));
                false
            }
        }
    }

    // The video pad, on the streaming thread of the video prompt.

    fn video_chain(&self, pad: &gst::Pad, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        gst::log!(CAT, obj = pad, "video prompt {buffer:?}");
        let map = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let latents = latent::floats_in(&map, None).map_err(|e| glue::flow_error(&*self.obj(), &e))?;
        let mut state = self.lock();
        loop {
            if state.flushing {
                return Err(gst::FlowError::Flushing);
            }
            state.flow?;
            let room = match (&state.model, &state.video) {
                // What the model's chunk is decides how much may wait.
                (Some(model), Some(video)) => {
                    video.waiting()
                        < 2 * model.manifest().stream.map_or(usize::MAX / 2, |stream| stream.chunk)
                }
                (None, Some(_)) => false,
                (_, None) => return Err(gst::FlowError::Flushing),
            };
            if room {
                break;
            }
            state = self.wait(state);
        }
        let State { model: Some(model), video: Some(video), .. } = &mut *state else {
            return Err(gst::FlowError::Flushing);
        };
        let Some(info) = video.info.clone() else { return Err(gst::FlowError::NotNegotiated) };
        let l = &model.manifest().latents;
        let cells =
            |pixels: u32| (pixels as usize).next_multiple_of(l.size_multiple) / l.spatial_compression_ratio;
        let pushed = video.push(&latents, l.channels, cells(info.width) * cells(info.height));
        drop(state);
        self.changed.notify_all();
        pushed.map(|()| gst::FlowSuccess::Ok).map_err(|found| {
            let expected = "latents of the size that the caps say".into();
            glue::flow_error(
                &*self.obj(),
                &Error::Shape { what: "a video prompt's buffer".into(), found, expected },
            )
        })
    }

    fn video_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::log!(CAT, obj = pad, "event {event:?}");
        let mut state = self.lock();
        let Some(video) = &mut state.video else { return false };
        match event.view() {
            gst::EventView::Caps(caps) => match LatentInfo::from_caps(caps.caps()) {
                Ok(info) => video.info = Some(info),
                Err(reason) => {
                    gst::error!(CAT, obj = pad, "{reason}");
                    return false;
                }
            },
            gst::EventView::Eos(_) => video.end(),
            gst::EventView::FlushStop(_) => video.flush(),
            // The rest is told downstream by the prompts' stream.
            _ => return true,
        }
        drop(state);
        self.changed.notify_all();
        true
    }

    fn video_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let can = self.can();
                // Its size and rate are those of what is made of it.
                let mut wanted = self.srcpad().peer_query_caps(Some(&can));
                // Another package's are refused with the reason, once they come.
                wanted.make_mut().iter_mut().for_each(|s| s.remove_field("model"));
                let result =
                    query.filter().map(|f| f.intersect_with_mode(&wanted, gst::CapsIntersectMode::First));
                query.set_result(&result.unwrap_or(wanted));
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// Returns the caps of all that the model can make, or of any latents while it is unknown.
    fn can(&self) -> gst::Caps {
        match &self.lock().model {
            Some(model) => caps::model_latent(model.id(), model.manifest()),
            None => caps::any_latent(),
        }
    }

    // The source pad.

    fn src_activatemode(
        &self,
        pad: &gst::Pad,
        mode: gst::PadMode,
        active: bool,
    ) -> Result<(), gst::LoggableError> {
        if mode != gst::PadMode::Push {
            return Err(gst::loggable_error!(CAT, "pulling latents is not possible"));
        }
        if active {
            self.lock().flushing = false;
            self.cancel.reset();
            return self.start_task().map_err(gst::LoggableError::from);
        }
        self.start_flushing();
        pad.stop_task().map_err(gst::LoggableError::from)
    }

    fn start_task(&self) -> Result<(), glib::BoolError> {
        let weak = self.obj().downgrade();
        self.srcpad().start_task(move || {
            let Some(element) = weak.upgrade() else { return };
            let this = element.imp();
            match this.iterate() {
                Ok(Next::Go) => (),
                Ok(Next::Pause) | Err(gst::FlowError::Flushing) => this.pause(Ok(gst::FlowSuccess::Ok)),
                Err(gst::FlowError::Eos) => this.pause(Err(gst::FlowError::Eos)),
                Err(flow) => {
                    // What the library failed at is on the bus by now; downstream's refusals are told here.
                    if this.lock().flow.is_ok() {
                        gst::element_error!(
                            element,
                            gst::StreamError::Failed,
                            ("downstream of latentdiffuse stopped with `{flow:?}`; see the error before this one, or link its source pad")
                        );
                    }
                    this.srcpad().push_event(gst::event::Eos::new());
                    this.pause(Err(flow));
                }
            }
        })
    }

    fn pause(&self, flow: Result<gst::FlowSuccess, gst::FlowError>) {
        if flow.is_err() {
            self.lock().flow = flow;
            self.changed.notify_all();
        }
        // Only fails if the task is gone, which is what was wanted.
        let _ = self.srcpad().pause_task();
    }

    /// Posts `error` and says so in the state, so that it is told once.
    fn fail(&self, error: &Error) -> gst::FlowError {
        let flow = glue::flow_error(&*self.obj(), error);
        if flow == gst::FlowError::Error {
            self.lock().flow = Err(flow);
        }
        flow
    }

    /// Makes one chunk, or ends the stream.
    fn iterate(&self) -> Result<Next, gst::FlowError> {
        let Some(work) = self.next_work()? else {
            let eos = self.lock().eos.clone().unwrap_or_else(gst::event::Eos::new);
            self.tell_progress(gst::ProgressType::Complete, None);
            self.push_segment();
            self.srcpad().push_event(eos);
            // A video prompt that is longer than the prompts has nowhere to go.
            self.lock().flow = Err(gst::FlowError::Eos);
            self.changed.notify_all();
            return Ok(Next::Pause);
        };
        let buffer = self.generate(&work)?;
        self.push_segment();
        let pushed = self.srcpad().push(buffer);
        let mut state = self.lock();
        if !state.flushing {
            state.flow = pushed;
        }
        self.changed.notify_all();
        if pushed.is_err_and(|flow| flow != gst::FlowError::Flushing && flow != gst::FlowError::Eos) {
            // Not ours: told as downstream's.
            state.flow = Ok(gst::FlowSuccess::Ok);
        }
        pushed.map(|_| Next::Go)
    }

    /// Waits for something to make and returns it, or `None` at the stream's end.
    fn next_work(&self) -> Result<Option<Work>, gst::FlowError> {
        let mut state = self.lock();
        loop {
            if state.flushing {
                return Err(gst::FlowError::Flushing);
            }
            if state.video.as_ref().is_some_and(|video| video.info.is_none() && !video.is_over()) {
                state = self.wait(state);
                continue;
            }
            if let Some(model) = state.model.clone()
                && (self.srcpad().check_reconfigure() || state.info.is_none())
            {
                let known = state.info.clone();
                let video = state.video.as_ref().and_then(|video| video.info.clone());
                drop(state);
                let info = self.negotiate(&model, known.as_ref(), video.as_ref())?;
                state = self.lock();
                if known.is_some()
                    && known.as_ref() != Some(&info)
                    && let Some(timeline) = &mut state.timeline
                {
                    timeline.restart_scene();
                }
                state.info = Some(info);
                continue;
            }
            let step = self.next_step(&mut state);
            match step {
                Step::End => return Ok(None),
                Step::Wait => state = self.wait(state),
                Step::Generate { scene_start, first_frame, frames } => {
                    let prompt = state.timeline.as_ref().and_then(Timeline::prompt).cloned();
                    let State { model: Some(model), info: Some(info), video, .. } = &mut *state else {
                        unreachable!("a step comes of a timeline, which comes of these");
                    };
                    let Some(embeds) = prompt else { unreachable!("a scene has a prompt") };
                    let manifest = model.manifest();
                    let latent_frames = match manifest.stream {
                        Some(stream) => stream.chunk,
                        None => vae::num_latent_frames(&manifest.latents, frames as usize, true),
                    };
                    if video.as_ref().is_some_and(|video| !video.is_ready(latent_frames)) {
                        state = self.wait(state);
                        continue;
                    }
                    let under_way = video.as_ref().is_some_and(VideoPrompt::is_under_way);
                    let video = video.as_mut().and_then(|v| v.take(latent_frames, manifest.latents.channels));
                    let (model, info) = (model.clone(), info.clone());
                    let scene_start = scene_start && !under_way;
                    self.changed.notify_all();
                    return Ok(Some(Work {
                        model,
                        info,
                        embeds,
                        scene_start,
                        first_frame,
                        frames,
                        latent_frames,
                        video,
                    }));
                }
            }
        }
    }

    /// Moves what has arrived into the timeline and asks it what to do.
    fn next_step(&self, state: &mut State) -> Step {
        let (Some(model), Some(info)) = (state.model.clone(), state.info.clone()) else {
            return if state.eos.is_some() { Step::End } else { Step::Wait };
        };
        if state.segment.is_none() && state.eos.is_none() {
            return Step::Wait;
        }
        let manifest = model.manifest();
        if state.timeline.is_none() {
            let start = state.segment.as_ref().and_then(segment_start).unwrap_or_default();
            let mut latency = gst::query::Latency::new();
            let live = self.sinkpad().peer_query(&mut latency) && latency.result().0;
            let default_frames = manifest.video.num_frames as u64;
            let goes_on = manifest.stream.is_some();
            state.timeline = Some(Timeline::new(info.frames_in(start), default_frames, goes_on, live));
        }
        let State { timeline: Some(timeline), arrived, eos, video, .. } = state else {
            unreachable!("it was just made");
        };
        for Arrived { embeds, start, end } in arrived.drain(..) {
            let start = start.map(|time| info.frames_in(time));
            let mut end = end.map(|time| info.frames_in(time));
            if manifest.stream.is_none() && end.is_none() {
                end = start.map(|start| start + manifest.video.num_frames as u64);
            }
            timeline.push(Span { prompt: embeds, start, end });
        }
        if eos.is_some() {
            timeline.end();
        }
        // A new prompt is no cut in a video prompt.
        let cuts = !video.as_ref().is_some_and(VideoPrompt::is_under_way);
        let step = timeline.next(|scene_start, left| match manifest.stream {
            Some(stream) => vae::num_frames(&manifest.latents, stream.chunk, scene_start && cuts) as u64,
            None => left.unwrap_or(manifest.video.num_frames as u64),
        });
        // Room for another prompt, perhaps.
        self.changed.notify_all();
        step
    }

    /// Agrees with downstream on size and rate, of those that the model can do, and sends the caps.
    fn negotiate(
        &self,
        model: &Model,
        known: Option<&LatentInfo>,
        video: Option<&LatentInfo>,
    ) -> Result<LatentInfo, gst::FlowError> {
        let mut can = caps::model_latent(model.id(), model.manifest());
        if let Some(known) = known {
            // Frames are counted at this rate.
            can.make_mut().set("framerate", known.framerate);
        }
        if let Some(video) = video {
            if video.model != model.id() {
                let reason = format!(
                    "the video prompt was made with this package, and the prompt with {}; set `model` of vaeencode to that \
                     of textsrc",
                    model.id()
                );
                return Err(self.fail(&Error::Setting {
                    setting: "video",
                    value: video.model.clone(),
                    reason,
                }));
            }
            // What is made of a video has its size and rate.
            let can = can.make_mut();
            can.set("width", video.width as i32);
            can.set("height", video.height as i32);
            can.set("framerate", video.framerate);
        }
        let wanted = self.srcpad().peer_query_caps(Some(&can));
        if wanted.is_empty() {
            let asked = self.srcpad().peer_query_caps(None);
            let error = Error::Setting {
                setting: "caps",
                value: asked.to_string(),
                reason: format!(
                    "downstream wants these, and model {} can do {can}; change the capsfilter",
                    model.id()
                ),
            };
            let message = glue::error_message(&error);
            self.obj().post_error_message(message);
            self.lock().flow = Err(gst::FlowError::NotNegotiated);
            return Err(gst::FlowError::NotNegotiated);
        }
        let video = &model.manifest().video;
        let mut fixed = wanted;
        fixed.truncate();
        if let Some(s) = fixed.make_mut().structure_mut(0) {
            s.fixate_field_nearest_int("width", video.width.default as i32);
            s.fixate_field_nearest_int("height", video.height.default as i32);
            s.fixate_field_nearest_fraction("framerate", caps::fraction(video.frame_rate.default));
        }
        fixed.fixate();
        let invalid =
            |reason| self.fail(&Error::Setting { setting: "caps", value: fixed.to_string(), reason });
        let info = LatentInfo::from_caps(&fixed).map_err(invalid)?;
        gst::info!(CAT, imp = self, "negotiated {info:?}");
        if known != Some(&info) && !self.srcpad().push_event(gst::event::Caps::new(&info.to_caps())) {
            if self.lock().flushing {
                return Err(gst::FlowError::Flushing);
            }
            return Err(gst::FlowError::NotNegotiated);
        }
        Ok(info)
    }

    fn push_segment(&self) {
        let segment = {
            let mut state = self.lock();
            if state.segment_pushed {
                return;
            }
            state.segment_pushed = true;
            state.segment.clone().filter(|event| segment_start(event).is_some())
        };
        let segment = segment
            .unwrap_or_else(|| gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
        self.srcpad().push_event(segment);
    }

    fn generate(&self, work: &Work) -> Result<gst::Buffer, gst::FlowError> {
        let started = Instant::now();
        let pts = work.info.frame_time(work.first_frame);
        // Fails only for an element without controllers' values at this time.
        let _ = self.obj().sync_values(pts);
        let (manifest, settings) = (work.model.manifest(), self.settings());
        let options = diffuse_options(&work.model, &work.info, &settings).map_err(|e| self.fail(&e))?;
        let steps = options.num_inference_steps as u32;

        let mut slot = self.diffuser.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(self.open(work, options.clone())?);
        }
        let Some(diffuser) = slot.as_mut() else { unreachable!("it was just opened") };
        diffuser.set_options(options).map_err(|e| self.fail(&e))?;
        if work.scene_start || manifest.stream.is_none() {
            diffuser.start_scene();
        }
        let clip = manifest.stream.is_none();
        let mut on_step = |step: usize, steps: usize| {
            if clip {
                let text = format!("step {step}/{steps}, {} %", 100 * step / steps);
                self.tell_progress(gst::ProgressType::Continue, Some(text));
            }
        };
        let (positive, negative) = (work.embeds.positive(), work.embeds.negative());
        let latents = match &work.video {
            Some(video) => diffuser.chunk_of_video(
                video,
                settings.strength,
                positive,
                negative,
                &self.cancel,
                &mut on_step,
            ),
            None => diffuser.chunk(positive, negative, work.latent_frames, &self.cancel, &mut on_step),
        };
        let latents = latents.map_err(|e| self.fail(&e))?;
        drop(slot);

        let end = work.first_frame + work.frames;
        let mut buffer = latent::buffer_from_floats(latents);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(pts);
            buffer.set_duration(work.info.frame_time(end) - pts);
            buffer.set_offset(work.first_frame);
            buffer.set_offset_end(end);
            if work.scene_start {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            }
        }
        self.measure(work, steps, started);
        Ok(buffer)
    }

    /// Opens the denoisers, which takes seconds for large models, and says so then.
    fn open(&self, work: &Work, options: DiffuseOptions) -> Result<Diffuser, gst::FlowError> {
        let text = format!("opening the denoiser of {}", work.model.id());
        let open = || Diffuser::new(work.model.clone(), options);
        let diffuser = glue::with_progress(&*self.obj(), "open", &text, open).map_err(|e| self.fail(&e))?;
        gst::info!(CAT, imp = self, "denoiser of {} opened on {}", work.model.id(), diffuser.provider());
        self.lock().provider = Some(diffuser.provider());
        self.obj().notify("active-execution-provider");
        Ok(diffuser)
    }

    /// Advances the timeline past what was made, and keeps the statistics.
    fn measure(&self, work: &Work, steps: u32, started: Instant) {
        let running_time = self.obj().current_running_time();
        let mut state = self.lock();
        if let Some(timeline) = &mut state.timeline {
            timeline.advance(work.frames);
        }
        let pts = work.info.frame_time(work.first_frame);
        let stats = &mut state.stats;
        let stream_started = *stats.started.get_or_insert(started);
        if stats.chunks == 0 {
            stats.time_to_first_chunk = stream_started.elapsed();
        }
        stats.chunks += 1;
        stats.frames += work.frames;
        stats.video += work.info.frame_time(work.first_frame + work.frames) - pts;
        stats.generating += started.elapsed();
        stats.deadline_hits += u64::from(running_time.is_none_or(|now| now <= pts));
        stats.num_inference_steps = steps;
        let due = stats.told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL);
        if !due {
            return;
        }
        stats.told = Some(Instant::now());
        let (chunks, rate) = (stats.chunks, stats.frames as f64 / stream_started.elapsed().as_secs_f64());
        drop(state);
        let made = work.first_frame + work.frames;
        let total = self.sinkpad().peer_query_duration::<gst::ClockTime>().map(|d| work.info.frames_in(d));
        let text = match total.filter(|total| *total > 0) {
            Some(total) => format!(
                "chunk {chunks}, {} % of {total} frames, {rate:.1} frames/s, {:.0} s left",
                (100 * made / total).min(100),
                total.saturating_sub(made) as f64 / rate
            ),
            None => format!("chunk {chunks}, {made} frames, {rate:.1} frames/s"),
        };
        // The chunk is complete: gst-launch-1.0 does not play while a progress is not, and to play is what makes room
        // downstream for the next one.
        self.tell_progress(gst::ProgressType::Complete, Some(text));
    }

    fn tell_progress(&self, kind: gst::ProgressType, text: Option<String>) {
        let text = text.unwrap_or_else(|| {
            let stats = self.lock().stats.clone();
            let seconds = stats.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
            format!("{} chunks, {} frames in {seconds:.1} s", stats.chunks, stats.frames)
        });
        glue::post_progress(&*self.obj(), kind, "chunk", &text);
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Latency(latency) => {
                if !self.sinkpad().peer_query(latency) {
                    return false;
                }
                let (live, min, max) = latency.result();
                let chunk = self.chunk_duration();
                if live {
                    // A chunk is pushed when it is whole, and making it may take as long as it lasts.
                    latency.set(live, min + chunk * 2, max.map(|max| max + chunk * 2));
                }
                true
            }
            gst::QueryViewMut::Caps(query) => {
                let can = match &self.lock().model {
                    Some(model) => caps::model_latent(model.id(), model.manifest()),
                    None => caps::any_latent(),
                };
                let result = query
                    .filter()
                    .map(|filter| filter.intersect_with_mode(&can, gst::CapsIntersectMode::First));
                query.set_result(&result.unwrap_or(can));
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    fn chunk_duration(&self) -> gst::ClockTime {
        let state = self.lock();
        let (Some(model), Some(info)) = (&state.model, &state.info) else { return gst::ClockTime::ZERO };
        let manifest = model.manifest();
        let frames = match manifest.stream {
            Some(stream) => vae::num_frames(&manifest.latents, stream.chunk, false),
            None => manifest.video.num_frames,
        };
        info.frame_time(frames as u64)
    }

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            // Latents are never left out: the decoder's state depends on all of them.
            gst::EventView::Qos(_) => true,
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }
}

/// Returns where the segment in `event` starts, if it is one in time.
fn segment_start(event: &gst::Event) -> Option<gst::ClockTime> {
    let gst::EventView::Segment(event) = event.view() else { return None };
    event.segment().downcast_ref::<gst::ClockTime>()?.start()
}

/// Returns what the properties and the negotiated caps ask of the denoiser.
fn diffuse_options(model: &Model, info: &LatentInfo, settings: &Settings) -> Result<DiffuseOptions, Error> {
    let mut options = DiffuseOptions::new(model);
    options.width = info.width as usize;
    options.height = info.height as usize;
    options.frame_rate = info.framerate.numer() as f32 / info.framerate.denom() as f32;
    options.seed = settings.seed;
    if settings.num_inference_steps > 0 {
        options.num_inference_steps = settings.num_inference_steps as usize;
    }
    if settings.guidance_scale >= 0.0 {
        options.guidance_scale = settings.guidance_scale as f32;
    }
    if let Some(name) = &settings.scheduler {
        let refused = |reason| Error::Setting { setting: "scheduler", value: name.clone(), reason };
        options.scheduler = options.scheduler.with_type(name).map_err(refused)?;
    }
    Ok(options)
}
