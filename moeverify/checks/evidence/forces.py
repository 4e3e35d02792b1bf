"""Changes of router logits that send tokens to an expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Change = Callable[[torch.Tensor], torch.Tensor]

# What a forced choice gets, and at most any other: far apart for a softmax and for a sigmoid of each, even where
# scores of a group of experts are summed.
FORCED_LOGIT = 10.0
# Tokens that ``in_part`` sends are one in so many.
PARTS = 4


def in_sequence(first: Change, then: Change) -> Change:
    """Both changes, ``then`` on what ``first`` gives."""
    return lambda logits: then(first(logits))


def towards(expert: int) -> Change:
    """Makes one expert the first choice of every token, with nearly all of the weight."""
    return lambda logits: forced(logits, torch.full(logits.shape[:-1], expert, device=logits.device))


def in_part(expert: int, turn: int) -> Change:
    """Makes one expert the first choice of every fourth token, from number ``turn`` on, and of no other.

    Those tokens give it the weight that their first choice had. So an expert with little capacity has room for all of
    them. Where the largest weights are served first, the order stays that of the scores.
    """

    def change(logits: torch.Tensor) -> torch.Tensor:
        best = logits.argmax(-1, keepdim=True)
        sent = logits.scatter(-1, best, logits[..., expert : expert + 1])
        sent[..., expert] = logits.amax(-1)
        kept = logits.clone()
        kept[..., expert] -= FORCED_LOGIT
        number = torch.arange(logits.shape[:-1].numel(), device=logits.device) % PARTS
        return torch.where((number == turn % PARTS).view(*logits.shape[:-1], 1), sent, kept)

    return change


def towards_each(experts: Sequence[int]) -> Change:
    """Makes each of some experts the first choice of tokens in turn, from call to call, as ``towards`` does."""
    begin = 0

    def change(logits: torch.Tensor) -> torch.Tensor:
        nonlocal begin
        count = logits.shape[:-1].numel()
        turn = torch.arange(begin, begin + count, device=logits.device) % len(experts)
        begin += count
        chosen = torch.as_tensor(experts, device=logits.device)[turn]
        return forced(logits, chosen.view(logits.shape[:-1]))

    return change


def evenly() -> Change:
    """Makes all experts the first choice of tokens in turn, from call to call, as ``towards`` does."""
    turn: Change | None = None

    def change(logits: torch.Tensor) -> torch.Tensor:
        nonlocal turn
        turn = turn or towards_each(range(logits.shape[-1]))
        return turn(logits)

    return change


def forced(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """``logits [..., experts]`` in which those that ``chosen [...]`` names stand far above the rest."""
    others = logits - logits.amax(-1, keepdim=True) - FORCED_LOGIT
    return others.scatter(-1, chosen.unsqueeze(-1), FORCED_LOGIT)
