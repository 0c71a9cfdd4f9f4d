"""Marks what ``transformers`` generates.

    >>> from dandyroll.transformers import WatermarkLogitsProcessor
    >>> mark = WatermarkLogitsProcessor("model/tokenizer.json", "my.key")
    >>> model.generate(**inputs, do_sample=True, logits_processor=[mark])

The mark acts on raw logits, as profiles say: ``generate`` calls processors given to it before temperature, top-k and
top-p. Processors that its own options add (``repetition_penalty``, ``min_new_tokens`` and the like) come before: leave
them out, or the mark acts on what they left, and an entropy threshold reads the entropy of that.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import torch
from transformers import LogitsProcessor

from . import _absolute
from ._core import CoreMarker

__all__ = ["WatermarkLogitsProcessor"]


class WatermarkLogitsProcessor(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Adds δ (natural-log logits) to the logits of tokens on the green list, as the profile says.

    For each sequence: with h tokens generated, and where the profile has an entropy threshold τ (nats) only if the
    entropy of the logits is above it. Logits of the list become x + δ in ``float32``, all others keep their bits; so
    what comes back is ``float32``, whatever the model's type. Rows of a batch have prompts of any length, padded on the
    left, as decoders need them.

    What of ``input_ids`` is generated is learnt from the first call: everything behind the ids given there. One object
    therefore marks one generation at a time: of any batch size, sampled, greedy, with beams or an assistant model. A
    call that does not go on with these ids begins the next generation; what another prompt adds to the *same* ids by
    one token at most counts as generated (:meth:`reset` says that it is not).

    The logits of a GPU are copied to the processor's memory and back, 4 bytes a token of the vocabulary for each row
    and step.

    Args:
        tokenizer: the model's ``tokenizer.json``, or the directory it lies in.
        key_file: the key to mark with: a file as ``dandyroll keygen`` makes it, readable by its owner alone (0600).
        profile: ``prose-v1``, or a file as ``dandyroll profiles show`` prints it. A profile with τ (``code-v1``) has to
            be such a file: its id depends on the model. ``gumbel-v1`` is refused: it chooses among the tokens that
            top-k and top-p leave, which no logits processor sees.
        only_usual: leaves likely tokens of the list as they are where the tokenizer would not write them after the
            token before, as ``dandyroll generate`` does: the text would be read as other tokens, and their mark be
            lost.

    Raises:
        ValueError: a file or a profile that cannot be used, or logits that define no distribution; no message holds a
            key.
    """

    def __init__(
        self,
        tokenizer: str | os.PathLike[str],
        key_file: str | os.PathLike[str],
        profile: str | os.PathLike[str] = "prose-v1",
        *,
        only_usual: bool = True,
    ) -> None:
        self._paths = _absolute(tokenizer), _absolute(key_file)
        self._profile = os.fspath(profile)
        self._only_usual = only_usual
        self._core = CoreMarker(os.fspath(tokenizer), self._profile, os.fspath(key_file), only_usual)
        #: How many of the last tokens say how the next are marked.
        self._context = max(1, self._core.context_width)
        self._prompt: torch.Tensor | None = None
        self._length = 0
        #: How many (sequence, step) pairs were ``marked``, had ``low_entropy`` or a ``short_context``; rows of a batch
        #: that ended before the others count on.
        self.steps: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"WatermarkLogitsProcessor(profile_id={self.profile_id!r}, key_id={self.key_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (*self._paths, self._profile, self._only_usual)

    def __deepcopy__(self, memo: dict[int, Any]) -> WatermarkLogitsProcessor:
        return _again(*self._paths, self._profile, self._only_usual)

    @property
    def key_id(self) -> str:
        """The key's id."""
        return self._core.key_id

    @property
    def profile_id(self) -> str:
        """The profile's id: whoever detects needs this profile."""
        return self._core.profile_id

    @property
    def entropy_threshold(self) -> float | None:
        """τ in nats; ``None`` if every position is marked."""
        return self._core.entropy_threshold

    def reset(self) -> None:
        """The next call begins a generation."""
        self._prompt, self._length = None, 0

    def _begin_if_new(self, input_ids: torch.Tensor) -> int:
        """How many ids of each row are the prompt's."""
        prompt, length = self._prompt, input_ids.shape[1]
        goes_on = (
            prompt is not None
            and input_ids.shape[0] == prompt.shape[0]
            # An assistant's tokens may be taken back; none come two at a time.
            and prompt.shape[1] <= length <= self._length + 1
            # Beams change places within one prompt only.
            and torch.equal(input_ids[:, : prompt.shape[1]], prompt)
        )
        if not goes_on or prompt is None:
            self._prompt = prompt = input_ids.clone()
        self._length = length
        return int(prompt.shape[1])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.FloatTensor:
        """Marks one step: ``scores`` are raw logits, a row for each of ``input_ids``."""
        start = self._begin_if_new(input_ids)
        generated = input_ids[:, max(start, self._length - self._context) :].tolist()
        # A copy: what the caller holds must not change under it.
        marked = scores.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()
        for step in self._core.apply(generated, marked.numpy()):
            self.steps[step] += 1
        return marked.to(device=scores.device)  # type: ignore[return-value]


def _again(tokenizer: str, key_file: str, profile: str, only_usual: bool) -> WatermarkLogitsProcessor:
    """What a pickle calls."""
    return WatermarkLogitsProcessor(tokenizer, key_file, profile, only_usual=only_usual)
