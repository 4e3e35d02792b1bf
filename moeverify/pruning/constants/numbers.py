"""Plain numbers that a forward computes with, such as ``x * config.hidden_size**0.5``, and which follow from a size.

An operation gets tensors and plain numbers. One recorded forward without weights shows all of them
(``recorder.py``). The same forward of the model that the new configuration builds shows which are derived from a size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher

# Which of them a reshape is depends on the sizes.
RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a forward.

    ``inputs``: values in its arguments, by position or keyword. ``numbers``: plain floating-point arguments; ``ints``:
    whole numbers, by argument name. ``line``: the ``file:line`` of the user's code, for operations that reshape or get
    a number.
    """

    operation: str
    module: str
    inputs: Mapping[int | str, int]
    numbers: Mapping[int | str, float]
    outputs: tuple[int, ...]
    line: str = ""
    ints: Mapping[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Forward:
    """A recorded forward. A *value* is what one tensor held at one time, numbered in the order they appeared.

    ``makers``: step that made a value. ``readers``: steps that used it (``-1``: it is the model's output).
    ``parameters``: names of values that are parameters. ``shapes``: all shapes. ``muddled``: values that may have been
    changed through another tensor with the same memory. ``entered``: number of operations that began, including one
    that raised.
    """

    steps: list[Step] = field(default_factory=list)
    makers: dict[int, int] = field(default_factory=dict)
    readers: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    parameters: dict[int, str] = field(default_factory=dict)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    muddled: set[int] = field(default_factory=set)
    entered: int = 0


@dataclass(frozen=True)
class Number:
    """A number that changes with the configuration. ``step`` is ``None`` if only the new forward has it."""

    module: str
    operation: str
    old: float
    new: float
    step: int | None = None
    position: int | str = 0
    line: str = ""

    @property
    def name(self) -> str:
        """Operation and argument, for messages."""
        return f"the number {self.old:.6g} that the forward of {self.module or 'the model'} gives to {self.operation}"


def changed_numbers(before: Forward, after: Forward) -> list[Number]:
    """Numbers that differ between two forwards of the same architecture, module by module.

    Exception: a number of summed terms, as in a mean written by hand, is no constant.
    """
    ours, theirs = _by_module(before), _by_module(after)
    result: list[Number] = []
    for module, numbers in theirs.items():
        mine = ours.get(module, [])
        names = [before.steps[n].operation for n in mine], [after.steps[n].operation for n in numbers]
        paired: set[int] = set()
        for start, other, length in SequenceMatcher(None, *names, autojunk=False).get_matching_blocks():
            for old, new in zip(mine[start : start + length], numbers[other : other + length], strict=True):
                paired.add(new)
                result += _differing(before, old, after, new)
        known = {(before.steps[n].operation, *before.steps[n].numbers.values()) for n in mine}
        for number in set(numbers) - paired:
            step = after.steps[number]
            if (step.operation, *step.numbers.values()) not in known:
                result += [Number(module, step.operation, math.nan, value) for value in step.numbers.values()]
    return result


def _by_module(forward: Forward) -> dict[str, list[int]]:
    """Steps that compute with floating-point numbers, by the module they run in."""
    result: dict[str, list[int]] = defaultdict(list)
    for number, step in enumerate(forward.steps):
        if step.numbers:
            result[step.module].append(number)
    return result


def _differing(before: Forward, old: int, after: Forward, new: int) -> Iterator[Number]:
    first, second = before.steps[old], after.steps[new]
    for position, value in first.numbers.items():
        other = second.numbers.get(position, math.nan)
        if value == other or (_counts(before, first, value) and _counts(after, second, other)):
            continue
        yield Number(first.module, first.operation, value, other, old, position, first.line)


def _counts(forward: Forward, step: Step, number: float) -> bool:
    """Whether ``step`` divides a sum by the number of its terms."""
    for value in step.inputs.values():
        made = forward.steps[forward.makers[value]] if value in forward.makers else None
        if made is None or made.operation != "aten.sum" or 0 not in made.inputs:
            continue
        whole, left = (math.prod(forward.shapes[v]) for v in (made.inputs[0], value))
        count = whole / left if left else 0.0
        if step.operation == "aten.div" and number == count:
            return True
        if step.operation == "aten.mul" and math.isclose(number * count, 1.0):
            return True
    return False
