"""Buffers that a forward writes and no output depends on, such as the number of tokens that each expert got."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from moeverify.checks.evidence.kept import Kept, kept_part, tensors_of
from moeverify.checks.evidence.sight import Part
from moeverify.models.outputs import scale_of


class Counters:
    """Compares what two forwards leave in such buffers, at the positions that were kept.

    ``agreed``: parts that were written, with the same values in both models after every forward compared so far.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = tuple(parts)
        self._values: dict[bool, dict[Part, torch.Tensor]] = {}
        self._wrong: set[Part] = set()
        self._written: set[Part] = set()

    def read(self, model: nn.Module, pruned: bool) -> None:
        """Take the values that a forward of ``model`` left, before its state is put back."""
        if self._parts:
            tensors = tensors_of(model)
            names = {part: part.tensor if pruned else part.label for part in self._parts}
            self._values[pruned] = {p: tensors[n].detach().clone() for p, n in names.items() if n in tensors}

    def compare(self, kept: Mapping[tuple[str, int], Kept], tolerance: float) -> None:
        """Compare the values last read of both models."""
        mine, theirs = self._values.get(True, {}), self._values.get(False, {})
        for part in self._parts:
            if part not in mine or part not in theirs:
                self._wrong.add(part)
                continue
            expected = kept_part(theirs[part], part.label, kept)
            if expected is None or expected.shape != mine[part].shape:
                self._wrong.add(part)
                continue
            gap = float((mine[part] - expected).abs().max()) if expected.numel() else 0.0
            if gap > tolerance * (scale_of(expected) or 1.0):
                self._wrong.add(part)
            elif bool(expected.any()):
                self._written.add(part)

    @property
    def agreed(self) -> set[Part]:
        """Parts of which the two models left the same values, not all of them zero."""
        return self._written - self._wrong
