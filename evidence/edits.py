#!/usr/bin/env python3
"""Edits the texts of the pool as people and programs edit text: target/evidence/pool → target/evidence/edited.

    python3 x.py evidence robust     generates, calls this, judges, draws

One JSON line for each document and edit. The draws of an edit depend on seed, edit, strength and document, not on
the arm, so that arms are edited alike. Edits of single tokens, fragments and dilution need the tokenizer and are
made by `dandyroll-evidence robust`.
"""

from __future__ import annotations

import ast
import io
import json
import random
import re
import sys
import tokenize
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import black

from parsing import closed, depth_of, longest_function, parsed_share, parses

ROOT = Path(__file__).resolve().parent.parent
POOL, EDITED = ROOT / "target" / "evidence" / "pool", ROOT / "target" / "evidence" / "edited"
SEED = 20261125
WORD = re.compile(r"[^\W\d]\w*")
# Letters that look alike in Latin and Cyrillic.
HOMOGLYPHS = str.maketrans("aceopxyABCEHKMOPTX", "асеорхуАВСЕНКМОРТХ")
ZERO_WIDTH = "\u200b\u200c\u200d\u2060"


def words_of(name: str) -> list[str]:
    """Every word of a human corpus, as often as it occurs."""
    lines = (ROOT / "fixtures" / "corpora" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [word for line in lines for word in WORD.findall(json.loads(line)["text"])]


# ---- what can be done to any text ----------------------------------------------------------------------------

def substitute_words(text: str, share: float, draw: random.Random, words: list[str]) -> str:
    return WORD.sub(lambda m: draw.choice(words) if draw.random() < share else m[0], text)


def delete_words(text: str, share: float, draw: random.Random, _: list[str]) -> str:
    return re.sub(WORD.pattern + " ?", lambda m: "" if draw.random() < share else m[0], text)


def insert_words(text: str, share: float, draw: random.Random, words: list[str]) -> str:
    return WORD.sub(lambda m: f"{draw.choice(words)} {m[0]}" if draw.random() < share else m[0], text)


def each_character(text: str, share: float, draw: random.Random, change: Callable[[str], str]) -> str:
    return "".join(change(c) if draw.random() < share else c for c in text)


def flip_case(text: str, share: float, draw: random.Random, _: list[str]) -> str:
    return each_character(text, share, draw, str.swapcase)


def homoglyphs(text: str, share: float, draw: random.Random, _: list[str]) -> str:
    return each_character(text, share, draw, lambda c: c.translate(HOMOGLYPHS))


def zero_width(text: str, share: float, draw: random.Random, _: list[str]) -> str:
    return each_character(text, share, draw, lambda c: c + draw.choice(ZERO_WIDTH))


def delete_lines(text: str, share: float, draw: random.Random, _: list[str]) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if draw.random() >= share)


def delete_sentences(text: str, share: float, draw: random.Random, _: list[str]) -> str:
    return "".join(part for part in re.split(r"(?<=[.!?:])(?=\s)", text) if draw.random() >= share)


def shuffle_sentences(text: str, _share: None, draw: random.Random, _: list[str]) -> str:
    parts = re.split(r"(?<=[.!?:])(?=\s)", text)
    draw.shuffle(parts)
    return "".join(parts)


# ---- what can be done to Python ------------------------------------------------------------------------------

def without(source: str, doomed: Callable[[tokenize.TokenInfo], bool]) -> str:
    """The source without some tokens; a line that held nothing else goes with it."""
    lines = source.splitlines(keepends=True)
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(source).readline))):
        if doomed(token):
            row, column = token.start[0] - 1, token.start[1]
            left, right = lines[row][:column], lines[row][token.end[1]:]
            rest = left.rstrip() + right
            lines[row] = rest if rest.strip() else ""
    return "".join(lines)


def strip_comments(source: str) -> str:
    return without(source, lambda token: token.type == tokenize.COMMENT)


def strip_docstrings(source: str) -> str:
    """Docstrings become `pass`, which keeps every body a body."""
    lines = source.splitlines(keepends=True)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [node.body[0] for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    for node in sorted(found, key=lambda node: -node.lineno):
        is_string = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        alone = not lines[node.lineno - 1][: node.col_offset].strip()
        if is_string and alone:
            lines[node.lineno - 1: node.end_lineno] = [" " * node.col_offset + "pass\n"]
    return "".join(lines)


def rename(source: str, share: float, draw: random.Random) -> str:
    """Renames a share of the names that the source binds itself, each everywhere it stands."""
    tree = ast.parse(source)
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    bound -= {"self", "cls"} | {name for name in bound if name.startswith("__")}
    # Whether a name is renamed hangs on the name alone: the same in every arm's text.
    chosen = {name for name in sorted(bound) if random.Random(f"{SEED}:{name}").random() < share}
    fresh = {name: f"{draw.choice('abcdefghkmnprstvw')}{draw.choice('aeiou')}{draw.choice('bdklmnrst')}_{i}"
             for i, name in enumerate(sorted(chosen))}
    keywords = {(k.lineno, k.col_offset) for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg}
    lines = source.splitlines(keepends=True)
    before = ""
    places = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string in fresh and before != "." and token.start not in keywords:
            places.append(token)
        before = token.string
    for token in reversed(places):
        row, column = token.start[0] - 1, token.start[1]
        lines[row] = lines[row][:column] + fresh[token.string] + lines[row][token.end[1]:]
    return "".join(lines)


def reindent(source: str, unit: str) -> str:
    def change(line: str) -> str:
        depth = len(line) - len(line.lstrip(" "))
        return unit * (depth // 4) + " " * (depth % 4) + line[depth:]
    return "".join(change(line) for line in source.splitlines(keepends=True))


def formatted(source: str) -> str:
    return black.format_str(source, mode=black.Mode())


# ---- documents -----------------------------------------------------------------------------------------------

class Module:
    """Functions of one document, as far as they parse."""

    def __init__(self, parts: list[dict]):
        self.depth = depth_of(parts[0]["prompt"])
        functions = [longest_function(part["prompt"], part["text"]) for part in parts]
        self.functions = [function for function in functions if function]

    def text(self, functions: list[str] | None = None) -> str:
        functions = self.functions if functions is None else functions
        head = "" if self.depth == 0 else "class Module:\n"
        return head + ("\n\n" if self.depth == 0 else "\n").join(functions)

    def reordered(self, draw: random.Random) -> str:
        functions = list(self.functions)
        while functions == self.functions and len(functions) > 1:
            draw.shuffle(functions)
        return self.text(functions)


SHARES = (0.05, 0.1, 0.2, 0.4)
ANY = [
    ("words substituted", SHARES, substitute_words),
    ("words deleted", SHARES, delete_words),
    ("words inserted", SHARES, insert_words),
    ("letters' case flipped", (0.01, 0.05, 0.2), flip_case),
    ("homoglyphs", (0.01, 0.05, 0.2), homoglyphs),
    ("zero-width characters", (0.05, 0.5), zero_width),
    ("all lower case", (None,), lambda text, *_: text.lower()),
    ("CRLF", (None,), lambda text, *_: text.replace("\n", "\r\n")),
    ("decomposed (NFD)", (None,), lambda text, *_: unicodedata.normalize("NFD", text)),
    ("trailing spaces", (None,), lambda text, *_: text.replace("\n", "  \n")),
    ("blank lines dropped", (None,), lambda text, *_: re.sub(r"\n\s*\n", "\n", text)),
]
PROSE = [
    ("sentences deleted", (0.25, 0.5), delete_sentences),
    ("sentences shuffled", (None,), shuffle_sentences),
    ("lines joined", (None,), lambda text, *_: re.sub(r"\s*\n\s*", " ", text)),
    ("spaces doubled", (None,), lambda text, *_: text.replace(" ", "  ")),
    ("punctuation dropped", (None,), lambda text, *_: re.sub(r"[^\w\s]", "", text)),
]
CODE = [
    ("lines deleted", (0.1, 0.3, 0.5), delete_lines),
    ("indented by 2", (None,), lambda text, *_: reindent(text, "  ")),
    ("indented by tabs", (None,), lambda text, *_: reindent(text, "\t")),
    ("comments stripped", (None,), lambda text, *_: strip_comments(text)),
    ("comments, docstrings stripped", (None,), lambda text, *_: strip_docstrings(strip_comments(text))),
    ("black", (None,), lambda text, *_: formatted(text)),
    ("names renamed", (0.25, 0.5, 1.0), lambda text, share, draw, _: rename(text, share, draw)),
    ("stripped, renamed, black", (None,), lambda text, _s, draw, _w:
        formatted(rename(strip_docstrings(strip_comments(text)), 1.0, draw))),
]
# After these the text must still be Python.
KEEP_PARSING = {name for name, _, _ in CODE if name != "lines deleted"} | {"functions reordered", "blank lines dropped"}


def edits(kind: str, number: int, text: str, module: Module | None, words: list[str]) -> Iterator[dict]:
    yield {"document": number, "edit": "none", "strength": None, "text": text}
    for name, strengths, change in ANY + (CODE if module else PROSE):
        for strength in strengths:
            draw = random.Random(f"{SEED}:{kind}:{name}:{strength}:{number}")
            yield {"document": number, "edit": name, "strength": strength, "text": change(text, strength, draw, words)}
    if module:
        draw = random.Random(f"{SEED}:{kind}:functions reordered:{number}")
        yield {"document": number, "edit": "functions reordered", "strength": None, "text": module.reordered(draw)}


def edit_arm(kind: str, name: str, words: list[str]) -> None:
    source = POOL / f"{kind}-{name}.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    header, rows = rows[0], rows[1:]
    documents: dict[int, list[dict]] = {}
    for row in rows:
        documents.setdefault(row["document"], []).append(row)
    EDITED.mkdir(parents=True, exist_ok=True)
    dropped = 0
    with (EDITED / f"{kind}-{name}.jsonl").open("w", encoding="utf-8") as out:
        shares = [parsed_share(row["prompt"], row["text"]) for row in rows] if kind == "modules" else []
        # The texts this was made from, and how many of their lines are Python.
        lines = sum(shares) / len(shares) if shares else None
        print(json.dumps({"made_from": header, "lines": lines}), file=out)
        for number, parts in documents.items():
            module = Module(parts) if kind == "modules" else None
            text = module.text() if module else parts[0]["text"]
            if module and (len(module.functions) < 2 or closed(text) != text):
                dropped += 1
                continue
            for edit in edits(kind, number, text, module, words):
                if module and edit["edit"] in KEEP_PARSING and not parses(edit["text"]):
                    raise SystemExit(f"{kind} {name} document {number}: {edit['edit']} broke the code")
                print(json.dumps(edit, ensure_ascii=False), file=out)
    print(f"{kind} {name}: {len(documents) - dropped} documents edited, {dropped} left out", file=sys.stderr)


def main() -> None:
    for kind, corpus in [("prose", "prose_heldout"), ("modules", "python_heldout")]:
        words = words_of(corpus)
        for path in sorted(POOL.glob(f"{kind}-*.jsonl")):
            edit_arm(kind, path.stem.removeprefix(f"{kind}-"), words)


if __name__ == "__main__":
    main()
