//! The video pad, on the streaming thread of the video prompt.

use gst::prelude::*;
use gst::subclass::prelude::*;
use latentflow::package::Manifest;
use latentflow::{Error, vae};

use super::super::video::Extent;
use super::{CAT, LatentDiffuse, State};
use crate::caps::LatentInfo;
use crate::{glue, latent};

impl LatentDiffuse {
    pub(super) fn video_chain(
        &self,
        pad: &gst::Pad,
        buffer: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        gst::log!(CAT, obj = pad, "video prompt {buffer:?}");
        let map = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let latents = latent::floats_in(&map, None).map_err(|e| glue::flow_error(&*self.obj(), &e))?;
        let mut state = self.lock();
        loop {
            if !state.active || state.video.as_ref().is_none_or(|video| video.flushing) {
                return Err(gst::FlowError::Flushing);
            }
            state.flow?;
            let room = match (&state.model, &state.video) {
                (Some(model), Some(video)) => video.waiting() < room(model.manifest()),
                _ => false,
            };
            if room {
                break;
            }
            state = self.wait(state);
        }
        let State { model: Some(model), video: Some(video), .. } = &mut *state else {
            return Err(gst::FlowError::Flushing);
        };
        let Some(info) = video.info.clone() else { return Err(gst::FlowError::NotNegotiated) };
        let l = &model.manifest().latents;
        let cells =
            |pixels: u32| (pixels as usize).next_multiple_of(l.size_multiple) / l.spatial_compression_ratio;
        let extent = Extent {
            starts: buffer.flags().contains(gst::BufferFlags::DISCONT),
            usual: (vae::num_frames(l, 1, true) as u64, vae::num_frames(l, 1, false) as u64),
            frames: latent::num_frames(&buffer),
        };
        let pushed = video.push(&latents, l.channels, cells(info.width) * cells(info.height), extent);
        drop(state);
        self.changed.notify_all();
        pushed.map(|()| gst::FlowSuccess::Ok).map_err(|found| {
            let expected = "latents of the size that the caps say".into();
            glue::flow_error(
                &*self.obj(),
                &Error::Shape { what: "a video prompt's buffer".into(), found, expected },
            )
        })
    }

    pub(super) fn video_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::log!(CAT, obj = pad, "event {event:?}");
        let mut state = self.lock();
        let negotiated = state.info.clone();
        let Some(video) = &mut state.video else { return false };
        match event.view() {
            gst::EventView::Caps(caps) => match LatentInfo::from_caps(caps.caps()) {
                Ok(info) => {
                    if let Err(reason) = may_become(video.info.as_ref(), negotiated.as_ref(), &info) {
                        drop(state);
                        let value = caps.caps().to_string();
                        let error = Error::Setting { setting: "video", value, reason };
                        self.obj().post_error_message(glue::error_message(&error));
                        return false;
                    }
                    if negotiated.is_some_and(|known| known != info) {
                        // Before the task, which needs the lock, takes any of it.
                        self.srcpad().mark_reconfigure();
                    }
                    video.info = Some(info);
                }
                Err(error) => {
                    drop(state);
                    self.obj().post_error_message(glue::error_message(&error));
                    return false;
                }
            },
            gst::EventView::Eos(_) | gst::EventView::SegmentDone(_) => video.end(),
            gst::EventView::Segment(_) => video.go_on(),
            gst::EventView::FlushStart(_) => {
                video.flush();
                video.flushing = true;
            }
            gst::EventView::FlushStop(_) => video.flush(),
            // The rest is told downstream by the prompts' stream.
            _ => return true,
        }
        drop(state);
        self.changed.notify_all();
        true
    }

    pub(super) fn video_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let mut can = self.can();
                if self.lock().model.is_none()
                    && let Some(id) = self.promised_model()
                {
                    can.make_mut().set("model", id);
                }
                // Its size and rate are those of what is made of it, and so is its package, rather than any other.
                let mut wanted = self.srcpad().peer_query_caps(Some(&can));
                // Another package's are refused with the reason, once they come.
                let mut others = wanted.copy();
                others.make_mut().iter_mut().for_each(|s| s.remove_field("model"));
                wanted.make_mut().append(others);
                let result =
                    query.filter().map(|f| f.intersect_with_mode(&wanted, gst::CapsIntersectMode::First));
                query.set_result(&result.unwrap_or(wanted));
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// Returns the package whose prompts are to come, where it is known before they do.
    fn promised_model(&self) -> Option<String> {
        self.sinkpad().peer_query_caps(None).iter().find_map(|s| s.get::<String>("model").ok())
    }
}

/// Returns how many latent frames may wait: what the model makes at once is made while as many come.
fn room(manifest: &Manifest) -> usize {
    let frames = || vae::num_latent_frames(&manifest.latents, manifest.video.num_frames.max, true);
    manifest.stream.map_or_else(frames, |stream| 2 * stream.chunk)
}

/// Returns why a video prompt that was as `before` says, in a stream that is as `negotiated` says, can't be as `now` says, if it can't.
fn may_become(
    before: Option<&LatentInfo>,
    negotiated: Option<&LatentInfo>,
    now: &LatentInfo,
) -> Result<(), String> {
    if let Some(before) = before.filter(|before| *before != now) {
        return Err(format!(
            "the video prompt was {}x{} at {} frames a second of {} and can't change while it plays; put videoscale, videorate \
             and a capsfilter before vaeencode",
            before.width, before.height, before.framerate, before.model
        ));
    }
    match negotiated {
        Some(known) if known.framerate != now.framerate => Err(format!(
            "the stream has {} frames a second already; put videorate and a capsfilter with framerate={} before vaeencode",
            known.framerate, known.framerate
        )),
        _ => Ok(()),
    }
}
