//! What `textsrc` and `textencode` have in common: a text encoder that is opened when the first prompt comes, and
//! buffers of prompt embeddings.

use std::sync::{Arc, OnceLock};

use gst::prelude::*;
use latentflow::text::PromptTokenizer;
use latentflow::{Cancel, ExecutionProvider, Model, Result, TextEncoder};

use crate::glue;

/// The text encoder of a model.
pub struct Prompter {
    model: Arc<Model>,
    tokenizer: Arc<PromptTokenizer>,
    encoder: OnceLock<TextEncoder>,
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
    /// Returns the text encoder of `model`, not yet opened; the tokenizer, which is quick, is.
    ///
    /// # Errors
    /// As [`PromptTokenizer::open`].
    pub fn new(model: Arc<Model>) -> Result<Self> {
        let tokenizer = Arc::new(PromptTokenizer::open(model.package())?);
        Ok(Self { model, tokenizer, encoder: OnceLock::new() })
    }

    /// Returns the model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Returns where the text encoder runs, once it is opened.
    pub fn provider(&self) -> Option<ExecutionProvider> {
        self.encoder.get().map(TextEncoder::provider)
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
        let encoder = self.encoder(element).map_err(failed)?;
        let embeds =
            encoder.encode(prompt, Some(negative_prompt.unwrap_or_default()), cancel).map_err(failed)?;
        for notice in embeds.notices() {
            gst::element_warning!(element.upcast_ref(), gst::StreamError::Encode, ("{notice}"));
        }
        let mut buffer = gst::Buffer::from_mut_slice(embeds.to_safetensors().map_err(failed)?);
        let buffer_ref = buffer.get_mut().expect("a new buffer is nobody else's");
        buffer_ref.set_pts(span.start);
        buffer_ref.set_duration(span.duration);
        Ok(buffer)
    }

    /// Only the streaming thread calls it, so the text encoder is opened once.
    fn encoder(&self, element: &impl IsA<gst::Element>) -> Result<&TextEncoder> {
        if let Some(encoder) = self.encoder.get() {
            return Ok(encoder);
        }
        let id = self.model.id();
        let progress = |kind, text: String| glue::post_progress(element, kind, "open", &text);
        progress(gst::ProgressType::Start, format!("opening the text encoder of {id}"));
        match TextEncoder::with_tokenizer(self.model.clone(), self.tokenizer.clone()) {
            Ok(encoder) => {
                let text = format!("the text encoder of {id} runs on {}", encoder.provider());
                progress(gst::ProgressType::Complete, text);
                let encoder = self.encoder.get_or_init(|| encoder);
                element.notify("active-execution-provider");
                Ok(encoder)
            }
            Err(error) => {
                progress(gst::ProgressType::Error, format!("the text encoder of {id} can't be opened"));
                Err(error)
            }
        }
    }
}
