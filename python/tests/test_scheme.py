"""The keyed function through the wheel equals the golden vectors, which never change."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from dandyroll.scheme import KeyedWords
from shared import ROOT, MakeKey, write_key

PRF = ROOT / "fixtures" / "prf"


def rows(name: str, kind: str) -> list[dict[str, Any]]:
    """The rows of a kind; that there are some is part of the test."""
    found = [row for row in map(json.loads, (PRF / name).read_text().splitlines()) if row["kind"] == kind]
    assert found
    return found


def keyed_of(folder: Path, row: dict[str, Any], seeding: str) -> KeyedWords:
    """The words that a row is about."""
    master = bytes.fromhex(row["master"])
    return KeyedWords(write_key(folder / f"{row['master'][:8]}.key", master), row["tokenizer"], row["width"], seeding)


def test_key_ids_are_the_golden_ones(tmp_path: Path) -> None:
    for row in rows("v1.jsonl", "key"):
        path = write_key(tmp_path / "k.key", bytes.fromhex(row["master"]))
        assert KeyedWords(path, "0" * 64, 2).key_id == row["key_id"]


@pytest.mark.parametrize(("name", "seeding", "count"), [("v1.jsonl", "left", 126), ("v1_min.jsonl", "min", 128)])
def test_words_are_the_golden_ones(tmp_path: Path, name: str, seeding: str, count: int) -> None:
    found = rows(name, "words")
    assert len(found) == count
    for row in found:
        assert keyed_of(tmp_path, row, seeding).words(row["context"], row["tokens"]) == row["words"], row
    # The other seeding gives other words wherever there is a context.
    other = {"left": "min", "min": "left"}[seeding]
    row = next(row for row in found if row["width"] == 2)
    assert keyed_of(tmp_path, row, other).words(row["context"], row["tokens"]) != row["words"]


def test_whole_vocabularies_are_the_golden_ones(tmp_path: Path) -> None:
    for row in rows("v1.jsonl", "vocabulary"):
        keyed = keyed_of(tmp_path, row, "left")
        words = keyed.vocabulary(row["context"], row["size"])
        assert hashlib.sha256(words).hexdigest() == row["words_sha256"]
        found = struct.unpack(f"<{row['size']}I", words)
        for gamma, listed in row["green"].items():
            assert sum(word < int(float(gamma) * 2**32) for word in found) == listed
        assert list(found[:7]) == keyed.words(row["context"], range(7))


def test_purposes_have_words_of_their_own(make_key: MakeKey) -> None:
    lists, race = (KeyedWords(make_key("a"), "0" * 64, 2, purpose=name) for name in ("token-words", "gumbel-words"))
    assert lists.key_id == race.key_id
    assert not set(lists.words([1, 2], range(64))) & set(race.words([1, 2], range(64)))


def test_words_of_other_purposes_are_the_golden_ones(tmp_path: Path) -> None:
    for row in rows("v1_purposes.jsonl", "words"):
        path = write_key(tmp_path / "k.key", bytes.fromhex(row["master"]))
        keyed = KeyedWords(path, row["tokenizer"], row["width"], row["seeding"], row["purpose"])
        assert keyed.words(row["context"], row["tokens"]) == row["words"], row


def test_contexts_of_another_length_are_refused(make_key: MakeKey) -> None:
    for row in rows("v1.jsonl", "refused-context"):
        with pytest.raises(ValueError, match=f"depend on {row['width']}"):
            KeyedWords(make_key("a"), "0" * 64, row["width"]).words(row["context"], [1])


def test_what_is_wrong_is_named_and_the_key_stays_in(make_key: MakeKey) -> None:
    key = make_key("a")
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((key, "00", 2), "tokenizer_sha256"),
        ((key, "0" * 64, 9), "context width = 9"),
        ((key, "0" * 64, 2, "max"), 'seeding "max": left or min'),
        ((key, "0" * 64, 0, "min"), "seeding min needs"),
        ((key, "0" * 64, 2, "left", "other"), 'purpose "other": token-words or gumbel-words'),
        ((key.with_name("none"), "0" * 64, 2), "none"),
    ]
    for arguments, words in cases:
        with pytest.raises(ValueError, match=words):
            KeyedWords(*arguments)
    keyed = KeyedWords(key, "0" * 64, 2)
    assert repr(keyed) == f"KeyedWords(key_id='{keyed.key_id}')"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(keyed)
    for wrong in (-1, 2**32):
        with pytest.raises(OverflowError):
            keyed.words([1, 2], [wrong])
