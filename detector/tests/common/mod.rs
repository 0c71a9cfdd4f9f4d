//! Keys and seeded numbers for the tests of this crate.

use dandyroll_scheme::{
    ContextWidth, FunctionVersion, ListFamily, ListKey, MasterKey, Seeding, Sha256Digest, TokenId,
};

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

/// The lists of context width `h` under a master made from `seed`.
pub(crate) fn lists(seed: u64, h: u8) -> ListKey {
    seeded_lists(seed, h, Seeding::Left)
}

/// The same with a seeding.
pub(crate) fn seeded_lists(seed: u64, h: u8, seeding: Seeding) -> ListKey {
    let mut seeded = Seeded(seed ^ 0xDA4D_1401);
    let mut master = [0; 32];
    master.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&seeded.next().to_le_bytes()));
    MasterKey::take(&mut master).lists(&ListFamily {
        function: FunctionVersion::V1,
        tokenizer: Sha256Digest([7; 32]),
        width: ContextWidth::new(h).unwrap(),
        seeding,
    })
}
