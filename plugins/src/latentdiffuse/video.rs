//! A video prompt on its way into chunks: latent frames in, chunks of any length out, without GStreamer.

use std::collections::VecDeque;

use crate::caps::LatentInfo;

/// A latent frame.
#[derive(Debug)]
struct Latent {
    /// `[C, h, w]`
    values: Vec<f32>,
    /// It is a scene's first.
    starts: bool,
    /// How many frames it stands for, of a scene that ends with it if they are fewer than usual.
    frames: u64,
    ends: bool,
}

/// What a buffer of latents says of its frames.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Its first latent frame is a scene's first.
    pub starts: bool,
    /// How many frames a latent frame stands for, as a scene's first and as any other.
    pub usual: (u64, u64),
    /// How many frames the buffer stands for, if it says so: fewer than it could where a scene ends within a latent frame.
    pub frames: Option<u64>,
}

/// A chunk of a video prompt.
#[derive(Debug, PartialEq)]
pub struct Taken {
    /// `[C, T, h, w]`
    pub latents: Vec<f32>,
    /// How many latent frames these are.
    pub count: usize,
    /// How many frames they stand for, where a scene of the video ends with them.
    pub frames: Option<u64>,
}

/// The latents of a video prompt that wait for their chunk.
#[derive(Debug, Default)]
pub struct VideoPrompt {
    /// What its caps say.
    pub info: Option<LatentInfo>,
    frames: VecDeque<Latent>,
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
    pub fn push(
        &mut self,
        latents: &[f32],
        channels: usize,
        cells: usize,
        extent: Extent,
    ) -> Result<(), String> {
        if latents.is_empty() || !latents.len().is_multiple_of(channels * cells) {
            return Err(format!(
                "{} values are no whole number of latent frames of {}",
                latents.len(),
                channels * cells
            ));
        }
        let count = latents.len() / (channels * cells);
        let mut left = extent.frames.unwrap_or(u64::MAX);
        for index in 0..count {
            let channel = |c: usize| &latents[(c * count + index) * cells..][..cells];
            let values = (0..channels).flat_map(channel).copied().collect();
            let starts = extent.starts && index == 0;
            let usual = if starts { extent.usual.0 } else { extent.usual.1 };
            let frames = usual.min(left);
            left -= frames;
            self.frames.push_back(Latent { values, starts, frames, ends: frames < usual });
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

    /// Returns whether chunks of it were made and it goes on from them, if more follows: then a new prompt is no cut.
    pub fn is_under_way(&self) -> bool {
        self.begun && !self.is_over() && !self.begins_anew()
    }

    /// Returns whether another scene of it follows on those that chunks were made of.
    pub fn begins_anew(&self) -> bool {
        self.begun && self.frames.front().is_some_and(|latent| latent.starts)
    }

    /// Returns after how many latent frames the scene ends that is on, if that is known.
    fn scene_end(&self) -> Option<usize> {
        let next = self.frames.iter().skip(1).position(|latent| latent.starts).map(|index| index + 1);
        let last = self.frames.iter().position(|latent| latent.ends).map(|index| index + 1);
        [next, last].into_iter().flatten().min()
    }

    /// Returns whether a chunk of `count` latent frames can be had, or never will.
    pub fn is_ready(&self, count: usize) -> bool {
        self.ended || self.frames.len() >= count || self.scene_end().is_some()
    }

    /// Takes a chunk of `count` latent frames, or of fewer where a scene ends; at the video's end the last frame stands still for those that
    /// are missing, and after it there is none.
    pub fn take(&mut self, count: usize, channels: usize) -> Option<Taken> {
        let end = self.scene_end().filter(|end| *end <= count);
        let latents: Vec<Latent> = self.frames.drain(..end.unwrap_or(count).min(self.frames.len())).collect();
        let shown = end.map(|_| latents.iter().map(|latent| latent.frames).sum());
        let mut frames: Vec<Vec<f32>> = latents.into_iter().map(|latent| latent.values).collect();
        let last = frames.last()?.clone();
        frames.resize(end.unwrap_or(count), last);
        self.begun = true;
        let cells = frames[0].len() / channels;
        let channel = |c: usize| frames.iter().map(move |frame| &frame[c * cells..][..cells]);
        let latents = (0..channels).flat_map(channel).flatten().copied().collect();
        Some(Taken { latents, count: frames.len(), frames: shown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scene's first latent frame is one frame, and any other four.
    const GOES_ON: Extent = Extent { starts: false, usual: (1, 4), frames: None };

    /// Two channels of one cell: frame n is n in the first and -n in the second.
    fn push(video: &mut VideoPrompt, frames: &[f32], extent: Extent) {
        let latents: Vec<f32> = frames.iter().copied().chain(frames.iter().map(|n| -n)).collect();
        video.push(&latents, 2, 1, extent).unwrap();
    }

    fn pushed(frames: &[f32]) -> VideoPrompt {
        let mut video = VideoPrompt::default();
        push(&mut video, frames, GOES_ON);
        video
    }

    #[test]
    fn frames_come_out_in_chunks_of_another_length() {
        let mut video = pushed(&[1., 2., 3.]);
        push(&mut video, &[4.], GOES_ON);
        assert_eq!(video.take(2, 2).unwrap().latents, [1., 2., -1., -2.]);
        assert_eq!(video.take(2, 2).unwrap().latents, [3., 4., -3., -4.]);
    }

    #[test]
    fn the_last_frame_stands_still_and_then_there_is_none() {
        let mut video = pushed(&[1.]);
        assert!(!video.is_ready(3));
        video.end();
        assert!(video.is_ready(3) && !video.is_over());
        assert_eq!(video.take(3, 2).unwrap().latents, [1., 1., 1., -1., -1., -1.]);
        assert!(video.is_over() && !video.is_under_way());
        assert_eq!(video.take(3, 2), None);
    }

    #[test]
    fn a_chunk_ends_where_a_scene_does() {
        let mut video = VideoPrompt::default();
        push(&mut video, &[1., 2., 3.], Extent { starts: true, frames: Some(7), ..GOES_ON });
        push(&mut video, &[4., 5., 6.], Extent { starts: true, frames: Some(9), ..GOES_ON });
        assert!(!video.begins_anew(), "nothing was made before it");
        // Within a latent frame, of which there are two of four frames.
        assert!(video.is_ready(4));
        let latents = vec![1., 2., 3., -1., -2., -3.];
        assert_eq!(video.take(4, 2), Some(Taken { latents, count: 3, frames: Some(7) }));
        // And before another begins, which one that follows says.
        assert!(video.begins_anew() && !video.is_under_way() && !video.is_ready(4));
        push(&mut video, &[7.], Extent { starts: true, ..GOES_ON });
        assert!(video.is_ready(4));
        let latents = vec![4., 5., 6., -4., -5., -6.];
        assert_eq!(video.take(4, 2), Some(Taken { latents, count: 3, frames: Some(9) }));
        assert!(video.begins_anew());
    }

    #[test]
    fn half_a_frame_is_refused() {
        let refused = VideoPrompt::default().push(&[1., 2., 3.], 2, 1, GOES_ON);
        assert!(refused.unwrap_err().contains("3 values"));
    }

    #[test]
    fn a_flush_forgets_the_frames() {
        let mut video = pushed(&[1., 2.]);
        video.end();
        video.flush();
        assert_eq!((video.waiting(), video.is_ready(1)), (0, false));
    }
}
