//! The video pad, on the streaming thread of the video prompt.

use gst::prelude::*;
use gst::subclass::prelude::*;
use latentflow::Error;

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
            if state.flushing {
                return Err(gst::FlowError::Flushing);
            }
            state.flow?;
            let room = match (&state.model, &state.video) {
                // What the model's chunk is decides how much may wait.
                (Some(model), Some(video)) => {
                    video.waiting()
                        < 2 * model.manifest().stream.map_or(usize::MAX / 2, |stream| stream.chunk)
                }
                (None, Some(_)) => false,
                (_, None) => return Err(gst::FlowError::Flushing),
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
        let pushed = video.push(&latents, l.channels, cells(info.width) * cells(info.height));
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
        let Some(video) = &mut state.video else { return false };
        match event.view() {
            gst::EventView::Caps(caps) => match LatentInfo::from_caps(caps.caps()) {
                Ok(info) => video.info = Some(info),
                Err(reason) => {
                    gst::error!(CAT, obj = pad, "{reason}");
                    return false;
                }
            },
            gst::EventView::Eos(_) => video.end(),
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
                let can = self.can();
                // Its size and rate are those of what is made of it.
                let mut wanted = self.srcpad().peer_query_caps(Some(&can));
                // Another package's are refused with the reason, once they come.
                wanted.make_mut().iter_mut().for_each(|s| s.remove_field("model"));
                let result =
                    query.filter().map(|f| f.intersect_with_mode(&wanted, gst::CapsIntersectMode::First));
                query.set_result(&result.unwrap_or(wanted));
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }
}
