"""What was cut and not seen is named with its own reason and remedy, reason by reason."""

import pytest
import torch
from judged import verdicts
from torch import nn
from torch.nn import functional as F

from moeverify.verdict import Status

X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))


def mlp(width=12, inner=8):
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))


class Extracts(nn.Module):
    """Experts of two tasks and shared ones, of which one is never called; a gate whose answer is thrown away."""

    def __init__(self, spare, idle):
        super().__init__()
        self.proj, self.head = nn.Linear(5, 12), nn.Linear(12, 3)
        self.shared = nn.ModuleList(mlp() for _ in range(3))
        self.gate = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
        self.spare, self.idle = spare, idle

    def forward(self, x):
        x = self.proj(x)
        called = self.shared[:2] if self.spare else self.shared
        x = x + sum(expert(x) for expert in called)
        shares = self.gate(x).softmax(-1)
        return self.head(x if self.idle else x * shares.sum(-1, keepdim=True) * shares[:, :1])


def judged(spare, idle):
    torch.manual_seed(0)
    return verdicts(Extracts(spare, idle).eval(), X, checks=["masked-equivalence"])["masked-equivalence"]


SPARE = "shared.2.0.weight, shared.2.0.bias, shared.2.2.weight and 1 more: no forward uses them; take them out"
IDLE = "gate.0.weight, gate.0.bias, gate.2.weight: no output depends on them although the forward uses them; give"


def test_each_reason_has_its_own_tensors():
    found = judged(spare=True, idle=True)
    assert found.status is Status.INCONCLUSIVE
    assert "7 cut parts were not seen to matter. " in found.message
    assert SPARE in found.message
    assert IDLE in found.message
    assert "no input used" not in found.message


def test_a_result_that_is_thrown_away_is_no_input_that_is_missing():
    found = judged(spare=False, idle=True)
    assert found.message.startswith(
        "equal, but gate.0.weight, gate.0.bias, gate.2.weight were cut and no output depends on them although the"
    )


def test_the_remedies_work():
    found = judged(spare=False, idle=False)
    assert found.status is Status.PASS, found.message


class Constant(nn.Module):
    """A router whose choice is lost before the experts: only the first ever runs."""

    def __init__(self, reads):
        super().__init__()
        self.gate, self.reads = nn.Linear(12, 3, bias=False), reads
        self.experts = nn.ModuleList(mlp() for _ in range(3))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).max(-1)
        chosen = chosen if self.reads else chosen.clamp(max=0)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            (rows,) = (chosen == number).nonzero(as_tuple=True)
            out = out.index_add(0, rows, expert(x[rows]) * weights[rows, None])
        return F.gelu(out)


class Routed(nn.Module):
    def __init__(self, reads):
        super().__init__()
        self.proj, self.moe, self.head = nn.Linear(5, 12), Constant(reads), nn.Linear(12, 3)

    def forward(self, x):
        x = self.proj(x)
        return self.head(x + self.moe(x))


@pytest.mark.parametrize("reads", [False, True])
def test_experts_that_a_steered_router_does_not_reach(reads):
    torch.manual_seed(0)
    found = verdicts(Routed(reads).eval(), X, checks=("forward-every-expert", "masked-equivalence"))
    if reads:
        assert {v.status for v in found.values()} == {Status.PASS}
        return
    assert {v.status for v in found.values()} == {Status.INCONCLUSIVE}
    message = found["forward-every-expert"].message
    assert "no token reached moe.experts.1" in message
    assert "the scores of its router were raised for it, and the forward of moe ran others" in message
    assert "--routers-pattern" not in message
    assert "were cut and no token reached them; give" in found["masked-equivalence"].message


class Counted(nn.Module):
    """Experts with a count of their tokens, a buffer that this forward does not read."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(12, 4), nn.ModuleList(mlp() for _ in range(4))
        self.register_buffer("load", torch.zeros(4))

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        return sum(weights[:, n, None] * expert(x) for n, expert in enumerate(self.experts))


def test_a_buffer_is_not_called_used():
    def remove(model, example_inputs, *, pruning_ratio, seed, ratios):
        kept = [0, 2, 3]
        model.experts = nn.ModuleList(model.experts[n] for n in kept)
        model.gate.weight = nn.Parameter(model.gate.weight.detach()[kept])
        model.gate.bias = nn.Parameter(model.gate.bias.detach()[kept])
        model.gate.out_features, model.load = 3, model.load[kept]

    torch.manual_seed(0)
    inputs = torch.randn(6, 12)
    found = verdicts(Counted(), inputs, remove, checks=["masked-equivalence"], ratios={"experts": 0.25})
    assert found["masked-equivalence"].message.startswith("equal, but load was cut and no output depends on it; give")
