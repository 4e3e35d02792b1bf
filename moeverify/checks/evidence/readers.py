"""Compare, in two models, the operations that read a vector on which no output can depend.

Softmax removes a bias of keys, since it adds the same to all scores of a query. An instance norm removes a bias before
it. No input shows such a vector in an output, but the result of the operation that reads it depends on the vector. That
result is compared at the kept channels. The outputs judge everything after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from moeverify.checks.evidence.kept import Kept
from moeverify.models.outputs import scale_of

KeptMap = Mapping[tuple[str, int], Kept]
# Values are put beside each other and not combined: what reads the result reads the tensor.
_JOINS = (torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack, torch.vstack)


@dataclass(eq=False)
class Reading:
    """Result of one operation that reads a watched tensor together with computed values.

    ``beside``: the model's own tensors among its arguments. ``depends``: whether the result changes with the watched
    tensor. ``gradient``: norm of the gradient that the result received.
    """

    result: torch.Tensor
    beside: tuple[str, ...]
    depends: bool
    gradient: float = 0.0


class Readers(TorchFunctionMode):
    """While active, ``readings[name]`` lists what operations made of the tensors that ``watched`` names, in order.

    ``tensors`` are the model's own. What is only a view, a cast or a combination of own tensors is followed.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], watched: Collection[str]) -> None:
        super().__init__()
        self.readings: dict[str, list[Reading]] = {name: [] for name in watched}
        # Kept alive, since they go by their id.
        self._own = {id(tensor): (tensor, frozenset((name,))) for name, tensor in tensors.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        names = frozenset[str]().union(*(self._own[id(x)][1] for x in given if id(x) in self._own))
        watched = names & self.readings.keys()
        if not watched:
            return func(*args, **kwargs)
        computed = func not in _JOINS and any(x.is_floating_point() and id(x) not in self._own for x in given)
        depends = {name: self._depends(func, args, kwargs, name) for name in watched} if computed else {}
        result = func(*args, **kwargs)
        for part in tree_leaves(result):
            if not isinstance(part, torch.Tensor) or not part.is_floating_point():
                continue
            if not computed:
                self._own[id(part)] = (part, names)
                continue
            for name in watched:
                self._record(name, part, tuple(names), depends[name])
        return result

    def _record(self, name: str, result: torch.Tensor, beside: tuple[str, ...], depends: bool) -> None:
        reading = Reading(result.detach().clone(), beside, depends)
        self.readings[name].append(reading)

        def received(gradient: torch.Tensor) -> None:
            reading.gradient = float(gradient.double().norm())

        if result.requires_grad:
            result.register_hook(received)

    def _depends(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> bool:
        """Whether some result of the call changes with the watched tensor, to first order."""
        leaves: list[torch.Tensor] = []

        def alone(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            copied = value.detach().clone()
            if id(value) in self._own and name in self._own[id(value)][1] and copied.is_floating_point():
                leaves.append(copied.requires_grad_())
            return copied

        with torch.enable_grad():
            copied_args, copied_kwargs = tree_map(alone, (args, dict(kwargs)))
            try:
                result = func(*copied_args, **copied_kwargs)
                total = [
                    x.double().sum() for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.requires_grad
                ]
                gradients = torch.autograd.grad(total, leaves, allow_unused=True) if total else ()
            except RuntimeError:  # such as one that changes its argument, which autograd refuses for a leaf
                return False
        return any(g is not None and bool((g != 0).any()) for g in gradients)


def agree(name: str, mine: Sequence[Reading], reference: Sequence[Reading], kept: KeptMap, allowed: float) -> bool:
    """Whether all results of operations that read ``name`` are the reference's at the channels that were kept."""
    if not mine or len(mine) != len(reference):
        return False
    return all(
        any(_gap(m.result, part) < allowed for part in _parts(m.result, r.result, (name, *m.beside), kept))
        for m, r in zip(mine, reference, strict=True)
    )


def shown(readings: Sequence[Reading], least: float) -> bool:
    """Whether a result that depends on the vector matters: a change of its size moves an output by ``least``."""
    return any(r.depends and r.gradient * (float(r.result.norm()) or 1.0) > least for r in readings)


def _parts(mine: torch.Tensor, whole: torch.Tensor, names: Sequence[str], kept: KeptMap) -> Iterator[torch.Tensor]:
    """Values of ``whole`` at kept positions, in the shape of ``mine``, by each record of ``names`` that fits."""
    if mine.dim() != whole.dim():
        return
    dims = [d for d in range(mine.dim()) if mine.shape[d] != whole.shape[d]]
    if not dims:
        yield whole
    if len(dims) != 1:
        return
    new, old = mine.shape[dims[0]], whole.shape[dims[0]]
    for (name, _), part in kept.items():
        positions = part.positions
        if name in names and positions.shape == (new,) and bool(((positions >= 0) & (positions < old)).all()):
            yield whole.index_select(dims[0], torch.as_tensor(positions, device=whole.device))


def _gap(mine: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest difference relative to the largest value of the reference."""
    gap = float((mine - reference).abs().max()) if mine.numel() else 0.0
    return gap / (scale_of(reference) or 1.0)
