"""Test whether a configuration can express other sizes, to verify a subject's claim that it cannot.

One integer of the configuration is scaled at a time, and the model is built again without weights. Shares no code with
the pruner.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moeverify.base.entries import EntryPath, name_of, with_entries
from moeverify.models.forward import call_model
from moeverify.models.skeleton import Shapes, shapes_of, skeleton

Dim = tuple[str, int]
# The allowed sizes of a dimension: the least and the most.
Allowed = Mapping[Dim, tuple[float, float]]
# Larger models are not built with weights to see whether they run.
MOST_PARAMETERS = 1 << 27


@dataclass(frozen=True)
class EntryValue:
    """An entry, and a value of it that gives the sizes asked for.

    ``runs``: whether the model runs with it and uses the same scalar constants; ``None`` if that was not tried.
    """

    entry: str
    value: int
    runs: bool | None


@dataclass(eq=False)
class ExpressibleCounts:
    """Search for entries that give a class another count; caches the models that it builds."""

    model: nn.Module
    inputs: Any
    _built: dict[tuple[EntryPath, int], nn.Module | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model: Any = self.model
        self._config = model.config
        self._now = shapes_of(self.model)
        self._document = self._config.to_dict()

    def counts(self, dims: Mapping[Dim, int], kept: int, wanted: Iterable[int], allowed: Allowed, *,
               whole_units: bool) -> EntryValue | None:  # fmt: skip
        """An entry that gives a class one of the counts ``wanted`` instead of ``kept``; ``None`` if there is none.

        ``dims`` are the class's dimensions with their present sizes. Whatever else the entry changes must land within
        ``allowed``, no constant of the architecture may change, and the model must run. With ``whole_units`` (heads)
        the entry must hold the count itself, e.g. ``num_attention_heads``: another may give the same shapes.
        """
        for count in wanted:
            share = Fraction(count, kept)
            for path, value in _numbers(self._document):
                scaled = value * share
                if scaled.denominator != 1 or scaled < 1 or (whole_units and value != kept):
                    continue
                if not any(size % value == 0 or value % size == 0 for size in dims.values()):
                    continue
                built = self._with(path, int(scaled))
                if built is None or not self._lands(shapes_of(built), dims, share, allowed):
                    continue
                if self._same_constants(built) and (runs := self._runs_alike(built)) is not False:
                    return EntryValue(name_of(path), int(scaled), runs)
        return None

    def _with(self, path: EntryPath, value: int) -> nn.Module | None:
        if (path, value) not in self._built:
            try:
                document = with_entries(self._document, {path: value})
                built: nn.Module | None = skeleton(self.model, self._config_of(document))
            except Exception:
                built = None
            self._built[path, value] = built
        return self._built[path, value]

    def _config_of(self, document: Mapping[str, Any]) -> Any:
        """The configuration of a document, with the model's choice of kernels, which no document holds."""
        config = type(self._config).from_dict(copy.deepcopy(document))
        for name in ("_attn_implementation", "_experts_implementation"):
            if (chosen := getattr(self._config, name, None)) is not None:
                setattr(config, name, chosen)
        return config

    def _lands(self, shapes: Shapes, dims: Mapping[Dim, int], share: Fraction, allowed: Allowed) -> bool:
        """Whether ``dims`` have the wanted share of their size, and no other size leaves its allowed range."""
        if shapes.keys() != self._now.keys():
            return False
        for (name, dim), size in dims.items():
            if shapes[name][dim] != size * share:
                return False
        for name, shape in shapes.items():
            if len(shape) != len(self._now[name]):
                return False
            for dim, (new, old) in enumerate(zip(shape, self._now[name], strict=True)):
                low, high = allowed.get((name, dim), (old, old))
                if new != old and not low <= new <= high:
                    return False
        return True

    def _same_constants(self, built: nn.Module) -> bool:
        """Whether all floating-point attributes of modules are as before, so that none is derived from the entry."""
        now = skeleton(self.model, self._config)
        pairs = zip(now.modules(), built.modules(), strict=False)
        return all(
            vars(other).get(name) == value
            for one, other in pairs
            for name, value in vars(one).items()
            if type(value) is float
        )

    def _runs_alike(self, built: nn.Module) -> bool | None:
        """Whether a model of these sizes runs with the same scalar constants; ``None`` if that cannot be tried."""
        if sum(p.numel() for p in self.model.parameters()) > MOST_PARAMETERS:
            return None
        now, other = (self._numbers_used(m.config) for m in (self.model, built))
        return None if now is None else now == other

    def _numbers_used(self, config: Any) -> set[float] | None:
        """Scalars that a forward under ``config`` uses; ``None`` if the model does not run."""
        kind: Any = type(self.model)
        example = next(self.model.parameters())
        numbers = _Numbers()
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(0)
                fresh = kind(copy.deepcopy(config)).to(example.device, example.dtype).eval()
                with numbers:
                    call_model(fresh, self.inputs, use_cache=False)
        except Exception:
            return None
        return numbers.values


def _numbers(document: Any, path: EntryPath = ()) -> Iterator[tuple[EntryPath, int]]:
    """Integers of a configuration that may be sizes, with their paths."""
    items = document.items() if isinstance(document, Mapping) else enumerate(document)
    for key, value in items:
        if isinstance(value, Mapping | list | tuple):
            yield from _numbers(value, (*path, key))
        elif type(value) is int and value > 1:
            yield (*path, key), value


class _Numbers(TorchDispatchMode):
    """Records the scalars that pointwise operations combine with floating-point tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's modes have no types
        self.values: set[float] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.pointwise in func.tags:
            given = tree_leaves((args, kwargs))
            if any(isinstance(a, torch.Tensor) and a.is_floating_point() for a in given):
                self.values |= {float(a) for a in given if type(a) in (int, float)}
        return func(*args, **kwargs)
