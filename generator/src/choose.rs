//! From (marked) logits to a token: penalty, temperature, top-k, top-p, then a mark's choice or a draw.

use dandyroll_scheme::softmax::maximum;
use dandyroll_scheme::{Candidates, History, Mark, Step, TokenId};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::Sampling;
use crate::softmax::weights;

/// The last 24 bytes of a sampler's ChaCha8 key; the first 8 are the seed, little-endian.
const SAMPLER: &[u8; 24] = b"dandyroll sampling v1\0\0\0";

/// Weights summed at a time while drawing.
const BLOCK: usize = 1024;

/// Chooses the tokens of one text.
///
/// With logits x, penalty r, temperature T:
/// 1. for each distinct token of prompt and text so far, x ← x/r if x > 0, else x·r;
/// 2. T = 0: the largest x wins, on a tie the lowest number. Otherwise weights w = e^((x − max x)/T);
/// 3. top-k keeps the tokens whose x is at least the k-th largest (all of equals, as `transformers` does);
/// 4. top-p keeps the fewest of those, heaviest first and on equal weight lowest number first, whose
///    weights make up at least p of their sum; at least one;
/// 5. a mark that acts here may take one of the tokens that are left; else, in ascending order of number, the first
///    whose running sum exceeds u times the total is taken, where u is the uniform of this position.
///
/// u is ⌊word / 2¹¹⌋·2⁻⁵³ for 64-bit word number i (low half first) of the ChaCha8 keystream whose key is the seed,
/// little-endian, and `"dandyroll sampling v1\0\0\0"`, where i tokens were chosen before: a word belongs to a position,
/// used or not, so that a step which a mark decides, or which was taken back, moves no other. All of it is IEEE
/// arithmetic in a fixed order: equal logits and seed give equal tokens on every machine.
#[derive(Debug)]
pub(crate) struct Chooser {
    sampling: Sampling,
    random: ChaCha8Rng,
    /// Tokens chosen.
    position: u64,
    /// Distinct tokens so far, for the penalty; empty without one.
    seen: Vec<TokenId>,
    seen_bits: Vec<u64>,
    weights: Vec<f32>,
    nucleus: Nucleus,
}

#[expect(clippy::as_conversions, reason = "rounding to the nearest f32 is meant")]
fn nearest(value: f64) -> f32 {
    value as f32
}

fn index(token: TokenId) -> usize {
    usize::try_from(token.0).unwrap_or(usize::MAX)
}

impl Chooser {
    pub(crate) fn new(sampling: Sampling, prompt: &[TokenId]) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&sampling.seed.to_le_bytes());
        key[8..].copy_from_slice(SAMPLER);
        let random = ChaCha8Rng::from_seed(key);
        let (seen, seen_bits) = (Vec::new(), Vec::new());
        let mut chooser = Self {
            sampling,
            random,
            position: 0,
            seen,
            seen_bits,
            weights: Vec::new(),
            nucleus: Nucleus::default(),
        };
        prompt.iter().for_each(|token| chooser.saw(*token));
        chooser
    }

    /// Remembers a token for the penalty.
    fn saw(&mut self, token: TokenId) {
        if self.sampling.repetition_penalty.is_none() {
            return;
        }
        let (word, bit) = (index(token) / 64, 1_u64 << (token.0 % 64));
        if self.seen_bits.len() <= word {
            self.seen_bits.resize(word + 1, 0);
        }
        if self.seen_bits[word] & bit == 0 {
            self.seen_bits[word] |= bit;
            self.seen.push(token);
        }
    }

    /// Chooses a token and remembers it. `logits` are used up. A mark that acts on the final distribution is asked here,
    /// and what it did is returned, too. `None` if no logit is finite, or one is NaN or +∞.
    pub(crate) fn choose(
        &mut self,
        logits: &mut [f32],
        mark: Option<(&Mark, &History)>,
    ) -> Option<(TokenId, Option<Step>)> {
        self.penalise(logits);
        let max = maximum(logits)?;
        let mark = mark.filter(|(mark, _)| !mark.is_raw());
        let (token, step) = if self.sampling.temperature.is_greedy() {
            (logits.iter().position(|x| *x >= max)?, mark.map(|_| Step::Greedy))
        } else {
            self.distribution(logits, max);
            let uniform = self.uniform();
            let candidates = self.candidates();
            let chosen = mark.and_then(|(mark, history)| mark.choose(history, &candidates));
            let (place, step) = chosen.map_or((None, None), |(place, step)| (place, Some(step)));
            let place = place.or_else(|| pick(candidates.weights, uniform))?;
            let token = match candidates.ids {
                None => place,
                Some(ids) => ids.get(place).and_then(|id| usize::try_from(*id).ok())?,
            };
            (token, step)
        };
        let token = TokenId(u32::try_from(token).ok()?);
        self.saw(token);
        self.position += 1;
        Some((token, step))
    }

    /// What penalty, temperature, top-k and top-p leave, from the last call of [`Chooser::distribution`].
    fn candidates(&self) -> Candidates<'_> {
        match self.cut() {
            None => Candidates { ids: None, weights: &self.weights },
            Some(_) => Candidates { ids: Some(&self.nucleus.ids), weights: &self.nucleus.weights },
        }
    }

    /// The uniform of this position.
    fn uniform(&mut self) -> f64 {
        let word = u128::from(self.position) * 2;
        if self.random.get_word_pos() != word {
            self.random.set_word_pos(word);
        }
        uniform(&mut self.random)
    }

    /// Top-p, where it cuts anything.
    fn cut(&self) -> Option<f64> {
        self.sampling.top_p.map(|p| p.get()).filter(|p| *p < 1.0)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let Some(penalty) = self.sampling.repetition_penalty else { return };
        let penalty = nearest(penalty.get());
        for token in &self.seen {
            if let Some(logit) = logits.get_mut(index(*token)) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Temperature, top-k and top-p.
    fn distribution(&mut self, logits: &mut [f32], max: f32) {
        let cut = self.cut();
        let Self { sampling, weights: all, nucleus, .. } = self;
        if let Some(k) = sampling.top_k
            && let Some(least) = nth_largest(logits, k.count(), all)
        {
            logits.iter_mut().for_each(|x| *x = if *x < least { f32::NEG_INFINITY } else { *x });
        }
        weights(logits, max, nearest(1.0 / sampling.temperature.get()), all);
        if let Some(p) = cut {
            nucleus.select(all, p);
        }
    }
}

/// The next 53 random bits as a number in [0, 1).
fn uniform(random: &mut ChaCha8Rng) -> f64 {
    #[expect(clippy::as_conversions, reason = "53 bits fit an f64 exactly")]
    let bits = (random.next_u64() >> 11) as f64;
    bits / 9_007_199_254_740_992.0
}

/// The `n`-th largest value; `None` if there are no more than `n`, so that nothing would be cut off.
fn nth_largest(values: &[f32], n: usize, buffer: &mut Vec<f32>) -> Option<f32> {
    if n >= values.len() {
        return None;
    }
    let by_size = |a: &f32, b: &f32| b.total_cmp(a);
    buffer.clear();
    // The n-th largest of the maxima of blocks is a bound: at least n values reach it.
    buffer.extend(values.chunks(64).map(|block| block.iter().copied().fold(f32::NEG_INFINITY, f32::max)));
    let bound = match buffer.len() {
        blocks if n <= blocks => *buffer.select_nth_unstable_by(n - 1, by_size).1,
        _ => f32::NEG_INFINITY,
    };
    buffer.clear();
    buffer.extend(values.iter().copied().filter(|x| *x >= bound));
    Some(*buffer.select_nth_unstable_by(n - 1, by_size).1)
}

/// Sum of at most [`BLOCK`] weights, in sixteen lanes.
fn block_sum(weights: &[f32]) -> f64 {
    let (chunks, rest) = weights.as_chunks::<16>();
    let mut lanes = [0.0_f32; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, weight)| *lane += weight);
    }
    lanes.iter().chain(rest).copied().map(f64::from).sum()
}

/// The first place whose running sum of weights exceeds `uniform` times the total.
fn pick(weights: &[f32], uniform: f64) -> Option<usize> {
    let sums: Vec<f64> = weights.chunks(BLOCK).map(block_sum).collect();
    let target = uniform * sums.iter().sum::<f64>();
    let mut before = 0.0;
    for (block, (weights, sum)) in weights.chunks(BLOCK).zip(&sums).enumerate() {
        if before + sum > target {
            let mut running = before;
            let inside = weights.iter().position(|weight| {
                running += f64::from(*weight);
                running > target
            });
            // Lanes and running sum round differently: then the last that weighs anything.
            let inside = inside.or_else(|| weights.iter().rposition(|weight| *weight > 0.0))?;
            return Some(block * BLOCK + inside);
        }
        before += sum;
    }
    weights.iter().rposition(|weight| *weight > 0.0)
}

/// The tokens that a nucleus keeps, and their weights, in ascending order of number.
#[derive(Debug, Default)]
struct Nucleus {
    weights: Vec<f32>,
    ids: Vec<u32>,
}

impl Nucleus {
    /// Keeps the fewest weights, heaviest first, lowest number first among equals, that make up `p` of the
    /// sum. Sorts nothing: bisects for the least weight that is kept.
    fn select(&mut self, weights: &[f32], p: f64) {
        let total: f64 = weights.chunks(BLOCK).map(block_sum).sum();
        // All weights below this together are less than 1 − p of the sum: none of them is needed.
        let count = u32::try_from(weights.len()).map_or(f64::INFINITY, f64::from);
        let least = nearest((1.0 - p) * total / count * 0.999).max(f32::MIN_POSITIVE);
        self.weights.clear();
        self.ids.clear();
        for (id, weight) in (0_u32..).zip(weights).filter(|(_, weight)| **weight >= least) {
            self.weights.push(*weight);
            self.ids.push(id);
        }
        // Positive floats are ordered as their bits are. Weights from `low` up make up p, those from `high`
        // up do not: weights are at most 1.
        let target = p * total;
        let (mut low, mut high) = (least.to_bits(), 1_f32.to_bits() + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if mass(&self.weights, f32::from_bits(middle)) >= target {
                low = middle;
            } else {
                high = middle;
            }
        }
        let edge = f32::from_bits(low);
        let mut so_far = mass(&self.weights, f32::from_bits(high));
        let mut kept = 0;
        for place in 0..self.weights.len() {
            let weight = self.weights[place];
            let at_edge = weight.to_bits() == low && so_far < target;
            if weight > edge || at_edge {
                if at_edge {
                    so_far += f64::from(weight);
                }
                self.weights[kept] = weight;
                self.ids[kept] = self.ids[place];
                kept += 1;
            }
        }
        self.weights.truncate(kept);
        self.ids.truncate(kept);
    }
}

/// Sum of the weights that are at least `least`.
fn mass(weights: &[f32], least: f32) -> f64 {
    let sum = |block: &[f32]| {
        let (chunks, rest) = block.as_chunks::<16>();
        let mut lanes = [0.0_f32; 16];
        for chunk in chunks {
            for i in 0..16 {
                lanes[i] += if chunk[i] >= least { chunk[i] } else { 0.0 };
            }
        }
        let rest = rest.iter().filter(|weight| **weight >= least);
        lanes.iter().chain(rest).copied().map(f64::from).sum::<f64>()
    };
    weights.chunks(BLOCK).map(sum).sum()
}
