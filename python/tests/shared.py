"""Fixtures for the package and the engines: keys of fixed masters, held-out texts, marked texts, the command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORPORA = ROOT / "fixtures" / "corpora"
MODEL = ROOT / "fixtures" / "model"
sys.path.insert(0, str(ROOT / "fixtures" / "prf"))

# The independent implementation of the keyed function: standard library only, no code of the package.
import prf_v1  # noqa: E402

MakeKey = Callable[..., Path]
MANY = 10_000
HARD = ["", " ", "short", None, "CR\r\nLF \u200bzero\u0301 wi\ufeffdth", "\U0001f9f5 " * 300, "a" * 5000, "\0null\0"]


def master_of(name: str) -> bytes:
    """The master of the test key of this name. Public: never use one."""
    return hashlib.sha256(f"dandyroll python tests: {name}".encode()).digest()


def write_key(path: Path, master: bytes) -> Path:
    """A key file as `dandyroll keygen` makes it, of a given master."""
    value = {
        "format": "dandyroll-key-1",
        "key_id": prf_v1.key_id(master),
        "created": "2026-01-01T00:00:00Z",
        "master": master.hex(),
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(value))
    path.chmod(0o600)
    return path


def corpus(name: str) -> list[str]:
    """The held-out human texts of one file of fixtures/corpora."""
    return [json.loads(line)["text"] for line in (CORPORA / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def tokenizer() -> Path:
    """The fixture model's tokenizer."""
    return MODEL / "tokenizer.json"


@pytest.fixture(scope="session")
def human() -> list[str]:
    """Held-out prose."""
    return corpus("prose_heldout")


@pytest.fixture(scope="session")
def make_key(tmp_path_factory: pytest.TempPathFactory) -> MakeKey:
    """A key file of a fixed master, by name."""
    folder = tmp_path_factory.mktemp("keys")
    return lambda name: write_key(folder / f"{name}.key", master_of(name))


class Command:
    """The command line `dandyroll`, built from this tree, to compare with."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary

    def __call__(self, *arguments: object, text: str | None = None) -> str:
        """Runs it and gives its standard output."""
        ran = subprocess.run(
            [str(self.binary), *map(str, arguments)], input=text, capture_output=True, text=True, check=False
        )
        assert ran.returncode in (0, 1), ran.stderr
        return ran.stdout

    def rows(self, *arguments: object) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self(*arguments).splitlines()]


@pytest.fixture(scope="session")
def command() -> Command:
    """The command line."""
    given = os.environ.get("DANDYROLL_TEST_BINARY")
    binary = Path(given) if given else ROOT / "target" / "debug" / "dandyroll"
    if not binary.exists():
        pytest.fail(f"{binary} is missing: cargo build -p dandyroll-cli, or name a binary in DANDYROLL_TEST_BINARY")
    return Command(binary)


@pytest.fixture(scope="session")
def marked_text(tokenizer: Path) -> Callable[..., str]:
    """Text of words that are one token each, most of them on the lists of the key of a name.

    Made with the independent keyed function: γ = ¼, h = 2, seeding `left`, the lists of `prose-v1`.
    """
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    words = sorted(
        (index, token)
        for token, index in vocabulary.items()
        if token[0] == "\u0120"
        and len(token) > 3
        and token[1:].isascii()
        and token[1:].isalpha()
        and token[1:].islower()
    )
    digest = hashlib.sha256(tokenizer.read_bytes()).digest()

    def make(name: str, count: int, seed: int = 1) -> str:
        key = prf_v1.sub_key(master_of(name), digest, 2)
        chosen: list[tuple[int, str]] = []
        while len(chosen) < count:
            context = [index for index, _ in chosen[-2:]]
            for _ in range(4):
                seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
                candidate = words[(seed >> 33) % len(words)]
                if len(context) == 2 and prf_v1.word(key, context, candidate[0]) < 2**30:
                    break
            chosen.append(candidate)
        return "".join(token.replace("\u0120", " ") for _, token in chosen)

    return make


@pytest.fixture(scope="session")
def documents(marked_text: Callable[..., str]) -> list[str | None]:
    """More than a thousand documents: human prose and code in pieces, marked texts, and what is hard to read."""
    found: list[str | None] = []
    for name in ("prose_heldout", "python_heldout"):
        for text in corpus(name):
            half = len(text) // 2
            found += [text[:half], text[half:]] if len(text) > 600 else [text]
    for number in range(24):
        inner = marked_text("a" if number % 2 else "b", 160, seed=number)
        found.insert(41 * number, inner if number % 3 else f"{found[number]}{inner}{found[number + 1]}")
    return found + HARD


class Many(NamedTuple):
    """Ten thousand documents, and which of them are marked by which key."""

    texts: list[str | None]
    marked: dict[int, str]


@pytest.fixture(scope="session")
def many(marked_text: Callable[..., str]) -> Many:
    """10 000 documents of about 250 tokens: windows of held-out prose and code, each different.

    Every 25th has a marked passage in its middle, by turns under the keys `a` and `b`; the last few are hard to read.
    """
    rings = ["\n".join(corpus(name)) for name in ("prose_heldout", "python_heldout")]
    passages = {name: [marked_text(name, 200, seed=100 + seed) for seed in range(10)] for name in ("a", "b")}
    texts: list[str | None] = []
    marked = {}
    for number in range(MANY - len(HARD)):
        ring, turn = rings[number % 2], number // 2
        start, length = turn * (2 * len(ring) // MANY), 760 + number * 7919 % 400
        window = (ring[start:] + ring[:length])[:length]
        if number % 25 == 0:
            marked[number] = "ab"[number // 25 % 2]
            half = length // 4
            window = window[:half] + passages[marked[number]][number // 50 % 10] + window[-half:]
        texts.append(window)
    assert len(set(texts)) == len(texts)
    return Many(texts + HARD, marked)
