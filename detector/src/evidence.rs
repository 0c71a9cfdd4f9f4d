//! One hypothesis about one text: which positions are scored, what they score together, how likely that is without the
//! mark.

use dandyroll_scheme::schemes::Scheme;
use dandyroll_scheme::{Mark, Nats, Null, Point, Strength};

use crate::number::wide;
use crate::spans::Draws;
use crate::tail::{self, MAX_WEIGHT, PerWeight, least_score, moments, upper_tail_of};
use crate::windows::{REPEAT, index};
use crate::{Log10P, Windows, ZScore};

/// Which positions are scored and how much each counts. Each mode is a hypothesis of its own.
///
/// No mode ever reads a score to decide what it scores: that is what keeps its null exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Every position counts 1; no model is needed.
    ModelFree,
    /// Positions with entropy strictly above τ count 1, as they were marked (Lee et al. 2023, SWEET).
    Gated(Nats),
    /// Positions count [`weight`] of their entropy (after Lu et al. 2024, EWD). For whole-number scores.
    Weighted,
}

/// The modes' names, in the order of [`Mode`]: the one list that command line, service and documentation share.
pub const MODES: [&str; 3] = ["model-free", "entropy-gated", "entropy-weighted"];

/// Why a mode cannot be used with a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// No mode has this name.
    #[error("there is no such mode; the modes are {}", MODES.join(", "))]
    Unknown,
    /// The gate is the profile's.
    #[error("it has no entropy threshold")]
    NoThreshold,
    /// Weights multiply whole numbers.
    #[error("its scores cannot be weighted")]
    NotWeighted,
}

impl Mode {
    /// The mode of that name for a profile with this threshold and null.
    pub fn named(name: &str, threshold: Option<Nats>, null: &Null) -> Result<Self, ModeError> {
        let [free, gated, weighted] = MODES;
        match name {
            name if name == free => Ok(Self::ModelFree),
            name if name == gated => threshold.map(Self::Gated).ok_or(ModeError::NoThreshold),
            name if name == weighted && null.is_counted() => Ok(Self::Weighted),
            name if name == weighted => Err(ModeError::NotWeighted),
            _ => Err(ModeError::Unknown),
        }
    }

    /// The name results carry.
    pub fn name(self) -> &'static str {
        let [free, gated, weighted] = MODES;
        match self {
            Self::ModelFree => free,
            Self::Gated(_) => gated,
            Self::Weighted => weighted,
        }
    }

    /// Whether entropies have to be given.
    pub fn needs_entropies(self) -> bool {
        !matches!(self, Self::ModelFree)
    }

    /// How much a position counts, or why it does not.
    fn weigh(self, entropy: Option<Nats>) -> Result<u8, Reason> {
        match (self, entropy) {
            (Self::ModelFree, _) => Ok(1),
            (_, None) => Err(Reason::UnknownEntropy),
            (Self::Gated(threshold), Some(entropy)) if entropy > threshold => Ok(1),
            (Self::Weighted, Some(entropy)) if weight(entropy) > 0 => Ok(weight(entropy)),
            (_, Some(_)) => Err(Reason::LowEntropy),
        }
    }
}

/// The weight of a position: min(16, ⌊8 H⌋), H in nats. Eighths of a nat, level from 2 nats on.
///
/// A function of the position's own entropy alone (EWD's weights depend on the text's minimum). Whole numbers
/// make the null distribution of the weighted sum exact. Level, because above 2 nats a bias of δ ≈ 2 moves
/// nearly the whole share (1 − γ) it can move; 0 below ⅛ nat, where the model's choice is all but forced and
/// δ moves next to nothing.
pub fn weight(entropy: Nats) -> u8 {
    let eighths = (entropy.get() * 8.0).min(f64::from(MAX_WEIGHT));
    #[expect(clippy::as_conversions, reason = "floor of a value from 0 to 16")]
    let weight = eighths as u8;
    weight
}

/// Why a position is not scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It belongs to the prompt.
    Prompt,
    /// Fewer than h generated tokens stand before it.
    ShortContext,
    /// The mode gives its entropy no weight.
    LowEntropy,
    /// The mode needs its entropy and there is none.
    UnknownEntropy,
    /// Its window is on the background list.
    Background,
}

/// What a position is under one hypothesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Scored, and its word speaks for the mark.
    Favoured,
    /// Scored, and its word does not.
    Unfavoured,
    /// What counts once was counted before.
    Repeat,
    /// Not scored.
    NotScored(Reason),
}

/// Scored positions by weight, and what they score together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tally {
    pub(crate) scored: PerWeight,
    pub(crate) score: f64,
}

impl Tally {
    pub(crate) fn flat(scored: u32, score: f64) -> Self {
        let mut tally = Self { scored: [0; 17], score };
        tally.scored[1] = scored;
        tally
    }
}

/// The text as counting needs it: its windows, their words under one key, its entropies if there are any.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    pub(crate) windows: &'a Windows,
    pub(crate) words: &'a [u32],
    /// One for each token that the windows were read from.
    pub(crate) entropies: Option<&'a [Option<Nats>]>,
}

/// A position as it is scored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scored {
    pub(crate) word: u32,
    pub(crate) weight: u8,
}

impl Words<'_> {
    /// Counts what counts once.
    pub(crate) fn count(&self, scheme: &dyn Scheme, mode: Mode, seen: &mut Vec<bool>) -> Tally {
        if !mode.needs_entropies() {
            // Windows number their pairs in 32 bits.
            return Tally::flat(
                u32::try_from(self.words.len()).unwrap_or(u32::MAX),
                scheme.total(self.words),
            );
        }
        let mut tally = Tally::flat(0, 0.0);
        self.walk(mode, seen, |position| {
            if let Ok(Scored { word, weight }) = position {
                tally.scored[usize::from(weight)] += 1;
                tally.score += f64::from(weight) * scheme.score(word);
            }
        });
        tally
    }

    /// The draws that windows are made of: each scored position at its first eligible occurrence.
    pub(crate) fn draws(&self, scheme: &dyn Scheme, mode: Mode, seen: &mut Vec<bool>, draws: &mut Draws) {
        draws.clear();
        // Fewer than 2³² tokens were let in.
        let mut place = u32::from(self.windows.width().byte());
        self.walk(mode, seen, |position| {
            if let Ok(Scored { word, .. }) = position {
                draws.push(place, scheme.score(word));
            }
            place = place.saturating_add(1);
        });
    }

    /// Hands every position from the (h + 1)-th on to `visit`: as it is scored, or the colour of one that is not.
    ///
    /// A pair is scored at its first *eligible* occurrence; a context that counts once is used up by its first.
    pub(crate) fn walk(
        &self,
        mode: Mode,
        seen: &mut Vec<bool>,
        mut visit: impl FnMut(Result<Scored, Colour>),
    ) {
        seen.clear();
        seen.resize(self.words.len(), false);
        let entropies =
            self.entropies.and_then(|all| all.get(self.windows.width().len()..)).unwrap_or_default();
        for (i, place) in self.windows.places().iter().enumerate() {
            if *place == REPEAT {
                visit(Err(Colour::Repeat));
                continue;
            }
            let place = index(*place);
            match (mode.weigh(entropies.get(i).copied().flatten()), self.words.get(place)) {
                (_, None) => visit(Err(Colour::NotScored(Reason::Background))),
                (Err(reason), _) => visit(Err(Colour::NotScored(reason))),
                (Ok(_), _) if seen[place] => visit(Err(Colour::Repeat)),
                (Ok(weight), Some(word)) => {
                    seen[place] = true;
                    visit(Ok(Scored { word: *word, weight }));
                }
            }
        }
    }
}

/// What one hypothesis found in one text.
///
/// The null is exact: under a secret key that had no part in making the text, the words of what counts once are
/// independent uniforms, whatever the text. It is exact *on average over keys*, so a corpus of near-identical texts errs
/// together under one key; that is what calibration per key is for. It says nothing once the key is known to whoever
/// made the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// How positions were scored.
    pub mode: Mode,
    /// n, the positions scored: each distinct (context, token) pair or context once.
    pub scored: u32,
    /// T, what they score together: on a list k, the number of those on it (in the mode with weights their sum).
    pub score: f64,
    /// E₀\[T\]: what they score on average without the mark, on a list γ'n.
    pub expected: f64,
    /// (T − E₀) / √Var₀, for people; `None` if nothing was scored.
    pub z: Option<ZScore>,
    /// P[a text without the mark scores T or more], exact.
    pub log10_p: Log10P,
    /// The same for the best that this text could have given.
    pub best: Log10P,
}

/// Tails that were computed for the same n and law: keys that are tried on one text share n, and few scores occur.
#[derive(Debug)]
pub(crate) struct Tails {
    scored: u32,
    /// The law's points; none before the first.
    law: Vec<Point>,
    /// By score mod [`Tails::PLACES`]; each place says of which score it is.
    known: Vec<Option<(u64, Log10P)>>,
}

impl Default for Tails {
    fn default() -> Self {
        Self { scored: 0, law: Vec::new(), known: vec![None; Self::PLACES] }
    }
}

impl Tails {
    const PLACES: usize = 256;

    /// [`upper_tail_of`].
    fn upper(&mut self, null: &Null, scored: u32, score: f64) -> Log10P {
        let exact = || upper_tail_of(null, scored, score);
        let Null::Counted(law) = null else { return exact() };
        if self.scored != scored || self.law != law.points() {
            self.scored = scored;
            self.law.clear();
            self.law.extend_from_slice(law.points());
            self.known.fill(None);
        }
        #[expect(clippy::as_conversions, reason = "a whole number; any place will do")]
        let place = score as usize % Self::PLACES;
        match self.known.get_mut(place) {
            Some(Some((bits, known))) if *bits == score.to_bits() => *known,
            Some(place) => {
                let p = exact();
                *place = Some((score.to_bits(), p));
                p
            }
            None => exact(),
        }
    }
}

impl Evidence {
    /// Nothing scored, in no mode: a place to be filled.
    pub(crate) const NONE: Self = Self {
        mode: Mode::ModelFree,
        scored: 0,
        score: 0.0,
        expected: 0.0,
        z: None,
        log10_p: Log10P::ONE,
        best: Log10P::ONE,
    };

    /// The chance that a mark of ordinary strength ([`Scheme::strength`]) would be detected on as many positions as
    /// were scored here, at `alpha` after correction for `hypotheses`: what `not_detected` is worth. Weighted evidence
    /// is taken as if its positions weighed alike.
    pub fn sensitivity(&self, mark: &Mark, alpha: Log10P, hypotheses: u32) -> f64 {
        let n = self.scored;
        let least = least_score(mark.null(), n, |p| p.times(hypotheses) <= alpha);
        let reached = least.map(|least| match mark.scheme().strength() {
            Strength::Counted(law) => upper_tail_of(&Null::Counted(law), n, least),
            Strength::Exponential(mean) => upper_tail_of(&Null::Exponential, n, least / mean),
        });
        reached.map_or(0.0, Log10P::probability)
    }

    /// What positions that count alike score together.
    pub fn of_score(mode: Mode, null: &Null, scored: u32, score: f64) -> Self {
        Self::with(
            mode,
            null,
            &Tally::flat(scored, score),
            &mut Tails { scored: 0, law: Vec::new(), known: Vec::new() },
        )
    }

    /// Judges a tally, with what is known of the tails.
    pub(crate) fn with(mode: Mode, null: &Null, tally: &Tally, tails: &mut Tails) -> Self {
        let (first, second) = moments(&tally.scored);
        let scored = tally.scored.iter().skip(1).sum();
        let expected = null.mean() * wide(first);
        Self {
            mode,
            scored,
            score: tally.score,
            expected,
            z: ZScore::standardised(tally.score, expected, null.variance() * wide(second)),
            log10_p: match mode {
                Mode::Weighted => tail::weighted_upper_tail(null, &tally.scored, tally.score),
                Mode::ModelFree | Mode::Gated(_) => tails.upper(null, scored, tally.score),
            },
            best: tails.upper(null, scored, f64::from(scored) * null.most()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dandyroll_scheme::{Law, MasterKey, Recipe, Sha256Digest};

    fn quarter() -> Null {
        Null::Counted(Law::below(1 << 30))
    }

    #[test]
    fn weights_are_eighths_of_a_nat_up_to_two_nats() {
        let of = |nats: f64| weight(Nats::new(nats).unwrap());
        assert_eq!([0.0, 0.124_9, 0.125, 0.9, 1.999, 2.0, 11.0].map(of), [0, 0, 1, 7, 15, 16, 16]);
    }

    #[test]
    fn the_gate_is_strict() {
        let nats = |value| Some(Nats::new(value).unwrap());
        let mode = Mode::Gated(Nats::new(0.9).unwrap());
        assert_eq!(mode.weigh(nats(0.9)), Err(Reason::LowEntropy));
        assert_eq!(mode.weigh(nats(0.900_001)), Ok(1));
        assert_eq!(mode.weigh(None), Err(Reason::UnknownEntropy));
        assert_eq!(Mode::ModelFree.weigh(None), Ok(1));
    }

    #[test]
    fn modes_have_one_name_each_and_are_refused_where_they_mean_nothing() {
        let tau = Nats::new(0.9).unwrap();
        for name in MODES {
            assert_eq!(Mode::named(name, Some(tau), &quarter()).unwrap().name(), name);
        }
        assert_eq!(Mode::named("entropy-gated", None, &quarter()), Err(ModeError::NoThreshold));
        assert_eq!(Mode::named("entropy-weighted", None, &Null::Exponential), Err(ModeError::NotWeighted));
        assert_eq!(Mode::named("auto", None, &quarter()), Err(ModeError::Unknown));
    }

    #[test]
    fn sensitivity_grows_with_the_text_and_falls_with_the_hypotheses() {
        let profile = Recipe::built_in("prose-v1").unwrap().bind(Sha256Digest([1; 32]), None).unwrap();
        let mark = Mark::new(&MasterKey::take(&mut [1; 32]), &profile, None).unwrap();
        let of = |n: u32, hypotheses| {
            let alpha = Log10P::of(1e-5).unwrap();
            Evidence::of_score(Mode::ModelFree, mark.null(), n, f64::from(n / 4))
                .sensitivity(&mark, alpha, hypotheses)
        };
        // P[Bin(n, .59902) ≥ k] with k = 13, 24, 31, summed with mpmath.
        for (n, expected) in [(8, 0.0), (16, 0.064_160), (40, 0.563_119), (60, 0.923_139)] {
            assert!((of(n, 1) - expected).abs() < 1e-5, "{n}: {}", of(n, 1));
        }
        assert!(of(200, 1) > 0.999_99 && of(40, 100) < of(40, 1));
    }

    #[test]
    fn nothing_scored_is_no_evidence() {
        for (mode, null) in
            [(Mode::ModelFree, quarter()), (Mode::Weighted, quarter()), (Mode::ModelFree, Null::Exponential)]
        {
            let evidence = Evidence::of_score(mode, &null, 0, 0.0);
            assert_eq!((evidence.z, evidence.log10_p, evidence.best), (None, Log10P::ONE, Log10P::ONE));
        }
    }

    #[test]
    fn equal_weights_give_the_same_p_as_none() {
        let flat = Evidence::of_score(Mode::ModelFree, &quarter(), 200, 90.0);
        let mut tally = Tally::flat(0, 12.0 * 90.0);
        tally.scored[12] = 200;
        let weighted = Evidence::with(Mode::Weighted, &quarter(), &tally, &mut Tails::default());
        assert_eq!((flat.log10_p, flat.best), (weighted.log10_p, weighted.best));
        assert!((flat.z.unwrap().get() - weighted.z.unwrap().get()).abs() < 1e-12);
        // (90 − 50) / √37.5.
        assert!((flat.z.unwrap().get() - 6.531_97).abs() < 1e-5);
    }
}
