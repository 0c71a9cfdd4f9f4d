//! Makes a dump of human text with a known share of marked documents, to measure on.
//!
//! ```console
//! $ cargo run --release -p dandyroll-dumps --example make_dump -- out.jsonl.zst \
//!     --megabytes 1000 --share 0.01 --delta 4 --key-file my.key --tokenizer fixtures/model/tokenizer.json \
//!     --corpus fixtures/corpora --corpus target/evidence/human --seed 1
//! ```
//!
//! Human documents are runs of paragraphs from random places of the corpora (`.jsonl` with a `text`, or any other text
//! file; `evidence/human.py` gathers what is on every machine), put together until they have 1 to 6 KB, so that no two
//! are alike. Marked ones are walks on the corpora's own token pairs with δ added to green tokens under `prose-v1`'s
//! lists: text as a bad model would write it, marked as a good one would be.
//!
//! A marked document has 200 tokens or more, and as many as it takes for theory to say that it must be found: with
//! n distinct windows, each green with the probability that the walk gave it (γ' where tokenising the text anew gave
//! another window), the number of green ones falls below the least k with P[Bin(n, γ') ≥ k] ≤ 10⁻¹³ with probability
//! 10⁻⁹ at most, by Hoeffding's inequality. So a miss is a fault of ours, not chance. Ids say which is which:
//! `human-17`, `marked-3`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a tool that stops at the first thing wrong")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use dandyroll_detector::{Windows, upper_tail};
use dandyroll_scheme::{Mark, MasterKey, Recipe, TokenId};
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

fn mark(path: &str, vocabulary: &Vocabulary) -> Mark {
    let value: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let hex = value["master"].as_str().unwrap();
    let mut bytes = [0_u8; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    }
    let profile = Recipe::built_in("prose-v1").unwrap().bind(vocabulary.digest(), None).unwrap();
    Mark::new(&MasterKey::take(&mut bytes), &profile, None).unwrap()
}

/// Which tokens follow which, how often: the most frequent few, as sampling keeps them.
type Pairs = HashMap<TokenId, Vec<(TokenId, f64)>>;

/// Tokens that may follow another.
const FOLLOWERS: usize = 40;

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
    let frequent = |next: HashMap<TokenId, f64>| {
        let mut next: Vec<_> = next.into_iter().collect();
        next.sort_by(|(a, m), (b, n)| n.total_cmp(m).then(a.cmp(b)));
        next.truncate(FOLLOWERS);
        next
    };
    counts.into_iter().map(|(token, next)| (token, frequent(next))).collect()
}

/// A walk, and how probable it was for each of its windows to be green.
struct Walk<'a> {
    pairs: &'a Pairs,
    starts: &'a [TokenId],
    mark: &'a Mark,
    delta: f64,
    text: Vec<TokenId>,
    green: HashMap<Vec<TokenId>, f64>,
}

impl Walk<'_> {
    fn go_on(&mut self, draw: &mut Draw, tokens: usize) {
        for _ in 0..tokens {
            let Some(next) = self.text.last().and_then(|last| self.pairs.get(last)) else {
                self.text.push(self.starts[draw.below(self.starts.len())]);
                continue;
            };
            let context = self.mark.words().context(&self.text);
            let mut sums = [0.0, 0.0];
            let weigh = |(token, count): &(TokenId, f64)| {
                let word = context.and_then(|context| self.mark.words().word(context, *token));
                let green = word.is_some_and(|word| self.mark.scheme().favours(word));
                let weight = if green { count * self.delta.exp() } else { *count };
                sums[usize::from(green)] += weight;
                weight
            };
            let weights: Vec<f64> = next.iter().map(weigh).collect();
            let mut left = draw.unit() * (sums[0] + sums[1]);
            let at = weights.iter().position(|weight| {
                left -= weight;
                left <= 0.0
            });
            let token = next[at.unwrap_or(0)].0;
            if let Some(context) = context {
                let window: Vec<TokenId> = context.iter().copied().chain([token]).collect();
                self.green.entry(window).or_insert(sums[1] / (sums[0] + sums[1]));
            }
            self.text.push(token);
        }
    }

    fn as_text(&self, vocabulary: &Vocabulary) -> String {
        let bytes: Vec<u8> =
            self.text.iter().filter_map(|id| vocabulary.token_bytes(*id)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether theory says that the text must be found; how many tokens it has.
    fn must_be_found(&self, vocabulary: &Vocabulary, text: &str) -> Option<usize> {
        let ids = vocabulary.encode_ids(normalise(text).text()).unwrap();
        let windows = Windows::of(&ids, self.mark.width()).unwrap();
        // Probabilities are those of the first occurrence, and so is what is scored.
        let gamma = self.mark.null().mean();
        let chance = |window: &[TokenId]| self.green.get(window).copied().unwrap_or(gamma);
        let mean: f64 = windows.of_text(&ids).map(chance).sum();
        let n = u32::try_from(windows.distinct()).unwrap();
        let slack = (f64::from(n) * 1e9_f64.ln() / 2.0).sqrt();
        let needed = (0..=n).find(|k| upper_tail(n, *k, gamma).unwrap().get() <= -13.0)?;
        (ids.len() >= 200 && mean - slack >= f64::from(needed)).then_some(ids.len())
    }
}

/// A marked document and its tokens.
fn marked(
    vocabulary: &Vocabulary,
    (pairs, starts, mark): (&Pairs, &[TokenId], &Mark),
    delta: f64,
    draw: &mut Draw,
) -> (String, usize) {
    let mut walk = Walk { pairs, starts, mark, delta, text: Vec::new(), green: HashMap::new() };
    walk.go_on(draw, 1);
    let more = 220 + draw.below(200);
    walk.go_on(draw, more);
    loop {
        let text = walk.as_text(vocabulary);
        if let Some(tokens) = walk.must_be_found(vocabulary, &text) {
            return (text, tokens);
        }
        assert!(walk.text.len() < 20_000, "no walk is marked enough: give a larger --delta or corpus");
        walk.go_on(draw, 100);
    }
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
    let delta: f64 = option("delta").parse().unwrap();
    let mut draw = Draw(option("seed").parse().unwrap());
    let vocabulary = Vocabulary::open(option("tokenizer")).unwrap();
    let mark = mark(option("key-file"), &vocabulary);
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
    let (mut shortest, mut longest) = (usize::MAX, 0);
    let written = |file: &zstd::stream::write::Encoder<'_, BufWriter<File>>| {
        fs::metadata(&out).unwrap().len() + u64::try_from(file.get_ref().buffer().len()).unwrap()
    };
    while written(&file) < size {
        let (id, text) = if draw.unit() < share {
            marks += 1;
            let (text, tokens) = marked(&vocabulary, (&pairs, &starts, &mark), delta, &mut draw);
            shortest = shortest.min(tokens);
            longest = longest.max(tokens);
            (format!("marked-{marks}"), text)
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
    let facts = serde_json::json!({
        "human": humans,
        "marked": marks,
        "marked_tokens": [shortest, longest],
        "delta": delta,
        "paragraphs": paragraphs.len(),
        "text_bytes": text_bytes,
        "file_bytes": bytes,
    });
    println!("{facts}");
}

#[expect(clippy::panic, reason = "a tool that stops at the first thing wrong")]
fn panic_missing(name: &str) -> ! {
    panic!("give --{name}")
}
