"""A filter for datatrove: drops documents that carry a mark, or keeps nothing else; says in `metadata` what was found.

    from watermark_filter import WatermarkFilter

    pipeline = [
        JsonlReader("crawl/"),
        WatermarkFilter(keep="unmarked", tokenizer="tokenizer.json", key_files=["/run/secrets/my.key"]),
        JsonlWriter("clean/"),
    ]

Keys are named by path only and read where the pipeline runs.
"""

from __future__ import annotations

from typing import Any, Literal

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from dandyroll import Detector

#: What of a document's row goes into its metadata, behind `dandyroll_`.
FACTS = ("verdict", "log10_p_adjusted", "key_id", "profile", "tokens", "scored", "score", "log10_p", "error_kind")


class WatermarkFilter(BaseFilter):
    """Judges documents in batches.

    Args:
        keep: `unmarked` drops what is detected, `marked` everything else, `all` nothing. What could not be judged
            (`dandyroll_error_kind`) is not detected.
        batch_size: documents judged at once.
        exclusion_writer: where dropped documents go.
        detector: the arguments of `dandyroll.Detector`.
    """

    name = "Dandyroll"
    _requires_dependencies = ["dandyroll"]

    def __init__(
        self,
        keep: Literal["unmarked", "marked", "all"] = "unmarked",
        batch_size: int = 256,
        exclusion_writer: DiskWriter | None = None,
        **detector: Any,
    ) -> None:
        if keep not in ("unmarked", "marked", "all"):
            raise ValueError(f"keep={keep!r}: unmarked, marked or all")
        super().__init__(exclusion_writer, max(2, batch_size))
        self.keep = keep
        self.settings = detector
        self.detector: Detector | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pipelines are pickled on their way to workers, which read the files themselves."""
        return self.__dict__ | {"detector": None}

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Judges one document."""
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        """Judges a batch; what is kept of it, or the verdict for which it is dropped."""
        if self.detector is None:
            self.detector = Detector(**self.settings)
        kept: list[bool | tuple[bool, str]] = []
        for document, row in zip(batch, self.detector.detect([doc.text for doc in batch]).to_pylist(), strict=True):
            document.metadata |= {f"dandyroll_{name}": row[name] for name in FACTS if row[name] is not None}
            marked = row["verdict"] == "detected"
            keeps = self.keep == "all" or marked == (self.keep == "marked")
            kept.append(keeps or (False, row["verdict"] or row["error_kind"]))
        return kept
