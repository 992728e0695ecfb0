//! Gaussian noise from a seed: the numbers of PyTorch's CPU generator.
//!
//! A prompt and a seed name one video, so the noise has to be the same everywhere: in this library, in diffusers with
//! `torch.Generator("cpu").manual_seed(seed)`, on every machine and for every execution provider. [`randn`] gives what
//! `torch.randn(shape, generator=…, dtype=torch.float32)` gives.
//!
//! "The same" means the same random bits through the same formula. PyTorch evaluates logarithm, sine and cosine by
//! vector approximations that depend on the processor; here they are correctly rounded in all but freak cases, on
//! every processor. The difference to PyTorch is a few units in the last place (below 1e-6).
//!
//! Sources: M. Matsumoto and T. Nishimura, "Mersenne Twister" (1998); `normal_fill` in PyTorch's
//! `aten/src/ATen/native/cpu/DistributionTemplates.h` and `normal_distribution` in
//! `aten/src/ATen/core/DistributionsHelper.h`; splitmix64 from G. Steele, D. Lea, C. Flood, "Fast splittable
//! pseudorandom number generators" (2014).

use std::f32::consts::TAU;

use ndarray::ArrayD;

use crate::package::NoiseLayout;

/// This is PyTorch's CPU generator, as far as float32 normal numbers need it.
///
/// ```
/// use latentflow::noise::Generator;
///
/// let mut latents = [0.0; 32];
/// Generator::new(42).randn(&mut latents);
/// // torch.randn(32, generator=torch.Generator("cpu").manual_seed(42))[0] == 1.9269153
/// assert!((latents[0] - 1.9269153).abs() < 1e-6);
/// ```
#[derive(Debug, Clone)]
pub struct Generator {
    seed: u64,
    engine: Mt19937,
    /// The second number of the last pair that the scalar path drew and hasn't handed out yet.
    spare: Option<f64>,
}

/// Where a generator stands: its seed, and how many of the engine's 32-bit numbers were drawn since.
///
/// It takes the place of a generator where who goes on drawing is not who began: [`Generator::at`] goes on from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The seed, of which the lower 32 bits count.
    pub seed: u64,
    /// The numbers drawn.
    pub drawn: u64,
}

impl Generator {
    /// Returns a generator that goes on from `position`, as fast as it would draw up to there.
    ///
    /// A number that draws below 16 left over is forgotten.
    pub fn at(position: Position) -> Self {
        let mut generator = Self::new(position.seed);
        for _ in 0..position.drawn {
            generator.engine.next_u32();
        }
        generator
    }

    /// Returns where it stands.
    pub fn position(&self) -> Position {
        Position { seed: self.seed, drawn: self.engine.drawn() }
    }

    /// Returns a generator in the state that `manual_seed(seed)` leaves.
    ///
    /// Every `seed` is valid, but only its lower 32 bits count, as in PyTorch: seeds that are 2³² apart give the same
    /// noise. A negative seed of Python's is its two's complement here, `-1` is [`u64::MAX`].
    pub fn new(seed: u64) -> Self {
        Self { seed, engine: Mt19937::new(seed as u32), spare: None }
    }

    /// Fills `out` with the next `out.len()` normal numbers, mean 0 and standard deviation 1.
    ///
    /// The numbers depend on how the draws are cut into calls, since PyTorch takes 16 and more at a time by another
    /// way than fewer: two calls of 8 are not one call of 16. An odd call below 16 leaves the second number of a pair,
    /// which the next call below 16 begins with.
    pub fn randn(&mut self, out: &mut [f32]) {
        if out.len() < BLOCK {
            out.fill_with(|| self.next_scalar() as f32);
            return;
        }
        // All uniforms come first, the ones of a ragged tail included ...
        out.fill_with(|| self.engine.uniform_f32());
        let (blocks, tail) = out.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(box_muller);
        if !tail.is_empty()
            && let Some(last) = out.last_chunk_mut::<BLOCK>()
        {
            // ... and a ragged tail draws the last 16 afresh, some of them finished ones.
            last.fill_with(|| self.engine.uniform_f32());
            box_muller(last);
        }
    }

    /// Returns the noise of a chunk of latents `[C, T, H, W]`, drawn in the order of `layout`: the tensor that diffusers draws for a
    /// batch of one.
    pub fn latents(&mut self, shape: [usize; 4], layout: NoiseLayout) -> Vec<f32> {
        let mut noise = vec![0.0; shape.iter().product()];
        self.fill_latents(&mut noise, shape, layout);
        noise
    }

    /// Fills `out` with the same.
    ///
    /// # Panics
    /// If `out` is not of `shape`.
    pub fn fill_latents(&mut self, out: &mut [f32], shape: [usize; 4], layout: NoiseLayout) {
        let [c, t, h, w] = shape;
        assert_eq!(out.len(), c * t * h * w, "noise is of another shape than {shape:?}");
        self.randn(out);
        if layout == NoiseLayout::FramesFirst {
            let drawn = out.to_vec();
            // [T, C, H, W] -> [C, T, H, W]
            for (index, plane) in out.chunks_mut((h * w).max(1)).enumerate() {
                let (channel, frame) = (index / t, index % t);
                plane.copy_from_slice(&drawn[(frame * c + channel) * h * w..][..h * w]);
            }
        }
    }

    /// One number by PyTorch's scalar path, which works in double precision and keeps every second number.
    fn next_scalar(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = std::f64::consts::TAU * self.engine.uniform_f64();
        let radius = (-2.0 * (-self.engine.uniform_f64()).ln_1p()).sqrt();
        let (sin, cos) = angle.sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

/// Returns normal noise of `shape`: what `torch.randn` gives for a fresh generator with this `seed`.
///
/// # Panics
///
/// Where the product of `shape` exceeds [`isize::MAX`], as every array of that shape would.
pub fn randn(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let mut noise = ArrayD::zeros(shape);
    if let Some(out) = noise.as_slice_mut() {
        Generator::new(seed).randn(out);
    }
    noise
}

/// Returns the seed of chunk `index` of a stream, so that a chunk's noise depends on `seed` and `index` alone.
///
/// Chunk 0 has `seed` itself, so that a stream's first chunk is the clip with that seed. Chunk `index` above 0 has the
/// output number `index` of splitmix64 seeded with `seed`, all of whose bits are mixed: also the lower 32, which are
/// the ones that [`Generator::new`] takes.
pub fn chunk_seed(seed: u64, index: u64) -> u64 {
    if index == 0 {
        return seed;
    }
    let z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The number of values that PyTorch transforms at once: 8 radii, then 8 angles.
const BLOCK: usize = 16;

/// Box and Muller's transform in place: uniforms in `[0, 1)` to normal numbers.
///
/// Each function is evaluated in double precision and rounded once, which makes it the correctly rounded single one
/// but for a case in 10⁸, whatever the platform's mathematics library.
fn box_muller(block: &mut [f32; BLOCK]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        let u = 1.0 - *first; // (0, 1], for the logarithm
        let log = f64::from(u).ln() as f32;
        let radius = (-2.0 * log).sqrt();
        let (sin, cos) = f64::from(TAU * *second).sin_cos();
        *first = radius * cos as f32;
        *second = radius * sin as f32;
    }
}

/// The Mersenne Twister with 19937 bits of state.
///
/// Written out rather than taken from a crate: it is these few lines, its stream is a contract that no dependency's
/// new major version may change, and the tests hold it against PyTorch.
#[derive(Debug, Clone)]
struct Mt19937 {
    state: [u32; Self::N],
    next: usize,
    twists: u64,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            let previous = state[i - 1];
            state[i] = (previous ^ (previous >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: Self::N, twists: 0 }
    }

    fn twist(&mut self) {
        for i in 0..Self::N {
            let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::N] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
        self.twists += 1;
    }

    /// Returns how many numbers it has given.
    fn drawn(&self) -> u64 {
        (self.twists * Self::N as u64 + self.next as u64) - Self::N as u64
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in `[0, 1)` from the lower 24 bits.
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `[0, 1)` from the lower 53 bits of two draws, the first being the upper half.
    fn uniform_f64(&mut self) -> f64 {
        let bits = (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mersenne_twister_gives_its_published_ten_thousandth_number() {
        // ISO C++ [rand.predef]: the 10000th invocation of a default-seeded mt19937 gives 4123659995.
        let mut engine = Mt19937::new(5489);
        let last = (0..10_000).map(|_| engine.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn chunk_seeds_are_splitmix64_after_the_first() {
        assert_eq!(chunk_seed(1_234_567, 0), 1_234_567);
        assert_eq!(chunk_seed(1_234_567, 1), 6_457_827_717_110_365_317);
        assert_eq!(chunk_seed(1_234_567, 2), 3_203_168_211_198_807_973);
    }

    #[test]
    fn chunks_of_neighbouring_seeds_share_no_noise() {
        let mut seeds: Vec<u32> =
            (0..50).flat_map(|seed| (0..50).map(move |index| chunk_seed(seed, index) as u32)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 2500, "the lower halves, which count, are all different");
    }

    #[test]
    fn shape_is_only_a_view_of_the_same_numbers() {
        let flat = randn(&[2 * 3 * 4 * 5], 7);
        let shaped = randn(&[2, 3, 4, 5], 7);
        assert_eq!(shaped.shape(), [2, 3, 4, 5]);
        assert!(shaped.iter().eq(flat.iter()));
        assert_eq!(randn(&[3, 0], 7).len(), 0);
    }

    #[test]
    fn frames_first_is_another_order_of_the_same_numbers() {
        let drawn = randn(&[3, 2, 2, 4], 7);
        let latents = Generator::new(7).latents([2, 3, 2, 4], NoiseLayout::FramesFirst);
        let latents = ArrayD::from_shape_vec(vec![2, 3, 2, 4], latents).unwrap();
        assert_eq!(latents, drawn.permuted_axes(vec![1, 0, 2, 3]).as_standard_layout());
        let same = Generator::new(7).latents([2, 3, 2, 4], NoiseLayout::ChannelsFirst);
        assert!(same.iter().eq(randn(&[2, 3, 2, 4], 7).iter()));
    }

    #[test]
    fn a_generator_goes_on_from_where_another_stands() {
        for drawn in [0, 16, 21, 624, 2000] {
            let mut begun = Generator::new(5);
            begun.randn(&mut vec![0.0; drawn]);
            let mut other = Generator::at(begun.position());
            assert_eq!(other.position(), begun.position());
            let (mut rest, mut same) = ([0.0; 40], [0.0; 40]);
            begun.randn(&mut rest);
            other.randn(&mut same);
            assert_eq!(rest, same, "after {drawn} numbers");
        }
    }

    #[test]
    fn many_numbers_are_normal() {
        let noise = randn(&[100_003], 3);
        let mean = noise.iter().map(|&x| f64::from(x)).sum::<f64>() / noise.len() as f64;
        let variance = noise.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / noise.len() as f64;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
        assert!(noise.iter().all(|x| x.is_finite()));
    }
}
