//! The element `textsrc`.

use std::path::Path;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use latentflow::package::Manifest;
use latentflow::{Cancel, Error, Result};

use crate::caps;
use crate::glue::{self, ExecutionProvider, ModelSettings};
use crate::lines::{LineQueue, Next};
use crate::prompting::{Prompter, STOP, Span};
use crate::storyboard::Storyboard;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("textsrc", gst::DebugColorFlags::empty(), Some("Prompts to prompt embeddings"))
});

/// How GStreamer writes that a time is not set.
const NO_TIME: u64 = u64::MAX;
/// What `location` is for standard input.
const STANDARD_INPUT: &str = "-";

#[derive(Debug, Clone)]
struct Settings {
    prompt: Option<String>,
    negative_prompt: Option<String>,
    location: Option<String>,
    duration: u64,
    is_live: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { prompt: None, negative_prompt: None, location: None, duration: NO_TIME, is_live: false }
    }
}

impl Settings {
    fn duration(&self) -> Option<gst::ClockTime> {
        (self.duration != NO_TIME).then(|| gst::ClockTime::from_nseconds(self.duration))
    }

    /// Refuses what can't be played before anything is opened.
    fn check(&self) -> Result<()> {
        let wrong = |setting, value: &str, reason: &str| {
            Err(Error::Setting { setting, value: value.into(), reason: reason.into() })
        };
        match (&self.prompt, &self.location) {
            (None, None) => wrong(
                "prompt",
                "missing",
                "there is nothing to play; set `prompt` to a text or `location` to a file",
            ),
            (Some(_), Some(_)) => wrong(
                "prompt",
                "set",
                "`location` is set, too, and only one of `prompt` and `location` can be played",
            ),
            (Some(prompt), None) if prompt.trim().is_empty() => {
                wrong("prompt", "empty", "there is nothing to play; set it to what the video shall show")
            }
            (None, Some(location)) if location.is_empty() => wrong(
                "location",
                "empty",
                "it takes a file of prompts (text, .srt or .vtt), or - for standard input",
            ),
            _ => Ok(()),
        }
    }

    /// Returns what these settings play.
    fn script(&self, manifest: &Manifest) -> Result<Script> {
        let video = &manifest.video;
        let clip = video.num_frames.default as u64;
        let line_start = |line: u64| match self.duration {
            NO_TIME => caps::frame_time(line.saturating_mul(clip), caps::fraction(video.frame_rate.default)),
            duration => gst::ClockTime::from_nseconds(line.saturating_mul(duration).min(NO_TIME - 1)),
        };
        let length = match (self.duration(), &manifest.stream) {
            (Some(duration), _) => Length::Set(duration),
            (None, Some(_)) => Length::Open,
            (None, None) => Length::Clip(line_start(1)),
        };
        Ok(match self.location.as_deref() {
            None => Script::Prompt(length),
            Some(STANDARD_INPUT) => Script::Lines(LineQueue::standard_input(), self.duration()),
            Some(file) => {
                let storyboard = Storyboard::read(Path::new(file), line_start)?;
                let clips = matches!(length, Length::Clip(_)) && !Storyboard::has_times(Path::new(file));
                Script::Storyboard(storyboard, clips)
            }
        })
    }
}

/// How long a prompt is on.
#[derive(Debug, Clone, Copy)]
enum Length {
    /// Until the next one comes.
    Open,
    /// For the model's default clip, which is as long as this at its default rate: what it is in frames does not depend on the rate.
    Clip(gst::ClockTime),
    Set(gst::ClockTime),
}

impl Length {
    /// Returns how long that is, where it has an end of its own.
    fn known(self) -> Option<gst::ClockTime> {
        match self {
            Self::Open => None,
            Self::Clip(length) | Self::Set(length) => Some(length),
        }
    }
}

/// What is played.
enum Script {
    /// `prompt`, for its length, or until it changes.
    Prompt(Length),
    /// A file, and whether each of its prompts is on for the model's default clip.
    Storyboard(Storyboard, bool),
    /// Standard input, each line for its length or until the next one comes.
    Lines(Arc<LineQueue>, Option<gst::ClockTime>),
}

impl Script {
    /// Returns how long it plays, where that is known.
    fn total(&self) -> Option<gst::ClockTime> {
        match self {
            Self::Prompt(length) => length.known(),
            Self::Lines(..) => None,
            Self::Storyboard(storyboard, _) => Some(storyboard.duration()),
        }
    }

    /// Returns the index of the prompt that covers `position`, or `None` if it can't be told.
    fn index_at(&self, position: gst::ClockTime) -> Option<usize> {
        match (self, self.total()) {
            (Self::Storyboard(storyboard, _), _) => Some(storyboard.index_at(position)),
            (_, Some(total)) => Some(usize::from(position >= total)),
            _ => position.is_zero().then_some(0),
        }
    }
}

/// The text of a prompt and of its negative prompt.
type Texts = (String, Option<String>);

struct State {
    prompter: Arc<Prompter>,
    script: Arc<Script>,
    /// The index of the prompt to send next.
    next: usize,
    /// What was sent last, since playing began or was led elsewhere.
    sent: Option<Texts>,
    /// A line that was read and not yet sent.
    line: Option<String>,
}

#[derive(Default, glib::Properties)]
#[properties(wrapper_type = super::TextSrc)]
pub struct TextSrc {
    #[property(name = "model", get, set, type = Option<String>, member = model, nick = "Model", mutable_ready,
        blurb = "Folder of the model package; unset, papercut, which is built in")]
    #[property(name = "execution-provider", get, set, type = ExecutionProvider, member = execution_provider,
        nick = "Execution provider", blurb = "Where the text encoder runs; a provider that is named is used, or it is \
        an error", builder(ExecutionProvider::Auto).mutable_ready())]
    #[property(name = "device-id", get, set, type = u32, member = device_id, default = 0, mutable_ready,
        nick = "Device ID", blurb = "Which GPU, from 0")]
    #[property(name = "num-threads", get, set, type = u32, member = num_threads, default = 0, maximum = 1024, mutable_ready,
        nick = "Threads", blurb = "Threads of an operation on the CPU; 0 is one a core")]
    #[property(name = "keep-loaded", get, set, type = bool, member = keep_loaded, default = true, mutable_ready,
        nick = "Keep loaded", blurb = "Keep the text encoders open. If false, they close after each prompt and open again for the next; \
        elements with false take turns, so that one network of a model is in memory at a time")]
    model_settings: Mutex<ModelSettings>,
    #[property(name = "prompt", get, set = Self::set_prompt, type = Option<String>, member = prompt, mutable_playing,
        nick = "Prompt", blurb = "What the video shall show, in a language that the model reads. Without duration, and \
        with a model that goes on, it may be changed at any time, which cuts to the new scene at the next chunk; with duration a change waits for the next play or seek")]
    #[property(name = "negative-prompt", get, set = Self::set_negative_prompt, type = Option<String>,
        member = negative_prompt, mutable_playing, nick = "Negative prompt", blurb = "What the video shall not show; \
        has an effect where guidance-scale is above 1. Takes effect with the next prompt, and without duration or \
        location at the next chunk")]
    #[property(name = "location", get, set, type = Option<String>, member = location, mutable_ready,
        nick = "Location", blurb = "File of prompts in place of prompt: a storyboard of cues (.srt, .vtt), or a prompt \
        a line, blank lines and # comments left out; - is standard input, a line when it comes")]
    #[property(name = "duration", get, set, type = u64, member = duration, default = NO_TIME, minimum = 1,
        mutable_ready, nick = "Duration", blurb = "Length of prompt, or of each line's in a file, in nanoseconds; \
        unset, prompt and standard input go on until the next prompt where the model can, else for its default clip, \
        and so do a file's lines. \
        Cues have their own")]
    #[property(name = "is-live", get, set = Self::set_is_live, type = bool, member = is_live, default = false,
        mutable_ready, nick = "Live", blurb = "Act as a live source: no prompt is sent before PLAYING")]
    settings: Mutex<Settings>,
    #[property(name = "active-execution-provider", get = Self::provider, type = Option<String>,
        nick = "Active execution provider", blurb = "Where the text encoder runs, once it is opened")]
    state: Mutex<Option<State>>,
    /// Told when `settings` change or a wait for that is cancelled.
    changed: Condvar,
    cancel: Cancel,
}

#[glib::object_subclass]
impl ObjectSubclass for TextSrc {
    const NAME: &'static str = "GstTextSrc";
    type Type = super::TextSrc;
    type ParentType = gst_base::PushSrc;
}

#[glib::derived_properties]
impl ObjectImpl for TextSrc {
    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_format(gst::Format::Time);
    }
}

impl GstObjectImpl for TextSrc {}

impl ElementImpl for TextSrc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Prompt source",
                "Source/Text",
                "Makes prompt embeddings of a prompt, a storyboard or lines on standard input: textsrc prompt=\"a dog \
                 runs in the snow\" ! latentdiffuse ! vaedecode ! queue ! videoconvert ! autovideosink",
                "The Latentflow authors",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let (direction, presence) = (gst::PadDirection::Src, gst::PadPresence::Always);
            let template = gst::PadTemplate::new("src", direction, presence, &caps::prompt_embeds(None));
            vec![template.expect("a valid template")]
        });
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition != gst::StateChange::ReadyToPaused {
            return self.parent_change_state(transition);
        }
        // Not in `start`, because the base class puts an error of its own behind the one that says what is wrong.
        let state = self.open().map_err(|error| {
            self.obj().post_error_message(glue::error_message(&error));
            gst::StateChangeError
        })?;
        gst::info!(CAT, imp = self, "playing for {}", state.script.total().display());
        *self.lock() = Some(state);
        self.parent_change_state(transition).inspect_err(|_| *self.lock() = None)
    }

    fn send_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Eos(_) => {
                let pad = self.obj().src_pad().clone();
                let stop = gst::Structure::builder(STOP).field("stream-id", pad.stream_id()).build();
                pad.push_event(gst::event::CustomDownstreamOob::new(stop));
            }
            gst::EventView::FlushStop(_) => {
                // What was sent last is lost downstream: it is sent again.
                if let Some(state) = self.lock().as_mut()
                    && let Some((prompt, _)) = state.sent.take()
                {
                    state.next -= 1;
                    state.line = Some(prompt);
                }
            }
            _ => (),
        }
        self.parent_send_event(event)
    }
}

impl BaseSrcImpl for TextSrc {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        self.cancel.reset();
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.lock() = None;
        Ok(())
    }

    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        self.cancel.cancel();
        // Who is about to wait holds the lock, and looks once more after this.
        drop(self.settings());
        self.changed.notify_all();
        if let Some(Script::Lines(lines, _)) = self.script().as_deref() {
            lines.wake();
        }
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        self.cancel.reset();
        Ok(())
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
        let id = self.lock().as_ref().map(|state| state.prompter.model().id().to_owned());
        let caps = caps::prompt_embeds(id.as_deref());
        Some(filter.map_or(caps.clone(), |f| f.intersect_with_mode(&caps, gst::CapsIntersectMode::First)))
    }

    fn is_seekable(&self) -> bool {
        self.script().is_some_and(|script| script.total().is_some())
    }

    fn event(&self, event: &gst::Event) -> bool {
        match event.view() {
            // Refused before the base class flushes what plays.
            gst::EventView::Seek(seek) if seek.get().0 <= 0.0 => {
                gst::warning!(CAT, imp = self, "can't play backwards");
                false
            }
            _ => self.parent_event(event),
        }
    }

    fn do_seek(&self, segment: &mut gst::Segment) -> bool {
        let Some(segment) = segment.downcast_mut::<gst::ClockTime>() else { return false };
        // A seek of this element alone, or from before it played, is no event.
        if segment.rate() <= 0.0 {
            return false;
        }
        let position = segment.start().unwrap_or_default();
        let mut state = self.lock();
        let Some(state) = state.as_mut() else { return false };
        let Some(next) = state.script.index_at(position) else { return false };
        gst::debug!(CAT, imp = self, "{} is in prompt {next}", position.display());
        state.next = next;
        state.sent = None;
        segment.set_time(position);
        true
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        let total = self.script().and_then(|script| script.total());
        match (query.view_mut(), total) {
            // Prompts may wait as long as they like: those after it hold up to a chunk.
            (gst::QueryViewMut::Latency(q), _) => {
                q.set(self.settings().is_live, gst::ClockTime::ZERO, gst::ClockTime::NONE);
                true
            }
            (gst::QueryViewMut::Duration(q), Some(total)) if q.format() == gst::Format::Time => {
                q.set(total);
                true
            }
            (gst::QueryViewMut::Seeking(q), Some(total)) if q.format() == gst::Format::Time => {
                q.set(true, gst::ClockTime::ZERO, total);
                true
            }
            _ => BaseSrcImplExt::parent_query(self, query),
        }
    }
}

impl PushSrcImpl for TextSrc {
    fn create(&self, _buffer: Option<&mut gst::BufferRef>) -> Result<CreateSuccess, gst::FlowError> {
        let Some((prompter, script, next)) =
            self.lock().as_ref().map(|s| (s.prompter.clone(), s.script.clone(), s.next))
        else {
            return Err(gst::FlowError::Flushing);
        };
        let ((prompt, negative_prompt), span) = self.next_prompt(&script, next)?;
        gst::debug!(CAT, imp = self, "prompt {next} for {span:?}: `{prompt}`");
        let mut buffer =
            prompter.buffer(&*self.obj(), &prompt, negative_prompt.as_deref(), span, &self.cancel)?;
        if matches!(*script, Script::Prompt(Length::Open)) && span.start.is_none() {
            // Of changes in quick succession the last one counts.
            buffer.make_mut().set_flags(gst::BufferFlags::DROPPABLE);
        }
        if let Some(state) = self.lock().as_mut() {
            state.next = next + 1;
            state.sent = Some((prompt, negative_prompt));
            state.line = None;
        }
        Ok(CreateSuccess::NewBuffer(buffer))
    }
}

impl TextSrc {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self) -> Option<Arc<Script>> {
        self.lock().as_ref().map(|state| state.script.clone())
    }

    fn provider(&self) -> Option<String> {
        self.lock().as_ref()?.prompter.provider().map(|provider| provider.to_string())
    }

    fn set_prompt(&self, prompt: Option<String>) {
        match self.script().as_deref() {
            Some(Script::Prompt(_)) if prompt.as_ref().is_none_or(|p| p.trim().is_empty()) => {
                gst::element_imp_warning!(
                    self,
                    gst::LibraryError::Settings,
                    ("`prompt` can't be empty while it plays; the one before goes on")
                );
                return;
            }
            Some(Script::Storyboard(..) | Script::Lines(..)) => {
                gst::element_imp_warning!(
                    self,
                    gst::LibraryError::Settings,
                    ("`prompt` can't be set while `location` plays; the prompts of `location` go on")
                );
                return;
            }
            Some(Script::Prompt(length))
                if length.known().is_some()
                    && self.lock().as_ref().is_some_and(|state| state.sent.is_some())
                    && self.settings().prompt != prompt =>
            {
                gst::element_imp_warning!(
                    self,
                    gst::LibraryError::Settings,
                    ("`prompt` is on for a set time and goes on; what it was set to is played after a seek, or from the start")
                );
                self.settings().prompt = prompt;
            }
            _ => self.settings().prompt = prompt,
        }
        self.changed.notify_all();
    }

    fn set_negative_prompt(&self, negative_prompt: Option<String>) {
        self.settings().negative_prompt = negative_prompt;
        self.changed.notify_all();
    }

    fn set_is_live(&self, is_live: bool) {
        self.settings().is_live = is_live;
        self.obj().set_live(is_live);
    }

    fn open(&self) -> Result<State> {
        let settings = self.settings().clone();
        settings.check()?;
        let model_settings = self.model_settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let model = model_settings.open()?;
        let script = Arc::new(settings.script(model.manifest())?);
        let prompter = Arc::new(Prompter::new(model, model_settings.keep_loaded)?);
        Ok(State { prompter, script, next: 0, sent: None, line: None })
    }

    /// Returns the prompt with index `index`, waiting for it where it is yet to come.
    fn next_prompt(&self, script: &Script, index: usize) -> Result<(Texts, Span), gst::FlowError> {
        let negative_prompt = self.settings().negative_prompt.clone();
        // The first prompt begins the stream, a later one holds from the next chunk on.
        let open = Span { start: (index == 0).then_some(gst::ClockTime::ZERO), duration: None };
        match script {
            Script::Prompt(Length::Open) => Ok((self.changed_prompt()?, open)),
            Script::Prompt(length) => {
                let prompt = self.settings().prompt.clone().filter(|_| index == 0);
                let duration = if let Length::Set(duration) = length { Some(*duration) } else { None };
                let span = Span { duration, ..open };
                prompt.map(|prompt| ((prompt, negative_prompt), span)).ok_or(gst::FlowError::Eos)
            }
            Script::Storyboard(storyboard, clips) => {
                let cue = storyboard.get(index).ok_or(gst::FlowError::Eos)?;
                let follows = self.lock().as_ref().is_some_and(|state| state.sent.is_some());
                let span = Span {
                    start: Some(cue.start).filter(|_| !clips || !follows),
                    duration: Some(cue.end - cue.start).filter(|_| !clips),
                };
                Ok(((cue.prompt.clone(), negative_prompt), span))
            }
            Script::Lines(lines, duration) => {
                let line = self.next_line(lines)?;
                let span = match duration {
                    Some(duration) => {
                        let start = duration.nseconds().saturating_mul(index as u64).min(NO_TIME - 1);
                        Span { start: Some(gst::ClockTime::from_nseconds(start)), duration: Some(*duration) }
                    }
                    None => open,
                };
                Ok(((line, negative_prompt), span))
            }
        }
    }

    /// Waits until the prompt or the negative prompt is another than the one sent last.
    fn changed_prompt(&self) -> Result<Texts, gst::FlowError> {
        let sent = self.lock().as_ref().and_then(|state| state.sent.clone());
        let same = |settings: &mut Settings| {
            let texts = |(prompt, negative): &Texts| {
                settings.prompt.as_ref() == Some(prompt) && settings.negative_prompt == *negative
            };
            sent.as_ref().is_some_and(texts) && !self.cancel.is_cancelled()
        };
        let settings = self.changed.wait_while(self.settings(), same).unwrap_or_else(PoisonError::into_inner);
        if self.cancel.is_cancelled() {
            return Err(gst::FlowError::Flushing);
        }
        let prompt = settings.prompt.clone().ok_or(gst::FlowError::Eos)?;
        Ok((prompt, settings.negative_prompt.clone()))
    }

    /// Waits for the next line. It is kept until it is sent: a pause may come between.
    fn next_line(&self, lines: &LineQueue) -> Result<String, gst::FlowError> {
        if let Some(line) = self.lock().as_ref().and_then(|state| state.line.clone()) {
            return Ok(line);
        }
        match lines.next(&self.cancel) {
            Next::Prompt(line) => {
                if let Some(state) = self.lock().as_mut() {
                    state.line = Some(line.clone());
                }
                Ok(line)
            }
            Next::Failed(reason) => {
                let error = Error::Package { path: "standard input".into(), reason };
                Err(glue::flow_error(&*self.obj(), &error))
            }
            Next::End if self.lock().as_ref().is_some_and(|state| state.next == 0) => {
                let reason = "it holds no prompt: every line is blank or a comment, or was played before";
                let error = Error::Package { path: "standard input".into(), reason: reason.into() };
                Err(glue::flow_error(&*self.obj(), &error))
            }
            Next::End => Err(gst::FlowError::Eos),
            Next::Cancelled => Err(gst::FlowError::Flushing),
        }
    }
}
