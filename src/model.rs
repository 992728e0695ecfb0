//! A package with its graphs, each opened when it is needed, shared by all who hold it and closed when nobody does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::Result;
use crate::package::{Manifest, Package};
use crate::runtime::{Cancel, Graph, RuntimeOptions};

/// A package whose graphs are opened on demand.
#[derive(Debug)]
pub struct Model {
    package: Arc<Package>,
    options: RuntimeOptions,
    graphs: Mutex<HashMap<PathBuf, Weak<Graph>>>,
}

impl Model {
    /// Returns the model of `package`, with no graph opened yet.
    pub fn new(package: Arc<Package>, options: RuntimeOptions) -> Self {
        Self { package, options, graphs: Mutex::default() }
    }

    /// Returns the package.
    pub fn package(&self) -> &Arc<Package> {
        &self.package
    }

    /// Returns the package's name with a hash of its content.
    pub fn id(&self) -> &str {
        self.package.id()
    }

    /// Returns what `model.toml` says.
    pub fn manifest(&self) -> &Manifest {
        self.package.manifest()
    }

    /// Returns how its graphs are opened.
    pub fn options(&self) -> RuntimeOptions {
        self.options
    }

    /// Returns the graph in `file`, opening it unless somebody holds it; it is closed with the last who does.
    ///
    /// # Errors
    /// As [`Graph::open`].
    pub fn graph(&self, file: &Path, cancel: &Cancel) -> Result<Arc<Graph>> {
        // Held while opening: who comes second waits for the one session instead of opening another.
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(graph) = graphs.get(file).and_then(Weak::upgrade) {
            return Ok(graph);
        }
        let graph = Arc::new(Graph::open(&self.package, file, self.options, cancel)?);
        graphs.insert(file.to_owned(), Arc::downgrade(&graph));
        Ok(graph)
    }
}
