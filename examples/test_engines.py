"""The same documents through the command line, the wheel, Spark, Ray and datatrove: identical numbers.

Every engine runs as its users run it: the scripts beside this file, in processes of their own, on a local cluster.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dandyroll import SCHEMA, Detector
from shared import Command, MakeKey, master_of

HERE = Path(__file__).resolve().parent
KEYS = ("a", "b")


class Dump:
    """The documents as a Parquet file of several row groups, and what the keys are."""

    def __init__(self, folder: Path, texts: list[str | None], tokenizer: Path, key_files: list[Path]) -> None:
        self.folder, self.texts, self.tokenizer, self.key_files = folder, texts, tokenizer, key_files
        self.ids = [f"doc-{at}" for at in range(len(texts))]
        (folder / "in").mkdir()
        self.path = folder / "in" / "dump.parquet"
        pq.write_table(pa.table({"id": self.ids, "text": pa.array(texts, pa.string())}), self.path, row_group_size=200)

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
def dump(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str | None], tokenizer: Path, make_key: MakeKey
) -> Dump:
    """More than a thousand documents and two keys."""
    assert len(documents) > 1000
    return Dump(tmp_path_factory.mktemp("dump"), documents, tokenizer, [make_key(name) for name in KEYS])


@pytest.fixture(scope="module")
def wheel(dump: Dump) -> list[dict[str, Any]]:
    """The package's rows."""
    rows: list[dict[str, Any]] = Detector(dump.tokenizer, dump.key_files).detect(dump.texts).to_pylist()
    verdicts = [row["verdict"] for row in rows]
    assert verdicts.count("detected") >= 20 and verdicts.count(None) == 1 and verdicts.count("not_detected") > 500
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


def test_the_command_line_gives_the_wheels_numbers(dump: Dump, wheel: list[dict[str, Any]], command: Command) -> None:
    out = dump.folder / "command"
    command(
        *("detect", *dump.arguments(), "--text-field", "text", "--id-field", "id"),
        *("--format", "parquet", "--output", out, dump.path),
    )
    assert dump.of(pq.read_table(out / "dump.parquet")) == wheel


def test_spark_gives_the_wheels_numbers_and_shows_no_key(dump: Dump, wheel: list[dict[str, Any]]) -> None:
    pyspark = pytest.importorskip("pyspark")
    out, events = dump.folder / "spark", dump.folder / "spark-events"
    events.mkdir()
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    said = run(
        *(submit, "--master", "local[2]", "--conf", "spark.ui.enabled=false"),
        *("--conf", "spark.eventLog.enabled=true", "--conf", f"spark.eventLog.dir={events.as_uri()}"),
        *("--conf", "spark.eventLog.compress=false", "--conf", "spark.sql.files.maxPartitionBytes=100000"),
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
