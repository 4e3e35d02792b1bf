"""Results that a forward makes and drops, such as the indices beside ``max`` or the last state of a recurrence.

A result that no recorded operation reads may still be read by a custom kernel. To find out, the forward runs again and
each such result is overwritten as soon as it is made. If the output is the same bit for bit, by the same operations, no
operation reads them. The same forward shows which parameters feed nothing but such results, such as the noise of a
router that a training forward adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from moeverify.coupling.solving.links import stated_frozen
from moeverify.coupling.tracing.recorder import Recorder, tensors_in
from moeverify.errors import TraceError
from moeverify.models.containers import leaves

Unread = frozenset[tuple[int, int]]
"""Outputs by the number of the operation that made them and their position among its outputs."""


@dataclass(frozen=True)
class Idle:
    """``results`` that have no effect on the output, and ``parameters`` that feed nothing else."""

    results: Unread = frozenset()
    parameters: frozenset[str] = frozenset()


def idle_results(
    recorder: Recorder, output: Any, fresh: Callable[[], Recorder], run: Callable[[Recorder], Any], random: torch.Tensor
) -> Idle:
    """Results in ``recorder.unread()`` that have no effect on ``output`` and are no part of it.

    Empty if that cannot be shown. ``run`` repeats the forward under a ``fresh`` recorder and returns its output.
    ``random``: state of PyTorch's generator before the first forward.
    """
    made = recorder.made(output)
    if not recorder.unread() - made:
        return Idle()
    frozen = stated_frozen(recorder.relations)
    unread = recorder.unread(lambda dim: not frozen(dim)) - made
    if not unread:  # to freeze what is frozen anyway takes no second forward
        return Idle(unread)
    again = fresh()
    spoil = again.run = _Spoil(again, unread)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(random)
            second = run(again)
    except TraceError:  # what a hidden reader made of the values
        return Idle()
    if again.relations.operations != recorder.relations.operations or not _same(output, second):
        return Idle()
    return Idle(frozenset(spoil.spoiled), spoil.feed_nothing(second))


class _Spoil:
    """Executes operations and overwrites the outputs in ``unread``.

    Exception: memory that outlives the forward, such as that of a parameter or an input.
    """

    def __init__(self, recorder: Recorder, unread: Unread) -> None:
        self.spoiled: set[tuple[int, int]] = set()
        self._recorder = recorder
        self._unread = unread
        self._made: set[int] = set()
        # For each operation the memory that it read, and that of its results; ``None`` where Python got its values.
        self._steps: list[tuple[set[int], set[int] | None]] = []

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if self._recorder.paused:
            return result
        given = {_storage(tensor) for tensor in tensors_in(args, kwargs)}
        outputs = {_storage(tensor) for tensor in tensors_in((result,), {})}
        written = given if func._schema.is_mutable else set()
        self._steps.append((given, outputs | written or None))
        for position, output in enumerate(tensors_in((result,), {})):
            if _storage(output) not in given:
                self._made.add(_storage(output))
            key = (self._recorder.relations.current, position)
            # The memory of a parameter, an input or a constant of the program outlives the forward.
            if key in self._unread and _storage(output) in self._made and _write_over(output):
                self.spoiled.add(key)
        return result

    def feed_nothing(self, output: Any) -> frozenset[str]:
        """Parameters that operations read, and on which neither ``output`` nor a value that left PyTorch depends."""
        recorder, read = self._recorder, set[int]()
        matter = {_storage(leaf) for leaf in leaves(output) if isinstance(leaf, torch.Tensor)} | recorder.escaped
        for given, results in reversed(self._steps):
            read |= given
            if results is None or not matter.isdisjoint(results):
                matter |= given
        return frozenset(name for name in recorder.parameters if recorder.storage_of[name] in read - matter)


def _storage(tensor: torch.Tensor) -> int:
    """Address of the data; the recorder keeps it from being used again while it runs."""
    return int(tensor.untyped_storage()._cdata)


def _write_over(tensor: torch.Tensor) -> bool:
    """Overwrite every element in place; ``False`` if that is not possible."""
    try:
        if tensor.dtype == torch.bool:
            tensor.logical_not_()
        elif tensor.is_floating_point() or tensor.is_complex():
            tensor.copy_(torch.where(tensor == 3, 5, 3))
        else:  # no larger than they were: a hidden reader may take them for positions
            tensor.copy_(torch.where(tensor == 0, 1, 0))
    except RuntimeError:  # several elements share memory
        return False
    return True


def _same(first: Any, second: Any) -> bool:
    """Whether two outputs hold the same tensors, bit for bit, in the same places."""
    mine, other = ([x for x in leaves(o) if isinstance(x, torch.Tensor)] for o in (first, second))
    return len(mine) == len(other) and all(
        a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(mine, other, strict=True)
    )
