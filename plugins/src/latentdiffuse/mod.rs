//! `latentdiffuse`: the diffusion transformer, from prompt embeddings to latent video.
//!
//! ```text
//! gst-launch-1.0 textsrc prompt="a dog runs in the snow" duration=3000000000 ! latentdiffuse seed=7 ! \
//!     vaedecode ! queue ! videoconvert ! autovideosink
//! ```
//!
//! The request pad `video` takes latents as a video prompt, which `strength` leads away from. With a strength of 0 they pass, and
//! the model goes on where they end:
//!
//! ```text
//! gst-launch-1.0 latentdiffuse name=d strength=0.6 ! vaedecode ! queue ! videoconvert ! autovideosink \
//!     textsrc prompt="a garden at night" duration=4000000000 ! d.sink \
//!     videotestsrc num-buffers=96 ! video/x-raw,width=256,height=160,framerate=24/1 ! videoconvert ! vaeencode ! d.video
//! ```
//!
//! A new prompt is a cut, or, with `transition-chunks`, its scene grows out of the one before:
//!
//! ```text
//! gst-launch-1.0 textsrc location=story.srt ! latentdiffuse transition-chunks=3 ! vaedecode ! queue ! videoconvert ! autovideosink
//! ```
//!
//! Of a live source's prompts (`textsrc is-live=true`) chunks are made as their time comes, two chunks late at most.
//!
//! The request pad `image` takes the picture that a video starts from, for models whose package has a `[conditioner]`: the first frame
//! of raw video of any format and size, of which the middle is scaled to the video's size.
//!
//! ```text
//! gst-launch-1.0 latentdiffuse name=d ! vaedecode ! queue ! videoconvert ! autovideosink \
//!     textsrc model=wan2.1-i2v prompt="the cat turns its head" duration=2000000000 ! d.sink \
//!     filesrc location=cat.jpg ! jpegdec ! d.image
//! ```

mod image;
mod imp;
mod stats;
mod timeline;
mod transition;
mod video;

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
