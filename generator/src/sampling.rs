//! How the next token is chosen: checked parameters.

use dandyroll_scheme::OutOfRange;

/// The divisor of the logits before softmax: 0 (the largest logit wins) or 10⁻⁴ to 100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature(f64);

impl Temperature {
    /// Checks that the value is 0, or from 10⁻⁴ to 100.
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        if value == 0.0 || (1e-4..=100.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(OutOfRange { name: "temperature", value, allowed: "0 for greedy, or 0.0001 to 100" })
        }
    }

    /// The value.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Whether nothing is drawn: the token with the largest logit is taken, the lowest number on a tie.
    pub fn is_greedy(self) -> bool {
        self.0 == 0.0
    }
}

/// How many of the likeliest tokens may be drawn (top-k), at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK(u32);

impl TopK {
    /// Checks k ≥ 1.
    pub fn new(value: u32) -> Result<Self, OutOfRange> {
        if value >= 1 {
            Ok(Self(value))
        } else {
            Err(OutOfRange {
                name: "top_k",
                value: f64::from(value),
                allowed: "1 or more; leave it out for all",
            })
        }
    }

    /// k.
    pub fn get(self) -> u32 {
        self.0
    }

    /// k as a count.
    pub fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// The probability mass of the likeliest tokens that may be drawn (top-p, nucleus), in (0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopP(f64);

impl TopP {
    /// Checks p ∈ (0, 1]. 1 keeps every token.
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        if value > 0.0 && value <= 1.0 {
            Ok(Self(value))
        } else {
            Err(OutOfRange { name: "top_p", value, allowed: "above 0, up to 1" })
        }
    }

    /// p.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// By what the logits of tokens that already occurred are divided (multiplied where negative).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepetitionPenalty(f64);

impl RepetitionPenalty {
    /// Checks a penalty from 0.01 to 100. 1 changes nothing, more discourages, less encourages.
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        if (0.01..=100.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(OutOfRange { name: "repetition_penalty", value, allowed: "0.01 to 100; 1 changes nothing" })
        }
    }

    /// The value.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// How the next token is chosen from the (marked) logits.
///
/// The steps act in the order of the fields and mean what they mean in Hugging Face `transformers`
/// (`RepetitionPenaltyLogitsProcessor`, `TemperatureLogitsWarper`, `TopKLogitsWarper`,
/// `TopPLogitsWarper`):
/// 1. each distinct token that occurred has its logit x divided by the penalty if x > 0, else multiplied;
/// 2. logits are divided by the temperature;
/// 3. top-k keeps the tokens whose logit is at least the k-th largest (equals all stay);
/// 4. top-p keeps the fewest of those, likeliest first, whose probability is at least p together; on equal
///    probability the lowest number first; at least one;
/// 5. one is drawn: the first, in ascending order of number, whose running sum of probability exceeds the
///    next uniform of the seed. The uniforms are 53 bits each from a ChaCha8 keystream under the seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Over the prompt's tokens and the generated ones.
    pub repetition_penalty: Option<RepetitionPenalty>,
    /// 0 is greedy: then the fields below have no effect.
    pub temperature: Temperature,
    /// Top-k; `None` keeps all.
    pub top_k: Option<TopK>,
    /// Top-p, over what top-k left; `None` keeps all.
    pub top_p: Option<TopP>,
    /// The same seed and the same logits give the same tokens, on every machine.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token at every step.
    pub fn greedy() -> Self {
        Self { repetition_penalty: None, temperature: Temperature(0.0), top_k: None, top_p: None, seed: 0 }
    }

    /// Whether the likeliest token is always taken (of equals at top-k 1 one is drawn), so that a mark which chooses
    /// among several has nothing to choose from.
    pub fn takes_likeliest(&self) -> bool {
        self.temperature.is_greedy() || self.top_k.is_some_and(|k| k.get() == 1)
    }

    /// Draws from the softmax at temperature 1, unfiltered.
    pub fn plain(seed: u64) -> Self {
        Self { temperature: Temperature(1.0), seed, ..Self::greedy() }
    }

    /// Checks raw numbers, naming the first that is out of range.
    pub fn new(
        temperature: f64,
        top_k: Option<u32>,
        top_p: Option<f64>,
        repetition_penalty: Option<f64>,
        seed: u64,
    ) -> Result<Self, OutOfRange> {
        Ok(Self {
            repetition_penalty: repetition_penalty.map(RepetitionPenalty::new).transpose()?,
            temperature: Temperature::new(temperature)?,
            top_k: top_k.map(TopK::new).transpose()?,
            top_p: top_p.map(TopP::new).transpose()?,
            seed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_refused_by_name() {
        let name = |sampling: Result<Sampling, OutOfRange>| sampling.unwrap_err().name;
        for bad in [-1.0, 1e-9, 101.0, f64::NAN, f64::INFINITY] {
            assert_eq!(name(Sampling::new(bad, None, None, None, 0)), "temperature");
        }
        assert_eq!(name(Sampling::new(1.0, Some(0), None, None, 0)), "top_k");
        for bad in [0.0, 1.000_1, f64::NAN, -0.5] {
            assert_eq!(name(Sampling::new(1.0, None, Some(bad), None, 0)), "top_p");
        }
        for bad in [0.0, -1.0, f64::NAN, 1e3] {
            assert_eq!(name(Sampling::new(1.0, None, None, Some(bad), 0)), "repetition_penalty");
        }
        assert!(Sampling::new(0.0, Some(1), Some(1.0), Some(1.2), u64::MAX).unwrap().temperature.is_greedy());
    }
}
