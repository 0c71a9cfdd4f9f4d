"""The package gives the command line's numbers, and refuses what it refuses."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dandyroll import SCHEMA, Detector
from shared import CORPORA, ROOT, Command, MakeKey, master_of

Marked = Callable[..., str]


def write_dump(path: Path, texts: list[str | None]) -> Path:
    """A dump of JSON lines."""
    path.write_text("".join(json.dumps({"id": at, "text": text}) + "\n" for at, text in enumerate(texts)))
    return path


@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("keys", [["a"], ["a", "b", "c"]])
def test_the_table_is_the_command_lines(
    tokenizer: Path,
    documents: list[str | None],
    make_key: MakeKey,
    command: Command,
    tmp_path: Path,
    spans: bool,
    keys: list[str],
) -> None:
    texts = documents[:60] + documents[-60:] if spans else documents
    dump = write_dump(tmp_path / "in.jsonl", texts)
    arguments: list[object] = ["detect", "--tokenizer", tokenizer, "--profile", "prose-v1", dump]
    for name in keys:
        arguments += ["--key-file", make_key(name)]
    command(*arguments, *(["--spans"] if spans else []), "--format", "parquet", "--output", tmp_path / "out")
    [written] = (tmp_path / "out").glob("*.parquet")
    expected = pq.read_table(written)
    found = Detector(tokenizer, [make_key(name) for name in keys], spans=spans, threads=2).detect(texts)
    assert found.schema == SCHEMA and found.num_rows == len(texts) == expected.num_rows
    assert set(expected.column_names) - set(SCHEMA.names) == {"row", "id", "error_line", "error_byte"}
    for name in SCHEMA.names:
        # The reasons of a missing text differ: JSON lines have a field there.
        if name != "error_reason":
            assert found[name].to_pylist() == expected[name].to_pylist(), name
    assert "detected" in found["verdict"].to_pylist()
    assert any(found["spans"].to_pylist()) == spans


@pytest.mark.parametrize("profile", ["prose-v1", "code-v1", "gumbel-v1"])
def test_the_corpora_give_the_command_lines_numbers(
    tokenizer: Path, make_key: MakeKey, command: Command, profile: str
) -> None:
    for name in ("prose_heldout", "python_heldout"):
        dump = CORPORA / f"{name}.jsonl"
        rows = command.rows(
            *("detect", "--tokenizer", tokenizer, "--profile", profile, "--key-file", make_key("a")),
            *("--output", "-", dump),
        )
        texts = [json.loads(line)["text"] for line in dump.read_text().splitlines()]
        # The model directory names the tokenizer that lies in it.
        found = Detector(tokenizer.parent, [make_key("a")], profile).detect(texts).to_pylist()
        assert len(rows) == len(found) == 300
        for row, mine in zip(rows, found, strict=True):
            [best] = row["findings"]
            for field in ("verdict", "tokens", "log10_p_adjusted"):
                assert mine[field] == row[field], field
            for field in ("key_id", "profile", "mode", "scored", "score", "expected", "z", "log10_p", "hypotheses"):
                assert mine[field] == best[field], field


def test_every_way_in_gives_the_same(tokenizer: Path, human: list[str], make_key: MakeKey) -> None:
    texts = [*human[:25], None, human[25]]
    detector = Detector(tokenizer, [make_key("a")])
    expected = detector.detect(texts)
    assert expected["error_kind"].to_pylist() == [None] * 25 + ["no_text", None]
    array = pa.array(texts)
    large = array.cast(pa.large_string())
    ways: dict[str, Any] = {
        "tuple": tuple(texts),
        "generator": (text for text in texts),
        "numpy": np.array(texts, dtype=object),
        "array": array,
        "large": large,
        "view": array.cast(pa.string_view()),
        "dictionary": array.dictionary_encode(),
        "chunks": pa.chunked_array([array[:7], array[7:7], array[7:26], array[26:]]),
        "large chunks": pa.chunked_array([large[:20], large[20:]]),
        "slice": pa.array([None, "x" * 100, *texts, "y"])[2:-1],
        "large slice of a slice": pa.array(["\u20ac", *texts, None]).cast(pa.large_string())[1:][:-1],
        "table column": pa.table({"text": array})["text"],
    }
    for name, way in ways.items():
        assert detector.detect(way).equals(expected), name
    # Every offset of the validity bitmap.
    for start in range(20):
        assert detector.detect(array[start:]).equals(expected.slice(start)), start
    for threads in (2, 3, 40):
        assert Detector(tokenizer, [make_key("a")], threads=threads).detect(array).equals(expected), threads
    empty: list[Any] = [[], pa.array([], pa.string()), pa.chunked_array([], pa.large_string()), pa.array([], pa.null())]
    for nothing in empty:
        assert detector.detect(nothing).num_rows == 0
    assert detector.detect(pa.array([None, None])).to_pylist() == detector.detect([None, None]).to_pylist()
    one = detector.detect_one(human[3])
    whole = expected.to_pylist()[3]
    assert {**one, "error_kind": None, "error_reason": None} == whole


def test_a_slice_copies_only_its_own_rows(tokenizer: Path, make_key: MakeKey) -> None:
    from dandyroll import _chunk

    array = pa.array(["a" * 1000] * 1000)
    data, offsets, width, validity, bit, length = _chunk(array[500:502])
    assert (len(data), len(offsets), width, validity, bit, length) == (2000, 12, 4, None, 0, 2)
    nulls = pa.array([None, "ab", None] * 1000)
    data, offsets, width, validity, bit, length = _chunk(nulls[10:20])
    assert (data, validity is not None and len(validity), bit, length) == (b"ab" * 4, 2, 2, 10)


def test_faults_stay_in_their_rows(tokenizer: Path, human: list[str], make_key: MakeKey) -> None:
    detector = Detector(tokenizer, [make_key("a")], max_document_bytes=4000)
    offsets, data = np.array([0, 2, 4, 5], dtype=np.int32), b"ab\xffdc"
    broken = pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    cases: list[tuple[Any, str, str]] = [
        (None, "no_text", "the text is null"),
        ("\u20ac" * 1334, "too_large", "larger than 4000 bytes"),
        ("half \ud800 of a pair", "not_utf8", "surrogates not allowed"),
    ]
    for bad, kind, reason in cases:
        rows = detector.detect([human[0][:900], bad, human[1][:900]]).to_pylist()
        assert [row["error_kind"] for row in rows] == [None, kind, None]
        assert reason in rows[1]["error_reason"]
        assert {name for name, value in rows[1].items() if value} == {"error_kind", "error_reason"}
        assert rows[0]["tokens"] > 100 and rows[2]["tokens"] > 100
    rows = detector.detect(broken).to_pylist()
    assert [row["error_kind"] for row in rows] == [None, "not_utf8", None]
    assert rows[1]["error_reason"] == "not UTF-8 0 bytes into it"
    with pytest.raises(ValueError, match=r"larger than 4000 bytes \(too_large\)"):
        detector.detect_one("x" * 4001)


def test_broken_arrow_buffers_are_an_error_and_no_crash(tokenizer: Path, make_key: MakeKey) -> None:
    detector = Detector(tokenizer, [make_key("a")])
    for wrong in ([0, 9, 10], [0, -5, 4], [3, 2, 4], [0]):
        # Past pyarrow, which refuses some of these itself.
        offsets = np.array(wrong, dtype=np.int32).tobytes()
        with pytest.raises(ValueError, match="text 0 lie outside"):
            detector._core.detect_arrow([(b"abcd", offsets, 4, None, 0, 2)])


def test_marked_text_is_found_with_its_passage(
    tokenizer: Path, make_key: MakeKey, human: list[str], marked_text: Marked
) -> None:
    inner = marked_text("a", 300)
    text = human[0] + inner + human[1]
    detector = Detector(tokenizer, [make_key("b"), make_key("a")], spans=True)
    marked, unmarked = detector.detect([text, human[2]]).to_pylist()
    assert marked["verdict"] == "detected" and marked["key_id"] == detector.key_ids[1]
    [span] = marked["spans"]
    assert abs(span["start_char"] - len(human[0])) < 60
    assert abs(span["end_char"] - len(human[0]) - len(inner)) < 60
    assert span["key_id"] == detector.key_ids[1] and unmarked["spans"] == []
    assert [finding["key_id"] for finding in marked["findings"]] == detector.key_ids[::-1]


def test_a_background_list_is_left_unscored(
    tokenizer: Path, human: list[str], make_key: MakeKey, command: Command, tmp_path: Path
) -> None:
    listed = tmp_path / "common.background"
    command(
        *("background", "build", "--tokenizer", tokenizer, "--context-width", "2", "--min-documents", "2"),
        *("--out", listed, CORPORA / "prose_heldout.jsonl"),
    )
    profile = tmp_path / "p.json"
    profile.write_text(command("profiles", "show", "prose-v1", "--tokenizer", tokenizer, "--background", listed))
    key = make_key("a")
    dump = write_dump(tmp_path / "in.jsonl", list(human[:50]))
    rows = command.rows(
        *("detect", "--tokenizer", tokenizer, "--profile", profile, "--background", listed, "--key-file", key),
        *("--output", "-", dump),
    )
    found = Detector(tokenizer, [key], profile, background=listed).detect(human[:50])
    assert found["scored"].to_pylist() == [row["findings"][0]["scored"] for row in rows]
    assert found["log10_p"].to_pylist() == [row["findings"][0]["log10_p"] for row in rows]
    plain = Detector(tokenizer, [key]).detect(human[:50])
    assert sum(found["scored"].to_pylist()) < sum(plain["scored"].to_pylist())
    with pytest.raises(ValueError, match="background="):
        Detector(tokenizer, [key], profile)
    with pytest.raises(ValueError, match="the profile names none"):
        Detector(tokenizer, [key], background=listed)


def test_what_is_wrong_is_named_and_no_key_is_shown(tokenizer: Path, make_key: MakeKey, tmp_path: Path) -> None:
    good, loose = make_key("a"), make_key("loose")
    loose.chmod(0o644)
    damaged = make_key("damaged")
    damaged.write_text(damaged.read_text().replace(master_of("damaged").hex(), master_of("a").hex()))
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: Detector(tokenizer, [loose]), "mode 0644"),
        (lambda: Detector(tokenizer, [damaged]), "damaged.key is damaged"),
        (lambda: Detector(tokenizer, []), "at least one key"),
        (lambda: Detector(tokenizer, [good, good]), "given twice"),
        (lambda: Detector(tokenizer, [good], "prose-v9"), '"prose-v9" is neither built in (prose-v1, code-v1, gumbel'),
        (lambda: Detector(tokenizer, [good], alpha=0.0), "alpha = 0"),
        (lambda: Detector(tokenizer, [good], alpha=0.5), "alpha = 0.5"),
        (lambda: Detector(tokenizer, [good], min_scored=0), "min_scored"),
        (lambda: Detector(tokenizer, [good], threads=0), "threads"),
        (lambda: Detector(tokenizer, [good], max_document_bytes=1 << 30), "max_document_bytes"),
        (lambda: Detector(good, [good]), "a.key"),
        (lambda: Detector(tokenizer, [tokenizer]), "tokenizer.json"),
        (lambda: Detector(tmp_path, [good]), "tokenizer.json"),
    ]
    for make, words in cases:
        with pytest.raises(ValueError) as error:
            make()
        assert words in str(error.value)
        assert_no_secret(str(error.value), "a", "damaged", "loose")
    detector = Detector(tokenizer, [good])
    for wrong, words in (
        ("one text", "detect_one"),
        (b"bytes", "detect_one"),
        (pa.array([1, 2]), "type int64"),
        (pa.array([b"x"]), "type binary"),
        (["text", 7], "text 1 is of type int"),
        (["text", float("nan")], "text 1 is of type float"),
        (7, "iterable"),
    ):
        with pytest.raises(TypeError, match=words):
            detector.detect(wrong)
    with pytest.raises(TypeError, match="list of paths"):
        Detector(tokenizer, str(good))


def assert_no_secret(shown: str | bytes, *names: str) -> None:
    """Neither a master's hexadecimal digits nor its bytes are in what is shown."""
    held = shown.encode("utf-8", "surrogateescape") if isinstance(shown, str) else shown
    for name in names:
        master = master_of(name)
        assert master not in held and master.hex().encode() not in held.lower()
        assert master[:8].hex().encode() not in held.lower()


def test_a_pickled_detector_names_key_files_and_holds_no_key(
    tokenizer: Path, human: list[str], make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key("a")
    monkeypatch.chdir(key.parent)
    detector = Detector(tokenizer, [key.name], alpha=1e-4, min_scored=20, spans=True)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        stored = pickle.dumps(detector, protocol)
        assert str(key).encode() in stored
        assert_no_secret(stored, "a")
    monkeypatch.chdir(ROOT)
    again = pickle.loads(stored)
    assert repr(again) == repr(detector) == f"Detector(profile={detector.profile!r}, key_ids={detector.key_ids!r})"
    assert again.detect(human[:5]).equals(detector.detect(human[:5]))
    assert copy.deepcopy(detector).key_ids == detector.key_ids
    assert_no_secret(repr(vars(detector)) + repr(detector._core), "a")
    # The key is read where the detector is made again: without the file there is no detector.
    key.rename(key.with_suffix(".away"))
    with pytest.raises(ValueError, match=r"a\.key"):
        pickle.loads(stored)


def test_the_lock_is_released(tokenizer: Path, human: list[str], make_key: MakeKey) -> None:
    """Another thread runs Python while a batch is judged: with the lock held it would not begin a single turn."""
    detector = Detector(tokenizer, [make_key("lock")])
    texts = human * 20
    ticks, done = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    before = ticks
    detector.detect(texts)
    seen = ticks - before
    done.set()
    thread.join()
    assert seen > 5


def test_one_detector_serves_many_threads(tokenizer: Path, human: list[str], make_key: MakeKey) -> None:
    detector = Detector(tokenizer, [make_key("threads")])
    expected = detector.detect(human)
    found: list[pa.Table] = []
    threads = [threading.Thread(target=lambda: found.append(detector.detect(human))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(table.equals(expected) for table in found)
