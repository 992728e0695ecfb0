//! GStreamer elements that turn prompts into video by latent diffusion.

mod caps;
mod frame_times;
mod glue;
mod latency;
mod latent;
mod latentdiffuse;
mod lines;
mod markup;
mod prompting;
mod storyboard;
mod textencode;
mod textsrc;
mod vaedecode;
mod vaeencode;

pub use define::plugin_register_static;

/// Its Rust is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

// The macro's items have no docs of their own.
#[allow(missing_docs)]
mod define {
    use gst::glib;

    fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
        crate::glue::register_library_folders(plugin);
        crate::textsrc::register(plugin)?;
        crate::textencode::register(plugin)?;
        crate::latentdiffuse::register(plugin)?;
        crate::vaedecode::register(plugin)?;
        crate::vaeencode::register(plugin)
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
        "Unknown package origin",
        env!("BUILD_REL_DATE")
    );
}
