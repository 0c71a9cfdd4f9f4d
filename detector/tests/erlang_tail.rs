//! The tail of a sum of exponentials against 30-digit values: log₁₀ P[E₁ + … + Eₙ ≥ x].
//!
//! `make_erlang_tail.py` writes the values: 621 of them for 17 n from 1 to 2000, each at some 37 x from n/10⁶ to 1000 n
//! (37 standard deviations below the mean to 100 above it, and x's neighbours of n among them), 32 for n from 10⁴ to
//! 10⁷. Bound: relative error of log₁₀ p at most 10⁻¹¹ (found: 2·10⁻¹³); where p is near 1, log₁₀ p ≈ −(1 − p)/ln 10, so
//! the same bound there speaks of 1 − p. Nothing is drawn.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use dandyroll_detector::upper_tail_of;
use dandyroll_scheme::Null;

struct Row {
    n: u32,
    x: f64,
    log10_p: f64,
}

fn rows() -> Vec<Row> {
    include_str!("erlang_tail.jsonl")
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let number = |name: &str| row[name].as_str().unwrap().parse().unwrap();
            Row {
                n: u32::try_from(row["n"].as_u64().unwrap()).unwrap(),
                x: number("x"),
                log10_p: number("log10_p"),
            }
        })
        .collect()
}

/// Relative error of log₁₀ p; none where 1 − p is less than any normal number and is found so.
fn error(found: f64, expected: f64) -> f64 {
    if expected.abs() < f64::MIN_POSITIVE && found.abs() < f64::MIN_POSITIVE {
        return 0.0;
    }
    ((found - expected) / expected).abs()
}

#[test]
fn equals_thirty_digit_values() {
    let rows = rows();
    assert_eq!(rows.len(), 653);
    // n up to 2000, and above.
    let mut worst = [(0.0, 0, 0.0); 2];
    for Row { n, x, log10_p } in rows {
        let found = upper_tail_of(&Null::Exponential, n, x).get();
        let of_log = error(found, log10_p);
        let worst = &mut worst[usize::from(n > 2000)];
        if of_log > worst.0 {
            *worst = (of_log, n, x);
        }
        assert!(of_log <= 1e-11, "n {n} x {x}: {found} for {log10_p}, relative {of_log:e}");
    }
    println!("worst relative error of log10 p up to n = 2000, and above: {worst:?}");
}

/// The mean of n exponentials is n: half of the tail lies above, less the skew that falls with √n; and the tail falls as
/// x rises and rises with n. 2000 n, x = n and its neighbours, at which the two sums meet to 10⁻¹². Nothing is drawn.
#[test]
fn tails_fall_with_x_and_rise_with_n() {
    let p = |n: u32, x: f64| upper_tail_of(&Null::Exponential, n, x).get();
    for n in 1..=2000_u32 {
        let mean = f64::from(n);
        let at = p(n, mean);
        assert!((at - 0.5_f64.log10()).abs() < 0.14 / mean.sqrt(), "{n}: {at}");
        // Either side of the mean another sum is taken: they meet.
        assert!(p(n, mean.next_down()) >= at - 1e-12 && at >= p(n, mean.next_up()) - 1e-12, "{n}");
        assert!(p(n, 0.9 * mean) > at && at > p(n, 1.1 * mean) && p(n + 1, mean) > at, "{n}");
    }
}
