//! `latentdiffuse`: the diffusion transformer, from prompt embeddings to latent video.
//!
//! ```text
//! gst-launch-1.0 textsrc prompt="a dog runs in the snow" duration=3000000000 ! latentdiffuse seed=7 ! \
//!     vaedecode ! videoconvert ! autovideosink
//! ```

mod imp;
mod timeline;

use gst::glib;
use gst::prelude::*;

glib::wrapper! {
    /// Makes latent video of prompts.
    pub struct LatentDiffuse(ObjectSubclass<imp::LatentDiffuse>) @extends gst::Element, gst::Object;
}

/// Registers the element with `plugin`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "latentdiffuse", gst::Rank::NONE, LatentDiffuse::static_type())
}
