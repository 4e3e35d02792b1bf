"""Sizes that happen to equal the number of experts: width, router's hidden layer, vocabulary, tokens, classes."""

import dataclasses

import pytest
import torch
from judged import problems, verdicts
from small_nets import MoEBlock, build
from torch import nn

import synthetic_models
from moeverify.checks.evidence.router_tensors import search_axes, spare_classes, with_router_axes
from moeverify.checks.evidence.routing import Routing
from moeverify.coupling.couplings import trace_couplings
from moeverify.models.roles import find_roles
from moeverify.verdict import Status
from synthetic_models import Spec, example_inputs

CHECKS = ("router-intact", "masked-equivalence", "topology", "untouched-identical", "forward-every-expert", "causal")
FOUR = (4, 4, 4, 4)


def axes_of(model, inputs):
    roles = with_router_axes(model, find_roles(model), trace_couplings(model, inputs))
    return {name.rpartition(".")[2]: dim for name, dim in roles.layers[0].router_axes.items()}


@pytest.mark.parametrize(
    "spec",
    [
        Spec(widths=FOUR, hidden=4, zero_experts=2, top_k=2),
        Spec(widths=FOUR, hidden=6, zero_experts=2, expert_scale=True, storage="fused"),
        Spec(widths=FOUR, hidden=8, router_hidden=4, zero_experts=2, router="sigmoid"),
        Spec(widths=FOUR, hidden=4, vocab=4, router="hash", top_k=2, storage="fused"),
        Spec(widths=FOUR, hidden=4, length=4, batch=4, shared="gated", storage="fused_transposed"),
    ],
    ids=["width", "classes", "inside", "vocabulary", "tokens"],
)
def test_a_right_removal_passes(spec):
    found = verdicts(
        synthetic_models.build(spec), example_inputs(spec), checks=CHECKS, ratios={"experts": 0.5}, pruning_ratio=0.0
    )
    assert problems(found) == {}
    assert found["router-intact"].status is Status.PASS


def without_one_class(model, inputs, *, pruning_ratio, seed):
    gate = model.get_submodule("model.layers.0.mlp.gate")
    gate.weight = nn.Parameter(gate.weight.detach()[:-1].clone())


def with_two_rows_exchanged(model, inputs, *, pruning_ratio, seed):
    gate = model.get_submodule("model.layers.0.mlp.gate")
    gate.weight = nn.Parameter(gate.weight.detach()[[0, 1, 2, 4, 3, 5]].clone())


@pytest.mark.parametrize(
    ("subject", "message"),
    [(without_one_class, "2 classes without weights"), (with_two_rows_exchanged, "other values")],
)
def test_a_wrong_router_of_that_width_fails(subject, message):
    spec = Spec(widths=FOUR, hidden=4, zero_experts=2, top_k=2)
    found = verdicts(synthetic_models.build(spec), example_inputs(spec), subject, checks=("router-intact",))
    assert found["router-intact"].status is Status.FAIL
    assert message in found["router-intact"].message


class InputFirst(nn.Module):
    """Scores by ``x @ weight``, the matrix ``[width, experts]``, after a scale of every channel."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 4))
        self.scale = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return x * self.scale @ self.weight + self.bias


class Block(MoEBlock):
    def __init__(self, width: int = 4, gate: type[nn.Module] = InputFirst) -> None:
        super().__init__(hidden=width, inner=6, experts=4, top_k=2, shared=0)
        self.gate = gate()


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed, self.moe, self.head = nn.Linear(5, width), Block(width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.moe(x))


def test_a_square_matrix_counts_experts_on_the_side_that_the_trace_does_not_couple():
    assert axes_of(build(Net), torch.randn(6, 5)) == {"weight": 1, "bias": 0}
    spec = Spec(widths=FOUR, hidden=4)
    assert axes_of(synthetic_models.build(spec), example_inputs(spec)) == {"weight": 0}


def drops_the_last_channels(model, inputs, *, pruning_ratio, seed):
    """Half of the residual stream, everywhere."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rows = name.startswith("embed") or name == "moe.gate.weight" or "scale" in name or "down" in name
            cut = parameter[:2] if rows else parameter if name in ("head.bias", "moe.gate.bias") else parameter[:, :2]
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Parameter(cut.clone()))


def test_channels_cut_beside_a_square_matrix_are_no_fault_of_the_router():
    found = verdicts(
        build(Net), torch.randn(6, 5), drops_the_last_channels, checks=("router-intact", "masked-equivalence")
    )
    assert problems(found) == {}


def test_classes_behind_the_experts_may_outnumber_those_left():
    spec = Spec(widths=FOUR, hidden=8, zero_experts=3, storage="fused")
    model = synthetic_models.build(spec)
    roles = with_router_axes(model, find_roles(model), None)
    fewer = dataclasses.replace(roles.layers[0], experts=roles.layers[0].experts[:2])
    gate = model.get_submodule("model.layers.0.mlp.gate")
    gate.weight = nn.Parameter(gate.weight.detach()[[0, 1, 4, 5, 6]].clone())
    assert spare_classes(model, fewer) == {"model.layers.0.mlp.gate.weight": 3}
    assert search_axes(model, fewer) == {}  # by sizes alone it cannot be told


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: x @ w.t(),
        lambda x, w: (w @ x.transpose(-1, -2)).transpose(-1, -2),
        lambda x, w: torch.einsum("bth,eh->bte", x, w),
        lambda x, w: torch.einsum("bth,eh->bet", x, w).transpose(1, 2),
        lambda x, w: torch.einsum("...h,eh->...e", x, w),
        lambda x, w: torch.addmm(torch.zeros(4), x.reshape(-1, 4), w.t()).view(4, 4, 4),
    ],
)
def test_logits_are_changed_along_the_experts_with_as_many_rows_and_tokens(product):
    class Scored(InputFirst):
        def forward(self, x):
            return product(x, self.weight)

    model = build(Block, gate=Scored)
    roles = with_router_axes(model, find_roles(model), None)
    (layer,) = roles.layers
    x = torch.randn(4, 4, 4)
    plain = product(x, model.gate.weight)
    with Routing(model, roles, {layer.name: lambda logits: logits.index_fill(-1, torch.tensor([2]), 7.0)}):
        changed = model.gate(x)
    assert torch.equal(changed[..., 2], torch.full((4, 4), 7.0))
    assert torch.equal(changed[..., [0, 1, 3]], plain[..., [0, 1, 3]])
