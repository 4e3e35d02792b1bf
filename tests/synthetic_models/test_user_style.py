"""Models as users write them: whatever the style, the same parts go, and the pruned model is the masked one."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from masked_original import difference

import moeverify as mv
from moeverify.coupling.layouts import traced_roles
from synthetic_models import user_style
from synthetic_models.user_style import EXPERT_FORMS, ROUTERS, SETTINGS, STATES, VIEWS, Style, build, example, styles

PLAIN = Style()
ONE_BY_ONE = [
    dataclasses.replace(PLAIN, **{name: value})
    for name, values in (
        ("settings", SETTINGS),
        ("views", VIEWS),
        ("experts", EXPERT_FORMS),
        ("router", ROUTERS),
        ("state", STATES),
    )
    for value in values
]


def check(style: Style) -> None:
    model = build(style)
    roles, _ = traced_roles(model, example())
    assert len(roles.experts) == user_style.EXPERTS
    assert roles.routers == ("mixture.router",)
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, example(), pruning_ratio=0.5).step()
    assert not plan.left_alone
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == user_style.shapes_after(style, hidden=12, heads=2, inner=10)
    assert difference(original, model, plan, example(1)) < 1e-9
    assert torch.equal(model.mixture.seen, original.mixture.seen) or style.state != "none"


@pytest.mark.parametrize("style", dict.fromkeys(ONE_BY_ONE), ids=lambda s: "-".join(dataclasses.asdict(s).values()))
def test_each_way_to_write_a_forward_is_pruned_by_the_truth(style):
    check(style)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(styles())
def test_ways_together_are_pruned_by_the_truth(style):
    check(style)
