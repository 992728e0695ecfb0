//! Spacetime patches: latents `[C, T, H, W]` to tokens and back.
//!
//! A diffusion transformer reads latents as a sequence of tokens, each a block of `patch_size_t` frames by `patch_size`
//! by `patch_size` positions. The order is that of diffusers' LTX pipeline (`_pack_latents` in `pipeline_ltx.py`):
//! tokens by frame, row and column of their block; within a token by channel, frame, row and column.
//!
//! Packages whose graphs take `[B, C, T, H, W]` do this inside the graph. [`seq_len`] serves them too, for a schedule that
//! depends on the number of tokens.

use ndarray::{Array2, Array4, ArrayView2, ArrayView4, IxDyn};

use crate::error::{Error, Result};

/// Returns how many tokens latents of `[C, T, H, W]` make, `(T / patch_size_t)·(H / patch_size)·(W / patch_size)`.
///
/// # Errors
///
/// [`Error::Shape`] where a patch size is 0 or doesn't divide the latents.
pub fn seq_len(shape: [usize; 4], patch_size: usize, patch_size_t: usize) -> Result<usize> {
    Ok(grid(shape, patch_size, patch_size_t)?.iter().product())
}

/// Returns the tokens of `latents`, `[C, T, H, W]` to `[seq_len, C·patch_size_t·patch_size²]`.
///
/// # Errors
///
/// [`Error::Shape`] where a patch size is 0 or doesn't divide the latents.
pub fn pack(latents: ArrayView4<'_, f32>, patch_size: usize, patch_size_t: usize) -> Result<Array2<f32>> {
    let (c, t, h, w) = latents.dim();
    let [frames, rows, columns] = grid([c, t, h, w], patch_size, patch_size_t)?;
    let blocks = [c, frames, patch_size_t, rows, patch_size, columns, patch_size];
    let tokens = latents
        .to_shape(IxDyn(&blocks))
        .map_err(|_| mismatch([c, t, h, w], patch_size, patch_size_t))?
        .permuted_axes(IxDyn(&[1, 3, 5, 0, 2, 4, 6]))
        .iter()
        .copied()
        .collect();
    let width = c * patch_size_t * patch_size * patch_size;
    Array2::from_shape_vec((frames * rows * columns, width), tokens)
        .map_err(|_| mismatch([c, t, h, w], patch_size, patch_size_t))
}

/// Returns the latents of `shape`, `[C, T, H, W]`, that [`pack`] made `tokens` of.
///
/// # Errors
///
/// [`Error::Shape`] where a patch size is 0 or doesn't divide `shape`, or `tokens` isn't
/// `[seq_len, C·patch_size_t·patch_size²]`.
pub fn unpack(
    tokens: ArrayView2<'_, f32>,
    shape: [usize; 4],
    patch_size: usize,
    patch_size_t: usize,
) -> Result<Array4<f32>> {
    let [c, ..] = shape;
    let [frames, rows, columns] = grid(shape, patch_size, patch_size_t)?;
    let (len, width) = (frames * rows * columns, c * patch_size_t * patch_size * patch_size);
    let wrong = || Error::Shape {
        what: "tokens".into(),
        found: format!("{:?}", tokens.shape()),
        expected: format!("{:?}, for latents {shape:?}", [len, width]),
    };
    if tokens.dim() != (len, width) {
        return Err(wrong());
    }
    let blocks = [frames, rows, columns, c, patch_size_t, patch_size, patch_size];
    let latents = tokens
        .to_shape(IxDyn(&blocks))
        .map_err(|_| wrong())?
        .permuted_axes(IxDyn(&[3, 0, 4, 1, 5, 2, 6]))
        .iter()
        .copied()
        .collect();
    Array4::from_shape_vec(shape, latents).map_err(|_| wrong())
}

/// The number of blocks by frames, rows and columns.
fn grid(shape: [usize; 4], patch_size: usize, patch_size_t: usize) -> Result<[usize; 3]> {
    let [_, t, h, w] = shape;
    let divides = |size: usize, length: usize| size > 0 && length.is_multiple_of(size);
    if divides(patch_size_t, t) && divides(patch_size, h) && divides(patch_size, w) {
        Ok([t / patch_size_t, h / patch_size, w / patch_size])
    } else {
        Err(mismatch(shape, patch_size, patch_size_t))
    }
}

fn mismatch(shape: [usize; 4], patch_size: usize, patch_size_t: usize) -> Error {
    Error::Shape {
        what: "latents [C, T, H, W]".into(),
        found: format!("{shape:?}"),
        expected: format!(
            "T a multiple of `patch_size_t` {patch_size_t}, H and W multiples of `patch_size` {patch_size}"
        ),
    }
}
