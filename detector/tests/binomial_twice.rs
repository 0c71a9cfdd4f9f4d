//! The binomial tail a second time, by another way: masses by recurrence in log space, summed from both ends.
//!
//! Nothing is shared with `src/binomial.rs`: ln m(0) = n ln q, ln m(k + 1) = ln m(k) + ln((n − k)/(k + 1) · p/q) with
//! Neumaier's (1974) compensated sum, then ln Σ exp from the top for P[X ≥ k] and from the bottom for P[X < k]. All
//! k of one n cost n logarithms and 2n exponentials.
//!
//! Bounds: relative difference of log₁₀ p at most 10⁻⁹; where p is not below 10⁻³⁰⁰, of p too.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use dandyroll_detector::upper_tail;
use dandyroll_scheme::schemes::green_list::Gamma;

/// ln P[Bin(n, p) ≥ k] for k = 0 … n.
fn ln_tails(n: u32, gamma: Gamma) -> Vec<f64> {
    let p = gamma.effective();
    let ln_odds = p.ln() - (-p).ln_1p();
    let (mut sum, mut lost) = (f64::from(n) * (-p).ln_1p(), 0.0);
    let mut masses = vec![sum];
    for k in 0..n {
        let step = (f64::from(n - k) / (f64::from(k) + 1.0)).ln() + ln_odds;
        let next = sum + step;
        lost += if f64::abs(sum) >= f64::abs(step) { (sum - next) + step } else { (step - next) + sum };
        sum = next;
        masses.push(sum + lost);
    }
    // ln(eᵃ + eᵇ).
    let plus = |a: f64, b: f64| a.max(b) + (-(a - b).abs()).exp().ln_1p();
    let mut tails = masses.clone();
    for k in (0..tails.len() - 1).rev() {
        tails[k] = plus(tails[k], tails[k + 1]);
    }
    // At or below the mean 1 − P[X < k] keeps the digits of 1 − p.
    let mut below = f64::NEG_INFINITY;
    for (k, mass) in (0..=n).zip(&masses) {
        if f64::from(k) > f64::from(n) * p {
            break;
        }
        tails[usize::try_from(k).unwrap()] = if k == 0 { 0.0 } else { (-below.exp()).ln_1p() };
        below = if k == 0 { *mass } else { plus(below, *mass) };
    }
    tails
}

/// Cases compared, and the worst differences.
#[derive(Default)]
struct Agreement {
    cases: u64,
    of_log: f64,
    of_p: f64,
}

impl Agreement {
    fn compare(&mut self, n: u32, k: u32, gamma: Gamma, second: f64) {
        let first = upper_tail(n, k, gamma.effective()).unwrap().get();
        let second = second * std::f64::consts::LOG10_E;
        self.cases += 1;
        // p so near 1 that its logarithm is no normal number.
        if first.abs() < 1e-300 && second.abs() < 1e-300 {
            return;
        }
        let of_log = ((first - second) / second).abs();
        let of_p =
            if second > -300.0 { ((first - second) * std::f64::consts::LN_10).exp_m1().abs() } else { 0.0 };
        let case = format!("n {n} k {k} gamma {}: {first} and {second}", gamma.get());
        assert!(of_log <= 1e-9 && of_p <= 1e-9, "{case}: {of_log:e} of log p, {of_p:e} of p");
        (self.of_log, self.of_p) = (self.of_log.max(of_log), self.of_p.max(of_p));
    }

    /// Every k, and that p falls with k.
    fn all(&mut self, n: u32, gamma: Gamma) {
        let mut before = 0.0;
        for (k, second) in (0..=n).zip(ln_tails(n, gamma)) {
            self.compare(n, k, gamma, second);
            let here = upper_tail(n, k, gamma.effective()).unwrap().get();
            assert!(here <= before + 1e-12 * f64::abs(before), "n {n} k {k}: {here} after {before}");
            before = here;
        }
    }

    fn print(&self, what: &str, start: std::time::Instant) {
        let Self { cases, of_log, of_p } = self;
        println!("{what}: {cases} cases, worst {of_log:e} of log p, {of_p:e} of p, {:?}", start.elapsed());
    }
}

fn gammas() -> [Gamma; 5] {
    [0.25, 0.5, 0.1, 0.75, 0.99].map(|gamma| Gamma::new(gamma).unwrap())
}

#[test]
fn all_counts_of_every_short_text() {
    let (start, mut agreement) = (std::time::Instant::now(), Agreement::default());
    for gamma in gammas() {
        (1..=256).for_each(|n| agreement.all(n, gamma));
    }
    agreement.print("n = 1 to 256, all k, five gammas", start);
}

#[test]
fn all_counts_of_some_long_texts() {
    let (start, mut agreement) = (std::time::Instant::now(), Agreement::default());
    for gamma in gammas() {
        [500, 1000, 2000, 5000, 10_000].into_iter().for_each(|n| agreement.all(n, gamma));
    }
    agreement.all(100_000, gammas()[0]);
    agreement.print("n = 500 to 10 000, all k, five gammas; n = 100 000, all k, gamma 1/4", start);
}

/// A 64-bit linear congruential generator (Knuth's MMIX constants), upper half: numbers in [0, 1).
struct Drawn(u64);

impl Drawn {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / 4_294_967_296.0
    }

    fn up_to(&mut self, most: u32) -> u32 {
        #[expect(clippy::as_conversions, reason = "floor of a number up to `most`, for a test")]
        let number = (self.unit() * (f64::from(most) + 1.0)) as u32;
        number
    }
}

/// 150 n drawn up to 100 000 with a γ each, 64 k each: half anywhere, half within eight deviations of the mean.
#[test]
fn drawn_counts_of_drawn_lengths() {
    let (start, mut agreement, mut drawn) = (std::time::Instant::now(), Agreement::default(), Drawn(4));
    for _ in 0..150 {
        let (n, gamma) = (1 + drawn.up_to(99_999), Gamma::new(1e-6 + 0.999 * drawn.unit()).unwrap());
        let tails = ln_tails(n, gamma);
        let (mean, deviation) = {
            let p = gamma.effective();
            (f64::from(n) * p, (f64::from(n) * p * (1.0 - p)).sqrt())
        };
        for draw in 0..64 {
            #[expect(clippy::as_conversions, reason = "a count near the mean, for a test")]
            let near = (mean + (16.0 * drawn.unit() - 8.0) * deviation).max(0.0) as u32;
            let k = if draw % 2 == 0 { drawn.up_to(n) } else { near.min(n) };
            agreement.compare(n, k, gamma, tails[usize::try_from(k).unwrap()]);
        }
    }
    agreement.print("150 n up to 100 000, 64 k each", start);
}

/// Run before a release: `cargo test -p dandyroll-detector --test binomial_twice -- --ignored --nocapture`.
#[test]
#[ignore = "minutes: five million tails"]
fn all_counts_of_lengths_up_to_a_hundred_thousand() {
    let (start, mut agreement) = (std::time::Instant::now(), Agreement::default());
    for n in (997..=100_000).step_by(997) {
        agreement.all(n, gammas()[0]);
    }
    agreement.print("n = 997, 1994, … 99 700, all k, gamma 1/4", start);
}
