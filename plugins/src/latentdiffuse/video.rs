//! A video prompt on its way into chunks: latent frames in, chunks of any length out, without GStreamer.

use std::collections::VecDeque;

use crate::caps::LatentInfo;

/// The latents of a video prompt that wait for their chunk.
#[derive(Debug, Default)]
pub struct VideoPrompt {
    /// What its caps say.
    pub info: Option<LatentInfo>,
    /// Latent frames, each `[C, h, w]`.
    frames: VecDeque<Vec<f32>>,
    begun: bool,
    ended: bool,
    /// Between the beginning of a flush and its end.
    pub flushing: bool,
    /// A seek is on its way to all that comes in: what is here is from before it.
    pub sought: bool,
}

impl VideoPrompt {
    /// Adds latents `[C, T, h, w]`; T follows from the length of a latent frame.
    ///
    /// # Errors
    /// Says what was found if `latents` are no whole number of frames of `channels` times `cells` values.
    pub fn push(&mut self, latents: &[f32], channels: usize, cells: usize) -> Result<(), String> {
        if latents.is_empty() || !latents.len().is_multiple_of(channels * cells) {
            return Err(format!(
                "{} values are no whole number of latent frames of {}",
                latents.len(),
                channels * cells
            ));
        }
        let count = latents.len() / (channels * cells);
        for index in 0..count {
            let channel = |c: usize| &latents[(c * count + index) * cells..][..cells];
            self.frames.push_back((0..channels).flat_map(channel).copied().collect());
        }
        Ok(())
    }

    /// Says that no frames follow.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Says that frames follow after all, as where another segment begins.
    pub fn go_on(&mut self) {
        self.ended = false;
    }

    /// Says that a stream begins: what is made next goes on with nothing.
    pub fn start_anew(&mut self) {
        self.begun = false;
    }

    /// Forgets the frames, as after a flush; the caps stay.
    pub fn flush(&mut self) {
        *self = Self { info: self.info.take(), ..Self::default() };
    }

    /// Returns how many latent frames wait.
    pub fn waiting(&self) -> usize {
        self.frames.len()
    }

    /// Returns whether it is over and used up.
    pub fn is_over(&self) -> bool {
        self.ended && self.frames.is_empty()
    }

    /// Returns whether chunks of it were made and more may follow: then a new prompt is no cut.
    pub fn is_under_way(&self) -> bool {
        self.begun && !self.is_over()
    }

    /// Returns whether a chunk of `count` latent frames can be had, or never will.
    pub fn is_ready(&self, count: usize) -> bool {
        self.ended || self.frames.len() >= count
    }

    /// Takes a chunk `[C, T, h, w]` of `count` latent frames; at the end the last frame stands still for those that are missing, and
    /// after it there is none.
    pub fn take(&mut self, count: usize, channels: usize) -> Option<Vec<f32>> {
        let mut frames: Vec<Vec<f32>> = self.frames.drain(..count.min(self.frames.len())).collect();
        let last = frames.last()?.clone();
        frames.resize(count, last);
        self.begun = true;
        let cells = frames[0].len() / channels;
        let channel = |c: usize| frames.iter().map(move |frame| &frame[c * cells..][..cells]);
        Some((0..channels).flat_map(channel).flatten().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels of one cell: frame n is n in the first and -n in the second.
    fn pushed(frames: &[f32]) -> VideoPrompt {
        let mut video = VideoPrompt::default();
        let latents: Vec<f32> = frames.iter().copied().chain(frames.iter().map(|n| -n)).collect();
        video.push(&latents, 2, 1).unwrap();
        video
    }

    #[test]
    fn frames_come_out_in_chunks_of_another_length() {
        let mut video = pushed(&[1., 2., 3.]);
        video.push(&[4., -4.], 2, 1).unwrap();
        assert_eq!(video.take(2, 2).unwrap(), [1., 2., -1., -2.]);
        assert_eq!(video.take(2, 2).unwrap(), [3., 4., -3., -4.]);
    }

    #[test]
    fn the_last_frame_stands_still_and_then_there_is_none() {
        let mut video = pushed(&[1.]);
        assert!(!video.is_ready(3));
        video.end();
        assert!(video.is_ready(3) && !video.is_over());
        assert_eq!(video.take(3, 2).unwrap(), [1., 1., 1., -1., -1., -1.]);
        assert!(video.is_over() && !video.is_under_way());
        assert_eq!(video.take(3, 2), None);
    }

    #[test]
    fn half_a_frame_is_refused() {
        assert!(VideoPrompt::default().push(&[1., 2., 3.], 2, 1).unwrap_err().contains("3 values"));
    }

    #[test]
    fn a_flush_forgets_the_frames() {
        let mut video = pushed(&[1., 2.]);
        video.end();
        video.flush();
        assert_eq!((video.waiting(), video.is_ready(1)), (0, false));
    }
}
