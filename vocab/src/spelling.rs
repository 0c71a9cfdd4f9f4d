//! How a vocabulary spells bytes, and the bytes of every token.

use dandyroll_scheme::TokenId;

/// What SentencePiece writes for a space.
pub(crate) const BLANK: &str = "▁";

/// How vocabulary strings stand for text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// One character for each byte (GPT-2 and everything after it).
    ByteLevel,
    /// Text with [`BLANK`] for a space, and `<0xNN>` for bytes (Llama 2, Mistral, Gemma).
    Pieces {
        /// Whether `<0xNN>` stands for a byte.
        byte_fallback: bool,
        /// Where a space is put in front that the text does not have.
        opening: Opening,
    },
}

/// Where a tokenizer puts a blank in front of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Nowhere.
    Never,
    /// Before every stretch between added tokens (normalizer `Prepend`).
    Always,
    /// The same, unless the stretch opens with a space (`Metaspace`, `always`).
    UnlessBlank,
    /// At the start of the text only, unless it opens with a space (`Metaspace`, `first`).
    FirstUnlessBlank,
}

impl Opening {
    /// Whether a blank stands before byte `at` of `text`, where a stretch opens.
    pub(crate) fn puts_blank(self, text: &str, at: usize) -> bool {
        let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) else { return false };
        let blank = || rest.starts_with(' ') || rest.starts_with(BLANK);
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::UnlessBlank => !blank(),
            Self::FirstUnlessBlank => at == 0 && !blank(),
        }
    }
}

/// The byte a character of the GPT-2 alphabet stands for: printable Latin-1 is itself, the other 68 bytes
/// are U+0100 onwards in order.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let printable = |code: u32| matches!(code, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(code) {
        return u8::try_from(code).ok();
    }
    let place = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0..=u8::MAX).filter(|byte| !printable(u32::from(*byte))).nth(place)
}

impl Spelling {
    /// Appends the bytes that vocabulary string `token` stands for.
    pub(crate) fn spell(self, token: &str, bytes: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => {
                for c in token.chars() {
                    match byte_of(c) {
                        Some(byte) => bytes.push(byte),
                        // As the library does: what is not of the alphabet stands for itself.
                        None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
            }
            Self::Pieces { byte_fallback, .. } => {
                let code = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let two_digits = |code: &&str| code.len() == 2 && code.bytes().all(|c| c.is_ascii_hexdigit());
                match code
                    .filter(|_| byte_fallback)
                    .filter(two_digits)
                    .map(|code| u8::from_str_radix(code, 16))
                {
                    Some(Ok(byte)) => bytes.push(byte),
                    _ => bytes.extend_from_slice(token.replace(BLANK, " ").as_bytes()),
                }
            }
        }
    }

    /// Appends the bytes that an added token's matched form stands for.
    pub(crate) fn spell_added(self, form: &str, bytes: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => bytes.extend_from_slice(form.as_bytes()),
            Self::Pieces { .. } => self.spell(form, bytes),
        }
    }
}

/// What an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No token has it.
    Unused,
    /// A token of the model.
    Model,
    /// An added token.
    Added,
}

/// The bytes of every token, one after another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surfaces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
}

impl Surfaces {
    /// Appends the next id; `write` appends its bytes. `None` if all tokens together pass 4 GiB.
    pub(crate) fn push(&mut self, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
        write(&mut self.bytes);
        self.ends.push(u32::try_from(self.bytes.len()).ok()?);
        self.kinds.push(kind);
        Some(())
    }

    /// One more than the largest id.
    pub(crate) fn size(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn kind(&self, id: TokenId) -> Kind {
        place(id.0).and_then(|i| self.kinds.get(i).copied()).unwrap_or(Kind::Unused)
    }

    fn bounds(&self, id: TokenId) -> Option<(u32, u32)> {
        let index = place(id.0)?;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|i| self.ends.get(i).copied()).unwrap_or(0);
        Some((start, end))
    }

    /// Length in bytes of a token; 0 for an id that stands for nothing.
    #[inline]
    pub(crate) fn length(&self, id: TokenId) -> u32 {
        self.bounds(id).map_or(0, |(start, end)| end - start)
    }

    /// The bytes of a token; `None` for an id that stands for nothing.
    pub(crate) fn get(&self, id: TokenId) -> Option<&[u8]> {
        if self.kind(id) == Kind::Unused {
            return None;
        }
        let (start, end) = self.bounds(id)?;
        self.bytes.get(place(start)?..place(end)?)
    }
}

fn place(value: u32) -> Option<usize> {
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_has_every_byte_once() {
        let mut found: Vec<u8> = ('\0'..='\u{400}').filter_map(byte_of).collect();
        found.sort_unstable();
        assert_eq!(found, (0..=u8::MAX).collect::<Vec<_>>());
        for (c, byte) in [('Ġ', b' '), ('Ċ', b'\n'), ('A', b'A'), ('Ń', 0xAD), ('ÿ', 0xFF), ('Ā', 0)] {
            assert_eq!(byte_of(c), Some(byte), "{c}");
        }
    }

    #[test]
    fn pieces_spell_blanks_and_bytes() {
        let spell = |token: &str, byte_fallback| {
            let mut bytes = Vec::new();
            Spelling::Pieces { byte_fallback, opening: Opening::Never }.spell(token, &mut bytes);
            bytes
        };
        assert_eq!(spell("▁a▁", true), b" a ");
        assert_eq!(spell("<0xE2>", true), [0xE2]);
        assert_eq!(spell("<0xE2>", false), b"<0xE2>");
        assert_eq!(spell("<0xE>", true), b"<0xE>");
        assert_eq!(spell("<0x+2>", true), b"<0x+2>", "a sign is no digit");
    }
}
