//! The element: prompts come in on the streaming thread of the sink pad, latents go out on a task of the source pad.

mod image_pad;
mod task;
mod video_pad;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use latentflow::{Ahead, Cancel, DEFAULT_SEED, Diffuser, Error, Model, PromptEmbeds, vae};

use super::image::ImagePrompt;
use super::stats::Stats;
use super::timeline::Timeline;
use super::transition::Transition;
use super::video::VideoPrompt;
use crate::caps::{self, LatentInfo};
use crate::glue::{self, ExecutionProvider, ModelSettings, StatsStructure};
use crate::prompting::STOP;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("latentdiffuse", gst::DebugColorFlags::empty(), Some("Latent video by diffusion"))
});

/// Prompts that may wait: the one that is on knows where it ends by the next one, and that is enough.
const MAX_WAITING: usize = 2;

/// How many chunks late a live stream is: one is pushed when it is whole, and making it may take as long as it lasts.
const CHUNKS_LATE: u64 = 2;

#[derive(Debug, Clone)]
struct Settings {
    seed: u64,
    num_inference_steps: u32,
    guidance_scale: f64,
    guidance_rescale: f64,
    cfg_zero_star: bool,
    cfg_zero_init_steps: u32,
    cache_threshold: f64,
    scheduler: Option<String>,
    strength: f64,
    transition_chunks: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: DEFAULT_SEED,
            num_inference_steps: 0,
            guidance_scale: -1.0,
            guidance_rescale: -1.0,
            cfg_zero_star: false,
            cfg_zero_init_steps: 1,
            cache_threshold: 0.0,
            scheduler: None,
            strength: 0.8,
            transition_chunks: 0,
        }
    }
}

/// What came on the sink pad and waits for its turn.
enum Arrived {
    Prompt(Prompt),
    /// A segment, or the end of one: what was there before ends first, and what follows is counted anew.
    Event(gst::Event),
    /// Prompts of another package follow.
    Model(Arc<Model>),
}

/// A prompt as it came: its span is in time, since frames need a rate, which is negotiated later.
struct Prompt {
    embeds: Arc<PromptEmbeds>,
    start: Option<gst::ClockTime>,
    duration: Option<gst::ClockTime>,
    /// Whether a later one takes its place, if it has not come on by then.
    replaceable: bool,
}

struct State {
    /// Nothing is made: the prompts are flushed, or it stops.
    flushing: bool,
    /// From the start to the stop, whatever is flushed meanwhile.
    active: bool,
    /// What the last push downstream gave.
    flow: Result<gst::FlowSuccess, gst::FlowError>,
    model: Option<Arc<Model>>,
    /// The caps were refused, and it was said.
    refused: bool,
    arrived: VecDeque<Arrived>,
    eos: Option<gst::Event>,
    /// Streams that somebody stops: the end, when it comes, is not that of prompts that are all there.
    stopped: Vec<glib::GString>,
    /// That is how the stream ended.
    is_cut: bool,
    /// How often in a row a chunk was made anew.
    remade: u32,
    segment: Option<gst::Event>,
    segment_pushed: bool,
    info: Option<LatentInfo>,
    timeline: Option<Timeline<Arc<PromptEmbeds>>>,
    /// The end of what was made of this segment: there a picture without a time of its own is shown, and another package goes on.
    next_pts: gst::ClockTime,
    transition: Transition,
    /// There while the video pad is.
    video: Option<VideoPrompt>,
    /// There while the image pad is.
    image: Option<ImagePrompt>,
    provider: Option<latentflow::ExecutionProvider>,
    /// What was warned of last.
    warned: Option<String>,
    stats: Stats,
}

impl Default for State {
    fn default() -> Self {
        Self {
            flushing: true,
            active: false,
            flow: Ok(gst::FlowSuccess::Ok),
            model: None,
            refused: false,
            arrived: VecDeque::new(),
            eos: None,
            stopped: Vec::new(),
            is_cut: false,
            remade: 0,
            segment: None,
            segment_pushed: false,
            info: None,
            timeline: None,
            next_pts: gst::ClockTime::ZERO,
            transition: Transition::default(),
            video: None,
            image: None,
            provider: None,
            warned: None,
            stats: Stats::default(),
        }
    }
}

impl State {
    /// Forgets the stream, as after a flush; what was negotiated stays.
    fn restart(&mut self) {
        self.flow = Ok(gst::FlowSuccess::Ok);
        for arrived in std::mem::take(&mut self.arrived) {
            if let Arrived::Model(model) = arrived {
                self.go_on_with(model);
            }
        }
        self.eos = None;
        self.stopped.clear();
        self.is_cut = false;
        self.segment = None;
        self.segment_pushed = false;
        self.timeline = None;
        self.next_pts = gst::ClockTime::ZERO;
        self.transition.reset();
        if let Some(video) = &mut self.video {
            video.start_anew();
        }
    }

    /// Returns the state of an element that stopped: the request pads and the statistics stay.
    fn stopped(&mut self) -> Self {
        Self {
            stats: self.stats.clone(),
            video: self.video.take().map(|_| VideoPrompt::default()),
            image: self.image.take().map(|_| ImagePrompt::default()),
            ..Self::default()
        }
    }

    /// Returns the segment that is on, if it is one in time.
    fn time_segment(&self) -> Option<gst::FormattedSegment<gst::ClockTime>> {
        self.segment.as_ref().and_then(time_segment)
    }

    /// Returns when what is shown at `pts` is due; `None` outside the segment.
    fn running_time(&self, pts: gst::ClockTime) -> Option<gst::ClockTime> {
        self.time_segment().map_or(Some(pts), |segment| segment.to_running_time(pts))
    }

    /// Returns for how long a chunk is shown.
    fn chunk_duration(&self) -> gst::ClockTime {
        let Some(model) = &self.model else { return gst::ClockTime::ZERO };
        let manifest = model.manifest();
        let usual = caps::fraction(manifest.video.frame_rate.default);
        let framerate = self.info.as_ref().map_or(usual, |info| info.framerate);
        let frames = match manifest.stream {
            Some(stream) => vae::num_frames(&manifest.latents, stream.chunk, false),
            None => manifest.video.num_frames.default,
        };
        caps::frame_time(frames as u64, framerate)
    }

    /// Returns how long after its time a chunk may be made: in a live stream, when it is pushed.
    fn lateness(&self) -> gst::ClockTime {
        let live = self.timeline.as_ref().is_some_and(Timeline::is_live);
        if live { self.chunk_duration() * CHUNKS_LATE } else { gst::ClockTime::ZERO }
    }

    /// Takes the next prompt, if nothing else has its turn before it.
    fn next_prompt(&mut self) -> Option<Prompt> {
        match self.arrived.pop_front()? {
            Arrived::Prompt(prompt) => Some(prompt),
            other => {
                self.arrived.push_front(other);
                None
            }
        }
    }

    /// Takes what has its turn before the next prompt, and returns an event that is to be pushed, if that is next.
    fn take_turn(&mut self) -> Option<gst::Event> {
        while !matches!(self.arrived.front()?, Arrived::Prompt(_)) {
            match self.arrived.pop_front()? {
                Arrived::Model(model) => self.go_on_with(model),
                Arrived::Event(event) if is_segment(&event) => {
                    // What has been shown is not shown again, if it goes on in the same time.
                    let shown = self.time_segment();
                    let shown = shown.and_then(|segment| segment.to_running_time(self.next_pts));
                    let next_pts = shown
                        .zip(time_segment(&event))
                        .and_then(|(shown, segment)| segment.position_from_running_time(shown));
                    self.next_pts = next_pts.unwrap_or_default();
                    self.segment = Some(event);
                    self.segment_pushed = false;
                }
                Arrived::Event(event) => return Some(event),
                Arrived::Prompt(_) => unreachable!("it is none"),
            }
        }
        None
    }

    /// Takes another package, whose caps are yet to be agreed on.
    fn go_on_with(&mut self, model: Arc<Model>) {
        self.model = Some(model);
        self.info = None;
    }

    /// Ends what was made so far, before what has arrived takes its turn.
    fn end_part(&mut self) {
        self.timeline = None;
        self.transition.reset();
    }

    /// Returns how many prompts wait.
    fn waiting(&self) -> usize {
        let prompts = self.arrived.iter().filter(|arrived| matches!(arrived, Arrived::Prompt(_)));
        prompts.count() + self.timeline.as_ref().map_or(0, Timeline::waiting)
    }
}

fn is_segment(event: &gst::Event) -> bool {
    event.type_() == gst::EventType::Segment
}

/// Returns the segment in `event`, if it is one in time.
fn time_segment(event: &gst::Event) -> Option<gst::FormattedSegment<gst::ClockTime>> {
    let gst::EventView::Segment(event) = event.view() else { return None };
    event.segment().downcast_ref::<gst::ClockTime>().cloned()
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
    #[property(name = "num-threads", get, set, type = u32, member = num_threads, default = 0, maximum = 1024, mutable_ready,
        nick = "Threads", blurb = "Threads of an operation on the CPU; 0 is one a core")]
    #[property(name = "keep-loaded", get, set, type = bool, member = keep_loaded, default = true, mutable_ready,
        nick = "Keep loaded", blurb = "Keep the denoiser open. If false, it closes after each clip, or at the end of a stream that goes on, and opens again for the next; \
        elements with false take turns, so that one network of a model is in memory at a time")]
    model_settings: Mutex<ModelSettings>,
    #[property(name = "seed", get, set, type = u64, member = seed, default = DEFAULT_SEED, mutable_playing, controllable,
        nick = "Seed", blurb = "Decides the noise: the same seed and prompt give the same video. Takes effect at \
        the next chunk")]
    #[property(name = "num-inference-steps", get, set, type = u32, member = num_inference_steps, default = 0,
        maximum = 1000, mutable_playing, controllable, nick = "Inference steps",
        blurb = "Denoising steps a chunk; 0 is the package's default, which may want more where a scene begins. Takes effect \
        at the next chunk")]
    #[property(name = "guidance-scale", get, set, type = f64, member = guidance_scale, default = -1.0,
        minimum = -1.0, maximum = 100.0, mutable_playing, controllable, nick = "Guidance scale",
        blurb = "Classifier-free guidance: how far to lean away from the negative prompt; 1 is none, -1 is the \
        package's default, of each denoiser where it has several. Takes effect at the next chunk")]
    #[property(name = "guidance-rescale", get, set, type = f64, member = guidance_rescale, default = -1.0,
        minimum = -1.0, maximum = 1.0, mutable_playing, controllable, nick = "Guidance rescale",
        blurb = "How much of the contrast that guidance adds is taken away again: 0 is none, 1 all, -1 the package's \
        default. About 0.7 keeps a high guidance-scale from burning out. Takes effect at the next chunk")]
    #[property(name = "cfg-zero-star", get, set, type = bool, member = cfg_zero_star, default = false,
        mutable_playing, nick = "CFG-Zero*", blurb = "Guide by the length of the unguided prediction that fits best, \
        after cfg-zero-init-steps steps that stand still: often cleaner pictures of flow-matching models. Takes effect \
        at the next chunk")]
    #[property(name = "cfg-zero-init-steps", get, set, type = u32, member = cfg_zero_init_steps, default = 1,
        maximum = 1000, mutable_playing, controllable, nick = "CFG-Zero* initial steps", blurb = "How many steps stand still \
        at the beginning with cfg-zero-star, of flow-matching models only. Takes effect at the next chunk")]
    #[property(name = "cache-threshold", get, set, type = f64, member = cache_threshold, default = 0.0, minimum = 0.0,
        maximum = 10.0, mutable_playing, controllable, nick = "Cache threshold", blurb = "Leave out passes of the denoiser \
        whose prediction the passes before tell, as long as it should be off by less than this share of it: 0 leaves out \
        none, 0.1 more than half of 32 steps. stats tells how many. Takes effect at the next chunk")]
    #[property(name = "scheduler", get, set, type = Option<String>, member = scheduler, mutable_playing,
        nick = "Scheduler", blurb = "Noise schedule and sampler by diffusers' class name, such as \
        UniPCMultistepScheduler; unset, the package's. Takes effect at the next chunk")]
    #[property(name = "strength", get, set, type = f64, member = strength, default = 0.8, minimum = 0.0,
        maximum = 1.0, mutable_playing, controllable, nick = "Strength", blurb = "How far to lead away from the video \
        prompt on the video pad: at 1 nothing of it is left, at 0 it passes as it is, and the model goes on where it \
        ends. Takes effect at the next chunk")]
    #[property(name = "transition-chunks", get, set, type = u32, member = transition_chunks, default = 0, maximum = 1000,
        mutable_playing, controllable, nick = "Transition chunks", blurb = "Over how many chunks a new prompt's scene grows \
        out of the one before, where the model goes on for ever; 0 is a cut. Takes effect at the next prompt")]
    settings: Mutex<Settings>,
    #[property(name = "active-execution-provider", get = Self::provider, type = Option<String>,
        nick = "Active execution provider", blurb = "Where the denoiser runs, once it is opened")]
    #[property(name = "stats", get = Self::stats, type = StatsStructure, nick = "Statistics",
        blurb = "Time to the first chunk, real-time factor of generation, chunks that came before their time, steps \
        in use, steps done without a pass of the denoiser")]
    state: Mutex<State>,
    /// Told when the state changes in a way that somebody may wait for.
    changed: Condvar,
    cancel: Cancel,
    /// Only the task uses it while the element runs.
    diffuser: Mutex<Option<Diffuser>>,
    /// What opens while caps are agreed on.
    ahead: Mutex<Option<Ahead>>,
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
        let [sink, src, ..] = templates else { unreachable!("there are four templates") };
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
                "Makes latent video of prompt embeddings with a diffusion transformer: textsrc prompt=\"a garden\" ! latentdiffuse seed=7 ! \
                 vaedecode ! queue ! videoconvert ! autovideosink",
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
            let request = |name, caps: gst::Caps| {
                gst::PadTemplate::new(name, gst::PadDirection::Sink, gst::PadPresence::Request, &caps)
                    .expect("a valid template")
            };
            vec![
                template("sink", gst::PadDirection::Sink, caps::prompt_embeds(None)),
                template("src", gst::PadDirection::Src, caps::any_latent()),
                request("video", caps::any_latent()),
                request("image", gst_video::VideoCapsBuilder::new().build()),
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
        let is_image = template.name_template() == "image";
        let pad = gst::Pad::builder_from_template(template)
            .chain_function(move |pad, parent, buffer| {
                let failed = || Err(gst::FlowError::Error);
                Self::catch_panic_pad_function(parent, failed, |this| match is_image {
                    true => this.image_chain(pad, buffer),
                    false => this.video_chain(pad, buffer),
                })
            })
            .event_function(move |pad, parent, event| {
                Self::catch_panic_pad_function(
                    parent,
                    || false,
                    |this| match is_image {
                        true => this.image_event(pad, event),
                        false => this.video_event(pad, event),
                    },
                )
            })
            .query_function(move |pad, parent, query| {
                Self::catch_panic_pad_function(
                    parent,
                    || false,
                    |this| match is_image {
                        true => gst::Pad::query_default(pad, Some(&*this.obj()), query),
                        false => this.video_query(pad, query),
                    },
                )
            })
            .build();
        // Active from the start where the element runs already.
        pad.set_active(self.obj().current_state() >= gst::State::Paused).ok()?;
        {
            let mut state = self.lock();
            match is_image {
                true => drop(state.image.get_or_insert_default()),
                false => drop(state.video.get_or_insert_default()),
            }
        }
        // Refused where there is one already: a chunk is made of one video, or starts from one image.
        self.obj().add_pad(&pad).ok()?;
        Some(pad)
    }

    fn release_pad(&self, pad: &gst::Pad) {
        match pad.name().as_str() {
            "image" => self.lock().image = None,
            _ => self.lock().video = None,
        }
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
                *state = State { stats: Stats::default(), ..state.stopped() };
            }
            // Lets go of the streaming thread and the task, which the parent then waits for.
            gst::StateChange::PausedToReady => self.stop(),
            _ => (),
        }
        let success = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            let mut state = self.lock();
            *state = state.stopped();
            drop(state);
            *self.diffuser.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.end_ahead();
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

    /// Lets go of all that waits, on every pad.
    fn stop(&self) {
        self.lock().active = false;
        self.start_flushing();
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
        let replaceable = buffer.flags().contains(gst::BufferFlags::DROPPABLE);
        let prompt = Prompt { embeds, start: buffer.pts(), duration: buffer.duration(), replaceable };

        let id = pad.stream_id();
        let is_stopped = |state: &State| id.as_ref().is_some_and(|id| state.stopped.contains(id));
        let mut state = self.lock();
        if let Some(Arrived::Prompt(Prompt { replaceable: true, .. })) = state.arrived.back()
            && replaceable
        {
            state.arrived.pop_back();
        }
        while state.waiting() >= MAX_WAITING
            && !replaceable
            && !is_stopped(&state)
            && !state.flushing
            && state.flow.is_ok()
        {
            state = self.wait(state);
        }
        if state.flushing {
            return Err(gst::FlowError::Flushing);
        }
        state.flow?;
        if is_stopped(&state) {
            return Ok(gst::FlowSuccess::Ok);
        }
        if state.model.is_none() {
            return Err(gst::FlowError::NotNegotiated);
        }
        state.arrived.push_back(Arrived::Prompt(prompt));
        self.changed.notify_all();
        Ok(gst::FlowSuccess::Ok)
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        use gst::EventView;
        gst::log!(CAT, obj = pad, "event {event:?}");
        match event.view() {
            EventView::Caps(caps) => self.set_sink_caps(caps.caps()),
            EventView::Segment(_) | EventView::SegmentDone(_) => {
                self.lock().arrived.push_back(Arrived::Event(event));
                self.changed.notify_all();
                true
            }
            EventView::Eos(_) => {
                let id = pad.stream_id();
                let mut state = self.lock();
                state.is_cut = id.is_some_and(|id| state.stopped.contains(&id));
                state.eos = Some(event);
                drop(state);
                self.changed.notify_all();
                true
            }
            EventView::CustomDownstreamOob(stop) if stop.structure().is_some_and(|s| s.name() == STOP) => {
                let id: Option<glib::GString> = stop.structure().and_then(|s| s.get("stream-id").ok());
                let mut state = self.lock();
                // Of a stream whose prompts are all here the end has been told.
                state.is_cut |= state.eos.is_some() && id == pad.stream_id();
                state.stopped.extend(id);
                drop(state);
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
                let coming = state.arrived.iter().rev().find_map(|arrived| match arrived {
                    Arrived::Model(model) => Some(model),
                    _ => None,
                });
                match coming.or(state.model.as_ref()) {
                    Some(known) if Arc::ptr_eq(known, &model) => (),
                    Some(_) => state.arrived.push_back(Arrived::Model(model)),
                    None => state.model = Some(model),
                }
                state.refused = false;
                self.changed.notify_all();
                true
            }
            Err(error) => {
                // Refused caps come again with each buffer.
                if !std::mem::replace(&mut self.lock().refused, true) {
                    self.obj().post_error_message(glue::error_message(&error));
                }
                false
            }
        }
    }

    // The source pad.

    /// Returns the caps of all that the model can make, or of any latents while it is unknown.
    fn can(&self) -> gst::Caps {
        match &self.lock().model {
            Some(model) => caps::made_latent(model.id(), model.manifest()),
            None => caps::any_latent(),
        }
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Latency(latency) => {
                let Some((live, min, max)) = self.upstream_latency() else { return false };
                latency.set(live, min, max);
                let chunk = self.lock().chunk_duration();
                if live {
                    latency.set(live, min + chunk * CHUNKS_LATE, max.map(|max| max + chunk * CHUNKS_LATE));
                }
                true
            }
            gst::QueryViewMut::Caps(query) => {
                let can = self.can();
                let result = query
                    .filter()
                    .map(|filter| filter.intersect_with_mode(&can, gst::CapsIntersectMode::First));
                query.set_result(&result.unwrap_or(can));
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// Returns whether upstream is live, and its least and most latency: that of the prompts and, where there is one, of the video prompt,
    /// for a camera's frames come when they do. `None` if nobody answers for the prompts.
    fn upstream_latency(&self) -> Option<(bool, gst::ClockTime, Option<gst::ClockTime>)> {
        let of = |pad: &gst::Pad| {
            let mut query = gst::query::Latency::new();
            pad.peer_query(&mut query).then(|| query.result())
        };
        let prompts = of(self.sinkpad())?;
        let video = self.obj().static_pad("video").and_then(|pad| of(&pad));
        Some(match (prompts, video) {
            ((true, min, max), Some((true, other_min, other_max))) => {
                (true, min.max(other_min), [max, other_max].into_iter().flatten().min())
            }
            (_, Some(video @ (true, ..))) => video,
            _ => prompts,
        })
    }

    /// Says whether a seek is on its way to the video prompt, which is not made into chunks meanwhile.
    fn set_sought(&self, sought: bool) {
        if let Some(video) = &mut self.lock().video {
            video.sought = sought;
        }
        self.changed.notify_all();
    }

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            // Latents are never left out: the decoder's state depends on all of them.
            gst::EventView::Qos(_) => true,
            gst::EventView::Seek(seek) => {
                let flushes = seek.get().1.contains(gst::SeekFlags::FLUSH);
                self.set_sought(flushes);
                // Where the prompts can't go, all stays where it is.
                let done = self.sinkpad().push_event(event.clone());
                for pad in self.obj().sink_pads().iter().filter(|pad| done && *pad != self.sinkpad()) {
                    pad.push_event(event.clone());
                }
                self.set_sought(false);
                done
            }
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }
}
