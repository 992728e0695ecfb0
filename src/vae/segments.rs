//! Overlapping segments of a clip: how a network that takes whole clips codes long ones in bounded memory.
//!
//! The rule is that of `_temporal_tiled_decode` and `_temporal_tiled_encode` in diffusers' `AutoencoderKLHunyuanVideo`, to the
//! number: a segment begins every `stride` latent frames and is `length` and one more long, its first latent frame having been
//! seen by the segment before, and neighbours are cross-faded over what else they share.

use std::ops::Range;

use crate::package::CodecConfig;

/// The segments that a package wants, in latent frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segments {
    /// Clips longer than this are cut up.
    length: usize,
    /// From a segment's start to the next one's.
    stride: usize,
}

impl Segments {
    /// Returns what `config` says, a latent frame being `ratio` frames; `None` if clips are coded whole.
    pub fn new(config: &CodecConfig, ratio: usize) -> Option<Self> {
        let (length, stride) = config.tile_sample_min_num_frames.zip(config.tile_sample_stride_num_frames)?;
        Some(Self { length: length / ratio, stride: stride / ratio })
    }

    /// Returns whether a clip of `count` latent frames is cut up.
    pub fn cut(self, count: usize) -> bool {
        count > self.length
    }

    /// Returns the latent frames of each segment of a clip of `count`.
    pub fn of(self, count: usize) -> impl Iterator<Item = Range<usize>> {
        let starts = (0..count).step_by(self.stride);
        let ranges = starts.map(move |start| start..count.min(start + self.length + 1));
        // A last one of a single latent frame has nothing that the one before has not.
        ranges.filter(|range| range.len() > 1)
    }

    /// Returns which of the `count` latent frames, or frames where one latent frame is `ratio` of them, of the segment that
    /// begins at `start` go into the clip.
    pub fn kept(self, start: usize, count: usize, ratio: usize) -> Range<usize> {
        usize::from(start > 0)..count.min(1 + self.stride * ratio)
    }

    /// Returns the join of neighbours, a latent frame being `ratio` units of `unit` numbers.
    pub fn join(self, ratio: usize, unit: usize) -> Join {
        Join { most: (self.length - self.stride) * ratio, unit, end: Vec::new() }
    }
}

/// The end of a segment, into which the next one is faded.
#[derive(Debug, Clone)]
pub(super) struct Join {
    /// Units that are faded at most.
    most: usize,
    /// Numbers a unit: a frame, or a channel of a latent frame.
    unit: usize,
    end: Vec<f32>,
}

impl Join {
    /// Fades from the end of the segment before to the beginning of `segment`, and keeps its end for the next one.
    pub fn fade(&mut self, segment: &mut [f32]) {
        let length = self.most * self.unit;
        let shared = self.end.len().min(segment.len()).min(length);
        let before = self.end[self.end.len() - shared..].chunks_exact(self.unit);
        let count = before.len() as f64;
        for (index, (before, own)) in before.zip(segment.chunks_exact_mut(self.unit)).enumerate() {
            let share = index as f64 / count;
            let (share, rest) = (share as f32, (1.0 - share) as f32);
            for (own, before) in own.iter_mut().zip(before) {
                *own = before * rest + *own * share;
            }
        }
        self.end.clear();
        self.end.extend_from_slice(&segment[segment.len().saturating_sub(length)..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// diffusers' for HunyuanVideo: 16 and 12 frames at four a latent frame.
    const SEGMENTS: Segments = Segments { length: 4, stride: 3 };

    fn ranges(count: usize) -> Vec<Range<usize>> {
        SEGMENTS.of(count).collect()
    }

    #[test]
    fn short_clips_stay_whole() {
        assert_eq!(
            (1..7).map(|count| SEGMENTS.cut(count)).collect::<Vec<_>>(),
            [false, false, false, false, true, true]
        );
    }

    #[test]
    fn a_segment_begins_every_stride_and_has_a_latent_frame_more() {
        assert_eq!(ranges(5), [0..5, 3..5]);
        assert_eq!(ranges(9), [0..5, 3..8, 6..9]);
        assert_eq!(ranges(7), [0..5, 3..7], "6..7 would give no frame");
    }

    #[test]
    fn what_is_kept_of_all_segments_is_the_clip() {
        for (length, stride) in [(4, 3), (2, 1), (3, 3), (1, 1), (5, 2)] {
            let segments = Segments { length, stride };
            for ratio in [1, 4, 8] {
                for count in length + 1..30 {
                    let frames = |latent_frames: usize| 1 + (latent_frames - 1) * ratio;
                    let kept = segments.of(count).map(|s| segments.kept(s.start, frames(s.len()), ratio));
                    assert_eq!(kept.map(|kept| kept.len()).sum::<usize>(), frames(count));
                }
            }
        }
    }

    /// Dropping a segment's last frame in the place of its first, as `_temporal_tiled_decode` of diffusers' `AutoencoderKLLTXVideo` does, would
    /// show the frame at each seam twice, and all after it a frame late.
    #[test]
    fn every_frame_stands_at_its_own_time_and_fades_into_its_like() {
        for (length, stride) in [(4, 3), (2, 1), (3, 3), (4, 1), (5, 2)] {
            let segments = Segments { length, stride };
            for (ratio, count) in [(1, 17), (4, 9), (8, 8), (8, length + 1)] {
                let (mut join, mut clip) = (segments.join(ratio, 1), Vec::new());
                for range in segments.of(count) {
                    // Each frame is the time that it is of.
                    let mut frames: Vec<f32> =
                        (range.start * ratio..=(range.end - 1) * ratio).map(|time| time as f32).collect();
                    let kept = segments.kept(range.start, frames.len(), ratio);
                    join.fade(&mut frames[kept.start..]);
                    clip.extend_from_slice(&frames[kept]);
                }
                assert_eq!(clip.len(), 1 + (count - 1) * ratio);
                assert!(clip.iter().enumerate().all(|(time, found)| (found - time as f32).abs() < 1e-4));
            }
        }
    }

    #[test]
    fn neighbours_are_cross_faded_from_the_one_to_the_other() {
        let mut join = Join { most: 4, unit: 1, end: Vec::new() };
        let mut segment = [1.0; 6];
        join.fade(&mut segment);
        assert_eq!(segment, [1.0; 6], "the first has none before it");
        let mut segment = [5.0; 6];
        join.fade(&mut segment);
        assert_eq!(segment, [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]);
        let mut short = [9.0; 2];
        join.fade(&mut short);
        assert_eq!(short, [5.0, 7.0], "over as much as there is");
        let mut segment = [1.0; 3];
        join.fade(&mut segment);
        assert_eq!(segment, [5.0, 4.0, 1.0]);
    }

    #[test]
    fn what_fades_is_what_was_faded_before() {
        let mut join = Join { most: 3, unit: 1, end: vec![0.0; 3] };
        let mut segment = [3.0; 4];
        join.fade(&mut segment);
        assert_eq!(segment, [0.0, 1.0, 2.0, 3.0]);
        let mut segment = [4.0; 4];
        join.fade(&mut segment);
        assert_eq!(segment, [1.0, 2.0 + (4.0 - 2.0) / 3.0, 3.0 + (4.0 - 3.0) * 2.0 / 3.0, 4.0]);
    }

    #[test]
    fn without_a_share_in_common_nothing_fades() {
        let mut join = Segments { length: 3, stride: 3 }.join(4, 2);
        for value in [1.0, 2.0] {
            let mut segment = [value; 8];
            join.fade(&mut segment);
            assert_eq!(segment, [value; 8]);
        }
    }
}
