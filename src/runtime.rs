//! ONNX Runtime: one environment a process, execution providers, and graphs that are opened, run and cancelled.
//!
//! The only file that names `ort`.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use ndarray::{ArrayViewD, IxDyn};
use ort::ep;
use ort::session::builder::LoadCanceler;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Tensor as OrtTensor};

use crate::error::{Error, Result};
use crate::onnx::Signature;
use crate::package::Package;

/// Where graphs run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ExecutionProvider {
    /// CUDA where it works, else the CPU.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// NVIDIA's GPUs by CUDA.
    Cuda,
    /// NVIDIA's GPUs by TensorRT, which builds an engine a shape first.
    TensorRt,
}

impl ExecutionProvider {
    /// Every provider by its name.
    pub const NAMES: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("cpu", Self::Cpu), ("cuda", Self::Cuda), ("tensorrt", Self::TensorRt)];
}

impl fmt::Display for ExecutionProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = Self::NAMES.iter().find(|(_, provider)| provider == self).expect("all are named");
        f.write_str(name)
    }
}

impl FromStr for ExecutionProvider {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, provider)| *provider).ok_or_else(|| {
            Error::Provider {
                provider: name.to_owned(),
                reason: "known are auto, cpu, cuda and tensorrt".into(),
            }
        })
    }
}

/// How graphs are opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RuntimeOptions {
    /// Where they run.
    pub execution_provider: ExecutionProvider,
    /// Which GPU, from 0.
    pub device_id: u32,
    /// Threads of an operation on the CPU; 0 is as many as there are cores.
    pub num_threads: u32,
}

impl RuntimeOptions {
    /// Loads ONNX Runtime and refuses a provider that it was built without: what can be known before a graph is opened, in
    /// a moment.
    ///
    /// # Errors
    /// [`Error::Library`] without ONNX Runtime, [`Error::Provider`] if it lacks the provider named.
    pub fn check(self) -> Result<()> {
        environment()?;
        let there = match self.execution_provider {
            ExecutionProvider::Auto | ExecutionProvider::Cpu => true,
            ExecutionProvider::Cuda => is_there::<ep::CUDA>(),
            ExecutionProvider::TensorRt => is_there::<ep::TensorRT>(),
        };
        if there {
            return Ok(());
        }
        let reason = "this build of ONNX Runtime is without it; set ORT_DYLIB_PATH to one that has it, or use auto or cpu";
        Err(Error::Provider { provider: self.execution_provider.to_string(), reason: reason.into() })
    }
}

/// Graphs with as many bytes of weights in files of their own are large: what they take and give back is worth some care.
const LARGE: u64 = 128 << 20;

static LIBRARY_FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static ENVIRONMENT: Mutex<Option<ort::environment::Environment>> = Mutex::new(None);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the lock, as long as nobody cancels: who holds it may be in the middle of minutes.
///
/// # Errors
/// [`Error::Cancelled`] after [`Cancel::cancel`].
pub(crate) fn lock_unless_cancelled<'a, T>(
    mutex: &'a Mutex<T>,
    cancel: &Cancel,
) -> Result<MutexGuard<'a, T>> {
    // Who cancels does not know of this wait, hence looks at short intervals, the first of them hardly any.
    let mut interval = Duration::from_micros(50);
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if cancel.is_cancelled() => return Err(Error::Cancelled),
            Err(TryLockError::WouldBlock) => std::thread::sleep(interval),
        }
        interval = (interval * 2).min(Duration::from_millis(2));
    }
}

/// Adds a folder in which ONNX Runtime's shared library is looked for.
///
/// `ORT_DYLIB_PATH` comes first, then these folders in the order they were added, then the system's.
pub fn add_library_folder(folder: impl Into<PathBuf>) {
    let folder = folder.into();
    let mut folders = lock(&LIBRARY_FOLDERS);
    if !folders.contains(&folder) {
        folders.push(folder);
    }
}

/// Returns the process's one environment: a second one can never be made, so it is never dropped.
fn environment() -> Result<ort::environment::Environment> {
    let mut slot = lock(&ENVIRONMENT);
    if let Some(environment) = slot.as_ref() {
        return Ok(environment.clone());
    }
    let library = find_library()?;
    let failed = |e: &dyn fmt::Display| Error::Library {
        reason: format!(
            "`{}`: {e}; run pipelines/setup.sh, or set ORT_DYLIB_PATH to another",
            library.display()
        ),
    };
    let environment = ort::init_from(&library)
        .map_err(|e| failed(&e))?
        .with_name("latentflow")
        .with_telemetry(false)
        .build()
        .map_err(|e| failed(&e))?;
    Ok(slot.insert(environment).clone())
}

fn find_library() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        return path.canonicalize().map_err(|e| Error::Library {
            reason: format!("ORT_DYLIB_PATH is `{}`: {e}; set it to libonnxruntime.so", path.display()),
        });
    }
    let mut folders = lock(&LIBRARY_FOLDERS).clone();
    let system = ["/usr/local/lib", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    folders.extend(system.iter().map(PathBuf::from));
    folders.iter().find_map(|folder| library_in(folder)).ok_or_else(|| {
        let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        let reason = format!(
            "no libonnxruntime.so in {}; run pipelines/setup.sh, or set ORT_DYLIB_PATH to the library",
            looked.join(", ")
        );
        Error::Library { reason }
    })
}

/// Returns the library in `folder`: the one without a number in its name, which somebody chose, else the newest.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let version = |path: &PathBuf| -> Option<(bool, Vec<u32>)> {
        let rest = path.file_name()?.to_str()?.strip_prefix("libonnxruntime.so")?;
        let numbers = rest.split('.').skip(1).map(str::parse).collect::<Result<Vec<u32>, _>>();
        (rest.is_empty() || rest.starts_with('.')).then_some((rest.is_empty(), numbers.ok()?))
    };
    let libraries = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    libraries.filter_map(|path| Some((version(&path)?, path))).max().map(|(_, path)| path)
}

/// A tensor that graphs take and give: 32-bit floats or 64-bit integers, contiguous.
///
/// One graph's output can be another's input without a copy.
pub struct Tensor(DynValue);

impl Tensor {
    /// Returns a tensor of floats; `data` holds the product of `shape`.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not, [`Error::Library`] without ONNX Runtime, whose memory it is.
    pub fn from_f32(shape: &[usize], data: Vec<f32>) -> Result<Self> {
        environment()?;
        let length = data.len();
        let tensor = OrtTensor::from_array((shape.to_vec(), data));
        tensor.map(|t| Self(t.into_dyn())).map_err(|_| Self::mismatch(shape, length))
    }

    /// Returns a tensor of integers; `data` holds the product of `shape`.
    ///
    /// # Errors
    /// As [`from_f32`](Self::from_f32).
    pub fn from_i64(shape: &[usize], data: Vec<i64>) -> Result<Self> {
        environment()?;
        let length = data.len();
        let tensor = OrtTensor::from_array((shape.to_vec(), data));
        tensor.map(|t| Self(t.into_dyn())).map_err(|_| Self::mismatch(shape, length))
    }

    /// Returns the same numbers in memory of their own.
    pub(crate) fn copy(&self) -> Result<Self> {
        match self.i64() {
            Ok(integers) => Self::from_i64(&self.shape(), integers.to_vec()),
            Err(_) => Self::from_f32(&self.shape(), self.f32()?.to_vec()),
        }
    }

    fn mismatch(shape: &[usize], length: usize) -> Error {
        Error::shape("a tensor's data", length, format!("the product of {shape:?}"))
    }

    /// Returns its dimensions.
    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().iter().map(|&d| d as usize).collect()
    }

    /// Returns the floats in it.
    ///
    /// # Errors
    /// [`Error::Shape`] if it holds something else.
    pub fn f32(&self) -> Result<&[f32]> {
        let floats = self.0.try_extract_tensor::<f32>();
        floats.map(|(_, data)| data).map_err(|e| Error::shape("a tensor", e.to_string(), "32-bit floats"))
    }

    /// Returns the floats in it, to be written.
    pub fn f32_mut(&mut self) -> Result<&mut [f32]> {
        let floats = self.0.try_extract_tensor_mut::<f32>();
        floats.map(|(_, data)| data).map_err(|e| Error::shape("a tensor", e.to_string(), "32-bit floats"))
    }

    /// Returns the floats in it as an array.
    pub fn view(&self) -> Result<ArrayViewD<'_, f32>> {
        let shape = self.shape();
        ArrayViewD::from_shape(IxDyn(&shape), self.f32()?)
            .map_err(|e| Error::shape("a tensor", shape, e.to_string()))
    }

    /// Returns the integers in it.
    ///
    /// # Errors
    /// [`Error::Shape`] if it holds something else.
    pub fn i64(&self) -> Result<&[i64]> {
        let integers = self.0.try_extract_tensor::<i64>();
        integers.map(|(_, data)| data).map_err(|e| Error::shape("a tensor", e.to_string(), "64-bit integers"))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{:?}", self.shape())
    }
}

/// What a graph gave, by name.
pub type Tensors = HashMap<String, Tensor>;

/// What a graph may be fed, by name: it takes what it declares and leaves the rest.
pub type Feeds<'a> = HashMap<&'a str, &'a Tensor>;

/// Ends a running inference, or the opening of a graph, from another thread, within the operation that runs.
#[derive(Clone, Default)]
pub struct Cancel(Arc<CancelState>);

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    at_work: Mutex<Vec<Work>>,
}

/// What can be ended.
#[derive(Clone)]
enum Work {
    Run(Arc<RunOptions>),
    Load(Arc<LoadCanceler>),
}

impl Work {
    fn end(&self) {
        // Can only fail for want of memory; then the work ends by itself.
        let _ = match self {
            Self::Run(run) => run.terminate(),
            Self::Load(load) => load.cancel(),
        };
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Run(a), Self::Run(b)) => Arc::ptr_eq(a, b),
            (Self::Load(a), Self::Load(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Cancel {
    /// Returns a token that nothing has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends what runs or opens with this token; later work ends at once, until [`reset`](Self::reset).
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        lock(&self.0.at_work).iter().for_each(Work::end);
    }

    /// Lets work go ahead again.
    pub fn reset(&self) {
        self.0.cancelled.store(false, Ordering::SeqCst);
    }

    /// Returns whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    fn enter(&self, work: Work) -> Result<CancelGuard<'_>> {
        lock(&self.0.at_work).push(work.clone());
        let guard = CancelGuard { cancel: self, work };
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(guard) }
    }
}

struct CancelGuard<'a> {
    cancel: &'a Cancel,
    work: Work,
}

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        lock(&self.cancel.0.at_work).retain(|work| !work.is(&self.work));
    }
}

/// An opened ONNX graph.
pub struct Graph {
    name: String,
    signature: Signature,
    provider: ExecutionProvider,
    session: Mutex<Session>,
    /// After the session, which is closed first.
    _freed: Option<Freed>,
}

/// Gives memory that was freed back to the system when it is dropped: the C library keeps what it had for pieces below some megabytes,
/// which after a large graph are hundreds of megabytes that no other graph fits into.
#[derive(Debug)]
struct Freed;

impl Drop for Freed {
    fn drop(&mut self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: it takes a number, and may be called at any time from any thread.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

impl Graph {
    /// Opens the graph in `file` of `package`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] after [`Cancel::cancel`], [`Error::Library`] without ONNX Runtime, [`Error::Provider`] if the provider named does not work,
    /// [`Error::Inference`] if ONNX Runtime refuses the graph.
    pub fn open(package: &Package, file: &Path, options: RuntimeOptions, cancel: &Cancel) -> Result<Self> {
        let environment = environment()?;
        let mut failures = Vec::new();
        for provider in candidates(options.execution_provider) {
            match open_session(&environment, package, file, provider, options, cancel) {
                Ok(session) => {
                    let signature = package.signature(file).clone();
                    return Ok(Self {
                        name: file.display().to_string(),
                        _freed: is_large(&signature).then_some(Freed),
                        signature,
                        provider,
                        session: Mutex::new(session),
                    });
                }
                Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
                Err(e) => failures.push((provider, e)),
            }
        }
        // The last failure is the CPU's, or that of the provider asked for.
        match failures.pop() {
            Some((ExecutionProvider::Cpu, e)) => {
                Err(Error::inference(&package.path(file).display().to_string(), e))
            }
            Some((provider, e)) => {
                let reason = format!("{}: {}", package.path(file).display(), first_line(&e.to_string()));
                Err(Error::Provider { provider: provider.to_string(), reason })
            }
            None => unreachable!("there is always a candidate"),
        }
    }

    /// Returns the graph's file in the package.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the graph declares.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Returns where it runs; never [`ExecutionProvider::Auto`].
    pub fn provider(&self) -> ExecutionProvider {
        self.provider
    }

    /// Runs the graph on those of `feeds` that it declares and returns its outputs.
    ///
    /// # Errors
    /// [`Error::Shape`] names the tensor that is missing or of another shape than declared; [`Error::Cancelled`] after
    /// [`Cancel::cancel`]; [`Error::Inference`] for what ONNX Runtime fails at.
    pub fn run(&self, feeds: &Feeds, cancel: &Cancel) -> Result<Tensors> {
        let mut inputs: Vec<(&str, SessionInputValue)> = Vec::with_capacity(self.signature.inputs.len());
        for input in &self.signature.inputs {
            let what = || format!("input `{}` of graph `{}`", input.name, self.name);
            let Some(tensor) = feeds.get(input.name.as_str()) else {
                return Err(Error::shape(what(), "missing", "a tensor of that name"));
            };
            let shape = tensor.0.shape();
            let fits = |(d, found): (&Option<usize>, &i64)| d.is_none_or(|d| d as i64 == *found);
            if shape.len() != input.shape.len() || !input.shape.iter().zip(shape.iter()).all(fits) {
                return Err(Error::shape(what(), shape, format!("{:?}", input.shape)));
            }
            inputs.push((&input.name, (&tensor.0).into()));
        }
        let failed = |e: ort::Error| {
            if cancel.is_cancelled() { Error::Cancelled } else { Error::inference(&self.name, e) }
        };
        let options = Arc::new(RunOptions::new().map_err(failed)?);
        let _guard = cancel.enter(Work::Run(options.clone()))?;
        let mut session = lock_unless_cancelled(&self.session, cancel)?;
        let outputs = session.run_with_options(inputs, &options).map_err(failed)?;
        Ok(outputs.into_iter().map(|(name, value)| (name.to_owned(), Tensor(value))).collect())
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} on {})", self.name, self.provider)
    }
}

fn candidates(asked: ExecutionProvider) -> Vec<ExecutionProvider> {
    match asked {
        ExecutionProvider::Auto if is_there::<ep::CUDA>() => {
            vec![ExecutionProvider::Cuda, ExecutionProvider::Cpu]
        }
        ExecutionProvider::Auto => vec![ExecutionProvider::Cpu],
        named => vec![named],
    }
}

fn is_large(signature: &Signature) -> bool {
    signature.external_floats.saturating_add(signature.external_others) >= LARGE
}

/// Whether ONNX Runtime was built with a provider; it may still not work.
fn is_there<P: ep::ExecutionProvider>() -> bool {
    P::is_available().unwrap_or(false)
}

/// Builder methods fail with errors that are not `Send`, hence a function of its own with `ort`'s result.
fn open_session(
    environment: &ort::environment::Environment,
    package: &Package,
    file: &Path,
    provider: ExecutionProvider,
    options: RuntimeOptions,
    cancel: &Cancel,
) -> ort::Result<Session> {
    let device = options.device_id as i32;
    let mut builder = Session::builder(environment)?
        .with_intra_threads(options.num_threads as usize)?
        // The sessions of a pipeline share the cores: a thread that spins takes them from the one that works.
        .with_intra_op_spinning(false)?
        .with_log_level(ort::logging::LogLevel::Fatal)?;
    builder = match provider {
        ExecutionProvider::Auto | ExecutionProvider::Cpu => builder,
        ExecutionProvider::Cuda => builder.with_execution_providers([ep::CUDA::default()
            .with_device_id(device)
            .build()
            .error_on_failure()])?,
        ExecutionProvider::TensorRt => builder.with_execution_providers([
            ep::TensorRT::default()
                .with_device_id(device)
                .with_engine_cache(true)
                .with_engine_cache_prefix(package.id())
                .with_engine_cache_path(engine_cache().display())
                .build()
                .error_on_failure(),
            ep::CUDA::default().with_device_id(device).build().error_on_failure(),
        ])?,
    };
    let signature = package.signature(file);
    if is_large(signature) {
        // What is planned for one size of inputs is kept, and of no use to another.
        builder = builder.with_memory_pattern(false)?;
        if signature.external_others < signature.external_floats / 8 {
            // Matrices in another order ("prepacked") are a copy of the weights. Without, they remain the mapped file, that the system
            // can drop and read again. Products of hundreds of rows take no longer, and the graph opens in a moment. Packed integers
            // do need it: without, products of hundreds of rows take three times as long.
            builder = builder.with_prepacking(false)?;
        }
    }
    let _guard = cancel.enter(Work::Load(Arc::new(builder.canceler()))).map_err(ort::Error::wrap)?;
    if package.folder().is_some() {
        // By its path: ONNX Runtime maps the weights that lie beside it, instead of copying them.
        return builder.commit_from_file(package.path(file));
    }
    let bytes = |file: &Path| package.bytes(file).map_err(ort::Error::wrap);
    for name in &package.signature(file).external_data {
        let weights = bytes(&file.with_file_name(name))?;
        builder = builder.with_external_initializer_file_in_memory(name, Arc::from(&*weights))?;
    }
    builder.commit_from_memory(&bytes(file)?)
}

/// Where engines of TensorRT are kept: they are code, so in a folder of the user's own.
fn engine_cache() -> PathBuf {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).and_then(absolute);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")).and_then(absolute));
    cache.unwrap_or_else(std::env::temp_dir).join("latentflow")
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_known_by_name() {
        for (name, provider) in ExecutionProvider::NAMES {
            assert_eq!(name.parse::<ExecutionProvider>().unwrap(), provider);
            assert_eq!(provider.to_string(), name);
        }
        let error = "gpu".parse::<ExecutionProvider>().unwrap_err().to_string();
        assert!(error.contains("`gpu`") && error.contains("tensorrt"), "{error}");
    }

    #[test]
    fn the_newest_library_of_a_folder_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(library_in(folder.path()), None);
        for name in [
            "libonnxruntime.so.1.9.1",
            "libonnxruntime.so.1.32.0",
            "libonnxruntime.so.1.33.0.part",
            "libonnxruntime_providers_shared.so",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(library_in(folder.path()).unwrap(), folder.path().join("libonnxruntime.so.1.32.0"));
        std::fs::write(folder.path().join("libonnxruntime.so"), "").unwrap();
        assert_eq!(library_in(folder.path()).unwrap(), folder.path().join("libonnxruntime.so"), "is chosen");
    }

    #[test]
    fn a_wait_for_somebody_elses_run_can_be_cancelled() {
        let (mutex, cancel) = (Mutex::new(()), Cancel::new());
        let held = lock_unless_cancelled(&mutex, &cancel).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| lock_unless_cancelled(&mutex, &cancel).map(drop));
            cancel.cancel();
            assert!(matches!(waits.join().unwrap(), Err(Error::Cancelled)));
            cancel.reset();
            let waits = scope.spawn(|| lock_unless_cancelled(&mutex, &cancel).map(drop));
            drop(held);
            waits.join().unwrap().unwrap();
        });
    }
}
