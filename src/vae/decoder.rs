//! Latents to frames.

use std::ops::Range;
use std::sync::Arc;

use super::codec::{Codec, Piece, State, reuse};
use super::segments::Join;
use super::tiles::{Layout, Tile, Tiling};
use super::{Geometry, Runs, num_frames};
use crate::denoise::DEFAULT_SEED;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::noise::{Generator, Position};
use crate::package::{LatentConfig, NoiseLayout};
use crate::parameters::Axes;
use crate::runtime::{Cancel, ExecutionProvider, Tensor};

/// Decodes the latents of one video, chunk after chunk.
///
/// ```no_run
/// use std::sync::Arc;
/// use latentflow::{Cancel, Model, RuntimeOptions, vae::{Decoder, Tiling}};
///
/// let model = Arc::new(Model::new(Arc::new(latentflow::papercut()?), RuntimeOptions::default()));
/// let mut decoder = Decoder::new(model, 256, 160, Tiling::Auto)?;
/// let latents = vec![0.0; decoder.latent_shape(3).iter().product()];
/// let frames = decoder.decode(&latents, &Cancel::new())?;
/// let mut rgb = vec![0; 256 * 160 * 3];
/// for index in 0..frames.len() {
///     frames.write_rgb(index, &mut rgb, 256 * 3);
/// }
/// # Ok::<(), latentflow::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    geometry: Geometry,
    codec: Codec,
    layout: Layout,
    /// Of each tile where scenes go on, else of the one at work.
    states: Vec<State>,
    input: Option<Tensor>,
    /// For a network that adds noise.
    noise: Option<DecodeNoise>,
}

/// The noise of a chunk.
#[derive(Debug)]
struct DecodeNoise {
    layout: NoiseLayout,
    position: Position,
    input: Option<Tensor>,
}

impl Decoder {
    /// Returns a decoder for video of `width`×`height` pixels; its graphs open when they are first needed.
    ///
    /// # Errors
    /// [`Error::Setting`] names the width or height that the model can't do, [`Error::Package`] says that the package has
    /// no decoder.
    pub fn new(model: Arc<Model>, width: usize, height: usize, tiling: Tiling) -> Result<Self> {
        let geometry = Geometry::new(model.manifest(), width, height)?;
        let codec = Codec::new(model.clone(), &model.manifest().decoder, "decoder", "latents", "frames")?;
        let layout = geometry.layout(tiling);
        let states = codec.states(&layout);
        let noise = codec.takes("decode_noise").then(|| DecodeNoise {
            layout: model.manifest().latents.noise_layout,
            position: Position { seed: DEFAULT_SEED, drawn: 0 },
            input: None,
        });
        Ok(Self { geometry, codec, layout, states, input: None, noise })
    }

    /// Says where the noise that some networks add begins, for the chunks to come: at
    /// [`Diffuser::noise_position`](crate::Diffuser::noise_position) after their latents were made. At first it is the beginning of
    /// [`DEFAULT_SEED`].
    pub fn set_noise_position(&mut self, position: Position) {
        if let Some(noise) = &mut self.noise {
            noise.position = position;
        }
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

    /// Returns the shape `[C,T,h,w]` of a chunk of latents.
    pub fn latent_shape(&self, num_latent_frames: usize) -> [usize; 4] {
        self.geometry.latent_shape(num_latent_frames)
    }

    /// Returns where it runs, once its graphs were opened.
    pub fn provider(&self) -> Option<ExecutionProvider> {
        self.codec.provider()
    }

    /// Returns whether the next chunk starts a scene, so that its first latent frame stands for one frame alone.
    pub fn is_first(&self) -> bool {
        self.codec.is_first(&self.states[0])
    }

    /// Forgets the scene: the next chunk starts a new one.
    pub fn reset(&mut self) {
        self.states.fill_with(|| None);
    }

    /// Returns the frames of a chunk of latents `[C,T,h,w]`, T being any number that the model takes; with an error the scene is
    /// forgotten.
    ///
    /// # Errors
    /// As [`decode_each`](Self::decode_each).
    pub fn decode(&mut self, latents: &[f32], cancel: &Cancel) -> Result<Frames> {
        let mut whole: Option<Frames> = None;
        self.decode_each(latents, cancel, &mut |_, _| (), |mut frames| {
            match &mut whole {
                Some(whole) => whole.parts.append(&mut frames.parts),
                None => whole = Some(frames),
            }
            Ok::<(), Error>(())
        })?;
        whole.ok_or_else(|| Error::shape("a chunk of latents", "empty", "one latent frame at least"))
    }

    /// Decodes a chunk of latents `[C,T,h,w]` and gives `each` its frames as they come, in order: those of a few latent frames at a time where
    /// the network can go on from piece to piece or the package has clips cut into segments, so that memory does not grow with the
    /// chunk. `on_piece` is told how many runs of the graph are done, and of how many.
    ///
    /// In tiles, a tile goes through all pieces before the next one begins, so that the network's state, which takes many times the memory of
    /// frames, is that of one tile alone: frames come when the chunk is done, or the segment. A model that streams keeps the state of every
    /// tile for the next chunk.
    ///
    /// With an error the scene is forgotten.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length is no number of latent frames that the model takes, or the graph gives something else than
    /// it should; also as [`Model::graph`] and [`Graph::run`](crate::Graph::run), and what `each` fails with.
    pub fn decode_each<E: From<Error>>(
        &mut self,
        latents: &[f32],
        cancel: &Cancel,
        on_piece: &mut dyn FnMut(usize, usize),
        each: impl FnMut(Frames) -> Result<(), E>,
    ) -> Result<(), E> {
        let result = self.run(latents, cancel, on_piece, each);
        if result.is_err() || !self.codec.is_stream() {
            self.reset();
        }
        result
    }

    fn run<E: From<Error>>(
        &mut self,
        latents: &[f32],
        cancel: &Cancel,
        on_piece: &mut dyn FnMut(usize, usize),
        mut each: impl FnMut(Frames) -> Result<(), E>,
    ) -> Result<(), E> {
        let [channels, _, h, w] = self.latent_shape(1);
        let one = channels * h * w;
        if latents.is_empty() || !latents.len().is_multiple_of(one) {
            let expected = format!("a multiple of {one} numbers, [{channels},T,{h},{w}]");
            let found = format!("{} numbers", latents.len());
            return Err(Error::Shape { what: "a chunk of latents".into(), found, expected }.into());
        }
        let count = latents.len() / one;
        let drawn = |noise: &DecodeNoise| {
            Generator::at(noise.position).latents([channels, count, h, w], noise.layout)
        };
        let noise = self.noise.as_ref().map(drawn);
        let chunk = Chunk { latents, noise: noise.as_deref(), cancel };
        let tiles = self.layout.tiles().count();
        match self.codec.segments(count) {
            Some(segments) => {
                let ratio = self.geometry.latents.temporal_compression_ratio;
                let mut join = segments.join(ratio, self.plane());
                let mut runs = Runs::new(segments.of(count).count() * tiles, on_piece);
                for range in segments.of(count) {
                    self.pieces(&chunk, range.start, &[range.len()], &mut runs, |mut frames| {
                        frames.keep(segments.kept(range.start, frames.len(), ratio), &mut join)?;
                        each(frames)
                    })?;
                }
                Ok(())
            }
            None => {
                let pieces = self.codec.pieces(count, self.is_first())?;
                self.pieces(&chunk, 0, &pieces, &mut Runs::new(pieces.len() * tiles, on_piece), each)
            }
        }
    }

    /// Decodes the pieces of `chunk` from latent frame `start` on, that have so many latent frames: each tile goes through all of them.
    fn pieces<E: From<Error>>(
        &mut self,
        chunk: &Chunk,
        start: usize,
        pieces: &[usize],
        runs: &mut Runs,
        mut each: impl FnMut(Frames) -> Result<(), E>,
    ) -> Result<(), E> {
        let latents = self.geometry.latents;
        let (ratio, first, plane) = (latents.spatial_compression_ratio, self.is_first(), self.plane());
        let tiles: Vec<_> = self.layout.tiles().collect();
        let is_tiled = tiles.len() > 1;
        let len = num_frames(&latents, pieces.iter().sum(), first);
        let mut blended = vec![0.0; if is_tiled { len * plane } else { 0 }];
        for (index, tile) in tiles.into_iter().enumerate() {
            let (mut start, mut frame) = (start, 0);
            for &count in pieces {
                let len = num_frames(&latents, count, first && frame == 0);
                let output = self.piece(chunk, index, tile, start..start + count, len)?;
                runs.tell_one();
                if is_tiled {
                    let whole = &mut blended[frame * plane..][..len * plane];
                    self.layout.blend(tile, output.f32()?, whole, ratio, 3);
                } else {
                    output.f32()?;
                    each(self.frames(Data::Graph(output), len))?;
                }
                start += count;
                frame += len;
            }
            if !self.codec.is_stream() {
                self.reset();
            }
        }
        if is_tiled { each(self.frames(Data::Blended(blended), len)) } else { Ok(()) }
    }

    /// Numbers a frame, as the graph gives it.
    fn plane(&self) -> usize {
        let ratio = self.geometry.latents.spatial_compression_ratio;
        self.layout.rows.length * self.layout.columns.length * ratio * ratio * 3
    }

    fn frames(&self, data: Data, len: usize) -> Frames {
        let Geometry { width, height, latents } = self.geometry;
        let row = self.layout.columns.length * latents.spatial_compression_ratio * 3;
        Frames { parts: vec![Part { data, kept: 0..len }], width, height, row, plane: self.plane() }
    }

    /// Decodes the latent frames `range` of `chunk` in a tile, the one at `index`, to `len` frames.
    fn piece(
        &mut self,
        chunk: &Chunk,
        index: usize,
        tile: Tile,
        range: Range<usize>,
        len: usize,
    ) -> Result<Tensor> {
        let LatentConfig { channels, spatial_compression_ratio: ratio, .. } = self.geometry.latents;
        let Layout { rows, columns } = &self.layout;
        let shape = [channels, range.len(), rows.tile, columns.tile];
        let [c, t, h, w] = shape;
        let plane = rows.length * columns.length;
        let cut = |whole: &[f32], input: &mut Tensor| -> Result<()> {
            let channels = whole.chunks_exact(whole.len() / c);
            for (whole, part) in channels.zip(input.f32_mut()?.chunks_exact_mut(t * h * w)) {
                self.layout.cut(tile, &whole[range.start * plane..range.end * plane], part);
            }
            Ok(())
        };
        let input = reuse(&mut self.input, &[1, c, t, h, w])?;
        cut(chunk.latents, input)?;
        let mut decode_noise = None;
        if let (Some(slot), Some(noise)) = (&mut self.noise, chunk.noise) {
            let input = reuse(&mut slot.input, &[1, c, t, h, w])?;
            cut(noise, input)?;
            decode_noise = Some(&*input);
        }
        let axes = Axes { latents: shape, frames: len };
        let piece = Piece { input, decode_noise, axes, expected: [1, len, h * ratio, w * ratio, 3] };
        let at = index % self.states.len();
        self.codec.run(&piece, &mut self.states[at], chunk.cancel)
    }
}

/// What is decoded at once.
struct Chunk<'a> {
    /// `[C,T,h,w]`.
    latents: &'a [f32],
    /// Of the same shape.
    noise: Option<&'a [f32]>,
    cancel: &'a Cancel,
}

/// The frames of a chunk, as the network gave them: `[1,F,H,W,3]` floats in 0..1, of which the video's size is shown.
#[derive(Debug)]
pub struct Frames {
    parts: Vec<Part>,
    width: usize,
    height: usize,
    /// Numbers a row, and a frame.
    row: usize,
    plane: usize,
}

/// The frames of one run of the graph.
#[derive(Debug)]
struct Part {
    data: Data,
    /// Which of them are the video's.
    kept: Range<usize>,
}

#[derive(Debug)]
enum Data {
    /// A graph's output as it is, known to hold floats.
    Graph(Tensor),
    Blended(Vec<f32>),
}

impl Frames {
    /// Returns how many frames there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.kept.len()).sum()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the video's width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the video's height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Keeps those frames of a segment that are the video's, faded into from the segment before.
    fn keep(&mut self, kept: Range<usize>, join: &mut Join) -> Result<()> {
        for part in &mut self.parts {
            let data = match &mut part.data {
                Data::Graph(tensor) => tensor.f32_mut()?,
                Data::Blended(data) => data,
            };
            join.fade(&mut data[kept.start * self.plane..]);
            part.kept = kept.clone();
        }
        Ok(())
    }

    /// Writes frame `index` to `out` as RGB, rows being `stride` bytes apart: 0..1 becomes 0..255, rounded, halves up.
    ///
    /// What is out of range is clamped, and a NaN is black.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len), or `out` is too short.
    pub fn write_rgb(&self, index: usize, out: &mut [u8], stride: usize) {
        for (from, to) in self.rows(index).zip(out.chunks_mut(stride)) {
            to_bytes(from, &mut to[..self.width * 3]);
        }
    }

    /// Returns the rows of frame `index` from the top, each of [`width`](Self::width) pixels in RGB, about 0..1.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn rows(&self, index: usize) -> impl Iterator<Item = &[f32]> {
        let mut index = index;
        let holds = |part: &&Part| {
            let holds = index < part.kept.len();
            index -= if holds { 0 } else { part.kept.len() };
            holds
        };
        let part = self.parts.iter().find(holds).expect("an index below the number of frames");
        let data = match &part.data {
            Data::Graph(tensor) => tensor.f32().expect("checked when decoded"),
            Data::Blended(data) => data,
        };
        let frame = &data[(part.kept.start + index) * self.plane..][..self.plane];
        frame.chunks_exact(self.row).take(self.height).map(|row| &row[..self.width * 3])
    }
}

/// Branch-free, so that the compiler makes vector instructions of it.
#[allow(clippy::manual_clamp)] // `clamp` would keep a NaN.
fn to_bytes(from: &[f32], to: &mut [u8]) {
    for (from, to) in from.iter().zip(to) {
        // `max` takes the number where the other one is NaN. What is left is in range, so the cast only truncates.
        let value = (from * 255.0 + 0.5).max(0.0).min(255.0);
        // SAFETY: between 0 and 255, and never NaN.
        *to = unsafe { value.to_int_unchecked::<i32>() } as u8;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Package, RuntimeOptions};

    #[test]
    fn tiles_of_a_clip_share_one_state_and_those_of_a_stream_have_their_own() {
        let states = |name: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/packages").join(name);
            let package = Arc::new(Package::open(&folder).unwrap());
            let model = Arc::new(Model::new(package, RuntimeOptions::default()));
            let tiling = Tiling::Tiles { width: 32, height: 32, overlap: 16 };
            Decoder::new(model, 64, 48, tiling).unwrap().states.len()
        };
        assert_eq!((states("tiny-guest"), states("tiny-stream")), (1, 3 * 2));
    }

    #[test]
    fn floats_become_bytes_rounded_and_clamped() {
        let floats = [0.0, 1.0, 0.5, 0.4999 / 255.0, 0.5 / 255.0, 254.5 / 255.0, -0.1, 1.1, f32::NAN];
        let mut bytes = [7; 9];
        to_bytes(&floats, &mut bytes);
        assert_eq!(bytes, [0, 255, 128, 0, 1, 255, 0, 255, 0]);
        to_bytes(&[f32::INFINITY, f32::NEG_INFINITY], &mut bytes);
        assert_eq!(bytes[..2], [255, 0]);
        for byte in 0..=255u8 {
            to_bytes(&[f32::from(byte) / 255.0], &mut bytes);
            assert_eq!(bytes[0], byte);
        }
    }

    #[test]
    fn a_frame_is_cropped_and_its_padding_left_alone() {
        let plane: Vec<f32> = (0..2 * 4 * 3).map(|i| i as f32 / 255.0).collect();
        let data = Data::Blended([plane.clone(), plane].concat());
        let frames =
            Frames { parts: vec![Part { data, kept: 0..2 }], width: 3, height: 1, row: 12, plane: 24 };
        let mut out = [99; 20];
        frames.write_rgb(1, &mut out, 10);
        assert_eq!(out[..9], [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(out[9..], [99; 11]);
    }
}
