//! The graphs of one half of the network, and the state that goes from piece to piece.

use std::path::PathBuf;
use std::sync::Arc;

use super::segments::Segments;
use super::tiles::Layout;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::package::{CodecConfig, state_out_of};
use crate::parameters::{self, Axes};
use crate::runtime::{Cancel, ExecutionProvider, Feeds, Graph, Tensor};

/// What a scene's pieces so far left for the next one, in one tile; `None` before the first.
pub(super) type State = Option<Vec<(String, Tensor)>>;

/// The graphs of a decoder or an encoder.
#[derive(Debug)]
pub(super) struct Codec {
    model: Arc<Model>,
    /// For whole clips.
    whole: Option<Slot>,
    /// For a scene's first piece, and for later ones.
    pair: Option<(Slot, Slot)>,
    /// What the pair takes.
    lengths: Option<Lengths>,
    /// How long clips are cut up, without a pair.
    segments: Option<Segments>,
    /// Whether a scene goes on from chunk to chunk; otherwise each chunk is one.
    is_stream: bool,
    /// Whether both of the pair stay open.
    keep_loaded: bool,
    provider: Option<ExecutionProvider>,
    input: &'static str,
    output: &'static str,
}

/// A graph that opens when it is needed.
#[derive(Debug)]
struct Slot {
    file: PathBuf,
    graph: Option<Arc<Graph>>,
}

impl Slot {
    fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), graph: None }
    }

    fn open(&mut self, model: &Model, cancel: &Cancel) -> Result<&Arc<Graph>> {
        if self.graph.is_none() {
            self.graph = Some(model.graph(&self.file, cancel)?);
        }
        Ok(self.graph.as_ref().expect("opened above"))
    }
}

/// The latent frames that a pair takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lengths {
    /// What `init` has to be fed.
    first: Option<usize>,
    /// What `step` has to be fed.
    chunk: Option<usize>,
    /// As many are fed where any number will do: more would take more memory.
    most: usize,
}

impl Lengths {
    /// Returns the pieces in which `count` latent frames are fed, or `None` if they can't be.
    fn pieces(self, count: usize, is_first: bool) -> Option<Vec<usize>> {
        let mut pieces = Vec::new();
        let mut left = count;
        // Where any number may come first, it is what the later ones leave.
        let over = |chunk| (count + chunk - 1) % chunk + 1;
        let mut fixed = if is_first { self.first.or(self.chunk.map(over)) } else { self.chunk };
        while left > 0 {
            let piece = fixed.unwrap_or(self.most.min(left));
            left = left.checked_sub(piece)?;
            pieces.push(piece);
            fixed = self.chunk;
        }
        Some(pieces)
    }

    /// Returns what the pair of `config` takes, `most` at once where any number will do; `None` without a pair, which takes any number.
    pub fn new(config: &CodecConfig, most: usize) -> Option<Self> {
        config.pair().map(|_| Self { first: config.first, chunk: config.chunk, most })
    }

    /// Returns the smallest number of latent frames from `count` upwards that can be fed.
    pub fn round_up(self, count: usize, is_first: bool) -> usize {
        let first = match self.first {
            _ if !is_first => 0,
            Some(first) => first,
            None => return count,
        };
        match count.checked_sub(first) {
            Some(rest) => first + rest.next_multiple_of(self.chunk.unwrap_or(1)),
            None => first,
        }
    }

    /// Says what can be fed.
    fn text(self, is_first: bool) -> String {
        let first = if is_first { self.first.unwrap_or(1) } else { 0 };
        match (first, self.chunk.unwrap_or(1)) {
            (0, chunk) => format!("a multiple of {}", counted(chunk)),
            (first, chunk) => format!("{} and a multiple of {chunk}", counted(first)),
        }
    }
}

impl Codec {
    /// Returns the graphs that `config` names, not yet opened; `what` says whose they are.
    pub fn new(
        model: Arc<Model>,
        config: &Option<CodecConfig>,
        what: &'static str,
        input: &'static str,
        output: &'static str,
    ) -> Result<Self> {
        let Some(config) = config else {
            let path = model.package().path(crate::package::MANIFEST.as_ref());
            return Err(Error::package(path, format!("package {} has no [{what}]", model.id())));
        };
        let is_stream = model.manifest().stream.is_some() && config.pair().is_some();
        let most = model.manifest().stream.map_or(1, |stream| stream.chunk);
        Ok(Self {
            whole: config.file.as_deref().map(Slot::new),
            pair: config.pair().map(|(init, step)| (Slot::new(init), Slot::new(step))),
            lengths: Lengths::new(config, most),
            segments: Segments::new(config, model.manifest().latents.temporal_compression_ratio),
            is_stream,
            keep_loaded: true,
            provider: None,
            input,
            output,
            model,
        })
    }

    /// Says whether both of the pair stay open, or the one in use alone.
    pub fn keep_loaded(&mut self, keep_loaded: bool) {
        self.keep_loaded = keep_loaded;
    }

    /// Opens the graphs that are used: the pair where there is one, for it needs less memory.
    pub fn open(&mut self, cancel: &Cancel) -> Result<()> {
        let graph = match (&mut self.pair, &mut self.whole) {
            (Some((_, Slot { graph: Some(step), .. })), _) if !self.keep_loaded => step,
            (Some((init, step)), _) => {
                let init = init.open(&self.model, cancel)?;
                if self.keep_loaded {
                    step.open(&self.model, cancel)?;
                }
                init
            }
            (None, Some(whole)) => whole.open(&self.model, cancel)?,
            (None, None) => unreachable!("the manifest's check has seen to it that one is there"),
        };
        self.provider = Some(graph.provider());
        Ok(())
    }

    /// Closes the graphs; they open again when they are needed.
    pub fn close(&mut self) {
        let pair = self.pair.iter_mut().flat_map(|(init, step)| [init, step]);
        pair.chain(&mut self.whole).for_each(|slot| slot.graph = None);
    }

    /// Returns whether a piece with `state` starts a scene.
    pub fn is_first(&self, state: &State) -> bool {
        state.is_none()
    }

    /// Returns whether chunks go on from one another.
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Returns the states of a new scene: one a tile where scenes go on, else one that all tiles use in turn.
    pub fn states(&self, layout: &Layout) -> Vec<State> {
        let count = if self.is_stream { layout.tiles().count() } else { 1 };
        std::iter::repeat_with(|| None).take(count).collect()
    }

    /// Returns where the graphs run, once they were opened.
    pub fn provider(&self) -> Option<ExecutionProvider> {
        self.provider
    }

    /// Returns whether a graph of the codec has an input called `name`.
    pub fn takes(&self, name: &str) -> bool {
        let pair = self.pair.iter().flat_map(|(init, step)| [init, step]);
        let mut files = pair.chain(&self.whole).map(|slot| &slot.file);
        files.any(|file| self.model.package().signature(file).input(name).is_some())
    }

    /// Returns how a clip of `count` latent frames is cut into overlapping segments, each coded as a clip of its own; `None` if it
    /// isn't.
    pub fn segments(&self, count: usize) -> Option<Segments> {
        self.segments.filter(|segments| segments.cut(count))
    }

    /// Returns the pieces in which a chunk of `count` latent frames is fed.
    ///
    /// # Errors
    /// [`Error::Shape`] says what would do.
    pub fn pieces(&self, count: usize, is_first: bool) -> Result<Vec<usize>> {
        match self.lengths.and_then(|lengths| lengths.pieces(count, is_first)) {
            Some(pieces) => Ok(pieces),
            None if self.whole.is_some() && is_first => Ok(vec![count]),
            None => Err(Error::Shape {
                what: "a chunk".into(),
                found: counted(count),
                expected: self
                    .lengths
                    .map_or_else(|| "a scene's first".into(), |lengths| lengths.text(is_first)),
            }),
        }
    }

    /// Runs a piece and moves `state` on; `expected` is the output's shape, and a scene's only piece is a whole clip. After an error
    /// the state is that of a new scene.
    pub fn run(&mut self, piece: &Piece, state: &mut State, cancel: &Cancel) -> Result<Tensor> {
        let before = state.take();
        let fits = |lengths: Option<Lengths>| {
            before.is_some() || lengths.is_some_and(|l| l.pieces(piece.axes.latents[1], true).is_some())
        };
        let (slot, step) = match (&mut self.pair, &mut self.whole) {
            (Some((init, step)), _) if fits(self.lengths) => {
                let names = self.model.package().signature(&step.file).inputs.iter().map(|i| i.name.as_str());
                let states = names.filter_map(|name| Some((name, state_out_of(name)?)));
                let (slot, other) = if before.is_some() { (step, init) } else { (init, step) };
                if !self.keep_loaded {
                    other.graph = None;
                }
                (slot, Some(states))
            }
            (_, Some(whole)) => (whole, None),
            _ => unreachable!("pieces are those of `pieces`"),
        };
        let graph = slot.open(&self.model, cancel)?.clone();
        self.provider = Some(graph.provider());
        let mut feeds = Feeds::from([(self.input, piece.input)]);
        feeds.extend(piece.decode_noise.map(|noise| ("decode_noise", noise)));
        feeds.extend(before.iter().flatten().map(|(name, tensor)| (name.as_str(), tensor)));
        let given = |name: &str| feeds.contains_key(name);
        let filled = parameters::fill(&graph, &self.model.manifest().parameters, piece.axes, given)?;
        feeds.extend(filled.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        let mut outputs = graph.run(&feeds, cancel)?;
        let mut take = |name: &str| {
            let what = || format!("output `{name}` of graph `{}`", graph.name());
            outputs.remove(name).ok_or_else(|| Error::shape(what(), "missing", "a tensor of that name"))
        };
        let output = take(self.output)?;
        if output.shape() != piece.expected {
            let what = format!("output `{}` of graph `{}`", self.output, graph.name());
            return Err(Error::shape(what, output.shape(), format!("{:?}", piece.expected)));
        }
        if let Some(states) = step {
            let after: Result<Vec<_>> =
                states.map(|(name, out)| Ok((name.to_owned(), take(&out)?))).collect();
            *state = Some(after?);
        }
        Ok(output)
    }
}

fn counted(latent_frames: usize) -> String {
    format!("{latent_frames} latent frame{}", if latent_frames == 1 { "" } else { "s" })
}

/// What a graph is run on at once.
pub(super) struct Piece<'a> {
    /// Latents or frames.
    pub input: &'a Tensor,
    /// For decoders that add noise.
    pub decode_noise: Option<&'a Tensor>,
    /// The lengths of its axes.
    pub axes: Axes,
    /// The output's shape.
    pub expected: [usize; 5],
}

/// Returns `slot`'s tensor of `shape`, made anew only if the one there is of another shape.
pub(super) fn reuse<'a>(slot: &'a mut Option<Tensor>, shape: &[usize]) -> Result<&'a mut Tensor> {
    if slot.as_ref().is_none_or(|tensor| tensor.shape() != shape) {
        *slot = Some(Tensor::from_f32(shape, vec![0.0; shape.iter().product()])?);
    }
    Ok(slot.as_mut().expect("filled above"))
}

#[cfg(test)]
mod tests {
    use super::Lengths;

    #[test]
    fn fixed_lengths_are_fed_exactly() {
        let lengths = Lengths { first: Some(3), chunk: Some(2), most: 1 };
        assert_eq!(lengths.pieces(7, true), Some(vec![3, 2, 2]));
        assert_eq!(lengths.pieces(4, false), Some(vec![2, 2]));
        assert_eq!(lengths.pieces(3, false), None);
        assert_eq!(lengths.pieces(6, true), None);
        assert_eq!(lengths.pieces(2, true), None);
        assert!(lengths.text(true).starts_with("3 latent frames and a multiple of 2"));
    }

    #[test]
    fn free_lengths_are_as_long_as_memory_shall_allow() {
        let lengths = Lengths { first: None, chunk: None, most: 3 };
        assert_eq!(lengths.pieces(8, true), Some(vec![3, 3, 2]));
        assert_eq!(Lengths { most: 1, ..lengths }.pieces(3, false), Some(vec![1, 1, 1]));
        assert_eq!(Lengths { chunk: Some(2), ..lengths }.pieces(5, true), Some(vec![1, 2, 2]));
        assert_eq!(Lengths { chunk: Some(2), ..lengths }.pieces(4, true), Some(vec![2, 2]));
    }

    #[test]
    fn what_is_rounded_up_can_be_fed() {
        for (first, chunk) in
            [(None, None), (Some(3), Some(2)), (None, Some(2)), (Some(2), None), (Some(1), Some(4))]
        {
            let lengths = Lengths { first, chunk, most: 1 };
            for is_first in [true, false] {
                for count in 1..12 {
                    let rounded = lengths.round_up(count, is_first);
                    assert!(
                        rounded >= count && lengths.pieces(rounded, is_first).is_some(),
                        "{lengths:?} {count}"
                    );
                    assert!(
                        (count..rounded).all(|n| lengths.pieces(n, is_first).is_none()),
                        "{lengths:?} {count}"
                    );
                }
            }
        }
    }
}
