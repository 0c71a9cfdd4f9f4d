//! A graph that gives only the new keys and values, not all of them again.
//!
//! Exported decoders end each cache slot in `present = Concat(past, new)`. Who keeps the past himself needs
//! only `new`: the graph's outputs are pointed at it, so that the whole cache is no longer copied out at
//! every step. Nothing else changes; nodes that nobody needs any more are dropped by ONNX Runtime.

use std::collections::HashMap;

use super::records::{Node, fields, put, value_name};
use super::signature::{PAST, PRESENT, slot};

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
    }
}
