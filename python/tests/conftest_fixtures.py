"""Fixtures: key files of fixed masters, the fixture model's tokenizer, held-out human texts."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "fixtures" / "prf"))


def key_id(master: bytes) -> str:
    """As `dandyroll scheme` derives it, by the independent implementation in fixtures/prf."""
    import prf_v1

    return prf_v1.key_id(master)


@pytest.fixture(scope="session")
def tokenizer() -> Path:
    return ROOT / "fixtures" / "model" / "tokenizer.json"


@pytest.fixture(scope="session")
def human() -> list[str]:
    lines = (ROOT / "fixtures" / "corpora" / "prose_heldout.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="session")
def make_key(tmp_path_factory):
    """A key file of a fixed master, by name."""
    folder = tmp_path_factory.mktemp("keys")

    def make(name: str) -> Path:
        master = hashlib.sha256(f"dandyroll python tests: {name}".encode()).digest()
        path = folder / f"{name}.key"
        value = {
            "format": "dandyroll-key-1",
            "key_id": key_id(master),
            "created": "2026-01-01T00:00:00Z",
            "master": master.hex(),
        }
        path.write_text(json.dumps(value))
        path.chmod(0o600)
        return path

    return make


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The command line, built from this tree, to compare with."""
    for profile in ("release", "debug"):
        path = ROOT / "target" / profile / "dandyroll"
        if path.exists():
            return [str(path)]
    subprocess.run(["cargo", "build", "-p", "dandyroll-cli"], cwd=ROOT, check=True)
    return [str(ROOT / "target" / "debug" / "dandyroll")]


@pytest.fixture(scope="session")
def marked_text(tokenizer, make_key):
    """Text of single-token words of which most are green: made with the independent keyed function."""
    import prf_v1

    words = {
        token: index
        for token, index in json.loads(tokenizer.read_text())["model"]["vocab"].items()
        if token[0] == "\u0120" and len(token) > 3 and token[1:].isascii() and token[1:].isalpha() and token.islower()
    }
    tokens = sorted(words.items(), key=lambda item: item[1])
    digest = hashlib.sha256(tokenizer.read_bytes()).digest()

    def make(name: str, count: int) -> str:
        master = bytes.fromhex(json.loads(make_key(name).read_text())["master"])
        key = prf_v1.sub_key(master, digest, 2)
        chosen: list[tuple[str, int]] = []
        at = 1
        while len(chosen) < count:
            candidates = []
            for _ in range(4):
                at = (at * 6364136223846793005 + 1442695040888963407) % 2**64
                candidates.append(tokens[(at >> 33) % len(tokens)])
            context = [index for _, index in chosen[-2:]]
            green = [c for c in candidates if len(context) == 2 and prf_v1.word(key, context, c[1]) < 2**30]
            chosen.append((green or candidates)[0])
        return "".join(token.replace("\u0120", " ") for token, _ in chosen)

    return make
