"""Count the expansions of Torch-Pruning's groups, so that an endless one is recognised in seconds.

Torch-Pruning 1.6.1 adds to a group until it has seen every (layer, direction, indices). This never ends where indices
shift at each turn round a loop. Its search for seen items is linear in the group, so even a bound is reached late.
While counting, a set replaces that search, with the same answers.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeverify.errors import ExpansionsExceeded

MAX_EXPANSIONS = 200_000
# Another limit for subjects; 0 switches the counting off, so that only the clock ends an endless expansion.
VARIABLE = "MOEVERIFY_MAX_EXPANSIONS"


@dataclass
class Count:
    """Expansions of all groups so far."""

    total: int = 0


def limit() -> int:
    """The limit in force for one group; 0 for none."""
    return int(os.environ.get(VARIABLE, MAX_EXPANSIONS))


@contextlib.contextmanager
def counted() -> Iterator[Count]:
    """Count what groups of the ``torch_pruning`` that is imported are given, here and in whatever is called.

    Raises ``ExpansionsExceeded``, naming the frames, as soon as one group exceeds ``limit()``.
    """
    count, most = Count(), limit()
    group_class = getattr(getattr(sys.modules.get("torch_pruning"), "dependency", None), "Group", None)
    if not most or group_class is None or not hasattr(group_class, "add_dep"):
        yield count
        return
    add = group_class.add_dep
    seen = vars(group_class).get("has_pruning_op")

    def add_counted(group: Any, dep: Any, idxs: Any) -> None:
        add(group, dep, idxs)
        count.total += 1
        calls = vars(group).get("_moeverify_calls", 0) + 1  # not its length: a fork may not keep all of them
        vars(group)["_moeverify_calls"] = calls
        if calls > most:
            raise ExpansionsExceeded(
                f"exceeded MAX_EXPANSIONS={most:,}: Dependency expansion overflow at {dep}, in {_frames()[0]}",
                _frames(),
            )

    group_class.add_dep = add_counted
    if seen is not None:
        group_class.has_pruning_op = _has_pruning_op
    try:
        yield count
    finally:
        group_class.add_dep = add
        if seen is not None:
            group_class.has_pruning_op = seen


def _has_pruning_op(group: Any, dep: Any, idxs: Any) -> bool:
    """Whether the group holds this layer, direction and these indices, from a set of its items; groups only grow."""
    memory = vars(group).setdefault("_moeverify_seen", [0, set()])
    items = group._group
    for item in items[memory[0] :]:
        memory[1].add((id(item[0].target), item[0].handler, tuple(item[1])))
    memory[0] = len(items)
    return (id(dep.target), dep.handler, tuple(idxs)) in memory[1]


def _frames() -> list[str]:
    """Frames of the subject, innermost first, up to where it was called; all of them if the subject is ours."""
    package = Path(__file__).parents[1]
    ours = (str(package / "subjects"), str(package / "verification"), "<frozen")
    whole = [f for f in reversed(traceback.extract_stack()) if f.filename != __file__]
    stack = [f for f in whole if not f.filename.startswith(ours)] or whole
    return [f"{f.name} ({'/'.join(Path(f.filename).parts[-2:])}:{f.lineno})" for f in stack]
