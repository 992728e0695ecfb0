//! The image pad, on the streaming thread of the image.

use super::super::image::ImagePrompt;
use super::{CAT, LatentDiffuse};

impl LatentDiffuse {
    /// Takes the first frame, and lets upstream end with it: a source that repeats a picture would never.
    pub(super) fn image_chain(
        &self,
        pad: &gst::Pad,
        buffer: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut state = self.lock();
        if !state.active {
            return Err(gst::FlowError::Flushing);
        }
        let Some(image) = &mut state.image else { return Err(gst::FlowError::Flushing) };
        if image.info.is_none() {
            return Err(gst::FlowError::NotNegotiated);
        }
        if image.ended {
            return Err(gst::FlowError::Eos);
        }
        gst::log!(CAT, obj = pad, "image {buffer:?}");
        image.frame = Some(buffer);
        image.ended = true;
        drop(state);
        self.changed.notify_all();
        Ok(gst::FlowSuccess::Ok)
    }

    pub(super) fn image_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::log!(CAT, obj = pad, "event {event:?}");
        let mut state = self.lock();
        let Some(image) = &mut state.image else { return false };
        match event.view() {
            gst::EventView::Caps(caps) => match gst_video::VideoInfo::from_caps(caps.caps()) {
                // That of the frame that was taken stays.
                Ok(info) if image.frame.is_none() => image.info = Some(info),
                Ok(_) => (),
                Err(reason) => {
                    gst::error!(CAT, obj = pad, "{reason}");
                    return false;
                }
            },
            gst::EventView::Eos(_) => image.ended = true,
            // After a seek the image comes again.
            gst::EventView::FlushStop(_) => {
                *image = ImagePrompt { info: image.info.take(), ..Default::default() }
            }
            // The rest is told downstream by the prompts' stream.
            _ => return true,
        }
        drop(state);
        self.changed.notify_all();
        true
    }
}
