//! The video compression network: latents to frames and back, a chunk at a time.
//!
//! A causal network (`init` and `step` graphs) goes on from piece to piece of a few latent frames by its state. A model that
//! streams keeps the state between chunks, so that a video of any length is coded as it comes; of other models each chunk is a clip, which is a
//! scene of its own. The first latent frame of a scene stands for one frame, each later one for `temporal_compression_ratio` frames.
//! Frames larger than memory allows are coded in overlapping tiles, each with a state of its own, and blended: a tile goes through
//! all of the chunk before the next one begins. A network for whole clips alone codes long ones in overlapping segments, where its package says so.

mod codec;
mod decoder;
mod encoder;
mod pixels;
mod segments;
mod tiles;

pub use decoder::{Decoder, Frames};
pub use encoder::{Encoded, Encoder};
pub(crate) use pixels::Pixels;
pub use tiles::Tiling;

use crate::error::{Error, Result};
use crate::package::{LatentConfig, Manifest, Range};

/// Returns how many frames `num_latent_frames` decode to: at the start of a scene the first stands for one alone.
pub fn num_frames(latents: &LatentConfig, num_latent_frames: usize, first: bool) -> usize {
    let ratio = latents.temporal_compression_ratio;
    match num_latent_frames {
        0 => 0,
        n if first => (n - 1).saturating_mul(ratio).saturating_add(1),
        n => n.saturating_mul(ratio),
    }
}

/// Returns how many latent frames it takes for `num_frames` frames: the inverse of [`num_frames`], rounded up.
pub fn num_latent_frames(latents: &LatentConfig, num_frames: usize, first: bool) -> usize {
    let ratio = latents.temporal_compression_ratio;
    match num_frames {
        0 => 0,
        n if first => 1 + (n - 1).div_ceil(ratio),
        n => n.div_ceil(ratio),
    }
}

/// The sizes of a video outside the network, inside it, and as latents.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    latents: LatentConfig,
    width: usize,
    height: usize,
}

impl Geometry {
    fn new(manifest: &Manifest, width: usize, height: usize) -> Result<Self> {
        check_range(manifest, "width", width, manifest.video.width)?;
        check_range(manifest, "height", height, manifest.video.height)?;
        Ok(Self { latents: manifest.latents, width, height })
    }

    /// Latents across.
    fn columns(&self) -> usize {
        self.width.next_multiple_of(self.latents.size_multiple) / self.latents.spatial_compression_ratio
    }

    /// Latents down.
    fn rows(&self) -> usize {
        self.height.next_multiple_of(self.latents.size_multiple) / self.latents.spatial_compression_ratio
    }

    fn layout(&self, tiling: Tiling) -> tiles::Layout {
        let ratio = self.latents.spatial_compression_ratio;
        tiles::Layout::new(self.rows(), self.columns(), tiling, ratio, self.latents.size_multiple / ratio)
    }

    fn latent_shape(&self, num_latent_frames: usize) -> [usize; 4] {
        [self.latents.channels, num_latent_frames, self.rows(), self.columns()]
    }
}

/// How many runs of a graph a chunk takes, told as they are done.
struct Runs<'a> {
    done: usize,
    all: usize,
    tell: &'a mut dyn FnMut(usize, usize),
}

impl<'a> Runs<'a> {
    fn new(all: usize, tell: &'a mut dyn FnMut(usize, usize)) -> Self {
        Self { done: 0, all, tell }
    }

    fn tell_one(&mut self) {
        self.done += 1;
        (self.tell)(self.done, self.all);
    }
}

fn check_range(manifest: &Manifest, setting: &'static str, value: usize, range: Range<usize>) -> Result<()> {
    if range.contains(value) {
        return Ok(());
    }
    let reason = format!("{} takes {} to {}", manifest.name, range.min, range.max);
    Err(Error::Setting { setting, value: value.to_string(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::NoiseLayout;

    const LATENTS: LatentConfig = LatentConfig {
        channels: 4,
        spatial_compression_ratio: 8,
        temporal_compression_ratio: 4,
        size_multiple: 16,
        frame_step: None,
        noise_layout: NoiseLayout::ChannelsFirst,
    };

    #[test]
    fn a_scene_starts_with_a_latent_frame_for_one_frame() {
        assert_eq!(num_frames(&LATENTS, 0, true), 0);
        assert_eq!(num_frames(&LATENTS, 1, true), 1);
        assert_eq!(num_frames(&LATENTS, 3, true), 9);
        assert_eq!(num_frames(&LATENTS, 3, false), 12);
    }

    #[test]
    fn latent_frames_are_rounded_up_to_hold_every_frame() {
        for first in [true, false] {
            for n in 0..50 {
                let latent_frames = num_latent_frames(&LATENTS, n, first);
                assert!(num_frames(&LATENTS, latent_frames, first) >= n);
                assert!(latent_frames == 0 || num_frames(&LATENTS, latent_frames - 1, first) < n);
                assert_eq!(num_latent_frames(&LATENTS, num_frames(&LATENTS, n, first), first), n);
            }
        }
    }

    #[test]
    fn latents_cover_the_size_rounded_up() {
        let geometry = Geometry { latents: LATENTS, width: 250, height: 161 };
        assert_eq!(geometry.latent_shape(3), [4, 3, 22, 32]);
    }
}
