"""The tokens that both folders have, where the pruned one lost or gained some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

Outputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Numbers of the common tokens: ``before`` in the base, ``after`` in the pruned folder."""

    before: torch.Tensor
    after: torch.Tensor
    size: int

    @classmethod
    def of(cls, tokens: np.ndarray | None) -> Vocabulary | None:
        """``tokens``: base numbers of the pruned folder's tokens, -1 for those it added; ``None`` for all of them."""
        if tokens is None:
            return None
        after = np.flatnonzero(tokens >= 0)
        return cls(torch.as_tensor(tokens[after]), torch.as_tensor(after), len(tokens))

    def common(self, reference: Outputs, got: Outputs) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Both outputs at the common tokens; outputs without a column for each token stay as they are."""
        theirs, mine = dict(reference), dict(got)
        for name in theirs.keys() & mine.keys():
            one, other = theirs[name], mine[name]
            if one.dim() and one.dim() == other.dim() and other.shape[-1] == self.size != one.shape[-1]:
                theirs[name] = one.index_select(-1, self.before.to(one.device))
                mine[name] = other.index_select(-1, self.after.to(other.device))
        return theirs, mine
