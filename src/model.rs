//! A package with its graphs, each opened when it is first needed and shared by all who hold the model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::package::{Manifest, Package};
use crate::runtime::{Graph, RuntimeOptions};

/// A package whose graphs are opened on demand.
#[derive(Debug)]
pub struct Model {
    package: Arc<Package>,
    options: RuntimeOptions,
    graphs: Mutex<HashMap<PathBuf, Arc<Graph>>>,
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

    /// Returns the graph in `file`, opening it the first time.
    ///
    /// # Errors
    /// As [`Graph::open`].
    pub fn graph(&self, file: &Path) -> Result<Arc<Graph>> {
        // Held while opening: who comes second waits for the one session instead of opening another.
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(graph) = graphs.get(file) {
            return Ok(graph.clone());
        }
        let graph = Arc::new(Graph::open(&self.package, file, self.options)?);
        graphs.insert(file.to_owned(), graph.clone());
        Ok(graph)
    }
}
