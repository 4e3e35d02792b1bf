"""Ways to hold removed experts out of the masked reference where minus infinity as a router's score does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from moeverify.checks.evidence.forces import Change

# So low that no softmax and no sigmoid gives it weight, and finite: a softmax over tokens of one expert stays defined.
_LOW = -1e4


def others(gone: Mapping[str, Sequence[int]]) -> Iterator[tuple[dict[str, Change], dict[str, Change]]]:
    """Changes of logits, and of the scores that experts are chosen or weighed by; ``gone``: experts by layer.

    First a low score, for experts that choose or mix tokens. Then zero as a logit, and minus infinity where experts are
    compared. Zero leaves a norm over the logits as it is without them, and a bounded function of them cannot undo it.
    """
    yield {name: held(numbers, _LOW) for name, numbers in gone.items()}, {}
    yield (
        {name: held(numbers, 0.0) for name, numbers in gone.items()},
        {name: held(numbers, float("-inf")) for name, numbers in gone.items()},
    )


def held(gone: Sequence[int], value: float) -> Change:
    """The change that gives the experts ``gone`` the same score ``value``."""

    def change(scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(-1, torch.as_tensor(gone, device=scores.device), value)

    return change
