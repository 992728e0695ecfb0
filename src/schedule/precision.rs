//! Rounding as diffusers rounds.

/// The precision that diffusers computes with, which NumPy and PyTorch decide by what the numbers came from.
///
/// Single precision is double precision rounded after each operation, which gives the very same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    Single,
    Double,
}

impl Precision {
    pub(super) fn round(self, x: f64) -> f64 {
        match self {
            Self::Single => f64::from(x as f32),
            Self::Double => x,
        }
    }
}
