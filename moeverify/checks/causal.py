"""``causal``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from moeverify.base.foreign import left_by
from moeverify.checks.context import Context
from moeverify.checks.evidence.causality import movement, rows_by_token
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped
from moeverify.models.drawn import floats_in, special_tokens
from moeverify.models.exercise import run_all
from moeverify.models.numerics import float64_throughout, in_float64

TOLERANCE = 1e-9
# Other tokens tried from each position on: a mixture shows only where it changes a choice.
TURNS = 4


@check("causal")
def causal(context: Context) -> Finding:
    """Proves that what the pruned model gives for a token does not depend on later ones, as in the original.

    In float64, ids are changed from several positions on, the last among them, in several ways. Every output with a row
    for each token must stay before that, to a relative 1e-9. A longer input than the example is tried as well. A router
    whose groups no longer divide its experts still runs, and mixes tokens: this shows it. The original is asked first:
    outputs for which it reads later tokens itself are left out. Does not prove which outputs the tokens should give.
    """
    examples = list(_examples(context))
    if not examples:
        return skipped("the inputs have no input_ids [batch, tokens] of at least two tokens")
    comparison = _Comparison(context)
    for example in examples:
        if (finding := comparison.problem(example)) is not None:
            return finding
    worst = max(comparison.worst.values())
    return passed(
        f"later tokens change earlier outputs by {worst:.1e} at most", tolerance=TOLERANCE,
        tokens_per_input=[example.ids.shape[1] for example in examples], outputs=list(comparison.outputs),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Example:
    """Inputs with their token ``ids``. Trials replace the tokens from each of ``starts`` on, ``turns`` times."""

    inputs: Mapping[str, Any]
    ids: torch.Tensor
    starts: tuple[int, ...]
    turns: int


def _examples(context: Context) -> Iterator[_Example]:
    """The example inputs, changed from many positions on, and longer ones, changed from the middle and the end on."""
    longer = context.lengths.longer
    for drawer in (context.drawer, context.drawer.in_length(longer) if longer else None):
        if drawer is None:
            continue
        # A longer example repeats what a short one holds: other tokens are drawn.
        inputs = drawer.example if drawer is context.drawer else drawer.draw(context.seed).inputs
        ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
        if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or ids.shape[1] < 2:
            continue
        count = ids.shape[1]
        # Where tokens are mixed, the mixture comes back after as many as there are groups: neighbours differ.
        starts = sorted({s for s in (*range(count - 4, count), *range(count // 2 - 2, count // 2 + 2)) if s > 0})
        floats = floats_in(inputs, torch.float64)
        if drawer is context.drawer:
            yield _Example(floats, ids, tuple(starts), TURNS)
        else:
            yield _Example(floats, ids, (count // 2, count - 1), 1)


class _Comparison:
    """The original and the pruned model in float64; ``worst`` change of earlier outputs by model and start."""

    def __init__(self, context: Context) -> None:
        self.models = {"original": in_float64(context.original), "pruned": in_float64(context.pruned)}
        self.special = torch.tensor(sorted(set(special_tokens(getattr(context.original, "config", None)))))
        self.worst: dict[tuple[str, int], float] = {}
        self.outputs: dict[str, None] = {}

    def problem(self, example: _Example) -> Finding | None:
        """Finding against the model on one example; ``None`` if it does."""
        with float64_throughout():
            try:
                before = rows_by_token(run_all(self.models["original"], example.inputs), example.ids)
                moved = self._moved("original", before, example, turns=1)
            except _NotTaken as error:
                return inconclusive(
                    f"the original does not take other tokens in the places of these ({error}); give example inputs of "
                    "text alone"
                )
            if not before:
                return skipped("no output has a row for each token")
            if not all(any(change.later > 0 for change in moved[start]) for start in moved):
                return skipped("other tokens do not change the output at all")
            mixed = {change.output: change.earlier for start in moved for change in moved[start] if change.leaks}
            watched = [name for name in before if name not in mixed]
            if not watched:
                worst = max(mixed.values())
                return skipped(f"the original reads later tokens itself (change of earlier outputs: {worst:.1e})")
            self.outputs |= dict.fromkeys(watched)
            return self._judge(example, watched)

    def _judge(self, example: _Example, watched: list[str]) -> Finding | None:
        """The pruned model, on the outputs for which the original reads no later token."""
        before = rows_by_token(run_all(self.models["pruned"], example.inputs), example.ids)
        if gone := [name for name in watched if name not in before]:
            return failed(f"{gone[0]} has no row for each token any more, as the original's has", output=gone[0])
        before = {name: before[name] for name in watched}
        for start, changes in self._moved("pruned", before, example, example.turns).items():
            for change in changes:
                if change.leaks:
                    return failed(
                        f"other tokens from position {start} on change {change.output} at {change.position} by "
                        f"{change.earlier:.1e}: tokens are mixed, which the original does not do",
                        changed_from=start,
                        output=change.output,
                        position=change.position,
                        relative_change=change.earlier,
                        original=self.worst["original", start],
                    )
            if not any(change.later > 0 for change in changes):
                return inconclusive(
                    "other tokens do not change what the pruned model gives, so nothing was shown; try another --seed"
                )
        return None

    def _moved(
        self, name: str, before: Mapping[str, torch.Tensor], example: _Example, turns: int
    ) -> dict[int, list[_Change]]:
        """Changes of a model's outputs against ``before``, by the position from which tokens were replaced."""
        result: dict[int, list[_Change]] = {start: [] for start in example.starts}
        for start, turn in ((start, turn) for turn in range(turns) for start in example.starts):
            changed = _changed(example.ids, start, turn, self.special.to(example.ids.dtype))
            try:
                after = run_all(self.models[name], {**example.inputs, "input_ids": changed})
            except Exception as error:
                if name == "pruned":
                    raise
                raise _NotTaken(left_by(error)) from error
            for output, tensor in before.items():
                rows = movement(tensor, after[output])
                earlier, position = float(rows[:, :start].max()), int(rows[:, :start].amax(0).argmax())
                result[start].append(_Change(output, earlier, position, float(rows[:, start:].max())))
                # An output that mixes tokens in the original gives no bound for the pruned model.
                if name == "pruned" or earlier <= TOLERANCE:
                    self.worst[name, start] = max(self.worst.get((name, start), 0.0), earlier)
        return result


class _NotTaken(Exception):
    """The original raises on replaced tokens."""


@dataclass(frozen=True)
class _Change:
    """Relative change of an ``output``: the largest before the changed tokens, where, and the largest from them on."""

    output: str
    earlier: float
    position: int
    later: float

    @property
    def leaks(self) -> bool:
        """Whether earlier rows read later tokens."""
        return not self.earlier <= TOLERANCE


def _changed(ids: torch.Tensor, start: int, turn: int, special: torch.Tensor) -> torch.Tensor:
    """Other ids from ``start`` on, out of those that the example holds; others again for another ``turn``.

    Special tokens, such as those of an image, keep their places.
    """
    ordinary = ids.unique()
    ordinary = ordinary[~torch.isin(ordinary, special.to(ids.device))]
    changed = ids.clone()
    if not len(ordinary):
        return changed
    later = changed[:, start:]
    rank = torch.searchsorted(ordinary, later.contiguous())
    others = ordinary[(rank + 1 + turn * max(len(ordinary) // TURNS, 1)) % len(ordinary)]
    changed[:, start:] = torch.where(torch.isin(later, special.to(ids.device)), later, others)
    return changed
