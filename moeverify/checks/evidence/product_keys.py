"""Choices among product keys: an expert is a pair of keys, and each half of the pair is chosen by itself.

The best keys of each half are found first, then the best sums of two. A change of logits ``[..., experts]`` is carried
over to the scores of the halves ``[..., keys]``: both keys of the expert that it forces stand far above the rest.

The scores do not show which half they belong to. It may be the number of the call, or the index in a leading dimension
of two. An expert's number may count the first half in rows or in columns. Tokens try these readings in turn.
"""

from __future__ import annotations

import torch

from moeverify.checks.evidence.forces import FORCED_LOGIT, Change, forced


class HalfChoices:
    """The choices among keys that one forward of a layer makes."""

    def __init__(self) -> None:
        self._calls = 0
        self._wanted: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def changed(self, scores: torch.Tensor, change: Change) -> torch.Tensor:
        """Scores ``[..., keys]`` of one half, or ``[2, ..., keys]`` of both.

        Where ``change`` forces no expert they stay as they are, and so do sums of two halves that were changed.
        """
        if self._calls and bool((scores == 2 * FORCED_LOGIT).any()):
            return scores
        half, self._calls = self._calls % 2, self._calls + 1
        shape, keys = scores.shape[:-1], scores.shape[-1]
        if shape not in self._wanted:
            # One draw for both halves: a change may send tokens to experts in turn, from call to call.
            logits = change(scores.new_zeros(*shape, keys * keys))
            self._wanted[shape] = logits.argmax(-1), logits.amax(-1) >= FORCED_LOGIT
        wanted, known = self._wanted[shape]
        of_half = torch.full(shape, half, device=scores.device)
        in_turn = torch.arange(shape.numel(), device=scores.device).view(shape)
        if len(shape) > 1 and shape[0] == 2:
            # Both rows of the leading dimension take one reading: they may be the two halves of one token.
            in_turn = in_turn[:1].expand(shape)
            both = torch.arange(2, device=scores.device).view(2, *[1] * (len(shape) - 1))
            leading = in_turn // 2 % 2 == 1
            wanted = torch.where(leading, wanted[:1], wanted)
            of_half = torch.where(leading, both, of_half)
        columns = in_turn % 2
        first = (of_half + columns) % 2 == 0
        key = torch.where(first, wanted // keys, wanted % keys)
        return torch.where(known.unsqueeze(-1), forced(scores, key), scores)
