//! A model package: `model.toml`, tokenizers and ONNX graphs, read and validated whole before a session opens.

mod manifest;
mod signatures;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use manifest::*;
pub(crate) use signatures::{chunk_out_of, present_of, state_out_of};

use crate::error::{Error, Result};
use crate::onnx::Signature;
use crate::turns::Turns;

/// The manifest's name in a package's folder.
pub const MANIFEST: &str = "model.toml";

/// Larger manifests and tokenizers than this many bytes are refused: they are none.
const TEXT_FILE_LIMIT: usize = 64 << 20;

/// A validated package.
#[derive(Debug)]
pub struct Package {
    id: String,
    manifest: Manifest,
    source: Source,
    signatures: BTreeMap<PathBuf, Signature>,
    turns: Turns,
}

#[derive(Debug)]
enum Source {
    Folder(PathBuf),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// A file's bytes: mapped, or built into the program.
pub(crate) enum Bytes {
    Mapped(memmap2::Mmap),
    Static(&'static [u8]),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl Package {
    /// Returns the package in `folder`, validated: manifest, files, sizes and graph signatures.
    ///
    /// # Errors
    /// [`Error::NotFound`] names the folder or file that is not there, [`Error::Package`] the file that can't be used,
    /// with what was found and what would do.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            let reason =
                if folder.exists() { "a package is a folder, and this is none" } else { "no such folder" };
            return Err(Error::NotFound {
                path: folder.to_owned(),
                reason: format!("{reason}; `model` takes a package's folder, which holds a {MANIFEST}"),
            });
        }
        Self::read(Source::Folder(folder.to_owned()))
    }

    /// Returns the package made of `files` (name, content) that are built into the program.
    ///
    /// # Errors
    /// As [`Package::open`].
    pub fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Result<Self> {
        Self::read(Source::Embedded(files))
    }

    fn read(source: Source) -> Result<Self> {
        let path = source.path(Path::new(MANIFEST));
        let bytes = source.text(Path::new(MANIFEST), "a package's folder holds one")?;
        let text = std::str::from_utf8(&bytes).map_err(|e| Error::package(&path, e))?;
        let manifest: Manifest =
            toml::from_str(text).map_err(|e| Error::package(&path, e.to_string().trim_end()))?;
        manifest.check().map_err(|reason| Error::package(&path, reason))?;

        let mut hash = blake3::Hasher::new();
        hash_file(&mut hash, MANIFEST, &bytes);
        let mut signatures = BTreeMap::new();
        for file in manifest.graph_files() {
            let bytes = source.bytes(file, &format!("{MANIFEST} names it"))?;
            let signature = Signature::parse(&bytes).map_err(|e| Error::package(source.path(file), e))?;
            hash_file(&mut hash, &file.to_string_lossy(), &bytes);
            for name in &signature.external_data {
                let beside = file.with_file_name(name);
                check_inside(&beside).map_err(|e| Error::package(source.path(file), e))?;
                let bytes = source.bytes(&beside, &format!("{} keeps its weights there", file.display()))?;
                hash_file(&mut hash, &beside.to_string_lossy(), &bytes);
            }
            signatures.insert(file.to_owned(), signature);
        }
        for file in manifest.text_encoders.iter().flat_map(|encoder| encoder.tokenizer.files()) {
            let bytes = source.text(file, &format!("{MANIFEST} names it as tokenizer"))?;
            hash_file(&mut hash, &file.to_string_lossy(), &bytes);
        }

        let id = format!("{}-{}", manifest.name, &hash.finalize().to_hex()[..6]);
        let package = Self { id, manifest, source, signatures, turns: Turns::default() };
        signatures::check(&package)?;
        Ok(package)
    }

    /// Returns the package's name with a hash of its content, `papercut-3f2a9c`: what caps carry.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns what `model.toml` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the folder, or `None` for a package that is built in.
    pub fn folder(&self) -> Option<&Path> {
        match &self.source {
            Source::Folder(folder) => Some(folder),
            Source::Embedded(_) => None,
        }
    }

    /// Returns the turns of those who keep no graph of it open.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Returns the declared boundary of the graph in `file`, which the manifest names.
    pub(crate) fn signature(&self, file: &Path) -> &Signature {
        &self.signatures[file]
    }

    /// Returns the bytes of `file`, which the manifest or a graph names.
    pub(crate) fn bytes(&self, file: &Path) -> Result<Bytes> {
        self.source.bytes(file, &format!("{MANIFEST} names it"))
    }

    /// Returns where `file` is, for messages and for ONNX Runtime.
    pub(crate) fn path(&self, file: &Path) -> PathBuf {
        self.source.path(file)
    }
}

impl Source {
    fn path(&self, file: &Path) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(file),
            Self::Embedded(_) => Path::new("(built in)").join(file),
        }
    }

    /// Returns the bytes of a manifest or tokenizer.
    fn text(&self, file: &Path, why: &str) -> Result<Bytes> {
        let bytes = self.bytes(file, why)?;
        match bytes.len() {
            0..=TEXT_FILE_LIMIT => Ok(bytes),
            _ => Err(Error::package(self.path(file), format!("it is larger than {TEXT_FILE_LIMIT} bytes"))),
        }
    }

    fn bytes(&self, file: &Path, why: &str) -> Result<Bytes> {
        let missing = |reason: String| Error::NotFound { path: self.path(file), reason };
        match self {
            Self::Folder(_) => {
                let path = self.path(file);
                let unreadable = |e: std::io::Error| missing(format!("{e}; {why}"));
                let open = std::fs::File::open(&path).map_err(unreadable)?;
                let length = open.metadata().map_err(unreadable)?;
                if !length.is_file() {
                    return Err(Error::package(path, "it is not a file"));
                }
                // SAFETY: a package is not written to while it is in use; docs/package.md says so.
                Ok(Bytes::Mapped(unsafe { memmap2::Mmap::map(&open) }.map_err(unreadable)?))
            }
            Self::Embedded(files) => files
                .iter()
                .find(|(name, _)| Path::new(name) == file)
                .map(|(_, bytes)| Bytes::Static(bytes))
                .ok_or_else(|| missing(why.to_owned())),
        }
    }
}

/// Adds a file to the hash of a package's content: its name, its size, and its bytes. Of weights of gigabytes, whose reading would cost
/// seconds, both ends and pieces at equal distances are taken.
fn hash_file(hash: &mut blake3::Hasher, name: &str, bytes: &[u8]) {
    const WHOLE: usize = 64 << 20;
    const END: usize = 1 << 20;
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 64;
    hash.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    hash.update(&(bytes.len() as u64).to_le_bytes());
    if bytes.len() <= WHOLE {
        hash.update(bytes);
        return;
    }
    hash.update(&bytes[..END]).update(&bytes[bytes.len() - END..]);
    for piece in 1..PIECES {
        let start = bytes.len() / PIECES * piece;
        hash.update(&bytes[start..start + PIECE]);
    }
}
