//! `vaeencode`: frames to latents.
//!
//! ```text
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! videoconvert ! videoscale ! videorate ! \
//!     video/x-raw,width=256,height=160,framerate=24/1 ! vaeencode ! vaedecode ! queue ! videoconvert ! autovideosink
//! ```
//!
//! The first latent frame of a scene stands for one frame, each later one for several (four, say): frames are collected
//! until a chunk is full. What is left at the end of the stream, or where it jumps, is padded inside; OFFSET_END says how many
//! frames are real, so that `vaedecode` gives back exactly those that went in. A jump in time, DISCONT, new caps or a new
//! segment start a scene; of a model of clips, every chunk is one.
//!
//! The latency of a live pipeline grows by the time until a chunk is full and by the longest time that one took to encode.
//! If a clip takes longer than a second to encode, PROGRESS messages tell how far it is.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// Encodes video to latents.
    pub struct VaeEncode(ObjectSubclass<imp::VaeEncode>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "vaeencode", gst::Rank::NONE, VaeEncode::static_type())
}
