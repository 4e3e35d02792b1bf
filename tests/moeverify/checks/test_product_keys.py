"""Experts behind product keys are pairs of keys: both halves are steered, so that every expert is reached."""

import pytest
import torch
from judged import problems, verdicts
from torch import nn
from torch.nn import functional as F

from moeverify.checks.evidence.forces import towards
from moeverify.checks.evidence.routing import Routing
from moeverify.models.roles import find_roles
from moeverify.verdict import Status

KEYS, EXPERTS = 4, 16
X = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))


class Keyed(nn.Module):
    """Experts of one neuron in two embeddings. ``kind`` says how the halves are chosen and numbered.

    The queries are nearly the same for every input, so that most experts are never chosen by themselves.
    """

    def __init__(self, kind, width=8, best=2):
        super().__init__()
        self.kind, self.best, self.num_experts = kind, best, EXPERTS
        self.down_embed, self.up_embed = nn.Embedding(EXPERTS, width), nn.Embedding(EXPERTS, width)
        self.queries = nn.Linear(width, 12)
        nn.init.normal_(self.queries.weight, std=1e-3)
        self.keys = nn.Parameter(torch.randn(2, KEYS, 6))
        self.last = torch.empty(0)

    def halves(self, scores):
        if self.kind == "at once":
            return list(zip(*scores.topk(self.best, -1), strict=True))
        return [part.topk(self.best, dim=-1) for part in scores]

    def forward(self, x):
        scores = torch.einsum("npd,pkd->pnk", self.queries(x).unflatten(-1, (2, 6)), self.keys)
        (one, first), (two, second) = self.halves(scores)
        if self.kind == "columns":
            first, second = second, first
            one, two = two, one
        sums = (one[..., :, None] + two[..., None, :]).flatten(-2)
        numbers = (first[..., :, None] * KEYS + second[..., None, :]).flatten(-2)
        best, place = sums.topk(1, -1)
        chosen = numbers.gather(-1, place)
        self.last = chosen.unique()
        hidden = F.gelu((x.unsqueeze(1) * self.down_embed(chosen)).sum(-1)) * best.sigmoid()
        return (hidden.unsqueeze(-1) * self.up_embed(chosen)).sum(1)


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first, self.mlp = nn.Linear(10, 8), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.memory, self.last = Keyed(kind), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.first(x)
        hidden = hidden + self.mlp(hidden)
        return self.last(hidden + self.memory(hidden))


KINDS = ("in turn", "at once", "columns")


def net(kind):
    torch.manual_seed(0)
    return Net(kind).eval()


@pytest.mark.parametrize("expert", [2, 7, 13])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_sent_to_a_pair_of_keys(kind, expert):
    model = net(kind)
    with torch.no_grad():
        model(X)
        before = set(model.memory.last.tolist())
        with Routing(model, find_roles(model), {"memory": towards(expert)}):
            model(X)
        assert expert in model.memory.last.tolist()
        model(X)
    assert set(model.memory.last.tolist()) == before  # nothing is changed outside
    assert expert not in before


@pytest.mark.parametrize("kind", KINDS)
def test_every_expert_is_seen(kind):
    found = verdicts(net(kind), X, checks=("forward-every-expert", "masked-equivalence"))
    assert problems(found) == {}


def test_one_expert_that_was_cut_otherwise_is_seen():
    """A subject that takes other hidden channels of one neuron, which hardly any input uses."""

    def prune(model, example_inputs, *, pruning_ratio, seed):
        keep = torch.arange(0, 8, 2)
        for layer in (model.memory.down_embed, model.memory.up_embed):
            kept = layer.weight.detach()[:, keep].clone()
            if damage and layer is model.memory.down_embed:
                kept[7] = layer.weight.detach()[7, keep + 1]
            layer.weight, layer.embedding_dim = nn.Parameter(kept), 4
        for linear in (model.mlp[0], model.memory.queries, model.last):
            linear.weight, linear.in_features = nn.Parameter(linear.weight.detach()[:, keep].clone()), 4
        for linear in (model.first, model.mlp[2]):
            linear.weight, linear.out_features = nn.Parameter(linear.weight.detach()[keep].clone()), 4
            linear.bias = nn.Parameter(linear.bias.detach()[keep].clone())

    for damage in (False, True):
        found = verdicts(net("in turn"), X, prune, ["masked-equivalence"])["masked-equivalence"]
        assert found.status is (Status.FAIL if damage else Status.PASS), found.message
