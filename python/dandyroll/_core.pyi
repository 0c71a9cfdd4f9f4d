"""Types of the native part. Use :mod:`dandyroll`, :mod:`dandyroll.transformers` and :mod:`dandyroll.scheme` instead."""

from collections.abc import Iterable, Sequence

__version__: str
MIN_SCORED: int
BUILT_IN: list[str]
#: Names and Arrow types of the columns of the strongest finding, a finding and a passage.
COLUMNS: list[list[tuple[str, str]]]

class CoreDetector:
    key_ids: list[str]
    profile: str
    def __init__(
        self,
        *,
        tokenizer: str,
        profile: str,
        key_files: Sequence[str],
        background: str | None,
        alpha: float,
        min_scored: int,
        spans: bool,
        max_document: int,
        threads: int,
    ) -> None: ...
    def detect(self, texts: Iterable[str | None]) -> list[tuple[str, int, list[bytes | None]]]: ...
    def detect_arrow(
        self, chunks: Sequence[tuple[bytes, bytes, int, bytes | None, int, int]]
    ) -> list[tuple[str, int, list[bytes | None]]]: ...

class CoreMarker:
    key_id: str
    profile_id: str
    context_width: int
    entropy_threshold: float | None
    def __init__(self, tokenizer: str, profile: str, key_file: str, only_usual: bool) -> None: ...
    # `logits` has a writable buffer of 32-bit floats; numpy's types do not say so of its arrays before Python 3.12.
    def apply(self, generated: Sequence[Sequence[int]], logits: object) -> list[str]: ...

class CoreWords:
    key_id: str
    def __init__(
        self, key_file: str, tokenizer_sha256: str, context_width: int, seeding: str, purpose: str
    ) -> None: ...
    def words(self, context: Sequence[int], tokens: Sequence[int]) -> list[int]: ...
    def vocabulary(self, context: Sequence[int], size: int) -> bytes: ...
