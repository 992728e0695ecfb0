//! Between the library and GStreamer: opened models that elements share, settings that they have in common, errors and
//! progress on the bus.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use latentflow::package::Manifest;
use latentflow::vae::Tiling;
use latentflow::{Cancel, Error, Model, Package, Result, RuntimeOptions, Turn};

use crate::caps;

/// Where an element runs its graphs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstLatentflowExecutionProvider")]
pub enum ExecutionProvider {
    /// CUDA where it works, else the CPU.
    #[default]
    #[enum_value(name = "CUDA where it works, else the CPU", nick = "auto")]
    Auto,
    /// The CPU.
    #[enum_value(name = "The CPU", nick = "cpu")]
    Cpu,
    /// CUDA.
    #[enum_value(name = "NVIDIA GPUs by CUDA", nick = "cuda")]
    Cuda,
    /// TensorRT.
    #[enum_value(name = "NVIDIA GPUs by TensorRT", nick = "tensorrt")]
    #[allow(clippy::enum_variant_names)]
    TensorRt,
}

impl From<ExecutionProvider> for latentflow::ExecutionProvider {
    fn from(provider: ExecutionProvider) -> Self {
        match provider {
            ExecutionProvider::Auto => Self::Auto,
            ExecutionProvider::Cpu => Self::Cpu,
            ExecutionProvider::Cuda => Self::Cuda,
            ExecutionProvider::TensorRt => Self::TensorRt,
        }
    }
}

/// The properties that every element has.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// The package's folder; `None` is the one named by the caps, and papercut without caps.
    pub model: Option<String>,
    /// Where graphs run.
    pub execution_provider: ExecutionProvider,
    /// Which GPU.
    pub device_id: u32,
    /// Threads; 0 is one a core.
    pub num_threads: u32,
    /// Whether graphs stay open.
    pub keep_loaded: bool,
}

impl Default for ModelSettings {
    fn default() -> Self {
        let execution_provider = ExecutionProvider::default();
        Self { model: None, execution_provider, device_id: 0, num_threads: 0, keep_loaded: true }
    }
}

/// Waits for the turn of an element that keeps nothing loaded. A model that goes on without end has none: its denoiser and its
/// decoder are both at work all the time.
///
/// # Errors
/// As [`Model::turn`].
pub fn turn<'a>(model: &'a Model, keep_loaded: bool, cancel: &Cancel) -> Result<Option<Turn<'a>>> {
    let alone = !keep_loaded && model.manifest().stream.is_none();
    alone.then(|| model.turn(cancel)).transpose()
}

impl ModelSettings {
    fn options(&self) -> RuntimeOptions {
        RuntimeOptions {
            execution_provider: self.execution_provider.into(),
            device_id: self.device_id,
            num_threads: self.num_threads,
        }
    }

    /// Returns the model of the first element in a pipeline: the one in the folder `model`, or papercut.
    ///
    /// # Errors
    /// As [`Package::open`] and [`RuntimeOptions::check`].
    pub fn open(&self) -> Result<Arc<Model>> {
        let key = self.model.as_deref().map(|m| std::fs::canonicalize(m).unwrap_or_else(|_| m.into()));
        let package = PACKAGES.lock().unwrap_or_else(PoisonError::into_inner).open(key.as_deref())?;
        self.options().check()?;
        Ok(share(package, self.options()))
    }

    /// Returns the model that the caps name by `id`: already opened in this process, or the element's own.
    ///
    /// # Errors
    /// [`Error::Setting`] if the element's own package is another one; also as [`Package::open`].
    pub fn resolve(&self, id: &str) -> Result<Arc<Model>> {
        let known = PACKAGES.lock().unwrap_or_else(PoisonError::into_inner).by_id(id);
        let package = match (known, &self.model) {
            (Some(package), None) => package,
            _ => self.open()?.package().clone(),
        };
        if package.id() != id {
            return Err(Error::Setting {
                setting: "model",
                value: self.model.clone().unwrap_or_else(|| "unset".into()),
                reason: format!(
                    "the stream was made with package {id}, and this element has {}; set `model` to the folder of {id}",
                    package.id()
                ),
            });
        }
        Ok(share(package, self.options()))
    }
}

/// A structure as a read-only property, which `gst::Structure` itself can't be in derived properties.
#[derive(Debug, Clone)]
pub struct StatsStructure(pub gst::Structure);

impl glib::types::StaticType for StatsStructure {
    fn static_type() -> glib::Type {
        gst::Structure::static_type()
    }
}

impl From<StatsStructure> for glib::Value {
    fn from(structure: StatsStructure) -> Self {
        structure.0.to_value()
    }
}

impl glib::value::ValueType for StatsStructure {
    type Type = gst::Structure;
}

unsafe impl<'a> glib::value::FromValue<'a> for StatsStructure {
    type Checker = glib::value::GenericValueTypeChecker<gst::Structure>;

    unsafe fn from_value(value: &'a glib::Value) -> Self {
        // SAFETY: the caller has seen to it that the value holds a structure.
        Self(unsafe { gst::Structure::from_value(value) })
    }
}

impl glib::value::ToValue for StatsStructure {
    fn to_value(&self) -> glib::Value {
        self.0.to_value()
    }

    fn value_type(&self) -> glib::Type {
        gst::Structure::static_type()
    }
}

impl glib::prelude::HasParamSpec for StatsStructure {
    type ParamSpec = glib::ParamSpecBoxed;
    type SetValue = Self;
    type BuilderFn = fn(&str) -> glib::ParamSpecBoxedBuilder<'_, gst::Structure>;

    fn param_spec_builder() -> Self::BuilderFn {
        |name| Self::ParamSpec::builder::<gst::Structure>(name)
    }
}

/// The properties of elements that code frames in tiles.
#[derive(Debug, Clone)]
pub struct TileSettings {
    /// Width and height in pixels; 0 is whole frames, -1 is up to the library.
    pub size: i32,
    /// Pixels that neighbours share.
    pub overlap: u32,
}

impl Default for TileSettings {
    fn default() -> Self {
        Self { size: -1, overlap: 64 }
    }
}

impl TileSettings {
    /// Returns what the library calls it.
    pub fn tiling(&self) -> Tiling {
        match usize::try_from(self.size) {
            Err(_) => Tiling::Auto,
            Ok(0) => Tiling::Off,
            Ok(size) => Tiling::Tiles { width: size, height: size, overlap: self.overlap as usize },
        }
    }
}

/// Refuses a frame rate that the model can't do.
///
/// # Errors
/// [`Error::Setting`].
pub fn check_frame_rate(manifest: &Manifest, framerate: gst::Fraction) -> Result<()> {
    let range = manifest.video.frame_rate;
    if manifest.is_image() && framerate.numer() == 0 {
        return Ok(());
    }
    if caps::fraction(range.min) <= framerate && framerate <= caps::fraction(range.max) {
        return Ok(());
    }
    Err(Error::Setting {
        setting: "framerate",
        value: framerate.to_string(),
        reason: format!("the model takes {} to {}", range.min, range.max),
    })
}

/// Returns the error of a buffer that can't be mapped.
pub fn unreadable(reason: &glib::BoolError) -> Error {
    Error::Shape {
        what: "a buffer".into(),
        found: reason.to_string(),
        expected: "one that can be read".into(),
    }
}

/// The packages that are alive in this process.
#[derive(Default)]
struct Packages {
    by_folder: HashMap<Option<PathBuf>, Weak<Package>>,
}

impl Packages {
    fn open(&mut self, folder: Option<&Path>) -> Result<Arc<Package>> {
        if let Some(package) = self.by_folder.get(&folder.map(Path::to_owned)).and_then(Weak::upgrade) {
            return Ok(package);
        }
        let package = Arc::new(match folder {
            Some(folder) => Package::open(folder)?,
            None => latentflow::papercut()?,
        });
        self.by_folder.insert(folder.map(Path::to_owned), Arc::downgrade(&package));
        Ok(package)
    }

    fn by_id(&self, id: &str) -> Option<Arc<Package>> {
        self.by_folder.values().filter_map(Weak::upgrade).find(|package| package.id() == id)
    }
}

static PACKAGES: LazyLock<Mutex<Packages>> = LazyLock::new(Mutex::default);
/// The models that are alive in this process, by package and by how they are run.
type Models = HashMap<(String, RuntimeOptions), Weak<Model>>;
static MODELS: LazyLock<Mutex<Models>> = LazyLock::new(Mutex::default);

fn share(package: Arc<Package>, options: RuntimeOptions) -> Arc<Model> {
    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    models.retain(|_, model| model.strong_count() > 0);
    let key = (package.id().to_owned(), options);
    if let Some(model) = models.get(&key).and_then(Weak::upgrade) {
        return model;
    }
    let model = Arc::new(Model::new(package, options));
    models.insert(key, Arc::downgrade(&model));
    model
}

/// Looks for ONNX Runtime beside the plugin: in its folder and in `onnxruntime` next to that.
pub fn register_library_folders(plugin: &gst::Plugin) {
    let Some(folder) = plugin.filename().and_then(|f| f.parent().map(Path::to_owned)) else { return };
    if let Some(parent) = folder.parent() {
        latentflow::add_library_folder(parent.join("onnxruntime"));
    }
    latentflow::add_library_folder(folder);
}

/// Returns `error` as the bus says it: the domain tells an application what kind it is, the text names the cure.
pub fn error_message(error: &Error) -> gst::ErrorMessage {
    match error {
        Error::NotFound { .. } => gst::error_msg!(gst::ResourceError::NotFound, ("{error}")),
        Error::Package { .. } => gst::error_msg!(gst::ResourceError::Read, ("{error}")),
        Error::Library { .. } => gst::error_msg!(gst::LibraryError::Init, ("{error}")),
        Error::Provider { .. } | Error::Setting { .. } => {
            gst::error_msg!(gst::LibraryError::Settings, ("{error}"))
        }
        Error::Shape { .. } => gst::error_msg!(gst::StreamError::WrongType, ("{error}")),
        _ => gst::error_msg!(gst::StreamError::Failed, ("{error}")),
    }
}

/// Posts `error` on the bus and returns the flow that goes with it: flushing if it was cancelled, which is no error.
pub fn flow_error(element: &impl IsA<gst::Element>, error: &Error) -> gst::FlowError {
    if let Error::Cancelled = error {
        return gst::FlowError::Flushing;
    }
    element.upcast_ref::<gst::Element>().post_error_message(error_message(error));
    gst::FlowError::Error
}

/// Posts a PROGRESS message: `gst-launch-1.0` prints them, applications show them.
pub fn post_progress(element: &impl IsA<gst::Element>, kind: gst::ProgressType, code: &str, text: &str) {
    let message =
        gst::message::Progress::builder(kind, code, text).src(element.upcast_ref::<gst::Element>()).build();
    // Fails only without a bus, when there is nobody to tell.
    let _ = element.upcast_ref::<gst::Element>().post_message(message);
}

/// Returns `count` of what is called `noun`, in the plural where there is not one of it.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Posts that the element's latency changed.
pub fn post_latency(element: &impl IsA<gst::Element>) {
    let element = element.upcast_ref::<gst::Element>();
    // Fails only without a bus, when there is nobody to ask for it.
    let _ = element.post_message(gst::message::Latency::builder().src(element).build());
}

/// Runs `work`, which opens or builds something; if it takes over a second, PROGRESS messages with `text` say so.
///
/// # Errors
/// Those of `work`.
pub fn with_progress<T>(
    element: &impl IsA<gst::Element>,
    code: &'static str,
    text: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let progress = Progress::new(element, code, text.to_owned());
    let result = work();
    progress.end(progress_of(result.as_ref().err()));
    result
}

/// Returns how work ends by `error`, or without one.
pub fn progress_of(error: Option<&Error>) -> gst::ProgressType {
    match error {
        None => gst::ProgressType::Complete,
        Some(Error::Cancelled) => gst::ProgressType::Canceled,
        Some(_) => gst::ProgressType::Error,
    }
}

/// Work that may take long: if it takes over a second, PROGRESS messages say so until it ends, or is dropped, which cancels it.
pub struct Progress {
    element: gst::Element,
    code: &'static str,
    text: String,
    last: Cell<Instant>,
    /// What tells of a second that is over, by another thread, and returns whether it has.
    watch: Cell<Option<(Sender<()>, JoinHandle<bool>)>>,
}

impl Progress {
    /// How long work may take before it is told of.
    const SILENCE: Duration = Duration::from_secs(1);

    /// Begins work; `text` says what it is.
    pub fn new(element: &impl IsA<gst::Element>, code: &'static str, text: String) -> Self {
        let element = element.clone().upcast::<gst::Element>();
        let (end, ended) = std::sync::mpsc::channel();
        let (teller, words) = (element.clone(), text.clone());
        let watch = std::thread::Builder::new().spawn(move || {
            let slow = ended.recv_timeout(Self::SILENCE) == Err(RecvTimeoutError::Timeout);
            if slow {
                post_progress(&teller, gst::ProgressType::Start, code, &words);
            }
            slow
        });
        // Without a thread to spare there is nothing to tell.
        let watch = Cell::new(watch.ok().map(|watch| (end, watch)));
        Self { element, code, text, last: Cell::new(Instant::now()), watch }
    }

    /// Tells how much is done, once a second.
    pub fn tell(&self, done: usize, all: usize) {
        let watch = self.watch.take();
        if watch.as_ref().is_some_and(|(_, watch)| watch.is_finished())
            && self.last.get().elapsed() > Self::SILENCE
        {
            self.last.set(Instant::now());
            let text = format!("{}, {} %", self.text, 100 * done / all.max(1));
            post_progress(&self.element, gst::ProgressType::Continue, self.code, &text);
        }
        self.watch.set(watch);
    }

    /// Ends the work: complete, canceled or by an error. gst-launch-1.0 does not play before, so nothing can be pushed that waits for it to play.
    pub fn end(&self, kind: gst::ProgressType) {
        let Some((end, watch)) = self.watch.take() else { return };
        drop(end);
        if watch.join().unwrap_or(false) {
            post_progress(&self.element, kind, self.code, &self.text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end(gst::ProgressType::Canceled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_domain() {
        gst::init().unwrap();
        let missing = Error::NotFound { path: "x".into(), reason: "no such folder".into() };
        let message = format!("{:?}", error_message(&missing));
        assert!(message.contains("message: Some(\"`x` was not found: no such folder\")"), "{message}");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "frame")), ["0 frames", "1 frame", "2 frames"]);
    }

    #[test]
    fn only_work_that_takes_long_is_told_of() {
        gst::init().unwrap();
        let (element, bus) = (gst::Bin::new(), gst::Bus::new());
        element.set_bus(Some(&bus));
        let told = || {
            let message = bus.pop_filtered(&[gst::MessageType::Progress])?;
            let gst::MessageView::Progress(progress) = message.view() else { unreachable!() };
            let (kind, _, text) = progress.get();
            Some((kind, text.to_string()))
        };
        let progress = Progress::new(&element, "decode", "decoding".into());
        progress.tell(1, 4);
        progress.end(gst::ProgressType::Complete);
        progress.tell(2, 4);
        drop(progress);
        assert_eq!(told(), None);

        let progress = Progress::new(&element, "decode", "decoding".into());
        let wait = || {
            std::iter::repeat_with(|| {
                std::thread::sleep(Duration::from_millis(1));
                progress.tell(1, 4);
                told()
            })
            .find_map(|told| told)
        };
        assert_eq!(wait(), Some((gst::ProgressType::Start, "decoding".into())));
        assert_eq!(wait(), Some((gst::ProgressType::Continue, "decoding, 25 %".into())));
        progress.tell(2, 4);
        assert_eq!(told(), None, "once a second");
        progress.end(gst::ProgressType::Complete);
        assert_eq!(told(), Some((gst::ProgressType::Complete, "decoding".into())));
        drop(progress);
        assert_eq!(told(), None);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let settings = ModelSettings { model: Some("does/not/exist".into()), ..Default::default() };
        let error = settings.open().unwrap_err().to_string();
        assert!(error.contains("does/not/exist") && error.contains("model.toml"), "{error}");
    }
}
