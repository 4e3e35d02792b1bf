"""Modules called norms that take no hidden channels: a weight's norm, statistics of each channel."""

import pytest
import torch
from judged import problems, verdicts
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from moeverify.subjects import prune_moe
from moeverify.verdict import Status


def spectral():
    return nn.Sequential(spectral_norm(nn.Linear(12, 16)), nn.GELU(), nn.Linear(16, 12))


def batch_norm():
    norm = nn.BatchNorm1d(12, affine=False)
    norm.running_mean += torch.linspace(-1, 1, 12)
    return nn.Sequential(norm, nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 12))


class Net(nn.Module):
    def __init__(self, expert):
        super().__init__()
        self.embed, self.gate, self.head = nn.Embedding(30, 12), nn.Linear(12, 4), nn.Linear(12, 20)
        self.experts = nn.ModuleList(expert() for _ in range(4))

    def forward(self, ids):
        x = self.embed(ids).flatten(0, 1)
        probs = self.gate(x).softmax(-1)
        return self.head(x + sum(probs[:, n, None] * expert(x) for n, expert in enumerate(self.experts)))


def spoilt(model, example_inputs, **options):
    """The routed experts' inner biases in another order."""
    pruned = prune_moe(model, example_inputs, **options)
    for expert in model.experts:
        expert[-3].bias.data = expert[-3].bias.data.flip(0)
    return pruned


@pytest.mark.parametrize("expert", [spectral, batch_norm])
def test_a_module_called_a_norm_with_buffers_is_left_as_it_is(expert):
    torch.manual_seed(0)
    ids = (torch.randint(0, 30, (2, 12)),)
    assert problems(verdicts(Net(expert), ids)) == {}
    torch.manual_seed(0)
    found = verdicts(Net(expert), ids, spoilt, ("masked-equivalence",))["masked-equivalence"]
    assert found.status is Status.FAIL, found.message
