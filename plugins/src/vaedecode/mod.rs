//! `vaedecode`: latents to frames.
//!
//! ```text
//! gst-launch-1.0 textsrc prompt="a cat in the snow" ! latentdiffuse ! vaedecode ! queue ! videoconvert ! autovideosink
//! ```
//!
//! One buffer of latents becomes the frames that it stands for, each with its own timestamp. The network of a model that streams is
//! causal: what a chunk looks like depends on those before it in its scene, so chunks come in order, and DISCONT on one starts a
//! scene. So does the first one after a start or a flush, marked or not; of a model of clips, every chunk is a scene. Frames outside
//! the segment are dropped after they were decoded. At a scene cut a force-key-unit event goes downstream, so that encoders start a
//! new group there.
//!
//! A chunk without its predecessor, because that was lost or one tuned in late, is decoded as a scene's first: it lacks its
//! first frames, and the others keep their times. The latency of a live pipeline grows by the longest time that a chunk
//! took to decode. If a clip's first frames take longer than a second, PROGRESS messages tell how far it is. Decoder and
//! encoder in two processes both need `model`.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// Decodes latents to video.
    pub struct VaeDecode(ObjectSubclass<imp::VaeDecode>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "vaedecode", gst::Rank::PRIMARY, VaeDecode::static_type())
}
