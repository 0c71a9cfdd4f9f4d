"""Detection on Spark: every document of a dump, judged where it lies.

    spark-submit detect.py INPUT OUTPUT --tokenizer tokenizer.json --key-file /run/secrets/my.key

INPUT is anything `spark.read` takes as Parquet or JSON lines; OUTPUT is written as Parquet with the input's id and the
columns of `dandyroll.Detector.detect`. The key is named by path only: the file has to lie there on every worker, readable
by its user alone. Neither the plan nor a log ever holds it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

SCHEMA = (
    "id string, verdict string, tokens bigint, log10_p_adjusted double, key_id string, profile string, mode string, "
    "scored bigint, green bigint, z double, log10_p double, hypotheses bigint, error string"
)


def detect(frame: DataFrame, tokenizer: str, key_files: list[str], profile: str, alpha: float) -> DataFrame:
    """A row for each of `frame`, which has `id` and `text`."""

    def judge(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # On the worker, once for each partition: reading the tokenizer costs a tenth of a second.
        from dandyroll import Detector

        detector = Detector(tokenizer, key_files, profile, alpha=alpha)
        for batch in batches:
            table = detector.detect(batch.column("text"))
            table = table.add_column(0, "id", batch.column("id").cast(pa.string()))
            yield from table.combine_chunks().to_batches()

    return frame.select("id", "text").mapInArrow(judge, SCHEMA)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--key-file", action="append", required=True)
    parser.add_argument("--profile", default="prose-v1")
    parser.add_argument("--alpha", type=float, default=1e-5)
    arguments = parser.parse_args()
    spark = SparkSession.builder.appName("dandyroll").getOrCreate()
    read = spark.read.parquet if arguments.input.rstrip("/").endswith("parquet") else spark.read.json
    found = detect(
        read(arguments.input), arguments.tokenizer, arguments.key_file, arguments.profile, arguments.alpha
    )
    found.write.mode("errorifexists").parquet(arguments.output)
    spark.stop()


if __name__ == "__main__":
    main()
