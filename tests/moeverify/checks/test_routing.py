"""How near a choice by ``topk`` was, and where the logits of a router are changed."""

import pytest
import torch

import synthetic_models
from moeverify.checks.evidence.forces import towards
from moeverify.checks.evidence.routing import Routing, router_matrices
from moeverify.models.roles import find_roles
from synthetic_models import Spec


def margin(scores, k=1):
    with Routing(torch.nn.Identity(), find_roles(torch.nn.Identity())) as seen:
        torch.tensor(scores, dtype=torch.float64).topk(k)
    return seen.margin


def test_the_margin_is_relative_to_the_largest_score():
    assert margin([[4.0, 3.0, 1.0]]) == pytest.approx(0.25)
    # Rounding beside a large score is a near-tie, though the two differ by all of their own size.
    assert margin([[1.0, 1e-17, 3e-17]], k=2) < 1e-15


def test_exactly_equal_scores_are_no_near_tie():
    assert margin([[0.0, 0.0, 0.0]]) == float("inf")
    assert margin([[1.0, 0.0, 0.0], [4.0, 3.0, 0.0]], k=2) == pytest.approx(0.75)
    assert margin([[1.0, float("-inf"), float("-inf")]], k=2) == float("inf")


def test_logits_are_changed_where_the_originals_are_though_a_single_channel_is_left():
    model = synthetic_models.build(Spec(layers=("moe",), router="group_limited", groups=2, widths=(8,) * 4,
                                        router_hidden=4)).eval()  # fmt: skip
    roles = find_roles(model)
    (layer,) = roles.layers
    names = router_matrices(model, roles)
    router = model.get_submodule(layer.routers[0])
    assert names == {layer.name: (f"{layer.routers[0]}.weight",)}
    router.hidden_layer = torch.nn.Linear(router.hidden_layer.in_features, 1)
    router.weight = torch.nn.Parameter(router.weight[:, :1].detach().clone())
    with Routing(model, roles, {layer.name: towards(2)}, names) as routing:
        model(**synthetic_models.example_inputs(Spec(layers=("moe",))))
    assert routing.seen == {layer.name}
    assert not routing.chosen
