//! Broken files, one for each way to be broken: told with its place, counted, and the rest judged.

#![expect(clippy::unwrap_used, reason = "a run that fails must fail the test")]

mod common;

use common::{Bench, documents, gzip, jsonl, judge, options, parquet, zst};
use dandyroll_dumps::{Options, RunError};
use serde_json::Value;

/// Rows of one broken input: ids of the judged, and the errors with the row's number.
fn outcome(name: &str, bytes: &[u8], options: &Options) -> (Vec<String>, Vec<(Value, Value)>) {
    let bench = Bench::new();
    bench.input(name, bytes);
    // A good neighbour is always done.
    bench.input("zz.jsonl", jsonl(&documents(3)));
    let neighbour = Options { text: "text".parse().unwrap(), ..options.clone() };
    let summary = bench.run(&judge(&[1], false), options).unwrap();
    if options.text == neighbour.text {
        assert_eq!(bench.rows("zz.jsonl.jsonl").len(), 3);
    }
    assert!(summary.anything_failed());
    let (mut ids, mut errors) = (Vec::new(), Vec::new());
    for row in bench.rows(&format!("{name}.jsonl")) {
        if row["error"].is_object() {
            let mut error = row["error"].clone();
            error["id"] = row["id"].clone();
            errors.push((row["row"].clone(), error));
        } else {
            ids.push(row["id"].as_str().unwrap().to_owned());
        }
    }
    let kinds: u64 = summary.tally.faults.values().sum();
    assert!(kinds >= u64::try_from(errors.len()).unwrap());
    let strict = Options { strict: true, existing: dandyroll_dumps::Existing::Overwrite, ..options.clone() };
    let ended = bench.run(&judge(&[1], false), &strict);
    assert!(matches!(ended, Err(RunError::Strict { .. })), "{ended:?}");
    (ids, errors)
}

fn kinds(errors: &[(Value, Value)]) -> Vec<&str> {
    errors.iter().map(|(_, error)| error["kind"].as_str().unwrap()).collect()
}

#[test]
fn bad_lines_cost_themselves() {
    let mut lines: Vec<Vec<u8>> =
        jsonl(&documents(4)).split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    lines.insert(1, b"{\"id\":\"x\",\"text\":\"cut\n".to_vec());
    lines.insert(2, b"{\"id\":\"none\"}\n".to_vec());
    lines.insert(3, b"{\"id\":\"null\",\"text\":null}\n".to_vec());
    lines.insert(4, b"{\"id\":\"list\",\"text\":[\"a\"]}\n".to_vec());
    lines.insert(5, b"{\"id\":\"bytes\",\"text\":\"a\xff\"}\n".to_vec());
    lines.insert(6, b"\n".to_vec());
    let start: usize = lines[..4].iter().map(Vec::len).sum();
    let (ids, errors) = outcome("a.jsonl", &lines.concat(), &options());
    assert_eq!(ids, ["doc-0", "doc-1", "doc-2", "doc-3"]);
    assert_eq!(kinds(&errors), ["malformed_json", "no_text", "no_text", "wrong_type", "not_utf8"]);
    assert_eq!(errors[3].0, 5);
    assert_eq!((&errors[3].1["line"], &errors[3].1["byte"]), (&Value::from(5), &Value::from(start)));
    assert_eq!(errors[3].1["reason"], "text is an array, not a string");
}

/// One in the middle is 200 MB: it goes by without being held.
#[test]
fn a_document_of_two_hundred_megabytes_is_passed_over() {
    let documents = documents(2);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let mut put = |bytes: &[u8]| std::io::Write::write_all(&mut encoder, bytes).unwrap();
    put(&jsonl(&documents[..1]));
    put(b"{\"id\":\"huge\",\"text\":\"");
    for _ in 0..200 {
        put(&vec![b'a'; 1_000_000]);
    }
    put(b"\"}\n");
    put(&jsonl(&documents[1..]));
    let (ids, errors) = outcome("a.jsonl.zst", &encoder.finish().unwrap(), &options());
    assert_eq!(ids, ["doc-0", "doc-1"]);
    assert_eq!(kinds(&errors), ["too_large"]);
    assert_eq!((&errors[0].0, &errors[0].1["line"]), (&Value::from(2), &Value::from(2)));
}

#[test]
fn broken_gzip_costs_the_broken_member() {
    let lines = jsonl(&documents(60));
    let parts: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
    let members: Vec<Vec<u8>> = parts.chunks(20).map(|part| gzip(&part.concat())).collect();
    let mut broken = members.clone();
    let middle = broken[1].len() / 2;
    broken[1][middle..middle + 40].fill(0x5a);
    let (ids, errors) = outcome("a.jsonl.gz", &broken.concat(), &options());
    assert!(kinds(&errors).contains(&"broken_compression"), "{errors:?}");
    assert!(ids.starts_with(&["doc-0".into()]) && ids.ends_with(&["doc-59".into()]));
    assert!(ids.len() >= 40 && ids.len() < 60, "{}", ids.len());
    let whole = members.concat();
    let (ids, errors) = outcome("a.jsonl.gz", &whole[..whole.len() - members[2].len() / 2], &options());
    assert!(ids.len() >= 40, "{}", ids.len());
    assert_eq!(kinds(&errors).last(), Some(&"truncated"));
}

#[test]
fn broken_zstandard_costs_the_broken_frame() {
    let lines = jsonl(&documents(60));
    let parts: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
    let frames: Vec<Vec<u8>> = parts.chunks(20).map(|part| zst(&part.concat())).collect();
    let mut broken = frames.clone();
    broken[1][12..60].fill(0xff);
    let (ids, errors) = outcome("a.jsonl.zst", &broken.concat(), &options());
    assert!(kinds(&errors).contains(&"broken_compression"), "{errors:?}");
    assert!(ids.len() >= 40 && ids.ends_with(&["doc-59".into()]), "{}", ids.len());
    let whole = frames.concat();
    let (ids, errors) = outcome("a.jsonl.zst", &whole[..whole.len() - 50], &options());
    assert!(ids.len() >= 40);
    assert_eq!(kinds(&errors).last(), Some(&"truncated"));
}

#[test]
fn broken_parquet_costs_the_broken_row_group() {
    let documents: Vec<_> = documents(90)
        .into_iter()
        .enumerate()
        .map(|(at, (id, text))| (id, (at != 5).then_some(text)))
        .collect();
    let nested = Options { text: "doc.text".parse().unwrap(), ..options() };
    let whole = parquet(&documents, 30);
    // Page headers and data of the second group: no checksum has to notice, the decoder does.
    let mut broken = whole.clone();
    let middle = whole.len() / 2;
    broken[middle - 3000..middle + 3000].fill(0xee);
    let (ids, errors) = outcome("a.parquet", &broken, &nested);
    assert!(kinds(&errors).starts_with(&["no_text", "broken_parquet"]), "{errors:?}");
    assert_eq!((&errors[0].0, &errors[0].1["id"]), (&Value::from(6), &Value::from("doc-5")));
    assert!(ids.contains(&"doc-0".into()) && ids.ends_with(&["doc-89".into()]), "{ids:?}");
    assert!(errors[1].1["reason"].as_str().unwrap().contains("row group 1"), "{errors:?}");
    let (ids, errors) = outcome("a.parquet", &whole[..whole.len() - 10], &nested);
    assert_eq!((ids.len(), kinds(&errors)), (0, vec!["broken_parquet"]));
    let (_, errors) = outcome("a.parquet", &whole, &Options { text: "n".parse().unwrap(), ..options() });
    assert_eq!(kinds(&errors), ["wrong_type"]);
    let (_, errors) = outcome("a.parquet", &whole, &Options { text: "body".parse().unwrap(), ..options() });
    assert!(errors[0].1["reason"].as_str().unwrap().contains("there are id, doc.text, n"), "{errors:?}");
}

#[test]
fn broken_tables_and_archives_cost_the_broken_record() {
    let documents = documents(6);
    let mut text = common::csv(&documents, ',');
    text.extend_from_slice(b"lonely\ndoc-9,\"an open quote\n");
    let (ids, errors) = outcome("a.csv", &text, &options());
    assert_eq!((ids.len(), kinds(&errors)), (7, vec!["no_text"]));
    let (ids, errors) = outcome("a.csv", b"id,body\n1,x\n", &options());
    assert_eq!((ids.len(), kinds(&errors)), (0, vec!["malformed_csv"]));
    let mut archive = common::warc(&documents[..3]);
    archive.extend_from_slice(b"what is this\r\n");
    archive.extend(common::warc(&documents[3..]));
    let (ids, errors) = outcome("a.wet", &archive[..archive.len() - 40], &options());
    assert_eq!((ids.len(), kinds(&errors)), (5, vec!["malformed_warc", "truncated"]));
}

#[test]
fn bad_texts_cost_themselves() {
    let bench = Bench::new();
    bench.input("a.txt", &documents(1)[0].1);
    bench.input("b.txt", b"no \xff utf-8");
    bench.input("c.txt", vec![b'x'; (1 << 20) + 1]);
    bench.input("d.txt.gz", &gzip(b"cut off")[..15]);
    bench.input("e.txt", &documents(2)[1].1);
    let summary = bench.run(&judge(&[1], false), &options()).unwrap();
    assert_eq!(summary.tally.judged_documents(), 2);
    let rows = bench.rows("texts-00000.jsonl");
    let kinds: Vec<&Value> = rows.iter().map(|row| &row["error"]["kind"]).collect();
    let null = Value::Null;
    assert_eq!(kinds, [&null, &"not_utf8".into(), &"too_large".into(), &"truncated".into(), &null]);
}

#[cfg(unix)]
#[test]
fn what_cannot_be_read_has_no_result_and_no_marker() {
    let bench = Bench::new();
    let gone = bench.input("a.jsonl", jsonl(&documents(1)));
    bench.input("b.jsonl", jsonl(&documents(1)));
    let shards = dandyroll_dumps::shards(&[bench.folder.path().join("in")], None, None, None).unwrap();
    std::fs::remove_file(gone).unwrap();
    let out = bench.out("");
    let run = |options| {
        let sink = dandyroll_dumps::Sink::Folder(&out);
        dandyroll_dumps::run(&judge(&[1], false), &shards, &options, sink, &Default::default())
    };
    let summary = run(options()).unwrap();
    assert_eq!((summary.failed.len(), summary.shards_done), (1, 1));
    assert!(summary.failed[0].reason.contains("a.jsonl"), "{:?}", summary.failed);
    assert!(!bench.out("a.jsonl.jsonl").exists() && bench.out("b.jsonl.jsonl.done.json").exists());
    let strict = Options { strict: true, existing: dandyroll_dumps::Existing::Overwrite, ..options() };
    assert!(matches!(run(strict), Err(RunError::Shard(_))));
}
