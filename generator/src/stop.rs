//! Stop strings in a text that arrives in pieces.

/// Releases text up to the first stop string, and never a beginning of one that may still go on.
#[derive(Clone, Debug)]
pub(crate) struct StopScanner {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
}

impl StopScanner {
    /// `stops` without empty ones.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), hit: None }
    }

    /// Takes a piece and gives the text that is now certain.
    ///
    /// The stop string that is complete first ends the text, however it was cut into pieces; of several that
    /// end at the same place, the longest.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        if self.hit.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        let found = self.stops.iter().enumerate().filter_map(|(i, stop)| {
            let start = self.held.find(stop)?;
            Some((start + stop.len(), start, i))
        });
        if let Some((_, start, stop)) = found.min() {
            self.hit = Some(stop);
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let beginning = |from: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*from..]));
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.ceil_char_boundary(self.held.len().saturating_sub(longest));
        let places = self.held[from..].char_indices().map(|(i, _)| from + i);
        let keep = places.into_iter().find(beginning).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Which stop string ended the text.
    pub(crate) fn hit(&self) -> Option<usize> {
        self.hit
    }

    /// No more pieces come: what was held back is text after all.
    pub(crate) fn release(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut scanner = StopScanner::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut out: Vec<String> = pieces.iter().map(|piece| scanner.push(piece)).collect();
        out.push(scanner.release());
        (out, scanner.hit())
    }

    #[test]
    fn a_stop_string_over_several_pieces_is_held_back() {
        assert_eq!(
            run(&["\n\ndef"], &["a\n", "\n", "d", "ef f"]),
            (vec!["a", "", "", "", ""].map_into(), Some(0))
        );
        assert_eq!(run(&["\n\ndef"], &["a\n", "\nd", "x"]), (vec!["a", "", "\n\ndx", ""].map_into(), None));
        assert_eq!(
            run(&["</s>", "END"], &["abEN", "x</s", ">y"]),
            (vec!["ab", "ENx", "", ""].map_into(), Some(0))
        );
        assert_eq!(run(&["zz"], &["az"]), (vec!["a", "z"].map_into(), None));
        assert_eq!(run(&["é!"], &["aé", "?"]), (vec!["a", "é?", ""].map_into(), None));
        assert_eq!(run(&[], &["any", "thing"]), (vec!["any", "thing", ""].map_into(), None));
    }

    trait MapInto {
        fn map_into(self) -> Vec<String>;
    }

    impl MapInto for Vec<&str> {
        fn map_into(self) -> Vec<String> {
            self.into_iter().map(str::to_owned).collect()
        }
    }

    proptest! {
        /// However the text is cut into pieces: with no stop string all comes out; else all before the one
        /// that is complete first.
        #[test]
        fn pieces_do_not_matter(
            pieces in proptest::collection::vec("[abé]{0,4}", 0..12),
            stops in proptest::collection::vec("[abé]{1,4}", 0..3),
        ) {
            let whole = pieces.concat();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (out, hit) = run(&stops, &pieces);
            let out = out.concat();
            prop_assert!(whole.starts_with(&out));
            prop_assert_eq!(hit.is_some(), stops.iter().any(|stop| whole.contains(stop)));
            match hit {
                Some(i) => prop_assert!(whole[out.len()..].starts_with(stops[i])),
                None => prop_assert_eq!(out, whole),
            }
        }
    }
}
