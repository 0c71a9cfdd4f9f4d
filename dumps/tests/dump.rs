//! Whole dumps through the pipeline: every format, every result, resuming, faults beside good documents.

mod common;

use std::num::NonZeroUsize;
use std::sync::Arc;

use common::{Bench, documents, fixture, gzip, jsonl, judge, marked, options, parquet, zst};
use dandyroll_dumps::{Existing, Options, Progress, ResultFormat, RunError, Sink};
use serde_json::Value;

/// What a row says, without where it came from.
fn says(row: &Value) -> (Value, Value, Value, Value) {
    (row["id"].clone(), row["verdict"].clone(), row["tokens"].clone(), row["findings"].clone())
}

#[test]
fn every_format_gives_the_same_numbers_in_the_same_order() {
    let bench = Bench::new();
    let documents = documents(60);
    let lines = jsonl(&documents);
    bench.input("a.jsonl", &lines);
    // Members and frames that end inside lines.
    bench.input("b.jsonl.gz", lines.chunks(10_000).flat_map(gzip).collect::<Vec<u8>>());
    bench.input("c/d.jsonl.zst", lines.chunks(7_000).flat_map(zst).collect::<Vec<u8>>());
    bench.input("e.csv", common::csv(&documents, ','));
    bench.input("f.tsv.gz", gzip(&common::csv(&documents, '\t')));
    bench.input(
        "g.warc.wet.gz",
        documents.iter().flat_map(|one| gzip(&common::warc(std::slice::from_ref(one)))).collect::<Vec<u8>>(),
    );
    bench.input("h.warc", common::warc(&documents));
    for (id, text) in &documents {
        let number: usize = id["doc-".len()..].parse().unwrap();
        bench.input(&format!("texts/{number:04}.txt"), text);
    }
    let summary = bench.run(&judge(&[1, 2], false), &options()).unwrap();
    assert!(!summary.anything_failed(), "{:?}", summary.examples);
    let expected: Vec<_> = bench.rows("a.jsonl.jsonl").iter().map(says).collect();
    assert_eq!(expected.len(), 60);
    for (at, (id, verdict, _, _)) in expected.iter().enumerate() {
        assert_eq!(*id, format!("doc-{at}"));
        assert_eq!(verdict == "detected", at % 10 == 3, "{at}: {verdict}");
    }
    let names = ["b.jsonl.gz", "c/d.jsonl.zst", "e.csv", "f.tsv.gz", "g.warc.wet.gz", "h.warc"];
    for name in names {
        let found: Vec<_> = bench.rows(&format!("{name}.jsonl")).iter().map(says).collect();
        assert_eq!(found, expected, "{name}");
    }
    let texts = bench.rows("texts/texts-00000.jsonl");
    assert_eq!(texts[3]["id"], "texts/0003.txt");
    for (found, (_, verdict, tokens, findings)) in texts.iter().zip(&expected) {
        assert_eq!((&found["verdict"], &found["tokens"], &found["findings"]), (verdict, tokens, findings));
    }
    let tally = &summary.tally;
    assert_eq!((tally.documents, tally.detected, tally.hypotheses[0].detected), (480, 48, 48));
    assert_eq!(tally.hypotheses[1].detected, 0);
    // Every text came eight times and was scored once.
    assert!(summary.repeats >= 400, "{}", summary.repeats);

    let bench = Bench::new();
    let with_text: Vec<_> = documents.iter().map(|(id, text)| (id.clone(), Some(text.clone()))).collect();
    bench.input("p.parquet", parquet(&with_text, 25));
    let nested = Options { text: "doc.text".parse().unwrap(), ..options() };
    bench.run(&judge(&[1, 2], false), &nested).unwrap();
    assert_eq!(bench.rows("p.parquet.jsonl").iter().map(says).collect::<Vec<_>>(), expected);
}

#[test]
fn threads_and_memory_do_not_show_in_the_bytes() {
    for format in [ResultFormat::Jsonl, ResultFormat::Parquet, ResultFormat::Dolma] {
        let mut seen: Option<Vec<Vec<u8>>> = None;
        for (threads, memory) in [(1, 1 << 24), (4, 1 << 24), (3, 1)] {
            let bench = Bench::new();
            bench.input("a.jsonl.gz", gzip(&jsonl(&documents(300))));
            bench.input("b.jsonl", jsonl(&documents(40)));
            let options =
                Options { threads: NonZeroUsize::new(threads).unwrap(), memory, format, ..options() };
            bench.run(&judge(&[1], true), &options).unwrap();
            let names = match format {
                ResultFormat::Jsonl => ["a.jsonl.gz.jsonl", "b.jsonl.jsonl"],
                ResultFormat::Parquet => ["a.jsonl.gz.parquet", "b.jsonl.parquet"],
                ResultFormat::Dolma => ["a.jsonl.gz", "b.jsonl"],
            };
            let found: Vec<_> = names.iter().map(|name| std::fs::read(bench.out(name)).unwrap()).collect();
            assert!(found.iter().all(|bytes| !bytes.is_empty()));
            assert!(seen.get_or_insert(found.clone()) == &found, "{format:?} {threads} {memory}");
        }
    }
}

#[test]
fn parquet_results_read_back_as_columns() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let bench = Bench::new();
    let mut lines = jsonl(&documents(20));
    lines.extend_from_slice(b"{\"id\":7}\n");
    bench.input("a.jsonl", lines);
    let base = Options { format: ResultFormat::Parquet, ..options() };
    bench.run(&judge(&[1, 2], true), &base).unwrap();
    bench.run(&judge(&[1, 2], true), &Options { format: ResultFormat::Jsonl, ..base }).unwrap();
    let file = SerializedFileReader::new(std::fs::File::open(bench.out("a.jsonl.parquet")).unwrap()).unwrap();
    let lines = bench.rows("a.jsonl.jsonl");
    let rows: Vec<Value> =
        file.get_row_iter(None).unwrap().map(|row| common::value_of(row.unwrap())).collect();
    assert_eq!(rows.len(), lines.len());
    for (row, line) in rows.iter().zip(&lines) {
        if line["error"].is_object() {
            assert_eq!((&row["error_kind"], &row["id"]), (&line["error"]["kind"], &Value::from("7")));
            assert_eq!((&row["verdict"], &row["error_line"]), (&Value::Null, &Value::from(21)));
            continue;
        }
        for name in ["row", "id", "verdict", "tokens", "log10_p_adjusted"] {
            assert_eq!(row[name], line[name], "{name}");
        }
        for name in ["key_id", "profile", "mode", "scored", "z", "log10_p", "hypotheses"] {
            assert_eq!(row[name], line["findings"][0][name], "{name}");
        }
        for name in ["score", "expected"] {
            assert_eq!(row[name].as_f64(), line["findings"][0][name].as_f64(), "{name}");
        }
        assert_eq!(row["findings"].as_array().unwrap().len(), 2);
        for name in ["key_id", "verdict", "scored", "z", "log10_p_adjusted"] {
            assert_eq!(row["findings"][1][name], line["findings"][1][name], "{name}");
        }
        assert_eq!(row["spans"].as_array().unwrap().len(), line["spans"].as_array().unwrap().len());
        for name in ["start_char", "end_char", "log10_p", "key_id"] {
            assert_eq!(row["spans"][0][name], line["spans"][0][name], "{name}");
        }
    }
    assert!(lines.iter().any(|line| line["spans"][0].is_object()));
}

#[test]
fn dolma_attributes_name_the_marked_characters() {
    let bench = Bench::new();
    let inner = marked(1, 5, 300);
    let text = format!("{}é\u{200b}ü{inner}\n{}", common::human()[0], common::human()[1]);
    let lines = format!("{}\n{{broken\n", serde_json::json!({ "id": "x", "text": text }));
    bench.input("a.jsonl.zst", zst(lines.as_bytes()));
    let dolma = Options { format: ResultFormat::Dolma, attribute: "wm".into(), ..options() };
    bench.run(&judge(&[1], true), &dolma).unwrap();
    let bytes = std::fs::read(bench.out("a.jsonl.zst")).unwrap();
    let rows = String::from_utf8(zstd::decode_all(&*bytes).unwrap()).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["id"], "x");
    let spans = rows[0]["attributes"]["wm__detected"].as_array().unwrap();
    assert_eq!(spans.len(), 1, "{spans:?}");
    let (start, end) = (spans[0][0].as_u64().unwrap(), spans[0][1].as_u64().unwrap());
    let (start, end) = (usize::try_from(start).unwrap(), usize::try_from(end).unwrap());
    let from = common::human()[0].chars().count() + 3;
    let to = from + inner.chars().count();
    assert!(start.abs_diff(from) < 60 && end.abs_diff(to) < 60, "{start}..{end}, marked {from}..{to}");
    assert!(spans[0][2].as_f64().unwrap() > 5.0);
    let whole = &rows[0]["attributes"]["wm__document"][0];
    assert_eq!((&whole[0], &whole[1]), (&Value::from(0), &Value::from(text.chars().count())));
    assert_eq!(rows[1]["attributes"]["wm__document"], serde_json::json!([]));
    assert_eq!(rows[1]["error"]["kind"], "malformed_json");
}

#[test]
fn only_what_is_done_is_kept() {
    let bench = Bench::new();
    let a = bench.input("a.jsonl", jsonl(&documents(20)));
    bench.input("b.jsonl", jsonl(&documents(30)));
    let one = judge(&[1], false);
    let resume = Options { existing: Existing::Resume, ..options() };
    let first = bench.run(&one, &resume).unwrap();
    assert_eq!((first.shards_done, first.shards_kept), (2, 0));
    assert!(matches!(bench.run(&one, &options()), Err(RunError::Exists(_))));
    let again = bench.run(&one, &resume).unwrap();
    assert_eq!((again.shards_done, again.shards_kept), (0, 2));
    assert_eq!(again.tally, first.tally);

    let counts = |judge: &_, options: &Options| {
        let summary = bench.run(judge, options).unwrap();
        (summary.shards_done, summary.shards_kept)
    };
    // The result was cut, edited, its marker damaged or removed.
    let result = bench.out("b.jsonl.jsonl");
    let good = std::fs::read(&result).unwrap();
    std::fs::write(&result, &good[..good.len() - 1]).unwrap();
    assert_eq!(counts(&one, &resume), (1, 1));
    assert_eq!(std::fs::read(&result).unwrap(), good);
    std::fs::write(
        &result,
        String::from_utf8(good.clone()).unwrap().replacen("not_detected", "NOT_detected", 1),
    )
    .unwrap();
    assert_eq!(counts(&one, &resume), (1, 1));
    let marker = bench.out("b.jsonl.jsonl.done.json");
    std::fs::write(&marker, "{").unwrap();
    assert_eq!(counts(&one, &resume), (1, 1));
    std::fs::remove_file(&marker).unwrap();
    assert_eq!(counts(&one, &resume), (1, 1));
    // What a killed run left behind.
    std::fs::write(bench.out(".b.jsonl.jsonl.partial"), "half a li").unwrap();
    std::fs::remove_file(&marker).unwrap();
    assert_eq!(counts(&one, &resume), (1, 1));
    assert_eq!(std::fs::read(&result).unwrap(), good);
    // Another input, other keys, another way to write.
    let mut longer = jsonl(&documents(20));
    longer.extend(jsonl(&documents(1)));
    std::fs::write(&a, longer).unwrap();
    assert_eq!(counts(&one, &resume), (1, 1));
    assert_eq!(counts(&judge(&[1, 2], false), &resume), (2, 0));
    // The profile's name is the caller's; the list left unscored counts by itself.
    let but = common::judge_but(&[1, 2], false, Some(common::background()));
    assert_eq!(counts(&but, &resume), (2, 0));
    assert_eq!(counts(&but, &resume), (0, 2));
    assert_eq!(counts(&one, &Options { only_detected: true, ..resume.clone() }), (2, 0));
    assert_eq!(bench.rows("b.jsonl.jsonl").len(), 3);
    assert_eq!(counts(&one, &Options { existing: Existing::Overwrite, ..resume }), (2, 0));
    // Nothing but results and markers is left.
    let names = std::fs::read_dir(bench.out("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));
}

#[test]
fn two_runs_do_not_write_the_same_result() {
    let bench = Bench::new();
    bench.input("a.jsonl", jsonl(&documents(2)));
    std::fs::create_dir(bench.out("")).unwrap();
    let held = std::fs::File::create(bench.out(".a.jsonl.jsonl.partial")).unwrap();
    held.lock().unwrap();
    let error = bench.run(&judge(&[1], false), &options()).unwrap_err();
    assert!(error.to_string().contains("another run is writing it"), "{error}");
    drop(held);
    bench.run(&judge(&[1], false), &options()).unwrap();
}

#[test]
fn a_stream_names_files_and_stopping_stops() {
    let bench = Bench::new();
    bench.input("a.jsonl", jsonl(&documents(3)));
    bench.input("b.jsonl", jsonl(&documents(3)));
    let shards = dandyroll_dumps::shards(&[bench.folder.path().join("in")], None, None, None).unwrap();
    let (judge, mut out) = (judge(&[1], false), Vec::new());
    dandyroll_dumps::run(&judge, &shards, &options(), Sink::Stream(&mut out), &Progress::default()).unwrap();
    let rows: Vec<Value> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let files: Vec<&Value> = rows.iter().map(|row| &row["file"]).collect();
    assert_eq!(files, ["a.jsonl", "a.jsonl", "a.jsonl", "b.jsonl", "b.jsonl", "b.jsonl"]);

    let progress = Progress::default();
    progress.stop();
    let stopped = bench.watched(&judge, &options(), &progress);
    assert!(matches!(stopped, Err(RunError::Stopped)), "{stopped:?}");
    assert!(!bench.out("a.jsonl.jsonl").exists() && !bench.out(".a.jsonl.jsonl.partial").exists());
}

#[test]
fn the_summary_counts_what_the_rows_say() {
    let bench = Bench::new();
    let mut lines = jsonl(&documents(50));
    lines.extend_from_slice(b"{\"text\":\"short\"}\n{\n");
    bench.input("a.jsonl", lines);
    let judge = judge(&[1], false);
    let summary = bench.run(&judge, &options()).unwrap();
    let value = summary.to_json(&judge, 0.01);
    assert_eq!(value["documents"], 52);
    assert_eq!(value["verdicts"]["detected"], 5);
    assert_eq!(value["verdicts"]["too_short"], 1);
    assert_eq!(value["faults"]["malformed_json"], 1);
    assert_eq!(value["fault_examples"][0]["line"], 52);
    assert_eq!(value["false_discovery_rate"]["tested"], 50);
    assert_eq!(value["false_discovery_rate"]["discoveries"], 5);
    let bins = value["hypotheses"][0]["histogram"].as_array().unwrap();
    assert_eq!(bins.iter().map(|bin| bin.as_u64().unwrap()).sum::<u64>(), 50);
    let html = summary.to_html(&judge, 0.01);
    assert!(html.contains("malformed_json") && html.contains("<svg") && !html.contains("<script"));
    assert!(html.contains("10<sup>\u{2212}"), "{html}");
}

/// The same numbers as the detector gives on one text alone, with a list of windows left unscored and without.
#[test]
fn a_dump_says_what_the_detector_says() {
    use dandyroll_detector::{Detector, Hypothesis, Mode, Policy, Text};
    let documents = documents(30);
    let vocabulary = Arc::new(dandyroll_vocab::Vocabulary::open(fixture("model/tokenizer.json")).unwrap());
    let mut scored = Vec::new();
    for background in [None, Some(common::background())] {
        let keys = [1, 2].map(|number| common::mark(number, background.clone()));
        let bench = Bench::new();
        bench.input("a.jsonl", jsonl(&documents));
        bench.run(&common::judge_but(&[1, 2], false, background.clone()), &options()).unwrap();
        let rows = bench.rows("a.jsonl.jsonl");
        assert_eq!(rows.len(), documents.len());
        let mut sum = 0;
        for (row, (_, text)) in rows.iter().zip(&documents) {
            let ids = vocabulary.encode_ids(dandyroll_vocab::normalise(text).text()).unwrap();
            let hypotheses = keys.each_ref().map(|(_, mark)| Hypothesis { mark, mode: Mode::ModelFree });
            let report = Detector::new().detect(&Text::new(&ids), &hypotheses, &Policy::STANDARD).unwrap();
            for (found, finding) in row["findings"].as_array().unwrap().iter().zip(&report.findings) {
                let evidence = &finding.evidence;
                assert_eq!(found["key_id"], keys[finding.hypothesis].0.as_str());
                // Of a list: whole, and written so.
                assert!(found["score"].is_u64());
                assert_eq!(found["score"].as_f64(), Some(evidence.score));
                assert_eq!(found["expected"].as_f64(), Some(evidence.expected));
                assert_eq!(found["scored"], evidence.scored);
                for (name, p) in [("log10_p", evidence.log10_p), ("log10_p_adjusted", finding.adjusted)] {
                    assert_eq!(found[name].as_f64().unwrap().to_bits(), p.get().to_bits(), "{name}");
                }
                sum += evidence.scored;
            }
        }
        scored.push(sum);
    }
    assert!(scored[1] < scored[0], "the list left nothing out: {scored:?}");
}
