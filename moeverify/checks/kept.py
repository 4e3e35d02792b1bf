"""Which channels were kept, recovered by matching the pruned tensors against the original ones.

Nothing that the subject says is used, so a wrong bookkeeping cannot hide. Pruning never changes a kept value:
a pruned matrix is a sub-matrix of the original, and a row of it can be recognised by the values it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from moeverify.roles import fused_expert_count


@dataclass(frozen=True, eq=False)
class Kept:
    """Kept positions along one dimension, ``[n]``, or ``[experts, n]`` for a stacked parameter.

    ``exact`` is ``False`` where the values do not tell (equal rows), or where no row of the original fits.
    """

    positions: np.ndarray
    exact: bool


def _bits(values: torch.Tensor) -> np.ndarray:
    """Values as integers: equality of bits, NaN included."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    values = values.detach().cpu().contiguous()
    return values.view(kinds[values.element_size()]).numpy()


def match_rows(pruned: np.ndarray, original: np.ndarray) -> tuple[np.ndarray, bool]:
    """For each row of ``pruned`` the row of ``original`` that holds most of its values.

    Shapes ``[m, a]`` and ``[n, b]`` with ``a <= b``; returns ``[m]`` and whether each match is complete and unique.
    """
    if pruned.shape[1] == original.shape[1]:
        lookup: dict[bytes, list[int]] = {}
        for number, row in enumerate(original):
            lookup.setdefault(row.tobytes(), []).append(number)
        hits = [lookup.get(row.tobytes(), []) for row in pruned]
        exact = all(len(hit) == 1 for hit in hits)
        return np.array([hit[0] if hit else -1 for hit in hits], dtype=np.int64), exact
    positions, exact = [], True
    owners: dict[int, list[int]] = {}
    for number, row in enumerate(original):
        for value in np.unique(row).tolist():
            owners.setdefault(value, []).append(number)
    for row in pruned:
        count = np.zeros(len(original), dtype=np.int64)
        values = np.unique(row).tolist()
        for value in values:
            count[owners.get(value, [])] += 1
        best = int(count.argmax())
        exact &= bool(count[best] == len(values) and (count == count[best]).sum() == 1)
        positions.append(best)
    return np.array(positions, dtype=np.int64), exact


def _matrix(bits: np.ndarray, dim: int) -> np.ndarray:
    return np.moveaxis(bits, dim, 0).reshape(bits.shape[dim], -1)


def _along(pruned: np.ndarray, original: np.ndarray, dim: int) -> tuple[np.ndarray, bool]:
    return match_rows(_matrix(pruned, dim), _matrix(original, dim))


def recover_kept(original: nn.Module, pruned: nn.Module) -> dict[tuple[str, int], Kept]:
    """Kept positions of every parameter dimension whose size changed.

    A vector's values need not tell (norm weights of one): a linear layer's bias takes the positions of its weight's
    outputs, any other ambiguous vector those of the embedding's channels if it has as many.
    """
    before = dict(original.named_parameters())
    result: dict[tuple[str, int], Kept] = {}
    vectors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, parameter in pruned.named_parameters():
        source = before.get(name)
        if source is None or source.dim() != parameter.dim() or source.shape == parameter.shape:
            continue
        if source.dim() == 1:
            vectors[name] = (_bits(parameter), _bits(source))
            continue
        new, old = _bits(parameter), _bits(source)
        for dim in range(source.dim()):
            if source.shape[dim] == parameter.shape[dim]:
                continue
            if dim > 0 and source.shape[0] == parameter.shape[0] and (source.dim() == 3 or _stacked(original, name)):
                found = [_along(new[e], old[e], dim - 1) for e in range(len(new))]
                rows = np.stack([positions for positions, _ in found])
                result[name, dim] = Kept(rows, all(exact for _, exact in found))
            else:
                positions, exact = _along(new, old, dim)
                result[name, dim] = Kept(positions, exact)
    hidden = _hidden(original, result)
    for name, (new, old) in vectors.items():
        weight = result.get((f"{name.removesuffix('bias')}weight", 0)) if name.endswith(".bias") else None
        positions, exact = match_rows(new[:, None], old[:, None])
        fallback = weight or (hidden if len(old) == before_size(original, hidden) else None)
        if not exact and fallback is not None and np.array_equal(old[fallback.positions], new):
            result[name, 0] = fallback
        else:
            result[name, 0] = Kept(positions, exact)
    return result


def _stacked(original: nn.Module, name: str) -> bool:
    """Whether a parameter belongs to fused experts: a bias ``[experts, n]`` beside weights ``[experts, ..., ...]``."""
    owner = original.get_submodule(name.rpartition(".")[0])
    return fused_expert_count(owner) == original.get_parameter(name).shape[0]


def _hidden(original: nn.Module, found: Mapping[tuple[str, int], Kept]) -> Kept | None:
    """Kept channels of the first embedding that lost some."""
    for name, module in original.named_modules():
        if isinstance(module, nn.Embedding) and (kept := found.get((f"{name}.weight", 1))):
            return kept
    return None


def before_size(original: nn.Module, hidden: Kept | None) -> int:
    """Number of hidden channels before pruning; 0 if none was pruned."""
    if hidden is None:
        return 0
    return next(m.embedding_dim for m in original.modules() if isinstance(m, nn.Embedding))


def is_submatrix(pruned: torch.Tensor, original: torch.Tensor, name: str, kept: Mapping[tuple[str, int], Kept]) -> bool:
    """Whether the pruned values are those of the original at the recovered positions, in that order."""
    values = original.detach()
    for dim in range(original.dim()):
        found = kept.get((name, dim))
        if found is None:
            continue
        index = torch.as_tensor(found.positions)
        if index.dim() == 1:
            values = values.index_select(dim, index)
        else:
            values = torch.stack([values[e].index_select(dim - 1, row) for e, row in enumerate(index)])
    return values.shape == pruned.shape and torch.equal(values, pruned.detach())
