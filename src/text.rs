//! Prompt → tokens → prompt embeddings, and the form in which these cross a wire.
//!
//! A prompt is cleaned and tokenized as the package's manifest says, for each of its text encoders in its own way; these make
//! `prompt_embeds` `f32[1,L,D]` and whatever else the denoisers want to know of a prompt. [`PromptEmbeds`] holds these tensors with
//! the prompt they were made of and goes to bytes and back as a safetensors file.

mod clean;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use clean::{Cleaned, clean};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tokenizers::{
    PaddingParams, PaddingStrategy, PostProcessor, Tokenizer, TruncationDirection, TruncationParams,
    TruncationStrategy,
};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::package::{Clean, Package, TextEncoderConfig, TokenizerConfig};
use crate::runtime::{Cancel, ExecutionProvider, Feeds, Graph, Tensor, Tensors};

/// Before a tensor's name: it is the negative prompt's.
const NEGATIVE: &str = "negative_";
/// No text encoder reads more tokens; a larger `max_length` is a slip.
const MAX_LENGTH_LIMIT: usize = 1 << 16;

/// A prompt as a text encoder reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids, `max_length` of them, padded.
    pub input_ids: Vec<i64>,
    /// 1 for a token of the prompt, 0 for padding.
    pub attention_mask: Vec<i64>,
    /// The pieces of the prompt that the model has no token for, in order, each once.
    pub unknown_words: Vec<String>,
    /// What did not fit, if the prompt was too long.
    pub truncated: Option<Truncated>,
}

/// How a prompt that is too long was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncated {
    /// Tokens that the whole prompt has.
    pub tokens: usize,
    /// Tokens that the model reads.
    pub limit: usize,
    /// The end of the prompt, or of its template alone, which the model does not see.
    pub lost: String,
}

/// The tokenizer of a text encoder, with the manifest's rules.
#[derive(Debug)]
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    rules: Vec<Clean>,
    /// What stands before and after the prompt.
    template: (String, String),
    max_length: usize,
    unk_id: Option<u32>,
    /// Knows whole words and the number of the token for others.
    words: Option<(Tokenizer, u32)>,
}

impl PromptTokenizer {
    /// Returns the tokenizer of `package` that `config`, of its manifest, describes.
    ///
    /// # Errors
    /// As [`PromptTokenizer::new`] and [`PromptTokenizer::with_words`]; [`Error::NotFound`] if a file is gone.
    pub fn open(package: &Package, config: &TokenizerConfig) -> Result<Self> {
        let tokenizer = Self::new(&package.bytes(&config.file)?, &package.path(&config.file), config)?;
        match &config.words {
            Some(file) => tokenizer.with_words(&package.bytes(file)?, &package.path(file), config),
            None => Ok(tokenizer),
        }
    }

    /// Returns the tokenizer in `json`, the bytes of the file at `path`, used as `config` says.
    ///
    /// # Errors
    /// [`Error::Package`] names `path` if it is no tokenizer, lacks a token that the manifest names, or adds so many
    /// tokens of its own that no prompt fits.
    pub fn new(json: &[u8], path: &Path, config: &TokenizerConfig) -> Result<Self> {
        let wrong = |reason: String| Error::package(path, reason);
        let mut tokenizer = parse(json, path)?;
        let pad_id = id(&tokenizer, path, "tokenizer.pad_token", &config.pad_token)?;
        let unk_id = config.unk_token.as_ref();
        let unk_id = unk_id.map(|token| id(&tokenizer, path, "tokenizer.unk_token", token)).transpose()?;
        let added = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if config.max_length <= added || config.max_length > MAX_LENGTH_LIMIT {
            return Err(wrong(format!(
                "it adds {added} tokens to a prompt, so the manifest's tokenizer.max_length must be from {} to \
                 {MAX_LENGTH_LIMIT}, and it is {}",
                added + 1,
                config.max_length
            )));
        }
        // The side on which to pad is the tokenizer's to know: some text encoders want the prompt at the end.
        let own = tokenizer.get_padding().cloned().unwrap_or_default();
        tokenizer.with_padding(Some(PaddingParams {
            strategy: PaddingStrategy::Fixed(config.max_length),
            pad_to_multiple_of: None,
            pad_id,
            pad_token: config.pad_token.clone(),
            ..own
        }));
        let truncation = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: config.max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| wrong(e.to_string()))?;
        let template = config.template.as_deref().and_then(|t| t.split_once("{}")).unwrap_or_default();
        Ok(Self {
            tokenizer,
            rules: config.clean.clone(),
            template: (template.0.to_owned(), template.1.to_owned()),
            max_length: config.max_length,
            unk_id,
            words: None,
        })
    }

    /// Names as unknown, from here on, also the pieces of a prompt that the tokenizer in `json`, the bytes of the file at
    /// `path`, does not know.
    ///
    /// # Errors
    /// [`Error::Package`] names `path` if it is no tokenizer or lacks the manifest's token for unknown words.
    pub fn with_words(mut self, json: &[u8], path: &Path, config: &TokenizerConfig) -> Result<Self> {
        let words = parse(json, path)?;
        let unk_token = config.unk_token.as_deref().unwrap_or_default();
        let unk_id = id(&words, path, "tokenizer.unk_token", unk_token)?;
        self.words = Some((words, unk_id));
        Ok(self)
    }

    /// Returns the tokens of `prompt`; an empty one is the unconditional prompt.
    ///
    /// # Errors
    /// [`Error::Setting`] with the tokenizer's reason, if it refuses the prompt.
    pub fn tokenize(&self, prompt: &str) -> Result<Tokens> {
        let cleaned = clean(prompt, &self.rules);
        let refused = |reason: String| Error::Setting { setting: "prompt", value: prompt.into(), reason };
        let (before, after) = &self.template;
        let text = [before, cleaned.text(), after].concat();
        let encoding = self.tokenizer.encode(text, true).map_err(|e| refused(e.to_string()))?;

        // Tokens that the template, the post-processor or the padding added stand for no piece of the prompt.
        let inside = |byte: usize| byte.saturating_sub(before.len()).min(cleaned.text().len());
        let origin = |(start, end): (usize, usize)| cleaned.origin(inside(start)..inside(end));
        let words = |encoding: &tokenizers::Encoding| -> Vec<(u32, Range<usize>)> {
            let offsets = encoding.get_offsets().iter().map(|&offsets| origin(offsets));
            let tokens = encoding.get_ids().iter().copied().zip(offsets);
            let special = encoding.get_special_tokens_mask();
            tokens.zip(special).filter(|(_, special)| **special == 0).map(|(token, _)| token).collect()
        };
        let kept = words(&encoding);
        let lost: Vec<_> = encoding.get_overflowing().iter().flat_map(words).collect();
        let text = |first: &Range<usize>| match prompt.get(first.start..).unwrap_or_default().trim() {
            "" => after.trim().to_owned(),
            text => text.to_owned(),
        };
        let truncated = lost.first().map(|(_, first)| Truncated {
            tokens: encoding.get_attention_mask().iter().sum::<u32>() as usize + lost.len(),
            limit: self.max_length,
            lost: text(first),
        });
        let end = lost.first().map_or(prompt.len(), |(_, first)| first.start);
        let mut unknown: Vec<_> = kept.into_iter().filter(|(id, _)| Some(*id) == self.unk_id).collect();
        if let Some((words, unk_id)) = &self.words {
            let encoding = words.encode(cleaned.text(), false).map_err(|e| refused(e.to_string()))?;
            let offsets = encoding.get_offsets().iter().map(|&(start, end)| cleaned.origin(start..end));
            unknown.extend(encoding.get_ids().iter().copied().zip(offsets).filter(|(id, _)| id == unk_id));
        }
        let mut unknown: Vec<_> = unknown.into_iter().map(|(_, span)| span).collect();
        unknown.retain(|span| !span.is_empty() && span.start < end);
        unknown.sort_by_key(|span| span.start);
        Ok(Tokens {
            input_ids: encoding.get_ids().iter().map(|&id| id.into()).collect(),
            attention_mask: encoding.get_attention_mask().iter().map(|&m| m.into()).collect(),
            unknown_words: unknown_words(prompt, unknown),
            truncated,
        })
    }
}

fn parse(json: &[u8], path: &Path) -> Result<Tokenizer> {
    let wrong =
        |e| Error::package(path, format!("{e}; a tokenizer.json of the tokenizers library is needed"));
    Tokenizer::from_bytes(json).map_err(wrong)
}

/// Returns the number of `token`, which the manifest names as `setting`.
fn id(tokenizer: &Tokenizer, path: &Path, setting: &str, token: &str) -> Result<u32> {
    let missing =
        || Error::package(path, format!("it has no token `{token}`, which the manifest names as {setting}"));
    tokenizer.token_to_id(token).ok_or_else(missing)
}

/// Returns the words of `prompt` at the `spans` of unknown tokens, by their starts: what touches within a word or overlaps as
/// one, as Chinese has it, marks of punctuation left out.
fn unknown_words(prompt: &str, spans: Vec<Range<usize>>) -> Vec<String> {
    let mut merged: Vec<Range<usize>> = Vec::new();
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    for span in spans {
        match merged.last_mut() {
            Some(last)
                if last.end > span.start
                    || last.end == span.start
                        && is_word(prompt.get(..last.end).and_then(|s| s.chars().next_back()))
                        && is_word(prompt.get(span.start..).and_then(|s| s.chars().next())) =>
            {
                last.end = last.end.max(span.end);
            }
            _ => merged.push(span),
        }
    }
    let mut words: Vec<String> = Vec::new();
    for span in merged {
        let word = prompt.get(span).unwrap_or_default().trim();
        if !word.chars().all(is_punctuation) && !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    words
}

/// ASCII's marks, and those of the blocks General Punctuation, CJK Symbols and Fullwidth Forms.
fn is_punctuation(c: char) -> bool {
    let fullwidth = matches!(c, '\u{ff00}'..='\u{ff65}') && !c.is_alphanumeric();
    c.is_ascii_punctuation() || matches!(c, '\u{2000}'..='\u{206f}' | '\u{3000}'..='\u{303f}') || fullwidth
}

/// What a user should hear about a prompt that was encoded all the same; `Display` says it in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The model has no token for some words.
    UnknownWords {
        /// `prompt` or `negative-prompt`.
        setting: &'static str,
        /// The words, as the prompt has them.
        words: Vec<String>,
    },
    /// The prompt is longer than the model reads.
    Truncated {
        /// `prompt` or `negative-prompt`.
        setting: &'static str,
        /// How it was cut.
        truncated: Truncated,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownWords { setting, words } => {
                write!(f, "the model does not know these words of `{setting}`: `{}`", words.join("`, `"))
            }
            Self::Truncated { setting, truncated: Truncated { tokens, limit, lost } } => {
                write!(f, "`{setting}` has {tokens} tokens and was cut to {limit}; lost is `{lost}`")
            }
        }
    }
}

/// The text encoders of a model: prompts to embeddings.
#[derive(Debug)]
pub struct TextEncoder {
    model: Arc<Model>,
    parts: Vec<Part>,
    keep_loaded: bool,
    provider: OnceLock<ExecutionProvider>,
    /// The last negative prompt: it stays the same while prompts change.
    negative: Mutex<Option<(String, Arc<Tensors>)>>,
}

/// One text encoder.
#[derive(Debug)]
struct Part {
    file: PathBuf,
    tokenizer: PromptTokenizer,
    zero_negative: bool,
    /// Opened, where it stays so.
    graph: Mutex<Option<Arc<Graph>>>,
}

impl TextEncoder {
    /// Returns the text encoders of `model`: their tokenizers, which open in a moment; graphs open when they are first needed.
    ///
    /// # Errors
    /// As [`PromptTokenizer::open`].
    pub fn new(model: Arc<Model>) -> Result<Self> {
        let part = |config: &TextEncoderConfig| {
            Ok(Part {
                file: config.file.clone(),
                tokenizer: PromptTokenizer::open(model.package(), &config.tokenizer)?,
                zero_negative: config.zero_negative,
                graph: Mutex::default(),
            })
        };
        let parts = model.manifest().text_encoders.iter().map(part).collect::<Result<_>>()?;
        Ok(Self { model, parts, keep_loaded: true, provider: OnceLock::new(), negative: Mutex::default() })
    }

    /// Says whether graphs stay open after a prompt. Where they don't, one is open at a time.
    pub fn keep_loaded(mut self, keep_loaded: bool) -> Self {
        self.keep_loaded = keep_loaded;
        self
    }

    /// Returns the model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Returns where it runs, once it was opened.
    pub fn provider(&self) -> Option<ExecutionProvider> {
        self.provider.get().copied()
    }

    /// Opens the graphs, where they stay open; otherwise that is left to [`encode`](Self::encode).
    ///
    /// # Errors
    /// As [`Model::graph`].
    pub fn open(&self, cancel: &Cancel) -> Result<()> {
        if self.keep_loaded {
            self.parts.iter().try_for_each(|part| self.graph(part, cancel).map(drop))?;
        }
        Ok(())
    }

    fn graph(&self, part: &Part, cancel: &Cancel) -> Result<Arc<Graph>> {
        let mut slot = part.graph.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(graph) = slot.as_ref() {
            return Ok(graph.clone());
        }
        let graph = self.model.graph(&part.file, cancel)?;
        self.provider.get_or_init(|| graph.provider());
        if self.keep_loaded {
            *slot = Some(graph.clone());
        }
        Ok(graph)
    }

    /// Returns the embeddings of `prompt` and of `negative_prompt`; empty prompts are allowed and unconditional.
    ///
    /// The last negative prompt is remembered: given again, it costs nothing and brings no notices.
    ///
    /// # Errors
    /// As [`PromptTokenizer::tokenize`], [`Model::graph`] and [`Graph::run`].
    pub fn encode(
        &self,
        prompt: &str,
        negative_prompt: Option<&str>,
        cancel: &Cancel,
    ) -> Result<PromptEmbeds> {
        let mut notices = Vec::new();
        let (mut positive, mut negative) = (Tensors::new(), Tensors::new());
        let known = negative_prompt.and_then(|text| self.remembered(text));
        for part in &self.parts {
            let graph = self.graph(part, cancel)?;
            let own = part.run(&graph, "prompt", prompt, &mut notices, cancel)?;
            match negative_prompt.filter(|_| known.is_none()) {
                Some(text) if part.zero_negative && text.trim().is_empty() => {
                    negative.extend(zeros_like(&own)?)
                }
                Some(text) => {
                    negative.extend(part.run(&graph, "negative-prompt", text, &mut notices, cancel)?)
                }
                None => (),
            }
            positive.extend(own);
        }
        let negative = negative_prompt.map(|text| {
            let tensors = known.unwrap_or_else(|| Arc::new(negative));
            *self.last_negative() = Some((text.to_owned(), tensors.clone()));
            tensors
        });
        Ok(PromptEmbeds {
            prompt: prompt.to_owned(),
            negative_prompt: negative_prompt.map(str::to_owned),
            positive,
            negative,
            notices,
        })
    }

    fn last_negative(&self) -> std::sync::MutexGuard<'_, Option<(String, Arc<Tensors>)>> {
        self.negative.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, text: &str) -> Option<Arc<Tensors>> {
        self.last_negative().as_ref().filter(|(known, _)| known == text).map(|(_, tensors)| tensors.clone())
    }
}

impl Part {
    fn run(
        &self,
        graph: &Graph,
        setting: &'static str,
        text: &str,
        notices: &mut Vec<Notice>,
        cancel: &Cancel,
    ) -> Result<Tensors> {
        let tokens = self.tokenizer.tokenize(text)?;
        let unknown = Some(tokens.unknown_words).filter(|words| !words.is_empty());
        let unknown = unknown.map(|words| Notice::UnknownWords { setting, words });
        let truncated = tokens.truncated.map(|truncated| Notice::Truncated { setting, truncated });
        // Tokenizers that agree say it once.
        for notice in unknown.into_iter().chain(truncated) {
            if !notices.contains(&notice) {
                notices.push(notice);
            }
        }
        // [1, L]
        let shape = [1, tokens.input_ids.len()];
        let input_ids = Tensor::from_i64(&shape, tokens.input_ids)?;
        let attention_mask = Tensor::from_i64(&shape, tokens.attention_mask)?;
        let feeds = Feeds::from([("input_ids", &input_ids), ("attention_mask", &attention_mask)]);
        // Copies: an output keeps all the memory of the session that it came from, of which it is a small part.
        let outputs = graph.run(&feeds, cancel)?;
        outputs.into_iter().map(|(name, tensor)| Ok((name, tensor.copy()?))).collect()
    }
}

fn zeros_like(tensors: &Tensors) -> Result<Tensors> {
    let zeros = |(name, tensor): (&String, &Tensor)| {
        let shape = tensor.shape();
        let zeros = match tensor.f32() {
            Ok(floats) => Tensor::from_f32(&shape, vec![0.0; floats.len()])?,
            Err(_) => Tensor::from_i64(&shape, vec![0; tensor.i64()?.len()])?,
        };
        Ok((name.clone(), zeros))
    };
    tensors.iter().map(zeros).collect()
}

/// A prompt's embeddings: what the text encoders gave for it, by name, and for the negative prompt if there is one.
#[derive(Debug)]
pub struct PromptEmbeds {
    prompt: String,
    negative_prompt: Option<String>,
    positive: Tensors,
    negative: Option<Arc<Tensors>>,
    notices: Vec<Notice>,
}

impl PromptEmbeds {
    /// Returns the prompt as it was written.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// Returns the negative prompt as it was written.
    pub fn negative_prompt(&self) -> Option<&str> {
        self.negative_prompt.as_deref()
    }

    /// Returns the prompt's tensors: what the text encoders gave, by name.
    pub fn positive(&self) -> &Tensors {
        &self.positive
    }

    /// Returns the negative prompt's tensors, under the same names.
    pub fn negative(&self) -> Option<&Tensors> {
        self.negative.as_deref()
    }

    /// Returns what is to be said about the prompts; empty if they came from bytes.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Returns the bytes of a safetensors file with these tensors, the negative prompt's as `negative_` and the name,
    /// and both prompts in its metadata.
    ///
    /// # Errors
    /// [`Error::Shape`] if a tensor holds neither 32-bit floats nor 64-bit integers.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let mut metadata = HashMap::from([("prompt".to_owned(), self.prompt.clone())]);
        if let Some(text) = &self.negative_prompt {
            metadata.insert("negative_prompt".into(), text.clone());
        }
        let named = |prefix: &'static str, tensors| {
            <&Tensors>::into_iter(tensors).map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
        };
        let tensors =
            named("", &self.positive).chain(self.negative().into_iter().flat_map(|n| named(NEGATIVE, n)));
        let raw = tensors.map(|(name, tensor)| Ok((name, Raw::of(tensor)?))).collect::<Result<Vec<_>>>()?;
        let views = raw
            .iter()
            .map(|(name, raw)| Ok((name, TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes)?)))
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>();
        views.and_then(|views| safetensors::serialize(views, Some(metadata))).map_err(unusable)
    }

    /// Returns the embeddings in `bytes`, as [`to_safetensors`](Self::to_safetensors) wrote them.
    ///
    /// # Errors
    /// [`Error::Shape`] says what is missing or broken; nothing in `bytes` is trusted.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(unusable)?;
        let file = SafeTensors::deserialize(bytes).map_err(unusable)?;
        let mut texts = metadata.metadata().clone().unwrap_or_default();
        let Some(prompt) = texts.remove("prompt") else {
            return Err(unusable("they say no `prompt`"));
        };
        let negative_prompt = texts.remove("negative_prompt");
        let (mut positive, mut negative) = (Tensors::new(), Tensors::new());
        for (name, view) in file.tensors() {
            let tensor = read(&name, &view)?;
            match name.strip_prefix(NEGATIVE) {
                Some(name) => negative.insert(name.to_owned(), tensor),
                None => positive.insert(name, tensor),
            };
        }
        if positive.is_empty() {
            return Err(unusable("they hold no tensor"));
        }
        let negative = negative_prompt.is_some().then_some(negative);
        if let Some(name) =
            negative.iter().flat_map(|n| positive.keys().filter(|k| !n.contains_key(*k))).next()
        {
            return Err(unusable(format!("they hold no tensor `{NEGATIVE}{name}`")));
        }
        let negative = negative.map(Arc::new);
        Ok(Self { prompt, negative_prompt, positive, negative, notices: Vec::new() })
    }
}

/// A tensor as a safetensors file holds it.
struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Raw {
    fn of(tensor: &Tensor) -> Result<Self> {
        let shape = tensor.shape();
        Ok(match tensor.f32() {
            Ok(floats) => Self { dtype: Dtype::F32, shape, bytes: little_endian(floats, f32::to_le_bytes) },
            Err(_) => {
                Self { dtype: Dtype::I64, shape, bytes: little_endian(tensor.i64()?, i64::to_le_bytes) }
            }
        })
    }
}

fn read(name: &str, view: &TensorView) -> Result<Tensor> {
    match view.dtype() {
        Dtype::F32 => Tensor::from_f32(view.shape(), numbers(view.data(), f32::from_le_bytes)),
        Dtype::I64 => Tensor::from_i64(view.shape(), numbers(view.data(), i64::from_le_bytes)),
        other => Err(Error::shape(format!("tensor `{name}` of prompt embeddings"), other, "F32 or I64")),
    }
}

fn little_endian<const N: usize, T: Copy>(numbers: &[T], bytes_of: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(numbers.len() * N);
    for number in numbers {
        bytes.extend_from_slice(&bytes_of(*number));
    }
    bytes
}

fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
}

fn unusable(reason: impl fmt::Display) -> Error {
    Error::Shape {
        what: "a buffer of prompt embeddings".into(),
        found: format!("unusable ({reason})"),
        expected: "a safetensors file as textsrc and textencode make it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Clean; 3] = [Clean::CollapseWhitespace, Clean::Strip, Clean::Lowercase];

    /// Words for English, single characters for Chinese, as papercut's; `[BOS]` before and `[EOS]` behind.
    const WORDS: &str = r#"{
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": false, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[BOS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[EOS]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[BOS]": {"id": "[BOS]", "ids": [2], "tokens": ["[BOS]"]},
                               "[EOS]": {"id": "[EOS]", "ids": [3], "tokens": ["[EOS]"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab":
            {"[PAD]": 0, "[UNK]": 1, "[BOS]": 2, "[EOS]": 3, "a": 4, "cat": 5, "in": 6, "snow": 7, "猫": 8, "雪": 9}}
    }"#;

    fn config(max_length: usize) -> TokenizerConfig {
        TokenizerConfig {
            file: "tokenizer.json".into(),
            max_length,
            pad_token: "[PAD]".into(),
            unk_token: Some("[UNK]".into()),
            words: None,
            clean: ALL.to_vec(),
            template: None,
        }
    }

    fn tokenizer(max_length: usize) -> PromptTokenizer {
        PromptTokenizer::new(WORDS.as_bytes(), Path::new("p/tokenizer.json"), &config(max_length)).unwrap()
    }

    #[test]
    fn a_prompt_is_padded_and_masked() {
        let tokens = tokenizer(8).tokenize("A cat  in SNOW").unwrap();
        assert_eq!(tokens.input_ids, [2, 4, 5, 6, 7, 3, 0, 0]);
        assert_eq!(tokens.attention_mask, [1, 1, 1, 1, 1, 1, 0, 0]);
        assert_eq!((tokens.unknown_words.len(), tokens.truncated), (0, None));
        let empty = tokenizer(4).tokenize("").unwrap();
        assert_eq!((empty.input_ids, empty.attention_mask), (vec![2, 3, 0, 0], vec![1, 1, 0, 0]));
    }

    #[test]
    fn a_long_prompt_is_cut_before_its_end_token() {
        let tokens = tokenizer(4).tokenize("a cat in  Snow").unwrap();
        assert_eq!(tokens.input_ids, [2, 4, 5, 3]);
        assert_eq!(tokens.truncated, Some(Truncated { tokens: 6, limit: 4, lost: "in  Snow".into() }));
        assert_eq!(tokenizer(6).tokenize("a cat in snow").unwrap().truncated, None);
        // However long: what is lost is all that follows.
        let long = "cat ".repeat(50);
        let truncated = tokenizer(4).tokenize(&long).unwrap().truncated.unwrap();
        assert_eq!((truncated.tokens, truncated.lost.len()), (52, 48 * 4 - 1));
    }

    #[test]
    fn a_template_stands_around_the_prompt_and_is_no_part_of_it() {
        let config = TokenizerConfig { template: Some("in a {} cat dragon".into()), ..config(9) };
        let tokenizer =
            PromptTokenizer::new(WORDS.as_bytes(), Path::new("p/tokenizer.json"), &config).unwrap();
        let tokens = tokenizer.tokenize("  Snow ").unwrap();
        assert_eq!(tokens.input_ids, [2, 6, 4, 7, 5, 1, 3, 0, 0]);
        assert_eq!(tokens.unknown_words, [""; 0], "the template's are not the user's");
        let tokens = tokenizer.tokenize("unicorn cat 猫 snow snow").unwrap();
        assert_eq!(tokens.input_ids, [2, 6, 4, 1, 5, 8, 7, 7, 3]);
        assert_eq!(tokens.unknown_words, ["unicorn"]);
        assert_eq!(tokens.truncated.unwrap().tokens, 11);
    }

    #[test]
    fn a_template_whose_end_is_cut_costs_the_prompt_nothing() {
        let config = TokenizerConfig { template: Some("{} in snow".into()), ..config(4) };
        let tokenizer =
            PromptTokenizer::new(WORDS.as_bytes(), Path::new("p/tokenizer.json"), &config).unwrap();
        let tokens = tokenizer.tokenize("a 龙").unwrap();
        assert_eq!(tokens.input_ids, [2, 4, 1, 3]);
        assert_eq!(tokens.unknown_words, ["龙"]);
        assert_eq!(tokens.truncated.unwrap().lost, "in snow");
    }

    #[test]
    fn unknown_words_are_named_as_they_were_written() {
        let unknown = |prompt: &str| tokenizer(32).tokenize(prompt).unwrap().unknown_words;
        assert_eq!(unknown("A  Unicorn, in a Café — unicorn-snow!"), ["Unicorn", "Café", "unicorn"]);
        assert_eq!(unknown("雪里有独角兽，猫。"), ["里有独角兽"]);
        assert_eq!(unknown("猫 在 雪"), ["在"]);
        assert_eq!(unknown("独角兽Unicorn"), ["独角兽Unicorn"]);
        assert_eq!(unknown("a 🐱"), ["🐱"]);
        assert_eq!(unknown("a cat, in snow! 猫、雪。"), [""; 0]);
    }

    #[test]
    fn words_of_known_characters_are_named_where_the_model_has_a_list_of_words() {
        let list = r#"{
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "decoder": null,
            "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null,
            "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab":
                [["[UNK]", 0], ["a", -1], ["cat", -1], ["snow", -1], ["雪猫", -1], ["雪", -1], ["猫雪", -1], ["，", -1]]}
        }"#;
        let path = Path::new("p/words.json");
        let tokenizer = |max_length| {
            tokenizer(max_length).with_words(list.as_bytes(), path, &config(max_length)).unwrap()
        };
        let unknown = |prompt: &str| tokenizer(32).tokenize(prompt).unwrap().unknown_words;
        assert_eq!(unknown("雪猫，猫雪 a  CAT 雪雪猫"), [""; 0]);
        assert_eq!(unknown("猫，雪猫"), ["猫"], "a character of the vocabulary that is no word by itself");
        assert_eq!(unknown("雪猫猫，雪獸猫，a unicorn"), ["猫", "獸猫", "unicorn"]);
        assert_eq!(unknown("雪  in snow 猫"), ["in", "猫"]);
        assert_eq!(
            tokenizer(5).tokenize("a cat a 猫 猫").unwrap().unknown_words,
            [""; 0],
            "what is lost is not read"
        );
        let lacking = TokenizerConfig { unk_token: Some("<unk>".into()), ..config(8) };
        let error = super::tests::tokenizer(8).with_words(list.as_bytes(), path, &lacking).unwrap_err();
        assert!(
            error.to_string().contains("`p/words.json`") && error.to_string().contains("`<unk>`"),
            "{error}"
        );
        assert!(super::tests::tokenizer(8).with_words(b"{", path, &config(8)).is_err());
    }

    #[test]
    fn a_tokenizer_that_does_not_fit_the_manifest_is_refused() {
        let refuse = |json: &str, config: TokenizerConfig| {
            let error = PromptTokenizer::new(json.as_bytes(), Path::new("p/tokenizer.json"), &config);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("`p/tokenizer.json`"), "{error}");
            error
        };
        let error = refuse(WORDS, TokenizerConfig { pad_token: "<pad>".into(), ..config(8) });
        assert!(error.contains("`<pad>`") && error.contains("pad_token"), "{error}");
        let error = refuse(WORDS, TokenizerConfig { unk_token: Some("<unk>".into()), ..config(8) });
        assert!(error.contains("`<unk>`") && error.contains("unk_token"), "{error}");
        let error = refuse(WORDS, config(2));
        assert!(error.contains("adds 2 tokens") && error.contains("from 3"), "{error}");
        assert!(refuse(WORDS, config(1 << 30)).contains("65536"));
        assert!(refuse("{}", config(8)).contains("tokenizer.json of"));
    }

    #[test]
    fn notices_say_what_was_lost_and_where() {
        let words = vec!["独角兽".to_owned(), "café".to_owned()];
        let unknown = Notice::UnknownWords { setting: "prompt", words };
        assert!(unknown.to_string().ends_with("of `prompt`: `独角兽`, `café`"), "{unknown}");
        let truncated = Truncated { tokens: 60, limit: 48, lost: "in snow".into() };
        let truncated = Notice::Truncated { setting: "negative-prompt", truncated };
        assert_eq!(
            truncated.to_string(),
            "`negative-prompt` has 60 tokens and was cut to 48; lost is `in snow`"
        );
    }
}
