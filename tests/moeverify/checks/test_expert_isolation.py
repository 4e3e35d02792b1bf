"""Experts that share channels with what lies outside, or have none, and groups that only pretend to."""

import copy
from dataclasses import replace

import pytest
from releases import needs

from moeverify.checks import CHECKS
from moeverify.checks.context import Context
from moeverify.coupling.solving.solve import CouplingClass
from moeverify.models.sources import load_source
from moeverify.subjects import prune_moe
from moeverify.verdict import Status


def context_of(source):
    loaded = load_source(source)
    original = copy.deepcopy(loaded.model)
    outcome = prune_moe(loaded.model, loaded.example_inputs, pruning_ratio=0.5, seed=0)
    return Context(source, original, loaded.model, loaded.example_inputs, outcome, 0.5, 0, "float32")


@pytest.fixture(scope="module")
def attention_experts():
    """JetMoE: query heads are experts' channels, and go with the key and value heads that all experts attend to."""
    return context_of("zoo:jetmoe")


def judge(context, classes=None):
    if classes is not None:
        context = replace(context, outcome=replace(context.outcome, classes=tuple(classes)))
    return CHECKS["expert-isolation"](context)


def test_heads_shared_with_keys_and_values_are_no_leak(attention_experts):
    found = judge(attention_experts)
    assert found.status is Status.PASS, found.message
    assert "12 of them have no channels of their own, such as model.layers.0.self_attention.experts[0]" in found.message


def test_the_same_heads_without_what_they_share_are_one(attention_experts):
    inside = [
        replace(
            c,
            coupling=CouplingClass(tuple(m for m in c.coupling.members if "kv_proj" not in m.parameter)),
        )
        for c in attention_experts.outcome.classes
    ]
    found = judge(attention_experts, inside)
    assert found.status is Status.FAIL
    assert "self_attention.experts[0] also removes channels of" in found.message


def test_experts_in_no_group_are_missed(attention_experts):
    found = judge(attention_experts, [c for c in attention_experts.outcome.classes if c.role != "heads"])
    assert found.status is Status.FAIL
    assert found.message == "model.layers.0.self_attention.experts[0] has no group of its own"


def test_single_rows_have_no_channels_of_their_own():
    needs("doge")
    context = context_of("zoo:doge")
    found = judge(context)
    assert found.status is Status.PASS, found.message
    assert "12 of them have no channels of their own" in found.message
    assert judge(context, [c for c in context.outcome.classes if c.role != "hidden"]).status is Status.FAIL


def test_experts_in_turn_stand_alone_each():
    needs("dbrx")
    context = context_of("zoo:dbrx")
    assert judge(context).message == "12 experts in 3 layers stand alone"
    joint = [replace(c, experts=0, in_turn=frozenset()) for c in context.outcome.classes]
    assert (
        "ffn.experts[0] also removes channels of transformer.blocks.0.ffn.experts[1]" in judge(context, joint).message
    )
