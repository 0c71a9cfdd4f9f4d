//! The exponential race, or Gumbel-max: each context lets its words choose a token of the final distribution, which over
//! keys is as if it had been drawn (Aaronson 2022; Kuditipudi et al. 2023). Quality is not touched; each context decides
//! one token of a text, and what comes after it again is the sampler's own draw.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::{BuiltIn, Embedder, FinalDistribution, Form, Kind, Parameter, Scheme};
use crate::{
    Admission, Candidates, ContextWidth, Member, MemberError, MemberReader, Members, Null, OutOfRange, Pairs,
    Purpose, Recipe, Strength, TokenId, WordKey,
};

/// The row of the table.
pub static KIND: Kind = Kind {
    algorithm: "gumbel",
    summary: "lets keyed words choose the token from what top-k and top-p leave; over keys the text is the model's own",
    source: "Aaronson 2022; Kuditipudi et al. 2023, \"Robust Distortion-free Watermarks for Language Models\"; the \
             choice is argmin of -ln(u)/p, the score -ln(1 - u)",
    purpose: Purpose::new("gumbel-words"),
    admission: Admission::Contexts,
    parameters: &[Parameter {
        name: "bias_site",
        help: "where the mark acts",
        form: Form::Words(&["final-distribution"]),
    }],
    built_in: &[BuiltIn { name: "gumbel-v1", recipe: gumbel_v1 }],
    read,
    fits,
};

/// `gumbel-v1`: h 2.
pub fn gumbel_v1() -> Recipe {
    Recipe::new(Arc::new(Gumbel::new()), ContextWidth::TWO)
}

fn read(members: &mut MemberReader) -> Result<Arc<dyn Scheme>, MemberError> {
    members.word("bias_site", "final-distribution")?;
    Ok(Arc::new(Gumbel::new()))
}

/// One token of context recurs too often: on human code four contexts in seven would be repeats.
fn fits(recipe: &Recipe) -> Result<(), OutOfRange> {
    if recipe.width() >= ContextWidth::TWO {
        return Ok(());
    }
    Err(OutOfRange {
        name: "context width",
        value: f64::from(recipe.width().byte()),
        allowed: "2 to 8 tokens for the algorithm gumbel",
    })
}

/// The race has no parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Gumbel {
    null: Null,
}

impl Gumbel {
    /// The race.
    pub fn new() -> Self {
        Self { null: Null::Exponential }
    }
}

impl Default for Gumbel {
    fn default() -> Self {
        Self::new()
    }
}

/// 2⁻³².
const UNIT: f64 = 1.0 / 4_294_967_296.0;

impl Scheme for Gumbel {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn members(&self, profile: &mut Members) {
        profile.insert("bias_site", Member::Text(self.embedder().site().into()));
    }

    fn reads(&self) -> Vec<u8> {
        b"exponential".to_vec()
    }

    fn null(&self) -> &Null {
        &self.null
    }

    /// −ln(1 − w·2⁻³²). With w and not w + ½, so that it never exceeds what an exact exponential would be: p stays a
    /// bound.
    fn score(&self, word: u32) -> f64 {
        -libm::log1p(-f64::from(word) * UNIT)
    }

    fn total(&self, words: &[u32]) -> f64 {
        words.iter().map(|word| self.score(*word)).sum()
    }

    /// Words above the score's mean: u > 1 − 1/e.
    fn favours(&self, word: u32) -> bool {
        self.score(word) > 1.0
    }

    /// Measured on the fixture model at temperature 0.8 and top-p 0.95: docs/evidence.md.
    fn strength(&self) -> Strength {
        Strength::Exponential(2.5)
    }

    fn embedder(&self) -> Embedder<'_> {
        Embedder::Final(self)
    }
}

/// The race as far as it was run: smaller is better, and the first of equals wins.
struct Race {
    best: f64,
    winner: Option<usize>,
}

impl Race {
    /// Lets the token at `place` run: −ln(u)/weight with u = (w + ½)·2⁻³².
    #[inline(always)]
    fn run(&mut self, place: usize, word: u32, weight: f32) {
        let weight = f64::from(weight);
        // 1 − u ≤ −ln u: hardly any token needs its logarithm.
        if weight > 0.0 && least(word) <= self.best * weight {
            let time = minus_ln(word) / weight;
            if time < self.best {
                (self.best, self.winner) = (time, Some(place));
            }
        }
    }

    /// [`Race::run`] for neighbours, most of which lose at once.
    fn run_all(&mut self, start: usize, words: &[u32], weights: &[f32]) {
        for (block, (words, weights)) in words.chunks(16).zip(weights.chunks(16)).enumerate() {
            let best = self.best;
            let hopeful = words
                .iter()
                .zip(weights)
                .fold(false, |any, (word, weight)| any | (least(*word) <= best * f64::from(*weight)));
            if hopeful {
                for (i, (word, weight)) in words.iter().zip(weights).enumerate() {
                    self.run(start + 16 * block + i, *word, *weight);
                }
            }
        }
    }
}

/// 1 − u = (2³² − w − ½)·2⁻³².
#[inline(always)]
fn least(word: u32) -> f64 {
    (f64::from(!word) + 0.5) * UNIT
}

/// −ln u, with all its digits at both ends.
fn minus_ln(word: u32) -> f64 {
    if word >= 1 << 31 { -libm::log1p(-least(word)) } else { -libm::log((f64::from(word) + 0.5) * UNIT) }
}

impl FinalDistribution for Gumbel {
    fn choose(&self, words: &WordKey, context: &[TokenId], candidates: &Candidates<'_>) -> Option<usize> {
        let mut race = Race { best: f64::INFINITY, winner: None };
        let Candidates { ids, weights } = *candidates;
        let Some(ids) = ids else {
            words.each_word(context, weights.len(), |start, run| {
                race.run_all(start, run, &weights[start..]);
            })?;
            return race.winner;
        };
        let effective = words.effective(context)?;
        let most = ids.last().copied().and_then(|id| usize::try_from(id).ok())?;
        if ids.len() > most / 16 {
            // So many that the whole vocabulary's keystream costs less than a block for each.
            let mut place = 0;
            words.each_word(context, most + 1, |start, run| {
                while let Some(id) = ids.get(place).and_then(|id| usize::try_from(*id).ok()) {
                    let Some(word) = id.checked_sub(start).and_then(|at| run.get(at)) else { break };
                    race.run(place, *word, weights.get(place).copied().unwrap_or(0.0));
                    place += 1;
                }
            })?;
            return race.winner;
        }
        let mut pairs = Pairs::new();
        pairs.clear(effective.len(), 0);
        let mut pair: Vec<TokenId> = effective.to_vec();
        pair.push(TokenId(0));
        for id in ids {
            if let Some(last) = pair.last_mut() {
                *last = TokenId(*id);
            }
            pairs.push(&pair);
        }
        let mut found = vec![0; ids.len()];
        words.words(&pairs, &mut found);
        race.run_all(0, &found, weights);
        race.winner
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{History, Mark, MasterKey, Seeding, Sha256Digest, Step};
    use proptest::prelude::*;

    fn mark(seed: u8, seeding: Seeding) -> Mark {
        let profile = gumbel_v1().seeded(seeding).bind(Sha256Digest([1; 32]), None).unwrap();
        Mark::new(&MasterKey::take(&mut [seed; 32]), &profile, None).unwrap()
    }

    /// The choice as it is defined: a logarithm for each.
    fn plain(mark: &Mark, context: &[TokenId], ids: &[u32], weights: &[f32]) -> Option<usize> {
        let times = ids.iter().zip(weights).map(|(id, weight)| {
            let word = mark.words().word(context, TokenId(*id)).unwrap();
            minus_ln(word) / f64::from(*weight)
        });
        let times: Vec<f64> = times.collect();
        (0..ids.len()).filter(|i| weights[*i] > 0.0).min_by(|a, b| times[*a].total_cmp(&times[*b]))
    }

    proptest! {
        #[test]
        fn every_way_to_run_the_race_gives_the_same_winner(
            seed in any::<u8>(),
            min in any::<bool>(),
            weights in proptest::collection::vec(prop_oneof![Just(0.0_f32), 0.0_f32..1.0, 1e-9_f32..1e-6], 2..300),
            gaps in proptest::collection::vec(1_u32..400, 300),
        ) {
            let mark = mark(seed, if min { Seeding::Min } else { Seeding::Left });
            let context = [TokenId(7), TokenId(900)];
            let history = History::of(&context, Some(&mark));
            prop_assume!(weights.iter().filter(|weight| **weight > 0.0).count() > 1);
            let all: Vec<u32> = (0..u32::try_from(weights.len()).unwrap()).collect();
            // Close together, far apart, and the whole vocabulary.
            let near: Vec<u32> = all.iter().map(|id| id * 3 + 5).collect();
            let far: Vec<u32> = gaps.iter().scan(0, |id, gap| { *id += gap; Some(*id) }).take(weights.len()).collect();
            for (ids, given) in [(&all, None), (&near, Some(&near[..])), (&far, Some(&far[..]))] {
                let found = mark.choose(&history, &Candidates { ids: given, weights: &weights });
                prop_assert_eq!(found, Some((plain(&mark, &context, ids, &weights), Step::Marked)));
            }
        }
    }

    #[test]
    fn a_context_decides_once_and_truncating_takes_it_back() {
        let mark = mark(3, Seeding::Left);
        let candidates = Candidates { ids: None, weights: &[0.5, 0.25, 0.25] };
        let step = |history: &History| mark.choose(history, &candidates).unwrap().1;
        let mut history = History::new();
        let mut steps = Vec::new();
        for token in [1, 2, 1, 2, 1, 5] {
            steps.push(step(&history));
            mark.push(&mut history, TokenId(token));
        }
        use Step::{Marked, RepeatedContext, ShortContext};
        assert_eq!(steps, [ShortContext, ShortContext, Marked, Marked, RepeatedContext, RepeatedContext]);
        assert_eq!(step(&history), Marked);
        history.truncate(3);
        assert_eq!(step(&history), Marked);
        history.truncate(2);
        assert_eq!((step(&history), history.tokens().len()), (Marked, 2));
    }

    #[test]
    fn one_candidate_is_certain() {
        let mark = mark(3, Seeding::Left);
        let history = History::of(&[TokenId(1), TokenId(2)], Some(&mark));
        let only = Candidates { ids: Some(&[4, 9]), weights: &[0.0, 0.1] };
        assert_eq!(mark.choose(&history, &only), Some((Some(1), Step::Certain)));
    }

    #[test]
    fn narrow_contexts_are_refused() {
        let narrow = Recipe::new(Arc::new(Gumbel::new()), ContextWidth::new(1).unwrap());
        assert!(narrow.bind(Sha256Digest([1; 32]), None).is_err());
    }

    /// Choices are the distribution's: 200 000 keys, each with one distribution of 50 tokens, all of it and its nucleus.
    /// χ² with 49 (20) degrees of freedom lies below its 1 − 10⁻⁶ quantile, 111.1 (65.4), unless the keyed function or the race is wrong.
    #[test]
    fn over_keys_the_choice_is_a_draw() {
        let weights: Vec<f32> = (0..50_u16).map(|i| libm::expf(-f32::from(i) / 9.0)).collect();
        let nucleus: Vec<u32> = (0..21).collect();
        for (ids, weights, bound) in [(None, &weights[..], 111.1), (Some(&nucleus[..]), &weights[..21], 65.4)]
        {
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let mut counts = vec![0_u32; weights.len()];
            let profile = gumbel_v1().bind(Sha256Digest([1; 32]), None).unwrap();
            for seed in 0..200_000_u32 {
                let mut bytes = [0; 32];
                bytes[..4].copy_from_slice(&seed.to_le_bytes());
                let mark = Mark::new(&MasterKey::take(&mut bytes), &profile, None).unwrap();
                let history = History::of(&[TokenId(1), TokenId(2)], Some(&mark));
                let (place, _) = mark.choose(&history, &Candidates { ids, weights }).unwrap();
                counts[place.unwrap()] += 1;
            }
            let statistic: f64 = counts
                .iter()
                .zip(weights)
                .map(|(count, weight)| {
                    let expected = 200_000.0 * f64::from(*weight) / total;
                    (f64::from(*count) - expected) * (f64::from(*count) - expected) / expected
                })
                .sum();
            assert!(statistic < bound, "{statistic}");
        }
    }
}
