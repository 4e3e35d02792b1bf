"""Sets of positions as short text, so that a plan for a large model stays a small file."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def to_text(positions: Iterable[int]) -> str:
    """Ascending positions as runs.

    >>> to_text([0, 1, 2, 5, 8, 9])
    '0-2,5,8-9'
    """
    values = np.asarray(positions if isinstance(positions, np.ndarray) else list(positions), dtype=np.int64)
    if not len(values):
        return ""
    breaks = np.flatnonzero(np.diff(values) != 1)
    starts, ends = values[np.r_[0, breaks + 1]], values[np.r_[breaks, len(values) - 1]]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts.tolist(), ends.tolist(), strict=True))


def from_text(text: str, most: int = 1 << 31) -> np.ndarray:
    """The inverse of ``to_text``. Raises ``ValueError`` if the positions do not ascend, or are more than ``most``.

    >>> from_text("0-2,5").tolist()
    [0, 1, 2, 5]
    """
    runs = [run.partition("-") for run in text.split(",") if run]
    ends = [(int(first), int(last or first)) for first, _, last in runs]
    if sum(last - first + 1 for first, last in ends) > most or any(last >= 1 << 31 for _, last in ends):
        raise ValueError(f"more positions than any dimension has: {text[:80]}")
    starts = np.array([first for first, _ in ends], dtype=np.int64)
    lengths = np.array([last - first + 1 for first, last in ends], dtype=np.int64)
    if (lengths <= 0).any() or (starts[1:] < (starts + lengths)[:-1]).any():
        raise ValueError(f"positions do not ascend: {text[:80]}")
    before = np.cumsum(lengths) - lengths
    values: np.ndarray = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return values
