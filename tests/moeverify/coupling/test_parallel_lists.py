"""Experts spread over several lists, of layers or of parameters: entry ``e`` of each belongs to expert ``e``."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.models.roles import Roles, find_roles
from moeverify.models.roles_file import written_roles
from moeverify.pruning.experts.removal import expert_layout
from moeverify.verdict import Status
from tests.support.judged import problems, verdicts

EXPERTS, DIM, INNER = 3, 8, 6
X = torch.randn(14, DIM, generator=torch.Generator().manual_seed(3))


def matrices(kind, *shape):
    if kind is nn.ModuleList:
        return nn.ModuleList(nn.Linear(shape[1], shape[0], bias=False) for _ in range(EXPERTS))
    return nn.ParameterList(torch.randn(shape) * 0.3 for _ in range(EXPERTS))


def apply(entry, x):
    return entry(x) if isinstance(entry, nn.Module) else F.linear(x, entry)


class Spread(nn.Module):
    """``w_gate`` is no router, although its name says so; ``choose`` is one."""

    def __init__(self, kind):
        super().__init__()
        self.choose = nn.Linear(DIM, EXPERTS, bias=False)
        self.w_gate, self.w_up = matrices(kind, INNER, DIM), matrices(kind, INNER, DIM)
        self.w_down = matrices(kind, DIM, INNER)

    def forward(self, x):
        weights, chosen = self.choose(x).softmax(-1).topk(2)
        out = torch.zeros_like(x)
        for e in range(EXPERTS):
            rows, slot = (chosen == e).nonzero(as_tuple=True)
            if len(rows):
                inner = F.silu(apply(self.w_gate[e], x[rows])) * apply(self.w_up[e], x[rows])
                out = out.index_add(0, rows, apply(self.w_down[e], inner) * weights[rows, slot, None])
        return out


class Net(nn.Module):
    def __init__(self, kind=nn.ModuleList):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.block, self.head = nn.Linear(DIM, DIM), Spread(kind), nn.Linear(DIM, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.block(x))


both_kinds = pytest.mark.parametrize("kind", [nn.ModuleList, nn.ParameterList])


@both_kinds
def test_entries_of_one_number_are_one_expert(kind):
    found = find_roles(Net(kind))
    (layer,) = found.layers
    assert (layer.layout, layer.routers) == ("parallel", ("block.choose",))
    assert layer.experts == tuple(f"block[{e}]" for e in range(EXPERTS))
    assert set(layer.members[1]) == {"block.w_gate.1", "block.w_up.1", "block.w_down.1"}
    assert "hold 3 entries each" in layer.evidence["block"]
    assert found.boundary("block.w_down.2.weight") == "block[2]"
    assert found.boundary("block.choose.weight") is None
    rules = written_roles(Net(kind), found)
    assert "[roles]\nexperts = '^block$'" in rules
    assert find_roles(Net(kind), Roles(experts="^block$", routers="^choose$")).experts == found.experts


class Stack(nn.Module):
    """Layers that run in turn, their parts in parallel lists, and as many outputs as there are layers."""

    def __init__(self, router):
        super().__init__()
        self.ins, self.outs = matrices(nn.ModuleList, INNER, DIM), matrices(nn.ModuleList, DIM, INNER)
        if router:
            self.layers_in, self.layers_out = self.ins, self.outs
            del self.ins, self.outs
            self.gate = nn.Linear(DIM, EXPERTS)


@pytest.mark.parametrize("router", [False, True])
def test_layers_that_run_in_turn_are_none(router):
    assert not find_roles(nn.ModuleDict({"body": Stack(router)})).layers


@both_kinds
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_our_pruning_passes(kind, ratio):
    verdict = verdicts(Net(kind), X, pruning_ratio=ratio, round_to=None)
    assert not problems(verdict)
    for check in ("expert-isolation", "forward-every-expert", "masked-equivalence", "coupling-minimal"):
        assert verdict[check].status is Status.PASS, verdict[check]
    assert "3 experts in 1 layers stand alone" in verdict["expert-isolation"].message


def cut(lists, expert, dim, kept):
    entry = lists[expert]
    weight = (entry.weight if isinstance(entry, nn.Module) else entry).detach().index_select(dim, torch.tensor(kept))
    if isinstance(entry, nn.Module):
        entry.weight = nn.Parameter(weight)
        entry.out_features, entry.in_features = weight.shape
    else:
        lists[expert] = nn.Parameter(weight)


EVEN, ODD = [0, 2, 4], [1, 3, 5]


@both_kinds
@pytest.mark.parametrize("wrong", ["", "down", "gate of one", "experts exchanged", "router rows"])
def test_wrong_prunings_of_the_layout_fail(kind, wrong):
    def subject(model, inputs, *, pruning_ratio, seed):
        block = model.block
        for expert in range(EXPERTS):
            cut(block.w_gate, expert, 0, ODD if wrong == "gate of one" and expert == 1 else EVEN)
            cut(block.w_up, expert, 0, EVEN)
            cut(block.w_down, expert, 1, ODD if wrong == "down" else EVEN)
        if wrong == "experts exchanged":
            first, second = block.w_down[0], block.w_down[1]
            block.w_down[0], block.w_down[1] = second, first
        if wrong == "router rows":
            block.choose.weight = nn.Parameter(block.choose.weight.detach()[[1, 0, 2]])

    checks = ("shapes", "masked-equivalence", "untouched-identical", "router-intact", "forward-every-expert")
    verdict = verdicts(Net(kind), X, subject, checks)
    assert bool(wrong) == (Status.FAIL in {v.status for v in verdict.values()}), problems(verdict)
    assert wrong or not problems(verdict)


def test_whole_experts_are_left_with_a_reason():
    model = Net()
    with pytest.raises(PruningRefused, match="block lie in several lists"):
        expert_layout(model, find_roles(model), Example(X))
