//! Latents to frames.

use std::sync::Arc;

use super::codec::{Codec, State, reuse};
use super::tiles::{Layout, Tiling};
use super::{Geometry, num_frames};
use crate::error::{Error, Result};
use crate::model::Model;
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
    states: Vec<State>,
    input: Option<Tensor>,
}

impl Decoder {
    /// Returns a decoder for video of `width`×`height` pixels, its graphs opened.
    ///
    /// # Errors
    /// [`Error::Setting`] names the width or height that the model can't do, [`Error::Package`] says that the package has
    /// no decoder; also as [`Model::graph`].
    pub fn new(model: Arc<Model>, width: usize, height: usize, tiling: Tiling) -> Result<Self> {
        let geometry = Geometry::new(model.manifest(), width, height)?;
        let codec = Codec::open(&model, &model.manifest().decoder, "decoder", "latents", "frames")?;
        let layout = geometry.layout(tiling);
        let states = layout.tiles().map(|_| None).collect();
        Ok(Self { geometry, codec, layout, states, input: None })
    }

    /// Returns the shape `[C,T,h,w]` of a chunk of latents.
    pub fn latent_shape(&self, num_latent_frames: usize) -> [usize; 4] {
        self.geometry.latent_shape(num_latent_frames)
    }

    /// Returns where it runs.
    pub fn provider(&self) -> ExecutionProvider {
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

    /// Returns the frames of a chunk of latents `[C,T,h,w]`, T being any number; with an error the scene is forgotten.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length is no whole number of latent frames, or the graph gives something else than it
    /// should; also as [`Graph::run`](crate::Graph::run).
    pub fn decode(&mut self, latents: &[f32], cancel: &Cancel) -> Result<Frames> {
        let result = self.run(latents, cancel);
        if result.is_err() {
            self.reset();
        }
        result
    }

    fn run(&mut self, latents: &[f32], cancel: &Cancel) -> Result<Frames> {
        let one: usize = self.latent_shape(1).iter().product();
        if latents.is_empty() || !latents.len().is_multiple_of(one) {
            let [c, _, h, w] = self.latent_shape(1);
            let expected = format!("a multiple of {one} numbers, [{c},T,{h},{w}]");
            return Err(Error::Shape {
                what: "a chunk of latents".into(),
                found: format!("{} numbers", latents.len()),
                expected,
            });
        }
        let num_latent_frames = latents.len() / one;
        let len = num_frames(&self.geometry.latents, num_latent_frames, self.is_first());
        let ratio = self.geometry.latents.spatial_compression_ratio;
        let Layout { rows, columns } = &self.layout;
        let input_shape = [1, self.geometry.latents.channels, num_latent_frames, rows.tile, columns.tile];
        let output_shape = [1, len, rows.tile * ratio, columns.tile * ratio, 3];
        let Geometry { width, height, .. } = self.geometry;
        let row = columns.length * ratio * 3;
        let plane = rows.length * ratio * row;
        let frames = |data| Frames { data, len, width, height, row, plane };

        let input = reuse(&mut self.input, &input_shape)?;
        let mut blended = vec![0.0; if self.states.len() > 1 { len * plane } else { 0 }];
        for (tile, state) in self.layout.tiles().zip(&mut self.states) {
            self.layout.cut(tile, latents, input.f32_mut()?);
            let output = self.codec.run(input, state, &output_shape, cancel)?;
            output.f32()?;
            if blended.is_empty() {
                return Ok(frames(Data::Graph(output)));
            }
            self.layout.blend(tile, output.f32()?, &mut blended, ratio, 3);
        }
        Ok(frames(Data::Blended(blended)))
    }
}

/// The frames of a chunk, as the network gave them: `[1,F,H,W,3]` floats in 0..1, of which the video's size is shown.
#[derive(Debug)]
pub struct Frames {
    data: Data,
    len: usize,
    width: usize,
    height: usize,
    /// Numbers a row, and a frame.
    row: usize,
    plane: usize,
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
        self.len
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the video's width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the video's height in pixels.
    pub fn height(&self) -> usize {
        self.height
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
        let data = match &self.data {
            Data::Graph(tensor) => tensor.f32().expect("checked when decoded"),
            Data::Blended(data) => data,
        };
        let frame = &data[index * self.plane..][..self.plane];
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
    use super::*;

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
        let frames = Frames { data, len: 2, width: 3, height: 1, row: 12, plane: 24 };
        let mut out = [99; 20];
        frames.write_rgb(1, &mut out, 10);
        assert_eq!(out[..9], [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(out[9..], [99; 11]);
    }
}
