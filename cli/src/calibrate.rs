//! `calibrate`: how often a key takes human text for marked, as a report, a table and a picture.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use dandyroll_api::calibration::{CalibrationBand, CalibrationCorpus, CalibrationReport};
use dandyroll_detector::{Calibration, Detector, Hypothesis, Mode, Policy, Text};
use dandyroll_ledger::calibration::{count_text, json, report};
use dandyroll_scheme::{Background, KeyId, Mark, MasterKey, Profile};
use dandyroll_vocab::Vocabulary;

use crate::args::{CalibrateArgs, ModeArg, RuntimeArgs, TrialArgs};
use crate::corpus::each_text;
use crate::detect::modes;
use crate::failure::{Failure, Outcome};
use crate::profile::Named;
use crate::terminal::say;
use crate::{keyfile, model};

/// Judges the corpora under every key and mode and reports each.
pub(crate) fn run(
    args: &CalibrateArgs,
    runtime: &RuntimeArgs,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let mut trial = Trial::open(&args.trial, &args.mode, runtime)?;
    let masters = args.key_file.iter().map(|path| keyfile::read(path)).collect::<Result<Vec<_>, _>>()?;
    let keys = masters
        .iter()
        .map(|key| Ok::<_, Failure>((key.id(), trial.mark(key)?)))
        .collect::<Result<Vec<_>, _>>()?;
    drop(masters);
    let reports = trial.reports(&keys, &args.trial.corpora)?;
    for report in &reports {
        if args.json {
            writeln!(out, "{}", json(report))?;
        } else {
            write!(out, "{}", table(report))?;
        }
    }
    out.flush()?;
    if let Some(path) = &args.svg {
        std::fs::write(path, picture(&reports))
            .map_err(|source| Failure::File { path: path.clone(), source })?;
    }
    let refused = reports.iter().filter(|report| !report.nominal).count();
    if refused > 0 && !args.json {
        say(format_args!(
            "{refused} of {} lie above nominal: make another key, or judge with a background list",
            reports.len()
        ));
    }
    Ok(Outcome::Done)
}

/// By what texts are judged, whatever the keys.
pub(crate) struct Trial {
    profile: Profile,
    modes: Vec<Mode>,
    list: Option<Arc<Background>>,
    vocabulary: Arc<Vocabulary>,
    scorer: Option<model::Scorer>,
}

impl Trial {
    /// Opens what the arguments name, and the model if a mode needs it.
    pub(crate) fn open(args: &TrialArgs, asked: &[ModeArg], runtime: &RuntimeArgs) -> Result<Self, Failure> {
        let named = Named::find(&args.profile)?;
        let modes = modes(asked, &named, &args.profile, args.model.is_some())?;
        let list = dandyroll_files::background::of_named(&named, args.background.as_deref())?.map(Arc::new);
        let (vocabulary, scorer, profile) = match (&args.model, &args.tokenizer) {
            (Some(path), _) => {
                let directory = model::Directory::open(path)?;
                let profile = directory.bind(&named)?;
                let vocabulary = Arc::clone(&directory.vocabulary);
                let needed = modes.iter().any(|mode| mode.needs_entropies());
                let model = needed.then(|| directory.load(runtime, args.threads)).transpose()?;
                (vocabulary, model.map(model::Scorer::new), profile)
            }
            (None, Some(path)) => {
                let vocabulary = Arc::new(Vocabulary::open(path)?);
                let profile = named.bind(vocabulary.digest(), None)?;
                (vocabulary, None, profile)
            }
            (None, None) => return Err(Failure::Usage("give --model DIR or --tokenizer FILE".into())),
        };
        Ok(Self { profile, modes, list, vocabulary, scorer })
    }

    /// The mark that is looked for under a key.
    pub(crate) fn mark(&self, master: &MasterKey) -> Result<Mark, Failure> {
        Ok(Mark::new(master, &self.profile, self.list.clone())?)
    }

    /// Judges the corpora under every key and mode: a report of each, by key and then by mode.
    pub(crate) fn reports(
        &mut self,
        keys: &[(KeyId, Mark)],
        corpora: &[PathBuf],
    ) -> Result<Vec<CalibrationReport>, Failure> {
        let Self { profile, modes, vocabulary, scorer, .. } = self;
        let hypotheses: Vec<Hypothesis<'_>> = keys
            .iter()
            .flat_map(|(_, mark)| modes.iter().map(move |mode| Hypothesis { mark, mode: *mode }))
            .collect();
        let policy = Policy::STANDARD;
        let mut found = vec![Calibration::new(); hypotheses.len()];
        let mut detector = Detector::new();
        let read = each_text(corpora, vocabulary, |ids| -> Result<(), Failure> {
            let entropies = match scorer {
                Some(scorer) => Some(scorer.entropies(&[], ids)?),
                None => None,
            };
            let text = Text { ids, prompt: 0, entropies: entropies.as_deref() };
            count_text(&mut detector, &text, &hypotheses, &policy, &mut found)?;
            Ok(())
        })?;
        let facts: Vec<CalibrationCorpus> = read
            .into_iter()
            .map(|corpus| CalibrationCorpus {
                name: corpus.name,
                sha256: corpus.sha256,
                documents: corpus.documents,
            })
            .collect();
        let names = keys.iter().flat_map(|(id, _)| modes.iter().map(move |mode| (id, mode.name())));
        names
            .zip(&found)
            .map(|((id, mode), found)| {
                report(id, &profile.id(), mode, policy.min_scored(), facts.clone(), found)
                    .map_err(|error| Failure::Usage(error.to_string()))
            })
            .collect()
    }
}

fn band_name(row: &CalibrationBand) -> String {
    match (row.from_tokens, row.to_tokens) {
        (0, None) => "all".into(),
        (0, Some(to)) => format!("under {to}"),
        (from, Some(to)) => format!("{from} to {}", to - 1),
        (from, None) => format!("{from} and more"),
    }
}

pub(crate) fn table(report: &CalibrationReport) -> String {
    let mut text = String::new();
    let verdict = if report.nominal { "nominal" } else { "above nominal: refused for activation" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{} {}: {verdict}", report.key_id, report.mode);
    let _ = writeln!(
        text,
        "  {:<14} {:>8}  {:<6} {:>9}  {:<10} interval",
        "tokens", "texts", "alpha", "p <= alpha", "rate"
    );
    for row in report.bands.iter().chain([&report.all]).filter(|row| row.texts > 0) {
        for rate in &row.rates {
            let _ = writeln!(
                text,
                "  {:<14} {:>8}  {:<6.0e} {:>9}  {:<10.2e} {:.1e} to {:.1e}{}",
                band_name(row),
                row.texts,
                rate.level,
                rate.positives,
                rate.rate,
                rate.low,
                rate.high,
                if rate.nominal { "" } else { "  above" }
            );
        }
    }
    let _ = writeln!(
        text,
        "  {:<14} {:>8}  fewer than {} distinct pairs",
        "too short", report.too_short, report.min_scored
    );
    let _ = writeln!(
        text,
        "  intervals: Clopper-Pearson, {:.2} % each, 99 % together",
        100.0 * report.confidence
    );
    let _ = writeln!(text, "  profile {}\n", report.profile);
    text
}

/// Rates over all lengths with their intervals, one column a level, one mark a report; logarithmic from 10⁻⁶ to 1.
fn picture(reports: &[CalibrationReport]) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 360.0;
    const LEFT: f64 = 64.0;
    const TOP: f64 = 36.0;
    const BOTTOM: f64 = 320.0;
    let levels = reports.first().map_or(0, |report| report.all.rates.len());
    let column = |i: usize| LEFT + (WIDTH - LEFT) * (number(i) + 0.5) / number(levels.max(1));
    let y = |rate: f64| BOTTOM + (TOP - BOTTOM) * (rate.max(1e-6).log10() + 6.0) / 6.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"20\">Human texts with \
         p at or below each level, all lengths; dashes: the level</text>\n"
    );
    for decade in 0..=6_i32 {
        let rate = 10_f64.powi(decade - 6);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">1e-{3}</text>",
            y(rate),
            LEFT - 6.0,
            y(rate) + 4.0,
            6 - decade
        );
    }
    for i in 0..levels {
        let half = (WIDTH - LEFT) / number(levels) * 0.42;
        for (place, report) in reports.iter().enumerate() {
            let Some(rate) = report.all.rates.get(i) else { continue };
            if place == 0 {
                let _ = writeln!(
                    svg,
                    "<line x1=\"{0:.1}\" x2=\"{1:.1}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#000\" \
                     stroke-dasharray=\"6 4\"/><text x=\"{3:.1}\" y=\"{4}\" text-anchor=\"middle\">level {5:.0e}</text>",
                    column(i) - half,
                    column(i) + half,
                    y(rate.level),
                    column(i),
                    BOTTOM + 24.0,
                    rate.level
                );
            }
            let x = column(i) + half * (2.0 * (number(place) + 0.5) / number(reports.len()) - 1.0);
            let colour = if rate.nominal { "#1b6ca8" } else { "#c0392b" };
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\
                 <circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{} {}</title></circle>",
                y(rate.low),
                y(rate.high),
                y(rate.rate),
                report.key_id,
                report.mode
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn number(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}
