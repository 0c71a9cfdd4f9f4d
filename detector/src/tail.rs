//! The exact upper tail of a score, in log space: one engine for every law.
//!
//! A text's score is T = Σ sᵢ over its scored positions, whole numbers with independent laws that are counted
//! ([`Law`]). The measure is tilted by e^{θW} so that T becomes its mean (Esscher 1932); there nothing underflows, and
//! for every θ
//!
//! P[W ≥ T] = e^{K(θ) − θT} · E_θ[e^{−θ(W − T)}; W ≥ T], K(θ) = ln E[e^{θW}].
//!
//! The expectation is an exact finite Fourier sum of the characteristic function over N consecutive values around T,
//! where Bernstein's inequality leaves less than 3·10⁻²⁰ outside. Work grows with √n. Each class of positions is centred
//! at a whole number near its tilted mean, so that neither |φ| nor its argument loses digits.
//!
//! Where there are two scores only, the tail is the binomial's ([`mod@crate::binomial`]); where scores are exponential,
//! Erlang's ([`mod@crate::erlang`]). Both are tested equal to this engine, which itself agrees with adding positions one
//! by one to 10⁻⁹ relative in ln p, and mostly to 10⁻¹¹; the tests print it.

use std::f64::consts::TAU;

use dandyroll_scheme::{Law, Null};

use crate::Log10P;
use crate::binomial::ln_upper_tail;
use crate::erlang;
use crate::number::wide;

/// The heaviest weight a position can have.
pub const MAX_WEIGHT: u8 = 16;

/// How many positions have each weight: entry w counts weight w; entry 0 is not read.
pub(crate) type PerWeight = [u32; 17];

/// Σ w·n, Σ w²·n.
pub(crate) fn moments(counts: &PerWeight) -> (u64, u64) {
    (0_u64..)
        .zip(counts)
        .fold((0, 0), |(first, second), (w, n)| (first + w * u64::from(*n), second + w * w * u64::from(*n)))
}

/// log₁₀ P[T ≥ `score`] for `scored` positions without the mark; exact, or for [`Null::Exponential`] a bound.
///
/// ```
/// use dandyroll_detector::upper_tail_of;
/// use dandyroll_scheme::{Law, Null};
///
/// // 90 of 200 where a quarter is expected.
/// let p = upper_tail_of(&Null::Counted(Law::below(1 << 30)), 200, 90.0);
/// assert!((p.get() + 9.184_353_432_919_33).abs() < 1e-12);
/// ```
pub fn upper_tail_of(null: &Null, scored: u32, score: f64) -> Log10P {
    match null {
        Null::Exponential => erlang::upper_tail(scored, score),
        Null::Counted(law) => match law.points() {
            // What most texts are judged by: without a lattice, nothing is allocated.
            [low, high] => {
                let steps = |score: i64| u64::try_from(score).unwrap_or(0);
                let above = whole(score).saturating_sub(i64::from(low.score) * i64::from(scored));
                let hits = steps(above).div_ceil(steps(i64::from(high.score) - i64::from(low.score)).max(1));
                let hits = u32::try_from(hits).unwrap_or(u32::MAX).min(scored);
                Log10P::from_ln(ln_upper_tail(scored, hits, high.probability()))
            }
            _ => upper_tail_of_classes(&[(law, 1, scored)], whole(score)),
        },
    }
}

/// The same where each position counts with a whole weight. Weights mean something for counted scores only; for others
/// all count alike.
pub(crate) fn weighted_upper_tail(null: &Null, scored: &PerWeight, score: f64) -> Log10P {
    match null {
        Null::Exponential => erlang::upper_tail(scored.iter().skip(1).sum(), score),
        Null::Counted(law) => {
            let classes: Vec<(&Law, u8, u32)> = (1..).zip(&scored[1..]).map(|(w, n)| (law, w, *n)).collect();
            upper_tail_of_classes(&classes, whole(score))
        }
    }
}

/// log₁₀ P[T ≥ `score`] for positions of several classes: each a law, a factor that its scores are multiplied by, and
/// how many positions have it. Exact.
pub fn upper_tail_of_classes(classes: &[(&Law, u8, u32)], score: i64) -> Log10P {
    let (groups, sum) = lattice(classes, score);
    Log10P::from_ln(ln_upper_tail_of(&groups, sum))
}

/// A score that is whole, as whole number.
fn whole(score: f64) -> i64 {
    #[expect(
        clippy::as_conversions,
        reason = "sums of at most 2^32 scores below 2^31 are exact in f64, and in i64"
    )]
    let whole = score.ceil() as i64;
    whole
}

/// One value of a class, counted from its least score in steps of the lattice.
#[derive(Clone, Copy, Debug)]
struct Atom {
    step: u64,
    p: f64,
}

/// Positions of one class.
#[derive(Clone, Debug)]
struct Group {
    positions: u32,
    /// Steps rising from 0.
    atoms: Vec<Atom>,
}

impl Group {
    fn positions(&self) -> f64 {
        f64::from(self.positions)
    }

    fn most(&self) -> u64 {
        self.atoms.last().map_or(0, |atom| atom.step)
    }

    /// The same with its values in reverse.
    fn mirrored(&self) -> Self {
        let most = self.most();
        let atoms = self.atoms.iter().rev().map(|atom| Atom { step: most - atom.step, ..*atom }).collect();
        Self { atoms, ..*self }
    }

    fn mean(&self) -> f64 {
        self.atoms.iter().map(|atom| atom.p * wide(atom.step)).sum()
    }
}

/// Classes on a common lattice that begins at 0 and has no gaps by a common divisor, and the score on it, rounded up.
fn lattice(classes: &[(&Law, u8, u32)], score: i64) -> (Vec<Group>, u64) {
    let used = || classes.iter().filter(|(_, weight, positions)| *positions > 0 && *weight > 0);
    let least = |law: &Law| law.points().first().map_or(0, |point| i64::from(point.score));
    let steps = |law: &Law, weight: u8| {
        let least = least(law);
        let step = move |score: i32| (i64::from(score) - least).unsigned_abs() * u64::from(weight);
        law.points().iter().map(|point| (step(point.score), point.probability())).collect::<Vec<_>>()
    };
    let divisor =
        used().flat_map(|(law, weight, _)| steps(law, *weight)).fold(0, |d, (step, _)| gcd(d, step));
    let divisor = divisor.max(1);
    let start: i64 = used().map(|(law, weight, n)| least(law) * i64::from(*weight) * i64::from(*n)).sum();
    let groups = used()
        .map(|(law, weight, positions)| Group {
            positions: *positions,
            atoms: steps(law, *weight)
                .into_iter()
                .map(|(step, p)| Atom { step: step / divisor, p })
                .collect(),
        })
        .collect();
    (groups, u64::try_from(score.saturating_sub(start)).unwrap_or(0).div_ceil(divisor))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn total(groups: &[Group]) -> u64 {
    groups.iter().map(|group| group.most() * u64::from(group.positions)).sum()
}

/// ln P[W ≥ sum], choosing the tail that keeps digits. A sum beyond the greatest counts as that.
fn ln_upper_tail_of(groups: &[Group], sum: u64) -> f64 {
    let all = total(groups);
    let sum = sum.min(all);
    if sum == 0 {
        return 0.0;
    }
    if let [Group { positions, atoms }] = groups
        && let [_, hit] = atoms.as_slice()
    {
        let hits = u32::try_from(sum.div_ceil(hit.step)).unwrap_or(u32::MAX);
        return ln_upper_tail(*positions, hits.min(*positions), hit.p);
    }
    let mean: f64 = groups.iter().map(|group| group.positions() * group.mean()).sum();
    if wide(sum) > mean {
        ln_tilted(groups, sum, 1.0)
    } else {
        // P[W ≥ T] = 1 − P[W ≤ T − 1], and the greatest sum less W is a sum of the mirrored laws.
        let mirrored: Vec<Group> = groups.iter().map(Group::mirrored).collect();
        let other = ln_tilted(&mirrored, all - sum + 1, 0.0);
        (-other.exp().min(1.0)).ln_1p()
    }
}

/// ln P[W ≥ sum] for `sum` above the mean of W.
///
/// Should the expectation be lost in rounding (it is not for a sum that some positions make), `bound` stands for it: 1
/// bounds the tail from above (Chernoff), 0 from below.
fn ln_tilted(groups: &[Group], sum: u64, bound: f64) -> f64 {
    if sum >= total(groups) {
        return groups.iter().map(|group| group.positions() * ln_of_last(&group.atoms)).sum();
    }
    let theta = tilt(groups, wide(sum));
    let mut tilted: Vec<Tilted> = groups.iter().map(|group| Tilted::of(group, theta)).collect();
    // K(θ) − θT = −Σ n KL(tilted ‖ plain) − θ (T − mean under the tilt); the last term is rounding only.
    let divergence: f64 = tilted.iter().map(|group| group.positions * group.divergence).sum();
    let rest = wide(sum) - tilted.iter().map(|group| group.positions * group.mean).sum::<f64>();
    // Those that vanish first are looked at first.
    tilted.sort_by(|a, b| (b.positions * b.variance).total_cmp(&(a.positions * a.variance)));
    -divergence - theta * rest + expectation(&tilted, total(groups), sum, theta).unwrap_or(bound).ln()
}

/// ln p of the greatest value, from whichever of p and 1 − p is small.
fn ln_of_last(atoms: &[Atom]) -> f64 {
    match atoms {
        [others @ .., last] if last.p > 0.5 => (-others.iter().map(|atom| atom.p).sum::<f64>()).ln_1p(),
        [.., last] => last.p.ln(),
        [] => 0.0,
    }
}

/// One class under the tilted measure.
#[derive(Clone, Debug)]
struct Tilted {
    positions: f64,
    /// Distance of each value from `centre`, and its share.
    atoms: Vec<(i64, f64)>,
    centre: u64,
    whole_positions: u64,
    most: u64,
    mean: f64,
    variance: f64,
    /// KL(tilted ‖ plain).
    divergence: f64,
}

impl Tilted {
    fn of(group: &Group, theta: f64) -> Self {
        let (shares, mean, variance) = shares(group, theta);
        #[expect(clippy::as_conversions, reason = "a mean of steps that are whole numbers below 2^36")]
        let centre = mean.round() as u64;
        let from_centre =
            |step: u64| i64::try_from(step).unwrap_or(i64::MAX) - i64::try_from(centre).unwrap_or(0);
        Self {
            positions: group.positions(),
            atoms: group.atoms.iter().zip(&shares).map(|(atom, q)| (from_centre(atom.step), *q)).collect(),
            centre,
            whole_positions: u64::from(group.positions),
            most: group.most(),
            mean,
            variance,
            divergence: divergence(group, theta, mean),
        }
    }
}

/// Shares, mean and variance of a class tilted by θ.
fn shares(group: &Group, theta: f64) -> (Vec<f64>, f64, f64) {
    let most = wide(group.most());
    // Relative to the greatest value: nothing overflows.
    let mut shares: Vec<f64> =
        group.atoms.iter().map(|atom| atom.p * (theta * (wide(atom.step) - most)).exp()).collect();
    let norm: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= norm);
    let mean: f64 = group.atoms.iter().zip(&shares).map(|(atom, q)| wide(atom.step) * q).sum();
    let variance =
        group.atoms.iter().zip(&shares).map(|(atom, q)| q * (wide(atom.step) - mean).powi(2)).sum();
    (shares, mean, variance)
}

/// −ln Σ p e^{θ(s − mean)} ≥ 0: where all exponents are small, from differences that do not cancel.
fn divergence(group: &Group, theta: f64, mean: f64) -> f64 {
    let exponents = || group.atoms.iter().map(|atom| (atom.p, theta * (wide(atom.step) - mean)));
    let largest = exponents().map(|(_, x)| x.abs()).fold(0.0, f64::max);
    if largest < 1.0 {
        return -exponents().map(|(p, x)| p * x.exp_m1()).sum::<f64>().ln_1p();
    }
    let top = exponents().map(|(_, x)| x).fold(f64::NEG_INFINITY, f64::max);
    -(top + exponents().map(|(p, x)| p * (x - top).exp()).sum::<f64>().ln())
}

/// θ ≥ 0 at which the mean of W is `sum`: Newton's method kept inside a bracket. Any θ gives the exact tail; a good one
/// keeps its digits.
fn tilt(groups: &[Group], sum: f64) -> f64 {
    let at = |theta: f64| {
        groups.iter().fold((-sum, 0.0), |(excess, spread), group| {
            let (_, mean, variance) = shares(group, theta);
            (excess + group.positions() * mean, spread + group.positions() * variance)
        })
    };
    // e^{64}: more than 2³² positions ever need whose rarest value has one word of 2³², even in single steps.
    let (mut low, mut high) = (0.0, 64.0);
    let mut theta = 0.0;
    for _ in 0..200 {
        let (excess, variance) = at(theta);
        if excess < 0.0 {
            low = theta;
        } else {
            high = theta;
        }
        if excess.abs() <= 1e-14 * sum || high - low < 1e-15 * high {
            break;
        }
        let newton = theta - excess / variance;
        theta = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
    }
    theta
}

/// E_θ[e^{−θ(W − sum)}; W ≥ sum] by a finite Fourier sum; `None` if rounding left nothing of it.
fn expectation(tilted: &[Tilted], all: u64, sum: u64, theta: f64) -> Option<f64> {
    /// ln of what may be left outside the window.
    const LEFT: f64 = 46.0;
    let range = tilted.iter().map(|group| group.most).max().map_or(1.0, wide);
    let variance: f64 = tilted.iter().map(|group| group.positions * group.variance).sum();
    // Bernstein: P[|W − mean| ≥ d] ≤ 2 exp(−d²/2 / (variance + range·d/3)).
    let linear = range * LEFT / 3.0;
    let reach = (linear + (linear * linear + 2.0 * LEFT * variance).sqrt()).ceil() + 1.0;
    #[expect(clippy::as_conversions, reason = "positive, and far below 2^53")]
    let reach = reach as u64;
    let (from, to) = (sum.saturating_sub(reach), sum.saturating_add(reach).min(all));
    let (length, above) = (to - from + 1, to - sum + 1);

    // cos and sin of 2πm/N; angles are reduced as whole numbers, so none loses digits.
    let circle: Vec<(f64, f64)> =
        (0..length).map(|m| (TAU * wide(m) / wide(length)).sin_cos()).map(|(s, c)| (c, s)).collect();
    let on_circle = |steps: u64| circle[usize::try_from(steps % length).unwrap_or(0)];
    // Values by their places on the circle: multiplied by k and reduced, that is the angle.
    let around = |steps: i64| {
        let rest = steps.unsigned_abs() % length;
        if steps < 0 && rest > 0 { length - rest } else { rest }
    };
    let groups: Vec<(f64, Vec<(u64, f64)>)> = tilted
        .iter()
        .map(|group| (group.positions, group.atoms.iter().map(|(step, q)| (around(*step), *q)).collect()))
        .collect();
    let centre = tilted.iter().fold(0_u64, |at, group| {
        let product = u128::from(group.centre) * u128::from(group.whole_positions) % u128::from(length);
        (at + u64::try_from(product).unwrap_or(0)) % length
    });
    // Σ n·centre − sum, on the circle.
    let turn = (centre + length - sum % length) % length;
    let (decay, decay_all) = (-theta, -theta * wide(above));

    // P(sum + d) = (1/N) Σₖ φ(tₖ) e^{−itₖ(sum + d)}; the geometric sum over d is closed. Terms k and N − k
    // are conjugate.
    let mut result = geometric_at_zero(decay, decay_all, wide(above));
    for k in 1..=length / 2 {
        let Some((modulus, phase)) = characteristic(&groups, k, length, &circle) else { continue };
        let turned = u64::try_from(u128::from(k) * u128::from(turn) % u128::from(length)).unwrap_or(0);
        let (sin, cos) = (phase + TAU * wide(turned) / wide(length)).sin_cos();
        // (1 − z^above) / (1 − z), z = e^{−θ − it}.
        let numerator = one_minus(decay_all, on_circle(k * (above % length)));
        let denominator = one_minus(decay, on_circle(k));
        let square = denominator.0 * denominator.0 + denominator.1 * denominator.1;
        let real = (numerator.0 * denominator.0 + numerator.1 * denominator.1) / square;
        let imaginary = (numerator.1 * denominator.0 - numerator.0 * denominator.1) / square;
        let twice = if 2 * k == length { 1.0 } else { 2.0 };
        result += twice * modulus * (cos * real - sin * imaginary);
    }
    let expectation = result / wide(length);
    (expectation > 0.0).then_some(expectation.min(1.0))
}

/// 1 − cos from whichever of cos and sin keeps its digits.
fn versine((cos, sin): (f64, f64)) -> f64 {
    if cos > 0.5 { sin * sin / (1.0 + cos) } else { 1.0 - cos }
}

/// 1 − e^{log_r − iα} for (cos α, sin α), without cancellation near 1: real and imaginary part.
fn one_minus(log_r: f64, angle: (f64, f64)) -> (f64, f64) {
    let r = log_r.exp();
    (r * versine(angle) - log_r.exp_m1(), r * angle.1)
}

/// Σ_{d < above} e^{−θd}.
fn geometric_at_zero(decay: f64, decay_all: f64, above: f64) -> f64 {
    if decay == 0.0 { above } else { decay_all.exp_m1() / decay.exp_m1() }
}

/// |φ| and arg φ of the centred sum at 2πk/N, or `None` where |φ| < e^{−80} adds nothing.
fn characteristic(
    groups: &[(f64, Vec<(u64, f64)>)],
    k: u64,
    length: u64,
    circle: &[(f64, f64)],
) -> Option<(f64, f64)> {
    let (mut ln_modulus, mut phase) = (0.0, 0.0);
    for (positions, atoms) in groups {
        let (mut versines, mut sines) = (0.0, 0.0);
        for (place, q) in atoms {
            let angle = circle[usize::try_from(k * place % length).unwrap_or(0)];
            versines += q * versine(angle);
            sines += q * angle.1;
        }
        // |φ|² = (1 − V)² + S², near 1 from what it lacks. Far from 1 that would leave √ε of a φ that vanishes, which
        // one position alone would carry into the sum.
        let real = 1.0 - versines;
        let ln_square = if versines < 0.25 {
            (versines * versines - 2.0 * versines + sines * sines).ln_1p()
        } else {
            (real * real + sines * sines).ln()
        };
        ln_modulus += 0.5 * positions * ln_square;
        if ln_modulus < -80.0 {
            return None;
        }
        phase += positions * sines.atan2(real);
    }
    Some((ln_modulus.exp(), phase))
}

/// The least score of `scored` positions whose tail is `enough`; `None` if not even the greatest is. The tail falls as
/// the score rises.
pub(crate) fn least_score(null: &Null, scored: u32, enough: impl Fn(Log10P) -> bool) -> Option<f64> {
    let n = f64::from(scored);
    let reaches = |score: f64| enough(upper_tail_of(null, scored, score));
    let (mut low, mut high) = match null {
        Null::Counted(law) => {
            (n * law.points().first().map_or(0.0, |point| f64::from(point.score)), n * null.most())
        }
        Null::Exponential => (0.0, n * null.most()),
    };
    if !reaches(high) {
        return None;
    }
    if null.is_counted() {
        while high - low >= 1.0 {
            let middle = ((low + high) / 2.0).floor();
            if reaches(middle) {
                high = middle;
            } else {
                low = middle + 1.0;
            }
        }
        return Some(high);
    }
    while high - low > 1e-9 * high {
        let middle = 0.5 * (low + high);
        if reaches(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// ln of the likelihood ratio of one score s, mark to no mark: `slope`·s + `intercept`, the law tilted so that its mean
/// is a given one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Likelihood {
    slope: f64,
    intercept: f64,
}

impl Likelihood {
    /// Of a rate estimated from `scored` positions with `score` together; kept above what no mark gives, so that a high
    /// score speaks for the mark.
    pub(crate) fn estimated(null: &Null, scored: u32, score: f64) -> Self {
        let (n, mean) = (f64::from(scored), null.mean());
        match null {
            Null::Counted(law) => {
                let (least, most) = match law.points() {
                    [first, .., last] => (f64::from(first.score), f64::from(last.score)),
                    _ => return Self { slope: 0.0, intercept: 0.0 },
                };
                let rate = (score + 0.5 * (least + most)) / (n + 1.0);
                Self::tilted(law, rate.max(mean + 0.01 * (most - mean)))
            }
            Null::Exponential => {
                let rate = ((score + 1.0) / (n + 1.0)).max(1.01);
                Self { slope: 1.0 - 1.0 / rate, intercept: -rate.ln() }
            }
        }
    }

    fn tilted(law: &Law, mean: f64) -> Self {
        if let [low, high] = law.points() {
            let (a, b) = (f64::from(low.score), f64::from(high.score));
            let rate = (mean - a) / (b - a);
            let (hit, miss) = ((rate / high.probability()).ln(), ((1.0 - rate) / low.probability()).ln());
            let slope = (hit - miss) / (b - a);
            return Self { slope, intercept: miss - slope * a };
        }
        let (groups, _) = lattice(&[(law, 1, 1)], 0);
        let least = law.points().first().map_or(0.0, |point| f64::from(point.score));
        let divisor = match (groups.first().map(Group::most), law.most()) {
            (Some(steps), most) if steps > 0 => (f64::from(most) - least) / wide(steps),
            _ => 1.0,
        };
        let target = (mean - least) / divisor;
        let theta = tilt(&groups, target);
        let ln_norm = groups.first().map_or(0.0, |group| {
            let (_, tilted_mean, _) = shares(group, theta);
            theta * tilted_mean - divergence(group, theta, tilted_mean)
        });
        let slope = theta / divisor;
        Self { slope, intercept: -ln_norm - slope * least }
    }

    pub(crate) fn of(self, score: f64) -> f64 {
        self.slope.mul_add(score, self.intercept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dandyroll_scheme::{Point, WORDS};
    use proptest::prelude::*;

    /// P[W ≥ sum] by adding one position at a time in the tilted measure: positive terms only, so every digit counts.
    fn ln_by_adding(groups: &[Group], sum: u64) -> f64 {
        let all = total(groups);
        if sum == 0 {
            return 0.0;
        }
        let mean: f64 = groups.iter().map(|group| group.positions() * group.mean()).sum();
        if wide(sum) <= mean {
            let mirrored: Vec<Group> = groups.iter().map(Group::mirrored).collect();
            return (-ln_by_adding(&mirrored, all - sum + 1).exp()).ln_1p();
        }
        // The greatest sum is the mean of no tilt; half a step below it is.
        let theta = tilt(groups, wide(sum) - if sum == all { 0.5 } else { 0.0 });
        let (mut masses, mut ln_norm) = (vec![1.0], 0.0);
        for group in groups {
            let (shares, mean, _) = shares(group, theta);
            let norm = theta * mean - divergence(group, theta, mean);
            for _ in 0..group.positions {
                ln_norm += norm;
                let mut next = vec![0.0; masses.len() + usize::try_from(group.most()).unwrap()];
                for (atom, q) in group.atoms.iter().zip(&shares) {
                    let step = usize::try_from(atom.step).unwrap();
                    masses.iter().enumerate().for_each(|(s, mass)| next[s + step] += q * mass);
                }
                masses = next;
            }
        }
        let from = usize::try_from(sum).unwrap();
        let tail: f64 = (0_u32..).zip(&masses[from..]).map(|(d, m)| m * (-theta * f64::from(d)).exp()).sum();
        ln_norm - theta * wide(sum) + tail.ln()
    }

    fn close(found: f64, expected: f64, tolerance: f64) -> bool {
        // Relative in p; where p is near 1, relative in 1 − p.
        (found - expected).abs() <= tolerance * expected.abs().clamp(1e-300, 1.0)
            || (found - expected).abs() <= tolerance && expected < -0.3
    }

    fn hits(share: f64) -> Law {
        #[expect(clippy::as_conversions, reason = "a share of 2^32 words")]
        let threshold = (share * 4_294_967_296.0) as u32;
        Law::below(threshold)
    }

    #[test]
    fn two_classes_of_one_law_are_the_binomial_tail() {
        let mut worst = 0.0_f64;
        for p in [1e-6, 0.01, 0.25, 0.5, 0.9] {
            let law = hits(p);
            let p = law.mean();
            for (n, k) in
                [(1, 1), (10, 3), (200, 90), (1000, 250), (1000, 999), (5000, 2000), (100_000, 26_000)]
            {
                // So that the Fourier sum is used and not the shortcut.
                let (groups, sum) = lattice(&[(&law, 1, n / 2), (&law, 1, n - n / 2)], i64::from(k));
                let (found, expected) = (ln_upper_tail_of(&groups, sum), ln_upper_tail(n, k, p));
                worst = worst.max(((found - expected) / expected.abs().max(1e-300)).abs());
                assert!(close(found, expected, 1e-9), "n {n} k {k} p {p}: {found} for {expected}");
            }
        }
        println!("worst relative error of ln p against the binomial: {worst:e}");
    }

    #[test]
    fn fixed_weights_equal_adding_positions_one_by_one() {
        let mut worst = 0.0_f64;
        for p in [0.01, 0.25, 0.75] {
            let law = hits(p);
            for weights in [
                vec![(1, 400), (16, 300)],
                vec![(15, 200), (16, 200)],
                vec![(1, 1), (2, 900)],
                (1..=16).map(|weight| (weight, 20)).collect(),
            ] {
                let classes: Vec<_> = weights.iter().map(|(weight, n)| (&law, *weight, *n)).collect();
                let (groups, _) = lattice(&classes, 0);
                let all = total(&groups);
                for sum in [1, all / 10, all / 4, all / 3, all / 2, all * 9 / 10, all - 1, all] {
                    let expected = ln_by_adding(&groups, sum);
                    if expected > -1e-300 {
                        continue;
                    }
                    let found = ln_upper_tail_of(&groups, sum);
                    assert!(close(found, expected, 1e-9), "{weights:?} {sum} {p}: {found} for {expected}");
                    // At the ends the tail is a closed form and the reference the one that loses digits.
                    if sum > 1 && sum < all {
                        worst = worst.max((found - expected).abs() / expected.abs());
                    }
                }
            }
        }
        println!("worst relative error of ln p against adding positions: {worst:e}");
    }

    /// Half of one class hits under the tilt, and a point of the Fourier sum where its φ is 0: once NaN, and a p of
    /// 10⁻³⁰⁷ too little.
    #[test]
    fn a_vanishing_characteristic_function_is_no_evidence() {
        let law = hits(0.000_359_748_965_281_562_43);
        let classes = [(6, 23), (5, 5), (4, 22), (13, 26), (1, 26)].map(|(weight, n)| (&law, weight, n));
        let (groups, sum) = lattice(&classes, 602);
        let (found, expected) = (ln_upper_tail_of(&groups, sum), ln_by_adding(&groups, sum));
        assert!(close(found, expected, 1e-9), "{found} for {expected}");
    }

    #[test]
    fn a_hundred_thousand_positions_of_all_weights() {
        let scored: PerWeight = std::array::from_fn(|w| if w == 0 { 0 } else { 6250 });
        let hit: PerWeight = std::array::from_fn(|w| if w == 0 { 0 } else { 1700 });
        let start = std::time::Instant::now();
        let p = weighted_upper_tail(&Null::Counted(hits(0.25)), &scored, wide(moments(&hit).0)).get();
        println!("log10 p {p}, {:?}", start.elapsed());
        // From convolving the sixteen tilted binomials in Python. The normal tail at z = 14.1 would be
        // 10^−44.8.
        assert!((p + 43.962_940_324_001).abs() < 1e-10, "{p}");
    }

    /// 30 bits of a word, n times, are 30 n fair coins.
    #[test]
    fn a_law_of_many_scores_is_the_binomial_that_it_stands_for() {
        let mut choose = 1_u64;
        let points = (0_u32..=30).map(|j| {
            let words = choose * 4;
            choose = choose * u64::from(30 - j) / u64::from(j + 1);
            Point { score: i32::try_from(j).unwrap(), words }
        });
        let bits = Law::new(points.collect()).unwrap();
        for (n, score) in [(1, 20), (40, 700), (200, 3300), (200, 2900), (1000, 16_000)] {
            let found = upper_tail_of(&Null::Counted(bits.clone()), n, f64::from(score));
            let expected = Log10P::from_ln(ln_upper_tail(30 * n, score, 0.5));
            assert!(
                ((found.get() - expected.get()) / expected.get()).abs() < 1e-11,
                "{n} {score}: {found:?} {expected:?}"
            );
        }
    }

    /// Two scores that are not 0 and 1: the binomial's way and the lattice's, whose Fourier sum two classes use. From below
    /// what 30 positions can score to above it.
    #[test]
    fn two_scores_need_no_lattice() {
        let points =
            vec![Point { score: -3, words: WORDS - 7_u64.pow(11) }, Point { score: 4, words: 7_u64.pow(11) }];
        let law = Law::new(points).unwrap();
        for score in -95..=125 {
            let found = upper_tail_of(&Null::Counted(law.clone()), 30, f64::from(score)).get();
            let expected = upper_tail_of_classes(&[(&law, 1, 14), (&law, 1, 16)], i64::from(score)).get();
            assert!(close(found, expected, 1e-9), "{score}: {found} for {expected}");
        }
        let p = |score| upper_tail_of(&Null::Counted(law.clone()), 30, score).get();
        assert!(p(-90.0) == 0.0 && p(-89.0) < 0.0 && p(-88.5).to_bits() == p(-83.0).to_bits());
    }

    #[test]
    fn the_least_score_is_where_the_tail_is_enough() {
        for null in [Null::Counted(hits(0.25)), Null::Exponential] {
            let alpha = Log10P::of(1e-5).unwrap();
            let least = least_score(&null, 200, |p| p <= alpha).unwrap();
            let below = if null.is_counted() { least - 1.0 } else { least * (1.0 - 1e-6) };
            assert!(upper_tail_of(&null, 200, least) <= alpha && upper_tail_of(&null, 200, below) > alpha);
        }
        assert_eq!(least_score(&Null::Counted(hits(0.25)), 5, |p| p <= Log10P::of(1e-5).unwrap()), None);
    }

    #[test]
    fn likelihood_ratios_are_those_of_the_tilted_law() {
        // Three fair values: tilted to a mean of 2.5 (of 0, 2, 4), by solving Σ (s − 2.5) e^{θs} = 0.
        let third = WORDS / 3;
        let law = Law::new(vec![
            Point { score: 0, words: third },
            Point { score: 2, words: third },
            Point { score: 4, words: WORDS - 2 * third },
        ]);
        let found = Likelihood::tilted(&law.unwrap(), 2.5);
        let theta = found.slope;
        let mean = |t: f64| {
            (2.0 * (2.0 * t).exp() + 4.0 * (4.0 * t).exp()) / (1.0 + (2.0 * t).exp() + (4.0 * t).exp())
        };
        assert!((mean(theta) - 2.5).abs() < 1e-6, "{found:?}");
        let norm = ((1.0 + (2.0 * theta).exp() + (4.0 * theta).exp()) / 3.0).ln();
        assert!((found.intercept + norm).abs() < 1e-6, "{found:?}");
        // A list: ln(rate / share) and ln((1 − rate) / (1 − share)).
        let list = Likelihood::tilted(&hits(0.25), 0.6);
        assert!(
            (list.of(1.0) - 2.4_f64.ln()).abs() < 1e-12
                && (list.of(0.0) - (0.4_f64 / 0.75).ln()).abs() < 1e-12
        );
    }

    /// A law of up to five scores.
    fn laws() -> impl Strategy<Value = Law> {
        let points = proptest::collection::vec((1_i32..9, 1_u64..(1 << 30)), 1..5);
        (points, -6_i32..6).prop_map(|(points, start)| {
            let mut score = start;
            let mut points: Vec<Point> = points
                .into_iter()
                .map(|(gap, words)| {
                    score += gap;
                    Point { score, words: words.div_ceil(5) }
                })
                .collect();
            let rest = WORDS - points.iter().map(|point| point.words).sum::<u64>();
            points.push(Point { score: score + 1, words: rest });
            Law::new(points).unwrap()
        })
    }

    proptest! {
        #[test]
        fn any_laws_equal_adding_positions_one_by_one_and_tails_fall(
            classes in proptest::collection::vec((laws(), 1_u8..=4, 1_u32..25), 1..6),
            share in 0.0..=1.0_f64,
        ) {
            let classes: Vec<(&Law, u8, u32)> = classes.iter().map(|(law, w, n)| (law, *w, *n)).collect();
            let (groups, _) = lattice(&classes, 0);
            #[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a whole number")]
            let sum = (wide(total(&groups)) * share) as u64;
            let (found, expected) = (ln_upper_tail_of(&groups, sum), ln_by_adding(&groups, sum));
            // Sums between values that can be made have the tail of the next one that can.
            prop_assert!(close(found, expected, 1e-9), "{classes:?} {sum}: {found} for {expected}");
            let next = ln_upper_tail_of(&groups, sum + 1);
            prop_assert!(next <= found + 1e-9 * found.abs(), "{next} after {found}");
        }

        #[test]
        fn weights_equal_adding_positions_one_by_one(
            weights in proptest::collection::vec((1_u8..=16, 1_u32..30), 2..6),
            share in 0.0..=1.0_f64,
            p in prop_oneof![1e-6..1e-3, 0.01..0.99_f64],
        ) {
            let law = hits(p);
            let classes: Vec<_> = weights.iter().map(|(weight, n)| (&law, *weight, *n)).collect();
            let (groups, _) = lattice(&classes, 0);
            // A sum that positions can make: the first `count` of them hit.
            let mut count = groups.iter().map(Group::positions).sum::<f64>() * share;
            let mut sum = 0;
            for group in &groups {
                for _ in 0..group.positions {
                    if count >= 1.0 {
                        count -= 1.0;
                        sum += group.most();
                    }
                }
            }
            let (found, expected) = (ln_upper_tail_of(&groups, sum), ln_by_adding(&groups, sum));
            prop_assert!(close(found, expected, 1e-9), "{weights:?} {sum} {p}: {found} for {expected}");
        }
    }
}
