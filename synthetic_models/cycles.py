"""Injected cycles: what makes a traversal of dependencies run in circles, and what each one couples.

===============================  ===================================================================================
``ladder`` n                     n rungs of ``x = (tanh(x) + x) / 2``: the paths double with each rung; couples nothing
                                 that was not one already
``twice`` n                      one linear layer, hidden to hidden, called n + 1 times in a row
``shared_layers`` n              the first layer comes n more times at the end, the same module under n more names
``chain`` n                      expert k (1 to n) receives what expert k - 1 makes of its input (``layers/experts.py``)
``ring`` n                       expert -> shared expert -> router -> expert, n more times round (``layers/moe.py``)
``rotate_half`` n                n turns of adding the channels with their halves exchanged: couples channel i with
                                 i + hidden / 2
``roll`` n                       channels rolled by n positions and added: no channel can go, all are frozen
``cat_slice`` n                  n turns of adding the channels, sliced and concatenated back a quarter (n = 1: half)
                                 further on: couples each channel with those a quarter (half) away
``tied_experts`` n               experts 1 to n share expert 0's up projection: a true coupling between experts
``shared_experts_between_layers`` the first MoE layer's experts serve n more MoE layers as well
===============================  ===================================================================================
"""

from __future__ import annotations

import torch
from torch import nn

from synthetic_models.layers.attention import rotate_half
from synthetic_models.names import FAMILIES
from synthetic_models.spec import Spec


def cat_slice_parts(strength: int) -> int:
    """In how many parts ``cat_slice`` cuts the channels."""
    return 2 if strength == 1 else 4


class Stem(nn.Module):
    """What the cycles among hidden channels do to the embedded tokens, ``[batch, length, hidden]``."""

    def __init__(self, spec: Spec, hidden: int) -> None:
        super().__init__()
        self.strengths = {cycle.kind: cycle.strength for cycle in spec.cycles}
        if "twice" in self.strengths:
            self.echo = nn.Linear(hidden, hidden, bias=spec.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply each cycle that there is."""
        times = self.strengths.get
        for _ in range(times("ladder", 0)):
            x = (torch.tanh(x) + x) * 0.5
        if times("twice", 0):
            echoed = x
            for _ in range(times("twice", 0) + 1):
                echoed = self.echo(echoed)
            x = x + torch.tanh(echoed)
        for _ in range(times("rotate_half", 0)):
            x = x + 0.25 * rotate_half(x)
        if times("roll", 0):
            x = x + 0.25 * torch.roll(x, times("roll", 0), dims=-1)
        for _ in range(times("cat_slice", 0)):
            part = x.shape[-1] // cat_slice_parts(times("cat_slice", 0))
            x = x + 0.25 * torch.cat((x[..., part:], x[..., :part]), dim=-1)
        return x


def share_modules(layers: nn.ModuleList, spec: Spec) -> None:
    """Tie what the spec ties, in place: projections of experts, experts of layers, whole layers."""
    names = FAMILIES[spec.names]
    moe = [getattr(layers[number], names.moe) for number in spec.moe_layers]
    for later in moe[1 : spec.strength("shared_experts_between_layers") + 1]:
        setattr(later, names.experts, getattr(moe[0], names.experts))
    for layer in moe:
        experts = getattr(layer, names.experts)
        for number in range(1, spec.strength("tied_experts") + 1):
            getattr(experts[number], names.up).weight = getattr(experts[0], names.up).weight
    for _ in range(spec.strength("shared_layers")):
        layers.append(layers[0])
