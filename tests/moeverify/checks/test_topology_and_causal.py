"""Routers choose as before out of fewer experts, and no token reads a later one; limits of engines are notes."""

import sys

import pytest
import torch
from torch import nn

from moeverify.checks.evidence.causality import movement
from moeverify.checks.evidence.choices import Router, routers_of
from moeverify.checks.topology import _outside, _problem, _regrouped
from moeverify.models.exercise import run_all
from moeverify.models.roles import find_roles
from moeverify.models.sources import LoadedModel, load_source
from moeverify.models.zoo import build_zoo
from moeverify.subjects.moe import prune_moe
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case

IDS = {"input_ids": torch.arange(40).reshape(2, 20) * 3 % 120}


def halve(model, inputs, *, pruning_ratio, seed):
    return prune_moe(model, inputs, pruning_ratio=0.0, seed=seed, ratios={"experts": 0.5})


def verdicts(loaded, checks, subject=halve):
    reached = []
    run_case(Case(loaded.name, "here", checks=checks), reached.append, loaded=loaded, subject=subject)
    return {e.verdict.check: e.verdict for e in reached if isinstance(e, VerdictReached)}


@pytest.mark.parametrize(
    ("model_type", "router"),
    [
        ("mixtral", Router(4, 2)),
        ("deepseek_v3", Router(8, 2, groups=2, chosen_groups=1, group_scores=2, grouped=True)),
        ("zaya", Router(5, 1)),
        ("longcat_flash", Router(6, 2)),
    ],
)
def test_choices_are_seen_while_a_model_runs(model_type, router):
    model = build_zoo(model_type)
    roles = find_roles(model)
    seen = routers_of(model, roles, lambda m: run_all(m, IDS))
    assert set(seen) == {layer.name for layer in roles.layers}
    assert seen[roles.layers[-1].name] == router


def test_numbers_that_must_stay():
    old = Router(16, 4, groups=4, chosen_groups=2, group_scores=2)
    right = Router(8, 4, groups=4, chosen_groups=2, group_scores=2)
    assert _problem(old, right, 16, 8) == ""
    assert "nothing is chosen among its 8 experts" in _problem(old, None, 16, 8)
    assert "chooses among 8 scores, there are 7 experts" in _problem(old, right, 16, 7)
    assert "goes to 3 experts, it was 4" in _problem(old, Router(8, 3, 4, 2, 2), 16, 8)
    assert "10 experts do not make 4 equal groups" in _problem(old, Router(10, 4, 5, 2, 2), 16, 10)
    assert "it has 2 groups, there were 4" in _problem(old, Router(8, 4, 2, 2, 2), 16, 8)
    assert "it chooses 1 groups, it was 2" in _problem(old, Router(8, 4, 4, 1, 2), 16, 8)
    assert "scored by its best 2 experts, and has 1" in _problem(old, Router(4, 4, 4, 2, 1), 16, 4)
    assert "out of 1 groups of 3" in _problem(Router(16, 4, 2, 1, 1), Router(6, 4, 2, 1, 1), 16, 6)


def test_experts_stay_in_their_groups():
    old = Router(8, 2, groups=2, chosen_groups=1, group_scores=2)
    assert _regrouped(old, 8, [0, 3, 4, 5]) == ""
    assert "expert 2 moves from group 0 to group 1: the groups keep 3, 1 experts" in _regrouped(old, 8, [0, 1, 2, 7])


def test_limits_of_engines_are_notes():
    assert _outside(Router(128, 4), 128) == []
    (refused,) = _outside(Router(150, 4), 150, "deepseek_v4")
    assert refused.effect == "refused"
    (slower,) = _outside(Router(150, 4), 150)
    assert slower.effect == "slower"
    assert {limit.engine for limit in _outside(Router(640, 8, groups=16, chosen_groups=8), 640)} == {
        "vllm", "flashinfer", "aiter",
    }  # fmt: skip


class Mixing(nn.Module):
    """A causal block, unless ``window`` tokens share what they choose."""

    def __init__(self, window=1):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.gate = nn.Linear(12, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12)) for _ in range(4))
        self.head = nn.Linear(12, 30)
        self.window = window

    def forward(self, input_ids):
        x = self.embed(input_ids)
        rows = x.flatten(0, 1)
        scores = self.gate(rows)
        scores = scores.reshape(-1, self.window, 4).cumsum(1).flip(1).reshape(-1, 4) if self.window > 1 else scores
        weights, chosen = scores.softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            at, slot = (chosen == number).nonzero(as_tuple=True)
            out = out.index_add(0, at, expert(rows[at]) * weights[at, slot, None])
        return self.head(x + out.view_as(x))


class TwoHeads(nn.Module):
    """A loss, logits and a second output with a row for each token; ``back`` lets outputs read the token after."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.heads = nn.ModuleList(nn.Linear(12, size) for size in (30, 5))
        self.back = [False, False]

    def forward(self, input_ids):
        x = self.embed(input_ids)
        outputs = [head(x + x.roll(-1, 1) if back else x) for head, back in zip(self.heads, self.back, strict=True)]
        return x.sum(), *outputs


def two_heads(*back):
    torch.manual_seed(0)
    model = TwoHeads().eval()
    model.back = list(back)
    return LoadedModel("here", model, {"input_ids": torch.randint(0, 30, (2, 12))})


def reads_ahead(*back):
    def prune(model, inputs, *, pruning_ratio, seed):
        model.back = list(back)

    return prune


def test_every_output_with_a_row_for_each_token_counts():
    found = verdicts(two_heads(False, False), ("causal",), reads_ahead(False, True))["causal"]
    assert found.status is Status.FAIL
    assert found.evidence["output"] == "output 3"
    assert "change output 3 at" in found.message


def test_an_output_that_reads_later_tokens_hides_no_other():
    right = verdicts(two_heads(True, False), ("causal",), reads_ahead(True, False))["causal"]
    assert right.status is Status.PASS
    assert right.evidence["outputs"] == ["output 3"]
    wrong = verdicts(two_heads(True, False), ("causal",), reads_ahead(True, True))["causal"]
    assert wrong.status is Status.FAIL
    assert wrong.evidence["output"] == "output 3"


def test_a_pruned_model_without_rows_is_not_skipped():
    def sums(model, inputs, *, pruning_ratio, seed):
        model.forward = lambda input_ids: (model.embed(input_ids).sum(),) * 3

    found = verdicts(two_heads(False, False), ("causal",), sums)["causal"]
    assert found.status is Status.FAIL
    assert "output 2 has no row for each token any more" in found.message


def test_rows_that_lose_their_value_have_moved():
    before = torch.arange(1.0, 13.0).reshape(1, 4, 3)
    after = before.clone()
    after[0, 1, 2] = float("nan")
    after[0, 3, 0] += 6
    assert movement(before, after).tolist() == [[0.0, float("inf"), 0.0, 0.5]]
    assert movement(after, after).tolist() == [[0.0] * 4]


def mixing(window):
    torch.manual_seed(0)
    return LoadedModel("here", Mixing(window).eval(), {"input_ids": torch.randint(0, 30, (2, 12))})


def mix(model, inputs, *, pruning_ratio, seed):
    model.window = 2


def test_a_model_that_begins_to_mix_tokens_fails():
    found = verdicts(mixing(1), ("causal",), mix)["causal"]
    assert found.status is Status.FAIL
    assert "tokens are mixed, which the original does not do" in found.message
    assert found.evidence["position"] < found.evidence["changed_from"]


def test_an_original_that_mixes_tokens_itself_is_skipped():
    found = verdicts(mixing(2), ("causal",), mix)["causal"]
    assert found.status is Status.SKIP
    assert "the original reads later tokens itself" in found.message


def test_inputs_without_tokens_are_skipped():
    from small_nets import TinyMoE, build

    loaded = LoadedModel("here", build(TinyMoE, experts=4), torch.randn(12, 5))
    found = verdicts(loaded, ("causal", "topology"))
    assert found["causal"].status is Status.SKIP
    assert found["topology"].status is Status.PASS
    assert found["topology"].evidence["experts"] == [2]


@pytest.mark.parametrize("name", [pytest.param("zoo:deepseek_v4", marks=pytest.mark.slow), "synthetic:fused"])
def test_the_right_removal_passes(name):
    checks = ("topology", "causal", "router-intact", "untouched-identical")
    found = verdicts(load_source(name), checks)
    assert {n: v.message for n, v in found.items() if v.status is not Status.PASS} == {}


def test_special_tokens_keep_their_places():
    ids = torch.tensor([[3, 7, 9, 4, 7, 5]])
    changed = sys.modules["moeverify.checks.causal"]._changed(ids, 1, 0, torch.tensor([7]))
    assert changed[0, [0, 1, 4]].tolist() == [3, 7, 7]
    assert all(a != b for a, b in zip(changed[0, [2, 3, 5]].tolist(), [9, 4, 5], strict=True))
    assert 7 not in changed[0, [2, 3, 5]].tolist()
