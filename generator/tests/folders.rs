//! Model folders that are wrong as folders, and machines without ONNX Runtime.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dandyroll_generator::onnx::{LoadError, ModelDirectory, OnnxModel, Options, runtime};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/layouts").join(name)
}

/// A copy of a fixture to spoil.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn refusal(folder: &Path) -> LoadError {
    ModelDirectory::open(folder).map(|_| ()).unwrap_err()
}

#[test]
fn missing_files_are_named() {
    assert!(matches!(refusal(Path::new("/nowhere")), LoadError::NotADirectory(_)));
    let empty = tempfile::tempdir().unwrap();
    let error = refusal(empty.path());
    assert!(matches!(error, LoadError::NoGraph { .. }));
    assert!(error.to_string().contains("decoder_model_merged.onnx"), "{error}");

    for (half, other) in [
        ("decoder_model.onnx", "decoder_with_past_model.onnx"),
        ("decoder_with_past_model.onnx", "decoder_model.onnx"),
    ] {
        let split = copy("split");
        fs::remove_file(split.path().join(half)).unwrap();
        match refusal(split.path()) {
            LoadError::MissingHalf { present, missing } => {
                assert!(present.ends_with(other) && missing.ends_with(half));
            }
            error => panic!("{error}"),
        }
    }
    let gpt2 = copy("gpt2");
    fs::remove_file(gpt2.path().join("generation_config.json")).unwrap();
    let directory = ModelDirectory::open(gpt2.path()).unwrap();
    assert_eq!(directory.eos(), directory.config().eos, "without generation_config.json config.json speaks");
    fs::remove_file(gpt2.path().join("config.json")).unwrap();
    assert!(matches!(refusal(gpt2.path()), LoadError::MissingFile(file) if file.ends_with("config.json")));
}

#[test]
fn weights_outside_the_folder_or_cut_short_are_refused() {
    let folder = copy("external-data");
    let graph = folder.path().join("model.onnx");
    let bytes = fs::read(&graph).unwrap();
    let (from, text) =
        (b"model.onnx_data", String::from_utf8_lossy(&bytes).matches("model.onnx_data").count());
    assert!(text > 1);
    for outside in [b"../ab.onnx_data", b"/bcd.onnx_data/", b"a/../../nx_data", b"a\\..\\..\\nx_data"] {
        let mut spoiled = bytes.clone();
        let at = spoiled.windows(from.len()).position(|window| window == from).unwrap();
        spoiled[at..at + from.len()].copy_from_slice(outside);
        fs::write(&graph, spoiled).unwrap();
        let error = refusal(folder.path());
        assert!(matches!(error, LoadError::DataOutside { .. }), "{error}");
    }
    fs::write(&graph, &bytes).unwrap();
    let data = folder.path().join("model.onnx_data");
    let weights = fs::read(&data).unwrap();
    fs::write(&data, &weights[..weights.len() - 1]).unwrap();
    match refusal(folder.path()) {
        LoadError::ShortData { needed, length, .. } => assert_eq!(needed, length + 1),
        error => panic!("{error}"),
    }
}

#[test]
fn a_graph_cut_anywhere_is_refused_before_it_is_loaded() {
    let folder = copy("gpt2");
    let graph = folder.path().join("model.onnx");
    let bytes = fs::read(&graph).unwrap();
    let step = bytes.len() / 97;
    for length in (0..bytes.len() - 1).step_by(step).chain([1, 2, 3]) {
        fs::write(&graph, &bytes[..length]).unwrap();
        match ModelDirectory::open(folder.path()) {
            Err(LoadError::Truncated { .. } | LoadError::NotOnnx { .. }) => {}
            // The graph itself is whole, and what follows it is a version number.
            Ok(_) => assert!(bytes.len() - length < 64, "cut at {length} of {}", bytes.len()),
            Err(error) => panic!("cut at {length}: {error}"),
        }
    }
    fs::write(&graph, "This is no model at all. It is a text, and a short one.").unwrap();
    let error = refusal(folder.path());
    assert!(matches!(error, LoadError::NotOnnx { .. } | LoadError::Truncated { .. }), "{error}");
}

#[test]
fn settings_of_another_vocabulary_are_refused() {
    let folder = copy("gpt2");
    let config = folder.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap().replace("\"vocab_size\": 300", "\"vocab_size\": 400");
    fs::write(&config, text).unwrap();
    match OnnxModel::load(folder.path(), &Options::new()).map(|_| ()) {
        Err(LoadError::Disagree { field: "vocab_size", config: 400, graph: 300, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// What the parent runs in a process of its own, where no library can be found.
#[test]
#[ignore = "run by the test below, in a process without ONNX Runtime"]
fn without_a_library() {
    let garbage = tempfile::NamedTempFile::new().unwrap();
    fs::write(garbage.path(), "not a library").unwrap();
    let error = runtime::load(Some(garbage.path())).map(|_| ()).unwrap_err();
    assert_eq!(error.attempts.len(), 4);
    assert!(error.attempts[0].path.as_deref() == Some(garbage.path()));
    println!("{error}");
    // A failed search can be repeated.
    assert!(runtime::load(None).is_err());
}

#[test]
fn without_onnx_runtime_every_place_is_listed() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_a_library", "--ignored", "--nocapture"])
        .env("XDG_CACHE_HOME", empty.path())
        .env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for part in [
        "python3 x.py setup",
        "configured path (",
        "ORT_DYLIB_PATH (/nowhere/libonnxruntime.so): no such file",
        "set-up folder (",
        "dandyroll/onnxruntime-1.31.1/",
        "folder of the executable (",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
