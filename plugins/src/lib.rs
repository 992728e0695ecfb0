//! GStreamer elements that turn prompts into video by latent diffusion.

mod caps;
mod glue;
mod latent;

use gst::glib;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    glue::register_library_folders(plugin);
    Ok(())
}

gst::plugin_define!(
    latentflow,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    // GStreamer knows its licences by a fixed list; the crates are dual-licensed.
    "MIT/X11",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "https://github.com/latentflow/latentflow",
    env!("BUILD_REL_DATE")
);
