"""Order of reading: each weight is read once, and all that needs it takes turns, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch_pruning.pruner.importance import RandomImportance

from moeverify.models.folder.blocks import Blocks, block_of
from moeverify.models.folder.turns import Task
from moeverify.pruning.step.ahead import Scoring
from moeverify.pruning.streaming.activations import spilling


class LayerByLayer:
    """Scores classes and runs forwards in turns, so that a layer is in memory once for all of them."""

    def __init__(self, model: Any, blocks: Blocks, importance: object, place: Path | None = None) -> None:
        """``place`` is the folder for activations that wait."""
        self._model, self._blocks, self._place = model, blocks, place
        # What draws random numbers draws them in the order of the plan, as it does in memory; it reads nothing.
        self._drawn = isinstance(importance, RandomImportance)

    def score(self, pieces: Sequence[Scoring]) -> None:
        """Score layer by layer: a class starts with the first of its blocks, and waits for others that it needs."""
        if self._drawn:
            for piece in pieces:
                piece.work()
        else:
            counts = Counter(name for piece in pieces for name in piece.parameters)
            self._blocks.passing = frozenset(name for name, count in counts.items() if count == 1)
            try:
                self._blocks.turns.run([Task(self._first_block(piece), piece.work) for piece in pieces])
            finally:
                self._blocks.passing = frozenset()
        self._blocks.release()

    def forward(self, calls: Sequence[Callable[[], Any]]) -> None:
        """Run forwards: all go through one layer before any enters the next; activations wait on the disk."""
        first = next(iter(self._blocks.order))
        with spilling(self._model, self._blocks, self._place):
            self._blocks.turns.run([Task(first, _without_result(call)) for call in calls])
        self._blocks.release()

    def _first_block(self, piece: Scoring) -> str:
        order = self._blocks.order
        blocks_read = {block_of(name) for name in piece.parameters} & order.keys()
        return min(blocks_read, key=lambda block: order[block]) if blocks_read else next(iter(order))


def _without_result(call: Callable[[], Any]) -> Callable[[], None]:
    def work() -> None:
        call()

    return work
