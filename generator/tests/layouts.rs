//! Every layout a model folder may have, in the real ONNX Runtime, against a float64 reference.
//!
//! The folders are made by `fixtures/layouts/make_layouts.py`. Without ONNX Runtime these tests fail, and
//! say how to fetch it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use dandyroll_generator::onnx::{self, LoadError, OnnxModel, Options, runtime};
use dandyroll_generator::{
    Lexicon, LogitSource, Prediction, Request, Row, Sampling, SourceError, generate, score,
};
use dandyroll_scheme::TokenId;
use serde_json::Value;

const LAYOUTS: [&str; 11] = [
    "external-data",
    "fp16",
    "gpt2",
    "gpt2-no-position-ids",
    "gqa-contrib",
    "llama-gqa",
    "merged",
    "no-past",
    "onnx-subfolder",
    "qwen2-gqa",
    "split",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/layouts").join(name)
}

fn open(name: &str) -> (OnnxModel, Lexicon) {
    onnx::open(&folder(name), &Options::new()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<TokenId> {
    let number = |v: &Value| TokenId(u32::try_from(v.as_u64().unwrap()).unwrap());
    value.as_array().unwrap().iter().map(number).collect()
}

/// The bound on a difference of logits, by the layout's precision.
fn tolerance(name: &str) -> f32 {
    if name == "fp16" { 2e-2 } else { 1e-4 }
}

fn every_position(model: &mut OnnxModel, ids: &[TokenId]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let mut sequence = model.begin().unwrap();
    model
        .each_position(&mut sequence, ids, &mut |i, row| {
            assert_eq!(i, rows.len());
            rows.push(row.to_vec());
        })
        .unwrap();
    rows
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn all_folders_are_tested() {
    let mut found: Vec<String> = fs::read_dir(folder(""))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("expected.json").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, LAYOUTS);
}

#[test]
fn the_runtime_is_there() {
    let runtime = runtime::load(None).unwrap_or_else(|error| panic!("{error}"));
    assert!(runtime.library().is_file());
}

#[test]
fn logits_and_greedy_tokens_are_the_expected_ones() {
    for name in LAYOUTS {
        let expected = json(&folder(name).join("expected.json"));
        let (mut model, lexicon) = open(name);
        let prompt = ids(&expected["prompt"]);
        assert_eq!(
            lexicon.vocabulary().encode_ids(expected["text"].as_str().unwrap()).unwrap(),
            prompt,
            "{name}"
        );

        let mut sequence = model.begin().unwrap();
        let mut logits = Vec::new();
        model.prefill(&mut sequence, &prompt, &mut logits).unwrap();
        assert_eq!(logits.len(), 300);
        for (found, expected) in logits.iter().zip(expected["last_logits"].as_array().unwrap()) {
            let difference = (f64::from(*found) - expected.as_f64().unwrap()).abs();
            assert!(difference < f64::from(tolerance(name)), "{name}: {difference}");
        }

        let mut request = Request::new(prompt, Sampling::greedy(), 12);
        request.stop = vec!["\u{1}".to_owned()];
        let text = generate(&mut model, &lexicon, request).unwrap().complete().unwrap();
        let all: Vec<TokenId> = text.steps.iter().map(|step| step.token).collect();
        let greedy = ids(&expected["greedy"]);
        assert_eq!(all, greedy[..all.len()], "{name}");
        assert!(all.len() == greedy.len() || lexicon.ends(all[all.len() - 1]), "{name}: {:?}", text.finish);
    }
}

#[test]
fn stepping_equals_the_whole_pass_and_so_do_chunks() {
    for name in LAYOUTS {
        let expected = json(&folder(name).join("expected.json"));
        let text = [ids(&expected["prompt"]), ids(&expected["greedy"])].concat();
        let (mut model, _) = open(name);
        let whole = every_position(&mut model, &text);
        assert_eq!(whole.len(), text.len());

        let mut sequence = model.begin().unwrap();
        let mut logits = Vec::new();
        model.prefill(&mut sequence, &text[..1], &mut logits).unwrap();
        for (i, token) in text.iter().enumerate().skip(1) {
            let difference = largest_difference(&logits, &whole[i - 1]);
            assert!(difference < tolerance(name), "{name} at {i}: {difference}");
            let stepped = Prediction::of(&logits).unwrap().entropy().get();
            let prefilled = Prediction::of(&whole[i - 1]).unwrap().entropy().get();
            let bound = if name == "fp16" { 1e-2 } else { 1e-3 };
            assert!((stepped - prefilled).abs() < bound, "{name} at {i}: {stepped} {prefilled}");
            model.step(&mut [Row { sequence: &mut sequence, token: *token, logits: &mut logits }]).unwrap();
        }
        assert_eq!(sequence.len(), text.len());

        let chunked = Options { chunk: 5.try_into().unwrap(), ..Options::new() };
        let mut model = OnnxModel::load(&folder(name), &chunked).unwrap();
        assert!(model.chunks_after_past(), "{name}");
        let chunked = every_position(&mut model, &text);
        for (a, b) in chunked.iter().zip(&whole) {
            assert!(largest_difference(a, b) < tolerance(name), "{name}");
        }
    }
}

#[test]
fn with_and_without_past_are_the_same_model() {
    // One set of weights (gpt2), four ways to carry the past.
    let expected = json(&folder("gpt2").join("expected.json"));
    let text = [ids(&expected["prompt"]), ids(&expected["greedy"])].concat();
    let (mut reference, _) = open("gpt2");
    let reference_rows = every_position(&mut reference, &text);
    for (name, layout) in
        [("gpt2-no-position-ids", "with past"), ("split", "split"), ("no-past", "without past")]
    {
        let (mut model, _) = open(name);
        assert_eq!(model.layout_name(), layout);
        assert_eq!(model.recomputes(), name == "no-past");
        for (a, b) in every_position(&mut model, &text).iter().zip(&reference_rows) {
            assert!(largest_difference(a, b) < 1e-4, "{name}");
        }
    }
}

#[test]
fn several_sequences_do_not_mix() {
    let (mut model, _) = open("llama-gqa");
    let texts = [[5, 9, 17, 3], [250, 1, 1, 30]].map(|text| text.map(TokenId));
    let alone = texts.map(|text| every_position(&mut model, &text).pop().unwrap());
    let mut sequences = [model.begin().unwrap(), model.begin().unwrap()];
    let mut logits = [Vec::new(), Vec::new()];
    for (i, sequence) in sequences.iter_mut().enumerate() {
        model.prefill(sequence, &texts[i][..1], &mut logits[i]).unwrap();
    }
    let [first, second] = texts;
    for tokens in first.into_iter().zip(second).skip(1) {
        let mut rows: Vec<_> = sequences
            .iter_mut()
            .zip([tokens.0, tokens.1])
            .zip(&mut logits)
            .map(|((sequence, token), logits)| Row { sequence, token, logits })
            .collect();
        model.step(&mut rows).unwrap();
    }
    for (alone, together) in alone.iter().zip(&logits) {
        assert!(largest_difference(alone, together) < 1e-4);
    }
}

/// Layouts whose sequences are decoded together. The others count positions in the graph, or read the mask as
/// a length, or keep no past; trying them out tells.
const BATCHES: [&str; 7] =
    ["external-data", "fp16", "gpt2", "llama-gqa", "merged", "onnx-subfolder", "qwen2-gqa"];

/// Those of them whose attention is recognised and put in place: single graphs in 32-bit floats with all in
/// one file.
const IN_PLACE: [&str; 4] = ["gpt2", "llama-gqa", "onnx-subfolder", "qwen2-gqa"];

#[test]
fn sequences_get_the_same_bits_together_and_alone() {
    for name in LAYOUTS {
        let (mut model, _) = open(name);
        assert_eq!(model.batches(), BATCHES.contains(&name), "{name}");
        assert_eq!(model.works_in_place(), IN_PLACE.contains(&name), "{name}");
        let texts: Vec<Vec<TokenId>> =
            [4_u32, 70, 33, 101].map(|n| (0..n).map(|i| TokenId(i * i * n % 257)).collect()).into();
        let mut walk = |texts: &[&Vec<TokenId>]| {
            let mut sequences: Vec<_> = texts.iter().map(|_| model.begin().unwrap()).collect();
            let mut logits = vec![Vec::new(); texts.len()];
            for ((sequence, logits), text) in sequences.iter_mut().zip(&mut logits).zip(texts) {
                model.prefill(sequence, text, logits).unwrap();
            }
            let mut seen = vec![Vec::new(); texts.len()];
            for step in 0..20 {
                let mut rows: Vec<_> = sequences
                    .iter_mut()
                    .zip(&mut logits)
                    .map(|(sequence, logits)| Row { sequence, token: TokenId(step * 11 % 257), logits })
                    .collect();
                model.step(&mut rows).unwrap();
                for (seen, logits) in seen.iter_mut().zip(&logits) {
                    seen.extend(logits.iter().map(|x| x.to_bits()));
                }
            }
            seen
        };
        let together = walk(&texts.iter().collect::<Vec<_>>());
        for (text, together) in texts.iter().zip(&together) {
            assert!(walk(&[text])[0] == *together, "{name}, {} tokens", text.len());
        }
    }
}

#[test]
fn a_text_longer_than_the_context_is_scored_in_windows() {
    let (mut model, _) = open("llama-gqa");
    let context = model.limits().context;
    assert_eq!(context, 128);
    let text: Vec<TokenId> = (0..500_u32).map(|i| TokenId(i * i % 257)).collect();
    let scores = score(&mut model, &text, 0).unwrap();
    assert_eq!(scores.len(), text.len());
    assert_eq!(scores[0], None);
    assert!(scores[1..].iter().all(Option::is_some));
    // The third window by hand: tokens 128..256 are fed, 193..=256 are new.
    let window = every_position(&mut model, &text[128..256]);
    for place in [193, 200, 256] {
        let prediction = Prediction::of(&window[place - 129]).unwrap();
        let found = scores[place].unwrap();
        assert!((prediction.entropy().get() - found.entropy.get()).abs() < 1e-5);
        let logprob = prediction.logprob(&window[place - 129], text[place]).unwrap();
        assert!((logprob - found.logprob).abs() < 1e-4);
    }
    // Where scoring starts changes what is returned, not what is computed.
    for from in [1, 127, 128, 129, 257, 499, 500] {
        assert_eq!(score(&mut model, &text, from).unwrap(), scores[from..], "{from}");
    }
    assert!(score(&mut model, &text, 501).is_err());
    assert_eq!(score(&mut model, &[], 0).unwrap(), []);
    assert_eq!(score(&mut model, &text[..1], 0).unwrap(), [None]);
}

#[test]
fn impossible_sequences_are_refused() {
    let (mut model, _) = open("llama-gqa");
    let mut logits = Vec::new();
    let mut sequence = model.begin().unwrap();
    assert_eq!(model.prefill(&mut sequence, &[], &mut logits), Err(SourceError::NoTokens));
    assert_eq!(
        model.prefill(&mut sequence, &[TokenId(300)], &mut logits),
        Err(SourceError::UnknownToken { token: TokenId(300), width: 300 })
    );
    assert_eq!(
        model.prefill(&mut sequence, &[TokenId(1); 129], &mut logits),
        Err(SourceError::TooLong { tokens: 129, context: 128 })
    );
    assert!(sequence.is_empty());
    model.prefill(&mut sequence, &[TokenId(1); 128], &mut logits).unwrap();
    assert!(model.prefill(&mut sequence, &[TokenId(1)], &mut logits).is_err());
}

#[test]
fn inspection_reports_what_is_there() {
    let report = |name| onnx::inspect(&folder(name), &Options::new()).unwrap();
    let llama = report("llama-gqa");
    assert_eq!((llama.layers, llama.kv_heads, llama.head_dim), (Some(2), Some(2), Some(8)));
    assert_eq!((llama.width, llama.context, llama.layout), (300, 128, "with past"));
    assert_eq!(llama.eos.len(), 2);
    assert!(llama.bos.is_some());
    let inputs: Vec<&str> = llama.graphs[0].inputs.iter().map(|input| input.name.as_str()).collect();
    assert!(inputs.contains(&"input_ids") && inputs.contains(&"past_key_values.1.value"));
    assert!(llama.files.iter().any(|file| file.path == Path::new("tokenizer.json") && file.bytes > 0));
    let sums = fs::read_to_string(folder("SHA256SUMS")).unwrap();
    let sum = |path: &str| sums.lines().find_map(|line| line.strip_suffix(path)).unwrap().trim().to_owned();
    assert_eq!(llama.model_sha256.to_string(), sum("  llama-gqa/model.onnx"));
    assert_eq!(llama.tokenizer_sha256.to_string(), sum("  llama-gqa/tokenizer.json"));
    assert_eq!(report("fp16").graphs[0].outputs.iter().find(|o| o.name == "logits").unwrap().element, "f16");
    assert_eq!((report("merged").layout, report("split").graphs.len()), ("merged", 2));

    // Several files: the digest of the documented list, made here by hand.
    use sha2::{Digest, Sha256};
    let list = format!(
        "model.onnx\0{}\nmodel.onnx_data\0{}\n",
        sum("  external-data/model.onnx"),
        sum("  external-data/model.onnx_data")
    );
    let expected: String = Sha256::digest(list.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(report("external-data").model_sha256.to_string(), expected);
}

#[test]
fn every_broken_folder_has_its_own_message() {
    let mut messages: Vec<(String, String)> = Vec::new();
    for entry in fs::read_dir(folder("broken")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mentions = json(&path.join("fault.json"))["mentions"].as_str().unwrap().to_owned();
        let error = onnx::open(&path, &Options::new()).map(|_| ()).expect_err(&name);
        let variant = match name.as_str() {
            "truncated-model" => matches!(error, LoadError::Truncated { .. }),
            "missing-logits" => matches!(error, LoadError::MissingOutput { tensor: "logits", .. }),
            "missing-input-ids" => matches!(error, LoadError::MissingInput { tensor: "input_ids", .. }),
            "unknown-input" => matches!(error, LoadError::UnknownInput { .. }),
            "past-key-without-value" | "past-without-present" => matches!(error, LoadError::Unpaired { .. }),
            "vocabulary-larger-than-logits" => {
                matches!(error, LoadError::VocabularyTooLarge { vocabulary: 300, width: 280, .. })
            }
            "malformed-config" => matches!(error, LoadError::Json { .. }),
            "config-layers-disagree" => matches!(error, LoadError::Disagree { config: 3, graph: 1, .. }),
            "malformed-tokenizer" => matches!(error, LoadError::Tokenizer(_)),
            "missing-tokenizer" => matches!(error, LoadError::MissingFile(_)),
            "missing-external-data" => matches!(error, LoadError::MissingData { .. }),
            "float-input-ids" => matches!(error, LoadError::ElementType { .. }),
            _ => panic!("{name}: a folder this test does not know: {error}"),
        };
        let message = error.to_string();
        println!("{message}");
        assert!(variant, "{name}: {error:?}");
        assert!(message.contains(&mentions), "{name}: {message:?} does not mention {mentions}");
        assert!(message.contains(&name), "{name}: the folder is not named in {message:?}");
        // Without the path, so that it is the words that differ.
        messages.push((message.replace(path.to_str().unwrap(), ""), name));
    }
    assert_eq!(messages.len(), 13);
    messages.sort();
    messages.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(messages.len(), 13, "two folders share a message");
}
