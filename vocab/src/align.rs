//! Lays tokens over the text they came from, checking every byte.

use dandyroll_scheme::TokenId;

use crate::spelling::{BLANK, Kind};
use crate::vocabulary::Vocabulary;

/// Where tokens stopped spelling the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stuck {
    pub(crate) byte: usize,
    pub(crate) index: usize,
}

impl Vocabulary {
    /// The end of every token, by adding up lengths. Sure where the tokenizer neither changes nor drops
    /// text, because then the tokens spell the text iff they are as long. `None` if they are not.
    pub(crate) fn add_up(&self, text: &str, ids: &[TokenId]) -> Option<Vec<u32>> {
        let mut at = 0_u32;
        let ends = ids
            .iter()
            .map(|id| {
                at = at.saturating_add(self.surfaces.length(*id));
                at
            })
            .collect();
        (usize::try_from(at).ok()? == text.len()).then_some(ends)
    }

    /// The end of every token, comparing each with the text.
    pub(crate) fn align(&self, text: &str, ids: &[TokenId]) -> Result<Vec<u32>, Stuck> {
        let opening = self.opening();
        let mut blank = opening.puts_blank(text, 0);
        let mut at = 0;
        let mut ends = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            let stuck = Stuck { byte: at, index };
            let added =
                if self.surfaces.kind(*id) == Kind::Added { self.match_added(text, at, *id) } else { None };
            at = match added {
                Some((end, raw)) => {
                    // An added token taken out of the raw text ends a stretch; the next opens behind it.
                    if raw {
                        blank = opening.puts_blank(text, end);
                    }
                    end
                }
                None => self.match_piece(text, at, *id, &mut blank).ok_or(stuck)?,
            };
            ends.push(u32::try_from(at).map_err(|_| stuck)?);
        }
        if at == text.len() { Ok(ends) } else { Err(Stuck { byte: at, index: ids.len() }) }
    }

    /// The end of an added token with the white space it takes in, and whether it matches raw text.
    fn match_added(&self, text: &str, at: usize, id: TokenId) -> Option<(usize, bool)> {
        let added = self.added.get(&id)?;
        let rest = text.get(at..)?;
        let rest = if added.takes_left { rest.trim_start() } else { rest };
        let rest = rest.strip_prefix(added.form.as_str())?;
        let rest = if added.takes_right { rest.trim_start() } else { rest };
        Some((text.len() - rest.len(), added.raw))
    }

    /// The end of a token of the model. `blank` says that a blank stands here which the text does not have.
    fn match_piece(&self, text: &str, at: usize, id: TokenId, blank: &mut bool) -> Option<usize> {
        let surface = self.surfaces.get(id)?;
        let surface = if std::mem::take(blank) { surface.strip_prefix(b" ")? } else { surface };
        let rest = text.as_bytes().get(at..)?;
        if rest.starts_with(surface) {
            return Some(at + surface.len());
        }
        if self.is_byte_level() {
            return None;
        }
        // A blank spells a space and, where the text has one, itself.
        let mut at = at;
        for byte in surface {
            let rest = text.as_bytes().get(at..)?;
            at += match rest.first() {
                Some(first) if first == byte => 1,
                Some(_) if *byte == b' ' && rest.starts_with(BLANK.as_bytes()) => BLANK.len(),
                _ => return None,
            };
        }
        Some(at)
    }
}
