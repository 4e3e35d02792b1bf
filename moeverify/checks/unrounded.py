"""Weights that took over a constant, as they were before they were rounded."""

from __future__ import annotations

import torch
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.evidence.folding import folded_values
from moeverify.checks.evidence.kept import kept_part, tensors_of


@torch.no_grad()
def unround_folds(context: Context, full: nn.Module, pruned: nn.Module) -> None:
    """Give weights that took over a constant the value they have before rounding; that the stored one is its rounding
    has been seen by then. The fold itself is judged: it must make up for the constant exactly.
    """
    before, after = tensors_of(full), tensors_of(pruned)
    for name, fold in {fold.parameter: fold for fold in context.folds}.items():
        exact = kept_part(folded_values(fold, before[name]), name, context.kept)
        assert exact is not None
        for mine, source in ((n, context.source_names.get(n, n)) for n in after):
            if source == name:
                after[mine].copy_(exact)
