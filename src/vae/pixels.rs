//! RGB bytes to the floats that graphs take.

/// RGB frames without gaps.
pub(crate) struct Pixels<'a> {
    pub data: &'a [u8],
    pub width: usize,
    pub height: usize,
}

impl Pixels<'_> {
    /// Writes the part of every frame at `left`, `top` to `out` as floats in 0..1; outside the frame its edge is repeated, and
    /// after the last frame that one.
    pub fn cut(&self, (left, top): (usize, usize), (width, height): (usize, usize), out: &mut [f32]) {
        let row = self.width * 3;
        let frames = self.data.chunks_exact(row * self.height);
        let last = frames.clone().next_back().into_iter().cycle();
        for (frame, out) in frames.chain(last).zip(out.chunks_exact_mut(width * height * 3)) {
            for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
                let start = (top + y).min(self.height - 1) * row;
                let from = &frame[start..start + row];
                let inside = self.width.saturating_sub(left).min(width) * 3;
                let (out, outside) = out.split_at_mut(inside);
                for (out, byte) in out.iter_mut().zip(&from[(row - 3).min(left * 3)..]) {
                    *out = f32::from(*byte) / 255.0;
                }
                for out in outside.chunks_exact_mut(3) {
                    for (out, byte) in out.iter_mut().zip(&from[row - 3..]) {
                        *out = f32::from(*byte) / 255.0;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_and_the_last_frame_are_repeated() {
        // Two frames of 2×1 pixels, cut to three of 3×2.
        let data: Vec<u8> = (0..12).collect();
        let mut out = [0.0; 3 * 2 * 9];
        Pixels { data: &data, width: 2, height: 1 }.cut((0, 0), (3, 2), &mut out);
        let bytes = out.map(|v| (v * 255.0).round() as u8);
        let (a, b) = ([0, 1, 2, 3, 4, 5, 3, 4, 5], [6, 7, 8, 9, 10, 11, 9, 10, 11]);
        assert_eq!(bytes.as_slice(), [a, a, b, b, b, b].concat());
    }

    #[test]
    fn a_part_outside_the_frame_is_its_edge() {
        let data: Vec<u8> = (0..6).collect();
        let mut out = [0.0; 6];
        Pixels { data: &data, width: 2, height: 1 }.cut((4, 0), (2, 1), &mut out);
        assert_eq!(out.map(|v| (v * 255.0).round() as u8), [3, 4, 5, 3, 4, 5]);
    }
}
