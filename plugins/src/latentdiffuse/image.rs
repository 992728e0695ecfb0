//! An image prompt: one frame of raw video of any format and size, brought to the size of the video that it starts.

use gst_video::prelude::*;
use latentflow::{Error, Result};

use crate::glue;

/// What came on the image pad.
#[derive(Debug, Default, Clone)]
pub struct ImagePrompt {
    /// What its caps say.
    pub info: Option<gst_video::VideoInfo>,
    /// The first frame.
    pub frame: Option<gst::Buffer>,
    /// No frame is to be waited for.
    pub ended: bool,
}

impl ImagePrompt {
    /// Returns whether it is known what there is, an image or none.
    pub fn is_settled(&self) -> bool {
        self.frame.is_some() || self.ended
    }

    /// Returns the image, if there is one, as RGB rows without gaps: its middle, as large as the shape allows, scaled to
    /// `width`×`height`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the frame can't be read or converted.
    pub fn rgb(&self, width: u32, height: u32) -> Result<Option<Vec<u8>>> {
        let (Some(info), Some(frame)) = (&self.info, &self.frame) else { return Ok(None) };
        let failed = |e: gst::glib::BoolError| Error::Shape {
            what: "the image".into(),
            found: e.to_string(),
            expected: "raw video that GStreamer converts to RGB".into(),
        };
        let out_info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, width, height)
            .fps(info.fps())
            .interlace_mode(info.interlace_mode())
            .build()
            .map_err(failed)?;
        let mut config = gst_video::VideoConverterConfig::new();
        let (x, y, w, h) = middle(info.width(), info.height(), info.par(), width, height);
        config.set_src_x(x as i32);
        config.set_src_y(y as i32);
        config.set_src_width(Some(w as i32));
        config.set_src_height(Some(h as i32));
        config.set_resampler_method(gst_video::VideoResamplerMethod::Lanczos);
        let converter = gst_video::VideoConverter::new(info, &out_info, Some(config)).map_err(failed)?;

        let from = gst_video::VideoFrameRef::from_buffer_ref_readable(frame, info)
            .map_err(|e| glue::unreadable(&e))?;
        let mut buffer = gst::Buffer::with_size(out_info.size()).map_err(failed)?;
        let buffer = buffer.make_mut();
        let mut to = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, &out_info).map_err(failed)?;
        converter.frame_ref(&from, &mut to);
        let stride = to.plane_stride()[0] as usize;
        let rows = to.plane_data(0).map_err(failed)?.chunks(stride).take(height as usize);
        Ok(Some(rows.flat_map(|row| &row[..width as usize * 3]).copied().collect()))
    }
}

/// Returns the largest part of a frame (x, y, width, height) in the middle that has the shape of `to_width`×`to_height`.
fn middle(
    width: u32,
    height: u32,
    par: gst::Fraction,
    to_width: u32,
    to_height: u32,
) -> (u32, u32, u32, u32) {
    let (par_n, par_d) = (par.numer().max(1) as u64, par.denom().max(1) as u64);
    let from = (u64::from(width) * par_n, u64::from(height) * par_d);
    let to = (u64::from(to_width), u64::from(to_height));
    if from.0 * to.1 > to.0 * from.1 {
        let part = (from.1 * to.0 / to.1 / par_n).clamp(1, width.into()) as u32;
        ((width - part) / 2, 0, part, height)
    } else {
        let part = (from.0 * to.1 / to.0 / par_d).clamp(1, height.into()) as u32;
        (0, (height - part) / 2, width, part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_has_the_shape_of_the_video() {
        let square = gst::Fraction::new(1, 1);
        assert_eq!(middle(640, 480, square, 64, 48), (0, 0, 640, 480));
        assert_eq!(middle(1000, 500, square, 64, 64), (250, 0, 500, 500));
        assert_eq!(middle(500, 1000, square, 64, 64), (0, 250, 500, 500));
        assert_eq!(middle(720, 576, gst::Fraction::new(16, 11), 100, 100), (162, 0, 396, 576));
        assert_eq!(middle(1, 1000, square, 1000, 1), (0, 499, 1, 1));
    }

    #[test]
    fn an_image_of_the_right_size_is_taken_as_it_is() {
        gst::init().unwrap();
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, 3, 2).build().unwrap();
        let stride = info.stride()[0] as usize;
        let bytes: Vec<u8> = (0..stride * 2).map(|i| i as u8 * 5).collect();
        let frame = Some(gst::Buffer::from_slice(bytes.clone()));
        let image = ImagePrompt { info: Some(info), frame, ended: false };
        let expected = [&bytes[..9], &bytes[stride..stride + 9]].concat();
        assert_eq!(image.rgb(3, 2).unwrap().unwrap(), expected);
        assert!(ImagePrompt::default().rgb(3, 2).unwrap().is_none());
    }
}
