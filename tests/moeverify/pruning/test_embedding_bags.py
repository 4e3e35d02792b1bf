"""Tables whose rows are summed in bags lose columns with what reads them."""

import copy

import pytest
import torch
from judged import problems, verdicts
from masked_original import difference
from torch import nn

import moeverify as mv

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = {
    "item": torch.randint(0, 30, (12,), generator=GENERATOR),
    "history": torch.randint(0, 30, (12, 5), generator=GENERATOR),
}


class Ranks(nn.Module):
    """An item and a bag of items before it, added, behind a mixture of experts."""

    def __init__(self, mode):
        super().__init__()
        self.item, self.history = nn.Embedding(30, 16), nn.EmbeddingBag(30, 16, mode=mode)
        self.gate, self.score = nn.Linear(16, 3), nn.Linear(16, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(3))

    def forward(self, item, history):
        x = self.item(item) + self.history(history)
        each = torch.stack([expert(x) for expert in self.experts], 1)
        return self.score(x + (self.gate(x).softmax(-1).unsqueeze(-1) * each).sum(1))


def ranks(mode):
    torch.manual_seed(0)
    return Ranks(mode).eval()


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_columns_go(mode):
    model = ranks(mode)
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, INPUTS, pruning_ratio=0.5).step()
    assert {cut.pruning_class.role for cut in plan.cuts} == {"hidden", "routed_experts"}
    assert (model.item.embedding_dim, model.history.embedding_dim, model.history.num_embeddings) == (8, 8, 30)
    assert difference(original, model, plan, INPUTS) < 1e-12


def test_every_check_passes():
    assert problems(verdicts(ranks("mean"), INPUTS)) == {}
