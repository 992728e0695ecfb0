//! The graphs of one half of the network, and the state that goes from chunk to chunk.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::package::{CodecConfig, state_out_of};
use crate::runtime::{Cancel, ExecutionProvider, Feeds, Graph, Tensor};

/// What a scene's chunks so far left for the next one, in one tile; `None` before the first.
pub(super) type State = Option<Vec<(String, Tensor)>>;

/// The graphs of a decoder or an encoder.
#[derive(Debug)]
pub(super) struct Codec {
    init: Arc<Graph>,
    /// `None` where every chunk stands for itself.
    step: Option<Arc<Graph>>,
    input: &'static str,
    output: &'static str,
}

impl Codec {
    /// Opens the graphs that `config` names; `what` says whose they are.
    pub fn open(
        model: &Model,
        config: &Option<CodecConfig>,
        what: &'static str,
        input: &'static str,
        output: &'static str,
    ) -> Result<Self> {
        let missing = || {
            let path = model.package().path(crate::package::MANIFEST.as_ref());
            Error::package(path, format!("package {} has no [{what}]", model.id()))
        };
        let config = config.as_ref().ok_or_else(missing)?;
        let cancel = Cancel::new();
        // The pair where there is one: it needs less memory.
        let (init, step) = match config.pair() {
            Some((init, step)) => (model.graph(init, &cancel)?, Some(model.graph(step, &cancel)?)),
            None => (model.graph(config.file.as_deref().ok_or_else(missing)?, &cancel)?, None),
        };
        Ok(Self { init, step, input, output })
    }

    /// Returns whether a chunk with `state` starts a scene.
    pub fn is_first(&self, state: &State) -> bool {
        self.step.is_none() || state.is_none()
    }

    /// Returns whether chunks go on from one another.
    pub fn is_stream(&self) -> bool {
        self.step.is_some()
    }

    /// Returns where the graphs run.
    pub fn provider(&self) -> ExecutionProvider {
        self.init.provider()
    }

    /// Runs a chunk and moves `state` on; `expected` is the output's shape. After an error the state is that of a new scene.
    pub fn run(
        &self,
        input: &Tensor,
        state: &mut State,
        expected: &[usize],
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let before = state.take();
        let graph = self.step.as_ref().filter(|_| before.is_some()).unwrap_or(&self.init);
        let mut feeds = Feeds::from([(self.input, input)]);
        feeds.extend(before.iter().flatten().map(|(name, tensor)| (name.as_str(), tensor)));
        let mut outputs = graph.run(&feeds, cancel)?;
        let mut take = |name: &str| {
            let what = || format!("output `{name}` of graph `{}`", graph.name());
            outputs.remove(name).ok_or_else(|| Error::shape(what(), "missing", "a tensor of that name"))
        };
        let output = take(self.output)?;
        if output.shape() != expected {
            let what = format!("output `{}` of graph `{}`", self.output, graph.name());
            return Err(Error::shape(what, output.shape(), format!("{expected:?}")));
        }
        if let Some(step) = &self.step {
            let names = step.signature().inputs.iter().map(|i| i.name.as_str());
            let states = names.filter_map(|name| Some((name, state_out_of(name)?)));
            let after: Result<Vec<_>> =
                states.map(|(name, out)| Ok((name.to_owned(), take(&out)?))).collect();
            *state = Some(after?);
        }
        Ok(output)
    }
}

/// Returns `slot`'s tensor of `shape`, made anew only if the one there is of another shape.
pub(super) fn reuse<'a>(slot: &'a mut Option<Tensor>, shape: &[usize]) -> Result<&'a mut Tensor> {
    if slot.as_ref().is_none_or(|tensor| tensor.shape() != shape) {
        *slot = Some(Tensor::from_f32(shape, vec![0.0; shape.iter().product()])?);
    }
    Ok(slot.as_mut().expect("filled above"))
}
