"""Detection on Ray Data: every document of a dump, judged where it lies.

    python detect.py INPUT OUTPUT --tokenizer tokenizer.json --key-file /run/secrets/my.key

INPUT is Parquet with a column of texts and one of ids; OUTPUT gets Parquet with the id and the columns of
`dandyroll.SCHEMA`. Keys are named by path only: the file has to lie there on every node, readable by Ray's user alone.
No task and no log ever holds one.
"""

from __future__ import annotations

import argparse
from typing import Any

import pyarrow as pa
import ray
import ray.data


class Judge:
    """An actor of Ray Data: reads tokenizer and keys once, on its node."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from dandyroll import Detector

        self.detector = Detector(**settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A row for each text."""
        found = self.detector.detect(batch["text"])
        return found.add_column(0, "id", batch["id"])


def detect(
    data: ray.data.Dataset, actors: int, text: str = "text", identity: str = "id", **settings: Any
) -> ray.data.Dataset:
    """A row for each of `data`: its id and the columns of `dandyroll.SCHEMA`.

    `settings` are the arguments of `dandyroll.Detector`: paths and numbers, which is all that Ray sends to its actors.
    One thread an actor: Ray reserves a core for each.
    """
    return (
        data.select_columns([identity, text])
        .rename_columns({identity: "id", text: "text"})
        .map_batches(
            Judge,
            fn_constructor_args=(settings,),
            batch_format="pyarrow",
            batch_size=1024,
            compute=ray.data.ActorPoolStrategy(size=actors),
        )
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--text-field", default="text")
    parser.add_argument("--id-field", default="id")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json, at this path on every node")
    parser.add_argument("--key-file", action="append", required=True, help="at this path on every node, mode 0600")
    parser.add_argument("--profile", default="prose-v1", help="built in, or a file at this path on every node")
    parser.add_argument("--background", help="the profile's background list, at this path on every node")
    parser.add_argument("--alpha", type=float, default=1e-5)
    parser.add_argument("--spans", action="store_true")
    parser.add_argument("--actors", type=int, default=2, help="actors that judge, a core each")
    arguments = parser.parse_args()
    found = detect(
        ray.data.read_parquet(arguments.input),
        arguments.actors,
        arguments.text_field,
        arguments.id_field,
        tokenizer=arguments.tokenizer,
        key_files=arguments.key_file,
        profile=arguments.profile,
        background=arguments.background,
        alpha=arguments.alpha,
        spans=arguments.spans,
    )
    found.write_parquet(arguments.output)


if __name__ == "__main__":
    main()
