//! Frames to latents.

use std::sync::Arc;

use super::codec::{Codec, State, reuse};
use super::tiles::{Layout, Tiling};
use super::{Geometry, num_frames, num_latent_frames};
use crate::error::{Error, Result};
use crate::model::Model;
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
/// let encoded = encoder.encode(&Cancel::new())?;
/// assert_eq!(encoded.latents.len(), encoder.latent_shape(3).iter().product::<usize>());
/// # Ok::<(), latentflow::Error>(())
/// ```
#[derive(Debug)]
pub struct Encoder {
    geometry: Geometry,
    codec: Codec,
    layout: Layout,
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
    /// Returns an encoder for video of `width`×`height` pixels, its graphs opened.
    ///
    /// # Errors
    /// As [`Decoder::new`](super::Decoder::new).
    pub fn new(model: Arc<Model>, width: usize, height: usize, tiling: Tiling) -> Result<Self> {
        let geometry = Geometry::new(model.manifest(), width, height)?;
        let codec = Codec::open(&model, &model.manifest().encoder, "encoder", "frames", "latents")?;
        let layout = geometry.layout(tiling);
        let states = layout.tiles().map(|_| None).collect();
        Ok(Self { geometry, codec, layout, states, input: None, frames: Vec::new() })
    }

    /// Returns the shape `[C,T,h,w]` of a chunk of latents.
    pub fn latent_shape(&self, num_latent_frames: usize) -> [usize; 4] {
        self.geometry.latent_shape(num_latent_frames)
    }

    /// Returns where it runs.
    pub fn provider(&self) -> ExecutionProvider {
        self.codec.provider()
    }

    /// Returns whether the encoder goes on from chunk to chunk; otherwise each is a scene of its own.
    pub fn is_stream(&self) -> bool {
        self.codec.is_stream()
    }

    /// Returns how many frames make up the next chunk of `num_latent_frames`.
    pub fn num_frames(&self, num_latent_frames: usize) -> usize {
        num_frames(&self.geometry.latents, num_latent_frames, self.codec.is_first(&self.states[0]))
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
    /// and the next frame starts a scene.
    ///
    /// With an error frames and scene are forgotten.
    ///
    /// # Errors
    /// [`Error::Shape`] without a frame, or if the graph gives something else than it should; also as
    /// [`Graph::run`](crate::Graph::run).
    pub fn encode(&mut self, cancel: &Cancel) -> Result<Encoded> {
        let result = self.run(cancel);
        match &result {
            Ok((_, true)) => self.frames.clear(),
            _ => self.reset(),
        }
        result.map(|(encoded, _)| encoded)
    }

    /// Returns the chunk and whether its last latent frame was filled.
    fn run(&mut self, cancel: &Cancel) -> Result<(Encoded, bool)> {
        let len = self.len();
        if len == 0 {
            return Err(Error::shape("a chunk", len, "at least one frame"));
        }
        let Geometry { latents, .. } = self.geometry;
        let first = self.codec.is_first(&self.states[0]);
        let num_latent_frames = num_latent_frames(&latents, len, first);
        let padded = num_frames(&latents, num_latent_frames, first);
        let ratio = latents.spatial_compression_ratio;
        let Layout { rows, columns } = &self.layout;
        let input_shape = [1, padded, rows.tile * ratio, columns.tile * ratio, 3];
        let output_shape = [1, latents.channels, num_latent_frames, rows.tile, columns.tile];

        let input = reuse(&mut self.input, &input_shape)?;
        let mut whole = vec![0.0; self.geometry.latent_shape(num_latent_frames).iter().product()];
        for (tile, state) in self.layout.tiles().zip(&mut self.states) {
            let size = (columns.tile * ratio, rows.tile * ratio);
            let at = (tile.left * ratio, tile.top * ratio);
            let frames =
                Pixels { data: &self.frames, width: self.geometry.width, height: self.geometry.height };
            frames.cut(at, size, input.f32_mut()?);
            let output = self.codec.run(input, state, &output_shape, cancel)?;
            self.layout.blend(tile, output.f32()?, &mut whole, 1, 1);
        }
        Ok((Encoded { latents: whole, num_frames: len, first }, padded == len))
    }
}

/// RGB frames without gaps.
struct Pixels<'a> {
    data: &'a [u8],
    width: usize,
    height: usize,
}

impl Pixels<'_> {
    /// Writes the part of every frame at `left`, `top` to `out` as floats in 0..1; outside the frame its edge is repeated, and
    /// after the last frame that one.
    fn cut(&self, (left, top): (usize, usize), (width, height): (usize, usize), out: &mut [f32]) {
        let row = self.width * 3;
        let frames = self.data.chunks_exact(row * self.height);
        let last = frames.clone().next_back().into_iter().cycle();
        for (frame, out) in frames.chain(last).zip(out.chunks_exact_mut(width * height * 3)) {
            for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
                let start = (top + y).min(self.height - 1) * row;
                let from = &frame[start..start + row];
                let inside = self.width.saturating_sub(left).min(width) * 3;
                let (out, outside) = out.split_at_mut(inside);
                for (out, byte) in out.iter_mut().zip(&from[(row - 3).min(left * 3)..]) {
                    *out = f32::from(*byte) / 255.0;
                }
                for out in outside.chunks_exact_mut(3) {
                    for (out, byte) in out.iter_mut().zip(&from[row - 3..]) {
                        *out = f32::from(*byte) / 255.0;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_and_the_last_frame_are_repeated() {
        // Two frames of 2×1 pixels, cut to three of 3×2.
        let data: Vec<u8> = (0..12).collect();
        let mut out = [0.0; 3 * 2 * 9];
        Pixels { data: &data, width: 2, height: 1 }.cut((0, 0), (3, 2), &mut out);
        let bytes = out.map(|v| (v * 255.0).round() as u8);
        let (a, b) = ([0, 1, 2, 3, 4, 5, 3, 4, 5], [6, 7, 8, 9, 10, 11, 9, 10, 11]);
        assert_eq!(bytes.as_slice(), [a, a, b, b, b, b].concat());
    }

    #[test]
    fn a_part_outside_the_frame_is_its_edge() {
        let data: Vec<u8> = (0..6).collect();
        let mut out = [0.0; 6];
        Pixels { data: &data, width: 2, height: 1 }.cut((4, 0), (2, 1), &mut out);
        assert_eq!(out.map(|v| (v * 255.0).round() as u8), [3, 4, 5, 3, 4, 5]);
    }
}
