"""The tokens that both folders have, where the pruned one lost or gained some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

Outputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Numbers of the common tokens: ``before`` in the base, ``after`` in the pruned folder, which has ``size``."""

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
        """Both outputs at the common tokens; outputs without a column for each token stay as they are.

        Among as many tokens as before, these are the logits: another output may be as wide by chance.
        """
        theirs, mine = dict(reference), dict(got)
        for name in theirs.keys() & mine.keys():
            one, other = theirs[name], mine[name]
            if not one.dim() or one.dim() != other.dim() or other.shape[-1] != self.size:
                continue
            if one.shape[-1] != self.size or name.rpartition(".")[2] == "logits":
                theirs[name] = one.index_select(-1, self.before.to(one.device))
                mine[name] = other.index_select(-1, self.after.to(other.device))
        return theirs, mine
