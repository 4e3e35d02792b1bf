"""Weights in memory of their own for a comparison, and back where they lay."""

import torch
from torch import nn

from moeverify.models.memory_layout import ALIGNMENT, laid_out_afresh


def test_views_and_unaligned_weights_move_for_the_time_being():
    layer = nn.Linear(6, 4)
    store = torch.randn(64)
    layer.weight.data = store[1:25].view(6, 4).t()
    layer.bias.data = store[33:37]
    before, places = layer(torch.ones(6)), [p.data_ptr() for p in layer.parameters()]
    with laid_out_afresh(layer):
        assert all(p.is_contiguous() and p.data_ptr() % ALIGNMENT == 0 for p in layer.parameters())
        assert torch.allclose(layer(torch.ones(6)), before)
    assert [p.data_ptr() for p in layer.parameters()] == places
    assert not layer.weight.is_contiguous()
