//! A graph whose attention works in place on the caller's keys and values.
//!
//! Exported decoders spell attention out: `Concat(past, new)`, repeated heads, `MatMul`, scale, mask,
//! `Softmax`, `MatMul`. Each step copies the whole cache at least once, and a batch must be padded to one
//! length. ONNX Runtime has an operator for all of it, `com.microsoft.GroupQueryAttention`, which takes each
//! row's own length and writes the new keys and values into the past's own memory. [`fuse`] puts it in the
//! place of what it recognises; whether the result computes the same is tried out by who loads it.

use std::collections::{HashMap, HashSet};

use super::records::{Field, Node, fields, put, put_varint, value_name};
use super::signature::{PAST, PRESENT, Slot, slot_name};

/// The input with, for each row, its tokens less one.
pub(super) const LENGTHS: &str = "dandyroll.lengths";
/// The input with the longest row's tokens.
pub(super) const LONGEST: &str = "dandyroll.longest";

/// Operators that may stand between a cache slot and the product that uses it, or behind a product, without
/// changing more than shape, order and scale.
const SHAPES: [&str; 4] = ["Transpose", "Reshape", "Unsqueeze", "Expand"];

struct Graph<'a> {
    nodes: Vec<Node<'a>>,
    /// The node that makes a value.
    makers: HashMap<&'a str, usize>,
    /// The nodes that use a value.
    users: HashMap<&'a str, Vec<usize>>,
    /// Constants of one number.
    scalars: HashMap<&'a str, f32>,
}

/// The number in a tensor of one 32-bit float.
fn scalar(tensor: &[u8]) -> Option<f32> {
    let (mut count, mut kind, mut number) = (1_u64, 0, None);
    for field in fields(tensor)? {
        match (field.number, field.content) {
            (1, None) => count = count.checked_mul(field.value)?,
            (1, Some([length])) => count = count.checked_mul(u64::from(*length))?,
            (1, Some([])) => {}
            (1, Some(_)) => return None,
            (2, _) => kind = field.value,
            (4 | 9, Some(bytes)) => number = bytes.try_into().ok().map(f32::from_le_bytes),
            (4, None) => number = field.whole.last_chunk().copied().map(f32::from_le_bytes),
            _ => {}
        }
    }
    number.filter(|_| count == 1 && kind == 1)
}

fn tensor_name(tensor: &[u8]) -> Option<&str> {
    let name = fields(tensor)?.into_iter().find(|field| field.number == 8)?.content?;
    std::str::from_utf8(name).ok()
}

/// A whole-number attribute.
fn integer(node: &Node<'_>, wanted: &str) -> Option<u64> {
    node.attributes.iter().find_map(|attribute| {
        let fields = fields(attribute)?;
        let named = fields.iter().any(|field| field.number == 1 && field.content == Some(wanted.as_bytes()));
        named.then(|| fields.iter().find(|field| field.number == 3).map_or(0, |field| field.value))
    })
}

impl<'a> Graph<'a> {
    fn read(graph: &[Field<'a>]) -> Option<Self> {
        let mut found = Self {
            nodes: Vec::new(),
            makers: HashMap::new(),
            users: HashMap::new(),
            scalars: HashMap::new(),
        };
        for field in graph {
            match (field.number, field.content) {
                (1, Some(node)) => found.nodes.push(Node::read(node)?),
                (5, Some(tensor)) => {
                    if let (Some(name), Some(number)) = (tensor_name(tensor), scalar(tensor)) {
                        found.scalars.insert(name, number);
                    }
                }
                _ => {}
            }
        }
        for (i, node) in found.nodes.iter().enumerate() {
            found.makers.extend(node.outputs.iter().map(|output| (*output, i)));
            node.inputs.iter().for_each(|input| found.users.entry(input).or_default().push(i));
            if let ("Constant", [output], [attribute]) =
                (node.operator, &node.outputs[..], &node.attributes[..])
            {
                let value = fields(attribute)?.into_iter().find(|field| field.number == 5);
                if let Some(number) = value.and_then(|field| scalar(field.content?)) {
                    found.scalars.insert(output, number);
                }
            }
        }
        Some(found)
    }

    fn maker(&self, value: &str) -> Option<&Node<'a>> {
        self.nodes.get(*self.makers.get(value)?)
    }

    fn users(&self, value: &str) -> impl Iterator<Item = &Node<'a>> {
        self.users.get(value).into_iter().flatten().filter_map(|i| self.nodes.get(*i))
    }

    /// If the node multiplies or divides by a constant: the other input, and the factor.
    fn scaled(&self, node: &Node<'a>) -> Option<(&'a str, f32)> {
        let [a, b] = node.inputs[..] else { return None };
        match node.operator {
            "Mul" => match (self.scalars.get(a), self.scalars.get(b)) {
                (Some(factor), None) => Some((b, *factor)),
                (None, Some(factor)) => Some((a, *factor)),
                _ => None,
            },
            "Div" => self.scalars.get(b).map(|divisor| (a, 1.0 / divisor)),
            _ => None,
        }
    }

    /// From a value along shapes and scales to the product that has it as its second factor.
    fn product(&self, value: &'a str, scale: &mut f32) -> Option<&Node<'a>> {
        let mut value = value;
        for _ in 0..8 {
            if let Some(product) =
                self.users(value).find(|n| n.operator == "MatMul" && n.inputs.get(1) == Some(&value))
            {
                return Some(product);
            }
            let mut next = None;
            for node in self.users(value) {
                if SHAPES.contains(&node.operator) && node.inputs.first() == Some(&value) {
                    next = node.outputs.first().copied();
                } else if let Some((_, factor)) = self.scaled(node) {
                    *scale *= factor;
                    next = node.outputs.first().copied();
                }
            }
            value = next?;
        }
        None
    }

    /// From scores along scale, mask and shapes to the softmax's output.
    fn softmax(&self, scores: &'a str, scale: &mut f32) -> Option<&'a str> {
        let mut value = scores;
        let mut masked = false;
        for _ in 0..6 {
            let [user] = self.users(value).collect::<Vec<_>>()[..] else { return None };
            if let Some((_, factor)) = self.scaled(user) {
                // A factor behind the mask would scale that, too.
                if masked {
                    return None;
                }
                *scale *= factor;
            } else {
                match user.operator {
                    "Add" if !masked => masked = true,
                    "Reshape" if user.inputs.first() == Some(&value) => {}
                    "Softmax" => return user.outputs.first().copied(),
                    _ => return None,
                }
            }
            value = user.outputs.first().copied()?;
        }
        None
    }

    /// From the product back along shapes and scales to the queries `[rows, heads, tokens, width]`.
    fn queries(&self, value: &'a str, scale: &mut f32) -> Option<&'a str> {
        let mut value = value;
        for _ in 0..6 {
            let node = self.maker(value)?;
            if let Some((other, factor)) = self.scaled(node) {
                *scale *= factor;
                value = other;
            } else if node.operator == "Reshape" {
                value = node.inputs.first().copied()?;
            } else {
                return Some(value);
            }
        }
        None
    }

    /// From the last product along shapes to the value `[rows, tokens, heads · width]`.
    fn gathered(&self, value: &'a str) -> Option<&'a str> {
        let (mut value, mut turned, mut flat) = (value, false, None);
        for _ in 0..4 {
            let [user] = self.users(value).collect::<Vec<_>>()[..] else { return flat };
            let Some(next) = user.outputs.first().copied() else { return flat };
            match user.operator {
                "Transpose" => turned = true,
                "Reshape" if turned => flat = Some(next),
                "Reshape" => {}
                _ => return flat,
            }
            value = next;
        }
        flat
    }

    /// The attention of one layer.
    fn attention(&self, layer: usize) -> Option<Attention<'a>> {
        let join = |number: usize| {
            let past = slot_name(PAST, number);
            let node =
                self.users(&past).find(|n| n.operator == "Concat" && n.inputs.first() == Some(&&*past))?;
            let axis = integer(node, "axis")?;
            // 2, or −2 of four.
            let joins = node.inputs.len() == 2 && (axis == 2 || axis == u64::MAX - 1);
            joins.then_some((*node.inputs.get(1)?, *node.outputs.first()?))
        };
        let ((keys, all_keys), (values, all_values)) = (join(2 * layer)?, join(2 * layer + 1)?);
        let mut scale = 1.0;
        let scores = self.product(all_keys, &mut scale)?;
        let queries = self.queries(scores.inputs.first()?, &mut scale)?;
        let weights = self.softmax(scores.outputs.first()?, &mut scale)?;
        let mut none = 1.0;
        let context = self.product(all_values, &mut none)?;
        if context.inputs.first() != Some(&weights) || none.to_bits() != 1_f32.to_bits() {
            return None;
        }
        let output = self.gathered(context.outputs.first()?)?;
        (scale.is_finite() && scale > 0.0).then_some(Attention { queries, keys, values, scale, output })
    }
}

/// What the operator takes and gives.
struct Attention<'a> {
    queries: &'a str,
    keys: &'a str,
    values: &'a str,
    scale: f32,
    output: &'a str,
}

fn put_number(field: u64, value: u64, out: &mut Vec<u8>) {
    put_varint(field << 3, out);
    put_varint(value, out);
}

fn node(operator: &str, domain: &str, inputs: &[&str], outputs: &[&str], attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    inputs.iter().for_each(|input| put(1, input.as_bytes(), &mut out));
    outputs.iter().for_each(|output| put(2, output.as_bytes(), &mut out));
    put(3, format!("{}.fused", outputs.first().unwrap_or(&"")).as_bytes(), &mut out);
    put(4, operator.as_bytes(), &mut out);
    attributes.iter().for_each(|attribute| put(5, attribute, &mut out));
    if !domain.is_empty() {
        put(7, domain.as_bytes(), &mut out);
    }
    out
}

fn whole(name: &str, value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    put(1, name.as_bytes(), &mut out);
    put_number(3, u64::try_from(value).unwrap_or(0), &mut out);
    put_number(20, 2, &mut out);
    out
}

fn fraction(name: &str, value: f32) -> Vec<u8> {
    let mut out = Vec::new();
    put(1, name.as_bytes(), &mut out);
    put_varint(2 << 3 | 5, &mut out);
    out.extend_from_slice(&value.to_le_bytes());
    put_number(20, 1, &mut out);
    out
}

fn order(axes: [u64; 4]) -> Vec<u8> {
    let mut out = Vec::new();
    put(1, b"perm", &mut out);
    axes.into_iter().for_each(|axis| put_number(8, axis, &mut out));
    put_number(20, 7, &mut out);
    out
}

/// A graph input of 32-bit whole numbers: one for each row, or one.
fn input(name: &str, rows: bool) -> Vec<u8> {
    let (mut shape, mut tensor, mut kind, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    if rows {
        let mut axis = Vec::new();
        put(2, b"dandyroll.rows", &mut axis);
        put(1, &axis, &mut shape);
    }
    put_number(1, 6, &mut tensor);
    put(2, &shape, &mut tensor);
    put(1, &tensor, &mut kind);
    put(1, name.as_bytes(), &mut out);
    put(2, &kind, &mut out);
    out
}

/// The model with [`LENGTHS`] and [`LONGEST`] as further inputs and the operator in the place of every
/// layer's attention; `None` if one is not recognised, or the model is garbled.
pub(super) fn fuse(model: &[u8], heads: usize, slots: &[Slot]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(model.len() + (1 << 16));
    let (mut graphs, mut knows) = (0, false);
    for field in fields(model)? {
        match (field.number, field.content) {
            (7, Some(graph)) => {
                graphs += 1;
                put(7, &fuse_graph(graph, heads, slots)?, &mut out);
            }
            (8, Some(set)) => {
                knows |= fields(set)?.iter().any(|field| field.content == Some(b"com.microsoft"));
                out.extend_from_slice(field.whole);
            }
            _ => out.extend_from_slice(field.whole),
        }
    }
    if !knows {
        let mut set = Vec::new();
        put(1, b"com.microsoft", &mut set);
        put_number(2, 1, &mut set);
        put(8, &set, &mut out);
    }
    (graphs == 1).then_some(out)
}

fn fuse_graph(bytes: &[u8], heads: usize, slots: &[Slot]) -> Option<Vec<u8>> {
    let fields = fields(bytes)?;
    let graph = Graph::read(&fields)?;
    let layers = slots.len() / 2;
    let found: Vec<Attention<'_>> = (0..layers).map(|layer| graph.attention(layer)).collect::<Option<_>>()?;
    if found.is_empty() {
        return None;
    }
    // The operator makes these now.
    let presents: Vec<String> = (0..slots.len()).map(|number| slot_name(PRESENT, number)).collect();
    let mut made: HashSet<&str> = presents.iter().map(String::as_str).collect();
    made.extend(found.iter().map(|attention| attention.output));
    let mut out = Vec::with_capacity(bytes.len() + (1 << 14));
    let put_fused = |layer: usize, out: &mut Vec<u8>| -> Option<()> {
        let Attention { queries, keys, values, scale, output } = found.get(layer)?;
        let kv_heads = slots.get(2 * layer)?.heads;
        let flat = ["q", "k", "v"].map(|part| format!("dandyroll.{layer}.{part}"));
        for (value, flat) in [queries, keys, values].into_iter().zip(&flat) {
            let turned = format!("{flat}.turned");
            put(1, &node("Transpose", "", &[value], &[&turned], &[order([0, 2, 1, 3])]), out);
            put(1, &node("Reshape", "", &[&turned, FLAT], &[flat], &[]), out);
        }
        let [past_keys, past_values] = [0, 1].map(|part| slot_name(PAST, 2 * layer + part));
        let [q, k, v] = &flat;
        let inputs = [q, k, v, past_keys.as_str(), &past_values, LENGTHS, LONGEST];
        let outputs: [&str; 3] = [output, presents.get(2 * layer)?, presents.get(2 * layer + 1)?];
        let attributes =
            [whole("num_heads", heads), whole("kv_num_heads", kv_heads), fraction("scale", *scale)];
        put(1, &node("GroupQueryAttention", "com.microsoft", &inputs, &outputs, &attributes), out);
        Some(())
    };
    let needed = needed(&fields, &graph, &found, &made)?;
    for field in &fields {
        match (field.number, field.content) {
            (1, Some(bytes)) => {
                let node = Node::read(bytes)?;
                // In the place of what made its output: what it needs was made before.
                let layer = found.iter().position(|attention| node.outputs.contains(&attention.output));
                match layer {
                    Some(layer) => put_fused(layer, &mut out)?,
                    None if node.outputs.iter().any(|output| made.contains(output)) => {}
                    None if !node.outputs.iter().any(|output| needed.contains(output)) => {}
                    None => out.extend_from_slice(field.whole),
                }
            }
            _ => out.extend_from_slice(field.whole),
        }
    }
    put(11, &input(LENGTHS, true), &mut out);
    put(11, &input(LONGEST, false), &mut out);
    // [0, 0, −1]: rows and tokens as they are, heads and width in one.
    let mut shape = Vec::new();
    put_number(1, 3, &mut shape);
    put_number(2, 7, &mut shape);
    put(8, FLAT.as_bytes(), &mut shape);
    put(9, &[0_i64, 0, -1].map(i64::to_le_bytes).concat(), &mut shape);
    put(5, &shape, &mut out);
    Some(out)
}

/// The values that the graph's outputs need, with attention as `found` and everything in `made` made by it.
/// ONNX Runtime would run what is left of the old attention. `None` for graphs in graphs, whose needs are
/// not looked into.
fn needed<'a>(
    fields: &[Field<'a>],
    graph: &Graph<'a>,
    found: &[Attention<'a>],
    made: &HashSet<&str>,
) -> Option<HashSet<&'a str>> {
    let mut open: Vec<&'a str> = fields
        .iter()
        .filter(|field| field.number == 12)
        .map(|field| value_name(field.content?))
        .collect::<Option<_>>()?;
    open.extend(found.iter().flat_map(|a| [a.queries, a.keys, a.values]));
    let mut needed = HashSet::new();
    while let Some(value) = open.pop() {
        if made.contains(value) || !needed.insert(value) {
            continue;
        }
        if let Some(node) = graph.maker(value) {
            for attribute in &node.attributes {
                if self::fields(attribute)?.iter().any(|field| matches!(field.number, 6 | 11)) {
                    return None;
                }
            }
            open.extend(&node.inputs);
        }
    }
    Some(needed)
}

const FLAT: &str = "dandyroll.flat";

#[cfg(test)]
mod tests {
    use super::super::signature::Float;
    use super::*;
    use proptest::prelude::*;

    fn slots(layers: usize, heads: usize, width: usize) -> Vec<Slot> {
        vec![Slot { heads, width, float: Float::F32 }; 2 * layers]
    }

    #[test]
    fn spelled_out_attention_is_recognised() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
        let model = read("model/model.onnx");
        let fused = fuse(&model, 8, &slots(5, 4, 32)).unwrap();
        let operators = fused.windows(19).filter(|bytes| bytes == b"GroupQueryAttention").count();
        assert_eq!(operators, 5);
        assert!(fuse(&model, 8, &slots(6, 4, 32)).is_none(), "a layer that is not there");
        assert!(fuse(&read("layouts/llama-gqa/model.onnx"), 4, &slots(2, 2, 8)).is_some());
        assert!(fuse(&read("layouts/gpt2/model.onnx"), 4, &slots(2, 4, 8)).is_some());
        assert!(fuse(&read("layouts/gqa-contrib/model.onnx"), 4, &slots(2, 2, 8)).is_none());
        assert!(fuse(&read("layouts/merged/decoder_model_merged.onnx"), 4, &slots(2, 4, 8)).is_none());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let layout = slots(1, 1, 1);
            let _ = fuse(&bytes, 1, &layout);
            for field in [1, 5, 11, 12] {
                let (mut inner, mut graph) = (Vec::new(), Vec::new());
                put(field, &bytes, &mut inner);
                put(7, &inner, &mut graph);
                let _ = fuse(&graph, 1, &layout);
            }
            let _ = scalar(&bytes);
        }
    }
}
