//! A package with its graphs, each opened when it is needed, shared by all who hold it and closed when nobody does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::package::{Manifest, Package};
use crate::runtime::{Cancel, Graph, RuntimeOptions, lock};

/// A package whose graphs are opened on demand.
#[derive(Debug)]
pub struct Model {
    package: Arc<Package>,
    options: RuntimeOptions,
    graphs: Mutex<HashMap<PathBuf, Arc<Mutex<Weak<Graph>>>>>,
    taken: Mutex<bool>,
    free: Condvar,
}

/// Graphs that a thread opens, until they are taken.
pub type Ahead = JoinHandle<Vec<Arc<Graph>>>;

/// The turn of one of those who share a model and keep no graph open; it ends when it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Model);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.taken) = false;
        self.0.free.notify_one();
    }
}

impl Model {
    /// Returns the model of `package`, with no graph opened yet.
    pub fn new(package: Arc<Package>, options: RuntimeOptions) -> Self {
        Self { package, options, graphs: Mutex::default(), taken: Mutex::default(), free: Condvar::new() }
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
        let mut slot = lock(&slot);
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

    /// Waits for the turn: those who open graphs, use and close them take turns, so that one's are open at a time.
    ///
    /// # Errors
    /// [`Error::Cancelled`] after [`Cancel::cancel`].
    pub fn turn(&self, cancel: &Cancel) -> Result<Turn<'_>> {
        // Who cancels does not know of this wait, hence looks at short intervals.
        const INTERVAL: Duration = Duration::from_millis(20);
        let mut taken = lock(&self.taken);
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if !*taken {
                *taken = true;
                return Ok(Turn(self));
            }
            taken = self.free.wait_timeout(taken, INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_one_at_a_time_and_a_wait_can_be_cancelled() {
        let model = Model::new(Arc::new(crate::papercut().unwrap()), RuntimeOptions::default());
        let (cancel, other) = (Cancel::new(), Cancel::new());
        let first = model.turn(&cancel).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| model.turn(&other).map(drop));
            other.cancel();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
            let waiting = scope.spawn(|| model.turn(&cancel).map(drop));
            drop(first);
            waiting.join().unwrap().unwrap();
        });
    }
}
