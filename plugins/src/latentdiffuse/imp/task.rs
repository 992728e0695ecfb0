//! The source pad's task: waits for a prompt, agrees on caps, makes chunks and pushes them.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use latentflow::{Ahead, DiffuseOptions, Diffuser, Error, Model, PromptEmbeds, vae};

use super::super::stats::Stats;
use super::super::timeline::{End, Span, Step, Timeline};
use super::super::video::VideoPrompt;
use super::{Arrived, CAT, LatentDiffuse, Prompt, Settings, State, is_segment};
use crate::caps::{self, LatentInfo};
use crate::{glue, latent};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// How often in a row a chunk is made anew because downstream refused it and wants something else.
const MOST_REMADE: u32 = 8;

/// What to make next, with all that it takes.
struct Work {
    model: Arc<Model>,
    info: LatentInfo,
    embeds: Arc<PromptEmbeds>,
    scene_start: bool,
    first_frame: u64,
    frames: u64,
    latent_frames: usize,
    source: Source,
    /// When it is shown and for how long.
    pts: gst::ClockTime,
    duration: Option<gst::ClockTime>,
}

impl State {
    /// Takes back what was made and not shown: it is to be made anew. Before that there were these statistics.
    fn put_back(&mut self, work: Work, stats: Stats) {
        self.stats = stats;
        self.remade += 1;
        match &mut self.timeline {
            Some(timeline) => {
                timeline.restart_scene();
                self.transition.reset();
            }
            None => {
                self.next_pts = work.pts;
                self.arrived.push_front(Arrived::Prompt(Prompt {
                    embeds: work.embeds,
                    start: Some(work.pts),
                    duration: work.duration,
                    replaceable: false,
                }));
            }
        }
    }
}

impl Prompt {
    /// Moves it to `now`, if it would begin earlier.
    fn not_before(&mut self, now: gst::ClockTime) {
        self.start = Some(self.start.unwrap_or_default().max(now));
    }
}

/// What a chunk is made of.
enum Source {
    Noise,
    /// A video prompt's latents.
    Video(Vec<f32>),
    /// The chunk before, of another scene, and the strength with which to lead away from it.
    Scene(Vec<f32>, f64),
}

/// What the task does after an iteration.
enum Next {
    Go,
    Pause,
}

impl LatentDiffuse {
    pub(super) fn src_activatemode(
        &self,
        pad: &gst::Pad,
        mode: gst::PadMode,
        active: bool,
    ) -> Result<(), gst::LoggableError> {
        if mode != gst::PadMode::Push {
            return Err(gst::loggable_error!(CAT, "pulling latents is not possible"));
        }
        if active {
            let mut state = self.lock();
            (state.flushing, state.active) = (false, true);
            drop(state);
            self.cancel.reset();
            return self.start_task().map_err(gst::LoggableError::from);
        }
        self.stop();
        pad.stop_task().map_err(gst::LoggableError::from)
    }

    pub(super) fn start_task(&self) -> Result<(), glib::BoolError> {
        let weak = self.obj().downgrade();
        self.srcpad().start_task(move || {
            let Some(element) = weak.upgrade() else { return };
            let this = element.imp();
            match this.iterate() {
                Ok(Next::Go) => (),
                Ok(Next::Pause) | Err(gst::FlowError::Flushing) => this.pause(Ok(gst::FlowSuccess::Ok)),
                Err(gst::FlowError::Eos) => {
                    // Downstream has enough, as `pngenc snapshot=true` has after a frame: who comes after it waits to hear so.
                    this.srcpad().push_event(gst::event::Eos::new());
                    this.pause(Err(gst::FlowError::Eos));
                }
                Err(flow) => {
                    // What the library failed at is on the bus by now; downstream's refusals are told here.
                    if this.lock().flow.is_ok() {
                        gst::element_error!(
                            element,
                            gst::StreamError::Failed,
                            ("downstream of latentdiffuse stopped with `{flow:?}`; see the error before this one, or link its source pad")
                        );
                    }
                    this.srcpad().push_event(gst::event::Eos::new());
                    this.pause(Err(flow));
                }
            }
        })
    }

    fn pause(&self, flow: Result<gst::FlowSuccess, gst::FlowError>) {
        if flow.is_err() {
            self.lock().flow = flow;
            self.changed.notify_all();
        }
        // Only fails if the task is gone, which is what was wanted.
        let _ = self.srcpad().pause_task();
    }

    /// Posts `error` and says so in the state, so that it is told once.
    fn fail(&self, error: &Error) -> gst::FlowError {
        let flow = glue::flow_error(&*self.obj(), error);
        if flow == gst::FlowError::Error {
            self.lock().flow = Err(flow);
        }
        flow
    }

    /// Makes one chunk, or ends the stream.
    fn iterate(&self) -> Result<Next, gst::FlowError> {
        let Some(work) = self.next_work()? else {
            let eos = self.lock().eos.clone().unwrap_or_else(gst::event::Eos::new);
            self.tell_progress(gst::ProgressType::Complete, None);
            if let Some(diffuser) = self.diffuser.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
                && !diffuser.options().keep_loaded
            {
                diffuser.close();
            }
            self.push_segment();
            self.srcpad().push_event(eos);
            // A video prompt that is longer than the prompts has nowhere to go.
            self.lock().flow = Err(gst::FlowError::Eos);
            self.changed.notify_all();
            return Ok(Next::Pause);
        };
        let stats = self.lock().stats.clone();
        let buffer = self.generate(&work)?;
        if self.srcpad().needs_reconfigure()
            && self.srcpad().peer_query_caps(Some(&work.info.to_caps())).is_empty()
        {
            // Downstream has come to want another size meanwhile: it is made anew.
            self.lock().put_back(work, stats);
            return Ok(Next::Go);
        }
        self.push_segment();
        let pushed = self.srcpad().push(buffer);
        let mut state = self.lock();
        if pushed == Err(gst::FlowError::NotNegotiated)
            && self.srcpad().needs_reconfigure()
            && state.remade < MOST_REMADE
        {
            // Or only when it saw this one.
            state.put_back(work, stats);
            return Ok(Next::Go);
        }
        state.remade = 0;
        if let Some(timeline) = &mut state.timeline {
            timeline.advance(work.frames);
            let next_frame = timeline.next_frame();
            state.next_pts = work.info.frame_time(next_frame);
        }
        let segment = state.time_segment();
        if pushed == Err(gst::FlowError::Eos)
            && segment.is_some_and(|segment| segment.flags().contains(gst::SegmentFlags::SEGMENT))
        {
            // It is over, and another may follow.
            state.end_part();
            while state.next_prompt().is_some() {}
            self.changed.notify_all();
            return Ok(Next::Go);
        }
        if !state.flushing {
            state.flow = pushed;
        }
        self.changed.notify_all();
        if pushed.is_err_and(|flow| flow != gst::FlowError::Flushing && flow != gst::FlowError::Eos) {
            // Not ours: told as downstream's.
            state.flow = Ok(gst::FlowSuccess::Ok);
        }
        pushed.map(|_| Next::Go)
    }

    /// Waits for something to make and returns it, or `None` at the stream's end.
    fn next_work(&self) -> Result<Option<Work>, gst::FlowError> {
        let mut state = self.lock();
        loop {
            if state.flushing {
                return Err(gst::FlowError::Flushing);
            }
            if state.timeline.is_none()
                && let Some(event) = state.take_turn()
            {
                drop(state);
                self.push_segment();
                self.srcpad().push_event(event);
                state = self.lock();
                continue;
            }
            if state.video.as_ref().is_some_and(|video| {
                video.flushing || video.sought || video.info.is_none() && !video.is_over()
            }) {
                state = self.wait(state);
                continue;
            }
            if let Some(model) = state.model.clone()
                && (self.srcpad().check_reconfigure() || state.info.is_none())
            {
                let known = state.info.clone();
                let video = state.video.as_ref().and_then(|video| video.info.clone());
                drop(state);
                if known.is_none() {
                    self.open_ahead(&model);
                }
                let info = self.negotiate(&model, known.as_ref(), video.as_ref())?;
                state = self.lock();
                if known.is_some()
                    && known.as_ref() != Some(&info)
                    && let Some(timeline) = &mut state.timeline
                {
                    timeline.restart_scene();
                    state.transition.reset();
                }
                let is_new = known.as_ref() != Some(&info);
                state.info = Some(info);
                if is_new {
                    drop(state);
                    // It depends on the rate.
                    glue::post_latency(&*self.obj());
                    state = self.lock();
                }
                continue;
            }
            if state.image.as_ref().is_some_and(|image| !image.is_settled()) {
                state = self.wait(state);
                continue;
            }
            if state.model.as_ref().is_some_and(|model| model.manifest().is_image()) {
                match self.next_picture(&mut state) {
                    (Some(work), _) => return Ok(Some(work)),
                    (None, true) => return Ok(None),
                    (None, false) => state = self.wait(state),
                }
                continue;
            }
            let transition_chunks = self.settings().transition_chunks;
            let step = self.next_step(&mut state, transition_chunks);
            match step {
                Step::End if !state.arrived.is_empty() => state.end_part(),
                Step::End => return Ok(None),
                Step::Wait => state = self.wait(state),
                Step::Generate { scene_start, first_frame, frames } => {
                    if let Some(early) = self.early(&state, first_frame) {
                        let wait = self.changed.wait_timeout(state, early);
                        state = wait.unwrap_or_else(PoisonError::into_inner).0;
                        continue;
                    }
                    if let Some(frame) = self.overdue(&state, first_frame)
                        && let Some(timeline) = &mut state.timeline
                    {
                        gst::warning!(
                            CAT,
                            imp = self,
                            "too late for frame {first_frame}: goes on with {frame}"
                        );
                        timeline.skip_to(frame);
                        continue;
                    }
                    let prompt = state.timeline.as_ref().and_then(Timeline::prompt).cloned();
                    let State { model: Some(model), info: Some(info), video, transition, .. } = &mut *state
                    else {
                        unreachable!("a step comes of a timeline, which comes of these");
                    };
                    let Some(embeds) = prompt else { unreachable!("a scene has a prompt") };
                    let manifest = model.manifest();
                    let latent_frames = match manifest.stream {
                        Some(stream) => stream.chunk,
                        None => match manifest.clip_frames(frames as usize) {
                            Ok(clip) => vae::num_latent_frames(&manifest.latents, clip, true),
                            Err(error) => {
                                drop(state);
                                return Err(self.fail(&error));
                            }
                        },
                    };
                    if video.as_ref().is_some_and(|video| !video.is_ready(latent_frames)) {
                        state = self.wait(state);
                        continue;
                    }
                    let channels = manifest.latents.channels;
                    let under_way = video.as_ref().is_some_and(VideoPrompt::is_under_way);
                    let taken = video.as_mut().and_then(|video| video.take(latent_frames, channels));
                    // A scene of a video prompt may be over before the chunk is.
                    let latent_frames = taken.as_ref().map_or(latent_frames, |taken| taken.count);
                    let frames =
                        taken.as_ref().and_then(|taken| taken.frames).map_or(frames, |f| f.min(frames));
                    let source = match taken {
                        Some(taken) => Source::Video(taken.latents),
                        None => {
                            match transition.next(scene_start, transition_chunks, channels, latent_frames) {
                                Some((latents, strength)) => Source::Scene(latents, strength),
                                None => Source::Noise,
                            }
                        }
                    };
                    let (model, info) = (model.clone(), info.clone());
                    let scene_start = scene_start && !under_way && !matches!(source, Source::Scene(..));
                    let pts = info.frame_time(first_frame);
                    let duration = Some(info.frame_time(first_frame + frames) - pts);
                    self.changed.notify_all();
                    return Ok(Some(Work {
                        model,
                        info,
                        embeds,
                        scene_start,
                        first_frame,
                        frames,
                        latent_frames,
                        source,
                        pts,
                        duration,
                    }));
                }
            }
        }
    }

    /// Returns where a live stream is by the clock; `None` for others.
    fn live_position(&self, state: &State) -> Option<gst::ClockTime> {
        let live = self.upstream_latency().is_some_and(|(live, ..)| live);
        let segment = state.time_segment();
        let position = |segment: gst::FormattedSegment<gst::ClockTime>| {
            segment.position_from_running_time(self.obj().current_running_time())
        };
        live.then(|| segment.and_then(position).unwrap_or_default())
    }

    /// Returns how long it is until the chunk that begins with frame `first_frame` is to be made: a live stream is made as its time comes, as a camera's is, so that it can be mixed
    /// and dropped like one and a prompt is not shown late for all that was made ahead. `None` is now.
    fn early(&self, state: &State, first_frame: u64) -> Option<Duration> {
        state.timeline.as_ref().filter(|timeline| timeline.is_live())?;
        let pts = state.info.as_ref()?.frame_time(first_frame);
        let early = state.running_time(pts)?.checked_sub(self.obj().current_running_time()?)?;
        (!early.is_zero()).then(|| early.into())
    }

    /// Returns the frame whose time it is, where a live stream is late by a chunk more than it may be: what was to be shown till then would be
    /// dropped, and so would all that follows if the model makes up for the time but slowly. A clip is made whole, whenever it is.
    fn overdue(&self, state: &State, first_frame: u64) -> Option<u64> {
        state.timeline.as_ref().filter(|timeline| timeline.is_live())?;
        state.model.as_ref()?.manifest().stream?;
        let info = state.info.as_ref()?;
        let due = state.running_time(info.frame_time(first_frame))?;
        let now = self.obj().current_running_time()?;
        let is_over = now > due + state.lateness() + state.chunk_duration();
        let position = is_over.then(|| self.live_position(state)).flatten()?;
        Some(info.frames_in(position)).filter(|frame| *frame > first_frame)
    }

    /// Returns the next prompt's picture, for a model of images, and whether the stream is over if there is none. It is shown for the
    /// prompt's span, else for a frame's time.
    fn next_picture(&self, state: &mut State) -> (Option<Work>, bool) {
        let over = state.eos.is_some();
        if state.model.is_none() || state.info.is_none() {
            return (None, over);
        }
        if state.video.as_ref().is_some_and(|video| !video.is_ready(1)) {
            return (None, false);
        }
        let now = self.live_position(state);
        // Who stops the stream wants no more than what is there.
        while state.is_cut && !state.next_pts.is_zero() && state.next_prompt().is_some() {}
        let Some(mut prompt) = state.next_prompt() else { return (None, over) };
        if let Some(now) = now {
            prompt.not_before(now);
        }
        let Prompt { embeds, start, duration, .. } = prompt;
        let State { model: Some(model), info: Some(info), video, stats, next_pts, .. } = state else {
            unreachable!("both are there");
        };
        let pts = start.unwrap_or(*next_pts);
        let frame = Some(info.frame_time(1)).filter(|duration| !duration.is_zero());
        let duration = duration.or(frame);
        *next_pts = pts + duration.unwrap_or_default();
        self.changed.notify_all();
        let video = video.as_mut().and_then(|video| video.take(1, model.manifest().latents.channels));
        let work = Work {
            embeds,
            scene_start: true,
            first_frame: stats.frames,
            frames: 1,
            latent_frames: 1,
            source: video.map_or(Source::Noise, |taken| Source::Video(taken.latents)),
            pts,
            duration,
            model: model.clone(),
            info: info.clone(),
        };
        (Some(work), false)
    }

    /// Moves what has arrived into the timeline and asks it what to do.
    fn next_step(&self, state: &mut State, transition_chunks: u32) -> Step {
        let (Some(model), Some(info)) = (state.model.clone(), state.info.clone()) else {
            return if state.eos.is_some() { Step::End } else { Step::Wait };
        };
        if state.segment.is_none() && state.eos.is_none() {
            return Step::Wait;
        }
        let manifest = model.manifest();
        let now = self.live_position(state);
        if state.timeline.is_none() {
            let live = now.is_some();
            if live && state.arrived.is_empty() && state.eos.is_none() {
                return Step::Wait;
            }
            let start = state.time_segment().and_then(|segment| segment.start()).unwrap_or_default();
            let start = start.max(state.next_pts).max(now.unwrap_or_default());
            let default_frames = manifest.video.num_frames.default as u64;
            let goes_on = manifest.stream.is_some();
            let timeline = Timeline::new(info.frames_in(start), default_frames, goes_on, live);
            // What lies before is over, or it is where a video prompt, too, begins after a seek.
            let joins = live || state.video.is_some() || !state.next_pts.is_zero();
            state.timeline = Some(if joins { timeline.joining() } else { timeline });
        }
        let prompts: Vec<Prompt> = std::iter::from_fn(|| state.next_prompt()).collect();
        let State { timeline: Some(timeline), arrived, eos, is_cut, video, transition, .. } = state else {
            unreachable!("it was just made");
        };
        for mut prompt in prompts {
            // However late it comes, it is in time, and no shorter unless the next one is due.
            if let Some(now) = now.filter(|_| timeline.is_idle()) {
                prompt.not_before(now.max(info.frame_time(timeline.next_frame())));
            }
            let Prompt { embeds, start, duration, replaceable } = prompt;
            // However short a prompt is, it is on for a frame.
            let end = duration.map(|duration| match start {
                Some(start) => {
                    let end = info.frames_in(start.saturating_add(duration));
                    End::Before(end.max(info.frames_in(start) + 1))
                }
                None => End::After(info.frames_in(duration).max(1)),
            });
            let start = start.map(|start| info.frames_in(start));
            timeline.push(Span { prompt: embeds, start, end, replaceable });
        }
        // A segment alone says nothing of what follows in it, perhaps what is on goes on.
        let segment_alone = arrived.len() == 1 && matches!(&arrived[0], Arrived::Event(e) if is_segment(e));
        if eos.is_some() && *is_cut {
            timeline.stop();
        } else if eos.is_some() {
            timeline.end();
        } else if !arrived.is_empty() && !segment_alone {
            timeline.cut();
        }
        if video.as_ref().is_some_and(VideoPrompt::begins_anew) {
            timeline.restart_scene();
            transition.reset();
        }
        // A new prompt is no cut in a video prompt, whose latents last for whole chunks, nor where its scene grows out of the one before.
        let grows = transition_chunks > 0;
        let under_way = video.as_ref().is_some_and(VideoPrompt::is_under_way);
        let continues = under_way || (grows && transition.is_possible());
        let step = timeline.next(!grows && !under_way, |scene_start, left| match manifest.stream {
            Some(stream) => {
                vae::num_frames(&manifest.latents, stream.chunk, scene_start && !continues) as u64
            }
            None => left.unwrap_or(manifest.video.num_frames.default as u64),
        });
        // Room for another prompt, perhaps.
        self.changed.notify_all();
        step
    }

    /// Agrees with downstream on size and rate, of those that the model can do, and sends the caps.
    fn negotiate(
        &self,
        model: &Model,
        known: Option<&LatentInfo>,
        video: Option<&LatentInfo>,
    ) -> Result<LatentInfo, gst::FlowError> {
        let mut can = caps::made_latent(model.id(), model.manifest());
        if let Some(known) = known {
            // Frames are counted at this rate.
            can.make_mut().set("framerate", known.framerate);
        }
        if let Some(video) = video {
            if video.model != model.id() {
                let reason = format!(
                    "the video prompt was made with this package, and the prompt with {}; set `model` of vaeencode to that \
                     of textsrc",
                    model.id()
                );
                return Err(self.fail(&Error::Setting {
                    setting: "video",
                    value: video.model.clone(),
                    reason,
                }));
            }
            // What is made of a video has its size and rate.
            let can = can.make_mut();
            can.set("width", video.width as i32);
            can.set("height", video.height as i32);
            can.set("framerate", video.framerate);
        }
        let wanted = self.srcpad().peer_query_caps(Some(&can));
        if wanted.is_empty() {
            let asked = self.srcpad().peer_query_caps(None);
            let error = Error::Setting {
                setting: "caps",
                value: asked.to_string(),
                reason: format!(
                    "downstream wants these, and model {} can do {can}; change the capsfilter",
                    model.id()
                ),
            };
            let message = glue::error_message(&error);
            self.obj().post_error_message(message);
            self.lock().flow = Err(gst::FlowError::NotNegotiated);
            return Err(gst::FlowError::NotNegotiated);
        }
        let video = &model.manifest().video;
        let mut fixed = wanted;
        fixed.truncate();
        if let Some(s) = fixed.make_mut().structure_mut(0) {
            s.fixate_field_nearest_int("width", video.width.default as i32);
            s.fixate_field_nearest_int("height", video.height.default as i32);
            s.fixate_field_nearest_fraction("framerate", caps::fraction(video.frame_rate.default));
        }
        fixed.fixate();
        let info = LatentInfo::from_caps(&fixed).map_err(|e| self.fail(&e))?;
        gst::info!(CAT, imp = self, "negotiated {info:?}");
        if known == Some(&info) {
            return Ok(info);
        }
        if !self.srcpad().push_event(gst::event::Caps::new(&info.to_caps())) {
            if self.lock().flushing {
                // To be agreed on after that.
                self.srcpad().mark_reconfigure();
                return Err(gst::FlowError::Flushing);
            }
            return Err(gst::FlowError::NotNegotiated);
        }
        Ok(info)
    }

    fn push_segment(&self) {
        let segment = {
            let mut state = self.lock();
            if state.segment_pushed {
                return;
            }
            state.segment_pushed = true;
            state.time_segment().and(state.segment.clone())
        };
        let segment = segment
            .unwrap_or_else(|| gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
        self.srcpad().push_event(segment);
    }

    fn generate(&self, work: &Work) -> Result<gst::Buffer, gst::FlowError> {
        let started = Instant::now();
        // Fails only for an element without controllers' values at this time.
        let _ = self.obj().sync_values(work.pts);
        let (manifest, settings) = (work.model.manifest(), self.settings());
        let keep_loaded = self.model_settings.lock().unwrap_or_else(PoisonError::into_inner).keep_loaded;

        let mut slot = self.diffuser.lock().unwrap_or_else(PoisonError::into_inner);
        let going_on = slot.as_ref().filter(|diffuser| Arc::ptr_eq(diffuser.model(), &work.model));
        let options = match diffuse_options(&work.model, &work.info, &settings) {
            Ok(options) => options,
            // What plays goes on by the scheduler that it has.
            Err(error) => match going_on.map(|diffuser| diffuser.options().scheduler.clone()) {
                Some(scheduler) => {
                    self.warn_once(&error);
                    let settings = Settings { scheduler: None, ..settings.clone() };
                    let options = diffuse_options(&work.model, &work.info, &settings);
                    DiffuseOptions { scheduler, ..options.map_err(|e| self.fail(&e))? }
                }
                None => return Err(self.fail(&error)),
            },
        };
        let options = DiffuseOptions { keep_loaded, ..options };
        let plays = going_on.map(|diffuser| diffuser.options().clone());
        if plays.is_none() {
            *slot = Some(Diffuser::new(work.model.clone(), options.clone()).map_err(|e| self.fail(&e))?);
        }
        let Some(diffuser) = slot.as_mut() else { unreachable!("it was just made") };
        match (diffuser.set_options(options.clone()), plays) {
            (Ok(()), _) => (),
            // So it does in as many steps, where the scheduler can't do those that are asked for.
            (Err(error @ Error::Setting { setting: "num-inference-steps", .. }), Some(plays)) => {
                self.warn_once(&error);
                let DiffuseOptions { scheduler, num_inference_steps, .. } = plays;
                let options = DiffuseOptions { scheduler, num_inference_steps, ..options };
                diffuser.set_options(options).map_err(|e| self.fail(&e))?;
            }
            (Err(error), _) => return Err(self.fail(&error)),
        }
        let steps = diffuser.options().num_inference_steps as u32;
        self.set_image(diffuser, &work.info).map_err(|e| self.fail(&e))?;
        let turn = glue::turn(&work.model, keep_loaded, &self.cancel).map_err(|e| self.fail(&e))?;
        self.open(work, diffuser)?;
        // A transition's chunks are not looked back at: what is left of the old scene in them would stay.
        if work.scene_start || manifest.stream.is_none() || matches!(work.source, Source::Scene(..)) {
            diffuser.start_scene();
        }
        let clip = manifest.stream.is_none();
        let mut on_step = |step: usize, steps: usize, _: &[f32]| {
            if clip {
                let text = format!("step {step}/{steps}, {} %", 100 * step / steps);
                self.tell_progress(gst::ProgressType::Continue, Some(text));
            }
        };
        let (positive, negative) = (work.embeds.positive(), work.embeds.negative());
        let video = match &work.source {
            Source::Noise => None,
            Source::Video(latents) => Some((latents, settings.strength)),
            // One step at least, or the chunk before would only play backwards.
            Source::Scene(latents, strength) => {
                Some((latents, strength.max(1.001 / f64::from(steps)).min(1.0)))
            }
        };
        let latents = match video {
            Some((latents, strength)) => {
                diffuser.chunk_of_video(latents, strength, positive, negative, &self.cancel, &mut on_step)
            }
            None => diffuser.chunk(positive, negative, work.latent_frames, &self.cancel, &mut on_step),
        };
        if turn.is_some() {
            // Also after an error, which leaves them open.
            diffuser.close();
        }
        let latents = latents.map_err(|error| {
            if clip {
                self.tell_progress(gst::ProgressType::Canceled, Some("the clip was not made".into()));
            }
            self.fail(&error)
        })?;
        let (skipped_steps, noise) = (diffuser.skipped_steps(), diffuser.noise_position());
        drop((turn, slot));
        if manifest.stream.is_some() {
            // Whatever transition-chunks is by now: it may be set before the next prompt comes.
            let whole = vae::num_frames(&manifest.latents, work.latent_frames, work.scene_start) as u64;
            match work.frames == whole {
                true => self.lock().transition.keep(&latents),
                false => self.lock().transition.reset(),
            }
        }

        let mut buffer = latent::buffer_from_floats(latents);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(work.pts);
            buffer.set_duration(work.duration);
            buffer.set_offset(work.first_frame);
            buffer.set_offset_end(work.first_frame + work.frames);
            if let Some(noise) = noise {
                latent::set_noise_position(buffer, noise);
            }
            buffer.set_flags(latent::scene_flags(work.scene_start));
        }
        self.measure(work, steps, skipped_steps, started);
        Ok(buffer)
    }

    /// Gives the denoiser the image that came, of the size negotiated.
    fn set_image(&self, diffuser: &mut Diffuser, info: &LatentInfo) -> Result<(), Error> {
        let image = self.lock().image.clone();
        match image.map(|image| image.rgb(info.width, info.height)).transpose()?.flatten() {
            Some(rgb) => diffuser.set_image(&rgb, info.width as usize * 3),
            None => {
                diffuser.clear_image();
                Ok(())
            }
        }
    }

    /// Begins to open a stream's denoisers, which are small, while the decoder downstream opens with the caps.
    fn open_ahead(&self, model: &Arc<Model>) {
        let keep_loaded = self.model_settings.lock().unwrap_or_else(PoisonError::into_inner).keep_loaded;
        if model.manifest().stream.is_some() && keep_loaded {
            let files = model.manifest().denoisers.iter().map(|denoiser| denoiser.file.clone()).collect();
            self.end_ahead();
            *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) =
                model.open_ahead(files, &self.cancel);
        }
    }

    /// Waits for what is opened ahead, and leaves it to who took it.
    pub(super) fn end_ahead(&self) {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Fails if it panicked, and then there is nothing open.
        ahead.map(Ahead::join);
    }

    /// Opens the denoisers, which takes seconds for large models, and says so then.
    fn open(&self, work: &Work, diffuser: &mut Diffuser) -> Result<(), gst::FlowError> {
        let known = diffuser.provider().is_some();
        let text = format!("opening the denoiser of {}", work.model.id());
        let mut open = || diffuser.open(&self.cancel);
        let opened = match known && work.model.manifest().stream.is_some() {
            // Chunk after chunk, there is hardly anything to open.
            true => open(),
            false => glue::with_progress(&*self.obj(), "open", &text, open),
        };
        self.end_ahead();
        opened.map_err(|e| self.fail(&e))?;
        if let (false, Some(provider)) = (known, diffuser.provider()) {
            gst::info!(CAT, imp = self, "denoiser of {} opened on {provider}", work.model.id());
            self.lock().provider = Some(provider);
            self.obj().notify("active-execution-provider");
        }
        Ok(())
    }

    /// Keeps the statistics.
    fn measure(&self, work: &Work, steps: u32, skipped_steps: usize, started: Instant) {
        let running_time = self.obj().current_running_time();
        let mut state = self.lock();
        let lateness = state.lateness();
        let hit =
            running_time.zip(state.running_time(work.pts)).is_none_or(|(now, due)| now <= due + lateness);
        let stats = &mut state.stats;
        let stream_started = *stats.started.get_or_insert(started);
        if stats.chunks == 0 {
            stats.time_to_first_chunk = stream_started.elapsed();
        }
        stats.chunks += 1;
        stats.frames += work.frames;
        stats.video += work.duration.unwrap_or_default();
        stats.generating += started.elapsed();
        stats.deadline_hits += u64::from(hit);
        stats.num_inference_steps = steps;
        stats.skipped_steps += skipped_steps as u64;
        // A clip's steps were told: what is not said to be complete then is waited for.
        let clip = work.model.manifest().stream.is_none();
        let due = clip || stats.told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL);
        if !due {
            return;
        }
        stats.told = Some(Instant::now());
        let (chunks, rate) = (stats.chunks, stats.frames as f64 / stream_started.elapsed().as_secs_f64());
        drop(state);
        let made = work.first_frame + work.frames;
        let total = self.sinkpad().peer_query_duration::<gst::ClockTime>().map(|d| work.info.frames_in(d));
        let text = match total.filter(|total| *total > 0) {
            Some(total) => format!(
                "chunk {chunks}, {} % of {}, {rate:.1} frames/s, {:.0} s left",
                (100 * made / total).min(100),
                glue::counted(total, "frame"),
                total.saturating_sub(made) as f64 / rate
            ),
            None => format!("chunk {chunks}, {}, {rate:.1} frames/s", glue::counted(made, "frame")),
        };
        // The chunk is complete: gst-launch-1.0 does not play while a progress is not, and to play is what makes room
        // downstream for the next one.
        self.tell_progress(gst::ProgressType::Complete, Some(text));
    }

    /// Warns of a property that can't be had while something plays, once for each value.
    fn warn_once(&self, error: &Error) {
        let text = error.to_string();
        if self.lock().warned.replace(text.clone()).is_none_or(|warned| warned != text) {
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Settings,
                ("{text}; what was there before goes on")
            );
        }
    }

    fn tell_progress(&self, kind: gst::ProgressType, text: Option<String>) {
        let text = text.unwrap_or_else(|| {
            let stats = self.lock().stats.clone();
            let seconds = stats.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
            let (chunks, frames) =
                (glue::counted(stats.chunks, "chunk"), glue::counted(stats.frames, "frame"));
            format!("{chunks}, {frames} in {seconds:.1} s")
        });
        glue::post_progress(&*self.obj(), kind, "chunk", &text);
    }
}

/// Returns what the properties and the negotiated caps ask of the denoiser.
fn diffuse_options(model: &Model, info: &LatentInfo, settings: &Settings) -> Result<DiffuseOptions, Error> {
    let mut options = DiffuseOptions::new(model);
    options.width = info.width as usize;
    options.height = info.height as usize;
    options.frame_rate = info.framerate.numer() as f32 / info.framerate.denom() as f32;
    options.seed = settings.seed;
    if settings.num_inference_steps > 0 {
        options.num_inference_steps = settings.num_inference_steps as usize;
    }
    if settings.guidance_scale >= 0.0 {
        options.guidance_scale = Some(settings.guidance_scale as f32);
    }
    if settings.guidance_rescale >= 0.0 {
        options.guidance_rescale = settings.guidance_rescale as f32;
    }
    options.cfg_zero_star = settings.cfg_zero_star;
    options.cfg_zero_init_steps = settings.cfg_zero_init_steps as usize;
    options.cache_threshold = settings.cache_threshold as f32;
    if let Some(name) = &settings.scheduler {
        let refused = |reason| Error::Setting { setting: "scheduler", value: name.clone(), reason };
        options.scheduler = options.scheduler.with_type(name).map_err(refused)?;
    }
    Ok(options)
}
