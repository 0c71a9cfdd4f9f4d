//! The binomial tail against 30-digit values and against `statrs`.
//!
//! `make_binomial_tail.py` writes the values. Bounds: relative error of log₁₀ p at most 10⁻¹² or of p at most
//! 10⁻¹¹, whichever is the kinder (the first where p is tiny, the second where it is moderate); where p is
//! near 1, log₁₀ p ≈ −(1 − p)/ln 10, so the same bounds there speak of 1 − p.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use dandyroll_detector::upper_tail;
use dandyroll_scheme::schemes::green_list::Gamma;

struct Row {
    n: u32,
    k: u32,
    gamma: Gamma,
    log10_p: f64,
}

fn rows() -> Vec<Row> {
    include_str!("binomial_tail.jsonl")
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let number = |name: &str| u32::try_from(row[name].as_u64().unwrap()).unwrap();
            let gamma = Gamma::new(f64::from(number("threshold")) / 4_294_967_296.0)
                .or_else(|_| Gamma::new(1e-6))
                .unwrap();
            assert_eq!(gamma.threshold(), number("threshold"));
            Row {
                n: number("n"),
                k: number("k"),
                gamma,
                log10_p: row["log10_p"].as_str().unwrap().parse().unwrap(),
            }
        })
        .collect()
}

/// Relative error of log₁₀ p, and of p or 1 − p, whichever is the smaller probability.
fn errors(found: f64, expected: f64) -> (f64, f64) {
    if found.to_bits() == expected.to_bits() || (expected == 0.0 && found == 0.0) {
        return (0.0, 0.0);
    }
    let of_log = ((found - expected) / expected).abs();
    let of_p =
        if expected < -0.3 { ((found - expected) * std::f64::consts::LN_10).exp_m1().abs() } else { of_log };
    (of_log, of_p)
}

#[test]
fn equals_thirty_digit_values() {
    let rows = rows();
    assert!(rows.len() > 700, "{}", rows.len());
    let (mut worst_small, mut worst_huge) = ((0.0, 0, 0), (0.0, 0, 0));
    for Row { n, k, gamma, log10_p } in rows {
        let found = upper_tail(n, k, gamma.effective()).unwrap().get();
        let (of_log, of_p) = errors(found, log10_p);
        let worst = if n <= 1_000_000 { &mut worst_small } else { &mut worst_huge };
        if of_log > worst.0 {
            *worst = (of_log, n, k);
        }
        let bound = if n <= 1_000_000 { (1e-12, 1e-11) } else { (1e-10, 1e-10) };
        assert!(
            of_log <= bound.0 || of_p <= bound.1,
            "n {n} k {k} gamma {}: {found} for {log10_p}, relative {of_log:e} in log p, {of_p:e} in p",
            gamma.get()
        );
    }
    println!("worst relative error of log10 p: {worst_small:?} up to n = 1e6, {worst_huge:?} above");
}

/// Two independent codes agree where the incomplete beta fraction converges and nothing underflows.
#[test]
fn agrees_with_statrs_where_statrs_is_good() {
    let (mut worst_small, mut worst_large, mut underflown, mut compared) = (0.0_f64, 0.0_f64, 0, 0);
    for Row { n, k, gamma, log10_p } in rows().into_iter().filter(|row| row.k > 0) {
        let (a, b) = (f64::from(k), f64::from(n - k) + 1.0);
        let beta = statrs::function::beta::checked_beta_reg(a, b, gamma.effective()).unwrap();
        if beta == 0.0 {
            underflown += 1;
            continue;
        }
        compared += 1;
        let p_error = (beta / 10_f64.powf(log10_p) - 1.0).abs();
        if n <= 1000 && log10_p > -250.0 {
            worst_small = worst_small.max(p_error);
        } else {
            worst_large = worst_large.max(p_error);
        }
    }
    println!("statrs, relative error of p: {worst_small:e} for n <= 1000 and p > 1e-250,");
    println!("{worst_large:e} elsewhere; {underflown} of {} underflow", compared + underflown);
    assert!(worst_small < 1e-9, "{worst_small:e}");
}
