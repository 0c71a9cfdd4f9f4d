//! Which passages of a text carry a mark: a search over windows whose false alarms are bounded.
//!
//! **Draws.** What counts once in a text (pairs, or contexts) is put in order of first eligible occurrence; draw i is
//! its score. Later occurrences, and positions that the mode gives no weight, are no draws. Which positions are draws
//! follows from the text and the entropies alone, never from scores, so under a key that had no part in making the text
//! the draws X₁ … Xₙ are independent with the scheme's law, exactly. So every window of L consecutive draws, fixed
//! beforehand, has the tail that L scored positions have, exactly: on a list Bin(L, γ'). (Counting distinct pairs
//! *within* each window would be exact for each window too, but needs a table per window and lets one lucky pair that
//! the text repeats light many windows.)
//!
//! **Windows.** Lengths 32, 48, 64, 96, 128, … (2ʲ and 3·2ʲ⁻¹), each starting at every quarter of its length,
//! and one flush with the end: W(n) of them, a function of n alone, about 0.4 n (789 for n = 2000). Of the
//! quarter steps: any run of ℓ ≥ 39 draws contains a whole window of more than 0.53 ℓ draws, where powers of
//! two at half-overlap promise 0.33 ℓ for half the number of windows. The price of the doubling is log₁₀ 2
//! in p, and the gain a fifth of the passage's evidence. Of the floor: at n = 2000 and α = 10⁻⁵ a window of 16
//! would have to be all on the list.
//!
//! **Correction.** Bonferroni: with T = Σ W(n_h) over all hypotheses h, each window's exact p is multiplied by
//! 2T. Whatever the windows share, P[any window of an unmarked text has adjusted p ≤ α] ≤ α/2. The whole-text
//! tests stay hypotheses of their own with the other half of α (their p, adjusted for one another, doubled),
//! so that *any* false word about the text, whole or span, has probability ≤ α. The whole-text test pays
//! log₁₀ 2 for the search, not log₁₀ 2T.
//!
//! **Borders.** Among the windows at or below α the one with the least p is taken; in and around it the
//! segment with the greatest likelihood ratio is found (of the scheme's law, tilted to the mean that the segment has, to
//! the law itself: on a list a hit counts ln(ĝ/γ'), a miss ln((1−ĝ)/(1−γ')) with ĝ the rate of hits), bridging no stretch whose loss is so
//! great that a marked one hardly ever has it (ln n + 5 nats). Windows that meet it are its own; among the others the next one is taken. Borders
//! are estimates: they take part in no test, and a span's p is its window's.
//!
//! Linear in n but for sorting the windows found, and those are few in an unmarked text.

use std::collections::BTreeMap;
use std::ops::Range;

use dandyroll_scheme::Null;

use crate::tail::{Likelihood, least_score, upper_tail_of};
use crate::windows::index;
use crate::{Log10P, Mode, Policy};

/// The shortest window, in draws.
const SHORTEST: usize = 32;

/// Loss of log-likelihood (nats) beyond which a stretch of a text of n draws parts two passages: ln n + 5.
///
/// From a given draw of a passage that is marked at the rate assumed, the loss ever exceeds x with probability
/// e^{−x} at most (Ville 1939; the likelihood ratio of the null is a martingale there), so a passage is torn
/// where it is whole with probability n e^{−x} = e⁻⁵ < 1 % at most. At n = 2000, γ = ¼ and a rate
/// of .65 on the list about 38 unmarked draws part two passages.
fn bridge(draws: usize) -> f64 {
    f64::from(u32::try_from(draws.max(1)).unwrap_or(u32::MAX)).ln() + 5.0
}

/// Times that the rate and the borders are estimated from each other.
const ROUNDS: u8 = 4;

/// A passage found to carry a mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Under which hypothesis, by its place in the list that was tried.
    pub hypothesis: usize,
    /// How positions were counted.
    pub mode: Mode,
    /// Tokens of the text (prompt included in the numbering) from the first pair's context to the last pair.
    pub tokens: Range<usize>,
    /// Positions scored in it.
    pub scored: u32,
    /// What they score together.
    pub score: f64,
    /// The tail of the strongest window that found it, exact, before correction.
    pub log10_p: Log10P,
    /// The same times twice the number of windows tried.
    pub adjusted: Log10P,
}

/// The draws of one text under one hypothesis.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draws {
    /// The token of each draw.
    places: Vec<u32>,
    /// The score before each draw, and of all: one more than there are draws.
    scores: Vec<f64>,
}

impl Draws {
    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.scores.clear();
        self.scores.push(0.0);
    }

    pub(crate) fn push(&mut self, place: u32, score: f64) {
        let before = self.scores.last().copied().unwrap_or(0.0);
        self.places.push(place);
        self.scores.push(before + score);
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    fn score_in(&self, range: &Range<usize>) -> f64 {
        self.scores[range.end] - self.scores[range.start]
    }

    fn score(&self, draw: usize) -> f64 {
        self.scores[draw + 1] - self.scores[draw]
    }
}

/// Lengths of windows over `draws` draws, none shorter than `floor`.
fn lengths(draws: usize, floor: u32) -> impl Iterator<Item = usize> {
    let doubled = std::iter::successors(Some(SHORTEST), |length| length.checked_mul(2));
    doubled
        .flat_map(|length| [length, length.saturating_add(length / 2)])
        .take_while(move |length| *length <= draws)
        .filter(move |length| *length >= index(floor))
}

/// The windows of one length: every quarter of it, and one flush with the end.
fn starts(draws: usize, length: usize) -> impl Iterator<Item = usize> {
    let (last, step) = (draws.saturating_sub(length), (length / 4).max(1));
    let flush = (!last.is_multiple_of(step)).then_some(last);
    (0..=last).step_by(step).chain(flush)
}

/// W(n): how many windows are tried on so many draws.
fn windows_tried(draws: usize, floor: u32) -> u64 {
    lengths(draws, floor)
        .map(|length| {
            let (last, step) = (draws - length, (length / 4).max(1));
            let count = last / step + 1 + usize::from(!last.is_multiple_of(step));
            u64::try_from(count).unwrap_or(u64::MAX)
        })
        .sum()
}

/// A window that may be significant.
#[derive(Clone, Debug)]
struct Candidate {
    draws: Range<usize>,
    log10_p: Log10P,
}

/// What the search over one hypothesis left: candidates under its own correction, which is the mildest.
#[derive(Debug)]
struct Kept {
    hypothesis: usize,
    mode: Mode,
    null: Null,
    width: usize,
    draws: Draws,
    candidates: Vec<Candidate>,
}

/// A search over all windows of all hypotheses about one text.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    policy: &'a Policy,
    tried: u64,
    least: Log10P,
    kept: Vec<Kept>,
    family: Option<Family>,
}

/// For each length the least score that any correction could let through; kept between hypotheses that share n and law.
#[derive(Debug)]
struct Family {
    draws: usize,
    null: Null,
    tried: u64,
    /// Length, and the least score; `None` if the greatest is not enough.
    critical: Vec<(usize, Option<f64>)>,
}

impl Family {
    fn new(draws: usize, null: &Null, policy: &Policy) -> Self {
        let tried = windows_tried(draws, policy.min_scored());
        let critical = lengths(draws, policy.min_scored())
            .map(|length| (length, critical(length, null, policy.alpha(), tried)))
            .collect();
        Self { draws, null: null.clone(), tried, critical }
    }
}

/// The tail of a window.
fn tail(length: usize, score: f64, null: &Null) -> Log10P {
    // Counts come from 32-bit positions, so the fallback is not reached; it errs on the side of no evidence.
    u32::try_from(length).map_or(Log10P::ONE, |n| upper_tail_of(null, n, score))
}

/// The least score whose p, times twice `tried`, is at most `alpha`.
fn critical(length: usize, null: &Null, alpha: Log10P, tried: u64) -> Option<f64> {
    least_score(null, u32::try_from(length).ok()?, |p| adjust(p, tried) <= alpha)
}

/// min(1, 2 T p).
fn adjust(p: Log10P, tried: u64) -> Log10P {
    p.times_wide(tried.saturating_mul(2))
}

impl<'a> Search<'a> {
    pub(crate) fn new(policy: &'a Policy) -> Self {
        Self { policy, tried: 0, least: Log10P::ONE, kept: Vec::new(), family: None }
    }

    /// Tries every window of one hypothesis. `width` is h.
    pub(crate) fn add(&mut self, hypothesis: usize, mode: Mode, null: &Null, width: usize, draws: &Draws) {
        let n = draws.len();
        let family = match self.family.take() {
            Some(family) if family.draws == n && family.null == *null => family,
            _ => Family::new(n, null, self.policy),
        };
        self.tried = self.tried.saturating_add(family.tried);
        let mut candidates = Vec::new();
        for (length, critical) in &family.critical {
            let mut most = f64::NEG_INFINITY;
            for start in starts(n, *length) {
                let window = start..start + length;
                let score = draws.score_in(&window);
                most = most.max(score);
                if critical.is_some_and(|critical| score >= critical) {
                    candidates.push(Candidate { log10_p: tail(*length, score, null), draws: window });
                }
            }
            let p = tail(*length, most, null);
            if p < self.least {
                self.least = p;
            }
        }
        if !candidates.is_empty() {
            self.kept.push(Kept {
                hypothesis,
                mode,
                null: null.clone(),
                width,
                draws: draws.clone(),
                candidates,
            });
        }
        self.family = Some(family);
    }

    /// T, the windows tried.
    pub(crate) fn tried(&self) -> u64 {
        self.tried
    }

    /// The least p of all windows, uncorrected.
    pub(crate) fn least(&self) -> Log10P {
        self.least
    }

    /// The least p of all windows, adjusted for all of them and for the whole-text tests.
    pub(crate) fn adjusted(&self) -> Log10P {
        adjust(self.least, self.tried)
    }

    /// The spans, in the order of the text. Those of one hypothesis are disjoint. `offset`: tokens before the
    /// first that was searched.
    pub(crate) fn spans(self, offset: usize) -> Vec<Span> {
        let (tried, alpha) = (self.tried, self.policy.alpha());
        let mut spans: Vec<Span> = self
            .kept
            .into_iter()
            .flat_map(|mut kept| {
                kept.candidates.retain(|candidate| adjust(candidate.log10_p, tried) <= alpha);
                kept.spans(tried, offset)
            })
            .collect();
        spans.sort_by_key(|span| (span.tokens.start, span.tokens.end, span.hypothesis));
        spans
    }
}

impl Kept {
    fn spans(mut self, tried: u64, offset: usize) -> Vec<Span> {
        // Least p first; of equals the shortest, then the first.
        self.candidates.sort_by(|a, b| {
            let (p, q) = (a.log10_p.get(), b.log10_p.get());
            p.total_cmp(&q).then(a.draws.len().cmp(&b.draws.len())).then(a.draws.start.cmp(&b.draws.start))
        });
        // Disjoint, by their start: the end and the window's p.
        let mut found: BTreeMap<usize, (usize, Log10P)> = BTreeMap::new();
        for Candidate { draws: window, log10_p } in &self.candidates {
            let before = found.range(..window.end).next_back().map_or(0, |(_, (end, _))| *end);
            if before > window.start {
                continue;
            }
            let after = found.range(window.end..).next().map_or(self.draws.len(), |(start, _)| *start);
            let segment = refine(&self.draws, before..after, window.clone(), &self.null);
            found.insert(segment.start, (segment.end, *log10_p));
        }
        let mut done = 0;
        found
            .into_iter()
            .map(|(start, (end, log10_p))| {
                let segment = start..end;
                let place = |draw: usize| self.draws.places.get(draw).map_or(0, |place| index(*place));
                // The first pair's context was there to be marked after; it belongs to the passage.
                let from = place(start).saturating_sub(self.width).max(done);
                done = place(end - 1) + 1;
                Span {
                    hypothesis: self.hypothesis,
                    mode: self.mode,
                    tokens: offset + from..offset + done,
                    scored: u32::try_from(segment.len()).unwrap_or(u32::MAX),
                    score: self.draws.score_in(&segment),
                    log10_p,
                    adjusted: adjust(log10_p, tried),
                }
            })
            .collect()
    }
}

/// The borders of the passage that a significant window lies in: draws inside `room`, never empty, and
/// meeting the window.
fn refine(draws: &Draws, room: Range<usize>, window: Range<usize>, null: &Null) -> Range<usize> {
    let mut segment = window.clone();
    let most = bridge(draws.len());
    for _ in 0..ROUNDS {
        let scored = u32::try_from(segment.len()).unwrap_or(u32::MAX);
        let ratio = Likelihood::estimated(null, scored, draws.score_in(&segment));
        let ratio = |draw: usize| ratio.of(draws.score(draw));
        let inside = core(segment.clone(), ratio, most);
        if inside.is_empty() {
            break;
        }
        let next = reach((room.start..inside.start).rev(), ratio, most).unwrap_or(inside.start)
            ..reach(inside.end..room.end, ratio, most).map_or(inside.end, |last| last + 1);
        // A rate that moved the segment off its window would leave it with a p that is not its own.
        if next == segment || next.end <= window.start || next.start >= window.end {
            break;
        }
        segment = next;
    }
    segment
}

/// The segment of the greatest score in `range` that bridges no loss above `most` (Kadane's algorithm
/// with a drop); empty if nothing in it speaks for the mark.
fn core(range: Range<usize>, score: impl Fn(usize) -> f64, most: f64) -> Range<usize> {
    let (mut best, mut segment) = (0.0, range.start..range.start);
    let (mut start, mut sum, mut peak) = (range.start, 0.0_f64, 0.0_f64);
    for draw in range {
        sum += score(draw);
        if sum > peak {
            peak = sum;
            if peak > best {
                (best, segment) = (peak, start..draw + 1);
            }
        }
        if sum <= 0.0 || sum < peak - most {
            (start, sum, peak) = (draw + 1, 0.0, 0.0);
        }
    }
    segment
}

/// Where the sum over `draws` is greatest, looking on until it has fallen by `most`; `None` if it is
/// never above 0.
fn reach(draws: impl Iterator<Item = usize>, score: impl Fn(usize) -> f64, most: f64) -> Option<usize> {
    let (mut sum, mut peak, mut at) = (0.0_f64, 0.0_f64, None);
    for draw in draws {
        sum += score(draw);
        if sum > peak {
            (peak, at) = (sum, Some(draw));
        }
        if sum < peak - most {
            break;
        }
    }
    at
}

/// What a run of draws is sure to hold, wherever it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SureWindow {
    /// L, the length of its longest sure window.
    pub length: u32,
    /// The least score with which that window is found.
    pub least_score: f64,
}

/// The longest window that any run of `run` draws contains wholly in a text of `draws`, and the score it needs there
/// under one hypothesis; `None` if there is none, or the greatest score is not enough.
///
/// A lower bound of power: on a list where the run's draws hit with rate g, it is found with probability at least
/// P[Bin(L, g) ≥ k].
pub fn sure_window(run: u32, draws: u32, null: &Null, policy: &Policy) -> Option<SureWindow> {
    // Starts are a quarter of the length apart, so a run of L + L/4 − 1 draws holds one.
    let fits = |length: &usize| length + length / 4 <= index(run) + 1;
    let length = lengths(index(draws), policy.min_scored()).take_while(fits).last()?;
    let tried = windows_tried(index(draws), policy.min_scored());
    let least_score = critical(length, null, policy.alpha(), tried)?;
    Some(SureWindow { length: u32::try_from(length).ok()?, least_score })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dandyroll_scheme::Law;
    use proptest::prelude::*;

    #[test]
    fn the_numbers_of_the_documentation() {
        assert_eq!(lengths(200, 1).collect::<Vec<_>>(), [32, 48, 64, 96, 128, 192]);
        assert_eq!(lengths(200, 50).next(), Some(64));
        assert_eq!((windows_tried(31, 1), windows_tried(32, 1), windows_tried(33, 1)), (0, 1, 2));
        assert_eq!(windows_tried(2000, 1), 789);
        let quarter = Null::Counted(Law::below(1 << 30));
        let sure = sure_window(148, 2000, &quarter, &Policy::STANDARD).unwrap();
        assert_eq!(sure.length, 96);
        assert_eq!(sure_window(38, 2000, &quarter, &Policy::STANDARD), None);
    }

    proptest! {
        #[test]
        fn windows_lie_inside_are_counted_and_are_in_every_run(draws in 0_usize..3000, at in 0.0..1.0_f64) {
            let mut all = Vec::new();
            for length in lengths(draws, 1) {
                let before = all.len();
                all.extend(starts(draws, length).map(|start| start..start + length));
                prop_assert!(all[before..].iter().all(|window| window.end <= draws));
                prop_assert_eq!(all[before].start, 0);
                prop_assert_eq!(all.last().unwrap().end, draws);
            }
            prop_assert_eq!(u64::try_from(all.len()).unwrap(), windows_tried(draws, 1));
            if draws >= 39 {
                #[expect(clippy::as_conversions, reason = "shares of whole numbers, for a test")]
                let (run, from) = {
                    let run = 39 + ((draws - 39) as f64 * at) as usize;
                    (run, ((draws - run) as f64 * (1.0 - at)) as usize)
                };
                let inside = |window: &&Range<usize>| window.start >= from && window.end <= from + run;
                let longest = all.iter().filter(inside).map(ExactSizeIterator::len).max().unwrap_or(0);
                prop_assert!(longest * 100 > run * 53, "{longest} of {run}");
            }
        }

        #[test]
        fn the_refined_segment_stays_in_its_room_and_meets_its_window(
            colours in proptest::collection::vec(any::<bool>(), 40..400),
            at in 0.0..1.0_f64,
        ) {
            let mut draws = Draws::default();
            draws.clear();
            colours.iter().for_each(|hit| draws.push(0, f64::from(u8::from(*hit))));
            #[expect(clippy::as_conversions, reason = "a share of a whole number, for a test")]
            let start = ((colours.len() - 32) as f64 * at) as usize;
            let room = start / 2..(start + 32).midpoint(colours.len());
            let found = refine(&draws, room.clone(), start..start + 32, &Null::Counted(Law::below(1 << 30)));
            prop_assert!(room.start <= found.start && found.start < found.end && found.end <= room.end);
            prop_assert!(found.start < start + 32 && start < found.end);
        }
    }
}
