"""Recurrent layers of PyTorch say their sizes in attributes, which are checked against the input."""

import copy

import pytest
import torch
from small_nets import build
from torch import nn

import moeverify as mv
from tests.moeverify.pruning.test_derived_numbers import silenced

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Mixer(nn.Module):
    """A layer over time between linear ones."""

    def __init__(self, kind, **arguments):
        super().__init__()
        self.first, self.mix = nn.Linear(4, 8), kind(8, 12, **arguments)
        sides = 2 if arguments.get("bidirectional") else 1
        self.last = nn.Linear(arguments.get("proj_size", 12) * sides, 3)

    def forward(self, x):
        x = self.first(x)
        if isinstance(self.mix, nn.RNNBase):
            return self.last(self.mix(x)[0])
        state = None
        for step in x.unbind(1):
            state = self.mix(step, state)
        return self.last(state)


@pytest.mark.filterwarnings("ignore:operations without a rule:UserWarning")
@pytest.mark.parametrize(
    ("kind", "arguments", "left"),
    [
        (nn.RNN, {}, (4, 6)),
        (nn.GRU, {}, (4, 6)),
        (nn.GRU, {"batch_first": True}, (4, 12)),  # its output is turned in place, for which there is no rule
        (nn.LSTM, {"batch_first": True}, (4, 6)),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True}, (4, 6)),
        (nn.LSTM, {"proj_size": 6}, (4, 6)),
        (nn.GRUCell, {}, (4, 6)),
    ],
)
@torch.no_grad()
def test_they_lose_inputs_and_states(kind, arguments, left):
    model = build(Mixer, kind, **arguments).double()
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, X, pruning_ratio=0.5).step()
    assert (model.mix.input_size, model.mix.hidden_size) == left
    expected = silenced(original, plan)(X)
    assert (model(X) - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_in_the_precision_that_has_kernels_of_its_own(kind):
    model = build(Mixer, kind)
    original = copy.deepcopy(model)
    fused = torch.backends.mkldnn.enabled
    plan = mv.MoEPruner(model, X.float(), pruning_ratio=0.5).step()
    assert (model.mix.input_size, model.mix.hidden_size) == (4, 6)
    assert torch.backends.mkldnn.enabled is fused
    with torch.no_grad():
        expected = silenced(original.double(), plan)(X)
        assert (model.double()(X) - expected).abs().max() < 1e-12 * expected.abs().max()
