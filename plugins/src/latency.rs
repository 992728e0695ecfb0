//! What an element that works chunk by chunk adds to the latency of a live pipeline.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The time for which frames are held back, and the longest that a chunk took to compute.
#[derive(Debug, Default)]
pub struct ChunkLatency {
    live: AtomicBool,
    held: AtomicU64,
    work: AtomicU64,
}

impl ChunkLatency {
    /// Latency is told in steps, so that it does not change with every chunk.
    const STEP: u64 = 10_000_000;

    /// Forgets everything.
    pub fn reset(&self) {
        self.live.store(false, Ordering::Relaxed);
        self.held.store(0, Ordering::Relaxed);
        self.work.store(0, Ordering::Relaxed);
    }

    /// Takes how long a frame waits for its chunk to be full; returns whether that changes the latency.
    pub fn hold(&self, time: gst::ClockTime) -> bool {
        self.held.swap(time.nseconds(), Ordering::Relaxed) != time.nseconds()
    }

    /// Takes how long a chunk took to compute; returns whether that changes the latency of a live pipeline.
    pub fn took(&self, time: Duration) -> bool {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2).next_multiple_of(Self::STEP);
        self.work.fetch_max(time, Ordering::Relaxed) < time && self.live.load(Ordering::Relaxed)
    }

    /// Adds it to what upstream answered.
    pub fn add_to(&self, query: &mut gst::query::Latency) {
        let (live, min, max) = query.result();
        self.live.store(live, Ordering::Relaxed);
        if live {
            let own = self.held.load(Ordering::Relaxed) + self.work.load(Ordering::Relaxed);
            let own = gst::ClockTime::from_nseconds(own);
            query.set(true, min + own, max.map(|max| max + own));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_pipeline_hears_of_both_times_in_steps() {
        gst::init().unwrap();
        let latency = ChunkLatency::default();
        assert!(latency.hold(gst::ClockTime::from_mseconds(125)));
        assert!(!latency.hold(gst::ClockTime::from_mseconds(125)));
        assert!(!latency.took(Duration::from_millis(31)), "nobody is live yet");

        let mut query = gst::query::Latency::new();
        query.set(true, gst::ClockTime::from_mseconds(500), None::<gst::ClockTime>);
        latency.add_to(&mut query);
        assert_eq!(query.result(), (true, gst::ClockTime::from_mseconds(500 + 125 + 40), None));

        assert!(!latency.took(Duration::from_millis(38)));
        assert!(latency.took(Duration::from_millis(41)));
    }

    #[test]
    fn a_pipeline_that_is_not_live_is_left_alone() {
        gst::init().unwrap();
        let latency = ChunkLatency::default();
        latency.hold(gst::ClockTime::SECOND);
        let mut query = gst::query::Latency::new();
        query.set(false, gst::ClockTime::ZERO, None::<gst::ClockTime>);
        latency.add_to(&mut query);
        assert_eq!(query.result(), (false, gst::ClockTime::ZERO, None));
    }
}
