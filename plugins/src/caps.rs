//! The caps that elements speak among each other: prompt embeddings and latent video.

use gst::glib;
use gst::prelude::*;
use latentflow::package::{Fraction, Manifest, Range, VideoConfig};
use latentflow::{Error, Result};

/// The media type of prompt embeddings.
pub const PROMPT_EMBEDS: &str = "application/x-prompt-embeds";
/// The media type of latent video.
pub const LATENT: &str = "video/x-latent";

/// Returns the caps of prompt embeddings: of any package, or of the one with `id`.
pub fn prompt_embeds(id: Option<&str>) -> gst::Caps {
    let builder = gst::Caps::builder(PROMPT_EMBEDS);
    match id {
        Some(id) => builder.field("model", id).build(),
        None => builder.build(),
    }
}

/// Returns the caps of latent video of any package, size and rate.
pub fn any_latent() -> gst::Caps {
    gst::Caps::builder(LATENT)
        .field("width", gst::IntRange::new(1, i32::MAX))
        .field("height", gst::IntRange::new(1, i32::MAX))
        .field(
            "framerate",
            gst::FractionRange::new(gst::Fraction::new(0, 1), gst::Fraction::new(i32::MAX, 1)),
        )
        .build()
}

/// Returns the caps of latent video of the package with `id` in every size and rate that it can do.
pub fn model_latent(id: &str, manifest: &Manifest) -> gst::Caps {
    let VideoConfig { width, height, frame_rate, .. } = &manifest.video;
    // Pictures are shown for as long as their prompts say: a rate is only what caps need.
    let lowest = if manifest.is_image() { gst::Fraction::new(0, 1) } else { fraction(frame_rate.min) };
    gst::Caps::builder(LATENT)
        .field("model", id)
        .field("width", pixels(width))
        .field("height", pixels(height))
        .field("framerate", rates(lowest, fraction(frame_rate.max)))
        .build()
}

/// Returns the caps of latent video that the package with `id` makes itself: the same, with square pixels.
pub fn made_latent(id: &str, manifest: &Manifest) -> gst::Caps {
    let mut caps = model_latent(id, manifest);
    caps.make_mut().set("pixel-aspect-ratio", gst::Fraction::new(1, 1));
    caps
}

/// Returns the sizes of a range, which GStreamer knows as a range only where there are several.
fn pixels(range: &Range<usize>) -> glib::SendValue {
    match (range.min as i32, range.max as i32) {
        (min, max) if min < max => gst::IntRange::new(min, max).to_send_value(),
        (only, _) => only.to_send_value(),
    }
}

/// Returns the rates from `min` to `max`, likewise.
fn rates(min: gst::Fraction, max: gst::Fraction) -> glib::SendValue {
    match min < max {
        true => gst::FractionRange::new(min, max).to_send_value(),
        false => min.to_send_value(),
    }
}

/// Returns raw RGB video of any size and rate: what frames are before they are encoded and after they are decoded.
pub fn any_rgb() -> gst::Caps {
    gst_video::VideoCapsBuilder::new()
        .format(gst_video::VideoFormat::Rgb)
        .framerate_range(gst::Fraction::new(0, 1)..=gst::Fraction::new(i32::MAX, 1))
        .build()
}

/// Returns the raw video that latent video with `caps` is decoded to.
pub fn decoded(caps: &gst::Caps) -> gst::Caps {
    let mut video = rgb_of_latent(caps);
    for s in video.make_mut().iter_mut() {
        s.set("interlace-mode", "progressive");
        s.set("colorimetry", "sRGB");
    }
    video
}

/// Returns the raw video that latent video with `caps` stands for.
pub fn rgb_of_latent(caps: &gst::Caps) -> gst::Caps {
    same_video(&caps.intersect(&any_latent()), gst::Structure::builder("video/x-raw").field("format", "RGB"))
}

/// Returns the latent video of any package that stands for raw video with `caps`.
pub fn latent_of_rgb(caps: &gst::Caps) -> gst::Caps {
    same_video(&caps.intersect(&any_rgb()), gst::Structure::builder(LATENT))
}

/// Returns the size, rate and aspect of every structure of `caps` under another name.
fn same_video(caps: &gst::CapsRef, name: gst::structure::Builder) -> gst::Caps {
    let name = name.build();
    let mut out = gst::Caps::new_empty();
    for from in caps.iter() {
        let mut to = name.clone();
        for field in ["width", "height", "framerate", "pixel-aspect-ratio"] {
            if let Ok(value) = from.value(field) {
                to.set_value(field, value.clone());
            }
        }
        out.merge_structure(to);
    }
    out
}

/// Returns `value` as GStreamer writes it.
pub fn fraction(value: Fraction) -> gst::Fraction {
    gst::Fraction::new(value.numer as i32, value.denom as i32)
}

/// What fixed caps of latent video say: the package, and the video that the latents stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatentInfo {
    /// The package's ID.
    pub model: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Frames a second; 0 for pictures that are shown for as long as each says.
    pub framerate: gst::Fraction,
}

impl LatentInfo {
    /// Returns what fixed `caps` say.
    ///
    /// # Errors
    /// [`Error::Shape`] tells which field is missing.
    pub fn from_caps(caps: &gst::CapsRef) -> Result<Self> {
        Self::read(caps).map_err(|found| Error::Shape {
            what: "the stream".into(),
            found,
            expected: format!("{LATENT} with the package's ID, size and rate"),
        })
    }

    fn read(caps: &gst::CapsRef) -> Result<Self, String> {
        let s = caps
            .structure(0)
            .filter(|s| s.name() == LATENT)
            .ok_or_else(|| format!("`{caps}` is not {LATENT}"))?;
        let missing = |field| format!("`{caps}` says no `{field}`");
        let size = |field| -> Result<u32, String> {
            let value = s.get::<i32>(field).map_err(|_| missing(field))?;
            u32::try_from(value).ok().filter(|v| *v > 0).ok_or_else(|| format!("`{field}` is {value}"))
        };
        let framerate = s.get::<gst::Fraction>("framerate").map_err(|_| missing("framerate"))?;
        if framerate.numer() < 0 {
            return Err(format!("`framerate` is {framerate}"));
        }
        let model = s.get::<String>("model").map_err(|_| missing("model"))?;
        Ok(Self { model, width: size("width")?, height: size("height")?, framerate })
    }

    /// Returns the caps that say this.
    pub fn to_caps(&self) -> gst::Caps {
        gst::Caps::builder(LATENT)
            .field("model", &self.model)
            .field("width", self.width as i32)
            .field("height", self.height as i32)
            .field("framerate", self.framerate)
            .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
            .build()
    }

    /// Returns when frame `index` of a stream starts, counted from its first one: scaled, never accumulated.
    pub fn frame_time(&self, index: u64) -> gst::ClockTime {
        frame_time(index, self.framerate)
    }

    /// Returns how many frames fit into `duration`, rounded to the nearest.
    pub fn frames_in(&self, duration: gst::ClockTime) -> u64 {
        let (numer, denom) = (self.framerate.numer() as u64, self.framerate.denom() as u64);
        duration
            .nseconds()
            .mul_div_round(numer, denom * gst::ClockTime::SECOND.nseconds())
            .unwrap_or(u64::MAX)
    }
}

/// Returns when frame `index` starts at `framerate`; without a rate, at once.
pub fn frame_time(index: u64, framerate: gst::Fraction) -> gst::ClockTime {
    if framerate.numer() == 0 {
        return gst::ClockTime::ZERO;
    }
    let (numer, denom) = (framerate.numer() as u64, framerate.denom() as u64);
    let second = gst::ClockTime::SECOND.nseconds();
    gst::ClockTime::from_nseconds(index.mul_div_floor(second * denom, numer).unwrap_or(u64::MAX - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> LatentInfo {
        LatentInfo { model: "m-1".into(), width: 256, height: 160, framerate: gst::Fraction::new(24, 1) }
    }

    #[test]
    fn caps_say_what_the_info_says() {
        gst::init().unwrap();
        assert_eq!(LatentInfo::from_caps(&info().to_caps()).unwrap(), info());
        assert!(info().to_caps().can_intersect(&any_latent()));
        let error = LatentInfo::from_caps(&gst::Caps::builder(LATENT).field("width", 8).build())
            .unwrap_err()
            .to_string();
        assert!(error.contains("framerate"), "{error}");
    }

    #[test]
    fn latents_have_the_size_rate_and_aspect_of_their_video() {
        gst::init().unwrap();
        let video = gst::Caps::builder("video/x-raw")
            .field("format", gst::List::new(["I420", "RGB"]))
            .field("width", 256)
            .field("framerate", gst::Fraction::new(24, 1))
            .build();
        let latent = latent_of_rgb(&video);
        let s = latent.structure(0).unwrap();
        assert_eq!((s.name().as_str(), s.get::<i32>("width")), (LATENT, Ok(256)));
        assert_eq!(s.get("framerate"), Ok(gst::Fraction::new(24, 1)));
        assert!(s.has_field("height") && !s.has_field("format"));
        let back = rgb_of_latent(&latent);
        assert!(back.is_subset(&video) && back.structure(0).unwrap().get::<&str>("format") == Ok("RGB"));
        assert_eq!(back, rgb_of_latent(&latent_of_rgb(&back)));
        assert!(rgb_of_latent(&video).is_empty());
    }

    #[test]
    fn times_are_scaled_from_the_frame_index() {
        let ntsc = LatentInfo { framerate: gst::Fraction::new(30000, 1001), ..info() };
        assert_eq!(info().frame_time(24), gst::ClockTime::SECOND);
        assert_eq!(info().frame_time(1).nseconds(), 41_666_666);
        assert_eq!(ntsc.frame_time(30000), gst::ClockTime::from_seconds(1001));
        for index in [0, 1, 2, 3, 71, 72, 1000, 86400] {
            assert_eq!(ntsc.frames_in(ntsc.frame_time(index)), index);
        }
    }
}
