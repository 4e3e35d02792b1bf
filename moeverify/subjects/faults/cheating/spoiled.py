"""A pruned model made wrong: what cheating pruners try to hide."""

import torch
from torch import nn


@torch.no_grad()
def spoil(model: nn.Module) -> None:
    """Change one expert's down projection by a tenth."""
    model.model.layers[0].mlp.experts.down_proj[0] *= 1.1
