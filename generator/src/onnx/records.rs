//! Protobuf records of an ONNX file in memory: read, copied and written one field at a time.
//!
//! Field numbers are those of `onnx.proto3`. What is not looked at is copied as it stands.

/// A protobuf field: its number, its content if it is length-delimited, and its bytes as they stand.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) content: Option<&'a [u8]>,
    /// Its value, if it is a number of variable length.
    pub(super) value: u64,
    pub(super) whole: &'a [u8],
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7F).checked_shl(u32::try_from(i * 7).ok()?)?;
        if *byte < 0x80 {
            return Some((value, bytes.get(i + 1..)?));
        }
    }
    None
}

/// The fields of a message; `None` if it is garbled.
pub(super) fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let start = bytes;
        let (tag, rest) = varint(bytes)?;
        let mut value = 0;
        let (content, rest) = match tag & 7 {
            0 => {
                let (number, rest) = varint(rest)?;
                value = number;
                (None, rest)
            }
            1 => (None, rest.get(8..)?),
            5 => (None, rest.get(4..)?),
            2 => {
                let (length, rest) = varint(rest)?;
                let (content, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Some(content), rest)
            }
            _ => return None,
        };
        let whole = start.get(..start.len() - rest.len())?;
        found.push(Field { number: tag >> 3, content, value, whole });
        bytes = rest;
    }
    Some(found)
}

pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7F);
            return;
        }
        out.push(low | 0x80);
    }
}

/// A length-delimited field.
pub(super) fn put(number: u64, content: &[u8], out: &mut Vec<u8>) {
    put_varint(number << 3 | 2, out);
    put_varint(u64::try_from(content.len()).unwrap_or(u64::MAX), out);
    out.extend_from_slice(content);
}

/// A node's operator, inputs and outputs.
#[derive(Default)]
pub(super) struct Node<'a> {
    pub(super) operator: &'a str,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    /// `AttributeProto`s, as they stand.
    pub(super) attributes: Vec<&'a [u8]>,
}

impl<'a> Node<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut node = Self::default();
        for field in fields(bytes)? {
            let text = || field.content.and_then(|bytes| std::str::from_utf8(bytes).ok());
            match field.number {
                1 => node.inputs.push(text()?),
                2 => node.outputs.push(text()?),
                4 => node.operator = text()?,
                5 => node.attributes.push(field.content?),
                _ => {}
            }
        }
        Some(node)
    }
}

/// A value's name, the first field of a `ValueInfoProto`.
pub(super) fn value_name(bytes: &[u8]) -> Option<&str> {
    let name = fields(bytes)?.into_iter().find(|field| field.number == 1)?.content?;
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value in any::<u64>()) {
            let mut bytes = Vec::new();
            put_varint(value, &mut bytes);
            prop_assert_eq!(varint(&bytes), Some((value, &[][..])));
        }
    }
}
