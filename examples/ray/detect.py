"""Detection on Ray Data: every document of a dump, judged where it lies.

    python detect.py INPUT OUTPUT --tokenizer tokenizer.json --key-file /run/secrets/my.key

INPUT is a Parquet file or folder with `id` and `text`; OUTPUT gets Parquet with the id and the columns of
`dandyroll.Detector.detect`. The key is named by path only: the file has to lie there on every node, readable by Ray's user
alone. No task and no log ever holds it.
"""

from __future__ import annotations

import argparse

import pyarrow as pa
import ray


class Judge:
    """An actor of Ray Data: reads the tokenizer and the key once, on its node."""

    def __init__(self, tokenizer: str, key_files: list[str], profile: str, alpha: float) -> None:
        from dandyroll import Detector

        self.detector = Detector(tokenizer, key_files, profile, alpha=alpha)

    def __call__(self, batch: pa.Table) -> pa.Table:
        found = self.detector.detect(batch["text"])
        return found.add_column(0, "id", batch["id"].cast(pa.string()))


def detect(
    data: ray.data.Dataset, tokenizer: str, key_files: list[str], profile: str, alpha: float, workers: int
) -> ray.data.Dataset:
    """A row for each of `data`, which has `id` and `text`."""
    return data.select_columns(["id", "text"]).map_batches(
        Judge,
        fn_constructor_args=(tokenizer, key_files, profile, alpha),
        batch_format="pyarrow",
        batch_size=1024,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--key-file", action="append", required=True)
    parser.add_argument("--profile", default="prose-v1")
    parser.add_argument("--alpha", type=float, default=1e-5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    detect(
        ray.data.read_parquet(arguments.input),
        arguments.tokenizer,
        arguments.key_file,
        arguments.profile,
        arguments.alpha,
        arguments.workers,
    ).write_parquet(arguments.output)


if __name__ == "__main__":
    main()
