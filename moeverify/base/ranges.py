"""Many alike things in one line: paths that differ in numbers only, and positions that follow one another."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

_NUMBER = re.compile(r"(?<![^.\[])\d+(?![^.\]])")


def collapse(items: Iterable[tuple[str, Hashable]]) -> list[tuple[str, Any, list[str]]]:
    """Group ``(path, remark)`` whose paths differ only in numbers and whose remarks are the same.

    Returns ``(pattern, description, paths)`` in the order of the first path. Example::

        collapse([("layers.0.mlp", 4), ("layers.1.mlp", 4), ("norm", 4)])
        # [("layers.{0-1}.mlp", 4, ["layers.0.mlp", "layers.1.mlp"]), ("norm", 4, ["norm"])]
    """
    groups: dict[tuple[str, Hashable], list[str]] = defaultdict(list)
    for path, description in items:
        groups[_NUMBER.sub("*", path), description].append(path)
    return [(_pattern(paths), description, paths) for (_, description), paths in groups.items()]


def _pattern(paths: Sequence[str]) -> str:
    columns = list(zip(*(map(int, _NUMBER.findall(path)) for path in paths), strict=True))
    numbers = iter(columns)

    def show(_: re.Match[str]) -> str:
        values = sorted(set(next(numbers)))
        return str(values[0]) if len(values) == 1 else "{" + spans(values) + "}"

    return _NUMBER.sub(show, paths[0])


def spans(values: Iterable[int]) -> str:
    """Ascending numbers with runs written as ``first-last``: ``0-3,7``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def positions_to_dict(positions: np.ndarray) -> dict[str, Any]:
    """Positions ``[units, per unit]`` as plain data: the first unit's, and the step from unit to unit if it is one.

    Units that do not follow one step are listed one by one under ``rows``.
    """
    step = int(positions[1, 0] - positions[0, 0]) if len(positions) > 1 else 0
    if np.array_equal(positions, positions[0] + step * np.arange(len(positions))[:, None]):
        return {"units": len(positions), "first": spans(positions[0].tolist()), "step": step}
    return {"units": len(positions), "rows": [spans(row) for row in positions.tolist()]}
