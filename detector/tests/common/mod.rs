//! Keys, marks and seeded numbers for the tests of this crate.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{Background, Mark, MasterKey, Profile, Recipe, Seeding, Sha256Digest, TokenId};

/// The tokenizer of every mark here.
pub(crate) const TOKENIZER: Sha256Digest = Sha256Digest([7; 32]);

/// SplitMix64 (Steele, Lea and Flood 2014): small, seeded, and no relative of the keyed function.
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number below `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(((self.next() >> 32) * u64::from(bound)) >> 32).unwrap()
    }

    /// A number in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        f64::from(self.below(u32::MAX)) / f64::from(u32::MAX)
    }

    pub(crate) fn ids(&mut self, count: usize, vocabulary: u32) -> Vec<TokenId> {
        (0..count).map(|_| TokenId(self.below(vocabulary))).collect()
    }
}

/// A master made from `seed`.
pub(crate) fn master(seed: u64) -> MasterKey {
    let mut seeded = Seeded(seed ^ 0xDA4D_1401);
    let mut master = [0; 32];
    master.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&seeded.next().to_le_bytes()));
    MasterKey::take(&mut master)
}

/// A recipe bound to [`TOKENIZER`], with a background list if there is one.
pub(crate) fn profile(recipe: Recipe, background: Option<&Background>) -> Profile {
    recipe.bind(TOKENIZER, None).unwrap().with_background(background.map(Background::digest))
}

/// The mark of a recipe, without a background list, under a master made from `seed`.
pub(crate) fn mark_of(seed: u64, recipe: Recipe) -> Mark {
    Mark::new(&master(seed), &profile(recipe, None), None).unwrap()
}

/// The list of γ = ¼ and context width `h`, under a master made from `seed`.
pub(crate) fn mark(seed: u64, h: u8) -> Mark {
    seeded_mark(seed, h, Seeding::Left)
}

/// The same with a seeding.
pub(crate) fn seeded_mark(seed: u64, h: u8, seeding: Seeding) -> Mark {
    mark_of(seed, green_list::recipe(0.25, 2.0, h, None).unwrap().seeded(seeding))
}

/// Marks of one recipe under one key, one for each background list or none, which share their words in memory.
pub(crate) fn marks_sharing_words(
    seed: u64,
    recipe: &Recipe,
    lists: &[Option<&Arc<Background>>],
) -> Vec<Mark> {
    let master = master(seed);
    let words = Arc::new(master.words(&profile(recipe.clone(), None).family()));
    let of = |list: &Option<&Arc<Background>>| {
        let profile = profile(recipe.clone(), list.map(|list| &**list));
        Mark::of_words(Arc::clone(&words), &master.id(), &profile, list.cloned()).unwrap()
    };
    lists.iter().map(of).collect()
}

/// Whether a token is on the list after a context of h tokens.
pub(crate) fn green(mark: &Mark, context: &[TokenId], token: TokenId) -> bool {
    mark.scheme().favours(mark.words().word(context, token).unwrap())
}
