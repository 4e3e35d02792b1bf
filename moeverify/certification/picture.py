"""Picture of what was removed: experts of each MoE layer, channels inside of them, hidden channels and layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moeverify.certification.matching.maps import KeepMap
from moeverify.inspection.svg import Drawing

_WIDTH, _LEFT, _RIGHT = 1180, 190, 90
_KEPT, _GONE, _UNKNOWN = "#0969DA", "#D8DEE4", "#BF8700"
_BUCKETS = 256
# Many rows are drawn lower, in smaller letters: height and size of the text.
_FEW, _MANY, _MANY_ROWS = (14, 10), (11, 9), 24


def keep_picture(keep: KeepMap) -> str:
    """The picture as SVG. One row a MoE layer, one column an expert of the base; filled ones stayed."""
    drawing = Drawing(_WIDTH)
    drawing.title("What stayed of the base", "One row for each MoE layer and one column for each expert of the base.")
    y = 28.0
    drawing.text(16, y, "Kept", size=15, bold=True)
    _legend(drawing, y)
    y = _lists(drawing, keep, y + 14)
    y = _experts(drawing, keep, y + 10)
    y = _units(drawing, keep, y + 10)
    drawing.grow(y + 16)
    return drawing.to_string()


def _legend(drawing: Drawing, y: float) -> None:
    for x, colour, text in ((80, _KEPT, "stayed"), (170, _GONE, "removed"), (270, _UNKNOWN, "no part of the base")):
        drawing.box(x, y - 11, 12, 12, colour, radius=0)
        drawing.text(x + 18, y, text, size=12, grey=True)


def _sizes(rows: int) -> tuple[int, int]:
    """Height of each of so many rows, and size of their text."""
    return _FEW if rows <= _MANY_ROWS else _MANY


def _row(drawing: Drawing, y: float, sizes: tuple[int, int], label: str, shares: Sequence[float], text: str) -> None:
    """One row of cells; a share of 1 is kept, 0 removed, -1 unknown. Neighbours of one colour are one shape."""
    height, size = sizes
    drawing.text(16, y + size, label, size=size, mono=True)
    width = (_WIDTH - _LEFT - _RIGHT) / max(len(shares), 1)
    for start, end, share in _runs(shares):
        colour = _UNKNOWN if share < 0 else _shade(share)
        gap = 0.5 if width >= 5 and end - start == 1 else 0.0
        drawing.box(_LEFT + start * width, y, (end - start) * width - gap, height - 1, colour, radius=0)
    drawing.text(_WIDTH - _RIGHT + 8, y + size, text, size=size, grey=True)


def _scale(drawing: Drawing, y: float, count: int) -> None:
    """Numbers of some experts above their columns."""
    step = max(1, 2 ** round(np.log2(max(count, 1) / 8)))
    width = (_WIDTH - _LEFT - _RIGHT) / max(count, 1)
    for number in range(0, count, step):
        drawing.text(_LEFT + (number + 0.5) * width, y, str(number), size=9, grey=True, anchor="middle")


def _runs(values: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    start = 0
    for position in range(1, len(values) + 1):
        if position == len(values) or values[position] != values[start]:
            yield start, position, values[start]
            start = position


def _shade(share: float) -> str:
    """Between the colours of removed and kept, in eight steps."""
    step = round(share * 8) / 8
    low, high = ([int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (_GONE, _KEPT))
    return "#" + "".join(f"{round(a + (b - a) * step):02X}" for a, b in zip(low, high, strict=True))


def _lists(drawing: Drawing, keep: KeepMap, y: float) -> float:
    containers = {layer.container for layer in keep.structure.roles.layers}
    for path, numbers in keep.lists.items():
        if path in containers:
            continue
        before = 1 + max(int(n[len(path) + 1 :].split(".")[0]) for n in keep.base if n.startswith(path + "."))
        shares = np.isin(np.arange(before), numbers).astype(float).tolist()
        _row(drawing, y, _FEW, _short(path), shares, f"{len(numbers)} of {before}")
        y += 16
    return y


def _experts(drawing: Drawing, keep: KeepMap, y: float) -> float:
    if not keep.experts:
        return y
    drawing.text(16, y + 12, "experts", size=12, bold=True)
    layers = keep.structure.roles.layers
    if len(counts := {len(layers[number].experts) for number in keep.experts}) == 1:
        _scale(drawing, y + 16, counts.pop())
    y += 20
    sizes = _sizes(len(keep.experts))
    for number, experts in sorted(keep.experts.items()):
        layer = layers[number]
        shares = np.isin(np.arange(len(layer.experts)), experts).astype(float)
        lost = int((experts < 0).sum())
        text = f"{len(experts)} of {len(layer.experts)}" + (f", {lost} unknown" if lost else "")
        _row(drawing, y, sizes, _short(layer.name), shares.tolist(), text)
        y += sizes[0]
    return y


def _units(drawing: Drawing, keep: KeepMap, y: float) -> float:
    """Draw the channels that stayed, averaged over experts and neighbours; return the next position."""
    by_role: dict[str, list[tuple[str, np.ndarray, int]]] = {}
    for number, units in sorted(keep.units.items()):
        item = keep.structure.classes[number]
        size = item.coupling.size
        if units.shape[-1] < size:
            by_role.setdefault(item.role, []).append((item.where, units, size))
    for role, rows in by_role.items():
        title = f"{role.replace('_', ' ')}: channels or heads, darker where more stayed"
        drawing.text(16, y + 14, title, size=12, bold=True)
        y += 22
        sizes = _sizes(len(rows))
        for where, units, size in rows[:256]:
            text = f"{units.shape[-1]} of {size}"
            _row(drawing, y, sizes, _short(where) or "residual stream", _buckets(units, size), text)
            y += sizes[0]
        y += 4
    return y


def _buckets(units: np.ndarray, size: int) -> list[float]:
    rows = np.atleast_2d(units)
    stayed = np.stack([np.isin(np.arange(size), row) for row in rows]).mean(0)
    parts = np.array_split(stayed, min(size, _BUCKETS))
    return [round(float(part.mean()) * 8) / 8 for part in parts]


def _short(path: str) -> str:
    return path if len(path) <= 28 else "…" + path[-27:]
