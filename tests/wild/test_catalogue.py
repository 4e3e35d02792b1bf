"""The wild models: each runs, and what it is said to have is found in it."""

import importlib

import pytest
import torch

from benchmarks.wild import experts_pruned, row, table
from moeverify.coupling.layouts import traced_roles
from moeverify.errors import PruningRefused
from moeverify.models.forward import call_model
from moeverify.pruning.pruner import MoEPruner
from moeverify.report.result import VerificationResult
from moeverify.verdict import CaseFacts, Status, Verdict
from tests.support.judged import verdicts
from wild_models import WildModel, wild_models
from wild_models.catalogue import HAND_WRITTEN
from wild_models.handwritten import recurrent_experts, token_counts, unequal_experts

# Layouts of which the roles are not found; their channels are pruned all the same where they can be.
NOT_FOUND = {
    "conditional_convolutions",
    "grouped_einsum",
    "megatron_grouped",
    "mixture_of_tokens",
}
HAND = wild_models(HAND_WRITTEN)


def load(model: WildModel):
    module, _, factory = model.source.partition(":")
    return getattr(importlib.import_module(module), factory)()


@pytest.mark.parametrize("model", HAND, ids=[model.name for model in HAND])
def test_a_model_runs_and_its_experts_are_found(model):
    found, inputs = load(model)
    with torch.no_grad():
        call_model(found.eval(), inputs)
    roles, _ = traced_roles(found, inputs)
    assert bool(roles.experts) == (model.routed and model.name not in NOT_FOUND)
    layers = {layer.container: layer for layer in roles.layers}
    assert all(layer.evidence[path] for path, layer in layers.items())
    for layer in roles.layers:
        assert all(layer.evidence[router] for router in layer.routers)
    assert model.after.startswith(("After", "Experts", "One matrix"))


def test_there_are_enough_of_them():
    assert len(HAND) >= 25


def test_the_table_lists_what_was_found_pruned_and_left():
    model = HAND[0]
    facts = {
        "parameters_before": 10,
        "parameters_after": 4,
        "roles": {"experts": ["e.0", "e.1"], "routers": ["gate"], "shared_experts": []},
        "sizes": [{"role": "routed_experts", "where": "e.*", "before": 8, "after": 4}],
    }
    verdicts = (
        Verdict(model.source, "moe", "shapes", Status.PASS, "fine"),
        Verdict(model.source, "moe", "causal", Status.INCONCLUSIVE, "not seen"),
        Verdict(model.source, "moe", "ratio-honoured", Status.PASS, "", {"adjusted": ["heads is left alone"]}),
    )
    result = VerificationResult(verdicts, (CaseFacts(model.source, "moe", facts),), {}, {}, "now", 1.0)
    data = row(model, result)
    assert experts_pruned(data)
    text = table({model.name: data}, {"torch": "2"})
    assert "1 of the other 1 have channels of these experts pruned" in text
    assert "0 of the 1 have hidden channels or heads" in text
    assert f"- {model.name}, causal: not seen" in text
    assert f"- {model.name}: heads is left alone" in text
    assert "2 (listed), 1, 0 | 40% | routed_experts | 1 inconclusive, 2 pass" in text


def test_a_router_with_noise_weights_of_zero_tells_which_experts_stayed():
    """Rows of zeros fit any expert: the gate's own weights decide."""
    model, inputs = recurrent_experts.make()
    found = verdicts(model, inputs, checks=("masked-equivalence", "router-intact"), ratios={"experts": 0.25})
    assert found["router-intact"].status is Status.PASS
    assert found["masked-equivalence"].message.startswith("equal")  # the noise of training has another shape


def test_an_expert_without_weights_is_no_crash():
    model, inputs = unequal_experts.make()
    with pytest.raises(PruningRefused, match=r"blocks.0.experts.3 has no weights to score it by"):
        MoEPruner(model.eval(), inputs, ratios={"experts": 0.25}, pruning_ratio=0).plan()


def test_a_plan_to_remove_experts_leaves_what_a_forward_counts():
    model, inputs = token_counts.make()
    MoEPruner(model.eval(), inputs, ratios={"experts": 0.25}, pruning_ratio=0).plan()
    assert all(not bool(b.any()) for n, b in model.named_buffers() if n.endswith("tokens_per_expert"))
