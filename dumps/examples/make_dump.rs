//! Makes a dump of human text with a known share of marked documents, to measure on.
//!
//! ```console
//! $ cargo run --release -p dandyroll-dumps --example make_dump -- out.jsonl.zst \
//!     --megabytes 1000 --share 0.01 --key-file my.key --tokenizer fixtures/model/tokenizer.json \
//!     --corpus fixtures/corpora --seed 1
//! ```
//!
//! Human documents are runs of paragraphs from random places of the corpus (`.jsonl` with a `text`, or any other text
//! file), put together until they have 1 to 6 KB, so that no two are alike. Marked ones are walks on the corpus's own
//! token pairs with δ = 2 added to green tokens under `prose-v1`: text as a bad model would write it, marked as a
//! good one would be. Ids say which is which: `human-17`, `marked-3`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a tool that stops at the first thing wrong")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use dandyroll_scheme::{ListKey, MasterKey, Recipe, TokenId};
use dandyroll_vocab::{Vocabulary, normalise};

/// SplitMix64: the same seed gives the same dump everywhere.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap();
        usize::try_from(self.next() % bound).unwrap()
    }

    fn unit(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap()) / f64::from(u32::MAX)
    }
}

fn corpus(path: &Path, paragraphs: &mut Vec<String>) {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.iter().filter(|path| !path.is_symlink()).for_each(|path| corpus(path, paragraphs));
        return;
    }
    let Ok(text) = fs::read_to_string(path) else { return };
    let mut add = |text: &str| {
        paragraphs
            .extend(text.split_inclusive("\n\n").filter(|part| part.trim().len() > 20).map(str::to_owned));
    };
    if path.extension().is_some_and(|end| end == "jsonl") {
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            add(value["text"].as_str().unwrap_or_default());
        }
    } else {
        add(&text);
    }
}

fn key(path: &str, vocabulary: &Vocabulary) -> ListKey {
    let value: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let hex = value["master"].as_str().unwrap();
    let mut bytes = [0_u8; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    }
    let profile = Recipe::built_in("prose-v1").unwrap().bind(vocabulary.digest(), None).unwrap();
    MasterKey::take(&mut bytes).lists(&profile.family())
}

/// Which tokens follow which, how often.
type Pairs = HashMap<TokenId, Vec<(TokenId, f64)>>;

fn pairs(vocabulary: &Vocabulary, paragraphs: &[String]) -> Pairs {
    let mut counts: HashMap<TokenId, HashMap<TokenId, f64>> = HashMap::new();
    let mut bytes = 0;
    for paragraph in paragraphs.iter().take_while(|text| {
        bytes += text.len();
        bytes < 8_000_000
    }) {
        let ids = vocabulary.encode_ids(normalise(paragraph).text()).unwrap();
        for pair in ids.windows(2) {
            *counts.entry(pair[0]).or_default().entry(pair[1]).or_default() += 1.0;
        }
    }
    let sorted = |next: HashMap<TokenId, f64>| {
        let mut next: Vec<_> = next.into_iter().collect();
        next.sort_by_key(|(token, _)| *token);
        next
    };
    counts.into_iter().map(|(token, next)| (token, sorted(next))).collect()
}

fn marked(
    pairs: &Pairs,
    starts: &[TokenId],
    lists: &ListKey,
    draw: &mut Draw,
    tokens: usize,
) -> Vec<TokenId> {
    let gamma = Recipe::built_in("prose-v1").unwrap().gamma;
    let delta = 2.0_f64;
    let mut text = vec![starts[draw.below(starts.len())]];
    while text.len() < tokens {
        let Some(next) = pairs.get(text.last().unwrap()) else {
            text.push(starts[draw.below(starts.len())]);
            continue;
        };
        let weight = |(token, count): &(TokenId, f64)| {
            let green =
                lists.context(&text).is_some_and(|context| lists.green(context, *token, gamma) == Some(true));
            if green { count * delta.exp() } else { *count }
        };
        let weights: Vec<f64> = next.iter().map(weight).collect();
        let mut left = draw.unit() * weights.iter().sum::<f64>();
        let at = weights.iter().position(|weight| {
            left -= weight;
            left <= 0.0
        });
        text.push(next[at.unwrap_or(0)].0);
    }
    text
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut out, mut corpora) = (None, Vec::new());
    let mut options: HashMap<String, String> = HashMap::new();
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--") {
            Some("corpus") => corpora.push(arguments.next().expect("--corpus PATH")),
            Some(name) => drop(options.insert(name.to_owned(), arguments.next().expect("a value"))),
            None => out = Some(argument),
        }
    }
    let out = out.expect("give the file to write");
    let option = |name: &str| options.get(name).unwrap_or_else(|| panic_missing(name));
    let size: u64 = option("megabytes").parse::<u64>().unwrap() * 1_000_000;
    let share: f64 = option("share").parse().unwrap();
    let mut draw = Draw(option("seed").parse().unwrap());
    let vocabulary = Vocabulary::open(option("tokenizer")).unwrap();
    let lists = key(option("key-file"), &vocabulary);
    let mut paragraphs = Vec::new();
    corpora.iter().for_each(|path| corpus(Path::new(path), &mut paragraphs));
    assert!(paragraphs.len() > 100, "the corpus is too small");
    let pairs = pairs(&vocabulary, &paragraphs);
    let mut starts: Vec<TokenId> = pairs.keys().copied().filter(|id| !vocabulary.special(*id)).collect();
    starts.sort_unstable();

    let file = BufWriter::new(File::create(&out).unwrap());
    let mut file = zstd::stream::write::Encoder::new(file, 3).unwrap();
    // Human and marked are counted apart, so that ids say nothing of order.
    let (mut humans, mut marks, mut text_bytes) = (0_u64, 0_u64, 0_u64);
    let written = |file: &zstd::stream::write::Encoder<'_, BufWriter<File>>| {
        fs::metadata(&out).unwrap().len() + u64::try_from(file.get_ref().buffer().len()).unwrap()
    };
    while written(&file) < size {
        let (id, text) = if draw.unit() < share {
            marks += 1;
            let tokens = 260 + draw.below(200);
            let ids = marked(&pairs, &starts, &lists, &mut draw, tokens);
            let bytes: Vec<u8> =
                ids.iter().filter_map(|id| vocabulary.token_bytes(*id)).flatten().copied().collect();
            (format!("marked-{marks}"), String::from_utf8_lossy(&bytes).into_owned())
        } else {
            humans += 1;
            let wanted = 1000 + draw.below(5000);
            let mut text = String::new();
            while text.len() < wanted {
                let at = draw.below(paragraphs.len());
                for paragraph in paragraphs.iter().skip(at).take(1 + draw.below(3)) {
                    text.push_str(paragraph);
                }
            }
            (format!("human-{humans}"), text)
        };
        text_bytes += u64::try_from(text.len()).unwrap();
        let line = serde_json::json!({ "id": id, "text": text, "source": "make_dump" });
        writeln!(file, "{line}").unwrap();
    }
    file.finish().unwrap().flush().unwrap();
    let bytes = fs::metadata(&out).unwrap().len();
    println!("{{\"human\":{humans},\"marked\":{marks},\"text_bytes\":{text_bytes},\"file_bytes\":{bytes}}}");
}

#[expect(clippy::panic, reason = "a tool that stops at the first thing wrong")]
fn panic_missing(name: &str) -> ! {
    panic!("give --{name}")
}
