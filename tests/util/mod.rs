//! What many tests begin with: the plugin in this process, or in the real `gst-launch-1.0` as cargo has just built it; the tests'
//! packages, as they are and to be spoilt.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Once, OnceLock};

use latentflow::vae::Frames;
use latentflow::{Model, Package, RuntimeOptions};
use tempfile::TempDir;

/// No pipeline here has work for longer, not even on a machine that is busy with other things: it hangs.
const TOO_LONG: &str = "60";

/// Returns the folder of a package of the tests.
pub fn package(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/packages").join(name)
}

/// Lets pipelines in this process find the elements.
pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstlatentflow::plugin_register_static().unwrap();
    });
}

/// Opens a package of the tests.
pub fn model(name: &str) -> Arc<Model> {
    Arc::new(Model::new(Arc::new(Package::open(&package(name)).unwrap()), RuntimeOptions::default()))
}

/// Returns the bytes of each frame.
pub fn rgb(frames: &Frames) -> Vec<Vec<u8>> {
    let stride = frames.width() * 3;
    let frame = |index| {
        let mut out = vec![0; stride * frames.height()];
        frames.write_rgb(index, &mut out, stride);
        out
    };
    (0..frames.len()).map(frame).collect()
}

/// Returns a copy of a package, to be spoilt.
pub fn copy_of(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(package(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// Replaces `from`, which is there, by `to` in a file of a package.
pub fn edit(package: &TempDir, file: &str, from: &str, to: &str) {
    let path = package.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from:?}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Returns the plugin's folder, with nothing else in it, for `GST_PLUGIN_PATH`.
pub fn plugin_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let built = test.with_file_name("libgstlatentflow.so");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gstreamer-1.0");
        std::fs::create_dir_all(&folder).unwrap();
        let plugin = folder.join("libgstlatentflow.so");
        let bytes = std::fs::read(&built).unwrap_or_else(|e| panic!("{}: {e}", built.display()));
        if std::fs::read(&plugin).ok().as_ref() != Some(&bytes) {
            // Moved into place: another test may be loading it.
            let new = tempfile::NamedTempFile::new_in(&folder).unwrap();
            std::fs::write(new.path(), bytes).unwrap();
            new.persist(&plugin).unwrap();
        }
        folder
    })
}

/// A `gst-launch-1.0` about to run.
pub struct Launch(Command);

/// What a run left.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Everything printed.
    pub output: String,
}

/// Returns `command` with GStreamer finding the plugin and keeping its registry for the tests alone.
pub fn with_plugin(mut command: Command) -> Command {
    command
        .env("GST_PLUGIN_PATH", plugin_folder())
        .env("GST_REGISTRY", Path::new(env!("CARGO_TARGET_TMPDIR")).join("registry.bin"))
        .env("LC_ALL", "C.UTF-8")
        .env_remove("GST_DEBUG")
        .stdin(Stdio::null());
    command
}

/// Returns the launch line as a shell reads it, ended by force if it hangs.
pub fn launch(line: &str) -> Launch {
    // The registry is made once, not by every pipeline at the same time.
    static REGISTRY: OnceLock<()> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let mut inspect = Command::new("gst-inspect-1.0");
        inspect.arg("latentflow");
        let found = with_plugin(inspect).output().expect("gst-inspect-1.0 runs");
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    });
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec timeout --signal=KILL {TOO_LONG} gst-launch-1.0 {line}"));
    Launch(with_plugin(command))
}

impl Launch {
    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it to its end.
    pub fn run(&mut self) -> Outcome {
        let output = self.0.output().expect("sh runs");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Outcome { code: output.status.code(), output: text }
    }

    /// Runs it to its end, which has to be a good one.
    pub fn succeed(mut self) -> Outcome {
        let outcome = self.run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.output);
        assert!(!outcome.output.contains("panicked"), "{}", outcome.output);
        outcome
    }

    /// Runs it to its end, which has to be an error on the bus that holds each of `words`.
    ///
    /// What is said after it, such as "Internal data stream error" by the source, is GStreamer's; no element of the plugin
    /// says the same twice.
    pub fn fail(mut self, words: &[&str]) -> Outcome {
        let outcome = loop {
            let outcome = self.run();
            // gst-launch 1.22 loses an error that comes in the moment before its main loop runs: it prints the error and
            // waits. An element that hangs lets it come as far as setting the pipeline to NULL.
            let lost = outcome.output.contains("ERROR: pipeline doesn't want to preroll")
                && !outcome.output.contains("Setting pipeline to NULL");
            if !lost {
                break outcome;
            }
        };
        // gst-launch exits with 1 after an error while playing and with 255 before; 124 and 137 are `timeout`'s.
        assert!(matches!(outcome.code, Some(1 | 255)), "{:?}: {}", outcome.code, outcome.output);
        assert!(!outcome.output.contains("panicked"), "{}", outcome.output);
        let errors = outcome.errors();
        let first = errors.first().unwrap_or_else(|| panic!("no error in {}", outcome.output));
        for word in words {
            assert!(first.contains(word), "no {word:?} in {first}");
        }
        let ours = ["GstTextSrc", "GstTextEncode", "GstLatentDiffuse", "GstVaeDecode", "GstVaeEncode"];
        if ours.iter().any(|element| first.split(' ').next().is_some_and(|path| path.contains(element))) {
            assert_eq!(errors.iter().filter(|e| *e == first).count(), 1, "{}", outcome.output);
        }
        outcome
    }
}

impl Outcome {
    /// The errors on the bus, in order.
    pub fn errors(&self) -> Vec<&str> {
        let text = |block: &'_ str| block.find("\nAdditional debug info:").unwrap_or(block.len());
        let blocks = self.output.split("ERROR: from element ").skip(1);
        blocks.map(|block| &block[..text(block)]).collect()
    }
}

/// Returns what `ffprobe` prints of `file` for `arguments`, one line an item.
pub fn probe(file: &Path, arguments: &str) -> Vec<String> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-of", "csv=p=0"]).args(arguments.split(' ')).arg(file);
    let output = command.output().expect("ffprobe runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Side data makes empty fields and lines.
    let items = text.lines().map(|line| line.trim_end_matches(',').to_owned());
    items.filter(|item| !item.is_empty()).collect()
}
