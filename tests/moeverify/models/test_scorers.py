"""Experts in layouts of a user's own: found by shapes, each cut by itself, and cut right."""

import copy

import pytest
import torch
from masked_original import difference
from torch import nn

import moeverify as mv
from moeverify.models.roles import find_roles

IDS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))


def chosen(scores):
    """The weights of the two best experts, zero for the others."""
    weights, best = scores.softmax(-1).topk(2, -1)
    return torch.zeros_like(scores).scatter(-1, best, weights)


class Bank(nn.Module):
    """Stacks of weights under names that tell nothing, used at once."""

    def __init__(self, how="einsum"):
        super().__init__()
        self.how, self.pick = how, nn.Linear(12, 5)
        self.a, self.b = nn.Parameter(torch.randn(5, 8, 12) * 0.3), nn.Parameter(torch.randn(5, 12, 8) * 0.3)

    def forward(self, x):
        weights = chosen(self.pick(x))
        if self.how == "einsum":
            inner = torch.einsum("nd,ehd->neh", x, self.a).relu()
            return torch.einsum("neh,edh,ne->nd", inner, self.b, weights)
        if self.how == "bmm":
            inner = torch.bmm(x.expand(self.a.shape[0], -1, -1), self.a.transpose(1, 2)).relu()
            return (torch.bmm(inner, self.b.transpose(1, 2)) * weights.t()[..., None]).sum(0)
        weights, best = self.pick(x).softmax(-1).topk(2, -1)
        inner = torch.einsum("nd,nkhd->nkh", x, self.a[best]).relu()
        return torch.einsum("nkh,nkdh,nk->nd", inner, self.b[best], weights)


class Rows(nn.Module):
    """All experts' rows in one matrix, viewed as a stack."""

    def __init__(self):
        super().__init__()
        self.count, self.gate = 5, nn.Linear(12, 5)
        self.a, self.b = nn.Parameter(torch.randn(40, 12) * 0.3), nn.Parameter(torch.randn(40, 12) * 0.3)

    def forward(self, x):
        a, b = (stack.view(self.count, -1, 12) for stack in (self.a, self.b))
        inner = torch.einsum("nd,ehd->neh", x, a).relu()
        return torch.einsum("neh,ehd,ne->nd", inner, b, chosen(self.gate(x)))


def mlp():
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12))


class Clusters(nn.Module):
    """Lists of experts in a list, a router for each."""

    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nn.Linear(12, 2), nn.ModuleList(nn.Linear(12, 3) for _ in range(2))
        self.clusters = nn.ModuleList(nn.ModuleList(mlp() for _ in range(3)) for _ in range(2))

    def forward(self, x):
        outer, out = self.coarse(x).softmax(-1), torch.zeros_like(x)
        for number, (pick, cluster) in enumerate(zip(self.fine, self.clusters, strict=True)):
            weights = pick(x).softmax(-1) * outer[:, number, None]
            for place, expert in enumerate(cluster):
                out = out + expert(x) * weights[:, place, None]
        return out


class Tasks(nn.Module):
    """Experts of two tasks beside those that both share; the gate of a task chooses among its own and the shared."""

    def __init__(self):
        super().__init__()
        self.shared_experts = nn.ModuleList(mlp() for _ in range(2))
        self.own = nn.ModuleList(nn.ModuleList(mlp() for _ in range(3)) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(12, 5) for _ in range(2))

    def forward(self, x):
        shared, out = [expert(x) for expert in self.shared_experts], torch.zeros_like(x)
        for experts, gate in zip(self.own, self.gates, strict=True):
            answers = torch.stack([*shared, *(expert(x) for expert in experts)], 1)
            out = out + (answers * gate(x).softmax(-1)[..., None]).sum(1)
        return out


class Net(nn.Module):
    def __init__(self, moe):
        super().__init__()
        self.embed, self.moe, self.head = nn.Embedding(20, 12), moe, nn.Linear(12, 3)

    def forward(self, ids):
        x = self.embed(ids).flatten(0, 1)
        return self.head(x + self.moe(x))


LAYOUTS = {
    "einsum": (Bank, ["fused"], ["moe.pick"], 5),
    "bmm": (lambda: Bank("bmm"), ["fused"], ["moe.pick"], 5),
    "gather": (lambda: Bank("gather"), ["fused"], ["moe.pick"], 5),
    "rows": (Rows, ["rows"], ["moe.gate"], 5),
    "clusters": (Clusters, ["listed"] * 2, ["moe.fine.0", "moe.fine.1"], 6),
    "tasks": (Tasks, ["listed"] * 2, ["moe.gates.0", "moe.gates.1"], 6),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_experts_are_found_and_each_cut_by_itself(name):
    make, layouts, routers, experts = LAYOUTS[name]
    torch.manual_seed(0)
    model = Net(make()).eval()
    found = find_roles(model)
    assert [layer.layout for layer in found.layers] == layouts
    assert list(found.routers) == routers
    assert len(found.experts) == experts
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, IDS, pruning_ratio=0.5).step()
    routed = [cut for cut in plan.cuts if cut.pruning_class.role == "routed_experts"]
    assert sum(max(cut.pruning_class.experts, 1) for cut in routed) == experts
    assert {cut.after for cut in routed} == {4}
    assert difference(original, model, plan, IDS) < 1e-12


def test_heads_in_stacks_are_no_experts():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Parameter(torch.randn(4, 12, 3)), nn.Parameter(torch.randn(4, 12, 3))
            self.open = nn.Linear(12, 4)

    assert not find_roles(nn.ModuleDict({"self_attn": Attention()})).layers


def test_a_router_beside_two_lists_is_of_the_one_that_it_counts():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.router, self.experts = nn.Linear(12, 3), nn.ModuleList(mlp() for _ in range(3))
            self.common, self.head = nn.ModuleList(mlp() for _ in range(2)), nn.Linear(12, 2)

    (layer,) = find_roles(Two()).layers
    assert (layer.container, layer.routers) == ("experts", ("router",))


def test_the_last_layer_of_a_model_is_no_router():
    class Branches(nn.Module):
        """Two branches and as many answers."""

        def __init__(self, last):
            super().__init__()
            self.branches = nn.ModuleList(mlp() for _ in range(2))
            self.add_module(last, nn.Linear(12, 2))

    assert not find_roles(Branches("verdict")).layers
    assert not find_roles(nn.ModuleList([Branches("classifier")])).layers


def test_experts_of_tasks_and_levels_are_in_lists_of_lists_of_lists():
    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12)])

    class Levels(nn.Module):
        def __init__(self):
            super().__init__()
            self.own_experts = _lists(Unit, 2, 2, 3)
            self.gates = _lists(lambda: nn.Linear(12, 4), 2, 2)

    found = find_roles(Levels()).layers
    assert [layer.container for layer in found] == [f"own_experts.{a}.{b}" for a in range(2) for b in range(2)]
    assert [layer.routers for layer in found] == [(f"gates.{a}.{b}",) for a in range(2) for b in range(2)]
    assert {len(layer.experts) for layer in found} == {3}


def _lists(make, *counts):
    return nn.ModuleList(_lists(make, *counts[1:]) for _ in range(counts[0])) if counts else make()


def test_a_layer_of_stacks_in_a_list_keeps_the_router_that_is_its_own_parameter():
    class Stacked(nn.Module):
        def __init__(self):
            super().__init__()
            self.n_experts = 5
            self.keys, self.values = nn.Parameter(torch.randn(5, 12, 8)), nn.Parameter(torch.randn(5, 8, 12))
            self.sel = nn.Parameter(torch.randn(5, 12))

    model = nn.Sequential(nn.Embedding(20, 12), nn.ModuleList(Stacked() for _ in range(2)))
    found = find_roles(model).layers
    assert [layer.router_parameters for layer in found] == [("1.0.sel",), ("1.1.sel",)]
    assert [layer.routers for layer in found] == [(), ()]


def test_experts_in_an_unknown_layout_are_named_with_their_shapes():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.Module()
            self.experts.w1 = nn.Parameter(torch.randn(2, 3, 12, 8))
            self.experts.w2 = nn.Parameter(torch.randn(2, 3, 8, 12))

    found = find_roles(Layer())
    assert found.unrecognised == ("experts",)
    assert "experts is named as experts but holds w1 [2, 3, 12, 8], w2 [2, 3, 8, 12], neither" in found.notes[0]
