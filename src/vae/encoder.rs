//! Frames to latents.

use std::ops::Range;
use std::sync::Arc;

use super::codec::{Codec, Lengths, Piece, State, reuse};
use super::pixels::Pixels;
use super::tiles::{Layout, Tile, Tiling};
use super::{Geometry, Runs, num_frames, num_latent_frames};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::parameters::Axes;
use crate::runtime::{Cancel, ExecutionProvider, Tensor};

/// Collects the frames of one video and encodes them, chunk after chunk.
///
/// ```no_run
/// use std::sync::Arc;
/// use latentflow::{Cancel, Model, RuntimeOptions, vae::{Encoder, Tiling}};
///
/// let model = Arc::new(Model::new(Arc::new(latentflow::papercut()?), RuntimeOptions::default()));
/// let mut encoder = Encoder::new(model, 256, 160, Tiling::Auto)?;
/// let grey = vec![128; 256 * 160 * 3];
/// while encoder.len() < encoder.num_frames(3) {
///     encoder.push(&grey, 256 * 3)?;
/// }
/// let encoded = encoder.encode(&Cancel::new(), &mut |_, _| ())?;
/// assert_eq!(encoded.latents.len(), encoder.latent_shape(3).iter().product::<usize>());
/// # Ok::<(), latentflow::Error>(())
/// ```
#[derive(Debug)]
pub struct Encoder {
    geometry: Geometry,
    codec: Codec,
    /// What encoder and decoder take at once, for what one makes the other shall read.
    lengths: Vec<Lengths>,
    /// Latent frames by which the lengths of clips differ.
    step: usize,
    layout: Layout,
    /// Of each tile where scenes go on, else of the one at work.
    states: Vec<State>,
    input: Option<Tensor>,
    /// The frames that wait, RGB without gaps: a quarter of what they take as floats.
    frames: Vec<u8>,
}

/// A chunk of latents and what it stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// `[C,T,h,w]`.
    pub latents: Vec<f32>,
    /// How many frames went in; the last latent frame may stand for more, made by repeating the last one.
    pub num_frames: usize,
    /// Whether it starts a scene.
    pub first: bool,
}

impl Encoder {
    /// Returns an encoder for video of `width`×`height` pixels; its graphs open when they are first needed.
    ///
    /// # Errors
    /// As [`Decoder::new`](super::Decoder::new).
    pub fn new(model: Arc<Model>, width: usize, height: usize, tiling: Tiling) -> Result<Self> {
        let geometry = Geometry::new(model.manifest(), width, height)?;
        let manifest = model.manifest();
        let codec = Codec::new(model.clone(), &manifest.encoder, "encoder", "frames", "latents")?;
        let codecs = [&manifest.encoder, &manifest.decoder].into_iter().flatten();
        let lengths = codecs.filter_map(|codec| Lengths::new(codec, 1)).collect();
        let step = match manifest.stream {
            Some(_) => 1,
            None => manifest.latents.frame_step() / manifest.latents.temporal_compression_ratio,
        };
        let layout = geometry.layout(tiling);
        let states = codec.states(&layout);
        Ok(Self { geometry, codec, lengths, step, layout, states, input: None, frames: Vec::new() })
    }

    /// Returns the shape `[C,T,h,w]` of a chunk of latents.
    pub fn latent_shape(&self, num_latent_frames: usize) -> [usize; 4] {
        self.geometry.latent_shape(num_latent_frames)
    }

    /// Says whether all graphs stay open. Where they don't, of a pair the one in use alone is.
    pub fn keep_loaded(mut self, keep_loaded: bool) -> Self {
        self.codec.keep_loaded(keep_loaded);
        self
    }

    /// Opens the graphs.
    ///
    /// # Errors
    /// As [`Model::graph`].
    pub fn open(&mut self, cancel: &Cancel) -> Result<()> {
        self.codec.open(cancel)
    }

    /// Closes the graphs; they open again when they are needed, and the scene goes on.
    pub fn close(&mut self) {
        self.codec.close();
    }

    /// Returns where it runs, once its graphs were opened.
    pub fn provider(&self) -> Option<ExecutionProvider> {
        self.codec.provider()
    }

    /// Returns whether the encoder goes on from chunk to chunk; otherwise each is a scene of its own.
    pub fn is_stream(&self) -> bool {
        self.codec.is_stream()
    }

    /// Returns how many frames make up the next chunk of `num_latent_frames`, or of a few more where the model takes fixed numbers.
    pub fn num_frames(&self, num_latent_frames: usize) -> usize {
        self.num_frames_if(num_latent_frames, self.codec.is_first(&self.states[0]))
    }

    /// Returns how many frames make up the longest of such chunks, be it a scene's first or a later one.
    pub fn max_frames(&self, num_latent_frames: usize) -> usize {
        let later = if self.is_stream() { self.num_frames_if(num_latent_frames, false) } else { 0 };
        self.num_frames_if(num_latent_frames, true).max(later)
    }

    fn num_frames_if(&self, num_latent_frames: usize, first: bool) -> usize {
        num_frames(&self.geometry.latents, self.round_up(num_latent_frames, first), first)
    }

    /// Returns the smallest number of latent frames from `count` upwards that a chunk can have: a clip's, in a model of clips. There is one, by
    /// the manifest's check.
    fn round_up(&self, count: usize, first: bool) -> usize {
        let mut rounded = count;
        loop {
            let before = rounded;
            rounded = self.lengths.iter().fold(rounded, |count, lengths| lengths.round_up(count, first));
            if first && rounded > 0 {
                rounded = 1 + (rounded - 1).next_multiple_of(self.step);
            }
            if rounded == before {
                return rounded;
            }
        }
    }

    /// Returns how many frames wait.
    pub fn len(&self) -> usize {
        self.frames.len() / self.plane()
    }

    /// Returns whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of a frame.
    fn plane(&self) -> usize {
        self.geometry.width * self.geometry.height * 3
    }

    /// Forgets the frames that wait and the scene: the next frame starts a new one.
    pub fn reset(&mut self) {
        self.frames.clear();
        self.states.fill_with(|| None);
    }

    /// Takes a frame: RGB rows, `stride` bytes apart.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are too few bytes for the video's size.
    pub fn push(&mut self, rgb: &[u8], stride: usize) -> Result<()> {
        let Geometry { width, height, .. } = self.geometry;
        let row = width * 3;
        let needed = stride.saturating_mul(height - 1).saturating_add(row);
        if stride < row || rgb.len() < needed {
            return Err(Error::Shape {
                what: "a frame".into(),
                found: format!("{} bytes in rows of {stride}", rgb.len()),
                expected: format!("{needed} bytes in rows of at least {row} ({width}×{height} RGB)"),
            });
        }
        for row_bytes in rgb.chunks(stride).take(height) {
            self.frames.extend_from_slice(&row_bytes[..row]);
        }
        Ok(())
    }

    /// Encodes the frames that wait, at least one; where they don't fill the last latent frame, the last one is repeated
    /// and the next frame starts a scene. `on_piece` is told how many runs of the graph are done, and of how many.
    ///
    /// In tiles, a tile goes through all of the chunk before the next one begins, so that the network's state is that of one tile alone; a
    /// model that streams keeps the state of every tile for the next chunk. With an error frames and scene are forgotten.
    ///
    /// # Errors
    /// [`Error::Shape`] without a frame, or if the graph gives something else than it should; also as
    /// [`Graph::run`](crate::Graph::run).
    pub fn encode(&mut self, cancel: &Cancel, on_piece: &mut dyn FnMut(usize, usize)) -> Result<Encoded> {
        let result = self.run(cancel, on_piece);
        match &result {
            Ok((_, true)) if self.codec.is_stream() => self.frames.clear(),
            _ => self.reset(),
        }
        result.map(|(encoded, _)| encoded)
    }

    /// Returns the chunk and whether its last latent frame was filled.
    fn run(&mut self, cancel: &Cancel, on_piece: &mut dyn FnMut(usize, usize)) -> Result<(Encoded, bool)> {
        let len = self.len();
        if len == 0 {
            return Err(Error::shape("a chunk", len, "at least one frame"));
        }
        let Geometry { latents, .. } = self.geometry;
        let first = self.codec.is_first(&self.states[0]);
        let count = self.round_up(num_latent_frames(&latents, len, first), first);
        let padded = num_frames(&latents, count, first);
        let tiles = self.layout.tiles().count();
        let whole = match self.codec.segments(count) {
            Some(segments) => {
                let mut runs = Runs::new(segments.of(count).count() * tiles, on_piece);
                let mut whole = vec![0.0; self.geometry.latent_shape(count).iter().product()];
                let plane = self.plane_of_latents();
                let mut joins = vec![segments.join(1, plane); latents.channels];
                for range in segments.of(count) {
                    let start = range.start * latents.temporal_compression_ratio;
                    let mut part = self.pieces(start, &[range.len()], cancel, &mut runs)?;
                    let kept = segments.kept(range.start, range.len(), 1);
                    let channels = part.chunks_exact_mut(plane * range.len()).zip(&mut joins);
                    for ((part, join), whole) in channels.zip(whole.chunks_exact_mut(plane * count)) {
                        join.fade(&mut part[plane * kept.start..]);
                        whole[plane * (range.start + kept.start)..][..plane * kept.len()]
                            .copy_from_slice(&part[plane * kept.start..plane * kept.end]);
                    }
                }
                whole
            }
            None => {
                let pieces = self.codec.pieces(count, first)?;
                self.pieces(0, &pieces, cancel, &mut Runs::new(pieces.len() * tiles, on_piece))?
            }
        };
        Ok((Encoded { latents: whole, num_frames: len, first }, padded == len))
    }

    /// Numbers of a channel of a latent frame.
    fn plane_of_latents(&self) -> usize {
        self.layout.rows.length * self.layout.columns.length
    }

    /// Encodes the frames from `start` on to pieces of so many latent frames: each tile goes through all of them. Returns `[C,T,h,w]`.
    fn pieces(
        &mut self,
        start: usize,
        pieces: &[usize],
        cancel: &Cancel,
        runs: &mut Runs,
    ) -> Result<Vec<f32>> {
        let latents = self.geometry.latents;
        let first = self.codec.is_first(&self.states[0]);
        let (plane, count) = (self.plane_of_latents(), pieces.iter().sum::<usize>());
        let mut whole = vec![0.0; latents.channels * count * plane];
        let tiles: Vec<_> = self.layout.tiles().collect();
        for (index, tile) in tiles.into_iter().enumerate() {
            let (mut frame, mut done) = (start, 0);
            for &piece in pieces {
                let len = num_frames(&latents, piece, first && done == 0);
                let output = self.piece(index, tile, frame..frame + len, piece, cancel)?;
                runs.tell_one();
                let part = output.f32()?;
                let parts = part.chunks_exact(part.len() / latents.channels);
                for (part, whole) in parts.zip(whole.chunks_exact_mut(count * plane)) {
                    self.layout.blend(tile, part, &mut whole[done * plane..][..piece * plane], 1, 1);
                }
                frame += len;
                done += piece;
            }
            if !self.codec.is_stream() {
                self.states.fill_with(|| None);
            }
        }
        Ok(whole)
    }

    /// Encodes the frames `range` in a tile, the one at `index`, to `count` latent frames.
    fn piece(
        &mut self,
        index: usize,
        tile: Tile,
        range: Range<usize>,
        count: usize,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let Geometry { latents, width, height } = self.geometry;
        let ratio = latents.spatial_compression_ratio;
        let Layout { rows, columns } = &self.layout;
        let shape = [latents.channels, count, rows.tile, columns.tile];
        let [c, t, h, w] = shape;
        let size = (columns.tile * ratio, rows.tile * ratio);
        let input = reuse(&mut self.input, &[1, range.len(), size.1, size.0, 3])?;
        // At the end the last frame stands still.
        let last = self.frames.len() / (width * height * 3) - 1;
        let data = &self.frames[range.start.min(last) * width * height * 3..];
        Pixels { data, width, height }.cut((tile.left * ratio, tile.top * ratio), size, input.f32_mut()?);
        let axes = Axes { latents: shape, frames: range.len() };
        let piece = Piece { input, decode_noise: None, axes, expected: [1, c, t, h, w] };
        let at = index % self.states.len();
        self.codec.run(&piece, &mut self.states[at], cancel)
    }
}
