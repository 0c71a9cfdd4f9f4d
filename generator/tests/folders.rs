//! Model folders that are wrong as folders, and machines without ONNX Runtime.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dandyroll_generator::onnx::{
    Batching, LoadError, ModelDirectory, OnnxModel, OnnxSequence, Options, runtime,
};
use dandyroll_generator::{Decoder, Lexicon, LogitSource, SourceError};
use dandyroll_scheme::TokenId;
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

/// The library that `x.py setup` fetches has no CUDA: that is said, and nothing is computed elsewhere instead. With one that
/// has it, and a GPU, the model runs.
#[test]
fn a_provider_that_the_library_lacks_is_an_error() {
    let provider = "cuda".parse().unwrap();
    match OnnxModel::load(&fixture("gpt2"), &Options { provider, ..Options::new() }) {
        Err(LoadError::Refused { reason, .. }) => {
            assert!(
                reason.starts_with("cuda cannot be used with ") && reason.contains("onnxruntime"),
                "{reason}"
            );
        }
        Err(other) => panic!("{other}"),
        Ok(model) => assert!(!model.batches()),
    }
}

/// What the parent runs in a process of its own, where no library can be found.
#[test]
#[ignore = "run by the test below, in a process without ONNX Runtime"]
fn without_a_library() {
    let garbage = tempfile::NamedTempFile::new().unwrap();
    fs::write(garbage.path(), "not a library").unwrap();
    let error = runtime::load(Some(garbage.path())).map(|_| ()).unwrap_err();
    // A library asked for by name is not replaced by another.
    assert_eq!(error.attempts.len(), 1);
    assert!(error.attempts[0].path.as_deref() == Some(garbage.path()));
    println!("{error}");
    // A failed search can be repeated.
    println!("{}", runtime::load(None).map(|_| ()).unwrap_err());
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

/// Some exports were traced one token at a time, and their graph with a past has no causal mask: several
/// tokens at once would see each other, silently. Here the mask's −1.7·10³⁸ is made 0.
#[test]
fn a_graph_that_can_only_take_one_token_after_a_past_is_found_out() {
    let folder = copy("split");
    let file = folder.path().join("decoder_with_past_model.onnx");
    let mut bytes = fs::read(&file).unwrap();
    let lowest = (f32::MIN / 2.0).to_le_bytes();
    let places: Vec<usize> = (0..bytes.len() - 4).filter(|at| bytes[*at..at + 4] == lowest).collect();
    assert_eq!(places.len(), 1, "the constant of the mask is there once");
    bytes[places[0]..places[0] + 4].fill(0);
    fs::write(&file, bytes).unwrap();

    let chunked = Options { chunk: 4.try_into().unwrap(), ..Options::new() };
    let mut sound = OnnxModel::load(&fixture("split"), &chunked).unwrap();
    let mut maskless = OnnxModel::load(folder.path(), &chunked).unwrap();
    assert!(sound.chunks_after_past());
    assert!(!maskless.chunks_after_past());
    let ids: Vec<TokenId> = (0..30).map(|i| TokenId(i * 9)).collect();
    let rows = |model: &mut OnnxModel| {
        let mut rows = Vec::new();
        let mut sequence = model.begin().unwrap();
        model.each_position(&mut sequence, &ids, &mut |_, row| rows.extend_from_slice(row)).unwrap();
        rows
    };
    for (a, b) in rows(&mut sound).iter().zip(rows(&mut maskless)) {
        assert!((a - b).abs() < 1e-4);
    }
}

/// A protobuf field with a length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
}

/// A copy of a fixture whose graph has one input more: of element type `element` (ONNX's number), all its
/// axes open. Protobuf merges what is appended to a message with the message.
fn with_input(fixture: &str, name: &str, element: u8, rank: usize) -> TempDir {
    let folder = copy(fixture);
    let shape = field(1, &[]).repeat(rank);
    let tensor = [vec![8, element], field(2, &shape)].concat();
    let value = [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat();
    let file = folder.path().join("model.onnx");
    let model = [fs::read(&file).unwrap(), field(7, &field(11, &value))].concat();
    fs::write(&file, model).unwrap();
    folder
}

#[test]
fn inputs_are_checked_by_type_and_axes() {
    const FLOAT: u8 = 1;
    const INT64: u8 = 7;
    const BOOL: u8 = 9;
    let refusal = |folder: TempDir| OnnxModel::load(folder.path(), &Options::new()).map(|_| ()).unwrap_err();
    let axes = refusal(with_input("no-past", "position_ids", INT64, 1));
    assert!(matches!(&axes, LoadError::Axes { tensor, .. } if tensor == "position_ids"), "{axes}");
    let float = refusal(with_input("no-past", "position_ids", FLOAT, 2));
    assert!(matches!(&float, LoadError::ElementType { tensor, .. } if tensor == "position_ids"), "{float}");
    let past = refusal(with_input("gpt2", "past_key_values.2.key", FLOAT, 3));
    assert!(matches!(&past, LoadError::Axes { tensor, .. } if tensor == "past_key_values.2.key"), "{past}");
    let integers = refusal(with_input("gpt2", "past_key_values.2.key", INT64, 4));
    assert!(matches!(integers, LoadError::ElementType { .. }), "{integers}");
    let half_a_layer = refusal(with_input("gpt2", "past_key_values.2.value", FLOAT, 4));
    assert!(matches!(half_a_layer, LoadError::Unpaired { .. }), "{half_a_layer}");
    let branch = refusal(with_input("no-past", "use_cache_branch", BOOL, 1));
    assert!(
        matches!(&branch, LoadError::Unpaired { present, .. } if present == "use_cache_branch"),
        "{branch}"
    );
    let unknown = refusal(with_input("gpt2", "token_type_ids", INT64, 2));
    assert!(
        matches!(&unknown, LoadError::UnknownInput { tensor, .. } if tensor == "token_type_ids"),
        "{unknown}"
    );
}

#[test]
fn a_scalar_that_limits_the_logits_is_fed() {
    // As the file has it: a graph in two records, as this one is now, is not rewritten.
    let options = Options { batching: Batching::OneByOne, ..Options::new() };
    let mut plain = OnnxModel::load(&fixture("gpt2"), &options).unwrap();
    let folder = with_input("gpt2", "num_logits_to_keep", 7, 0);
    let mut model = OnnxModel::load(folder.path(), &options).unwrap();
    let last = |model: &mut OnnxModel| {
        let mut logits = Vec::new();
        let mut sequence = model.begin().unwrap();
        model.prefill(&mut sequence, &[TokenId(5), TokenId(80), TokenId(3)], &mut logits).unwrap();
        logits
    };
    // This graph has the input and ignores it.
    assert_eq!(last(&mut model), last(&mut plain));
}

#[test]
fn absurd_settings_cost_no_memory() {
    let folder = copy("gpt2-no-position-ids");
    let config = folder.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let huge = text.replace("\"n_positions\": 128", "\"n_positions\": 9000000000000000000");
    assert_ne!(text, huge);
    fs::write(&config, huge).unwrap();
    let mut model = OnnxModel::load(folder.path(), &Options::new()).unwrap();
    // The graph's own table of positions ends at 128: the engine says so, and nothing crashes.
    let mut sequence = model.begin().unwrap();
    let error = model.prefill(&mut sequence, &[TokenId(1); 129], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, SourceError::Engine(_)), "{error}");
}

#[test]
fn models_and_sequences_can_be_handed_to_a_thread() {
    fn send<T: Send>() {}
    send::<OnnxModel>();
    send::<OnnxSequence>();
    send::<Decoder>();
    send::<Lexicon>();
    send::<LoadError>();
}
