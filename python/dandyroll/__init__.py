"""Find the marks that Dandyroll writes into the output of language models.

    >>> from dandyroll import Detector
    >>> detector = Detector("model/tokenizer.json", key_files=["my.key"])
    >>> detector.detect(["some text", "another"])  # a pyarrow.Table, one row for each text
    >>> detector.detect_one("some text")           # its row as a dict

Keys, profiles, tokenising, counting and verdicts are the Rust code of the command line: columns and numbers are those
of ``dandyroll detect --output``, bit for bit. Texts are judged without a model. Marking what ``transformers`` generates
is :mod:`dandyroll.transformers`; the keyed function itself :mod:`dandyroll.scheme`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from ._core import BUILT_IN, COLUMNS, MIN_SCORED, CoreDetector, __version__

__all__ = ["SCHEMA", "Detector", "__version__"]

#: What names a file.
PathLike: TypeAlias = str | os.PathLike[str]


def _fields(columns: Sequence[tuple[str, str]]) -> list[pa.Field]:
    return [pa.field(name, pa.type_for_alias(kind)) for name, kind in columns]


def _schema() -> pa.Schema:
    """The native part says what a finding and a passage have."""
    strongest, finding, passage = map(_fields, COLUMNS)
    return pa.schema(
        [
            pa.field("verdict", pa.string()),
            pa.field("tokens", pa.int64()),
            pa.field("log10_p_adjusted", pa.float64()),
            *strongest,
            pa.field("error_kind", pa.string()),
            pa.field("error_reason", pa.string()),
            pa.field("findings", pa.list_(pa.struct(finding))),
            pa.field("spans", pa.list_(pa.struct(passage))),
        ]
    )


#: The columns of :meth:`Detector.detect`. All but ``findings`` and ``spans`` can be null.
SCHEMA: pa.Schema = _schema()

_Column: TypeAlias = tuple[int, list[bytes | None]]


class Detector:
    """Looks for marks in texts, without a model: every position counts.

    Reads its files once. It never changes afterwards: many threads may use one detector at the same time, and the
    interpreter's lock is released while texts are judged. A pickled detector holds the paths of its files, made
    absolute, and never a key; unpickling reads them again, there where it happens.

    Args:
        tokenizer: the ``tokenizer.json`` of the model that wrote the texts, or the model directory it lies in.
        key_files: key files as ``dandyroll keygen`` makes them, which only their owner may read (mode 0600). Several
            keys are several hypotheses, and p is corrected for their number (Holm).
        profile: ``prose-v1``, ``code-v1``, ``gumbel-v1``, or a file as ``dandyroll profiles show`` prints it.
        background: the list of windows left unscored, needed if and only if the profile names one.
        alpha: α, the chance of a false detection in one text, above 0 and up to 0.05. Texts are ``detected`` at an
            adjusted p of at most α. On dumps of millions, think of the number of texts.
        min_scored: a text with fewer positions to score is ``too_short``.
        spans: also search for the passages that carry a mark. Every p is then corrected for that search, too, and a
            text costs several times as much.
        max_document_bytes: a longer text, in bytes of UTF-8, is a row with an error. At most 64 MiB.
        threads: threads for one batch. Engines that run many tasks on a machine want 1.

    Raises:
        ValueError: a file or a number that cannot be used; the message names it, and no message holds a key.
    """

    def __init__(
        self,
        tokenizer: PathLike,
        key_files: Sequence[PathLike],
        profile: PathLike = "prose-v1",
        *,
        background: PathLike | None = None,
        alpha: float = 1e-5,
        min_scored: int = MIN_SCORED,
        spans: bool = False,
        max_document_bytes: int = 8 << 20,
        threads: int = 1,
    ) -> None:
        if isinstance(key_files, (str, bytes, os.PathLike)):
            raise TypeError("key_files is a list of paths, not one path")
        self._settings: dict[str, Any] = {
            "tokenizer": _absolute(tokenizer),
            "key_files": [_absolute(path) for path in key_files],
            "profile": profile if profile in BUILT_IN else _absolute(profile),
            "background": None if background is None else _absolute(background),
            "alpha": alpha,
            "min_scored": min_scored,
            "spans": spans,
            "max_document_bytes": max_document_bytes,
            "threads": threads,
        }
        settings = dict(self._settings)
        # A name that is neither built in nor a file is shown as it was given.
        if not Path(settings["profile"]).exists():
            settings["profile"] = os.fspath(profile)
        settings["max_document"] = settings.pop("max_document_bytes")
        self._core = CoreDetector(**settings)

    def __repr__(self) -> str:
        return f"Detector(profile={self.profile!r}, key_ids={self.key_ids!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._settings,)

    @property
    def key_ids(self) -> list[str]:
        """Ids of the keys that are looked for, in the order given."""
        return self._core.key_ids

    @property
    def profile(self) -> str:
        """The profile's id; its name where the id depends on a model."""
        return self._core.profile

    def detect(self, texts: Iterable[str | None] | pa.Array | pa.ChunkedArray) -> pa.Table:
        """Judges texts: a table of :data:`SCHEMA` with one row for each, in order.

        ``verdict`` is ``detected``, ``not_detected``, ``inconclusive`` (adjusted p between α and 10⁻³) or
        ``too_short``; none of them says who wrote a text. ``log10_p_adjusted`` is the least p of the text, adjusted for
        all hypotheses (and windows, with ``spans``), as a decimal logarithm. Of the strongest finding: ``key_id``,
        ``profile``, ``mode``, ``scored`` (n, the positions that count), ``score`` (what they score together; of lists
        the number of tokens on the list), ``expected`` (its mean without the mark), ``z``, ``log10_p`` (raw),
        ``hypotheses`` (how many p was adjusted for). ``findings`` has one for each key, ``spans`` the passages:
        characters (Unicode scalar values) from 0, the end exclusive. A text that cannot be judged, a null among them,
        is a row with ``error_kind`` and ``error_reason``, and everything else null: it never costs the others.

        Args:
            texts: strings and ``None``; or an Arrow array or chunked array of (large) strings, string views or a
                dictionary of strings, sliced or not.

        Raises:
            TypeError: something that is no text at all, with its place.
        """
        if isinstance(texts, (pa.Array, pa.ChunkedArray)):
            columns = self._core.detect_arrow([_chunk(chunk) for chunk in _string_chunks(texts)])
        elif isinstance(texts, (str, bytes)):
            raise TypeError("detect takes a batch of texts; detect_one takes one")
        else:
            columns = self._core.detect(texts)
        return _table({name: (length, buffers) for name, length, buffers in columns})

    def detect_one(self, text: str) -> dict[str, Any]:
        """Judges one text and gives its row of :meth:`detect` as a dict.

        Raises:
            ValueError: the text cannot be judged.
        """
        [row] = self.detect([text]).to_pylist()
        if row["error_kind"] is not None:
            raise ValueError(f"{row['error_reason']} ({row['error_kind']})")
        del row["error_kind"], row["error_reason"]
        return dict(row)


def _absolute(path: PathLike) -> str:
    return os.path.abspath(os.fspath(path))  # noqa: PTH100  (Path.absolute leaves `..` in)


def _again(settings: Mapping[str, Any]) -> Detector:
    """What a pickle calls."""
    return Detector(**settings)


def _string_chunks(texts: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    plain = pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)
    if plain:
        return chunks
    values = texts.type.value_type if pa.types.is_dictionary(texts.type) else texts.type
    if pa.types.is_null(values) or any(of(values) for of in (pa.types.is_string, pa.types.is_large_string, _is_view)):
        return [chunk.cast(pa.large_string()) for chunk in chunks]
    raise TypeError(f"the Arrow column is of type {texts.type}, not of strings")


def _is_view(kind: pa.DataType) -> bool:
    return str(kind) == "string_view"


def _chunk(texts: pa.Array) -> tuple[bytes, bytes, int, bytes | None, int, int]:
    """The buffers of an array, cut to its own rows: slices of a large array must not copy all of it."""
    width = 8 if pa.types.is_large_string(texts.type) else 4
    validity, offsets, data = texts.buffers()
    if len(texts) == 0 or offsets is None:
        return b"", b"", width, None, 0, 0
    own = offsets.slice(texts.offset * width, (len(texts) + 1) * width).to_pybytes()
    first, last = _offset(own[:width]), _offset(own[-width:])
    held = b"" if data is None else data.slice(first, max(0, last - first)).to_pybytes()
    if validity is None:
        return held, own, width, None, 0, len(texts)
    from_byte, bit = divmod(texts.offset, 8)
    bits = validity.slice(from_byte, (bit + len(texts) + 7) // 8).to_pybytes()
    return held, own, width, bits, bit, len(texts)


def _offset(number: bytes) -> int:
    return int.from_bytes(number, sys.byteorder, signed=True)


def _table(columns: Mapping[str, _Column]) -> pa.Table:
    def array(name: str, kind: pa.DataType) -> pa.Array:
        length, buffers = columns[name]
        held = [None if buffer is None else pa.py_buffer(buffer) for buffer in buffers]
        if not pa.types.is_list(kind):
            return pa.Array.from_buffers(kind, length, held)
        item = kind.value_type
        fields = [item.field(at) for at in range(item.num_fields)]
        children = [array(f"{name}.{field.name}", field.type) for field in fields]
        items = pa.StructArray.from_arrays(children, fields=fields)
        return pa.Array.from_buffers(kind, length, held, children=[items])

    return pa.Table.from_arrays([array(field.name, field.type) for field in SCHEMA], schema=SCHEMA)
