"""The package gives the command line's numbers, and refuses what it refuses."""

import json
import math
import subprocess
import threading

import pyarrow as pa
import pytest

from dandyroll import Detector

NUMBERS = ["tokens", "log10_p_adjusted", "scored", "green", "z", "log10_p", "hypotheses"]


def test_the_numbers_are_the_command_lines(tokenizer, human, make_key, command, tmp_path):
    texts = human[:40] + ["", "short", "CR\r\nLF \u200bzero\u0301 width"]
    keys = [make_key("a"), make_key("b")]
    dump = tmp_path / "in.jsonl"
    dump.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    arguments = ["detect", "--tokenizer", tokenizer, "--profile", "prose-v1", "--output", "-", dump]
    for key in keys:
        arguments += ["--key-file", key]
    ran = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    table = Detector(tokenizer, keys).detect(texts)
    assert table.num_rows == len(rows) == len(texts)
    for row, found in zip(rows, table.to_pylist(), strict=True):
        best = row["findings"][0]
        assert found["verdict"] == row["verdict"]
        assert found["key_id"] == best["key_id"] and found["profile"] == best["profile"]
        for name in NUMBERS:
            expected = row.get(name, best.get(name))
            assert found[name] == expected, name


def test_every_way_in_gives_the_same(tokenizer, human, make_key):
    texts = human[:25]
    detector = Detector(tokenizer, [make_key("a")], threads=3)
    expected = detector.detect(texts)
    array = pa.array(texts)
    ways = [
        array,
        array.cast(pa.large_string()),
        pa.chunked_array([array[:7], array[7:]]),
        pa.array(["x"] + texts + ["y"])[1:-1],
        array.dictionary_encode(),
        tuple(texts),
    ]
    for way in ways:
        assert detector.detect(way).equals(expected), type(way)
    assert detector.detect([]).num_rows == 0
    assert detector.detect(pa.array([], pa.string())).num_rows == 0
    one = detector.detect_one(texts[3])
    assert one["findings"][0]["log10_p"] == expected["log10_p"][3].as_py()
    assert one["verdict"] == expected["verdict"][3].as_py()


def test_nulls_and_faults_stay_in_their_rows(tokenizer, human, make_key):
    detector = Detector(tokenizer, [make_key("a")])
    for texts in ([human[0], None, human[1]], pa.array([human[0], None, human[1]])):
        found = detector.detect(texts)
        assert found["error"].to_pylist() == [None, "the text is null", None]
        assert found["verdict"].null_count == found["log10_p"].null_count == 1
    whole = pa.array([human[0], "x" * ((1 << 26) + 1)])
    assert "at most" in detector.detect(whole)["error"][1].as_py()


def test_marked_text_is_found_with_its_passage(tokenizer, make_key, human, marked_text):
    inner = marked_text("a", 300)
    text = human[0] + inner + human[1]
    detector = Detector(tokenizer, [make_key("b"), make_key("a")], spans=True)
    found = detector.detect([text, human[2]]).to_pylist()
    assert found[0]["verdict"] == "detected" and found[0]["key_id"] == detector.key_ids[1]
    [span] = found[0]["spans"]
    assert abs(span["start_char"] - len(human[0])) < 60
    assert abs(span["end_char"] - len(human[0]) - len(inner)) < 60
    assert span["key_id"] == detector.key_ids[1] and found[1]["spans"] == []
    assert detector.detect_one(text)["spans"] == found[0]["spans"]


def test_what_is_wrong_is_named_and_no_key_is_shown(tokenizer, make_key, tmp_path):
    key = make_key("loose")
    good = make_key("a")
    key.chmod(0o644)
    cases = [
        (lambda: Detector(tokenizer, [key]), "mode 0644"),
        (lambda: Detector(tokenizer, []), "at least one key"),
        (lambda: Detector(tokenizer, [good, good]), "given twice"),
        (lambda: Detector(tokenizer, [good], "prose-v9"), "prose-v1, code-v1"),
        (lambda: Detector(tokenizer, [good], alpha=0.0), "alpha"),
        (lambda: Detector(good, [good]), "a.key"),
        (lambda: Detector(tokenizer, [tokenizer]), "tokenizer.json"),
    ]
    master = json.loads(good.read_text())["master"]
    for make, words in cases:
        with pytest.raises(ValueError) as error:
            make()
        assert words in str(error.value) and master[:8] not in str(error.value)
    detector = Detector(tokenizer, [good])
    assert master[:8] not in repr(detector) and detector.key_ids[0] in repr(detector)
    for wrong in ("one text", b"bytes", pa.array([1, 2])):
        with pytest.raises(TypeError):
            detector.detect(wrong)
    with pytest.raises(TypeError):
        Detector(tokenizer, str(good))


def test_a_profile_file_is_checked_whole(tokenizer, make_key, command, tmp_path):
    shown = subprocess.run(
        [*command, "profiles", "show", "prose-v1", "--tokenizer", str(tokenizer)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    text = next(line for line in shown.splitlines() if line.startswith("{"))
    path = tmp_path / "p.json"
    path.write_text(text)
    key = make_key("a")
    assert Detector(tokenizer, [key], path).profile == Detector(tokenizer, [key]).profile
    for old, new in [("left", "min"), ("green-list", "red"), ('"gamma"', '"more":1,"gamma"'), (":1,", ":2,")]:
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match="p.json"):
            Detector(tokenizer, [key], path)


def test_the_lock_is_released(tokenizer, human, make_key):
    """Another thread runs Python while a batch is judged."""
    detector = Detector(tokenizer, [make_key("a")])
    ticks = 0
    done = threading.Event()

    def tick():
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            done.wait(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    detector.detect(human * 20)
    seen = ticks
    done.set()
    thread.join()
    assert seen > 5
    assert math.isfinite(detector.detect(human[:1])["log10_p"][0].as_py())
