//! `textencode`: any text stream, to prompt embeddings.
//!
//! ```text
//! gst-launch-1.0 filesrc location=story.srt ! subparse ! textencode ! latentdiffuse ! vaedecode ! queue ! videoconvert ! \
//!     autovideosink
//! gst-launch-1.0 fdsrc ! text/x-raw,format=utf8 ! textencode ! latentdiffuse ! vaedecode ! queue ! videoconvert ! \
//!     autovideosink
//! ```
//!
//! In a segment of times, as `subparse` sends it, each buffer is a prompt, which keeps its PTS and duration; white
//! space alone is none. In a segment of bytes, as `fdsrc` sends it, the buffers are pieces of a text whose lines are the
//! prompts: a line is a prompt when its end has come, and holds from the next chunk on; blank lines and lines that begin
//! with `#` are none. `appsrc` sends bytes unless its `format` is `time`.
//!
//! Pango's markup is taken off. Gaps pass.

mod imp;

use gst::glib;
use gst::prelude::*;

glib::wrapper! {
    /// Makes prompt embeddings of a text stream.
    pub struct TextEncode(ObjectSubclass<imp::TextEncode>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element with `plugin`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "textencode", gst::Rank::NONE, TextEncode::static_type())
}
