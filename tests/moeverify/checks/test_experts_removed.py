"""A subject that removes whole experts is judged like any other: the others never chosen, the router's rows in step."""

import pytest
import torch
from torch import nn

from moeverify.models.sources import load_source
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case

CHECKS = ("masked-equivalence", "router-intact", "untouched-identical", "forward-every-expert", "something-pruned")
GONE = [2]


def remove(model, keep=(0, 1, 3), row=None, experts=None):
    """Remove experts of the first MoE layer of a model with listed experts."""
    layer = model.get_submodule("model.layers.1.mlp")
    rows = list(row or keep)
    layer.experts = nn.ModuleList(layer.experts[e] for e in (experts or keep))
    layer.gate.weight = nn.Parameter(layer.gate.weight.detach()[rows].clone())
    layer.gate.experts = len(rows)


def right(model, inputs, *, pruning_ratio, seed):
    remove(model)


def wrong_row(model, inputs, *, pruning_ratio, seed):
    remove(model, row=(0, 1, 2))


def run(subject):
    events = []
    run_case(Case("synthetic:listed", "here", checks=CHECKS), events.append, loaded=load_source("synthetic:listed"),
             subject=subject)  # fmt: skip
    return {e.verdict.check: e.verdict for e in events if isinstance(e, VerdictReached)}


def test_removed_experts_are_never_chosen_in_the_reference():
    verdicts = run(right)
    assert {n: v.message for n, v in verdicts.items() if v.status is not Status.PASS and n != "something-pruned"} == {}
    assert "equals the masked original" in verdicts["masked-equivalence"].message


def test_the_wrong_row_is_seen():
    verdicts = run(wrong_row)
    assert verdicts["untouched-identical"].status is Status.FAIL
    assert verdicts["masked-equivalence"].status is Status.FAIL


@pytest.mark.parametrize("dtype", [torch.float32])
def test_an_expert_that_nobody_chooses_gets_tokens_by_force(dtype):
    def starve(model, inputs, *, pruning_ratio, seed):
        from moeverify.subjects import prune_moe

        return prune_moe(model, inputs, pruning_ratio=pruning_ratio, seed=seed)

    loaded = load_source("synthetic:listed")
    with torch.no_grad():
        router = loaded.model.get_submodule("model.layers.1.mlp.gate")
        router.weight[3] = -100 * router.weight[:3].abs().sum(0)
        router.weight[3] += 0.01 * torch.randn(32, generator=torch.Generator().manual_seed(0))
        loaded.model.get_submodule("model.embed_tokens").weight.abs_()
    verdicts = []
    case = Case("synthetic:listed", "here", checks=("masked-equivalence",))
    run_case(
        case, lambda e: isinstance(e, VerdictReached) and verdicts.append(e.verdict), loaded=loaded, subject=starve
    )
    (verdict,) = verdicts
    assert verdict.status is Status.PASS, verdict.message
    assert all(verdict.evidence["tokens"].values())
