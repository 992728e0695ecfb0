//! Bad input, one test a kind: through the library, and through `gst-launch-1.0` as an error on the bus that names the file,
//! property or tensor and the cure; never a panic, a hang or a claim of success.

mod util;

use std::path::Path;

use latentflow::{Error, Package};
use tempfile::{TempDir, tempdir};
use util::{copy_of, edit, launch, package};

/// A pipeline of half a second with `model` at its head.
fn line(model: &Path) -> String {
    let model = model.display();
    format!("textsrc model={model} prompt=red duration=500000000 ! latentdiffuse ! vaedecode ! fakesink")
}

/// Both the library and a pipeline refuse `package` with `words`.
fn refused(package: &TempDir, words: &[&str]) -> Error {
    let error = Package::open(package.path()).unwrap_err();
    for word in words {
        assert!(error.to_string().contains(word), "no {word:?} in {error}");
    }
    launch(&line(package.path())).fail(words);
    error
}

#[test]
fn the_untouched_package_is_good() {
    launch(&line(copy_of("tiny-stream").path())).succeed();
}

// Packages.

#[test]
fn a_folder_that_is_not_there() {
    let folder = tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    let error = Package::open(&nowhere).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    launch(&line(&nowhere)).fail(&["nowhere", "no such folder", "model.toml"]);
}

#[test]
fn a_file_where_a_folder_is_needed() {
    let manifest = package("tiny-stream").join("model.toml");
    assert!(matches!(Package::open(&manifest), Err(Error::NotFound { .. })));
    launch(&line(&manifest)).fail(&["model.toml", "a package is a folder"]);
}

#[test]
fn a_folder_without_manifest() {
    let error = refused(&tempdir().unwrap(), &["model.toml", "not found"]);
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[test]
fn a_manifest_that_is_no_toml() {
    let package = copy_of("tiny-stream");
    edit(&package, "model.toml", "[latents]", "[latents");
    let error = refused(&package, &["model.toml", "line"]);
    assert!(matches!(error, Error::Package { .. }), "{error:?}");
}

#[test]
fn a_manifest_that_is_no_text() {
    let package = copy_of("tiny-stream");
    std::fs::write(package.path().join("model.toml"), [0xff, 0xfe, 0x00]).unwrap();
    refused(&package, &["model.toml", "utf-8"]);
}

#[test]
fn a_field_that_is_missing_or_unknown_or_absurd() {
    for (from, to, words) in [
        ("channels = 4\n", "", ["model.toml", "channels"]),
        ("channels = 4\n", "channels = 4\nchanels = 4\n", ["model.toml", "chanels"]),
        ("channels = 4\n", "channels = 0\n", ["latents.channels", "0"]),
        ("channels = 4\n", "channels = -4\n", ["model.toml", "-4"]),
        ("format = 1", "format = 9", ["format", "9"]),
        ("size_multiple = 16", "size_multiple = 12", ["size_multiple", "multiple"]),
        ("max = 512, default = 64", "max = 512, default = 1024", ["video.width", "default"]),
        ("default = \"24/1\"", "default = \"24/0\"", ["24/0", "fraction"]),
        ("window = 4", "window = 1", ["stream", "window"]),
        ("window = 4", "window = 4\nfirst = 2", ["stream.first", "stream.chunk"]),
    ] {
        let package = copy_of("tiny-stream");
        edit(&package, "model.toml", from, to);
        refused(&package, &words);
    }
}

#[test]
fn a_path_that_leaves_the_folder() {
    for path in ["../text_encoder.onnx", "/etc/passwd", ""] {
        let package = copy_of("tiny-stream");
        edit(&package, "model.toml", "\"text_encoder.onnx\"", &format!("\"{path}\""));
        refused(&package, &["model.toml", path, "out of the package"]);
    }
}

#[test]
fn weights_that_leave_the_folder() {
    let package = copy_of("tiny-stream");
    let path = package.path().join("decoder_init.onnx");
    let graph = std::fs::read(&path).unwrap();
    let (from, to) = (b"decoder.weights", b"../../../passwd");
    let at: Vec<usize> = (0..graph.len() - from.len()).filter(|&i| graph[i..].starts_with(from)).collect();
    let mut spoilt = graph.clone();
    at.iter().for_each(|&i| spoilt[i..i + to.len()].copy_from_slice(to));
    assert!(!at.is_empty());
    std::fs::write(path, spoilt).unwrap();
    refused(&package, &["decoder_init.onnx", "../../../passwd"]);
}

#[test]
fn a_graph_that_is_missing() {
    let package = copy_of("tiny-stream");
    std::fs::remove_file(package.path().join("denoiser.onnx")).unwrap();
    let error = refused(&package, &["denoiser.onnx", "not found"]);
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[test]
fn weights_that_are_missing() {
    let package = copy_of("tiny-stream");
    std::fs::remove_file(package.path().join("decoder.weights")).unwrap();
    refused(&package, &["decoder.weights", "not found", "decoder_init.onnx"]);
}

#[test]
fn weights_that_are_cut_short() {
    let package = copy_of("tiny-stream");
    std::fs::write(package.path().join("decoder.weights"), [0; 8]).unwrap();
    launch(&line(package.path())).fail(&["decoder_init.onnx"]);
}

#[test]
fn a_graph_that_is_cut_short_or_empty_or_something_else() {
    let whole = std::fs::read(package("tiny-stream").join("denoiser.onnx")).unwrap();
    for bytes in [&whole[..whole.len() / 2], &whole[..3], &[], b"<html>404</html>"] {
        let package = copy_of("tiny-stream");
        std::fs::write(package.path().join("denoiser.onnx"), bytes).unwrap();
        refused(&package, &["denoiser.onnx", "can't be used"]);
    }
}

#[test]
fn a_graph_of_another_shape() {
    // A decoder in the denoiser's place.
    let package = copy_of("tiny-stream");
    edit(&package, "model.toml", "\"denoiser.onnx\"", "\"decoder_init.onnx\"");
    refused(&package, &["decoder_init.onnx", "`timestep`"]);
    // Latents of four channels where the manifest says eight.
    let package = copy_of("tiny-stream");
    edit(&package, "model.toml", "channels = 4", "channels = 8");
    refused(&package, &["denoiser.onnx", "`latents`", "[?,4,?,?,?]", "[1,8,?,?,?]"]);
}

#[test]
fn a_tokenizer_that_is_missing_or_broken() {
    let package = copy_of("tiny-stream");
    std::fs::remove_file(package.path().join("tokenizer.json")).unwrap();
    refused(&package, &["tokenizer.json", "not found"]);
    let package = copy_of("tiny-stream");
    std::fs::write(package.path().join("tokenizer.json"), "{}").unwrap();
    launch(&line(package.path())).fail(&["tokenizer.json"]);
    let package = copy_of("tiny-stream");
    edit(&package, "model.toml", "pad_token = \"[PAD]\"", "pad_token = \"<pad>\"");
    launch(&line(package.path())).fail(&["<pad>", "tokenizer.json"]);
}

#[test]
fn a_scheduler_that_is_unknown() {
    let package = copy_of("tiny-stream");
    edit(&package, "model.toml", "FlowMatchEulerDiscreteScheduler", "MagicScheduler");
    refused(&package, &["model.toml", "MagicScheduler", "FlowMatchEulerDiscreteScheduler"]);
    let asked = "latentdiffuse scheduler=MagicScheduler";
    let line = line(&util::package("tiny-stream")).replace("latentdiffuse", asked);
    launch(&line).fail(&["scheduler", "MagicScheduler", "FlowMatchEulerDiscreteScheduler"]);
}

#[test]
fn elements_of_different_packages() {
    let [stream, clip] = ["tiny-stream", "tiny-clip"].map(|name| package(name).display().to_string());
    launch(&format!(
        "textsrc model={stream} prompt=red duration=500000000 ! latentdiffuse model={clip} ! vaedecode ! fakesink"
    ))
    .fail(&["model", "tiny-stream-", "tiny-clip-"]);
    launch(&format!(
        "textsrc model={stream} prompt=red duration=500000000 ! latentdiffuse ! vaedecode model={clip} ! fakesink"
    ))
    .fail(&["model", "tiny-stream-", "tiny-clip-"]);
}

// Prompts.

#[test]
fn a_prompt_that_is_empty() {
    let model = package("tiny-stream").display().to_string();
    for prompt in ["", "  "] {
        launch(&format!(
            "textsrc model={model} prompt='\"{prompt}\"' duration=500000000 ! latentdiffuse ! fakesink"
        ))
        .fail(&["prompt"]);
    }
    launch(&format!("textsrc model={model} ! latentdiffuse ! fakesink")).fail(&["prompt", "location"]);
}

#[test]
fn a_prompt_that_is_no_text() {
    let model = package("tiny-stream").display().to_string();
    let folder = tempdir().unwrap();
    let path = folder.path().join("prompt.txt");
    std::fs::write(&path, b"red \xff\xfe cat\n").unwrap();
    let file = path.display();
    launch(&format!("textsrc model={model} location={file} ! latentdiffuse ! fakesink"))
        .fail(&["prompt.txt", "UTF-8"]);
    // Sleeping: gst-launch hangs after an error that comes before its own main loop runs.
    launch(&format!(
        "filesrc location={file} ! identity sleep-time=500000 ! text/x-raw,format=utf8 ! textencode model={model} \
         ! latentdiffuse ! fakesink"
    ))
    .fail(&["line 1", "UTF-8"]);
}

#[test]
fn a_file_of_prompts_that_is_not_there() {
    let model = package("tiny-stream").display().to_string();
    launch(&format!("textsrc model={model} location=/nowhere/story.srt ! latentdiffuse ! fakesink"))
        .fail(&["/nowhere/story.srt"]);
}

#[test]
fn a_prompt_over_the_limit_is_cut_with_a_warning() {
    let model = package("tiny-stream").display().to_string();
    let outcome = launch(&format!(
        "textsrc model={model} prompt=\"a red cat and a blue dog and a green bird\" duration=500000000 \
         ! latentdiffuse ! vaedecode ! fakesink"
    ))
    .succeed();
    assert!(outcome.output.contains("WARNING: from element"), "{}", outcome.output);
    assert!(outcome.output.contains("`prompt` has 12 tokens and was cut to 8"), "{}", outcome.output);
}

#[test]
fn words_that_the_model_does_not_know_are_named_in_a_warning() {
    let model = package("tiny-stream").display().to_string();
    let outcome = launch(&format!(
        "textsrc model={model} prompt=\"a red zebra\" duration=500000000 ! latentdiffuse ! vaedecode ! fakesink"
    ))
    .succeed();
    assert!(outcome.output.contains("WARNING: from element"), "{}", outcome.output);
    assert!(outcome.output.contains("zebra"), "{}", outcome.output);
}

// Caps.

#[test]
fn a_size_or_rate_that_the_model_cannot_do() {
    for (caps, words) in [
        ("width=1024,height=48", ["width", "512"]),
        ("width=64,height=8", ["height", "16"]),
        ("framerate=240/1", ["framerate", "120"]),
    ] {
        let line = line(&package("tiny-stream"));
        let line = line.replace("fakesink", &format!("video/x-raw,{caps} ! fakesink"));
        launch(&line).fail(&words);
    }
}

// The machine.

#[test]
fn an_execution_provider_that_is_unknown() {
    let line = line(&package("tiny-stream")).replace("! lat", "execution-provider=gpu ! lat");
    let outcome = launch(&line).run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.output);
    assert!(
        outcome.output.contains("execution-provider") && outcome.output.contains("gpu"),
        "{}",
        outcome.output
    );
}

#[test]
fn an_execution_provider_that_is_not_there_is_no_silent_fall_to_the_cpu() {
    for element in ["textsrc", "latentdiffuse", "vaedecode"] {
        let asked = format!("{element} execution-provider=cuda");
        launch(&line(&package("tiny-stream")).replace(element, &asked)).fail(&["execution provider `cuda`"]);
    }
}

#[test]
fn an_onnx_runtime_that_is_missing_or_something_else() {
    let line = line(&package("tiny-stream"));
    launch(&line)
        .env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")
        .fail(&["ONNX Runtime", "/nowhere/libonnxruntime.so"]);
    let folder = tempdir().unwrap();
    let library = folder.path().join("libonnxruntime.so");
    std::fs::write(&library, "no library").unwrap();
    let library = library.display().to_string();
    launch(&line).env("ORT_DYLIB_PATH", &library).fail(&["ONNX Runtime", &library]);
    // Beside the plugin and in the system there is none either.
    launch(&line).env("ORT_DYLIB_PATH", "").fail(&["ONNX Runtime", "pipelines/setup.sh", "ORT_DYLIB_PATH"]);
}

#[test]
fn a_disk_that_is_full() {
    let line = line(&package("tiny-stream"));
    launch(&line.replace("fakesink", "matroskamux ! filesink location=/dev/full")).fail(&["filesink"]);
    launch(&line.replace("fakesink", "filesink location=/dev/full")).fail(&["filesink"]);
}
