//! `textsrc`: prompts, to prompt embeddings.
//!
//! One prompt, for a while:
//! ```text
//! gst-launch-1.0 textsrc prompt="a dog runs in the snow" duration=3000000000 ! latentdiffuse ! vaedecode ! \
//!     queue ! videoconvert ! autovideosink
//! ```
//! A subtitle file as a storyboard, each cue a prompt for its span:
//! ```text
//! gst-launch-1.0 textsrc location=story.srt ! latentdiffuse ! vaedecode ! videoconvert ! \
//!     video/x-raw,format=I420 ! x264enc ! mp4mux ! filesink location=story.mp4
//! ```
//! Lines typed while the video plays:
//! ```text
//! gst-launch-1.0 textsrc location=- ! latentdiffuse ! vaedecode ! queue ! videoconvert ! autovideosink
//! ```
//!
//! Each buffer holds a prompt's embeddings as a safetensors file. Its PTS and duration are the prompt's span in the
//! stream; without a duration the prompt holds until the next one, without a PTS from the next chunk on.
//!
//! - `prompt` with `duration` is one buffer, then the end of the stream. Without `duration` the element waits, and
//!   sends the prompt again whenever `prompt` or `negative-prompt` is set to something else; of changes in quick succession the last one counts.
//! - `location` names a file: `.srt` and `.vtt` are storyboards, whose cues last until the next one begins, the last one until all have
//!   ended; any other file has a prompt a line, blank lines and lines that begin with `#` left out. Files are UTF-8, or UTF-16 with a byte
//!   order mark.
//! - `location=-` reads standard input, a line when it comes. The process has one standard input: two such elements
//!   share its lines.
//!
//! An EOS event that is sent to the element or to its pipeline ends whatever plays: the video is over with the chunk that is being made.
//!
//! Where the length is known, the stream can be sought: the prompt that covers the position is sent again.

mod imp;

use gst::glib;
use gst::prelude::*;

glib::wrapper! {
    /// Makes prompt embeddings of a prompt, a file of prompts or standard input.
    pub struct TextSrc(ObjectSubclass<imp::TextSrc>)
        @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object;
}

/// Registers the element with `plugin`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "textsrc", gst::Rank::NONE, TextSrc::static_type())
}
