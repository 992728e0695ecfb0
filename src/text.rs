//! Prompt → tokens → prompt embeddings, and the form in which these cross a wire.
//!
//! A prompt is cleaned and tokenized as the package's manifest says, then its text encoder makes `prompt_embeds`
//! `f32[1,L,D]` and whatever else the denoisers want to know of a prompt. [`PromptEmbeds`] holds these tensors with the
//! prompt they were made of and goes to bytes and back as a safetensors file.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tokenizers::{
    PaddingParams, PaddingStrategy, PostProcessor, Tokenizer, TruncationDirection, TruncationParams,
    TruncationStrategy,
};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::onnx::ElementType;
use crate::package::{Clean, Package, TokenizerConfig};
use crate::runtime::{Cancel, ExecutionProvider, Feeds, Graph, Tensor, Tensors};

/// Before a tensor's name: it is the negative prompt's.
const NEGATIVE: &str = "negative_";
/// The tensor that every text encoder makes.
const PROMPT_EMBEDS: &str = "prompt_embeds";
/// No text encoder reads more tokens; a larger `max_length` is a slip.
const MAX_LENGTH_LIMIT: usize = 1 << 16;

/// A prompt, cleaned, that knows where each of its characters stood before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    text: String,
    /// For each character: where it begins in `text`, and the bytes of the prompt it stands for.
    origins: Vec<(usize, Range<usize>)>,
}

impl Cleaned {
    /// Returns the cleaned text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the bytes of the prompt that the bytes `range` of the text stand for.
    pub fn origin(&self, range: Range<usize>) -> Range<usize> {
        let holding = |byte: usize| {
            let after = self.origins.partition_point(|(start, _)| *start <= byte);
            self.origins.get(after.wrapping_sub(1)).map(|(_, origin)| origin.clone())
        };
        match (holding(range.start), holding(range.end.saturating_sub(1))) {
            (Some(first), Some(last)) if range.start < range.end => first.start..last.end,
            (Some(first), _) => first.start..first.start,
            _ => 0..0,
        }
    }
}

/// Returns `prompt` after the clean-ups `rules`, in their order.
///
/// ```
/// use latentflow::{package::Clean, text::clean};
/// let cleaned = clean("  A  Cat\n", &[Clean::CollapseWhitespace, Clean::Strip, Clean::Lowercase]);
/// assert_eq!(cleaned.text(), "a cat");
/// assert_eq!(cleaned.origin(2..5), 5..8);
/// ```
pub fn clean(prompt: &str, rules: &[Clean]) -> Cleaned {
    let mut chars: Vec<(char, Range<usize>)> =
        prompt.char_indices().map(|(start, c)| (c, start..start + c.len_utf8())).collect();
    for rule in rules {
        chars = match rule {
            Clean::CollapseWhitespace => collapse_whitespace(chars),
            Clean::Strip => strip(chars),
            Clean::Lowercase => lowercase(&chars),
        };
    }
    let mut text = String::with_capacity(prompt.len());
    let mut origins = Vec::with_capacity(chars.len());
    for (c, origin) in chars {
        origins.push((text.len(), origin));
        text.push(c);
    }
    Cleaned { text, origins }
}

fn collapse_whitespace(chars: Vec<(char, Range<usize>)>) -> Vec<(char, Range<usize>)> {
    let mut collapsed: Vec<(char, Range<usize>)> = Vec::with_capacity(chars.len());
    let mut in_space = false;
    for (c, origin) in chars {
        match collapsed.last_mut() {
            Some((_, run)) if in_space && c.is_whitespace() => run.end = origin.end,
            _ => {
                in_space = c.is_whitespace();
                collapsed.push((if in_space { ' ' } else { c }, origin));
            }
        }
    }
    collapsed
}

fn strip(mut chars: Vec<(char, Range<usize>)>) -> Vec<(char, Range<usize>)> {
    let end = chars.iter().rposition(|(c, _)| !c.is_whitespace()).map_or(0, |last| last + 1);
    chars.truncate(end);
    let start = chars.iter().position(|(c, _)| !c.is_whitespace()).unwrap_or(0);
    chars.split_off(start)
}

/// As [`str::to_lowercase`] of the whole: a sigma looks at its neighbours, other letters stand alone.
fn lowercase(chars: &[(char, Range<usize>)]) -> Vec<(char, Range<usize>)> {
    let whole: String = chars.iter().map(|(c, _)| c).collect();
    let origins = chars.iter().flat_map(|(c, origin)| c.to_lowercase().map(|_| origin.clone()));
    whole.to_lowercase().chars().zip(origins).collect()
}

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
    /// The end of the prompt, which the model does not see.
    pub lost: String,
}

/// The tokenizer of a package, with the manifest's rules.
#[derive(Debug)]
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    rules: Vec<Clean>,
    max_length: usize,
    unk_id: Option<u32>,
}

impl PromptTokenizer {
    /// Returns the tokenizer of `package`.
    ///
    /// # Errors
    /// As [`PromptTokenizer::new`]; [`Error::NotFound`] if its file is gone.
    pub fn open(package: &Package) -> Result<Self> {
        let config = &package.manifest().tokenizer;
        Self::new(&package.bytes(&config.file)?, &package.path(&config.file), config)
    }

    /// Returns the tokenizer in `json`, the bytes of the file at `path`, used as `config` says.
    ///
    /// # Errors
    /// [`Error::Package`] names `path` if it is no tokenizer, lacks a token that the manifest names, or adds so many
    /// tokens of its own that no prompt fits.
    pub fn new(json: &[u8], path: &Path, config: &TokenizerConfig) -> Result<Self> {
        let wrong = |reason: String| Error::package(path, reason);
        let mut tokenizer = Tokenizer::from_bytes(json)
            .map_err(|e| wrong(format!("{e}; a tokenizer.json of the tokenizers library is needed")))?;
        let id = |setting: &str, token: &str| {
            let missing =
                || wrong(format!("it has no token `{token}`, which the manifest names as {setting}"));
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        let pad_id = id("tokenizer.pad_token", &config.pad_token)?;
        let unk_id = config.unk_token.as_ref().map(|token| id("tokenizer.unk_token", token)).transpose()?;
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
        Ok(Self { tokenizer, rules: config.clean.clone(), max_length: config.max_length, unk_id })
    }

    /// Returns the tokens of `prompt`; an empty one is the unconditional prompt.
    ///
    /// # Errors
    /// [`Error::Setting`] with the tokenizer's reason, if it refuses the prompt.
    pub fn tokenize(&self, prompt: &str) -> Result<Tokens> {
        let cleaned = clean(prompt, &self.rules);
        let refused = |reason: String| Error::Setting { setting: "prompt", value: prompt.into(), reason };
        let encoding = self.tokenizer.encode(cleaned.text(), true).map_err(|e| refused(e.to_string()))?;

        // Tokens that the post-processor or the padding added stand for no piece of the prompt.
        let words = |encoding: &tokenizers::Encoding| -> Vec<(u32, Range<usize>)> {
            let offsets = encoding.get_offsets().iter().map(|&(start, end)| cleaned.origin(start..end));
            let tokens = encoding.get_ids().iter().copied().zip(offsets);
            let special = encoding.get_special_tokens_mask();
            tokens.zip(special).filter(|(_, special)| **special == 0).map(|(token, _)| token).collect()
        };
        let kept = words(&encoding);
        let lost: Vec<_> = encoding.get_overflowing().iter().flat_map(words).collect();
        let truncated = lost.first().map(|(_, first)| Truncated {
            tokens: encoding.get_attention_mask().iter().sum::<u32>() as usize + lost.len(),
            limit: self.max_length,
            lost: prompt.get(first.start..).unwrap_or_default().trim().to_owned(),
        });
        let unknown = kept.into_iter().filter(|(id, _)| Some(*id) == self.unk_id).map(|(_, span)| span);
        Ok(Tokens {
            input_ids: encoding.get_ids().iter().map(|&id| id.into()).collect(),
            attention_mask: encoding.get_attention_mask().iter().map(|&m| m.into()).collect(),
            unknown_words: unknown_words(prompt, unknown),
            truncated,
        })
    }
}

/// Returns the words of `prompt` at the `spans` of unknown tokens: touching characters of one word as one, as Chinese
/// has them, marks of punctuation left out.
fn unknown_words(prompt: &str, spans: impl Iterator<Item = Range<usize>>) -> Vec<String> {
    let mut merged: Vec<Range<usize>> = Vec::new();
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    for span in spans {
        match merged.last_mut() {
            Some(last)
                if last.end == span.start
                    && is_word(prompt.get(..last.end).and_then(|s| s.chars().next_back()))
                    && is_word(prompt.get(span.start..).and_then(|s| s.chars().next())) =>
            {
                last.end = span.end;
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

/// The text encoder of a model: prompts to embeddings.
#[derive(Debug)]
pub struct TextEncoder {
    model: Arc<Model>,
    tokenizer: Arc<PromptTokenizer>,
    graph: Arc<Graph>,
    /// The last negative prompt: it stays the same while prompts change.
    negative: Mutex<Option<(String, Arc<Tensors>)>>,
}

impl TextEncoder {
    /// Returns the text encoder of `model`, its graph opened.
    ///
    /// # Errors
    /// As [`PromptTokenizer::open`] and [`TextEncoder::with_tokenizer`].
    pub fn new(model: Arc<Model>) -> Result<Self> {
        let tokenizer = Arc::new(PromptTokenizer::open(model.package())?);
        Self::with_tokenizer(model, tokenizer)
    }

    /// Returns the text encoder of `model` with its `tokenizer`, which is opened in a moment, where a graph may take long.
    ///
    /// # Errors
    /// As [`Model::graph`]; [`Error::Package`] for a graph with outputs that are neither 32-bit floats nor 64-bit
    /// integers.
    pub fn with_tokenizer(model: Arc<Model>, tokenizer: Arc<PromptTokenizer>) -> Result<Self> {
        let (package, manifest) = (model.package(), model.manifest());
        let graph = model.graph(&manifest.text_encoder.file)?;
        for output in &graph.signature().outputs {
            let wrong = |reason: &str| {
                let path = package.path(&manifest.text_encoder.file);
                Err(Error::package(path, format!("output `{}` {reason}", output.name)))
            };
            if !matches!(output.element_type, ElementType::F32 | ElementType::I64) {
                return wrong(&format!("is {:?}, but F32 or I64 is needed", output.element_type));
            }
            if output.name.starts_with(NEGATIVE) {
                return wrong("begins with `negative_`, which is kept for the negative prompt");
            }
        }
        Ok(Self { model, tokenizer, graph, negative: Mutex::default() })
    }

    /// Returns the model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Returns where it runs.
    pub fn provider(&self) -> ExecutionProvider {
        self.graph.provider()
    }

    /// Returns the embeddings of `prompt` and of `negative_prompt`; empty prompts are allowed and unconditional.
    ///
    /// The last negative prompt is remembered: given again, it costs nothing and brings no notices.
    ///
    /// # Errors
    /// As [`PromptTokenizer::tokenize`] and [`Graph::run`].
    pub fn encode(
        &self,
        prompt: &str,
        negative_prompt: Option<&str>,
        cancel: &Cancel,
    ) -> Result<PromptEmbeds> {
        let mut notices = Vec::new();
        let positive = self.run("prompt", prompt, &mut notices, cancel)?;
        let negative =
            negative_prompt.map(|text| self.encode_negative(text, &mut notices, cancel)).transpose()?;
        Ok(PromptEmbeds {
            prompt: prompt.to_owned(),
            negative_prompt: negative_prompt.map(str::to_owned),
            positive,
            negative,
            notices,
        })
    }

    fn encode_negative(
        &self,
        text: &str,
        notices: &mut Vec<Notice>,
        cancel: &Cancel,
    ) -> Result<Arc<Tensors>> {
        let remembered = || self.negative.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tensors)) = remembered().as_ref().filter(|(known, _)| known == text) {
            return Ok(tensors.clone());
        }
        let tensors = Arc::new(self.run("negative-prompt", text, notices, cancel)?);
        *remembered() = Some((text.to_owned(), tensors.clone()));
        Ok(tensors)
    }

    fn run(
        &self,
        setting: &'static str,
        text: &str,
        notices: &mut Vec<Notice>,
        cancel: &Cancel,
    ) -> Result<Tensors> {
        let tokens = self.tokenizer.tokenize(text)?;
        if !tokens.unknown_words.is_empty() {
            notices.push(Notice::UnknownWords { setting, words: tokens.unknown_words });
        }
        notices.extend(tokens.truncated.map(|truncated| Notice::Truncated { setting, truncated }));
        // [1, L]
        let shape = [1, tokens.input_ids.len()];
        let input_ids = Tensor::from_i64(&shape, tokens.input_ids)?;
        let attention_mask = Tensor::from_i64(&shape, tokens.attention_mask)?;
        let feeds = Feeds::from([("input_ids", &input_ids), ("attention_mask", &attention_mask)]);
        self.graph.run(&feeds, cancel)
    }
}

/// A prompt's embeddings: what the text encoder gave for it, by name, and for the negative prompt if there is one.
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

    /// Returns the prompt's tensors: `prompt_embeds` `f32[1,L,D]` and whatever else the text encoder gives.
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
        if !positive.contains_key(PROMPT_EMBEDS) {
            return Err(unusable(format!("they hold no tensor `{PROMPT_EMBEDS}`")));
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
            clean: ALL.to_vec(),
        }
    }

    fn tokenizer(max_length: usize) -> PromptTokenizer {
        PromptTokenizer::new(WORDS.as_bytes(), Path::new("p/tokenizer.json"), &config(max_length)).unwrap()
    }

    #[test]
    fn clean_ups_run_in_order_and_know_where_things_were() {
        let prompt = "\u{3000} A \t\n CAT ";
        assert_eq!(clean(prompt, &[]).text(), prompt);
        assert_eq!(clean(prompt, &[Clean::CollapseWhitespace]).text(), " A CAT ");
        assert_eq!(clean(prompt, &[Clean::Strip]).text(), "A \t\n CAT");
        let cleaned = clean(prompt, &ALL);
        assert_eq!(cleaned.text(), "a cat");
        assert_eq!(&prompt[cleaned.origin(2..5)], "CAT");
        assert_eq!(&prompt[cleaned.origin(1..2)], " \t\n ");
        assert_eq!(clean(" \n", &ALL).text(), "");
        assert_eq!(clean(" \n", &ALL).origin(0..0), 0..0);
    }

    #[test]
    fn letters_that_grow_keep_their_origin() {
        // A dotted capital I becomes two characters, a sigma at a word's end another one than inside.
        let prompt = "İX ΣΑΣ";
        let cleaned = clean(prompt, &[Clean::Lowercase]);
        assert_eq!(cleaned.text(), prompt.to_lowercase());
        let x = cleaned.text().find('x').unwrap();
        assert_eq!(&prompt[cleaned.origin(x..x + 1)], "X");
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
