"""Loops whose condition depends on data: without data an imagined answer has to end them."""

from __future__ import annotations

import ast
import functools
import linecache
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import torch

_PYTORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[2])
# So often the same line of one call may ask before it counts as a loop that does not end.
_MANY = 10_000


class Loops:
    """Number of times that each ``while`` of the user's code asked for its condition."""

    def __init__(self) -> None:
        self._asked: Counter[tuple[int, int]] = Counter()

    def goes_on(self) -> bool:
        """Whether the line of the user's code that asks now is a ``while`` whose condition was true the last time.

        Any other line is treated so after ten thousand calls: a ``while True`` that a condition inside leaves.
        """
        frame = _users_frame()
        if frame is None:
            return False
        key = id(frame), frame.f_lineno
        self._asked[key] += 1
        if self._asked[key] == 1:
            return False
        limit = 1 if frame.f_lineno in _conditions(frame.f_code.co_filename) else _MANY
        return self._asked[key] > limit


def _users_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((_PYTORCH, _OURS)):
        frame = frame.f_back
    return frame


@functools.lru_cache(maxsize=64)
def _conditions(filename: str) -> frozenset[int]:
    """The lines of a file that hold the condition of a ``while``."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:
        return frozenset()
    tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.While)]
    return frozenset(n for test in tests for n in range(test.lineno, (test.end_lineno or test.lineno) + 1))
