"""The masked reference: the original model, in float64, with the removed channels held at zero.

Intermediate channels and heads: zeroing every weight at a removed position is exact. A removed hidden channel is
zero everywhere in the residual stream then, but a norm would still average over it, so norms are computed on the
kept channels only, by the architecture's own norm module.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from moeverify.checks.kept import Kept


class KeptChannelsNorm(nn.Module):
    """A norm over the kept channels of the last dimension; the others come out as zero."""

    def __init__(self, norm: nn.Module, kept: torch.Tensor) -> None:
        super().__init__()
        self.norm = copy.deepcopy(norm)
        self.register_buffer("kept", kept, persistent=False)
        for name, parameter in list(self.norm.named_parameters(recurse=False)):
            setattr(self.norm, name, nn.Parameter(parameter.detach()[kept], requires_grad=False))
        if hasattr(self.norm, "normalized_shape"):
            self.norm.normalized_shape = (len(kept),)

    def forward(self, hidden: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """``[..., n]`` to ``[..., n]``."""
        small = self.norm(hidden.index_select(-1, self.kept), *args, **kwargs)
        out = torch.zeros(hidden.shape, dtype=small.dtype, device=small.device)
        return out.index_copy(-1, self.kept, small)


def mask_removed(model: nn.Module, kept: Mapping[tuple[str, int], Kept]) -> None:
    """Hold every removed channel of ``model`` at zero, in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for (name, dim), found in kept.items():
            parameter = parameters[name]
            index = torch.as_tensor(found.positions)
            mask = torch.zeros(parameter.shape, dtype=torch.bool)
            if index.dim() == 1:
                mask.movedim(dim, 0)[index] = True
            else:
                for expert, row in enumerate(index):
                    mask[expert].movedim(dim - 1, 0)[row] = True
            parameter.masked_fill_(~mask.to(parameter.device), 0)
    for path, module in list(model.named_modules()):
        weight = kept.get((f"{path}.weight", 0))
        if weight is None or "norm" not in type(module).__name__.lower() or parameters[f"{path}.weight"].dim() != 1:
            continue
        owner_name, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(owner_name), leaf, KeptChannelsNorm(module, torch.as_tensor(weight.positions)))
