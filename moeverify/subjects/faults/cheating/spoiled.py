"""A pruned model made wrong: what cheating pruners try to hide."""

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def spoil(model: nn.Module) -> None:
    """Change one expert's down projection by a tenth."""
    experts: Any = model.get_submodule("model.layers.0.mlp.experts")
    experts.down_proj[0] *= 1.1
