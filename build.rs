//! Builds the package in `models/papercut` into the library: lists its files, so that new weights need no new code.

use std::fmt::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("models/papercut");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut list = String::from("&[\n");
    for file in files.iter().filter(|f| f.path().is_file()) {
        println!("cargo::rerun-if-changed={}", file.path().display());
        writeln!(list, "    ({:?}, include_bytes!({:?})),", file.file_name(), file.path())?;
    }
    list.push(']');
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("papercut.rs"), list)?;
    Ok(())
}
