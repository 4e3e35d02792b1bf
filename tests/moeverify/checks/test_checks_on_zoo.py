"""Every check passes on our pruner and catches a pruner that cuts one expert's down projection elsewhere."""

import pytest
import torch

from moeverify import case as case_module
from moeverify.case import Case, run_case
from moeverify.checks import default_names
from moeverify.subjects import BUILT_IN, prune_moe
from moeverify.verdict import CaseFacts, Status, Verdict
from moeverify.zoo import build_zoo


def collect(case):
    events = []
    run_case(case, events.append)
    verdicts = {e.check: e for e in events if isinstance(e, Verdict)}
    facts = [e for e in events if isinstance(e, CaseFacts)]
    return verdicts, facts


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_our_pruner_passes_every_check(model_type, dtype):
    verdicts, facts = collect(Case(f"zoo:{model_type}", dtype=dtype, pruning_ratio=0.25, seed=1))
    assert list(verdicts) == list(default_names())
    assert {n: (v.status, v.message) for n, v in verdicts.items() if v.status is not Status.PASS} == {}
    assert facts[0].facts["parameters_after"] < facts[0].facts["parameters_before"]


def shifted_down_projection(model, example_inputs, *, pruning_ratio, seed):
    """Keeps other channels of one expert's down projection than of its gate and up halves."""
    source = build_zoo("qwen3_moe", seed=seed)
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = "model.layers.0.mlp.experts.down_proj"
    kept = torch.as_tensor(outcome.plan.keep[name, 2][1])
    other = torch.tensor([c for c in range(32) if c not in kept.tolist()])[: len(kept)]
    hidden = torch.as_tensor(outcome.plan.keep[name, 1])
    whole = dict(source.named_parameters())[name]
    with torch.no_grad():
        model.get_parameter(name)[1] = whole[1][hidden][:, other]
    return outcome


def reordered_gate(model, example_inputs, *, pruning_ratio, seed):
    """Swaps two kept rows of the gate half: all shapes and values stay, the pairing with up does not."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    with torch.no_grad():
        weight = model.get_parameter("model.layers.2.mlp.experts.gate_up_proj")
        weight[0, [0, 1]] = weight[0, [1, 0]].clone()
    return outcome


def stale_attribute(model, example_inputs, *, pruning_ratio, seed):
    """Forgets a module's size attribute."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.model.layers[0].mlp.experts.intermediate_dim *= 2
    return outcome


def stale_config(model, example_inputs, *, pruning_ratio, seed):
    """Forgets the configuration."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.config.hidden_size = 64
    return outcome


def nothing(model, example_inputs, *, pruning_ratio, seed):
    """Prunes nothing."""


def crashes(model, example_inputs, *, pruning_ratio, seed):
    """Raises."""
    raise ZeroDivisionError("by design")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subject", "caught_by"),
    [
        (shifted_down_projection, {"masked-equivalence"}),
        (reordered_gate, {"masked-equivalence", "untouched-identical"}),
        (stale_attribute, {"config-in-step"}),
        (stale_config, {"config-in-step", "reload"}),
        (nothing, {"something-pruned", "masked-equivalence", "ratio-honoured"}),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_broken_pruners_are_caught(subject, caught_by, monkeypatch):
    monkeypatch.setitem(BUILT_IN, "broken", subject)
    assert case_module.load_subject("broken") is subject
    verdicts, _ = collect(Case("zoo:qwen3_moe", subject="broken"))
    assert {n for n, v in verdicts.items() if v.status is Status.FAIL} == caught_by


def test_a_crash_is_a_verdict(monkeypatch):
    monkeypatch.setitem(BUILT_IN, "broken", crashes)
    verdicts, _ = collect(Case("zoo:mixtral", subject="broken"))
    assert verdicts["terminates"].status is Status.ERROR
    assert "ZeroDivisionError" in verdicts["terminates"].message
    assert {v.status for n, v in verdicts.items() if n != "terminates"} == {Status.SKIP}
