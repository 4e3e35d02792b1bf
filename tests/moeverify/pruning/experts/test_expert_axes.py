"""What counts experts: found by doubling the configuration's count, or by roles; what is not understood is refused."""

from dataclasses import replace

import pytest
import torch
from releases import needs
from small_nets import TinyMoE
from torch import nn

from moeverify.checks.evidence.router_tensors import search_axes
from moeverify.errors import PruningRefused
from moeverify.models.roles import find_roles
from moeverify.models.zoo import build_zoo
from moeverify.pruning.experts.by_configuration import by_configuration
from moeverify.pruning.experts.by_roles import by_roles


def counted(model, roles=None):
    found = find_roles(model, roles)
    return (by_configuration if hasattr(model, "config") else by_roles)(model, found)


def short(layer):
    """The axes of a layer without the path of its block."""
    return {(axis.parameter.removeprefix(f"{layer.layer.name}."), axis.dim): axis.size for axis in layer.axes}


@pytest.mark.parametrize(
    ("model_type", "companions"),
    [
        ("mixtral", {("gate.weight", 0): 4}),
        ("deepseek_v3", {("gate.weight", 0): 8, ("gate.e_score_correction_bias", 0): 8}),
        ("ernie4_5_moe", {("gate.weight", 0): 4, ("gate.moe_statics.e_score_correction_bias", 1): 4}),
        ("lfm2_moe", {("gate.weight", 0): 4, ("expert_bias", 0): 4}),
        ("gemma4_text", {("router.proj.weight", 0): 4, ("router.per_expert_scale", 0): 4}),
        # classes without weights follow the experts' in router and bias
        ("zaya", {("gate.router_mlp.out_proj.weight", 0): 5, ("gate.balancing_biases", 0): 5}),
    ],
)
def test_companions_of_the_stacks(model_type, companions):
    layer = counted(build_zoo(model_type))[-1]
    stacks = {("experts.gate_up_proj", 0): layer.count, ("experts.down_proj", 0): layer.count}
    assert short(layer) == companions | stacks
    assert layer.entries


def test_stacked_biases_count_experts():
    layer = counted(build_zoo("gpt_oss"))[0]
    assert {("experts.gate_up_proj_bias", 0), ("experts.down_proj_bias", 0), ("router.bias", 0)} <= set(short(layer))


def test_experts_in_rows_hold_several_positions_each():
    needs("dbrx")
    layer = counted(build_zoo("dbrx"))[0]
    rows = next(axis for axis in layer.axes if axis.parameter.endswith("w1"))
    assert rows.repeats * layer.count == rows.size == 4 * 56
    assert layer.entries == (("ffn_config", "moe_num_experts"),)


def test_tables_of_ids_are_no_dimensions():
    hashed, *_, scored = counted(build_zoo("deepseek_v4"))
    assert hashed.tables == ("model.layers.0.mlp.gate.tid2eid",)
    assert scored.tables == ()
    assert all("tid2eid" not in axis.parameter for axis in hashed.axes)


def test_experts_in_attention_are_counted_too():
    layers = counted(build_zoo("jetmoe"))
    assert len(layers) == 6
    assert {layer.entries for layer in layers} == {(("num_local_experts",),)}


def test_a_router_with_product_keys_is_refused_by_name():
    with pytest.raises(PruningRefused, match=r"router_gate\.weight holds product keys: expert x \* 2 \+ y of model"):
        counted(build_zoo("doge"))


def test_an_integer_buffer_that_may_hold_ids_is_refused():
    model = build_zoo("mixtral")
    model.model.layers[0].mlp.register_buffer("order", torch.tensor([2, 0, 3]))
    with pytest.raises(PruningRefused, match=r"the values of model\.layers\.0\.mlp\.order \[3\] may be expert ids"):
        counted(model)


def test_listed_experts_without_configuration():
    layer, *_ = counted(TinyMoE(blocks=2, experts=6))
    assert layer.children == ("0", "1", "2", "3", "4", "5")
    assert short(layer) == {("gate.weight", 0): 6}


class Bare(nn.Module):
    """A router with a matrix of its own."""

    def __init__(self, rows, columns):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns))


class Stacked(nn.Module):
    """Fused experts beside a router, without configuration."""

    def __init__(self, hidden, experts, router=nn.Linear):
        super().__init__()
        self.router = router(hidden, experts)
        self.experts = nn.Module()
        self.experts.up = nn.Parameter(torch.randn(experts, 12, hidden))
        self.experts.down = nn.Parameter(torch.randn(experts, hidden, 12))
        self.n_experts, self.k = experts, 2


def test_sizes_beside_fused_experts_follow_by_name_or_by_value():
    layer, *_ = by_roles(model := nn.Sequential(Stacked(8, 5)), find_roles(model))
    assert short(layer) == {
        ("experts.up", 0): 5,
        ("experts.down", 0): 5,
        ("router.weight", 0): 5,
        ("router.bias", 0): 5,
    }
    assert layer.attributes == (("0", "n_experts"),)


class Grouped(nn.Module):
    """One linear layer of all experts, which counts them itself, beside a router that is a convolution."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Conv2d(10, 4, 1), nn.Module()
        self.experts.htoh4, self.experts.h4toh = nn.Module(), nn.Module()
        for layer, shape in ((self.experts.htoh4, (4, 6, 10)), (self.experts.h4toh, (4, 10, 6))):
            layer.num_expert, layer.rank = 4, 4
            layer.weight, layer.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.zeros(shape[:2]))


def test_layers_that_hold_all_experts_count_them_and_a_convolution_routes():
    (layer,) = counted(Grouped())
    assert {("experts.htoh4", "num_expert"), ("experts.h4toh", "num_expert")} <= set(layer.attributes)
    assert {("gate.weight", 0): 4, ("gate.bias", 0): 4}.items() <= short(layer).items()


class Noisy(nn.Module):
    """A router with a layer for the noise, after the scores or before them, behind a layer that both read."""

    def __init__(self, order):
        super().__init__()
        self.read = nn.Linear(10, 12)
        for name in order:
            setattr(self, name, nn.Linear(12, 5))


@pytest.mark.parametrize("order", [("score", "noise"), ("noise", "score")])
def test_layers_of_a_router_side_by_side_count_experts_both(order):
    block = nn.Module()
    block.router = Noisy(order)
    block.experts = nn.ModuleList(nn.Sequential(nn.Linear(10, 6), nn.Linear(6, 10)) for _ in range(5))
    model = nn.Sequential(block)
    (layer,) = by_roles(model, find_roles(model))
    both = {(f"router.{name}.{leaf}", 0): 5 for name in order for leaf in ("weight", "bias")}
    assert short(layer) == both
    assert search_axes(model, layer.layer) == {f"0.{name}": dim for name, dim in both}


def test_a_square_router_is_refused():
    model = nn.Sequential(Stacked(6, 6, Bare))
    with pytest.raises(PruningRefused, match=r"0\.router\.weight is square"):
        by_roles(model, find_roles(model))
    linear = nn.Sequential(Stacked(6, 6))
    assert ("router.weight", 0) in short(by_roles(linear, find_roles(linear))[0])


def test_a_router_that_is_written_transposed():
    layer, *_ = by_roles(model := nn.Sequential(Stacked(8, 5, Bare)), find_roles(model))
    assert short(layer)["router.weight", 1] == 5


def test_a_layer_without_router_is_refused():
    model = TinyMoE(experts=4)
    found = find_roles(model)
    alone = replace(found, layers=tuple(replace(layer, routers=()) for layer in found.layers))
    with pytest.raises(PruningRefused, match=r"no router of layers\.0 has one output for each of its 4 experts"):
        by_roles(model, alone)
