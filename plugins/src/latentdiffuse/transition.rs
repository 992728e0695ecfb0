//! From one scene to the next without a cut: which chunk a chunk grows out of, and how far from it, without GStreamer.

/// A transition between scenes, chunk by chunk.
///
/// A chunk of it is made of the chunk before, played backwards so that motion goes on where that ended, and led away from it by
/// the new prompt: a little at first, all the way at last, so that nothing of the old scene stays in the new one.
#[derive(Debug, Default)]
pub struct Transition {
    /// The latents `[C, T, h, w]` of the chunk before.
    last: Option<Vec<f32>>,
    /// Chunks of the transition that were made, of how many; none between transitions.
    under_way: Option<(u32, u32)>,
}

impl Transition {
    /// Keeps the chunk that was made last.
    pub fn keep(&mut self, latents: &[f32]) {
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(latents);
    }

    /// Forgets the scene before, so that the next one begins with a cut.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Returns whether a new scene could grow out of another.
    pub fn is_possible(&self) -> bool {
        self.last.is_some()
    }

    /// Returns what the next chunk is made of, `[C, T, h, w]`, and the strength with which it is led away from that, or `None` where
    /// no transition is under way. `scene_start` begins one of `chunks` chunks.
    pub fn next(
        &mut self,
        scene_start: bool,
        chunks: u32,
        channels: usize,
        frames: usize,
    ) -> Option<(Vec<f32>, f64)> {
        if scene_start {
            self.under_way = (chunks > 0 && self.is_possible()).then_some((0, chunks));
        }
        let (made, chunks) = self.under_way?;
        let latents = backwards(self.last.as_deref()?, channels, frames)?;
        let made = made + 1;
        self.under_way = (made < chunks).then_some((made, chunks));
        Some((latents, f64::from(made) / f64::from(chunks)))
    }
}

/// Returns `latents` `[C, T, h, w]` with the order of the frames turned round, or `None` if they are of another shape.
fn backwards(latents: &[f32], channels: usize, frames: usize) -> Option<Vec<f32>> {
    let frame = latents.len().checked_div(channels * frames).filter(|frame| *frame > 0)?;
    if frame * channels * frames != latents.len() {
        return None;
    }
    Some(
        latents
            .chunks_exact(frames * frame)
            .flat_map(|c| c.rchunks_exact(frame))
            .flatten()
            .copied()
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels of one cell, three frames.
    const CHUNK: [f32; 6] = [1., 2., 3., -1., -2., -3.];

    fn strengths(transition: &mut Transition, chunks: u32) -> Vec<f64> {
        let mut scene_start = true;
        std::iter::from_fn(|| {
            let next = transition.next(std::mem::take(&mut scene_start), chunks, 2, 3);
            next.map(|(_, strength)| strength)
        })
        .collect()
    }

    #[test]
    fn the_chunk_before_plays_backwards() {
        let mut transition = Transition::default();
        transition.keep(&CHUNK);
        let (latents, _) = transition.next(true, 1, 2, 3).unwrap();
        assert_eq!(latents, [3., 2., 1., -3., -2., -1.]);
    }

    #[test]
    fn the_new_prompt_leads_further_away_with_every_chunk() {
        let mut transition = Transition::default();
        transition.keep(&CHUNK);
        assert_eq!(strengths(&mut transition, 4), [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(strengths(&mut transition, 1), [1.0]);
    }

    #[test]
    fn a_prompt_in_the_midst_begins_anew() {
        let mut transition = Transition::default();
        transition.keep(&CHUNK);
        transition.next(true, 3, 2, 3).unwrap();
        assert_eq!(strengths(&mut transition, 2), [0.5, 1.0]);
    }

    #[test]
    fn without_chunks_or_a_scene_before_there_is_a_cut() {
        let mut transition = Transition::default();
        assert_eq!(transition.next(true, 2, 2, 3), None);
        transition.keep(&CHUNK);
        assert_eq!(transition.next(false, 2, 2, 3), None);
        assert_eq!(transition.next(true, 0, 2, 3), None);
        assert_eq!(transition.next(false, 2, 2, 3), None);
        transition.reset();
        assert!(!transition.is_possible());
    }

    #[test]
    fn a_chunk_of_another_shape_is_a_cut() {
        let mut transition = Transition::default();
        transition.keep(&CHUNK);
        assert_eq!(transition.next(true, 2, 4, 3), None);
    }
}
