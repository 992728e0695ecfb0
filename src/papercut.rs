//! papercut, the model that is always there: the package in `models/papercut`, built in.

use crate::error::Result;
use crate::package::Package;

static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/papercut.rs"));

/// Returns the embedded package.
///
/// # Errors
/// As [`Package::embedded`]; with the weights of this repository there is none.
pub fn papercut() -> Result<Package> {
    Package::embedded(FILES)
}
