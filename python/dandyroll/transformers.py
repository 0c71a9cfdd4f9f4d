"""Marks what ``transformers`` generates.

    >>> from dandyroll.transformers import MarkLogitsProcessor
    >>> mark = MarkLogitsProcessor("model/tokenizer.json", "my.key")
    >>> model.generate(**inputs, do_sample=True, logits_processor=[mark])

The mark acts on raw logits, as profiles say: ``generate`` calls processors given to it before temperature, top-k and
top-p. Processors that its own options add (``repetition_penalty`` and the like) come before; leave them out, or the mark
acts on what they left, and entropy thresholds on its entropy.
"""

from __future__ import annotations

import os
from collections import Counter

import torch
from transformers import LogitsProcessor

from ._core import CoreMarker

__all__ = ["MarkLogitsProcessor"]


class MarkLogitsProcessor(LogitsProcessor):
    """Adds δ to green tokens, as the profile says.

    Which tokens are the prompt's is learnt from the first call of each generation, so one object serves one
    generation at a time: of any batch size, with padding on the left, sampled or with beams.

    :param tokenizer: the model's ``tokenizer.json``.
    :param key_file: the key to mark with, a file only its owner may read.
    :param profile: ``prose-v1`` or a file as ``dandyroll profiles show`` prints it. A profile with an entropy threshold
        (``code-v1``) has to be such a file: its id depends on the model.
    """

    def __init__(
        self,
        tokenizer: str | os.PathLike[str],
        key_file: str | os.PathLike[str],
        profile: str | os.PathLike[str] = "prose-v1",
    ) -> None:
        self._core = CoreMarker(os.fspath(tokenizer), os.fspath(profile), os.fspath(key_file))
        self._prompt: torch.Tensor | None = None
        self._length = 0
        #: How many (sequence, step) pairs were ``biased``, had ``low_entropy`` or a ``short_context``.
        self.steps: Counter[str] = Counter()

    @property
    def key_id(self) -> str:
        """The key's id."""
        return self._core.key_id

    @property
    def profile_id(self) -> str:
        """The profile's id: give it to whoever detects."""
        return self._core.profile_id

    def _continues(self, input_ids: torch.LongTensor) -> bool:
        prompt = self._prompt
        if prompt is None or input_ids.shape[0] != prompt.shape[0]:
            return False
        # Beams change places within one prompt only.
        return input_ids.shape[1] == self._length + 1 and torch.equal(input_ids[:, : prompt.shape[1]], prompt)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self._continues(input_ids):
            self._prompt = input_ids.clone()
        self._length = input_ids.shape[1]
        assert self._prompt is not None
        start = self._prompt.shape[1]
        first = max(start, self._length - self._core.context_width)
        contexts = input_ids[:, first:].tolist()
        rows = scores.detach().to(device="cpu", dtype=torch.float32).contiguous()
        marked = []
        for context, row in zip(contexts, rows, strict=True):
            values, step = self._core.apply(context, row.numpy().tobytes())
            self.steps[step] += 1
            marked.append(torch.frombuffer(bytearray(values), dtype=torch.float32))
        return torch.stack(marked).to(device=scores.device, dtype=scores.dtype)
