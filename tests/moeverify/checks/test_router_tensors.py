"""Routers that choose from more classes than there are experts: some do nothing, and have no weights."""

import pytest
import torch
from torch import nn

import synthetic_models
from moeverify.checks.evidence.router_tensors import experts_now, router_tensors, spare_classes
from moeverify.models.roles import find_roles
from moeverify.models.sources import load_source
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case
from synthetic_models import Spec


@pytest.mark.parametrize(
    ("source", "spare", "weight", "bias"),
    [
        ("zoo:zaya", 1, "gate.router_mlp.out_proj.weight", "gate.balancing_biases"),
        ("zoo:longcat_flash", 2, "router.classifier.weight", "router.e_score_correction_bias"),
        ("zoo:qwen2_moe", 0, "gate.weight", None),
    ],
)
def test_classes_without_weights_follow_the_experts(source, spare, weight, bias):
    model = load_source(source).model
    layer = find_roles(model).layers[0]
    tensors = router_tensors(model, layer)
    assert set(tensors) == {f"{layer.name}.{name}" for name in (weight, bias) if name}
    assert set(spare_classes(model, layer).values()) == {spare}
    assert experts_now(model, layer) == len(layer.experts)


def test_the_gate_of_a_shared_expert_that_reads_as_many_channels_is_none_of_them():
    model = synthetic_models.build(Spec(hidden=4, widths=(4, 4, 4, 4), shared="gated"))
    layer = find_roles(model).layers[0]
    assert not [name for name in router_tensors(model, layer) if "shared" in name]


def test_a_router_that_two_layers_share_is_one_of_each():
    model = load_source("zoo:mixtral").model
    first, second = find_roles(model).layers[:2]
    alone = router_tensors(model, second)
    model.get_submodule(second.routers[0]).weight = model.get_submodule(first.routers[0]).weight
    assert router_tensors(model, second).keys() == alone.keys() != set()
    assert router_tensors(model, first).keys() != alone.keys()


def test_experts_are_counted_where_a_pruner_took_their_container_away():
    model = load_source("zoo:mixtral").model
    layer = find_roles(model).layers[0]
    holder, _, name = layer.container.rpartition(".")
    setattr(model.get_submodule(holder), name, nn.Identity())
    assert experts_now(model, layer) == len(layer.experts)
    delattr(model.get_submodule(holder), name)
    assert experts_now(model, layer) == len(layer.experts)


def loses_a_class(model, example_inputs, *, pruning_ratio, seed):
    router = model.get_submodule("model.layers.0.mlp.gate.router_mlp")
    router.out_proj.weight = nn.Parameter(router.out_proj.weight.detach()[:-1].clone())


def exchanges_classes(model, example_inputs, *, pruning_ratio, seed):
    router = model.get_submodule("model.layers.0.mlp.gate.router_mlp")
    order = torch.tensor([0, 1, 2, 4, 3])
    router.out_proj.weight = nn.Parameter(router.out_proj.weight.detach()[order].clone())


@pytest.mark.parametrize(
    ("subject", "message"), [(loses_a_class, "1 classes without weights"), (exchanges_classes, "other values")]
)
def test_a_class_that_goes_or_moves_is_seen(subject, message):
    verdicts = []
    case = Case("zoo:zaya", "here", checks=("router-intact",))
    run_case(case, lambda e: isinstance(e, VerdictReached) and verdicts.append(e.verdict), subject=subject)
    verdict = next(v for v in verdicts if v.check == "router-intact")
    assert verdict.status is Status.FAIL
    assert message in verdict.message
