//! Tells the plugin its commit and date, for `gst-inspect-1.0`.

fn main() {
    gst_plugin_version_helper::info()
}
