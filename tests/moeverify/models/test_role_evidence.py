"""Layers found by structure, and the evidence that is kept for each of their parts."""

import pytest
import torch
from torch import nn

from moeverify.models.roles import find_roles


def mlp(width=12, inner=8):
    return nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))


class Stacks(nn.Module):
    """Two stacks, and a bare matrix, a table of ids, or nothing that chooses among them."""

    def __init__(self, router, count=None):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(5, 12, 8)), nn.Parameter(torch.randn(5, 8, 12))
        self.b_up = nn.Parameter(torch.randn(5, 8))
        if router == "rows":
            self.centroids = nn.Parameter(torch.randn(5, 12))
        elif router == "columns":
            self.w_route = nn.Parameter(torch.randn(12, 5))
        elif router == "ids":
            self.register_buffer("table", torch.arange(40) % 5)
        if count:
            self.n_experts = count


class Holder(nn.Module):
    """A list of modules under a name, beside what may choose among them."""

    def __init__(self, name, chooser=None, members=3, kind=nn.ModuleList):
        super().__init__()
        made = [mlp() for _ in range(members)]
        setattr(self, name, kind(made) if kind is nn.ModuleList else kind({f"m{n}": m for n, m in enumerate(made)}))
        if chooser is not None:
            self.chooser = chooser


@pytest.mark.parametrize(
    ("model", "parameters", "evidence"),
    [
        (Stacks("rows"), ("body.centroids",), "parameters [5, ..., ...]"),
        (Stacks("columns"), ("body.w_route",), "parameters [5, ..., ...]"),
        (Stacks("ids"), (), "table holds the numbers of 5 experts"),
        (Stacks("", count=5), (), "body.n_experts is 5"),
    ],
)
def test_stacks_are_experts_by_what_chooses_or_counts_them(model, parameters, evidence):
    (layer,) = find_roles(nn.ModuleDict({"body": model})).layers
    assert layer.router_parameters == parameters
    assert set(layer.stacks) == {"body.up", "body.down", "body.b_up"}
    assert evidence in layer.evidence["body"]
    assert all("outputs, one for each expert" in layer.evidence[name] for name in parameters)


@pytest.mark.parametrize("model", [Stacks(""), Stacks("", count=4)])
def test_stacks_of_which_nothing_says_so_are_none(model):
    assert not find_roles(nn.ModuleDict({"body": model})).layers


def test_what_chooses_may_be_deep_inside_of_something_with_its_name():
    deep = nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))
    (layer,) = find_roles(nn.ModuleDict({"body": Holder("bank", nn.ModuleDict({"gating": deep}))})).layers
    assert layer.container == "body.bank"
    assert layer.routers == ("body.chooser.gating",)
    assert layer.evidence["body.bank"] == "members that are all alike"


@pytest.mark.parametrize("kind", [nn.ModuleList, nn.ModuleDict])
def test_a_name_with_expert_in_it_is_enough(kind):
    found = find_roles(nn.ModuleDict({"body": Holder("expert_mlps", kind=kind)}))
    (layer,) = found.layers
    assert len(layer.experts) == 3
    assert layer.evidence["body.expert_mlps"] == "a name with 'expert' in it"
    assert "body: no router found beside its experts" in found.notes


@pytest.mark.parametrize("name", ["layers", "blocks", "decoder_layers", "heads"])
def test_layers_in_turn_are_no_experts_although_something_has_as_many_outputs(name):
    assert not find_roles(nn.ModuleDict({"body": Holder(name, nn.Linear(12, 3))})).layers


def test_lists_of_tasks_have_the_gate_of_their_task():
    tasks = nn.ModuleDict({t: nn.ModuleList([mlp(), mlp()]) for t in ("click", "buy")})
    gates = nn.ModuleDict({t: nn.Linear(12, 4) for t in ("click", "buy")})
    model = nn.ModuleDict({"task_experts": tasks, "task_gates": gates, "shared_experts": nn.ModuleList([mlp(), mlp()])})
    layers = find_roles(nn.ModuleDict({"level": model})).layers
    assert {layer.container: layer.routers for layer in layers} == {
        f"level.task_experts.{t}": (f"level.task_gates.{t}",) for t in ("click", "buy")
    }
    assert all(layer.shared_experts == ("level.shared_experts",) for layer in layers)


def test_experts_that_are_lists_of_layers_are_no_lists_of_experts():
    lists = [nn.ModuleList([nn.Linear(12, 8), nn.Linear(8, 12)]) for _ in range(3)]
    (layer,) = find_roles(nn.ModuleDict({"experts": nn.ModuleList(lists), "gate": nn.Linear(12, 3)})).layers
    assert layer.experts == ("experts.0", "experts.1", "experts.2")


def test_a_list_in_a_module_of_the_same_name_is_one_layer():
    wrapped = nn.Module()
    wrapped.experts = nn.ModuleList([mlp(), mlp(), mlp()])
    (layer,) = find_roles(nn.ModuleDict({"moe": nn.ModuleDict({"experts": wrapped, "gate": nn.Linear(12, 3)})})).layers
    assert (layer.name, layer.container) == ("moe", "moe.experts.experts")


def test_a_list_of_what_chooses_experts_holds_none():
    model = nn.ModuleDict({"expert_routers": nn.ModuleList([mlp(), mlp()]), "cluster_router": nn.Linear(12, 2)})
    assert not find_roles(nn.ModuleDict({"body": model})).layers


class Single(nn.Module):
    """One linear layer for each expert, in one stack."""

    def __init__(self, count):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 12, 12)), nn.Parameter(torch.randn(4, 12))
        if count:
            self.num_experts = count


@pytest.mark.parametrize("count", [None, 4])
def test_one_stack_is_enough_where_an_attribute_counts_experts(count):
    found = find_roles(nn.ModuleDict({"experts": Single(count), "gate": nn.Linear(12, 4)}))
    assert len(found.experts) == (count or 0)
    assert bool(found.unrecognised) is (count is None)


class Gated(nn.Module):
    """A gate beside two tensors of one size: channels, or factors, that are no experts unless the gate scores each."""

    def __init__(self, kind, outputs):
        super().__init__()
        self.gate = nn.Linear(12, outputs)
        if kind == "embeddings":
            self.users, self.items = nn.Embedding(30, 12), nn.Embedding(30, 12)
        else:
            self.left, self.right = (nn.Parameter(torch.randn(3, 12, 8)) for _ in range(2))


@pytest.mark.parametrize(("kind", "outputs"), [("embeddings", 30), ("parameters", 3)])
def test_a_gate_makes_experts_of_what_it_scores_one_by_one(kind, outputs):
    (layer,) = find_roles(nn.ModuleDict({"body": Gated(kind, outputs)})).layers
    assert (layer.routers, len(layer.experts)) == (("body.gate",), outputs)
    assert not find_roles(nn.ModuleDict({"body": Gated(kind, 12)})).layers


class Counted(nn.Module):
    """Stacks ``[inputs, experts, hidden]``, scored by a bare matrix."""

    def __init__(self, **attributes):
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.randn(12, 5, 8)) for _ in range(2))
        self.controller = nn.Parameter(torch.randn(12, 5))
        vars(self).update(attributes)


def test_stacks_whose_second_dimension_is_counted_are_not_read_by_the_first():
    assert len(find_roles(nn.ModuleDict({"body": Counted()})).experts) == 12  # sizes alone: a trace knows better
    assert not find_roles(nn.ModuleDict({"body": Counted(n_experts=5)})).layers


class Both(nn.Module):
    """Experts of an attention layer and of a feed-forward layer, as many, in one block."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Stacks("rows"), Stacks("columns")


def test_modules_that_hold_experts_by_themselves_are_layers_of_their_own():
    layers = find_roles(nn.ModuleDict({"body": Both()})).layers
    assert [(layer.name, layer.router_parameters) for layer in layers] == [
        ("body.first", ("body.first.centroids",)),
        ("body.second", ("body.second.w_route",)),
    ]
