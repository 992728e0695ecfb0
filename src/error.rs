//! What can go wrong, typed by who has to act: each kind names the file, tensor or setting it is about.

use std::path::PathBuf;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that the library refuses or fails at.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no package, or a file that it names is not there.
    #[error("`{}` was not found: {reason}", path.display())]
    NotFound {
        /// The folder or file.
        path: PathBuf,
        /// Why it was looked for, and what would do.
        reason: String,
    },
    /// A file of the package is there and can't be used.
    #[error("`{}` can't be used: {reason}", path.display())]
    Package {
        /// The file.
        path: PathBuf,
        /// What was found and what would do.
        reason: String,
    },
    /// ONNX Runtime's shared library is missing or of the wrong version.
    #[error("ONNX Runtime can't be loaded: {reason}")]
    Library {
        /// Where it was looked for, and the cure.
        reason: String,
    },
    /// The execution provider that was asked for does not work here.
    #[error("execution provider `{provider}` can't be used: {reason}")]
    Provider {
        /// As it was asked for.
        provider: String,
        /// What ONNX Runtime says of it.
        reason: String,
    },
    /// A tensor or frame has another shape or type than its reader needs.
    #[error("{what} is {found}, but {expected} is needed")]
    Shape {
        /// The tensor, with its graph where there is one.
        what: String,
        /// The shape or type found.
        found: String,
        /// The shape or type needed.
        expected: String,
    },
    /// A setting of the request that the model can't do.
    #[error("`{setting}` can't be {value}: {reason}")]
    Setting {
        /// The setting's name, as the element's property or caps field is called.
        setting: &'static str,
        /// The value asked for.
        value: String,
        /// What would do.
        reason: String,
    },
    /// ONNX Runtime failed while opening or running a graph.
    #[error("graph `{graph}` failed: {reason}")]
    Inference {
        /// The graph's file in the package.
        graph: String,
        /// What ONNX Runtime says.
        reason: String,
    },
    /// The run was cancelled by [`Cancel`](crate::Cancel).
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn package(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Package { path: path.into(), reason: reason.to_string() }
    }

    pub(crate) fn shape(
        what: impl Into<String>,
        found: impl std::fmt::Debug,
        expected: impl Into<String>,
    ) -> Self {
        Self::Shape { what: what.into(), found: format!("{found:?}"), expected: expected.into() }
    }

    pub(crate) fn inference(graph: &str, reason: impl ToString) -> Self {
        Self::Inference { graph: graph.to_owned(), reason: reason.to_string() }
    }
}
