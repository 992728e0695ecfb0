//! Floats in buffers: latents cross a pad as they are, without a copy, and say where their noise ended.

use std::sync::Once;

use latentflow::noise::Position;
use latentflow::{Error, Result};

/// A custom meta with `seed` and `drawn`, for decoders that go on drawing.
const NOISE_META: &str = "LatentNoiseMeta";

/// A vector of floats that GStreamer sees as bytes.
struct Floats(Vec<f32>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl AsMut<[u8]> for Floats {
    fn as_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Returns a buffer that holds `floats` in the machine's byte order.
pub fn buffer_from_floats(floats: Vec<f32>) -> gst::Buffer {
    gst::Buffer::from_mut_slice(Floats(floats))
}

/// Returns the floats in `bytes`, copied only where they are not aligned.
///
/// # Errors
/// [`Error::Shape`] if the length is no multiple of a float's, or not `expected` floats where that is given.
pub fn floats_in(bytes: &[u8], expected: Option<usize>) -> Result<std::borrow::Cow<'_, [f32]>> {
    let length = bytes.len();
    if !length.is_multiple_of(4) || expected.is_some_and(|e| e * 4 != length) {
        let expected = expected.map_or("a multiple of 4".to_owned(), |e| format!("{} bytes", e * 4));
        return Err(Error::Shape { what: "a buffer".into(), found: format!("{length} bytes"), expected });
    }
    Ok(match bytemuck::try_cast_slice(bytes) {
        Ok(floats) => floats.into(),
        Err(_) => bytemuck::pod_collect_to_vec(bytes).into(),
    })
}

/// Returns the flags of a chunk that starts a scene, as a key frame does, or of one that goes on from those before.
pub fn scene_flags(starts: bool) -> gst::BufferFlags {
    if starts { gst::BufferFlags::DISCONT } else { gst::BufferFlags::DELTA_UNIT }
}

/// Returns the index of a chunk's first frame, if it says so.
pub fn first_frame(buffer: &gst::BufferRef) -> Option<u64> {
    // GST_BUFFER_OFFSET_NONE is the largest number.
    Some(buffer.offset()).filter(|offset| *offset != u64::MAX)
}

/// Returns how many frames a chunk says it holds: fewer than its latents where a scene ends within a latent frame.
pub fn num_frames(buffer: &gst::BufferRef) -> Option<u64> {
    let end = Some(buffer.offset_end()).filter(|offset| *offset != u64::MAX)?;
    end.checked_sub(first_frame(buffer)?)
}

/// Says in `buffer` where the noise of its latents ended.
pub fn set_noise_position(buffer: &mut gst::BufferRef, position: Position) {
    static REGISTERED: Once = Once::new();
    // Without tags it stays on all copies.
    REGISTERED.call_once(|| gst::meta::CustomMeta::register(NOISE_META, &[]));
    if let Ok(mut meta) = gst::meta::CustomMeta::add(buffer, NOISE_META) {
        meta.mut_structure().set("seed", position.seed);
        meta.mut_structure().set("drawn", position.drawn);
    }
}

/// Returns where the noise of the latents in `buffer` ended, if it says so.
pub fn noise_position(buffer: &gst::BufferRef) -> Option<Position> {
    /// Numbers that no video draws: who says so is somebody else, and would have to be counted up to.
    const MOST: u64 = 1 << 33;
    let meta = gst::meta::CustomMeta::from_buffer(buffer, NOISE_META).ok()?;
    let number = |name| meta.structure().get::<u64>(name).ok();
    Some(Position { seed: number("seed")?, drawn: number("drawn").filter(|drawn| *drawn <= MOST)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_and_its_copies_say_where_the_noise_ended() {
        gst::init().unwrap();
        let mut buffer = buffer_from_floats(vec![1.0]);
        assert_eq!(noise_position(&buffer), None);
        let position = Position { seed: u64::MAX, drawn: 7 };
        set_noise_position(buffer.get_mut().unwrap(), position);
        assert_eq!(noise_position(&buffer.copy()), Some(position));
    }

    #[test]
    fn floats_come_back_as_they_went_in() {
        gst::init().unwrap();
        let buffer = buffer_from_floats(vec![1.0, -0.5, 3.25]);
        let map = buffer.map_readable().unwrap();
        assert_eq!(&*floats_in(&map, Some(3)).unwrap(), [1.0, -0.5, 3.25]);
        assert_eq!(&*floats_in(&map[..8], None).unwrap(), [1.0, -0.5]);
        assert!(floats_in(&map[..7], None).is_err());
        assert!(floats_in(&map, Some(4)).unwrap_err().to_string().contains("16 bytes"));
    }
}
