//! Which characters normalisation removes, and which it may pass over.

use std::sync::LazyLock;

use unicode_normalization::char::{canonical_combining_class, decompose_canonical};
use unicode_normalization::{IsNormalized, is_nfc_quick};

/// Why a character is invisible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invisible {
    /// U+FEFF.
    Bom,
    /// Joiners, word joiners, invisible operators and the like: no width, no glyph.
    ZeroWidth,
    /// Chooses a glyph for the character before it.
    VariationSelector,
    /// U+00AD: shows only where a line is broken.
    SoftHyphen,
    /// Marks, embeddings, overrides and isolates of the bidirectional algorithm.
    Directional,
    /// The tag characters, an invisible copy of ASCII.
    Tag,
}

/// Why `c` is removed, or `None` if it stays.
///
/// These are the characters with the Unicode property `Default_Ignorable_Code_Point`, unassigned ones and the
/// block of tags included, except the Hangul fillers and two Khmer vowels, which are letters.
pub(crate) fn invisible(c: char) -> Option<Invisible> {
    match c {
        '\u{FEFF}' => Some(Invisible::Bom),
        '\u{034F}'
        | '\u{180E}'
        | '\u{200B}'..='\u{200D}'
        | '\u{2060}'..='\u{2065}'
        | '\u{FFF0}'..='\u{FFF8}'
        | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' => Some(Invisible::ZeroWidth),
        '\u{180B}'..='\u{180D}' | '\u{180F}' | '\u{FE00}'..='\u{FE0F}' | '\u{E0100}'..='\u{E01EF}' => {
            Some(Invisible::VariationSelector)
        }
        '\u{00AD}' => Some(Invisible::SoftHyphen),
        '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{206F}' => {
            Some(Invisible::Directional)
        }
        '\u{E0000}'..='\u{E0FFF}' => Some(Invisible::Tag),
        _ => None,
    }
}

/// Whether normalisation may be cut before `c`: its decomposition opens with a starter that never combines
/// with what precedes it (combining class 0, `NFC_Quick_Check` = Yes; UAX #15, section 9).
pub(crate) fn starts_afresh(c: char) -> bool {
    let mut first = None;
    decompose_canonical(c, |part| {
        first.get_or_insert(part);
    });
    first.is_some_and(|part| canonical_combining_class(part) == 0 && is_quick(part))
}

fn is_quick(c: char) -> bool {
    is_nfc_quick(std::iter::once(c)) == IsNormalized::Yes
}

/// Whether `c` starts afresh and, were all characters like it, nothing would have to be done.
fn compute_plain(c: char) -> bool {
    c != '\r' && invisible(c).is_none() && is_quick(c) && starts_afresh(c)
}

/// One bit for each code point of planes 0 and 1, filled on the first use (about a millisecond, 16 KiB).
static PLAIN: LazyLock<Box<[u64]>> = LazyLock::new(|| {
    (0..0x2_0000_u32 / 64)
        .map(|word| {
            (0..64).filter(|bit| char::from_u32(word * 64 + bit).is_some_and(compute_plain)).fold(0, set_bit)
        })
        .collect()
});

fn set_bit(word: u64, bit: u32) -> u64 {
    word | 1 << bit
}

/// `compute_plain`, by table.
pub(crate) struct Plain(&'static [u64]);

impl Plain {
    pub(crate) fn table() -> Self {
        Self(&PLAIN)
    }

    #[inline]
    pub(crate) fn is(&self, c: char) -> bool {
        let code = u32::from(c);
        match usize::try_from(code >> 6).ok().and_then(|word| self.0.get(word)) {
            Some(word) => word >> (code & 63) & 1 == 1,
            None => compute_plain(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_equals_the_definition() {
        let table = Plain::table();
        for c in '\0'..=char::MAX {
            assert_eq!(table.is(c), compute_plain(c), "U+{:04X}", u32::from(c));
        }
    }

    #[test]
    fn ascii_is_plain_but_for_the_carriage_return() {
        let table = Plain::table();
        for c in '\0'..='\x7f' {
            assert_eq!(table.is(c), c != '\r', "{c:?}");
        }
    }

    #[test]
    fn no_canonical_mapping_makes_an_invisible_character_or_a_return() {
        // So one removal before NFC is enough, and normalising twice changes nothing.
        for c in '\0'..=char::MAX {
            if invisible(c).is_none() && c != '\r' {
                decompose_canonical(c, |d| {
                    assert!(invisible(d).is_none() && d != '\r', "U+{:04X}", u32::from(c));
                });
            }
        }
    }
}
