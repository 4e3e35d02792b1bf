"""Constants that an architecture derives from a size, as attributes of modules.

Example: an embedding scale of ``hidden_size ** 0.5``. After pruning, a reload gives it a new value. So the constant
gets that value at once, and a weight of the same module takes over the difference. The weight is found by trial: in
float64 and on its real inputs, the module must compute the same.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.models.containers import leaves, map_leaves
from moeverify.models.numerics import float64_throughout, in_float64
from moeverify.pruning.configuration.probe import Attribute
from moeverify.pruning.configuration.update import companions_of
from moeverify.pruning.plan.folds import Fold

_SAME = 1e-11
Call = tuple[tuple, dict[str, Any]]


@dataclass(frozen=True)
class Constants:
    """Outcome for derived constants.

    ``folds``: factors that weights take over. ``obstacles``: constants that no weight can take over.
    """

    folds: tuple[Fold, ...] = ()
    obstacles: tuple[Attribute, ...] = ()


def keep_constants(
    model: nn.Module, changes: Mapping[Attribute, tuple[float, float]], run: Callable[[nn.Module], Any]
) -> Constants:
    """Find weights that take over ``changes`` (attribute → old and new value). Nothing is changed.

    ``run`` calls the model with its example inputs.
    """
    if not changes:
        return Constants()
    calls, feeders = _observe(model, {path for path, _ in changes}, run)
    folds: list[Fold] = []
    obstacles = []
    for (path, name), (old, new) in changes.items():
        own_folds = None
        if path in calls:
            trial = _Trial(model.get_submodule(path), calls[path])
            own_folds = trial.fold(name, old, new)
        if own_folds is None:
            obstacles.append((path, name))
            continue
        for fold in own_folds:
            fold = Fold(f"{path}.{fold.parameter}" if path else fold.parameter, fold.factor, fold.offset)
            relief = _relieve_tied(model, fold, feeders)
            if relief is None:
                obstacles.append((path, name))
                break
            folds += [fold, *relief]
    return Constants(merged(folds), tuple(obstacles))


class _Trial:
    """A float64 copy of one module, called with the inputs that the model gave it."""

    def __init__(self, module: nn.Module, call: Call) -> None:
        self.stored = module
        self.module = in_float64(module)
        self.args, self.kwargs = map_leaves(_double, call)

    def output(self) -> list[torch.Tensor]:
        with float64_throughout():
            result = self.module(*copy.copy(self.args), **self.kwargs)
        return [t for t in leaves(result) if isinstance(t, torch.Tensor) and t.is_floating_point()]

    def fold(self, name: str, old: float, new: float) -> list[Fold] | None:
        """Folds after which the module with ``new`` computes what it computed with ``old``; ``None`` if none exist."""
        expected = self.output()
        setattr(self.module, name, new)
        for buffer, stored in zip(companions_of(self.module, old), companions_of(self.stored, old), strict=True):
            # What counts are the values as the buffer's own precision rounds them.
            old, new = float(stored), float(torch.tensor(new, dtype=stored.dtype))
            buffer.fill_(new)
        if _same(self.output(), expected):
            return []  # not used in this forward
        for factor in (old / new, new / old):
            for names in self._candidates():
                for offset in (0.0, 1.0):
                    folds = [Fold(parameter, factor, offset) for parameter in names]
                    with self._folded(folds):
                        if _same(self.output(), expected):
                            return folds
        return None

    def _candidates(self) -> Iterator[list[str]]:
        """Weights to try, the smallest first; a bias goes with its weight."""
        parameters = {n: p for n, p in self.module.named_parameters() if p.dim() <= 2}
        for name in sorted(parameters, key=lambda n: (n.count("."), parameters[n].numel())):
            bias = f"{name.removesuffix('weight')}bias"
            if name.endswith("weight"):
                yield [name, bias] if bias in parameters else [name]
            elif name.rpartition(".")[2] != "bias":
                yield [name]

    @contextlib.contextmanager
    def _folded(self, folds: Sequence[Fold]) -> Iterator[None]:
        parameters = dict(self.module.named_parameters())
        saved = {fold.parameter: parameters[fold.parameter].detach().clone() for fold in folds}
        with torch.no_grad():
            for fold in folds:
                parameters[fold.parameter].copy_(fold.of(parameters[fold.parameter]))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, values in saved.items():
                    parameters[name].copy_(values)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _same(got: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    if len(got) != len(expected):
        return False
    for a, b in zip(got, expected, strict=True):
        scale = b.abs().max() if b.numel() else 0.0
        if a.shape != b.shape or not (a - b).abs().max() <= _SAME * scale:
            return False
    return True


def _observe(
    model: nn.Module, paths: set[str], run: Callable[[nn.Module], Any]
) -> tuple[dict[str, Call], dict[str, tuple[str, Call]]]:
    """One forward, observed.

    Returns:
        the calls of the modules at ``paths``, and for each module with a weight the norm that made its input, with that
        norm's call.

    """
    calls: dict[str, Call] = {}
    made: dict[int, tuple[str, Call, torch.Tensor]] = {}
    feeders: dict[str, tuple[str, Call]] = {}
    handles = []

    def before(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            calls.setdefault(name, (args, kwargs))

        return hook

    def around(name: str, is_norm: bool) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if args and isinstance(args[0], torch.Tensor) and name not in feeders:
                maker = made.get(args[0].untyped_storage()._cdata)
                if maker is not None:
                    feeders[name] = maker[:2]
            if is_norm and isinstance(output, torch.Tensor):
                made[output.untyped_storage()._cdata] = (name, (args, kwargs), output)

        return hook

    for name, module in model.named_modules():
        if name in paths:
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor):
            handles.append(module.register_forward_hook(around(name, weight.dim() == 1), with_kwargs=True))
    try:
        with torch.no_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    return calls, feeders


def _relieve_tied(model: nn.Module, fold: Fold, feeders: Mapping[str, tuple[str, Call]]) -> list[Fold] | None:
    """Folds that undo ``fold`` for other layers that share the weight, such as a tied output head.

    They go into the norm before such a layer. ``None`` if there is no norm.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    mine = parameters[fold.parameter]
    reliefs = []
    for name, parameter in parameters.items():
        if parameter is not mine or name == fold.parameter:
            continue
        feeder = feeders.get(name.rpartition(".")[0])
        if feeder is None or fold.offset:
            return None
        path, call = feeder
        trial = _Trial(model.get_submodule(path), call)
        wanted = [t / fold.factor for t in trial.output()]
        for offset in (0.0, 1.0):
            relief = Fold("weight", 1 / fold.factor, offset)
            with trial._folded([relief]):
                if _same(trial.output(), wanted):
                    reliefs.append(Fold(f"{path}.weight", 1 / fold.factor, offset))
                    break
        else:
            return None
    return reliefs


def merged(folds: Sequence[Fold]) -> tuple[Fold, ...]:
    """One fold for each weight: factors multiply.

    Raises ``PruningRefused`` where two folds of one weight take it for different things (weight, and weight - 1).
    """
    result: dict[str, Fold] = {}
    for fold in folds:
        before = result.get(fold.parameter)
        if before is not None and before.offset != fold.offset:
            raise PruningRefused(
                f"{fold.parameter} would take over a constant both as it is stored and with "
                f"{before.offset or fold.offset:g} added to it; leave out the role whose width that constant follows"
            )
        factor = fold.factor * (before.factor if before else 1.0)
        result[fold.parameter] = Fold(fold.parameter, factor, fold.offset)
    return tuple(fold for fold in result.values() if fold.factor != 1.0)
