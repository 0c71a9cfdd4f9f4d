//! Texts, marked and human, a judge, and files made of them.

#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "broken fixtures must fail the test")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use dandyroll_detector::{BackgroundTally, Policy};
use dandyroll_dumps::{
    Existing, Judge, Options, Progress, ResultFormat, RunError, Sink, Summary, Wanted, run,
};
use dandyroll_scheme::{Background, Mark, MasterKey, Recipe, TokenId};
use dandyroll_vocab::Vocabulary;
use serde_json::Value;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fixtures").join(name)
}

static VOCABULARY: LazyLock<Arc<Vocabulary>> =
    LazyLock::new(|| Arc::new(Vocabulary::open(fixture("model/tokenizer.json")).unwrap()));

fn recipe() -> Recipe {
    Recipe::built_in("prose-v1").unwrap()
}

/// A key's id and its mark, with a list of windows that are not scored.
pub(crate) fn mark(number: u8, background: Option<Arc<Background>>) -> (dandyroll_scheme::KeyId, Arc<Mark>) {
    let master = MasterKey::take(&mut [number; 32]);
    let profile = recipe().bind(VOCABULARY.digest(), None).unwrap();
    let profile = profile.with_background(background.as_ref().map(|list| list.digest()));
    (master.id(), Arc::new(Mark::new(&master, &profile, background).unwrap()))
}

/// A judge for these keys.
pub(crate) fn judge(keys: &[u8], spans: bool) -> Judge {
    judge_but(keys, spans, None)
}

/// A judge that leaves a list of windows unscored.
pub(crate) fn judge_but(keys: &[u8], spans: bool, background: Option<Arc<Background>>) -> Judge {
    let wanted = keys.iter().map(|number| {
        let (key, mark) = mark(*number, background.clone());
        Wanted { key, profile: "prose-v1".into(), mark }
    });
    Judge::new(Arc::clone(&VOCABULARY), wanted.collect(), Policy::STANDARD, spans)
}

/// A text of words, most of them green under a key. Words are single tokens with their space, so encoding gives the
/// same tokens back.
pub(crate) fn marked(key: u8, seed: usize, tokens: usize) -> String {
    let (_, mark) = mark(key, None);
    let words: Vec<TokenId> = (0..u32::try_from(VOCABULARY.size()).unwrap())
        .map(TokenId)
        .filter(|id| {
            let bytes = VOCABULARY.token_bytes(*id).unwrap_or_default();
            bytes.len() > 3 && bytes[0] == b' ' && bytes[1..].iter().all(u8::is_ascii_lowercase)
        })
        .collect();
    let mut at = seed * 7919;
    let mut text: Vec<TokenId> = Vec::new();
    while text.len() < tokens {
        // Of four candidates the first green one: about two thirds are green.
        let candidates: Vec<TokenId> = (0..4)
            .map(|_| {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                words[(at >> 33) % words.len()]
            })
            .collect();
        let green = |id: &&TokenId| {
            let word = mark.words().context(&text).and_then(|context| mark.words().word(context, **id));
            word.is_some_and(|word| mark.scheme().favours(word))
        };
        text.push(*candidates.iter().find(green).unwrap_or(&candidates[0]));
    }
    let bytes: Vec<u8> = text.iter().flat_map(|id| VOCABULARY.token_bytes(*id).unwrap()).copied().collect();
    String::from_utf8(bytes).unwrap()
}

/// Human texts of the fixtures.
pub(crate) fn human() -> Vec<String> {
    let lines = std::fs::read_to_string(fixture("corpora/prose_heldout.jsonl")).unwrap();
    let text = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
    lines.lines().map(text).collect()
}

/// The windows that occur in at least two of the human texts.
pub(crate) fn background() -> Arc<Background> {
    let mut tally = BackgroundTally::new(recipe().width());
    for text in human() {
        tally.add(&VOCABULARY.encode_ids(dandyroll_vocab::normalise(&text).text()).unwrap()).unwrap();
    }
    Arc::new(tally.list(VOCABULARY.digest(), 2, 100_000).unwrap())
}

/// Ids and texts: every tenth is marked under key 1.
pub(crate) fn documents(count: usize) -> Vec<(String, String)> {
    let human = human();
    let text = |at: usize| {
        if at % 10 == 3 { marked(1, at, 260) } else { format!("{} {at}", human[at % human.len()]) }
    };
    (0..count).map(|at| (format!("doc-{at}"), text(at))).collect()
}

pub(crate) fn jsonl(documents: &[(String, String)]) -> Vec<u8> {
    let line = |(id, text): &(String, String)| format!("{}\n", serde_json::json!({ "id": id, "text": text }));
    documents.iter().map(line).collect::<String>().into_bytes()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

/// A Parquet file with the columns id, text (nullable) and length; `group` rows in a row group.
pub(crate) fn parquet(documents: &[(String, Option<String>)], group: usize) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    let schema = "message m { required binary id (UTF8); optional group doc { optional binary text (UTF8); } required int64 n; }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_data_page_size_limit(1 << 14)
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for part in documents.chunks(group) {
        let mut rows = writer.next_row_group().unwrap();
        let bytes = |text: &str| ByteArray::from(text.as_bytes().to_vec());
        let ids: Vec<_> = part.iter().map(|(id, _)| bytes(id)).collect();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let texts: Vec<_> = part.iter().filter_map(|(_, text)| text.as_deref().map(bytes)).collect();
        let levels: Vec<i16> = part.iter().map(|(_, text)| if text.is_some() { 2 } else { 1 }).collect();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
        column.close().unwrap();
        let numbers: Vec<i64> = (0..).take(part.len()).collect();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// A row of a Parquet file as JSON.
pub(crate) fn value_of(row: parquet::record::Row) -> Value {
    use parquet::record::Field;
    fn field(value: &Field) -> Value {
        match value {
            Field::Int(value) => (*value).into(),
            Field::Long(value) => (*value).into(),
            Field::Double(value) => (*value).into(),
            Field::Str(value) => value.as_str().into(),
            Field::Group(row) => value_of(row.clone()),
            Field::ListInternal(list) => list.elements().iter().map(field).collect(),
            _ => Value::Null,
        }
    }
    Value::Object(row.get_column_iter().map(|(name, value)| (name.clone(), field(value))).collect())
}

pub(crate) fn warc(documents: &[(String, String)]) -> Vec<u8> {
    documents
        .iter()
        .flat_map(|(id, text)| {
            format!(
                "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <{id}>\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}\r\n\r\n",
                text.len()
            )
            .into_bytes()
        })
        .collect()
}

pub(crate) fn csv(documents: &[(String, String)], delimiter: char) -> Vec<u8> {
    let quoted = |field: &str| format!("\"{}\"", field.replace('"', "\"\""));
    let mut text = format!("id{delimiter}text\n");
    for (id, body) in documents {
        text += &format!("{}{delimiter}{}\n", quoted(id), quoted(body));
    }
    text.into_bytes()
}

pub(crate) fn options() -> Options {
    Options {
        text: "text".parse().unwrap(),
        id: None,
        format: ResultFormat::Jsonl,
        attribute: "dandyroll".into(),
        only_detected: false,
        strict: false,
        existing: Existing::Refuse,
        max_document: 1 << 20,
        memory: 1 << 24,
        threads: NonZeroUsize::new(2).unwrap(),
    }
}

/// A folder with inputs in `in` and results in `out`.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        Self { folder }
    }

    pub(crate) fn input(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join("in").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join("out").join(name)
    }

    /// Runs over everything in `in`.
    pub(crate) fn run(&self, judge: &Judge, options: &Options) -> Result<Summary, RunError> {
        self.watched(judge, options, &Progress::default())
    }

    pub(crate) fn watched(
        &self,
        judge: &Judge,
        options: &Options,
        progress: &Progress,
    ) -> Result<Summary, RunError> {
        let shards = dandyroll_dumps::shards(&[self.folder.path().join("in")], None, None, None).unwrap();
        let out = self.folder.path().join("out");
        run(judge, &shards, options, Sink::Folder(&out), progress)
    }

    pub(crate) fn rows(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.out(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
