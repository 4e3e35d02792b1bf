"""Whether a forward runs the same operations as before its attributes were changed.

An attribute may mean two things: a number of heads that is also a number of chosen experts. Where the second one shows
in no shape, the operations and their whole numbers show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from moeverify.pruning.constants.numbers import Forward, Step

# Which of these run depends on sizes and strides alone; they move values and compute none.
_LAYOUT = re.compile(
    r"aten\.(view|_unsafe_view|reshape|_reshape_alias|expand|clone|contiguous|_to_copy|alias|detach|squeeze|unsqueeze"
    r"|t|transpose|permute)"
)
_KERNELS = re.compile(r"aten\._?scaled_dot_product.*")
# Whole numbers that say what is computed, not on how much.
_FIXED = frozenset({"k", "dim", "dim0", "dim1", "group", "diagonal", "step", "num_classes"})


def first_difference(before: Forward, after: Forward) -> int | None:
    """First step of ``after`` with another operation or whole number than in ``before``; ``None`` if all agree."""
    ours, theirs = list(_computing(before)), list(_computing(after))
    for (_, old), (number, new) in zip(ours, theirs, strict=False):
        if _kind(old) != _kind(new) or _differs(before, old, after, new):
            return number
    if len(ours) != len(theirs):
        return theirs[len(ours)][0] if len(theirs) > len(ours) else len(after.steps) - 1
    return None


def _computing(forward: Forward) -> Iterator[tuple[int, Step]]:
    return ((n, step) for n, step in enumerate(forward.steps) if not _LAYOUT.fullmatch(step.operation))


def _kind(step: Step) -> str:
    return "attention" if _KERNELS.fullmatch(step.operation) else step.operation


def _differs(before: Forward, old: Step, after: Forward, new: Step) -> bool:
    """Whether an operation got another whole number although no shape changed, or one that no size explains."""
    changed = {name for name in old.ints.keys() & new.ints.keys() if old.ints[name] != new.ints[name]}
    if not changed or old.operation.startswith("aten._scaled_dot"):
        return False
    if _shapes(before, old) == _shapes(after, new):
        return True
    if old.operation == "aten.native_group_norm" and old.ints["group"] == old.ints["C"]:
        return new.ints["group"] != new.ints["C"]  # one group for each channel
    return not changed.isdisjoint(_FIXED)


def _shapes(forward: Forward, step: Step) -> list[tuple[int, ...]]:
    return [forward.shapes[value] for value in (*step.inputs.values(), *step.outputs)]
