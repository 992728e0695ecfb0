//! Which prompt is on when: spans in frames, without GStreamer.
//!
//! Prompts follow each other without a gap where the model can go on. A prompt lasts until the next one begins, whatever its own
//! end says; the last one until its own end, or, open-ended, until the stream is asked to end. A model of clips can't go on: there
//! a prompt ends where it says, and the next one comes on where that says. A prompt becomes a scene when it comes on.

use std::collections::VecDeque;

/// A prompt and its span, in frames of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Span<P> {
    /// What it asks for.
    pub prompt: P,
    /// The frame at which it comes on; `None` is as soon as possible.
    pub start: Option<u64>,
    /// Where it ends; `None` is open-ended.
    pub end: Option<End>,
    /// Whether a later one takes its place, if it has not come on by then.
    pub replaceable: bool,
}

/// Where a prompt ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    /// Before this frame.
    Before(u64),
    /// After as many frames.
    After(u64),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing, until a prompt comes or the stream ends.
    Wait,
    /// Make the next chunk of the scene that is on.
    Generate {
        /// Whether it is the scene's first.
        scene_start: bool,
        /// The stream's index of its first frame.
        first_frame: u64,
        /// Frames that are wanted of it at most.
        frames: u64,
    },
    /// The stream is over.
    End,
}

#[derive(Debug)]
struct Scene<P> {
    prompt: P,
    start: u64,
    end: Option<u64>,
    /// Where it ends by default, if it is open-ended.
    default_end: u64,
}

/// The prompts of a stream.
#[derive(Debug)]
pub struct Timeline<P> {
    waiting: VecDeque<Span<P>>,
    scene: Option<Scene<P>>,
    next_frame: u64,
    begun: bool,
    ended: bool,
    /// Something else is to come at once.
    cut: bool,
    /// Nothing is to come.
    stopped: bool,
    /// An open-ended prompt that the stream's end meets earlier still gets as many frames; where a scene can't go on, it has as many.
    default_frames: u64,
    /// Whether a scene can go on past its prompt's end.
    goes_on: bool,
    /// A live stream does not wait to hear what comes after a prompt's end: it goes on.
    live: bool,
    /// What the first prompt asks for before the stream's first frame is left out.
    joins: bool,
}

impl<P> Timeline<P> {
    /// Returns a stream without prompts that begins at `first_frame`.
    pub fn new(first_frame: u64, default_frames: u64, goes_on: bool, live: bool) -> Self {
        Self {
            waiting: VecDeque::new(),
            scene: None,
            next_frame: first_frame,
            begun: false,
            ended: false,
            cut: false,
            stopped: false,
            default_frames,
            goes_on,
            live,
            joins: false,
        }
    }

    /// The same, and the first prompt begins at the stream's first frame, also where its own start lies before that.
    pub fn joining(self) -> Self {
        Self { joins: true, ..self }
    }

    /// Adds a prompt.
    pub fn push(&mut self, span: Span<P>) {
        if span.replaceable {
            self.waiting.retain(|waiting| !waiting.replaceable);
        }
        self.waiting.push_back(span);
    }

    /// Says that no prompt follows.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Says that no prompt follows, and that an open-ended one is over after a chunk at least.
    pub fn cut(&mut self) {
        (self.ended, self.cut) = (true, true);
    }

    /// Says that nothing follows, and that the prompt that is on, or else a stream's first, is over after a chunk at least, whatever its end.
    pub fn stop(&mut self) {
        (self.ended, self.stopped) = (true, true);
        self.waiting.truncate(usize::from(!self.begun));
    }

    /// Returns whether the stream is live.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Returns the frame that comes next.
    pub fn next_frame(&self) -> u64 {
        self.next_frame
    }

    /// Returns whether a prompt that comes now is on at once in a live stream, whose time has gone on while there was none.
    pub fn is_idle(&self) -> bool {
        let is_over = |scene: &Scene<P>| !self.goes_on && scene.end.is_some_and(|end| end <= self.next_frame);
        self.live && self.waiting.is_empty() && self.scene.as_ref().is_none_or(is_over)
    }

    /// Returns how many prompts wait to come on.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the prompt that is on.
    pub fn prompt(&self) -> Option<&P> {
        self.scene.as_ref().map(|scene| &scene.prompt)
    }

    /// Returns what to do next; `chunk_frames` tells how many frames the next chunk makes, at a scene's start or not, of
    /// those that are left of the scene where that is known. `cuts` says whether a chunk is cut short for the next prompt, or that
    /// waits until the chunk is whole, since its scene grows out of this one.
    pub fn next(&mut self, cuts: bool, chunk_frames: impl Fn(bool, Option<u64>) -> u64) -> Step {
        loop {
            let Some(scene) = &self.scene else {
                let Some(span) = self.waiting.pop_front() else {
                    return if self.ended { Step::End } else { Step::Wait };
                };
                // A seek into the middle of a prompt sends it with its own start, before the stream's.
                match span.start {
                    Some(start) if !self.begun && !self.joins => self.next_frame = self.next_frame.min(start),
                    _ if !self.begun => (),
                    Some(start) if !self.goes_on => self.next_frame = self.next_frame.max(start),
                    _ => (),
                }
                self.begun = true;
                let default_end = self.next_frame + self.default_frames;
                let end = span.end.map(|end| match end {
                    End::Before(frame) => frame,
                    End::After(frames) => self.next_frame + frames,
                });
                let end = end.or((!self.goes_on).then_some(default_end));
                self.scene = Some(Scene { prompt: span.prompt, start: self.next_frame, end, default_end });
                continue;
            };
            let scene_start = scene.start == self.next_frame;
            let end = match self.waiting.front() {
                // Every prompt gets a chunk, also when the next one is there already.
                Some(Span { start: None, .. }) if scene_start => None,
                Some(next) => Some(next.start.unwrap_or(self.next_frame)),
                None if self.stopped || (self.cut && scene.end.is_none()) => {
                    (!scene_start).then_some(self.next_frame)
                }
                None if self.ended => Some(scene.end.unwrap_or(scene.default_end)),
                None => scene.end.filter(|_| !self.live || !self.goes_on),
            };
            let end = if self.goes_on { end } else { [end, scene.end].into_iter().flatten().min() };
            let left = end.map(|end| end.saturating_sub(self.next_frame));
            let chunk = chunk_frames(scene_start, left);
            let known = self.ended || !self.waiting.is_empty();
            match left {
                // What is after the scene's own end, another prompt or nothing, decides how the chunk that meets it is cut.
                Some(left) if left < chunk && !known && self.goes_on => return Step::Wait,
                Some(0) => self.scene = None,
                left => {
                    let whole = !cuts && self.goes_on && !self.waiting.is_empty();
                    let frames = left.filter(|_| !whole).unwrap_or(chunk).min(chunk);
                    return Step::Generate { scene_start, first_frame: self.next_frame, frames };
                }
            }
        }
    }

    /// Says that `frames` were made.
    pub fn advance(&mut self, frames: u64) {
        self.next_frame += frames;
    }

    /// Goes on at `frame`, which lies ahead: what lies before it is not made. The scene that is on goes on there, or begins.
    pub fn skip_to(&mut self, frame: u64) {
        if let Some(scene) = self.scene.as_mut().filter(|scene| scene.start == self.next_frame) {
            scene.start = frame;
        }
        self.next_frame = frame;
    }

    /// Starts the scene that is on again, at the frame that comes next.
    pub fn restart_scene(&mut self) {
        if let Some(scene) = &mut self.scene {
            scene.start = self.next_frame;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scene's first chunk has 5 frames, later ones 8.
    fn chunk(scene_start: bool, _left: Option<u64>) -> u64 {
        if scene_start { 5 } else { 8 }
    }

    fn timeline(prompts: &[(&'static str, Option<u64>, Option<u64>)]) -> Timeline<&'static str> {
        let mut timeline = Timeline::new(0, 17, true, false);
        for &(prompt, start, end) in prompts {
            timeline.push(span(prompt, start, end));
        }
        timeline
    }

    fn span(prompt: &'static str, start: Option<u64>, end: Option<u64>) -> Span<&'static str> {
        Span { prompt, start, end: end.map(End::Before), replaceable: false }
    }

    /// Plays a stream to its end or until it waits: prompt, first frame, frames, scene start.
    fn play(timeline: &mut Timeline<&'static str>) -> (Vec<(&'static str, u64, u64, bool)>, Step) {
        let mut chunks = Vec::new();
        loop {
            match timeline.next(true, chunk) {
                Step::Generate { scene_start, first_frame, frames } => {
                    chunks.push((*timeline.prompt().unwrap(), first_frame, frames, scene_start));
                    timeline.advance(frames);
                }
                step => return (chunks, step),
            }
        }
    }

    #[test]
    fn a_prompt_lasts_to_its_end_and_its_last_chunk_is_cut() {
        let mut timeline = timeline(&[("a", Some(0), Some(16))]);
        timeline.end();
        assert_eq!(
            play(&mut timeline),
            (vec![("a", 0, 5, true), ("a", 5, 8, false), ("a", 13, 3, false)], Step::End)
        );
    }

    #[test]
    fn a_chunk_that_meets_the_end_waits_to_hear_what_follows() {
        let mut timeline = timeline(&[("a", Some(0), Some(12))]);
        assert_eq!(play(&mut timeline), (vec![("a", 0, 5, true)], Step::Wait));
        timeline.push(span("b", Some(20), Some(22)));
        timeline.end();
        let rest = vec![("a", 5, 8, false), ("a", 13, 7, false), ("b", 20, 2, true)];
        assert_eq!(play(&mut timeline), (rest, Step::End));
    }

    #[test]
    fn the_first_prompt_starts_the_stream_whatever_its_start() {
        let mut timeline = timeline(&[("a", Some(48), Some(50))]);
        timeline.end();
        let (chunks, _) = play(&mut timeline);
        assert_eq!(chunks[0], ("a", 0, 5, true));
        assert_eq!(chunks.iter().map(|c| c.2).sum::<u64>(), 50);
    }

    #[test]
    fn after_a_seek_the_prompt_that_is_on_starts_at_its_own_start() {
        let mut timeline = Timeline::new(30, 17, true, false);
        timeline.push(span("a", Some(24), Some(29)));
        timeline.end();
        assert_eq!(play(&mut timeline), (vec![("a", 24, 5, true)], Step::End));
    }

    #[test]
    fn who_joins_a_prompt_begins_in_its_middle() {
        let mut timeline = Timeline::new(27, 17, true, false).joining();
        timeline.push(span("a", Some(24), Some(29)));
        timeline.end();
        assert_eq!(play(&mut timeline), (vec![("a", 27, 2, true)], Step::End));
        assert_eq!(timeline.next_frame(), 29);
    }

    #[test]
    fn what_is_cut_is_over_after_a_chunk_or_at_its_own_end() {
        let mut open = timeline(&[("a", None, None)]);
        open.cut();
        assert_eq!(play(&mut open), (vec![("a", 0, 5, true)], Step::End));
        let mut closed = timeline(&[("a", Some(0), Some(12))]);
        closed.cut();
        assert_eq!(play(&mut closed), (vec![("a", 0, 5, true), ("a", 5, 7, false)], Step::End));
    }

    #[test]
    fn what_is_stopped_is_over_after_a_chunk_and_nothing_follows() {
        let mut timeline = timeline(&[("a", Some(0), Some(100)), ("b", Some(100), Some(200))]);
        timeline.next(true, chunk);
        timeline.stop();
        assert_eq!(play(&mut timeline), (vec![("a", 0, 5, true)], Step::End));
    }

    #[test]
    fn what_is_stopped_before_it_began_has_a_chunk() {
        let mut timeline = timeline(&[("a", Some(0), Some(100)), ("b", Some(100), Some(200))]);
        timeline.stop();
        assert_eq!(play(&mut timeline), (vec![("a", 0, 5, true)], Step::End));
    }

    #[test]
    fn of_prompts_that_take_each_other_s_place_the_last_comes_on() {
        let mut timeline = timeline(&[("a", Some(0), None)]);
        timeline.next(true, chunk);
        timeline.advance(5);
        for prompt in ["b", "c", "d"] {
            timeline.push(Span { replaceable: true, ..span(prompt, None, None) });
        }
        assert_eq!(timeline.waiting(), 1);
        timeline.cut();
        assert_eq!(play(&mut timeline), (vec![("d", 5, 5, true)], Step::End));
    }

    #[test]
    fn a_prompt_without_a_time_of_its_own_has_its_length_where_it_comes_on() {
        for goes_on in [true, false] {
            let mut timeline = Timeline::new(0, 17, goes_on, false);
            timeline.push(Span { end: Some(End::After(5)), ..span("a", None, None) });
            timeline.push(Span { end: Some(End::After(4)), ..span("b", None, None) });
            timeline.end();
            assert_eq!(play(&mut timeline), (vec![("a", 0, 5, true), ("b", 5, 4, true)], Step::End));
        }
    }

    #[test]
    fn an_open_ended_prompt_goes_on_until_the_next_one() {
        let mut timeline = timeline(&[("a", Some(0), None)]);
        for (first_frame, frames) in [(0, 5), (5, 8), (13, 8), (21, 8)] {
            let scene_start = first_frame == 0;
            assert_eq!(timeline.next(true, chunk), Step::Generate { scene_start, first_frame, frames });
            timeline.advance(frames);
        }
        timeline.push(span("b", None, None));
        assert_eq!(
            timeline.next(true, chunk),
            Step::Generate { scene_start: true, first_frame: 29, frames: 5 }
        );
        assert_eq!(timeline.prompt(), Some(&"b"));
    }

    #[test]
    fn every_prompt_gets_a_chunk_and_the_last_its_default_length() {
        let mut timeline = timeline(&[("a", None, None), ("b", None, None)]);
        timeline.end();
        let chunks = vec![("a", 0, 5, true), ("b", 5, 5, true), ("b", 10, 8, false), ("b", 18, 4, false)];
        assert_eq!(play(&mut timeline), (chunks, Step::End));
    }

    #[test]
    fn a_live_stream_goes_on_past_the_end_until_it_hears_more() {
        let mut timeline = Timeline::new(0, 17, true, true);
        timeline.push(span("a", Some(0), Some(3)));
        assert_eq!(
            timeline.next(true, chunk),
            Step::Generate { scene_start: true, first_frame: 0, frames: 5 }
        );
        timeline.advance(5);
        assert_eq!(
            timeline.next(true, chunk),
            Step::Generate { scene_start: false, first_frame: 5, frames: 8 }
        );
    }

    #[test]
    fn a_scene_that_cannot_go_on_ends_where_its_prompt_says() {
        let mut timeline = Timeline::new(0, 17, false, false);
        timeline.push(span("a", Some(0), Some(5)));
        assert_eq!(play(&mut timeline), (vec![("a", 0, 5, true)], Step::Wait));
        timeline.push(span("b", Some(20), Some(24)));
        timeline.end();
        assert_eq!(play(&mut timeline), (vec![("b", 20, 4, true)], Step::End));
    }

    #[test]
    fn an_open_ended_prompt_that_cannot_go_on_has_the_default_length_and_the_next_is_waited_for() {
        let mut timeline = Timeline::new(0, 17, false, false);
        timeline.push(span("a", None, None));
        let whole = |_: bool, left: Option<u64>| left.unwrap_or(17);
        assert_eq!(
            timeline.next(true, whole),
            Step::Generate { scene_start: true, first_frame: 0, frames: 17 }
        );
        timeline.advance(17);
        assert_eq!(timeline.next(true, whole), Step::Wait);
        timeline.push(span("b", None, None));
        assert_eq!(
            timeline.next(true, whole),
            Step::Generate { scene_start: true, first_frame: 17, frames: 17 }
        );
    }

    #[test]
    fn a_restarted_scene_begins_again_where_the_stream_is() {
        let mut timeline = timeline(&[("a", Some(0), None)]);
        timeline.next(true, chunk);
        timeline.advance(5);
        timeline.restart_scene();
        assert_eq!(
            timeline.next(true, chunk),
            Step::Generate { scene_start: true, first_frame: 5, frames: 5 }
        );
    }

    #[test]
    fn a_stream_without_prompts_waits_and_ends() {
        let mut timeline = timeline(&[]);
        assert_eq!(timeline.next(true, chunk), Step::Wait);
        timeline.end();
        assert_eq!(timeline.next(true, chunk), Step::End);
    }
}
