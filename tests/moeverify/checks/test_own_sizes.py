"""``shapes`` fails a layer of torch whose attributes do not fit its weight."""

import copy

import pytest
import torch
from torch import nn

from moeverify.checks import CHECKS
from moeverify.checks.context import Context
from moeverify.checks.evidence.own_sizes import contradictions
from moeverify.subjects import Pruned
from moeverify.verdict import Status

LAYERS = {
    "linear": (lambda: nn.Linear(6, 8), "in_features"),
    "embedding": (lambda: nn.Embedding(9, 6), "num_embeddings"),
    "convolution": (lambda: nn.Conv2d(6, 8, 3), "in_channels"),
    "depthwise": (lambda: nn.Conv1d(6, 6, 3, groups=6), "in_channels"),
    "transposed": (lambda: nn.ConvTranspose1d(6, 8, 3, groups=2), "out_channels"),
    "group norm": (lambda: nn.GroupNorm(2, 6), "num_channels"),
    "batch norm": (lambda: nn.BatchNorm2d(6), "num_features"),
    "batch norm without weights": (lambda: nn.BatchNorm2d(6, affine=False), "num_features"),
    "lstm": (lambda: nn.LSTM(6, 8), "input_size"),
    "attention": (lambda: nn.MultiheadAttention(8, 4), "head_dim"),
    "cell": (lambda: nn.GRUCell(6, 8), "hidden_size"),
}


@pytest.mark.parametrize(("layer", "attribute"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("by", [-1, 1])
def test_an_attribute_that_does_not_fit(layer, attribute, by):
    module = layer()
    assert not list(contradictions(module))
    setattr(module, attribute, getattr(module, attribute) + by)
    assert [path for path, _ in contradictions(module)] == [""]


@pytest.mark.parametrize(
    "module", [nn.RMSNorm(6, elementwise_affine=False), nn.InstanceNorm1d(6), nn.LSTM(4, 6, proj_size=3)]
)
def test_a_layer_without_such_a_weight(module):
    assert not list(contradictions(module))


def found(original, pruned):
    context = Context("a test", original, pruned, (torch.randn(2, 6, 5),), Pruned(), 0.5, 0, "float32")
    return CHECKS["shapes"](context)


def test_a_stale_number_of_a_convolution_fails_unless_it_is_the_originals():
    original = nn.Sequential(nn.Conv1d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 1)).eval()
    pruned = copy.deepcopy(original)
    assert found(original, pruned).status is Status.PASS
    pruned[2].in_channels = 7
    finding = found(original, pruned)
    assert finding.status is Status.FAIL
    assert finding.message.startswith("the attributes of 2 give its weight the shape [4, 7, 1], and it is [4, 8, 1]")
    original[2].in_channels = 7
    assert found(original, pruned).status is Status.PASS
