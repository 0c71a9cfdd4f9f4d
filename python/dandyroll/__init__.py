"""Find the marks that Dandyroll writes into the output of language models.

    >>> from dandyroll import Detector
    >>> detector = Detector("tokenizer.json", key_files=["my.key"])
    >>> detector.detect(["some text", "another"])          # a pyarrow.Table, one row for each text
    >>> detector.detect_one("some text")                   # a dict

Everything is decided by the Rust crates that the command line ``dandyroll`` uses: the numbers are the same. Marking
text while ``transformers`` generates it is :mod:`dandyroll.transformers`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

from ._core import Batch, CoreDetector, __version__

if TYPE_CHECKING:
    import pyarrow as pa

    Texts = Union[Sequence["str | None"], pa.Array, pa.ChunkedArray]

__all__ = ["Detector", "__version__"]

_VERDICTS = ["detected", "inconclusive", "not_detected", "too_short"]
_MODE = "model-free"


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ImportError("tables need pyarrow: pip install 'dandyroll[arrow]'") from None
    return pyarrow


class Detector:
    """Looks for marks in texts, model-free: every position counts.

    Safe to use from many threads; the interpreter's lock is released while texts are judged.

    :param tokenizer: the ``tokenizer.json`` of the model that wrote the texts.
    :param key_files: key files as ``dandyroll keygen`` makes them; only their owner may read them (0600). Verdicts are
        corrected for their number.
    :param profile: ``prose-v1``, ``code-v1`` or a file as ``dandyroll profiles show`` prints it.
    :param alpha: a text is detected at an adjusted p of at most this.
    :param min_scored: a text with fewer distinct (context, token) pairs is too short.
    :param spans: look for the passages that carry a mark, too; every p is corrected for that search as well.
    :param threads: threads for one batch. Engines that run many tasks at once want 1.
    """

    def __init__(
        self,
        tokenizer: str | os.PathLike[str],
        key_files: Sequence[str | os.PathLike[str]],
        profile: str | os.PathLike[str] = "prose-v1",
        *,
        alpha: float = 1e-5,
        min_scored: int = 16,
        spans: bool = False,
        threads: int = 1,
    ) -> None:
        if isinstance(key_files, (str, bytes, os.PathLike)):
            raise TypeError("key_files is a list of paths, not one path")
        paths = [os.fspath(path) for path in key_files]
        self._spans = spans
        self._core = CoreDetector(
            os.fspath(tokenizer), os.fspath(profile), paths, alpha, min_scored, spans, threads
        )

    def __repr__(self) -> str:
        return f"Detector(profile={self.profile!r}, key_ids={self.key_ids!r})"

    @property
    def key_ids(self) -> list[str]:
        """Ids of the keys looked for, in the order given."""
        return self._core.key_ids

    @property
    def profile(self) -> str:
        """The profile's id, or its name where the id depends on a model."""
        return self._core.profile

    def _batch(self, texts: Texts) -> Batch:
        if type(texts).__module__.startswith("pyarrow"):
            return self._from_arrow(texts)
        if isinstance(texts, (str, bytes)):
            raise TypeError("detect takes a list of texts; detect_one takes one")
        return self._core.detect(list(texts))

    def _from_arrow(self, texts: Any) -> Batch:
        pa = _arrow()
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
            if isinstance(texts, pa.ChunkedArray):
                texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], pa.string())
        if pa.types.is_dictionary(texts.type) or str(texts.type) == "string_view":
            texts = texts.cast(pa.large_string())
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            raise TypeError(f"texts are {texts.type}, not strings")
        validity, offsets, data = texts.buffers()
        width = 8 if pa.types.is_large_string(texts.type) else 4
        return self._core.detect_buffers(
            data.to_pybytes() if data is not None else b"",
            offsets.to_pybytes() if offsets is not None else bytes(width),
            width,
            validity.to_pybytes() if validity is not None else None,
            texts.offset,
            len(texts),
        )

    def detect(self, texts: Texts) -> pa.Table:
        """Judges texts and gives a table with one row for each, in order.

        The columns are those of ``dandyroll detect --output --format parquet``: ``verdict``, ``tokens``,
        ``log10_p_adjusted``; of the strongest finding ``key_id``, ``profile``, ``mode``, ``scored``, ``green``, ``z``,
        ``log10_p``, ``hypotheses``; ``error`` where a text could not be judged; ``spans`` if they were asked for.
        """
        pa = _arrow()
        batch = self._batch(texts)
        count = len(batch)

        def numbers(name: str, kind: Any) -> Any:
            validity, values = batch.numbers(name)
            return pa.Array.from_buffers(kind, count, [pa.py_buffer(validity), pa.py_buffer(values)])

        def named(codes: Any, names: list[str]) -> Any:
            return pa.array(names, pa.string()).take(codes)

        def constant(value: str, like: Any) -> Any:
            return named(pa.compute.multiply(like, 0), [value])

        import pyarrow.compute  # noqa: F401  (pa.compute)

        key = numbers("key", pa.int64())
        errors: list[str | None] = [None] * count
        for at, reason in batch.errors():
            errors[at] = reason
        columns = {
            "verdict": named(numbers("verdict", pa.int64()), _VERDICTS),
            "tokens": numbers("tokens", pa.int64()),
            "log10_p_adjusted": numbers("log10_p_adjusted", pa.float64()),
            "key_id": named(key, self.key_ids),
            "profile": constant(self.profile, key),
            "mode": constant(_MODE, key),
            "scored": numbers("scored", pa.int64()),
            "green": numbers("green", pa.int64()),
            "z": numbers("z", pa.float64()),
            "log10_p": numbers("log10_p", pa.float64()),
            "hypotheses": numbers("hypotheses", pa.int64()),
            "error": pa.array(errors, pa.string()),
        }
        if self._spans:
            spans = [self._spans_of(batch, at) for at in range(count)]
            columns["spans"] = pa.array(spans, pa.list_(_span_type(pa)))
        return pa.table(columns)

    def detect_one(self, text: str) -> dict[str, Any]:
        """Judges one text; raises ``ValueError`` if it cannot be judged. All findings are in ``findings``."""
        batch = self._core.detect([text])
        if errors := batch.errors():
            raise ValueError(errors[0][1])
        findings = [
            {
                "key_id": self.key_ids[key],
                "profile": self.profile,
                "mode": _MODE,
                "verdict": verdict,
                "scored": scored,
                "green": green,
                "z": z,
                "log10_p": log10_p,
                "hypotheses": hypotheses,
                "log10_p_adjusted": adjusted,
            }
            for key, verdict, scored, green, z, log10_p, hypotheses, adjusted in batch.findings(0)
        ]
        return {
            "verdict": _VERDICTS[int.from_bytes(batch.numbers("verdict")[1], "little")],
            "tokens": int.from_bytes(batch.numbers("tokens")[1], "little"),
            "findings": findings,
        } | ({"spans": self._spans_of(batch, 0)} if self._spans else {})

    def _spans_of(self, batch: Batch, at: int) -> list[dict[str, Any]]:
        return [
            {
                "start_char": start,
                "end_char": end,
                "scored": scored,
                "green": green,
                "log10_p": log10_p,
                "log10_p_adjusted": adjusted,
                "key_id": self.key_ids[key],
            }
            for key, start, end, scored, green, log10_p, adjusted in batch.spans(at)
        ]


def _span_type(pa: Any) -> Any:
    whole, number = pa.int64(), pa.float64()
    return pa.struct(
        [
            ("start_char", whole),
            ("end_char", whole),
            ("scored", whole),
            ("green", whole),
            ("log10_p", number),
            ("log10_p_adjusted", number),
            ("key_id", pa.string()),
        ]
    )
