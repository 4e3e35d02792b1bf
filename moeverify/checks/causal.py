"""``causal``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped
from moeverify.models.drawn import floats_in, special_tokens
from moeverify.models.exercise import run
from moeverify.models.numerics import float64_throughout, in_float64

TOLERANCE = 1e-9
# Other tokens tried from each position on: a mixture shows only where it changes a choice.
TURNS = 4


@check("causal")
def causal(context: Context) -> Finding:
    """Proves that what the pruned model gives for a token does not depend on later ones, as in the original.

    In float64: ids are changed from several positions on, the last among them, in several ways; outputs before that
    must stay, to a relative 1e-9. A longer input than the example is tried as well. A router whose groups no longer
    divide its experts still runs, and mixes tokens: this shows it. The original is asked first; one that reads later
    tokens itself is skipped. Does not say what tokens should give.
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
        tokens_per_input=[example.ids.shape[1] for example in examples],
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Example:
    """Inputs with their ``ids``; ``starts`` are positions from which tokens change, in ``turns`` ways."""

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

    def problem(self, example: _Example) -> Finding | None:
        """Why the check does not pass on an example; ``None`` if it does."""
        with float64_throughout():
            for name in self.models:
                if (finding := self._problem(name, example)) is not None:
                    return finding
        return None

    def _problem(self, name: str, example: _Example) -> Finding | None:
        model, inputs, ids = self.models[name], example.inputs, example.ids
        before = _output(model, inputs)
        if before is None or before.dim() < 2 or before.shape[:2] != ids.shape:
            return skipped("the output has no row for each token")
        tries = [(s, turn) for turn in range(1 if name == "original" else example.turns) for s in example.starts]
        for start, turn in tries:
            try:
                changed = _changed(ids, start, turn, self.special.to(ids.dtype))
                after = _output(model, {**inputs, "input_ids": changed})
            except Exception as error:
                if name == "pruned":
                    raise
                line = left_by(error)
                return inconclusive(
                    f"the original does not take other tokens in the places of these ({line}); give example inputs of "
                    "text alone"
                )
            assert after is not None
            scale = before.abs().max().clamp_min(1e-300)
            gaps = (after - before)[:, :start].abs().flatten(2).amax(-1) / scale
            self.worst[name, start] = max(self.worst.get((name, start), 0.0), float(gaps.max()))
            if name == "pruned" and not gaps.max() <= TOLERANCE:
                position = int((gaps > TOLERANCE).any(0).nonzero()[0])
                return failed(
                    f"other tokens from position {start} on change the output at {position} by "
                    f"{float(gaps.max()):.1e}: tokens are mixed, which the original does not do",
                    changed_from=start,
                    position=position,
                    relative_change=float(gaps.max()),
                    original=self.worst["original", start],
                )
            if not (after - before)[:, start:].abs().max() > 0:
                return skipped("other tokens do not change the output at all")
            if name == "original" and not gaps.max() <= TOLERANCE:
                return skipped(f"the original reads later tokens itself (change of earlier outputs: {gaps.max():.1e})")
        return None


def _output(model: nn.Module, inputs: Any) -> torch.Tensor | None:
    output = run(model, inputs)
    return output if output.is_floating_point() else None


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
