//! The summary of a run, as JSON and as a page.

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::fault::{Fault, Place, shown};
use crate::judge::Judge;
use crate::output::write_whole;
use crate::tally::{HISTOGRAM_BINS, Tally};

/// A fault as the summary shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    /// The shard.
    pub file: String,
    /// Where in it.
    #[serde(flatten)]
    pub place: Place,
    /// What kind.
    pub kind: &'static str,
    /// Why.
    pub reason: String,
}

impl Example {
    pub(crate) fn new(file: &str, place: Place, fault: &Fault) -> Self {
        Self { file: file.into(), place, kind: fault.kind.name(), reason: fault.reason.clone() }
    }
}

/// A shard without a result.
#[derive(Clone, Debug, Serialize)]
pub struct FailedShard {
    /// Which.
    pub name: String,
    /// Why it could not be read.
    pub reason: String,
}

/// What a run came to, with what it found done already.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Counts over all shards with a result.
    pub tally: Tally,
    /// The first faults of this run.
    pub examples: Vec<Example>,
    /// Shards that could not be read to their end; they have no result.
    pub failed: Vec<FailedShard>,
    /// Shards done in this run.
    pub shards_done: usize,
    /// Shards found done.
    pub shards_kept: usize,
    /// Documents of this run whose text had been judged before.
    pub repeats: u64,
    /// How long this run took.
    pub elapsed: Duration,
}

impl Summary {
    /// Whether anything could not be judged.
    pub fn anything_failed(&self) -> bool {
        self.tally.fault_count() > 0 || !self.failed.is_empty()
    }

    /// The summary as JSON. `rate`: the false-discovery rate.
    pub fn to_json(&self, judge: &Judge, rate: f64) -> Value {
        let tally = &self.tally;
        let found = tally.discoveries(rate);
        let hypotheses: Vec<Value> = judge
            .wanted()
            .iter()
            .zip(&tally.hypotheses)
            .map(|(wanted, counts)| {
                json!({
                    "key_id": wanted.key.as_str(),
                    "profile": wanted.profile,
                    "detected": counts.detected,
                    "histogram": counts.histogram,
                })
            })
            .collect();
        json!({
            "documents": tally.documents,
            "judged": tally.judged_documents(),
            "tokens": tally.tokens,
            "characters": tally.characters,
            "verdicts": {
                "detected": tally.detected,
                "inconclusive": tally.inconclusive,
                "not_detected": tally.not_detected,
                "too_short": tally.too_short,
            },
            "alpha": judge.policy().alpha().probability(),
            "faults": tally.faults,
            "fault_examples": self.examples,
            "hypotheses": hypotheses,
            "false_discovery_rate": {
                "rate": rate,
                "tested": found.tested,
                "discoveries": found.discoveries,
                "log10_p_adjusted_at_most": found.log10_threshold,
            },
            "shards": {
                "done": self.shards_done,
                "kept": self.shards_kept,
                "failed": self.failed,
            },
            "run": {
                "program": concat!("dandyroll ", env!("CARGO_PKG_VERSION")),
                "seconds": self.elapsed.as_secs_f64(),
                "documents_seen_before": self.repeats,
            },
        })
    }

    /// The summary as a page that needs nothing else.
    pub fn to_html(&self, judge: &Judge, rate: f64) -> String {
        page(self, judge, rate)
    }

    /// Writes `NAME.json` and `NAME.html` into a folder.
    pub fn write(&self, folder: &Path, name: &str, judge: &Judge, rate: f64) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(&self.to_json(judge, rate))?;
        json.push(b'\n');
        write_whole(&folder.join(format!("{name}.json")), &json)?;
        write_whole(&folder.join(format!("{name}.html")), self.to_html(judge, rate).as_bytes())
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// 1 234 567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    shown
}

#[expect(clippy::as_conversions, reason = "counts of documents stay below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

/// A power of ten, with a minus sign and no idle zeros.
fn exponent(log10: f64) -> String {
    let text = format!("{log10:.3}");
    text.trim_end_matches('0').trim_end_matches('.').replace('-', "\u{2212}")
}

/// A histogram of raw p with the height that a uniform p would have.
fn histogram(counts: &[u64; HISTOGRAM_BINS]) -> String {
    const WIDTH: f64 = 30.0;
    const HEIGHT: f64 = 150.0;
    let total: u64 = counts.iter().sum();
    let even = float(total) / 20.0;
    // The uniform line stands at a third at least, so that a dump full of marks does not press it flat.
    let top = counts.iter().map(|count| float(*count)).fold(even, f64::max).min(even * 3.0).max(1.0);
    let mut svg = String::from(
        "<svg viewBox=\"-46 -14 660 206\" role=\"img\" aria-label=\"histogram of p\" class=\"h\">",
    );
    let mut x = 0.0;
    for (at, count) in counts.iter().enumerate() {
        let height = (float(*count) / top * HEIGHT).min(HEIGHT);
        let y = HEIGHT - height;
        let _ = write!(
            svg,
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>p {:.2} to {:.2}: {}</title></rect>",
            x + 1.0,
            WIDTH - 2.0,
            f64::from(u8::try_from(at).unwrap_or(0)) / 20.0,
            f64::from(u8::try_from(at + 1).unwrap_or(0)) / 20.0,
            grouped(*count),
        );
        if float(*count) > top {
            let _ = write!(
                svg,
                "<path d=\"M{0:.1} 6 l{1:.1} -6\" class=\"cut\"/><text x=\"{2:.1}\" y=\"-4\" class=\"m\">{3}</text>",
                x,
                WIDTH,
                x + WIDTH / 2.0,
                grouped(*count)
            );
        }
        x += WIDTH;
    }
    let line = HEIGHT - even / top * HEIGHT;
    let _ = write!(
        svg,
        "<path d=\"M0 {line:.1} H600\" class=\"even\"/><text x=\"-4\" y=\"{:.1}\" class=\"e\">{:.0}</text>\
         <path d=\"M0 150 H600\" class=\"axis\"/><text x=\"0\" y=\"168\" class=\"m\">0</text>\
         <text x=\"300\" y=\"168\" class=\"m\">0.5</text><text x=\"600\" y=\"168\" class=\"m\">1</text>\
         <text x=\"300\" y=\"186\" class=\"m\">raw p</text></svg>",
        line + 4.0,
        even
    );
    svg
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1d2330;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #d9dde5;vertical-align:top}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}sup{line-height:0}code{font-size:.9em;overflow-wrap:anywhere}.h{width:100%;height:auto}.h rect{fill:#4a6fa5}.h .even{stroke:#b3541e;stroke-width:1.5;stroke-dasharray:5 4}\
.h .axis{stroke:#1d2330}.h .cut{stroke:#fff;stroke-width:3}.h text{font-size:11px;fill:#4b5366}.h .m{text-anchor:middle}.h .e{text-anchor:end;fill:#b3541e}p.note{color:#4b5366;font-size:.9rem}\
@media(prefers-color-scheme:dark){body{background:#14171d;color:#e3e6ec}td,th{border-color:#343a46}.h .axis{stroke:#e3e6ec}.h text,p.note{fill:#a5adbc;color:#a5adbc}.h .cut{stroke:#14171d}}";

fn page(summary: &Summary, judge: &Judge, rate: f64) -> String {
    let tally = &summary.tally;
    let found = tally.discoveries(rate);
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Dandyroll: a dump's summary</title><style>{STYLE}</style><h1>A dump's summary</h1><table>"
    );
    let row = |html: &mut String, name: &str, value: &str| {
        let _ = write!(html, "<tr><th>{}</th><td class=\"n\">{value}</td></tr>", escaped(name));
    };
    row(&mut html, "documents", &grouped(tally.documents));
    for (name, count) in [
        ("detected", tally.detected),
        ("inconclusive", tally.inconclusive),
        ("not detected", tally.not_detected),
        ("too short", tally.too_short),
    ] {
        row(&mut html, name, &grouped(count));
    }
    row(&mut html, "faults", &grouped(tally.fault_count()));
    row(&mut html, "tokens judged", &grouped(tally.tokens));
    let shards = format!("{} done, {} found done", summary.shards_done, summary.shards_kept);
    row(&mut html, "shards", &format!("{shards}, {} failed", summary.failed.len()));
    row(&mut html, "α, the chance of a false detection for each text", &judge.policy().alpha().to_string());
    html.push_str("</table><h2>False-discovery rate</h2>");
    let _ = match found.log10_threshold {
        Some(threshold) => write!(
            html,
            "<p>Of {} documents long enough to test, {} have an adjusted p of at most 10<sup>{}</sup>: \
             of these a share of {rate} at most is expected to be false (Benjamini and Hochberg).</p>",
            grouped(found.tested),
            grouped(found.discoveries),
            exponent(threshold)
        ),
        None => write!(
            html,
            "<p>Of {} documents long enough to test, none can be called a discovery at a rate of {rate} \
             (Benjamini and Hochberg).</p>",
            grouped(found.tested)
        ),
    };
    html.push_str(
        "<p class=\"note\">A dump of n unmarked texts yields α·n false detections on average. The false-discovery \
         rate bounds their share among what is called found, whatever the dump's size.</p>",
    );
    for (wanted, counts) in judge.wanted().iter().zip(&tally.hypotheses) {
        let _ = write!(
            html,
            "<h2>Key <code>{}</code></h2><p>Profile <code>{}</code>: detected in {} documents.</p>{}",
            escaped(wanted.key.as_str()),
            escaped(&wanted.profile),
            grouped(counts.detected),
            histogram(&counts.histogram)
        );
    }
    html.push_str(
        "<p class=\"note\">Dashed: where every bar would stand if no document were marked. p of short texts \
         takes few values, so bars scatter around it and lean to the right; documents that share passages score \
         alike, so under one key they may lean to either side. A bar on the left that sticks out is what marked \
         documents look like.</p>",
    );
    if !tally.faults.is_empty() || !summary.failed.is_empty() {
        html.push_str(
            "<h2>What could not be judged</h2><table><tr><th>kind</th><th class=\"n\">faults</th></tr>",
        );
        for (kind, count) in &tally.faults {
            let _ = write!(html, "<tr><td>{}</td><td class=\"n\">{}</td></tr>", kind.name(), grouped(*count));
        }
        html.push_str("</table>");
        for failed in &summary.failed {
            let _ = write!(
                html,
                "<p>No result for <code>{}</code>: {}</p>",
                escaped(&failed.name),
                escaped(&failed.reason)
            );
        }
        if !summary.examples.is_empty() {
            html.push_str("<h2>The first faults</h2><table><tr><th>where</th><th>what</th></tr>");
            for example in summary.examples.iter().take(20) {
                let _ = write!(
                    html,
                    "<tr><td><code>{}</code>{}</td><td>{}: {}</td></tr>",
                    escaped(&example.file),
                    shown(&example.place),
                    example.kind,
                    escaped(&example.reason)
                );
            }
            html.push_str("</table>");
        }
    }
    html.push_str(
        "<p class=\"note\">A mark that is not found proves nothing about who wrote a text.</p></html>\n",
    );
    html
}
