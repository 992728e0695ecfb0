//! What is measured of a stream.

use std::time::{Duration, Instant};

/// What is measured of a stream.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// When the first chunk was begun.
    pub started: Option<Instant>,
    /// How long the first chunk took.
    pub time_to_first_chunk: Duration,
    /// Chunks made.
    pub chunks: u64,
    /// Frames that they stand for.
    pub frames: u64,
    /// How long these last.
    pub video: gst::ClockTime,
    /// How long they took.
    pub generating: Duration,
    /// Chunks that were there when their time came.
    pub deadline_hits: u64,
    /// Denoising steps asked for a chunk, the last time.
    pub num_inference_steps: u32,
    /// Steps of all chunks that were done without a pass of the denoiser.
    pub skipped_steps: u64,
    /// When progress was told last.
    pub told: Option<Instant>,
}

impl Stats {
    /// Returns the `stats` property.
    pub fn to_structure(&self) -> gst::Structure {
        let generating = self.generating.as_secs_f64();
        let video = self.video.nseconds() as f64 / 1e9;
        gst::Structure::builder("application/x-latentflow-stats")
            .field("time-to-first-chunk", self.time_to_first_chunk.as_nanos() as u64)
            .field("chunks", self.chunks)
            .field("frames", self.frames)
            .field("real-time-factor", if generating > 0.0 { video / generating } else { 0.0 })
            .field("deadline-hits", self.deadline_hits)
            .field("num-inference-steps", self.num_inference_steps)
            .field("skipped-steps", self.skipped_steps)
            .build()
    }
}
