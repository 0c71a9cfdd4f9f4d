//! A graph that gives only the new keys and values, not all of them again.
//!
//! Exported decoders end each cache slot in `present = Concat(past, new)`. Who keeps the past himself needs
//! only `new`: the graph's outputs are pointed at it, so that the whole cache is no longer copied out at
//! every step. Nothing else changes; nodes that nobody needs any more are dropped by ONNX Runtime.

use std::collections::HashMap;

use super::signature::{PAST, PRESENT, slot};

/// A protobuf field: its number, its content if it is length-delimited, and its bytes as they stand.
struct Field<'a> {
    number: u64,
    content: Option<&'a [u8]>,
    whole: &'a [u8],
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
fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let start = bytes;
        let (tag, rest) = varint(bytes)?;
        let (content, rest) = match tag & 7 {
            0 => (None, varint(rest)?.1),
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
        found.push(Field { number: tag >> 3, content, whole });
        bytes = rest;
    }
    Some(found)
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
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
fn put(number: u64, content: &[u8], out: &mut Vec<u8>) {
    put_varint(number << 3 | 2, out);
    put_varint(u64::try_from(content.len()).unwrap_or(u64::MAX), out);
    out.extend_from_slice(content);
}

/// A node's operator, inputs and outputs.
#[derive(Default)]
struct Node<'a> {
    operator: &'a str,
    inputs: Vec<&'a str>,
    outputs: Vec<&'a str>,
}

impl<'a> Node<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut node = Self::default();
        for field in fields(bytes)? {
            let text = || field.content.and_then(|bytes| std::str::from_utf8(bytes).ok());
            match field.number {
                1 => node.inputs.push(text()?),
                2 => node.outputs.push(text()?),
                4 => node.operator = text()?,
                _ => {}
            }
        }
        Some(node)
    }
}

/// A value's name, the first field of a `ValueInfoProto`.
fn value_name(bytes: &[u8]) -> Option<&str> {
    let name = fields(bytes)?.into_iter().find(|field| field.number == 1)?.content?;
    std::str::from_utf8(name).ok()
}

/// The model with each output `present.N.key` or `.value` renamed to itself and computed from the new part
/// alone; `None` if a slot is made any other way, or the model is garbled.
pub(super) fn slim(model: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(model.len() + 4096);
    let mut graphs = 0;
    for field in fields(model)? {
        match (field.number, field.content) {
            (7, Some(graph)) => {
                graphs += 1;
                put(7, &slim_graph(graph)?, &mut out);
            }
            _ => out.extend_from_slice(field.whole),
        }
    }
    (graphs == 1).then_some(out)
}

/// The name that takes the place of an output's: `present.0.key` may be used inside the graph.
fn new_name(present: &str) -> String {
    format!("{present}{SUFFIX}")
}

/// What is put behind the names of slimmed outputs.
pub(super) const SUFFIX: &str = ".new";

fn slim_graph(graph: &[u8]) -> Option<Vec<u8>> {
    let fields = fields(graph)?;
    let nodes: Vec<Node<'_>> = fields
        .iter()
        .filter(|field| field.number == 1)
        .map(|field| Node::read(field.content?))
        .collect::<Option<_>>()?;
    let makers: HashMap<&str, &Node<'_>> =
        nodes.iter().flat_map(|node| node.outputs.iter().map(move |output| (*output, node))).collect();
    let (mut out, mut made) = (Vec::with_capacity(graph.len() + 4096), 0);
    for field in &fields {
        let output = field.content.filter(|_| field.number == 12);
        let Some(output) = output else {
            out.extend_from_slice(field.whole);
            continue;
        };
        let name = value_name(output)?;
        let Some(number) = slot(name, PRESENT) else {
            out.extend_from_slice(field.whole);
            continue;
        };
        let mut maker = makers.get(name)?;
        while maker.operator == "Identity" {
            maker = makers.get(maker.inputs.first()?)?;
        }
        let [past, new] = maker.inputs[..] else { return None };
        if maker.operator != "Concat" || slot(past, PAST) != Some(number) {
            return None;
        }
        // The output under its new name, the rest of its description (the type) as it is but the shape,
        // which ONNX Runtime only warns about when it differs: lengths are named axes.
        let mut value = Vec::with_capacity(output.len() + SUFFIX.len());
        for field in self::fields(output)? {
            match field.number {
                1 => put(1, new_name(name).as_bytes(), &mut value),
                _ => value.extend_from_slice(field.whole),
            }
        }
        put(12, &value, &mut out);
        let mut identity = Vec::new();
        put(1, new.as_bytes(), &mut identity);
        put(2, new_name(name).as_bytes(), &mut identity);
        put(3, format!("dandyroll.{name}").as_bytes(), &mut identity);
        put(4, b"Identity", &mut identity);
        put(1, &identity, &mut out);
        made += 1;
    }
    (made > 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_fixture_model_is_slimmed_and_little_else_changes() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let model = std::fs::read(folder.join("model/model.onnx")).unwrap();
        let slimmed = slim(&model).unwrap();
        assert!(slimmed.len() > model.len() && slimmed.len() < model.len() + 4096);
        for none in ["merged/decoder_model_merged.onnx", "no-past/model.onnx", "gqa-contrib/model.onnx"] {
            let model = std::fs::read(folder.join("layouts").join(none)).unwrap();
            assert!(slim(&model).is_none(), "{none}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = slim(&bytes);
            let mut graph = Vec::new();
            put(7, &bytes, &mut graph);
            let _ = slim(&graph);
            let mut node = Vec::new();
            put(1, &bytes, &mut node);
            put(12, &bytes, &mut node);
            let mut graph = Vec::new();
            put(7, &node, &mut graph);
            let _ = slim(&graph);
        }

        #[test]
        fn numbers_come_back(value in any::<u64>()) {
            let mut bytes = Vec::new();
            put_varint(value, &mut bytes);
            prop_assert_eq!(varint(&bytes), Some((value, &[][..])));
        }
    }
}
