"""Dimensions that no coupling class explains, by their values: tokens of the vocabulary, heads inside of key groups.

A class says which positions of all tensors go together. Here each tensor is matched alone, so that only outputs show
whether they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from moeverify.certification.matching.keys import as_bits, hash_rows, in_type, match
from moeverify.certification.matching.maps import KeepMap, Unknown
from moeverify.certification.matching.tokenizers import TokenClaims
from moeverify.certification.matching.units import SAMPLES
from moeverify.certification.structure.axes import with_entry
from moeverify.models.folder.checkpoint import Checkpoint

_VOCABULARY = "vocab_size"


def find_tokens(base: Checkpoint, pruned: Checkpoint, keep: KeepMap, claims: TokenClaims) -> None:
    """Recover the tokens that stayed, if the vocabulary changed its size or its numbers; -1 for those that were added.

    A row that is none of the base's counts as that of its text, so that it is compared with the base's.
    """
    sizes, now = (vocabulary_sizes(side.skeleton.config.to_dict()) for side in (base, pruned))
    changed = [path for path in sizes if path in now and now[path] != sizes[path]]
    if not changed and sizes == now and claims.renumber:
        changed = sorted(sizes, key=lambda path: -sizes[path])[:1]
    if len(changed) != 1:
        return
    size, count = sizes[changed[0]], now[changed[0]]
    other = with_entry(base.skeleton, changed[0], count if count != size else size + 1)
    if other is None or other.shapes.keys() != base.skeleton.shapes.keys():
        return
    axes = {
        (name, dim)
        for name, shape in base.skeleton.shapes.items()
        for dim, (old, new) in enumerate(zip(shape, other.shapes[name], strict=True))
        if old != new
    }
    claimed = claims.as_array(count)
    claimed[claimed >= size] = -1
    votes = [m for name, dim in sorted(axes) if (m := _matched(base, pruned, keep, name, dim, claimed)) is not None]
    votes = [vote for vote in votes if len(vote) == count]
    if votes:
        best = max(votes, key=lambda v: (sum(np.array_equal(v, other) for other in votes), (v == claimed).sum()))
        best = np.where(best < 0, claimed, best)
        keep.tokens = np.where(best < 0, np.arange(count), best) if count == size else best
        keep.token_axes = frozenset(axes)


def vocabulary_sizes(config: Mapping[str, Any]) -> dict[tuple[str, ...], int]:
    """The entries of a configuration that count tokens, by path."""
    return dict(_sizes(config))


def _sizes(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _sizes(value, (*path, key))
        elif key == _VOCABULARY and isinstance(value, int):
            yield (*path, key), value


def find_loose(base: Checkpoint, pruned: Checkpoint, keep: KeepMap) -> None:
    """Match dimensions that are not known yet, where all positions of one are found. Vectors follow their matrix."""
    for number, units in list(keep.units.items()):
        if (units < 0).any() and keep.is_split(number):
            del keep.units[number]
    for name in sorted(keep.base, key=lambda name: -len(keep.base[name])):
        for dim in _open(keep, name):
            rows = _of_module(base, pruned, keep, name) if len(keep.base[name]) == 1 else None
            rows = _matched(base, pruned, keep, name, dim) if rows is None else rows
            if rows is not None and (rows >= 0).all():
                keep.found[name, dim] = rows


def _open(keep: KeepMap, name: str) -> Iterator[int]:
    """The one dimension of a tensor, outside of experts, that is not known."""
    if any((name, dim) in keep.structure.axes for dim in range(len(keep.base[name]))):
        return
    dims = [dim for dim in range(len(keep.base[name])) if not _is_known(keep, name, dim)]
    if len(dims) == 1 and keep.to_pruned(name) in keep.pruned:
        yield dims[0]


def _is_known(keep: KeepMap, name: str, dim: int) -> bool:
    try:
        keep.positions(name, dim)
    except Unknown:
        return False
    return True


def _of_module(base: Checkpoint, pruned: Checkpoint, keep: KeepMap, name: str) -> np.ndarray | None:
    """Positions of a vector that another tensor beside it was found at, if they give its values."""
    module = name.rpartition(".")[0]
    for (other, _), rows in keep.found.items():
        if other.rpartition(".")[0] != module or len(rows) != keep.shape(name)[0] or rows.max() >= keep.base[name][0]:
            continue
        after = pruned.read(keep.to_pruned(name) or "")
        if torch.equal(keep.as_stored(base.read(name)[torch.as_tensor(rows)], after.dtype), after):
            return rows
    return None


def _matched(
    base: Checkpoint, pruned: Checkpoint, keep: KeepMap, name: str, dim: int, claimed: np.ndarray | None = None
) -> np.ndarray | None:
    """Base positions along one dimension by samples of the others; ``None`` if those are not known.

    Of equal rows the one in its own place, or the one that is ``claimed`` (-1 for none).
    """
    other = keep.to_pruned(name)
    if other is None or other not in keep.pruned or name not in keep.base:
        return None
    after_at: list[slice | torch.Tensor] = [slice(None)]
    before_at: list[slice | torch.Tensor] = [slice(None)]
    generator = np.random.default_rng(len(name))
    for across in (d for d in range(len(keep.base[name])) if d != dim):
        chosen = np.sort(generator.integers(0, keep.shape(name)[across], SAMPLES))
        try:
            positions = keep.positions(name, across)
        except Unknown:
            return None
        source = chosen if positions is None else positions[chosen]
        if (source < 0).any():
            return None
        after_at.append(torch.as_tensor(chosen))
        before_at.append(torch.as_tensor(source))
    after, before = pruned.read(other).movedim(dim, 0), base.read(name).movedim(dim, 0)
    here = after[tuple(after_at)].reshape(len(after), -1)
    there = before[tuple(before_at)].reshape(len(before), -1)
    dtype = pruned.naming.tensors[other].types()[0]
    here, there = in_type(here, dtype), keep.as_stored(there, dtype)
    found, _ = match(hash_rows(here), hash_rows(there))
    own = np.arange(len(here))
    _prefer(found, np.where(own < len(there), own, -1), here, there)
    if claimed is not None and len(claimed) == len(here):
        _prefer(found, claimed, here, there)
    return found


def _prefer(found: np.ndarray, wanted: np.ndarray, here: torch.Tensor, there: torch.Tensor) -> None:
    """Take the wanted base rows where they hold the same values; -1 for none."""
    rows = np.flatnonzero(wanted >= 0)
    theirs = there[torch.as_tensor(wanted[rows])].contiguous()
    same = (as_bits(here[torch.as_tensor(rows)].contiguous()) == as_bits(theirs)).all(1).numpy()
    found[rows[same]] = wanted[rows[same]]
