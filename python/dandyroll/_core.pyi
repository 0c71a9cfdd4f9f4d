"""Types of the native part. Use :class:`dandyroll.Detector` and :mod:`dandyroll.transformers` instead."""

from collections.abc import Sequence

__version__: str

class Batch:
    key_ids: list[str]
    def __len__(self) -> int: ...
    def numbers(self, name: str) -> tuple[bytes, bytes]: ...
    def errors(self) -> list[tuple[int, str]]: ...
    def findings(
        self, at: int
    ) -> list[tuple[int, str, int, int, float | None, float, int, float]]: ...
    def spans(self, at: int) -> list[tuple[int, int, int, int, int, float, float]]: ...

class CoreDetector:
    key_ids: list[str]
    profile: str
    def __init__(
        self,
        tokenizer: str,
        profile: str,
        key_files: Sequence[str],
        alpha: float,
        min_scored: int,
        spans: bool,
        threads: int,
    ) -> None: ...
    def detect(self, texts: Sequence[str | None]) -> Batch: ...
    def detect_buffers(
        self,
        data: bytes,
        offsets: bytes,
        offset_bytes: int,
        validity: bytes | None,
        start: int,
        length: int,
    ) -> Batch: ...

class CoreMarker:
    key_id: str
    profile_id: str
    context_width: int
    def __init__(self, tokenizer: str, profile: str, key_file: str) -> None: ...
    def apply(self, generated: Sequence[int], logits: bytes) -> tuple[bytes, str]: ...
