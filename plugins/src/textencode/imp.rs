//! The element `textencode`.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::{BaseTransformMode, GenerateOutputSuccess};
use gst_base::subclass::prelude::*;
use latentflow::Cancel;

use crate::caps;
use crate::glue::{self, ExecutionProvider, ModelSettings};
use crate::markup;
use crate::prompting::{Prompter, Span};
use crate::storyboard::{one_line, prompt_in_line, text_of};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("textencode", gst::DebugColorFlags::empty(), Some("Text to prompt embeddings"))
});

const MARKUP: &str = "pango-markup";
/// Lines longer than this many bytes are refused: they are no prompts.
const LINE_LIMIT: usize = 1 << 20;

#[derive(Debug, Clone, Default)]
struct Settings {
    negative_prompt: Option<String>,
}

#[derive(Default)]
struct State {
    prompter: Option<Arc<Prompter>>,
    markup: bool,
    text: Text,
}

/// The text that came and was not yet encoded.
#[derive(Debug, Default)]
struct Text {
    /// The stream is one of bytes: its lines are the prompts.
    bytes: bool,
    /// The beginning of a line whose end is yet to come.
    line: Vec<u8>,
    /// Lines that came before it.
    lines: u64,
    /// Prompts to encode.
    prompts: VecDeque<(String, Span)>,
    /// The first prompt of a stream of bytes begins it, a later one holds from the next chunk on.
    begun: bool,
}

impl Text {
    /// Forgets what came, as after a flush.
    fn clear(&mut self) {
        *self = Self { bytes: self.bytes, ..Self::default() };
    }

    /// Takes in a buffer: a prompt for `span`, or a piece of a stream of bytes.
    fn push(&mut self, data: &[u8], span: Span, markup: bool) -> Result<(), String> {
        if !self.bytes {
            let text = text_of(c_string(data), format_args!("the text at {}", at(span)))?;
            let prompt = plain(text, markup);
            if !prompt.is_empty() {
                self.prompts.push_back((prompt, span));
            }
            return Ok(());
        }
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end_line(markup)?;
            } else if self.line.len() > LINE_LIMIT {
                return Err(format!("line {} is longer than {LINE_LIMIT} bytes", self.lines + 1));
            }
        }
        Ok(())
    }

    /// Takes the line that came as a prompt.
    fn end_line(&mut self, markup: bool) -> Result<(), String> {
        self.lines += 1;
        let line = std::mem::take(&mut self.line);
        let line = text_of(c_string(&line), format_args!("line {}", self.lines))?;
        let prompt = prompt_in_line(line).map(|line| plain(line, markup)).unwrap_or_default();
        if !prompt.is_empty() {
            let start = (!self.begun).then_some(gst::ClockTime::ZERO);
            self.begun = true;
            self.prompts.push_back((prompt, Span { start, duration: None }));
        }
        Ok(())
    }
}

fn at(span: Span) -> String {
    span.start.map_or("no time".into(), |start| start.display().to_string())
}

/// Returns a text without its end: some sources end it with a zero, as C does.
fn c_string(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..length]
}

fn plain(text: &str, markup: bool) -> String {
    let text = text.trim_start_matches('\u{feff}');
    if markup { one_line(&markup::strip(text)) } else { one_line(text) }
}

#[derive(Default, glib::Properties)]
#[properties(wrapper_type = super::TextEncode)]
pub struct TextEncode {
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
    #[property(name = "negative-prompt", get, set, type = Option<String>, member = negative_prompt, mutable_playing,
        nick = "Negative prompt", blurb = "What the video shall not show; has an effect where guidance-scale is above \
        1. Takes effect with the next prompt")]
    settings: Mutex<Settings>,
    #[property(name = "active-execution-provider", get = Self::provider, type = Option<String>,
        nick = "Active execution provider", blurb = "Where the text encoder runs, once it is opened")]
    state: Mutex<State>,
    cancel: Cancel,
}

#[glib::object_subclass]
impl ObjectSubclass for TextEncode {
    const NAME: &'static str = "GstTextEncode";
    type Type = super::TextEncode;
    type ParentType = gst_base::BaseTransform;
}

#[glib::derived_properties]
impl ObjectImpl for TextEncode {}

impl GstObjectImpl for TextEncode {}

impl ElementImpl for TextEncode {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Prompt encoder",
                "Encoder/Text",
                "Makes prompt embeddings of a text stream: filesrc location=story.srt ! subparse ! textencode ! \
                 latentdiffuse ! vaedecode ! queue ! videoconvert ! autovideosink",
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
                template("sink", gst::PadDirection::Sink, text_caps()),
                template("src", gst::PadDirection::Src, caps::prompt_embeds(None)),
            ]
        });
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::PausedToReady {
            // Lets go of the streaming thread, which the parent then waits for.
            self.cancel.cancel();
        }
        self.parent_change_state(transition)
    }
}

impl BaseTransformImpl for TextEncode {
    const MODE: BaseTransformMode = BaseTransformMode::NeverInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        self.cancel.reset();
        let settings = self.model_settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let prompter = settings.open().and_then(|model| Prompter::new(model, settings.keep_loaded));
        let prompter = prompter.map_err(|error| glue::error_message(&error))?;
        *self.lock() = State { prompter: Some(Arc::new(prompter)), ..State::default() };
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.lock() = State::default();
        Ok(())
    }

    fn transform_caps(
        &self,
        direction: gst::PadDirection,
        _caps: &gst::Caps,
        filter: Option<&gst::Caps>,
    ) -> Option<gst::Caps> {
        let caps = match direction {
            gst::PadDirection::Src => text_caps(),
            _ => caps::prompt_embeds(self.lock().prompter.as_ref().map(|prompter| prompter.model().id())),
        };
        Some(filter.map_or(caps.clone(), |f| f.intersect_with_mode(&caps, gst::CapsIntersectMode::First)))
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let format = incaps.structure(0).and_then(|s| s.get::<&str>("format").ok());
        self.lock().markup = format == Some(MARKUP);
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => self.cancel.cancel(),
            gst::EventView::FlushStop(_) => {
                self.lock().text.clear();
                self.cancel.reset();
            }
            gst::EventView::Segment(segment) => {
                let bytes = segment.segment().format() == gst::Format::Bytes;
                self.lock().text.bytes = bytes;
                if bytes {
                    // Prompts have times, though bytes have none.
                    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
                    let event = gst::event::Segment::builder(&segment).seqnum(event.seqnum()).build();
                    return self.parent_sink_event(event);
                }
            }
            // The end of a stream, or the beginning of another behind it, is that of its last line as well.
            gst::EventView::Eos(_) | gst::EventView::StreamStart(_) => {
                if let Err(gst::FlowError::Error) = self.drain() {
                    return false;
                }
            }
            _ => (),
        }
        self.parent_sink_event(event)
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        if let Some(buffer) = self.take_queued_buffer() {
            let map = buffer.map_readable().map_err(|_| {
                gst::element_imp_error!(self, gst::ResourceError::Read, ("a text buffer can't be read"));
                gst::FlowError::Error
            })?;
            let span = Span { start: buffer.pts(), duration: buffer.duration() };
            let mut state = self.lock();
            let State { markup, text, .. } = &mut *state;
            let taken = text.push(&map, span, *markup);
            drop(state);
            self.taken(taken)?;
        }
        Ok(match self.encode()? {
            Some(buffer) => GenerateOutputSuccess::Buffer(buffer),
            None => GenerateOutputSuccess::NoOutput,
        })
    }
}

impl TextEncode {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn provider(&self) -> Option<String> {
        self.lock().prompter.as_ref()?.provider().map(|provider| provider.to_string())
    }

    /// Puts what is wrong with a text on the bus.
    fn taken(&self, result: Result<(), String>) -> Result<(), gst::FlowError> {
        result.map_err(|reason| {
            gst::element_imp_error!(self, gst::StreamError::Decode, ("{reason}"));
            gst::FlowError::Error
        })
    }

    /// Returns the buffer of the next prompt that came.
    fn encode(&self) -> Result<Option<gst::Buffer>, gst::FlowError> {
        let mut state = self.lock();
        let Some(prompter) = state.prompter.clone() else { return Err(gst::FlowError::Flushing) };
        let Some((prompt, span)) = state.text.prompts.pop_front() else { return Ok(None) };
        drop(state);
        gst::debug!(CAT, imp = self, "prompt for {span:?}: `{prompt}`");
        let negative_prompt =
            self.settings.lock().unwrap_or_else(PoisonError::into_inner).negative_prompt.clone();
        prompter.buffer(&*self.obj(), &prompt, negative_prompt.as_deref(), span, &self.cancel).map(Some)
    }

    /// Sends the last line of a stream of bytes, which may lack its end.
    fn drain(&self) -> Result<(), gst::FlowError> {
        let mut state = self.lock();
        let State { markup, text, .. } = &mut *state;
        let taken = text.end_line(*markup);
        text.lines = 0;
        drop(state);
        self.taken(taken)?;
        while let Some(buffer) = self.encode()? {
            self.obj().src_pad().push(buffer)?;
        }
        Ok(())
    }
}

fn text_caps() -> gst::Caps {
    gst::Caps::builder("text/x-raw").field("format", gst::List::new(["utf8", MARKUP])).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(text: &mut Text) -> Vec<String> {
        text.prompts.drain(..).map(|(prompt, _)| prompt).collect()
    }

    #[test]
    fn buffers_with_times_are_prompts() {
        let mut text = Text::default();
        let span = Span { start: Some(gst::ClockTime::SECOND), duration: None };
        text.push(b"a cat\nin  the snow\n\0", span, false).unwrap();
        text.push(b" \n", span, false).unwrap();
        text.push("<i>一只猫</i> &amp; a dog".as_bytes(), Span::default(), true).unwrap();
        assert_eq!(text.prompts[0], ("a cat in the snow".into(), span));
        assert_eq!(text.prompts[1], ("一只猫 & a dog".into(), Span::default()));
        assert_eq!(text.prompts.len(), 2);
        assert!(text.push(b"a\xff", span, false).unwrap_err().contains("0:00:01"));
    }

    #[test]
    fn bytes_are_lines_wherever_they_are_cut() {
        let mut text = Text { bytes: true, ..Text::default() };
        let stream = "a cat\n\n# no\n雪里的猫\r\nlast".as_bytes();
        for byte in stream {
            text.push(&[*byte], Span::default(), false).unwrap();
        }
        assert_eq!(text.prompts[0].1.start, Some(gst::ClockTime::ZERO));
        assert_eq!(text.prompts[1].1, Span::default());
        assert_eq!(prompts(&mut text), ["a cat", "雪里的猫"]);
        text.end_line(false).unwrap();
        assert_eq!(prompts(&mut text), ["last"]);
        text.push(b"one\ntwo\nthr", Span::default(), false).unwrap();
        assert_eq!(prompts(&mut text), ["one", "two"]);
        text.clear();
        text.push(b"ee\n", Span::default(), false).unwrap();
        assert_eq!(prompts(&mut text), ["ee"]);
        assert!(text.push(b"a\xff\n", Span::default(), false).unwrap_err().contains("line 2 "));
        let endless = vec![b'a'; LINE_LIMIT + 1];
        assert!(text.push(&endless, Span::default(), false).unwrap_err().contains("longer"));
    }
}
