//! One hypothesis about one text: which pairs are scored, how many are green, how likely that is without the
//! mark.

use dandyroll_scheme::{Gamma, Nats};

use crate::number::wide;
use crate::spans::Draws;
use crate::weighted::{self, MAX_WEIGHT, PerWeight};
use crate::windows::index;
use crate::{Log10P, Windows, ZScore, upper_tail};

/// Which positions are scored and how much each counts. Each mode is a hypothesis of its own.
///
/// No mode ever reads greenness to decide what it scores: that is what keeps its null exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Every position counts 1; no model is needed.
    ModelFree,
    /// Positions with entropy strictly above τ count 1, as they were marked (Lee et al. 2023, SWEET).
    Gated(Nats),
    /// Positions count [`weight`] of their entropy (after Lu et al. 2024, EWD).
    Weighted,
}

impl Mode {
    /// The name results carry.
    pub fn name(self) -> &'static str {
        match self {
            Self::ModelFree => "model-free",
            Self::Gated(_) => "entropy-gated",
            Self::Weighted => "entropy-weighted",
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
    /// Scored, and green.
    Green,
    /// Scored, and not green.
    Red,
    /// The same context and token were scored before.
    Repeat,
    /// Not scored.
    NotScored(Reason),
}

/// Scored and green pairs by weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    scored: PerWeight,
    green: PerWeight,
}

impl Counts {
    pub(crate) fn flat(scored: u32, green: u32) -> Self {
        let mut counts = Self { scored: [0; 17], green: [0; 17] };
        (counts.scored[1], counts.green[1]) = (scored, green);
        counts
    }

    /// n, the distinct pairs scored.
    pub fn scored(&self) -> u32 {
        self.scored.iter().sum()
    }

    /// k, the green ones among them.
    pub fn green(&self) -> u32 {
        self.green.iter().sum()
    }

    /// Σ w over the scored pairs; n in the modes without weights.
    pub fn scored_weight(&self) -> u64 {
        weighted::moments(&self.scored).0
    }

    /// S = Σ w over the green pairs; k in the modes without weights.
    pub fn green_weight(&self) -> u64 {
        weighted::moments(&self.green).0
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

impl Words<'_> {
    /// Counts each distinct pair once.
    pub(crate) fn count(&self, gamma: Gamma, mode: Mode, seen: &mut Vec<bool>) -> Counts {
        if !mode.needs_entropies() {
            let green: u32 = self.words.iter().map(|word| u32::from(gamma.is_green(*word))).sum();
            // Windows number their pairs in 32 bits.
            return Counts::flat(u32::try_from(self.words.len()).unwrap_or(u32::MAX), green);
        }
        let mut counts = Counts::flat(0, 0);
        self.walk(gamma, mode, seen, |colour, weight| {
            let weight = usize::from(weight);
            counts.scored[weight] += u32::from(matches!(colour, Colour::Green | Colour::Red));
            counts.green[weight] += u32::from(colour == Colour::Green);
        });
        counts
    }

    /// The draws that windows are made of: each scored pair at its first eligible occurrence.
    pub(crate) fn draws(&self, gamma: Gamma, mode: Mode, seen: &mut Vec<bool>, draws: &mut Draws) {
        draws.clear();
        // Fewer than 2³² tokens were let in.
        let mut place = u32::from(self.windows.width().byte());
        self.walk(gamma, mode, seen, |colour, _| {
            if let Colour::Green | Colour::Red = colour {
                draws.push(place, colour == Colour::Green);
            }
            place = place.saturating_add(1);
        });
    }

    /// Hands every position from the (h + 1)-th on to `visit`, with its weight (0 if it is not scored).
    ///
    /// A pair is scored at its first *eligible* occurrence.
    pub(crate) fn walk(
        &self,
        gamma: Gamma,
        mode: Mode,
        seen: &mut Vec<bool>,
        mut visit: impl FnMut(Colour, u8),
    ) {
        seen.clear();
        seen.resize(self.words.len(), false);
        let entropies =
            self.entropies.and_then(|all| all.get(self.windows.width().len()..)).unwrap_or_default();
        for (i, place) in self.windows.places().iter().enumerate() {
            let place = index(*place);
            match (mode.weigh(entropies.get(i).copied().flatten()), self.words.get(place)) {
                (_, None) => visit(Colour::NotScored(Reason::Background), 0),
                (Err(reason), _) => visit(Colour::NotScored(reason), 0),
                (Ok(_), _) if seen[place] => visit(Colour::Repeat, 0),
                (Ok(weight), Some(word)) => {
                    seen[place] = true;
                    visit(if gamma.is_green(*word) { Colour::Green } else { Colour::Red }, weight);
                }
            }
        }
    }
}

/// What one hypothesis found in one text.
///
/// The null is exact: under a secret key that had no part in making the text, distinct pairs are green with
/// probability γ' independently, whatever the text. It is exact *on average over keys*, so a corpus of
/// near-identical texts errs together under one key; that is what calibration per key is for. It says nothing
/// once the key is known to whoever made the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// How positions were scored.
    pub mode: Mode,
    /// The counts.
    pub counts: Counts,
    /// (S − γ'Σw) / √(γ'(1 − γ')Σw²), for people; `None` if nothing was scored.
    pub z: Option<ZScore>,
    /// P[a text without the mark has S or more], exact.
    pub log10_p: Log10P,
    /// The same for the best this text could have given: all scored pairs green, γ'ⁿ.
    pub all_green: Log10P,
}

/// Tails that were computed for the same n and γ: keys that are tried on one text share n, and few k occur.
#[derive(Debug)]
pub(crate) struct Tails {
    scored: u32,
    gamma: Option<Gamma>,
    /// By k mod [`Tails::PLACES`]; each place says of which k it is.
    known: Vec<Option<(u32, Log10P)>>,
}

impl Default for Tails {
    fn default() -> Self {
        Self { scored: 0, gamma: None, known: vec![None; Self::PLACES] }
    }
}

impl Tails {
    const PLACES: usize = 256;

    /// [`upper_tail`]; counts come from [`Counts`], where no more are green than scored, so neither fallback is
    /// reached.
    fn upper(&mut self, scored: u32, green: u32, gamma: Gamma) -> Log10P {
        let exact = || upper_tail(scored, green, gamma).unwrap_or(Log10P::ONE);
        if self.scored != scored || self.gamma != Some(gamma) {
            (self.scored, self.gamma) = (scored, Some(gamma));
            self.known.fill(None);
        }
        match self.known.get_mut(index(green) % Self::PLACES) {
            Some(Some((k, known))) if *k == green => *known,
            Some(place) => {
                let p = exact();
                *place = Some((green, p));
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
        counts: Counts { scored: [0; 17], green: [0; 17] },
        z: None,
        log10_p: Log10P::ONE,
        all_green: Log10P::ONE,
    };

    /// The chance that a mark of ordinary strength would be detected on as many pairs as were scored here, at
    /// `alpha` after correction for `hypotheses`: what `not_detected` is worth.
    ///
    /// Ordinary means that it multiplies the odds of green by e^1.5, about what δ = 2 does at the entropy of
    /// prose: 60 % green at γ = ¼. Weighted evidence is taken as if its pairs weighed alike.
    pub fn sensitivity(&self, gamma: Gamma, alpha: Log10P, hypotheses: u32) -> f64 {
        let n = self.counts.scored();
        let reaches = |k: &u32| upper_tail(n, *k, gamma).is_ok_and(|p| p.times(hypotheses) <= alpha);
        // The tail falls as k rises: bisect for the least count that is detected.
        let (mut low, mut high) = (0, n);
        if !reaches(&n) {
            return 0.0;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if reaches(&middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let odds = gamma.effective() / (1.0 - gamma.effective()) * 1.5_f64.exp();
        Gamma::new((odds / (1.0 + odds)).min(1.0 - 1e-6))
            .ok()
            .and_then(|share| upper_tail(n, high, share).ok())
            .map_or(0.0, |p| p.probability())
    }

    /// Judges counts.
    pub fn new(mode: Mode, counts: Counts, gamma: Gamma) -> Self {
        Self::with(mode, counts, gamma, &mut Tails { scored: 0, gamma: None, known: Vec::new() })
    }

    /// [`Evidence::new`], with what is known of the tails.
    pub(crate) fn with(mode: Mode, counts: Counts, gamma: Gamma, tails: &mut Tails) -> Self {
        let p = gamma.effective();
        let (first, second) = weighted::moments(&counts.scored);
        let (scored, green) = (counts.scored(), counts.green());
        let mut exact = |k: u32| tails.upper(scored, k, gamma);
        Self {
            mode,
            counts,
            z: ZScore::standardised(
                wide(counts.green_weight()),
                p * wide(first),
                p * (1.0 - p) * wide(second),
            ),
            log10_p: match mode {
                Mode::Weighted => weighted::upper_tail(&counts.scored, &counts.green, gamma),
                Mode::ModelFree | Mode::Gated(_) => exact(green),
            },
            all_green: exact(scored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn sensitivity_grows_with_the_text_and_falls_with_the_hypotheses() {
        let gamma = Gamma::new(0.25).unwrap();
        let of = |n, hypotheses| {
            let alpha = Log10P::of(1e-5).unwrap();
            Evidence::new(Mode::ModelFree, Counts::flat(n, n / 4), gamma)
                .sensitivity(gamma, alpha, hypotheses)
        };
        // P[Bin(n, .59902) ≥ k] with k = 13, 24, 31, summed with mpmath.
        for (n, expected) in [(8, 0.0), (16, 0.064_160), (40, 0.563_119), (60, 0.923_139)] {
            assert!((of(n, 1) - expected).abs() < 1e-5, "{n}: {}", of(n, 1));
        }
        assert!(of(200, 1) > 0.999_99 && of(40, 100) < of(40, 1));
    }

    #[test]
    fn nothing_scored_is_no_evidence() {
        for mode in [Mode::ModelFree, Mode::Weighted] {
            let evidence = Evidence::new(mode, Counts::flat(0, 0), Gamma::new(0.25).unwrap());
            assert_eq!((evidence.z, evidence.log10_p, evidence.all_green), (None, Log10P::ONE, Log10P::ONE));
        }
    }

    #[test]
    fn equal_weights_give_the_same_p_as_none() {
        let gamma = Gamma::new(0.25).unwrap();
        let flat = Evidence::new(Mode::ModelFree, Counts::flat(200, 90), gamma);
        let mut counts = Counts::flat(0, 0);
        (counts.scored[12], counts.green[12]) = (200, 90);
        let weighted = Evidence::new(Mode::Weighted, counts, gamma);
        assert_eq!((flat.log10_p, flat.all_green), (weighted.log10_p, weighted.all_green));
        assert!((flat.z.unwrap().get() - weighted.z.unwrap().get()).abs() < 1e-12);
        // (90 − 50) / √37.5.
        assert!((flat.z.unwrap().get() - 6.531_97).abs() < 1e-5);
    }
}
