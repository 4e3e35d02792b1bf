"""Norms of the masked reference, wherever a program computes them: statistics over the kept channels only.

A removed channel is zero in the reference, but a mean would still count it. This mode handles every statistic (mean,
variance, layer, RMS and group norm) over a dimension whose removed channels are all zero. It computes it on the kept
ones. Which channels were removed is known from the keep map; that they are zero is seen in the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from moeverify.checks.evidence.kept import Kept

_REDUCTIONS: frozenset[Callable[..., Any]] = frozenset(
    getattr(home, name) for home in (torch, torch.Tensor) for name in ("mean", "var", "std")
) | {torch.var_mean, torch.std_mean}
_OVER_LAST: frozenset[Callable[..., Any]] = frozenset((F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm))
_GROUPS: frozenset[Callable[..., Any]] = frozenset((F.group_norm, torch.group_norm))
_DIFFERENCES: frozenset[Callable[..., Any]] = frozenset((torch.sub, torch.Tensor.sub, torch.Tensor.__sub__))
# A stack may keep other channels in each expert; so many different sets are tried.
_MOST_SETS = 512


class Statistics(TorchFunctionMode):
    """Computes statistics over kept channels. ``counts`` lists, in order, how many elements each one averaged over.

    Without ``kept`` it only counts. Two forwards whose counts differ average over different things. Where a reference's
    statistic could not be cut down, a difference shows nothing.
    """

    def __init__(self, kept: Mapping[tuple[str, int], Kept] = {}, sizes: Mapping[tuple[str, int], int] = {}) -> None:
        super().__init__()
        self.counts: list[int] = []
        self._removed: dict[int, list[np.ndarray]] = {}
        self._means: dict[int, tuple[torch.Tensor, int, np.ndarray]] = {}
        for key, part in kept.items():
            rows = part.positions.reshape(-1, part.positions.shape[-1])
            for row in {r.tobytes(): r for r in rows[:_MOST_SETS]}.values():
                removed = np.setdiff1d(np.arange(sizes[key]), row)
                known = self._removed.setdefault(sizes[key], [])
                if len(removed) and len(known) < _MOST_SETS and not any(np.array_equal(removed, k) for k in known):
                    known.append(removed)

    def attach(self, model: nn.Module) -> None:
        """Be active in every forward of ``model``."""

        def begin(*_: Any) -> None:
            self.counts.clear()
            self._means.clear()
            self.__enter__()  # type: ignore[no-untyped-call]  # PyTorch's modes have no types

        def end(*_: Any) -> None:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # PyTorch's modes have no types

        model.register_forward_pre_hook(begin)
        model.register_forward_hook(end, always_call=True)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or not x.dim():
            return func(*args, **kwargs)
        if func in _REDUCTIONS:
            return self._reduction(func, x, args, kwargs)
        if func in _OVER_LAST:
            return self._over_last(func, x, args, kwargs)
        if func in _GROUPS:
            return self._groups(func, x, args, kwargs)
        result = func(*args, **kwargs)
        if func in _DIFFERENCES and self._means and len(args) > 1 and id(args[1]) in self._means:
            _, dim, removed = self._means[id(args[1])]
            # Zero minus the mean: the removed channels would count again in a variance written by hand.
            return result.index_fill(dim, torch.as_tensor(removed, device=result.device), 0)
        return result

    def _reduction(self, func: Callable[..., Any], x: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> Any:
        given = kwargs.get("dim", args[1] if len(args) > 1 and not isinstance(args[1], bool) else None)
        dims = range(x.dim()) if given is None or given == () else [given] if isinstance(given, int) else given
        dims = [d % x.dim() for d in dims]
        masked = self._find(x, dims)
        if masked is None:
            self.counts.append(int(np.prod([x.shape[d] for d in dims])))
            return func(*args, **kwargs)
        dim, removed = masked
        cut = _without(x, dim, removed)
        self.counts.append(int(np.prod([cut.shape[d] for d in dims])))
        rest = args[1:] if args else ()
        result = func(cut, *rest, **{k: v for k, v in kwargs.items() if k != "input"})
        for part in result if isinstance(result, tuple) else (result,):
            if part.dim() == x.dim():  # what keeps its dimensions may be subtracted
                self._means[id(part)] = (part, dim, removed)
        return result

    def _over_last(self, func: Callable[..., Any], x: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> Any:
        shape, *rest = args[1:] if len(args) > 1 else (kwargs.pop("normalized_shape"),)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        masked = self._find(x, range(x.dim() - len(shape), x.dim()))
        if masked is None:
            self.counts.append(int(np.prod(shape)))
            return func(x, shape, *rest, **{k: v for k, v in kwargs.items() if k != "input"})
        dim, removed = masked
        inner = dim - (x.dim() - len(shape))

        def cut(value: Any) -> Any:
            fits = isinstance(value, torch.Tensor) and tuple(value.shape) == shape
            return _without(value, inner, removed) if fits else value

        small = [n - len(removed) * (d == inner) for d, n in enumerate(shape)]
        self.counts.append(int(np.prod(small)))
        named = {k: cut(v) for k, v in kwargs.items() if k != "input"}
        return _put_back(func(_without(x, dim, removed), small, *map(cut, rest), **named), x, dim, removed)

    def _groups(self, func: Callable[..., Any], x: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> Any:
        names = ("input", "num_groups", "weight", "bias", "eps")
        given = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        count, weight, bias = given["num_groups"], given.get("weight"), given.get("bias")
        masked = self._find(x, [1])
        if masked is None:
            self.counts.append(x[0].numel() // count)
            return func(*args, **kwargs)
        kept = np.setdiff1d(np.arange(x.shape[1]), masked[1])
        out = torch.zeros_like(x)
        # Each group of the original by itself: where they lose different numbers, no other grouping is the same.
        for group in range(count):
            mine = kept[kept // (x.shape[1] // count) == group]
            if not len(mine):
                continue
            index = torch.as_tensor(mine, device=x.device)
            small = x.index_select(1, index)
            self.counts.append(small[0].numel())
            part = F.group_norm(
                small,
                1,
                None if weight is None else weight.index_select(0, index),
                None if bias is None else bias.index_select(0, index),
                given.get("eps", 1e-5),
            )
            out = out.index_copy(1, index, part)
        return out

    def _find(self, x: torch.Tensor, dims: Iterable[int]) -> tuple[int, np.ndarray] | None:
        """The dimension among ``dims`` whose removed channels are all zero, and which these are."""
        for dim in dims:
            sets = self._removed.get(x.shape[dim], ())
            if not sets:
                continue
            zero = _zero_throughout(x, dim)
            if zero.all():
                continue
            fitting = [removed for removed in sets if zero[removed].all()]
            if fitting:
                return dim, max(fitting, key=lambda removed: (len(removed) == zero.sum(), len(removed)))
        return None


def _zero_throughout(x: torch.Tensor, dim: int) -> np.ndarray:
    """Boolean array of the positions of a dimension with nothing but zeros, also over what ``vmap`` maps over."""
    x = x.detach()
    wrapped = torch._C._functorch
    while wrapped.is_functorch_wrapped_tensor(x):  # its values can only be read below the transform
        mapped = wrapped.maybe_get_bdim(x) if wrapped.is_batchedtensor(x) else -1
        dim += 0 <= mapped <= dim
        x = wrapped.get_unwrapped(x)
    away = tuple(d for d in range(x.dim()) if d != dim)
    with torch._C._DisableFuncTorch():
        zero: np.ndarray = ((x == 0).all(dim=away) if away else x == 0).cpu().numpy()
    return zero


def _without(x: torch.Tensor, dim: int, removed: np.ndarray) -> torch.Tensor:
    kept = np.setdiff1d(np.arange(x.shape[dim]), removed)
    return x.index_select(dim, torch.as_tensor(kept, device=x.device))


def _put_back(small: torch.Tensor, like: torch.Tensor, dim: int, removed: np.ndarray) -> torch.Tensor:
    kept = np.setdiff1d(np.arange(like.shape[dim]), removed)
    out = torch.zeros(like.shape, dtype=small.dtype, device=small.device)
    return out.index_copy(dim, torch.as_tensor(kept, device=small.device), small)
