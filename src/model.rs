//! A package with its graphs, each opened when it is needed, shared by all who hold it and closed when nobody does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

use crate::error::Result;
use crate::package::{Manifest, Package};
use crate::runtime::{Cancel, Graph, RuntimeOptions, lock, lock_unless_cancelled};
use crate::turns::Turn;

/// A package whose graphs are opened on demand.
#[derive(Debug)]
pub struct Model {
    package: Arc<Package>,
    options: RuntimeOptions,
    graphs: Mutex<HashMap<PathBuf, Arc<Mutex<Weak<Graph>>>>>,
}

/// Graphs that a thread opens, until they are taken.
pub type Ahead = JoinHandle<Vec<Arc<Graph>>>;

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
        let slot = lock(&self.graphs).entry(file.to_owned()).or_default().clone();
        // Held while opening: who comes second waits for the one session instead of opening another.
        let mut slot = lock_unless_cancelled(&slot, cancel)?;
        if let Some(graph) = slot.upgrade() {
            return Ok(graph);
        }
        let graph = Arc::new(Graph::open(&self.package, file, self.options, cancel)?);
        *slot = Arc::downgrade(&graph);
        Ok(graph)
    }

    /// Opens the graphs in `files` on a thread of its own, as far as they open: who asks for one meanwhile waits for it. They stay open as long as what
    /// is returned is kept; there is none where no thread is to be had.
    pub fn open_ahead(self: &Arc<Self>, files: Vec<PathBuf>, cancel: &Cancel) -> Option<Ahead> {
        let (model, cancel) = (self.clone(), cancel.clone());
        let open = move || files.iter().map_while(|file| model.graph(file, &cancel).ok()).collect();
        std::thread::Builder::new().spawn(open).ok()
    }

    /// Returns how many graphs somebody holds open.
    pub fn open_graphs(&self) -> usize {
        let is_open =
            |slot: &&Arc<Mutex<Weak<Graph>>>| slot.try_lock().is_ok_and(|graph| graph.strong_count() > 0);
        lock(&self.graphs).values().filter(is_open).count()
    }

    /// Waits for the turn: those who open graphs of the package, use and close them take turns, however they run them, so that one's are open
    /// at a time.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled) after [`Cancel::cancel`].
    pub fn turn(&self, cancel: &Cancel) -> Result<Turn<'_>> {
        self.package.turns().wait(cancel)
    }
}
