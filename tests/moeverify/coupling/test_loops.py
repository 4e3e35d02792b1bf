"""Forwards whose loops end by what they compute are traced and rehearsed without weights."""

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.coupling.tracing.weightless import without_weights
from moeverify.models.forward import Example
from moeverify.pruning.constants.recorder import record_forward

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


class Balanced(nn.Module):
    """Scores that are balanced until they change no more, between two layers."""

    def __init__(self, how):
        super().__init__()
        self.how, self.up, self.score, self.down = how, nn.Linear(8, 12), nn.Linear(8, 3), nn.Linear(12, 8)

    def forward(self, x):
        scores = self.score(x).exp()
        if self.how == "while":
            while (
                scores.sum(0).std() > 0.01  # several lines
                and scores.sum(1).std() > 0.01
            ):
                scores = scores / scores.sum(0) / scores.sum(1, keepdim=True)
        elif self.how == "break":
            while True:
                scores = scores / scores.sum(0) / scores.sum(1, keepdim=True)
                if scores.sum(0).std() < 0.01:
                    break
        return self.down(self.up(x).relu()) * scores.sum(-1, keepdim=True)


class Turns(nn.Module):
    """Many experts in turn, each if a token wants it."""

    def __init__(self, count=40):
        super().__init__()
        self.gate = nn.Linear(8, count)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8)) for _ in range(count))

    def forward(self, x):
        best, out = self.gate(x).argmax(-1), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mask = best == number
            if mask.any():
                out[mask] = expert(x[mask])
        return out


@pytest.mark.parametrize("how", ["while", "break"])
def test_a_loop_ends_without_data(how):
    torch.manual_seed(0)
    model = Balanced(how)
    forward = record_forward(without_weights(model), Example((X,)))
    assert len(forward.steps) < 200
    pruner = mv.MoEPruner(model, (X,), pruning_ratio=0.5)
    pruner.step()
    assert model.up.weight.shape[0] == 6


def test_no_parameter_of_a_for_loop_stays_untouched():
    couplings = mv.trace_couplings(without_weights(Turns()), (torch.empty(6, 8, device="meta"),))
    assert not couplings.trace.untouched
