//! What `textsrc` and `textencode` have in common: text encoders that are opened when the first prompt comes, and
//! buffers of prompt embeddings.

use std::sync::Arc;

use gst::prelude::*;
use latentflow::{Cancel, Error, ExecutionProvider, Model, PromptEmbeds, Result, TextEncoder};

use crate::glue;

/// The name of the event that says, ahead of EOS, that somebody stops a prompt that would go on: it is over with the chunk that is being made.
pub const STOP: &str = "latentflow-stop";

/// The text encoders of a model.
pub struct Prompter {
    encoder: TextEncoder,
    keep_loaded: bool,
}

/// When a prompt holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Its beginning; `None` is the next chunk.
    pub start: Option<gst::ClockTime>,
    /// Its length; `None` is until the next prompt.
    pub duration: Option<gst::ClockTime>,
}

impl Prompter {
    /// Returns the text encoders of `model`, not yet opened; the tokenizers, which are quick, are.
    ///
    /// # Errors
    /// As [`TextEncoder::new`].
    pub fn new(model: Arc<Model>, keep_loaded: bool) -> Result<Self> {
        Ok(Self { encoder: TextEncoder::new(model)?.keep_loaded(keep_loaded), keep_loaded })
    }

    /// Returns the model.
    pub fn model(&self) -> &Arc<Model> {
        self.encoder.model()
    }

    /// Returns where the text encoders run, once they were opened.
    pub fn provider(&self) -> Option<ExecutionProvider> {
        self.encoder.provider()
    }

    /// Returns the buffer of `prompt`, whose negative prompt is empty where there is none: guidance may be turned on
    /// downstream at any time. Opens the text encoder the first time.
    ///
    /// What is to be said of the prompt goes on the bus as warnings, what fails as an error.
    pub fn buffer(
        &self,
        element: &impl IsA<gst::Element>,
        prompt: &str,
        negative_prompt: Option<&str>,
        span: Span,
        cancel: &Cancel,
    ) -> Result<gst::Buffer, gst::FlowError> {
        let failed = |error| glue::flow_error(element, &error);
        let embeds =
            self.encode(element, prompt, negative_prompt.unwrap_or_default(), cancel).map_err(failed)?;
        for notice in embeds.notices() {
            gst::element_warning!(element.upcast_ref(), gst::StreamError::Encode, ("{notice}"));
        }
        let mut buffer = gst::Buffer::from_mut_slice(embeds.to_safetensors().map_err(failed)?);
        let buffer_ref = buffer.get_mut().expect("a new buffer is nobody else's");
        buffer_ref.set_pts(span.start);
        buffer_ref.set_duration(span.duration);
        Ok(buffer)
    }

    /// Encodes, and tells of the opening.
    fn encode(
        &self,
        element: &impl IsA<gst::Element>,
        prompt: &str,
        negative_prompt: &str,
        cancel: &Cancel,
    ) -> Result<PromptEmbeds> {
        let first = self.provider().is_none();
        if !first && self.keep_loaded {
            return self.encoder.encode(prompt, Some(negative_prompt), cancel);
        }
        let _turn = glue::turn(self.model(), self.keep_loaded, cancel)?;
        let id = self.model().id();
        let progress = |kind, text: String| glue::post_progress(element, kind, "open", &text);
        let failed = |error: &Error| match glue::progress_of(Some(error)) {
            gst::ProgressType::Canceled => {
                progress(gst::ProgressType::Canceled, format!("the text encoder of {id} was stopped"));
            }
            kind => progress(kind, format!("the text encoder of {id} can't be opened or run")),
        };
        progress(gst::ProgressType::Start, format!("opening the text encoder of {id}"));
        self.encoder.open(cancel).inspect_err(failed)?;
        let tell = |runs: &str| {
            let provider =
                self.provider().map(|provider| format!(" {runs} on {provider}")).unwrap_or_default();
            progress(gst::ProgressType::Complete, format!("the text encoder of {id}{provider}"));
        };
        let embeds = self.encoder.encode(prompt, Some(negative_prompt), cancel).inspect_err(failed)?;
        tell(if self.keep_loaded { "runs" } else { "ran" });
        if first {
            element.notify("active-execution-provider");
        }
        Ok(embeds)
    }
}
