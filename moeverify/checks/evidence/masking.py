"""The masked reference: the original model, in float64, with the removed channels held at zero.

Intermediate channels and heads: zeroing every weight at a removed position is exact. A removed hidden channel is zero
everywhere in the residual stream then, but a norm would still average over it. So a norm is computed on the kept
channels only, by the architecture's own module, with its own statistics, zero-centred weights and eps. Norms that are
no modules with a vector over channels are left to ``statistics``. A removed expert must not be chosen: see ``routing``.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from moeverify.checks.evidence.kept import Kept, tensors_of
from moeverify.checks.evidence.statistics import Statistics

# The first two normalise each channel by itself: with weight and bias at zero a removed one is zero. Groups of
# channels may lose different numbers, so that no module of one size computes the same: ``statistics`` does.
_NOT_CUT = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)


class KeptChannels(nn.Module):
    """A module over the last dimension, computed on the kept channels only; the others come out as zero.

    A norm for images, by torch's and timm's way to name them (``LayerNorm2d``), has its channels in dimension 1. Every
    tensor argument whose dimension of channels has the full size is cut alike (gated norms take two).
    """

    kept: torch.Tensor

    def __init__(self, module: nn.Module, kept: torch.Tensor, size: int, pruned: nn.Module | None = None) -> None:
        super().__init__()
        self.small = copy.deepcopy(module)
        self.size = size
        self.axis = channel_axis(module)
        self.register_buffer("kept", kept, persistent=False)
        for name, parameter in list(self.small.named_parameters(recurse=False)):
            if parameter.shape == (size,):
                setattr(self.small, name, nn.Parameter(parameter.detach()[kept], requires_grad=False))
        for name, value in vars(module).items():
            if value in (size, (size,), [size]) and not isinstance(value, bool):
                setattr(self.small, name, type(value)((len(kept),)) if not isinstance(value, int) else len(kept))
            elif name.endswith("size") and isinstance(value, int) and (left := _left_of_each(kept, size, value)):
                setattr(self.small, name, left)
        # Other sizes (the width of a group) are those of the pruned module; eps and the like stay our own.
        for name, value in vars(pruned).items() if pruned is not None else ():
            if not name.startswith("_") and _is_size(value) and name in vars(module):
                setattr(self.small, name, value)

    def _cut(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() > max(self.axis, 0) and value.shape[self.axis] == self.size:
            return value.index_select(self.axis, self.kept)
        return value

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """``[..., n]`` to ``[..., n]``, or to a statistic of another size, which is handed on as it is."""
        named = {k: self._cut(v) for k, v in kwargs.items()}
        small: torch.Tensor = self.small(self._cut(hidden), *map(self._cut, args), **named)
        if small.shape[self.axis] != len(self.kept):
            return small
        shape = list(small.shape)
        shape[self.axis] = self.size
        out = torch.zeros(shape, dtype=small.dtype, device=small.device)
        return out.index_copy(self.axis, self.kept, small)


def channel_axis(module: nn.Module) -> int:
    """The dimension of a module's input that holds its channels."""
    return 1 if type(module).__name__.endswith("2d") else -1


def _left_of_each(kept: torch.Tensor, size: int, width: int) -> int | None:
    """Number of kept channels among ``width`` neighbours, if every group of neighbours keeps the same number."""
    if not 1 < width < size or size % width:
        return None
    left = torch.bincount(kept // width, minlength=size // width)
    return int(left[0]) if bool((left == left[0]).all()) else None


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)


def _is_zero_outside(hidden: torch.Tensor, dim: int, kept: torch.Tensor) -> bool:
    outside = torch.ones(hidden.shape[dim], dtype=torch.bool, device=hidden.device)
    outside[kept] = False
    return not bool(hidden.detach().movedim(dim, -1)[..., outside].any())


def zero_removed(tensor: torch.Tensor, dim: int, kept: np.ndarray) -> None:
    """Set ``tensor`` to zero outside ``kept`` (``[n]``, or ``[experts, n]``) along ``dim``, in place."""
    index = torch.as_tensor(kept, device=tensor.device)
    mask = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    if index.dim() == 1:
        mask.movedim(dim, 0)[index] = True
    else:
        for expert, row in enumerate(index):
            mask[expert].movedim(dim - 1, 0)[row] = True
    with torch.no_grad():
        tensor.masked_fill_(~mask, 0)


def _by_original_expert(kept_rows: Kept, experts: Kept | None, count: int) -> np.ndarray:
    """Kept positions by the original's experts, where a stack lost whole experts as well as channels of each.

    Values of removed experts are left alone, since those are never chosen.
    """
    if kept_rows.positions.ndim == 1 or experts is None or experts.positions.ndim != 1:
        return kept_rows.positions
    table = np.repeat(kept_rows.positions[:1], count, axis=0)
    table[experts.positions] = kept_rows.positions
    return table


def channel_modules(model: nn.Module, kept: Mapping[tuple[str, int], Kept]) -> Iterable[tuple[str, int, np.ndarray]]:
    """Leaf modules whose own parameters are vectors over channels of which some were removed: norms and scales.

    Yields the path, the number of channels there were, and those kept.
    """
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not path or not own or any(True for _ in module.children()) or any(p.dim() != 1 for p in own.values()):
            continue
        if isinstance(module, _NOT_CUT):
            continue
        rows = next((kept[key] for name in own if (key := (f"{path}.{name}", 0)) in kept), None)
        if rows is not None:
            yield path, next(iter(own.values())).shape[0], rows.positions
    yield from _weightless_norms(model, kept)


def _weightless_norms(model: nn.Module, kept: Mapping[tuple[str, int], Kept]) -> Iterable[tuple[str, int, np.ndarray]]:
    """Norms without parameters that stand in the residual stream: they take the hidden channels.

    One with buffers keeps statistics of each channel, or normalises a weight (``spectral_norm``).
    """
    for name, embedding in model.named_modules():
        if isinstance(embedding, nn.Embedding) and (columns := kept.get((f"{name}.weight", 1))):
            break
    else:
        return
    for path, module in model.named_modules():
        own = (*module.parameters(), *module.buffers())
        if "norm" in type(module).__name__.lower() and not own and not isinstance(module, _NOT_CUT):
            yield path, embedding.embedding_dim, columns.positions


def mask_norms(model: nn.Module, kept: Mapping[tuple[str, int], Kept], pruned: nn.Module | None = None) -> Statistics:
    """Make norms average over the kept channels only, in place; ``pruned`` gives the sizes of grouped norms.

    Returns what computes statistics outside of such norms in every forward of ``model``.
    """
    tensors = tensors_of(model)
    known = {key: found for key, found in kept.items() if key[0] in tensors}
    statistics = Statistics(known, {(name, dim): tensors[name].shape[dim] for name, dim in known})
    statistics.attach(model)
    theirs = dict(pruned.named_modules()) if pruned is not None else {}
    for path, size, positions in list(channel_modules(model, kept)):
        owner, _, leaf = path.rpartition(".")
        module = model.get_submodule(path)
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        wrapped = KeptChannels(module, torch.as_tensor(positions, device=device), size, theirs.get(path))
        setattr(model.get_submodule(owner), leaf, _OfSize(wrapped, module))
    return statistics


class _OfSize(nn.Module):
    """Uses the cut module where the input has the full size, and the original one elsewhere.

    A norm without parameters may also see several streams of channels side by side, each with the same ones kept.
    """

    def __init__(self, cut: KeptChannels, whole: nn.Module) -> None:
        super().__init__()
        self.cut = cut
        self.whole = whole

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # code that asks the module for its weight's type
            return getattr(super().__getattr__("whole"), name)

    def _is_channel_axis(self, hidden: torch.Tensor, axis: int) -> bool:
        """Whether ``axis`` holds the channels. Another dimension of the same size holds them if it alone is masked."""
        others = [d for d, size in enumerate(hidden.shape) if size == self.cut.size and d != axis % hidden.dim()]
        if not others or hidden.shape[axis] != self.cut.size or _is_zero_outside(hidden, axis, self.cut.kept):
            return True
        return not any(_is_zero_outside(hidden, d, self.cut.kept) for d in others)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Any shape to the same."""
        axis = self.cut.axis
        if not self._is_channel_axis(hidden, axis):
            return self.whole(hidden, *args, **kwargs)
        streams, rest = divmod(hidden.shape[axis], self.cut.size) if hidden.dim() > axis else (0, 0)
        weightless = not any(True for _ in self.whole.parameters())
        if rest or not streams or (streams > 1 and not weightless):
            return self.whole(hidden, *args, **kwargs)
        kept = torch.cat([self.cut.kept + number * self.cut.size for number in range(streams)])
        # That a norm without weights stands in the residual stream is a guess; its input shows whether it is right.
        if weightless and not _is_zero_outside(hidden, axis, kept):
            return self.whole(hidden, *args, **kwargs)
        if streams == 1:
            return self.cut(hidden, *args, **kwargs)
        return KeptChannels(self.whole, kept, hidden.shape[-1])(hidden, *args, **kwargs)


def mask_removed(
    model: nn.Module,
    kept: Mapping[tuple[str, int], Kept],
    pruned: nn.Module | None = None,
    *,
    unloaded: Collection[str] = (),
) -> Statistics:
    """Set every removed channel of ``model`` to zero, in place; returns what ``mask_norms`` returns.

    ``unloaded``: tensors whose values are read from a file later; the reader masks them.
    """
    tensors = tensors_of(model)
    for (name, dim), part in kept.items():
        if name in tensors and name not in unloaded and tensors[name].is_floating_point():
            zero_removed(tensors[name], dim, _by_original_expert(part, kept.get((name, 0)), len(tensors[name])))
    return mask_norms(model, kept, pruned)
