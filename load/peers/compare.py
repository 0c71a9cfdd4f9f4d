"""Ours and the peers on the same ids, texts and model file, in turns within one session: a table of ratios.

    python compare.py LIBRARY OUT [--rounds N]

The Python that runs it has requirements.txt installed (`x.py peers` sees to that); LIBRARY is the program
`dandyroll-library`. Both sides use one thread. Each round measures one side right after the other, every second one
in the opposite order, and the ratio is taken round by round: what slows the machine slows both; `ratio_on_core` is of the threads' time on a core. Which of a side's
forms is compared is the fast one: the peers' detector keeps its cache of scores (cleared before each round, as a
new text would find it), ONNX Runtime's Python gets its past back without a copy, and picks the likeliest token.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnxruntime
import torch
import transformers
from tokenizers import Tokenizer
from transformers import PretrainedConfig, WatermarkDetector, WatermarkingConfig
from transformers.generation.logits_process import WatermarkLogitsProcessor

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "fixtures" / "model"
TEXTS = 4
TOKENS = 300
GENERATED = 64


# Seconds by the clock, and on a core: the latter leave out what other programs on the machine took.
Took = tuple[float, float]


class Ours:
    """`dandyroll-library peer`: it times itself, without the pipe between us."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [program, "peer", "--model", MODEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def ask(self, what: str, **more: object) -> dict:
        self.process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("dandyroll-library ended")
        return json.loads(line)

    def seconds(self, what: str, times: int, **more: object) -> Took:
        answer = self.ask(what, times=times, **more)
        return answer["seconds"] / times, answer["on_core"] / times


class OnnxPython:
    """Greedy decoding of one text after another, the past handed back as the engine's own values."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(MODEL / "model.onnx"), options, ["CPUExecutionProvider"])
        self.past = [i.name for i in self.session.get_inputs() if i.name.startswith("past_key_values")]
        self.heads = {i.name: (i.shape[1], i.shape[3]) for i in self.session.get_inputs() if i.name in self.past}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def generate(self, prompt: list[int], tokens: int) -> list[int]:
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        past = {n: value(np.zeros((1, h, 0, d), np.float32)) for n, (h, d) in self.heads.items()}
        ids, length, made = np.array([prompt], np.int64), len(prompt), []
        position = np.arange(length, dtype=np.int64)[None]
        while True:
            feed = {
                "input_ids": value(ids),
                "attention_mask": value(np.ones((1, length), np.int64)),
                "position_ids": value(position),
                **past,
            }
            out = dict(zip(self.outputs, self.session.run_with_ort_values(self.outputs, feed)))
            token = int(out["logits"].numpy()[0, -1].argmax())
            made.append(token)
            if len(made) == tokens:
                return made
            past = {n: out[n.replace("past_key_values", "present")] for n in self.past}
            ids, position = np.array([[token]], np.int64), np.array([[length]], np.int64)
            length += 1


def clock(work, times: int = 1) -> Took:
    start, before = time.perf_counter(), time.thread_time()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times, (time.thread_time() - before) / times


def spread(values: list[float]) -> dict:
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"runs": len(values), "least": min(values), "lower": lower, "median": median, "upper": upper, "most": max(values)}


def in_turns(rounds: int, peer, ours) -> dict:
    """Seconds of each side for the same work; ratios are how many times faster ours is."""
    peer(), ours()
    peers, own = [], []
    for number in range(rounds):
        sides = [(peers, peer), (own, ours)]
        for seconds, measure in sides if number % 2 == 0 else sides[::-1]:
            seconds.append(measure())
    ratios = lambda clock: spread([p[clock] / o[clock] for p, o in zip(peers, own)])
    on_core = lambda side: spread([seconds[1] for seconds in side])
    return {"peer_seconds_on_core": on_core(peers), "our_seconds_on_core": on_core(own), "ratio": ratios(0), "ratio_on_core": ratios(1)}


def calibrated(ours: Ours, what: str, **more: object) -> int:
    """Repetitions that take about 0.2 s: a thread's time on a core is counted in ticks of some milliseconds."""
    return max(1, int(0.2 / max(ours.seconds(what, 20, **more)[0], 1e-6)))


def texts_of(tokenizer: Tokenizer, count: int) -> list[str]:
    lines = (ROOT / "fixtures" / "corpora" / "prose_heldout.jsonl").read_text().splitlines()
    documents = [json.loads(line)["text"] for line in lines]
    found = []
    for first in range(count):
        text = "\n".join(documents[first * 20 : first * 20 + 3])
        found.append(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids[:TOKENS]))
    return found


def detector(vocabulary: int) -> WatermarkDetector:
    config = PretrainedConfig(vocab_size=vocabulary, bos_token_id=vocabulary - 1, is_encoder_decoder=False)
    marks = WatermarkingConfig(greenlist_ratio=0.25, bias=2.0, seeding_scheme="lefthash", context_width=1)
    return WatermarkDetector(config, "cpu", marks)


def measure(ours: Ours, rounds: int) -> list[dict]:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    texts = texts_of(tokenizer, TEXTS)
    ids = [encode(text) for text in texts]
    if ours.ask("texts", texts=texts)["ids"] != ids:
        raise SystemExit("the two sides tokenise these texts differently: nothing to compare")
    ours.ask("ids", ids=ids)
    rows = []

    def row(what: str, peer_name: str, floor: float | None, aim: float | None, result: dict) -> None:
        rows.append({"what": what, "peer": peer_name, "floor": floor, "aim": aim, **result})
        ratio = result["ratio_on_core"]
        print(f"{what}, against {peer_name}: {ratio['median']:.4g} ({ratio['lower']:.4g} – {ratio['upper']:.4g})", flush=True)

    def peer_ids(vocabulary: int):
        def once() -> Took:
            found = detector(vocabulary)
            batches = [torch.tensor([one]) for one in ids]
            return clock(lambda: [found(batch, return_dict=True) for batch in batches])

        return once

    def peer_texts(vocabulary: int):
        def once() -> Took:
            found = detector(vocabulary)
            return clock(lambda: [found(torch.tensor([encode(text)]), return_dict=True) for text in texts])

        return once

    own_vocabulary = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    times = calibrated(ours, "detect_ids")
    own = lambda: ours.seconds("detect_ids", times)
    name = "transformers WatermarkDetector"
    row("detection, ids in", f"{name}, V = 50 257", 2000, 10000, in_turns(rounds, peer_ids(50_257), own))
    row("detection, ids in", f"{name}, V = {own_vocabulary}", None, None, in_turns(rounds, peer_ids(own_vocabulary), own))
    text_times = calibrated(ours, "detect_texts")
    own_text = lambda: ours.seconds("detect_texts", text_times)
    row("detection, text in", f"{name} and its tokenizer, V = 50 257", 1000, 5000, in_turns(rounds, peer_texts(50_257), own_text))
    encode_times = calibrated(ours, "encode")
    bare = lambda: ours.seconds("encode", encode_times)
    row("detection, text in", "bare tokenizers 1.x encoder", 0.25, 0.5, in_turns(rounds, bare, own_text))
    encode_all = lambda: clock(lambda: [encode(text) for text in texts], 20)
    row("tokenising", "tokenizers 0.23 for Python", None, None, in_turns(rounds, encode_all, bare))

    for width, floor in ((50_257, None), (151_936, None)):
        processor = WatermarkLogitsProcessor(width, "cpu", 0.25, 2.0, seeding_scheme="lefthash", context_width=1)
        scores, last = torch.randn(1, width), torch.tensor([[3, 4, 5]])
        processor(last, scores)
        steps = lambda: clock(lambda: processor(last, scores), 20)
        bias_times = calibrated(ours, "bias", width=width)
        row(f"marking a step, V = {width}", "transformers WatermarkLogitsProcessor", floor, None,
            in_turns(rounds, steps, lambda: ours.seconds("bias", bias_times, width=width)))

    lines = (ROOT / "fixtures" / "corpora" / "prompts.jsonl").read_text().splitlines()[:8]
    prompts = [encode(json.loads(line)["text"]) for line in lines]
    python = OnnxPython()
    made = {}

    def peer_generates() -> Took:
        return clock(lambda: made.update(peer=[python.generate(prompt, GENERATED) for prompt in prompts]))

    def we_generate(marked: bool, together: int):
        def once() -> Took:
            answer = ours.ask("generate", prompts=prompts, tokens=GENERATED, marked=marked, together=together)
            made["ours"] = answer["ids"]
            return answer["seconds"], answer["on_core"]

        return once

    name = "onnxruntime for Python, one text at a time"
    for what, marked, together, floor, aim in (
        ("generation, unmarked", False, 1, 1.0, 1.3),
        ("generation, marked", True, 1, 1.0, 1.3),
        ("generation, marked, eight together", True, 8, None, 4.0),
    ):
        row(what, name, floor, aim, in_turns(max(3, rounds // 2), peer_generates, we_generate(marked, together)))
        if not marked:
            rows[-1]["same_ids"] = made["peer"] == made["ours"]
            print(f"  the likeliest tokens are the same: {rows[-1]['same_ids']}", flush=True)
    return rows


def machine() -> dict:
    processor = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    return {"processor": processor, "cores": len(os.sched_getaffinity(0)), "system": f"{platform.system()} {platform.machine()}",
            "load_average": os.getloadavg()[0]}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("library", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--rounds", type=int, default=7)
    given = arguments.parse_args()
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    report = {
        "command": f"x.py peers --rounds {given.rounds}",
        "commit": git("rev-parse", "HEAD"),
        "modified": bool(git("status", "--porcelain")),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, onnxruntime, np)} | {"python": platform.python_version()},
        "texts": TEXTS, "tokens": TOKENS, "generated": GENERATED,
    }
    report["rows"] = measure(Ours(given.library), given.rounds)
    report["load_average_after"] = os.getloadavg()[0]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
