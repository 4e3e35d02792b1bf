"""Experts are reached by count or by effect; a router is steered by its logits, or where experts are chosen."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import moeverify as mv
from moeverify.checks.evidence.forces import towards
from moeverify.checks.evidence.routing import Routing
from moeverify.models.roles import find_roles
from moeverify.verdict import Status

EXPERTS = 3


class Router(nn.Module):
    """``product`` says how the matrix is used; the bias keeps the last expert from ever being chosen."""

    def __init__(self, product, shape=(EXPERTS, 8)):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.product = product

    def forward(self, x):
        return self.product(x, self.weight) - torch.tensor([0.0, 0.0, 1e4]).to(x)


class Layer(nn.Module):
    def __init__(self, router, choose):
        super().__init__()
        self.gate, self.choose = router, choose
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in range(EXPERTS)
        )

    def forward(self, x):
        weights, chosen = self.choose(self.gate(x))
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).any(-1)
            if rows.any():
                share = ((chosen == number) * weights).sum(-1, keepdim=True)
                mixed = mixed.index_put((rows,), expert(x[rows]) * share[rows])
        return mixed


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.moe, self.last = nn.Linear(6, 8), layer, nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.first(x)
        return self.last(hidden + self.moe(hidden))


def top(logits):
    return logits.softmax(-1).topk(1, -1)


def best(logits):
    values, chosen = logits.sigmoid().max(-1, keepdim=True)
    return values, chosen


def first_of_order(logits):
    chosen = logits.sigmoid().argsort(-1, descending=True)[..., :1]
    return logits.sigmoid().gather(-1, chosen), chosen


def without(x, weight):
    """A product that no rule knows: the matrix is never an argument of it."""
    return torch.stack([(x * row).sum(-1) for row in weight], -1)


PRODUCTS = {
    "linear": F.linear,
    "matmul": lambda x, w: x @ w.t(),
    "einsum": lambda x, w: torch.einsum("nh,eh->ne", x, w),
    "cosine": lambda x, w: F.normalize(x, dim=-1) @ F.normalize(w, dim=-1).T,
    "by hand": without,
}


@pytest.mark.parametrize("choose", [top, best, first_of_order])
@pytest.mark.parametrize("product", PRODUCTS)
def test_tokens_are_sent_whatever_the_router_computes(product, choose):
    torch.manual_seed(0)
    model = Net(Layer(Router(PRODUCTS[product]), choose)).eval()
    x = torch.randn(20, 6)
    with torch.no_grad(), Routing(model, find_roles(model), {"moe": towards(1)}):
        sent = model(x)
    with torch.no_grad():
        hidden = model.first(x)
        logits = model.moe.gate(hidden)
        share = (logits.softmax(-1) if choose is top else logits.sigmoid())[..., 1:2]
        # By the logits the chosen expert gets nearly all the weight, at a choice the weight that it has anyway.
        plain = model.last(hidden + model.moe.experts[1](hidden))
        weighted = model.last(hidden + model.moe.experts[1](hidden) * share)
    assert torch.allclose(sent, plain, atol=1e-3) or torch.allclose(sent, weighted, atol=1e-5)


def verdicts(model, inputs, *checks):
    result = mv.verify(model.eval(), example_inputs=inputs, checks=checks)
    return {v.check: v for v in result.verdicts}


class Never(Layer):
    """The last expert's result is dropped, as over a capacity."""

    def forward(self, x):
        weights, chosen = self.choose(self.gate(x))
        return super().forward(x) if self.training else self._all_but_last(x, weights, chosen)

    def _all_but_last(self, x, weights, chosen):
        chosen = chosen.clamp(max=EXPERTS - 2)
        parts = torch.stack([expert(x) for expert in self.experts[:-1]], -2)
        return parts.gather(-2, chosen.unsqueeze(-1).expand(-1, -1, 8)).sum(-2) * weights.sum(-1, keepdim=True)


def test_an_expert_that_cannot_be_reached_is_inconclusive():
    torch.manual_seed(0)
    # The trace runs experts that no token reached on what a sibling received, so that our pruner cuts all of them.
    found = verdicts(
        Net(Never(Router(F.linear), top)), torch.randn(20, 6), "forward-every-expert", "masked-equivalence"
    )
    assert {name: v.status for name, v in found.items()} == dict.fromkeys(found, Status.INCONCLUSIVE)
    assert "no token reached moe.experts.2" in found["forward-every-expert"].message
    assert "moe.experts.2.0.weight" in found["masked-equivalence"].evidence["unseen"]


class Bank(nn.Module):
    """Experts in two stacks that see padded tokens of each, and are told no counts."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(4, 12, 8)), nn.Parameter(torch.randn(4, 12, 8))

    def forward(self, x):
        return F.gelu(x @ self.up.transpose(1, 2)) @ self.down


class Dispatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 4, bias=False), Bank()

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        sent = torch.zeros(4, *x.shape, dtype=x.dtype)
        for k in range(2):
            sent[chosen[:, k], torch.arange(len(x))] = x
        given = self.experts(sent)
        return sum(weights[:, k, None] * given[chosen[:, k], torch.arange(len(x))] for k in range(2))


def test_experts_that_nobody_counts_are_reached_by_effect():
    torch.manual_seed(0)
    found = verdicts(Net(Dispatch()), torch.randn(20, 6), "forward-every-expert", "masked-equivalence")
    assert {v.message for v in found.values() if v.status is not Status.PASS} == set()
    assert found["forward-every-expert"].evidence["by_effect"] == [f"moe.experts[{e}]" for e in range(4)]


class Pooled(Layer):
    """Images go to experts by a convolution over pooled features."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Conv2d(8, 5, 1), nn.ReLU(), nn.Conv2d(5, EXPERTS, 1)), top)
        self.gate[2].bias.data[2] = -1e4
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 12, 1), nn.GELU(), nn.Conv2d(12, 8, 1)) for _ in range(EXPERTS)
        )

    def forward(self, x):
        weights, chosen = self.choose(self.gate(x.mean((2, 3), keepdim=True)).flatten(1))
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).any(-1)
            if rows.any():
                mixed = mixed.index_put((rows,), expert(x[rows]) * (0.5 + weights[rows][..., None, None]))
        return mixed


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.moe, self.last = nn.Conv2d(3, 8, 1), Pooled(), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        hidden = self.first(x)
        return self.last(hidden + self.moe(hidden))


def test_routers_of_convolutions_are_steered():
    torch.manual_seed(0)
    found = verdicts(Images(), torch.randn(4, 3, 5, 5), "forward-every-expert", "masked-equivalence")
    assert {v.message for v in found.values() if v.status is not Status.PASS} == set()
    assert "moe.experts.2" in found["forward-every-expert"].evidence["forced"]
