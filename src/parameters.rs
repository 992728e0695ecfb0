//! Numbers of the manifest as tensors, for inputs of graphs that nothing else gives.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::onnx::TensorInfo;
use crate::runtime::{Graph, Tensor, Tensors};

/// The lengths of the axes that a graph may name, for the latents at hand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axes {
    /// `[C, T, H, W]`.
    pub latents: [usize; 4],
    /// `F`.
    pub frames: usize,
}

impl Axes {
    /// Returns the shape that `input` of `graph` has here.
    ///
    /// # Errors
    /// [`Error::Shape`] names an input with an axis of unknown length; the package's check leaves none.
    pub(crate) fn shape_of(&self, input: &TensorInfo, graph: &str) -> Result<Vec<usize>> {
        self.shape(input).ok_or_else(|| {
            let what = format!("input `{}` of graph `{graph}`", input.name);
            Error::shape(what, &input.axes, "axes that are numbers or called B, C, T, H, W or F")
        })
    }

    fn shape(&self, input: &TensorInfo) -> Option<Vec<usize>> {
        let [c, t, h, w] = self.latents;
        let named = |name: &str| match name {
            "B" => Some(1),
            "C" => Some(c),
            "T" => Some(t),
            "H" => Some(h),
            "W" => Some(w),
            "F" => Some(self.frames),
            _ => None,
        };
        input.shape.iter().zip(&input.axes).map(|(length, name)| length.or_else(|| named(name))).collect()
    }
}

/// Returns the inputs of `graph` that `parameters` fill: those of these names that are not `given`.
///
/// # Errors
/// As [`Axes::shape_of`].
pub(crate) fn fill(
    graph: &Graph,
    parameters: &BTreeMap<String, f32>,
    axes: Axes,
    given: impl Fn(&str) -> bool,
) -> Result<Tensors> {
    let mut filled = Tensors::new();
    for input in graph.signature().inputs.iter().filter(|input| !given(&input.name)) {
        let Some(value) = parameters.get(&input.name) else { continue };
        let shape = axes.shape_of(input, graph.name())?;
        let length = shape.iter().product();
        filled.insert(input.name.clone(), Tensor::from_f32(&shape, vec![*value; length])?);
    }
    Ok(filled)
}
