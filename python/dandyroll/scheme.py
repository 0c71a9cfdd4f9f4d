"""The keyed function, version 1, as the Rust code computes it: to check another implementation against.

``fixtures/prf/README.md`` of the repository defines it in bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ._core import CoreWords

__all__ = ["KeyedWords"]


class KeyedWords:
    """The words of one key for one purpose, tokenizer, context width and seeding.

    What they mean is the scheme's to say. A green list with the share γ holds the tokens whose word is below ⌊γ·2³²⌋;
    ``gumbel`` takes a word w of its own purpose for the uniform (w + ½)·2⁻³². Whoever has the words can forge and
    remove the key's marks: they are as secret as the key.

    Args:
        key_file: a key file as ``dandyroll keygen`` makes it, readable by its owner alone (mode 0600).
        tokenizer_sha256: the SHA-256 of ``tokenizer.json``, byte for byte, as 64 hexadecimal digits.
        context_width: h, how many generated tokens decide a word beside its own: 0 to 8.
        seeding: ``left``, all h tokens decide; or ``min``, the one of them that the key ranks lowest (h of 1 or more).
        purpose: what the words are for: ``token-words`` of lists, ``gumbel-words`` of ``gumbel``.

    Raises:
        ValueError: a file or an argument that cannot be used; no message holds a key.
    """

    def __init__(
        self,
        key_file: str | os.PathLike[str],
        tokenizer_sha256: str,
        context_width: int,
        seeding: str = "left",
        purpose: str = "token-words",
    ) -> None:
        self._core = CoreWords(os.fspath(key_file), tokenizer_sha256, context_width, seeding, purpose)

    def __repr__(self) -> str:
        return f"KeyedWords(key_id={self.key_id!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("KeyedWords holds a key and cannot be pickled: make it where it is needed")

    @property
    def key_id(self) -> str:
        """The key's public id."""
        return self._core.key_id

    def words(self, context: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """The words, 0 to 2³² − 1, of ``tokens`` after ``context``: h token ids, oldest first."""
        return self._core.words(context, tokens)

    def vocabulary(self, context: Sequence[int], size: int) -> bytes:
        """The words of tokens 0 to ``size`` − 1, as unsigned 32-bit little-endian numbers."""
        return self._core.vocabulary(context, size)
