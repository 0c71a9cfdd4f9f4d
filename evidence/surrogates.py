#!/usr/bin/env python3
"""Makes cheaper models out of the fixture model, to read entropies with: target/evidence/surrogates/NAME.

    python3 x.py evidence modes     calls this, measures, draws

int8           weights of the matrix products in 8 bits, by ONNX Runtime's dynamic quantisation
three-layers   two of the five layers left out, nothing trained again: a poor model, as a surrogate may be
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

ROOT = Path(__file__).resolve().parent.parent
MODEL, TARGET = ROOT / "fixtures" / "model", ROOT / "target" / "evidence" / "surrogates"
KEPT = [0, 1, 4]


def folder(name: str) -> Path:
    made = TARGET / name
    made.mkdir(parents=True, exist_ok=True)
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]:
        shutil.copyfile(MODEL / file, made / file)
    return made


def int8() -> None:
    quantize_dynamic(MODEL / "model.onnx", folder("int8") / "model.onnx", weight_type=QuantType.QInt8)


def three_layers() -> None:
    made = folder("three-layers")
    model = onnx.load(MODEL / "model.onnx")
    graph = model.graph
    layers = json.loads((MODEL / "config.json").read_text())["num_hidden_layers"]
    # What each layer leaves in the residual stream, and what the first finds there.
    after = {}
    for layer in range(layers):
        down = next(node.output[0] for node in graph.node if f"layers.{layer}.down" in node.input)
        after[layer] = next(node.output[0] for node in graph.node if node.op_type == "Add" and down in node.input)
    rest = {after[layers - 1]: after[KEPT[-1]]}
    for place, layer in enumerate(KEPT[1:], start=1):
        rest[after[layer - 1]] = after[KEPT[place - 1]]
    producer = {name: node for node in graph.node for name in node.output}

    def inside(name: str, layer: int) -> bool:
        """Whether a node reads the residual stream for this layer, or behind the last one."""
        return name in rest and layer in KEPT

    # A node belongs to the layer whose weights come next behind it, so walk by the order of the graph.
    order = {after[layer]: layer for layer in range(layers)}
    current = 0
    for node in graph.node:
        for place, name in enumerate(node.input):
            if inside(name, current) or (current == layers and name in rest):
                node.input[place] = rest[name]
        for name in node.output:
            if name in order:
                current = order[name] + 1
    wanted = ["logits"] + [f"present.{layer}.{part}" for layer in KEPT for part in ("key", "value")]
    needed, stack = set(), list(wanted)
    while stack:
        name = stack.pop()
        node = producer.get(name)
        if name not in needed:
            needed.add(name)
            stack += list(node.input) if node else []
    rename = {}
    for place, layer in enumerate(KEPT):
        for part in ("key", "value"):
            rename[f"past_key_values.{layer}.{part}"] = f"past_key_values.{place}.{part}"
            rename[f"present.{layer}.{part}"] = f"present.{place}.{part}"
    nodes = [node for node in graph.node if any(name in needed for name in node.output)]
    inputs = [value for value in graph.input if value.name in needed]
    outputs = [value for value in graph.output if value.name in wanted]
    weights = [value for value in graph.initializer if value.name in needed]
    for node in nodes:
        node.input[:] = [rename.get(name, name) for name in node.input]
        node.output[:] = [rename.get(name, name) for name in node.output]
    for value in [*inputs, *outputs]:
        value.name = rename.get(value.name, value.name)
    for field, values in [("node", nodes), ("input", inputs), ("output", outputs), ("initializer", weights)]:
        kept = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    graph.ClearField("value_info")
    onnx.checker.check_model(model)
    onnx.save(model, made / "model.onnx")
    config = json.loads((made / "config.json").read_text())
    config["num_hidden_layers"] = len(KEPT)
    (made / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    # It warns that a model should be simplified first; this one is small.
    logging.getLogger().setLevel(logging.ERROR)
    int8()
    three_layers()
