"""The same 10 000 documents through every way to the detector: identical numbers.

The command line, the REST stream and a job of a running service, the wheel, Spark, Ray and datatrove. Every engine runs
as its users run it: the scripts beside this file, in processes of their own, on a local cluster. The service holds the
keys in a ring of its own, imported from the key files that all others read.
"""

from __future__ import annotations

import gzip
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dandyroll import SCHEMA, Detector
from shared import MANY, MODEL, Command, MakeKey, Many, master_of

HERE = Path(__file__).resolve().parent
KEYS = ("a", "b")


#: What of a finding every way says, under one name.
NUMBERS = ("verdict", "scored", "score", "expected", "z", "log10_p", "log10_p_adjusted")


class Dump:
    """The documents as a Parquet file of several row groups and as JSON lines, and what the keys are."""

    def __init__(self, folder: Path, texts: list[str | None], tokenizer: Path, key_files: list[Path]) -> None:
        self.folder, self.texts, self.tokenizer, self.key_files = folder, texts, tokenizer, key_files
        self.ids = [f"doc-{at}" for at in range(len(texts))]
        (folder / "in").mkdir()
        self.path = folder / "in" / "dump.parquet"
        pq.write_table(pa.table({"id": self.ids, "text": pa.array(texts, pa.string())}), self.path, row_group_size=1000)
        self.lines = folder / "in.jsonl"
        rows = ({"id": name, "text": text} for name, text in zip(self.ids, texts, strict=True))
        self.lines.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def arguments(self) -> list[str]:
        """Tokenizer and keys for a command."""
        keys = [word for path in self.key_files for word in ("--key-file", str(path))]
        return ["--tokenizer", str(self.tokenizer), "--profile", "prose-v1", *keys]

    def of(self, table: pa.Table) -> list[dict[str, Any]]:
        """Rows in the order of the dump, each once."""
        rows = {row["id"]: {name: row[name] for name in SCHEMA.names} for row in table.to_pylist()}
        assert table.num_rows == len(rows) == len(self.ids)
        return [rows[name] for name in self.ids]


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory, many: Many, tokenizer: Path, make_key: MakeKey) -> Dump:
    """Ten thousand documents and two keys."""
    assert len(many.texts) == MANY
    return Dump(tmp_path_factory.mktemp("dump"), many.texts, tokenizer, [make_key(name) for name in KEYS])


@pytest.fixture(scope="module")
def wheel(dump: Dump, many: Many) -> list[dict[str, Any]]:
    """The package's rows: what is marked is detected under its key, and nothing else is."""
    detector = Detector(dump.tokenizer, dump.key_files)
    rows: list[dict[str, Any]] = detector.detect(dump.texts).to_pylist()
    ids = dict(zip(KEYS, detector.key_ids, strict=True))
    found = {at: row["key_id"] for at, row in enumerate(rows) if row["verdict"] == "detected"}
    assert found == {at: ids[name] for at, name in many.marked.items()} and len(found) == 400
    assert [row["verdict"] for row in rows].count(None) == 1
    return rows


def run(*words: object, **environment: str) -> str:
    """Runs a script and gives all it said."""
    ran = subprocess.run(
        [str(word) for word in words],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=900,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    return ran.stdout


def holds_no_secret(name: str, held: bytes) -> None:
    """Neither the hexadecimal digits of a master, nor its bytes, nor a half of either."""
    for key in KEYS:
        master = master_of(key)
        for part in (master[:16], master[16:]):
            assert part not in held and part.hex().encode() not in held.lower(), f"a secret in {name}"


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, decompressed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            held = path.read_bytes()
            yield str(path), gzip.decompress(held) if path.suffix == ".gz" else held


def without_reasons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON lines have a field where a text is missing, Parquet has a column: their words for it differ."""
    return [{name: value for name, value in row.items() if name != "error_reason"} for row in rows]


def test_the_command_line_gives_the_wheels_numbers(dump: Dump, wheel: list[dict[str, Any]], command: Command) -> None:
    out = dump.folder / "command"
    command(
        *("detect", *dump.arguments(), "--text-field", "text", "--id-field", "id"),
        *("--format", "parquet", "--output", out, dump.lines),
    )
    [written] = out.glob("*.parquet")
    assert without_reasons(dump.of(pq.read_table(written))) == without_reasons(wheel)


class Service:
    """`dandyroll serve` on a free port with an empty store, its first token, and the dump's keys in a ring."""

    def __init__(self, binary: Path, folder: Path, key_files: list[Path]) -> None:
        self.data, self.log_path = folder / "data", folder / "log"
        self.log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            [binary, "serve", "--listen", "127.0.0.1:0", "--model", MODEL, "--data-dir", self.data],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        assert self.process.stdout is not None
        self.said, self.token, port = "", "", 0
        for line in self.process.stdout:
            self.said += line
            port = port or int((re.findall(r"http://127\.0\.0\.1:(\d+)", line) or [0])[0])
            self.token = self.token or (re.findall(r"wmk_[a-z2-7]+_[a-z2-7]+", line) or [""])[0]
            if line.strip().startswith("Stop with"):
                break
        assert port and self.token, self.log_path.read_text()
        # Read on, so that it never waits for us.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.port = port
        self.keys = [self.take(binary, path) for path in key_files]

    def take(self, binary: Path, path: Path) -> str:
        """Imports a key; its name in the service."""
        said = run(binary, "keys", "import", "default", path, "--data-dir", self.data, "--json")
        return f"default@{json.loads(said)['version']}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Status and body of an answer; the body is sent while the answer is read, as a stream needs it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.putrequest(method, path)
        connection.putheader("Authorization", f"Bearer {self.token}")
        if body is not None:
            connection.putheader("Content-Type", kind)
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        sender = threading.Thread(target=connection.send, args=(body or b"",), daemon=True)
        sender.start()
        answer = connection.getresponse()
        held = answer.read()
        sender.join()
        connection.close()
        return answer.status, held

    def json(self, method: str, path: str, value: object = None) -> dict[str, Any]:
        """An answer as JSON. Another process added the keys: the service knows them within a second."""
        body = None if value is None else json.dumps(value).encode()
        for _ in range(50):
            status, held = self.ask(method, path, body)
            if status < 300:
                answer: dict[str, Any] = json.loads(held)
                return answer
            time.sleep(0.1)
        pytest.fail(f"{method} {path}: {status} {held.decode()}")

    def stop(self) -> None:
        """Ends it as an operator does."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0
        self.log.close()


@pytest.fixture(scope="module")
def service(dump: Dump, command: Command) -> Iterator[Service]:
    """A running service."""
    folder = dump.folder / "service"
    folder.mkdir()
    running = Service(command.binary, folder, dump.key_files)
    try:
        yield running
    finally:
        running.stop()


def test_a_job_gives_the_wheels_numbers(dump: Dump, wheel: list[dict[str, Any]], service: Service) -> None:
    order = {"upload": "in.jsonl", "format": "parquet", "look": {"keys": service.keys, "profiles": ["prose-v1"]}}
    job = service.json("POST", "/v1/jobs", order)["job"]
    path = f"/v1/jobs/{job['id']}"
    status, said = service.ask("PUT", f"{path}/input", dump.lines.read_bytes(), "application/octet-stream")
    assert status < 300, said
    end = time.monotonic() + 600
    while job["finished_at"] is None and time.monotonic() < end:
        time.sleep(0.2)
        job = service.json("GET", path)
    assert job["state"] == "done" and job["progress"]["documents"] == MANY, job
    status, held = service.ask("GET", f"{path}/result")
    assert status == 200, held
    assert without_reasons(dump.of(pq.read_table(io.BytesIO(held)))) == without_reasons(wheel)


def test_the_stream_gives_the_wheels_numbers(dump: Dump, wheel: list[dict[str, Any]], service: Service) -> None:
    # A job was refused until the service knew the keys; a stream begun before would be one of errors.
    service.json("POST", "/v1/detect", {"text": "a text", "keys": service.keys, "profiles": ["prose-v1"]})
    query = f"keys={','.join(service.keys)}&profiles=prose-v1&modes=model-free"
    status, held = service.ask("POST", f"/v1/detect/stream?{query}", dump.lines.read_bytes(), "application/x-ndjson")
    assert status == 200, held[:2000]
    lines = [json.loads(line) for line in held.splitlines()]
    assert [line["line"] for line in lines] == list(range(1, MANY + 1))
    for line, row, name in zip(lines, wheel, dump.ids, strict=True):
        if row["error_kind"] is not None:
            assert line["error"] and not line.get("result"), line
            continue
        said = line["result"]
        assert (line["id"], said["verdict"]) == (name, row["verdict"])
        assert said["log10_p_adjusted"] == row["log10_p_adjusted"]
        for found, mine in zip(said["findings"], row["findings"], strict=True):
            assert found["key"]["key_id"] == mine["key_id"] and mine["profile"] in {
                one["id"] for one in found["profiles"]
            }
            assert (found["tokens"], found["hypotheses"]) == (row["tokens"], row["hypotheses"])
            assert {fact: found[fact] for fact in NUMBERS} == {fact: mine[fact] for fact in NUMBERS}, name


def test_the_service_shows_no_key(service: Service) -> None:
    holds_no_secret("the greeting", service.said.encode())
    held = service.log_path.read_bytes() + b"".join(held for _, held in files_below(service.data))
    holds_no_secret("log and data folder", held)


def test_spark_gives_the_wheels_numbers_and_shows_no_key(dump: Dump, wheel: list[dict[str, Any]]) -> None:
    pyspark = pytest.importorskip("pyspark")
    out, events = dump.folder / "spark", dump.folder / "spark-events"
    events.mkdir()
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    said = run(
        *(submit, "--master", "local[2]", "--conf", "spark.ui.enabled=false"),
        *("--conf", "spark.eventLog.enabled=true", "--conf", f"spark.eventLog.dir={events.as_uri()}"),
        *("--conf", "spark.eventLog.compress=false", "--conf", "spark.sql.files.maxPartitionBytes=500000"),
        *("--conf", "spark.log.level=INFO", "--conf", f"spark.local.dir={dump.folder}"),
        *(HERE / "spark" / "detect.py", dump.path, out, *dump.arguments(), "--explain"),
        PYSPARK_PYTHON=sys.executable,
        PYSPARK_DRIVER_PYTHON=sys.executable,
    )
    assert dump.of(pq.read_table(out)) == wheel
    # The plan names what runs and where keys lie; so the search below looks at the right things.
    assert "MapInArrow" in said and "== Physical Plan ==" in said
    logs = b"".join(held for _, held in files_below(events))
    assert b"SparkListenerSQLExecutionStart" in logs and b"MapInArrow" in logs
    holds_no_secret("output and plan", said.encode())
    holds_no_secret("event log", logs)


def test_ray_gives_the_wheels_numbers_and_shows_no_key(dump: Dump, wheel: list[dict[str, Any]]) -> None:
    pytest.importorskip("ray")
    out = dump.folder / "ray"
    # Ray's sockets lie below its folder, and a socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as home:
        said = run(
            *(sys.executable, HERE / "ray" / "detect.py", dump.path, out, *dump.arguments(), "--actors", 1),
            RAY_TMPDIR=home,
            RAY_USAGE_STATS_ENABLED="0",
            RAY_DATA_DISABLE_PROGRESS_BARS="1",
        )
        logs = [(name, held) for name, held in files_below(Path(home)) if "/logs/" in name]
        assert any(b"MapBatches(Judge)" in held for _, held in logs), [name for name, _ in logs]
        for name, held in logs:
            holds_no_secret(name, held)
    holds_no_secret("output", said.encode())
    assert dump.of(pq.read_table(out)) == wheel


def test_datatrove_gives_the_wheels_numbers_and_drops_what_is_marked(
    dump: Dump, wheel: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datatrove")
    import pickle

    from datatrove.data import Document

    monkeypatch.syspath_prepend(HERE / "datatrove")
    from watermark_filter import FACTS, WatermarkFilter

    settings = {"tokenizer": str(dump.tokenizer), "key_files": [str(path) for path in dump.key_files]}
    rows = {name: row for name, row in zip(dump.ids, wheel, strict=True) if row["error_kind"] is None}
    texts = dict(zip(dump.ids, dump.texts, strict=True))
    given = [Document(text=str(texts[name]), id=name) for name in rows]
    step = WatermarkFilter(keep="all", batch_size=100, **settings)
    found = {document.id: document.metadata for document in step.run(given)}
    assert found == {
        name: {f"dandyroll_{fact}": row[fact] for fact in FACTS if row[fact] is not None} for name, row in rows.items()
    }
    marked = {name for name, row in rows.items() if row["verdict"] == "detected"}
    for keep, expected in (("unmarked", set(rows) - marked), ("marked", marked)):
        travelled = pickle.loads(pickle.dumps(WatermarkFilter(keep=keep, **settings)))
        assert {document.id for document in travelled.run(given)} == expected
    step.filter(given[0])
    holds_no_secret("a pickled step", pickle.dumps(step))
    with pytest.raises(ValueError, match="unmarked, marked or all"):
        WatermarkFilter(keep="some", **settings)
