"""Spark gives the numbers of the package; no key in its plan."""

import json

import pytest

pyspark = pytest.importorskip("pyspark")

from dandyroll import Detector  # noqa: E402
from detect import detect  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402


def test_the_numbers_are_the_packages(tokenizer, human, make_key, tmp_path):
    key = make_key("a")
    rows = [(f"doc-{i}", text) for i, text in enumerate(human)] + [("none", None)]
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.warehouse.dir", str(tmp_path))
        .getOrCreate()
    )
    try:
        frame = spark.createDataFrame(rows, "id string, text string").repartition(3)
        found = detect(frame, str(tokenizer), [str(key)], "prose-v1", 1e-5)
        plan = found._jdf.queryExecution().toString()
        got = {row.id: row.asDict() for row in found.collect()}
    finally:
        spark.stop()
    expected = Detector(tokenizer, [key]).detect([text for _, text in rows]).to_pylist()
    assert len(got) == len(rows)
    for (name, _), row in zip(rows, expected, strict=True):
        assert {"id": name, **row} == got[name]
    assert json.loads(key.read_text())["master"][:12] not in plan
