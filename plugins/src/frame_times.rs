//! When the frames of a chunk of latents are shown, and which of them are.

use std::ops::Range;

use crate::caps::frame_time;

/// The times of a chunk's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTimes {
    /// When the first one is shown, if that is known.
    pub pts: Option<gst::ClockTime>,
    /// Its index in the stream.
    pub offset: u64,
    /// Frames a second.
    pub framerate: gst::Fraction,
}

impl FrameTimes {
    /// Returns when frame `index` of the chunk is shown: scaled from its index in the stream, never accumulated, so that
    /// chunks meet to the nanosecond.
    pub fn pts(&self, index: u64) -> Option<gst::ClockTime> {
        self.pts?.checked_add(self.since_first(index))
    }

    /// Returns how long frame `index` is shown: until the next one.
    pub fn duration(&self, index: u64) -> gst::ClockTime {
        self.since_first(index + 1) - self.since_first(index)
    }

    fn since_first(&self, index: u64) -> gst::ClockTime {
        frame_time(self.offset.saturating_add(index), self.framerate)
            - frame_time(self.offset, self.framerate)
    }
}

/// Returns which places of a chunk the `decoded` frames take, of the `declared` ones that the chunk is said to hold and the `whole` number that
/// its latents hold where they follow on others.
///
/// Fewer are declared where a clip ends within a latent frame: the excess at the end goes. More are declared where the
/// chunk before was lost, so that this one had to be decoded as a scene's first: its beginning is missing.
pub fn shown_frames(decoded: u64, whole: u64, declared: Option<u64>) -> Range<u64> {
    match declared {
        Some(declared) if declared > decoded => declared.max(whole) - decoded..declared,
        Some(declared) => 0..declared,
        None => 0..decoded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_meet_to_the_nanosecond() {
        let framerate = gst::Fraction::new(30000, 1001);
        let start = gst::ClockTime::from_mseconds(7);
        let chunk =
            |offset| FrameTimes { pts: Some(start + frame_time(offset, framerate)), offset, framerate };
        let (first, second) = (chunk(5), chunk(9));
        assert_eq!(first.pts(4), second.pts(0));
        assert_eq!(first.pts(3).unwrap() + first.duration(3), second.pts(0).unwrap());
        assert_eq!(chunk(0).pts(30000), Some(start + gst::ClockTime::from_seconds(1001)));
        assert_eq!(FrameTimes { pts: None, ..first }.pts(1), None);
    }

    #[test]
    fn an_excess_goes_at_the_end_and_a_loss_is_at_the_beginning() {
        assert_eq!(shown_frames(8, 8, None), 0..8);
        assert_eq!(shown_frames(8, 8, Some(8)), 0..8);
        assert_eq!(shown_frames(8, 8, Some(6)), 0..6);
        assert_eq!(shown_frames(5, 8, Some(8)), 3..8);
        assert_eq!(shown_frames(5, 8, Some(6)), 3..6);
    }
}
