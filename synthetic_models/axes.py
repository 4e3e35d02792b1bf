"""Ground truth in the making: what each dimension of each parameter enumerates, written down part by part.

An *axis* says for every position of a dimension which unit of which class it belongs to, or why it can never go.
Nothing here looks at a model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

Place = tuple[str, int, int]
Unit = frozenset[Place]


@dataclass(frozen=True)
class Axis:
    """``units[position]`` is the unit's number in the class ``key``, -1 where it can never go (``frozen`` says why)."""

    key: str
    units: tuple[int, ...]
    frozen: str = ""

    @classmethod
    def free(cls, key: str, size: int) -> Axis:
        """Every position is a unit of its own."""
        return cls(key, tuple(range(size)))

    @classmethod
    def fixed(cls, size: int, reason: str) -> Axis:
        """No position can go."""
        return cls("", (-1,) * size, reason)

    def blocks(self, inner: int) -> Axis:
        """Each position becomes ``inner`` neighbouring ones, as a head's channels are."""
        return Axis(self.key, tuple(u for u in self.units for _ in range(inner)), self.frozen)

    def tiled(self, times: int) -> Axis:
        """The whole axis ``times`` over, as each head repeats its channels, or gate and up their columns."""
        return Axis(self.key, self.units * times, self.frozen)


@dataclass
class Ledger:
    """Axes of every parameter's dimensions. A dimension is one axis, or several laid end to end."""

    places: dict[tuple[str, int], tuple[Axis, ...]] = field(default_factory=dict)

    def put(self, parameter: str, *dims: Axis | tuple[Axis, ...] | None) -> None:
        """Write down a parameter, one axis (or a sequence of them) for each dimension; ``None`` leaves it open."""
        for dim, axes in enumerate(dims):
            if axes is not None:
                self.places[parameter, dim] = (axes,) if isinstance(axes, Axis) else axes

    def linear(self, path: str, out: Axis | tuple[Axis, ...] | None, into: Axis | None, bias: bool) -> None:
        """A linear layer's weight ``[out, in]`` and bias ``[out]``; ``None`` leaves a side open."""
        self.put(f"{path}.weight", out, into)
        if bias and out is not None:
            self.put(f"{path}.bias", out)

    def norm(self, path: str, axis: Axis, kind: str) -> None:
        """An RMSNorm's weight, a LayerNorm's weight and bias."""
        self.put(f"{path}.weight", axis)
        if kind == "layer":
            self.put(f"{path}.bias", axis)

    def units(self) -> dict[str, list[Unit]]:
        """The units of each class. Dimensions of one position have nothing to prune."""
        result: dict[str, dict[int, set[Place]]] = defaultdict(lambda: defaultdict(set))
        for (parameter, dim), axes in self.places.items():
            numbered = [(axis.key, unit) for axis in axes for unit in axis.units]
            if len(numbered) > 1:
                for position, (key, unit) in enumerate(numbered):
                    if unit >= 0:
                        result[key][unit].add((parameter, dim, position))
        return {key: [frozenset(units[n]) for n in sorted(units)] for key, units in result.items()}

    def frozen(self) -> Mapping[Place, str]:
        """Every position that can never go, with the reason."""
        result = {}
        for (parameter, dim), axes in self.places.items():
            reasons = [axis.frozen if unit < 0 else "" for axis in axes for unit in axis.units]
            if len(reasons) > 1:
                result.update({(parameter, dim, p): reason for p, reason in enumerate(reasons) if reason})
        return result
