"""Experts that no expert of the base is: averages of several, or copies of one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from moeverify.certification.matching.compare import Compared, Relation
from moeverify.certification.matching.maps import KeepMap
from moeverify.models.folder.checkpoint import Checkpoint

# Values of an expert that its weights are estimated from, and what they may leave unexplained.
_SAMPLES, _RESIDUAL = 2048, 0.05
_SHARE = 0.01  # smaller shares are noise
_PART = 0.05  # an expert with a smaller share is no part of a merge


@dataclass(frozen=True)
class Mixture:
    """A pruned expert as a mixture: ``of`` are base experts with their shares, ``same_as`` experts equal to it."""

    layer_name: str
    expert: int
    of: tuple[tuple[int, float], ...]
    residual: float
    same_as: tuple[int, ...] = ()

    @property
    def explained(self) -> bool:
        """Whether several experts of the base together give the expert's values."""
        return self.residual < _RESIDUAL and sum(abs(share) > _PART for _, share in self.of) > 1

    @property
    def whole(self) -> int | None:
        """The one expert of the base whose values these are, if there is one."""
        if self.residual > 1e-9 or len(self.of) != 1 or abs(self.of[0][1] - 1) > 1e-9:
            return None
        return self.of[0][0]


def find_mixtures(
    base: Checkpoint, pruned: Checkpoint, keep: KeepMap, compared: Sequence[Compared]
) -> tuple[Mixture, ...]:
    """Mixtures of the fused experts whose weights are not the base's."""
    odd: dict[str, list[int]] = {}
    for item in compared:
        if item.expert is not None and item.relation in (Relation.UNMAPPED, Relation.CHANGED, Relation.UNRELATED):
            odd.setdefault(item.name, []).append(item.expert)
    result = []
    for name, experts in odd.items():
        source = keep.to_base(name)
        if source is None or keep.base.get(source, ())[1:] != pruned.shapes[name][1:]:
            continue
        result += _of_stack(base, pruned, name, source, experts)
    return tuple(result)


def _of_stack(base: Checkpoint, pruned: Checkpoint, name: str, source: str, experts: Sequence[int]) -> list[Mixture]:
    size = int(np.prod(pruned.shapes[name][1:]))
    chosen = torch.as_tensor(np.random.default_rng(0).choice(size, min(_SAMPLES, size), replace=False))
    theirs = torch.stack([base.read(source, e).reshape(-1)[chosen].double() for e in range(base.shapes[source][0])])
    ours = {e: pruned.read(name, e).reshape(-1)[chosen] for e in range(pruned.shapes[name][0])}
    mixtures = []
    for expert in experts:
        wanted = ours[expert].double()
        if not bool(wanted.isfinite().all() and theirs.isfinite().all()):
            continue  # no shares of experts give that
        shares = torch.linalg.lstsq(theirs.T, wanted[:, None]).solution[:, 0]
        residual = float((theirs.T @ shares - wanted).norm() / wanted.norm().clamp_min(1e-30))
        of = tuple((e, round(float(s), 4)) for e, s in enumerate(shares) if abs(float(s)) > _SHARE)
        same = tuple(e for e, values in ours.items() if e != expert and torch.equal(values, ours[expert]))
        mixtures.append(Mixture(source, expert, of, residual, same))
    return mixtures
