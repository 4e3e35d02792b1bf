"""``causal``"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped
from moeverify.models.drawn import special_tokens
from moeverify.models.exercise import run
from moeverify.models.numerics import float64_throughout, in_float64

TOLERANCE = 1e-9
# Other tokens tried from each position on: a mixture shows only where it changes a choice.
TURNS = 4


@check("causal")
def causal(context: Context) -> Finding:
    """Proves that what the pruned model gives for a token does not depend on later ones, as in the original.

    In float64: ids are changed from several positions on, the last among them, in several ways; outputs before that
    must stay, to a relative 1e-9. A router whose groups no longer divide its experts still runs, and mixes tokens:
    this shows it. The original is asked first; one that reads later tokens itself is skipped. Does not say what tokens
    should give.
    """
    inputs = context.example_inputs
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or ids.shape[1] < 2:
        return skipped("the inputs have no input_ids [batch, tokens] of at least two tokens")
    inputs = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
    length = ids.shape[1]
    special = torch.tensor(sorted(set(special_tokens(getattr(context.original, "config", None)))), dtype=ids.dtype)
    # Where tokens are mixed, the mixture comes back after as many as there are groups: neighbours differ.
    starts = sorted({s for s in (*range(length - 4, length), *range(length // 2 - 2, length // 2 + 2)) if s > 0})
    worst: dict[tuple[str, int], float] = {}
    for name, model in (("original", context.original), ("pruned", context.pruned)):
        full = in_float64(model)
        with float64_throughout():
            before = _output(full, inputs)
            if before is None or before.dim() < 2 or before.shape[:2] != ids.shape:
                return skipped("the output has no row for each token")
            tries = [(start, turn) for turn in range(1 if name == "original" else TURNS) for start in starts]
            for start, turn in tries:
                try:
                    after = _output(full, {**inputs, "input_ids": _changed(ids, start, turn, special)})
                except Exception as error:
                    if name == "pruned":
                        raise
                    line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                    return inconclusive(
                        f"the original does not take other tokens in the places of these ({line}); give example inputs "
                        "of text alone"
                    )
                assert after is not None
                scale = before.abs().max().clamp_min(1e-300)
                gaps = (after - before)[:, :start].abs().flatten(2).amax(-1) / scale
                worst[name, start] = max(worst.get((name, start), 0.0), float(gaps.max()))
                if name == "pruned" and not gaps.max() <= TOLERANCE:
                    position = int((gaps > TOLERANCE).any(0).nonzero()[0])
                    return failed(
                        f"other tokens from position {start} on change the output at {position} by "
                        f"{float(gaps.max()):.1e}: tokens are mixed, which the original does not do",
                        changed_from=start,
                        position=position,
                        relative_change=float(gaps.max()),
                        original=worst["original", start],
                    )
                if not (after - before)[:, start:].abs().max() > 0:
                    return skipped("other tokens do not change the output at all")
                if name == "original" and not gaps.max() <= TOLERANCE:
                    return skipped(
                        f"the original reads later tokens itself (change of earlier outputs: {gaps.max():.1e})"
                    )
    return passed(f"later tokens change earlier outputs by {max(worst.values()):.1e} at most", tolerance=TOLERANCE)


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
