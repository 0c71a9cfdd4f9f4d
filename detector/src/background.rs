//! Which windows are common in human text: what a background list is chosen from.

use std::collections::HashMap;

use dandyroll_scheme::{Background, BackgroundError, ContextWidth, Sha256Digest, TokenId};

use crate::{TextTooLong, Windows};

/// In how many documents each window occurs: what a list is chosen from.
#[derive(Debug)]
pub struct BackgroundTally {
    width: ContextWidth,
    windows: Windows,
    documents: u32,
    counts: HashMap<Box<[TokenId]>, u32>,
}

impl BackgroundTally {
    /// No documents yet.
    pub fn new(width: ContextWidth) -> Self {
        Self { width, windows: Windows::new(), documents: 0, counts: HashMap::new() }
    }

    /// Counts each distinct window of one document once.
    pub fn add(&mut self, ids: &[TokenId]) -> Result<(), TextTooLong> {
        self.windows.read(ids, self.width)?;
        self.documents = self.documents.saturating_add(1);
        for window in self.windows.of_text(ids) {
            match self.counts.get_mut(window) {
                Some(count) => *count += 1,
                None => drop(self.counts.insert(window.into(), 1)),
            }
        }
        Ok(())
    }

    /// The documents counted.
    pub fn documents(&self) -> u32 {
        self.documents
    }

    /// The distinct windows seen.
    pub fn distinct(&self) -> usize {
        self.counts.len()
    }

    /// In how many documents the `place`-th most common window occurs, counted from 1; 0 if there are fewer.
    pub fn documents_at(&self, place: usize) -> u32 {
        let mut counts: Vec<u32> = self.counts.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        place.checked_sub(1).and_then(|place| counts.get(place)).copied().unwrap_or(0)
    }

    /// The list of the windows that occur in `least` documents or more; of those the `most` that occur in the most
    /// documents, equals by their ids.
    pub fn list(
        &self,
        tokenizer: Sha256Digest,
        least: u32,
        most: usize,
    ) -> Result<Background, BackgroundError> {
        let mut common: Vec<(u32, &[TokenId])> = self
            .counts
            .iter()
            .filter(|(_, count)| **count >= least.max(1))
            .map(|(window, count)| (*count, &**window))
            .collect();
        common.sort_unstable_by(|(a, left), (b, right)| b.cmp(a).then(left.cmp(right)));
        common.truncate(most);
        Background::new(tokenizer, self.width, common.into_iter().map(|(_, window)| window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENIZER: Sha256Digest = Sha256Digest([7; 32]);

    fn width(h: u8) -> ContextWidth {
        ContextWidth::new(h).unwrap()
    }

    fn list(h: u8, windows: &[&[u32]]) -> Background {
        let windows: Vec<Vec<TokenId>> =
            windows.iter().map(|window| window.iter().copied().map(TokenId).collect()).collect();
        Background::new(TOKENIZER, width(h), windows.iter().map(Vec::as_slice)).unwrap()
    }

    #[test]
    fn a_tally_takes_the_windows_of_most_documents() {
        let mut tally = BackgroundTally::new(width(0));
        for text in [&[1, 2, 2, 2][..], &[1, 3], &[1, 3, 4], &[5]] {
            let ids: Vec<TokenId> = text.iter().copied().map(TokenId).collect();
            tally.add(&ids).unwrap();
        }
        assert_eq!((tally.documents(), tally.distinct()), (4, 5));
        assert_eq!([0, 1, 2, 5, 6].map(|place| tally.documents_at(place)), [0, 3, 2, 1, 0]);
        let of = |least, most| tally.list(TOKENIZER, least, most).unwrap();
        assert_eq!(of(2, 9), list(0, &[&[1], &[3]]));
        assert_eq!(of(2, 1), list(0, &[&[1]]));
        assert_eq!(of(1, 3), list(0, &[&[1], &[3], &[2]]));
        assert!(of(4, 9).is_empty() && !of(4, 9).contains(&[TokenId(1)]));
    }
}
