"""Detection on Spark: every document of a dump, judged where it lies.

    spark-submit detect.py INPUT OUTPUT --tokenizer tokenizer.json --key-file /run/secrets/my.key

INPUT is what Spark reads as Parquet (or, with `--format json`, as JSON lines), with a column of texts and one of ids;
OUTPUT gets Parquet with the id and the columns of `dandyroll.SCHEMA`. Keys are named by path only: the file has to lie
there on every worker, readable by its user alone. Neither the plan nor a log ever holds one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from dandyroll import SCHEMA

Batches = Iterator[pa.RecordBatch]


def judge_with(**settings: Any) -> Callable[[Batches], Batches]:
    """What a task runs. Of `settings`, the arguments of `dandyroll.Detector`, Spark sends paths and numbers."""

    def judge(batches: Batches) -> Batches:
        # On the worker, once for each partition.
        from dandyroll import Detector

        detector = Detector(**settings)
        for batch in batches:
            found = detector.detect(batch.column("text"))
            yield from found.add_column(0, "id", batch.column("id")).combine_chunks().to_batches()

    return judge


def detect(frame: DataFrame, text: str = "text", identity: str = "id", **settings: Any) -> DataFrame:
    """A row for each of `frame`: its id and the columns of `dandyroll.SCHEMA`.

    `settings` are the arguments of `dandyroll.Detector`. One thread a task: Spark runs a task for each core.
    """
    chosen = frame.selectExpr(f"CAST(`{identity}` AS string) AS id", f"`{text}` AS text")
    schema = StructType([chosen.schema["id"], *from_arrow_schema(SCHEMA).fields])
    return chosen.mapInArrow(judge_with(**settings), schema)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--format", choices=["parquet", "json"], default="parquet")
    parser.add_argument("--text-field", default="text")
    parser.add_argument("--id-field", default="id")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json, at this path on every worker")
    parser.add_argument("--key-file", action="append", required=True, help="at this path on every worker, mode 0600")
    parser.add_argument("--profile", default="prose-v1", help="built in, or a file at this path on every worker")
    parser.add_argument("--background", help="the profile's background list, at this path on every worker")
    parser.add_argument("--alpha", type=float, default=1e-5)
    parser.add_argument("--spans", action="store_true")
    parser.add_argument("--explain", action="store_true", help="print Spark's plans")
    arguments = parser.parse_args()
    spark = SparkSession.builder.appName("dandyroll").getOrCreate()
    found = detect(
        spark.read.format(arguments.format).load(arguments.input),
        arguments.text_field,
        arguments.id_field,
        tokenizer=arguments.tokenizer,
        key_files=arguments.key_file,
        profile=arguments.profile,
        background=arguments.background,
        alpha=arguments.alpha,
        spans=arguments.spans,
    )
    if arguments.explain:
        found.explain("extended")
    found.write.mode("errorifexists").parquet(arguments.output)
    spark.stop()


if __name__ == "__main__":
    main()
