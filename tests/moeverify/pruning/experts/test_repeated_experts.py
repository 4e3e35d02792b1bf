"""A list that holds one expert under two numbers keeps its experts; their channels go."""

import pytest
import torch
from judged import problems, verdicts
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.pruning import MoEPruner

IDS = (torch.arange(32).view(2, 16) % 30,)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.router, self.head = nn.Embedding(30, 12), nn.Linear(12, 4), nn.Linear(12, 20)
        first, second, third = (nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in range(3))
        self.experts = nn.ModuleList([first, second, first, third])

    def forward(self, ids):
        x = self.embed(ids)
        probs = self.router(x).softmax(-1)
        return self.head(x + sum(probs[..., n, None] * expert(x) for n, expert in enumerate(self.experts)))


def test_whole_experts_are_refused_and_the_model_stays():
    torch.manual_seed(0)
    model = Net().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PruningRefused, match="experts holds one module as its experts 0 and 2"):
        MoEPruner(model, IDS, ratios={"experts": 0.25}).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert len(model.experts) == 4


def test_channels_go():
    torch.manual_seed(0)
    assert problems(verdicts(Net(), IDS)) == {}
