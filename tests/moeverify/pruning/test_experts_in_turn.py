"""Experts whose rows come one after the other in one matrix: each keeps channels of its own, all as many."""

import copy

import pytest
import torch
import torch_pruning as tp
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.models.roles import find_roles
from moeverify.pruning.checkpoint.plan_file import PlanDocument, document_plan
from moeverify.pruning.choice.scores import score_units
from moeverify.pruning.plan.apply import apply_plan
from tests.support.small_nets import Expert, build

TOKENS = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
EXPERTS, HIDDEN, INNER = 3, 8, 10
ONLY_EXPERTS = {"hidden": 0.0}


class RowExperts(nn.Module):
    """The experts' matrices as rows of three common ones, as DBRX keeps them; ``scaled`` adds what all of them read."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        rows = EXPERTS * INNER
        self.gate, self.up, self.down = (nn.Parameter(torch.randn(rows, HIDDEN)) for _ in range(3))
        self.scale = nn.Parameter(torch.randn(INNER)) if scaled else None

    def forward(self, x, number):
        gate, up, down = (p.view(EXPERTS, -1, x.shape[-1])[number] for p in (self.gate, self.up, self.down))
        inner = torch.nn.functional.silu(x @ gate.T) * (x @ up.T)
        return (inner if self.scale is None else inner * self.scale) @ down


class RowNet(nn.Module):
    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(5, HIDDEN)
        self.router = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts = RowExperts(scaled)
        self.head = nn.Linear(HIDDEN, 2)

    def forward(self, x):
        x = self.embed(x)
        weights, chosen = self.router(x).softmax(-1).max(-1)
        out = x
        for number in range(EXPERTS):
            rows = (chosen == number).nonzero()[:, 0]
            out = out.index_add(0, rows, self.experts(x[rows], number) * weights[rows, None])
        return self.head(out)


def pruner_of(model, **more):
    return mv.MoEPruner(model, TOKENS, ratios=ONLY_EXPERTS, ignored_layers=[model.head], **more)


def favour(model):
    """Give each expert other channels that matter: expert ``e`` the odd or the even ones."""
    with torch.no_grad():
        for number in range(EXPERTS):
            for rows in (model.experts.gate, model.experts.up, model.experts.down):
                rows.view(EXPERTS, INNER, HIDDEN)[number, number % 2 :: 2] *= 100
    return model


def kept_by(plan, name):
    return [sorted(p - INNER * n for p in plan.keep[name, 0] if p // INNER == n) for n in range(EXPERTS)]


def test_each_expert_keeps_its_own_channels():
    model = favour(build(RowNet))
    masked = copy.deepcopy(model)
    plan = pruner_of(model).step()
    assert [layer.layout for layer in find_roles(masked).layers] == ["rows"]
    for name in ("experts.gate", "experts.up", "experts.down"):
        assert kept_by(plan, name) == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9], [0, 2, 4, 6, 8]]
        with torch.no_grad():
            rows = masked.get_parameter(name)
            rows[[p for p in range(len(rows)) if p not in plan.keep[name, 0]]] = 0
    assert model.experts.up.shape == (EXPERTS * 5, HIDDEN)
    assert torch.allclose(model(TOKENS), masked(TOKENS), rtol=1e-5)


@pytest.mark.parametrize(
    "importance", [tp.importance.GroupMagnitudeImportance(p=1), tp.importance.GroupTaylorImportance()]
)
def test_scores_are_those_of_the_same_listed_experts(importance):
    model = build(RowNet)
    model(TOKENS).square().sum().backward()
    graph = mv.MoEDependencyGraph().build_dependency(model, TOKENS)
    rows = next(c for c in graph.classes if c.experts)
    scores = score_units(graph, rows, importance)
    assert scores.shape == (EXPERTS, INNER)
    for number in range(EXPERTS):
        expert = Expert(HIDDEN, INNER)
        for layer, name in ((expert.gate_proj, "gate"), (expert.up_proj, "up"), (expert.down_proj, "down")):
            stacked = getattr(model.experts, name)
            values, grad = (t.detach().view(EXPERTS, INNER, HIDDEN)[number] for t in (stacked, stacked.grad))
            layer.weight = nn.Parameter(values.T.clone() if name == "down" else values.clone())
            layer.weight.grad = grad.T.clone() if name == "down" else grad.clone()
        alone = mv.MoEDependencyGraph().build_dependency(expert, torch.randn(2, HIDDEN))
        (inner,) = [c for c in alone.classes if c.coupling.size == INNER]
        assert torch.allclose(score_units(alone, inner, importance), scores[number], rtol=1e-4)


def test_steps_groups_one_by_one_and_history_agree():
    start = favour(build(RowNet))
    stepwise, interactive, replayed = (copy.deepcopy(start) for _ in range(3))
    pruner = pruner_of(stepwise, iterative_steps=2)
    pruner.step()
    pruner.step()
    assert stepwise.experts.down.shape == (EXPERTS * 5, HIDDEN)
    for group in pruner_of(interactive).step(interactive=True):
        group.prune()
    history = pruner.pruning_history()
    assert [len(lost) for _, _, per_expert in history for lost in per_expert] == [3, 3, 3, 2, 2, 2]
    pruner_of(replayed).load_pruning_history(history)
    at_once = copy.deepcopy(start)
    pruner_of(at_once).step()
    for model in (interactive, stepwise, replayed):
        assert torch.equal(model(TOKENS), at_once(TOKENS))


def test_a_plan_is_carried_out_again():
    model = favour(build(RowNet))
    base = copy.deepcopy(model)
    plan = pruner_of(model).step()
    again = PlanDocument.from_json(document_plan(base, plan).to_json()).plan
    apply_plan(base, again)
    assert torch.equal(base.experts.gate, model.experts.gate)


def test_channels_that_all_experts_read_are_left_alone_by_name():
    model = build(RowNet, scaled=True)
    with pytest.warns(UserWarning, match=r"left alone.*all experts read the same channels of experts\.scale"):
        plan = mv.MoEPruner(model, TOKENS, ratios={"hidden": 0.25}, ignored_layers=[model.head]).step()
    assert [cut.pruning_class.role for cut in plan.cuts] == ["hidden"]
    assert model.experts.up.shape == (EXPERTS * INNER, 6)


def test_ranking_them_together_is_refused_with_the_reason():
    model = build(RowNet)
    with pytest.raises(PruningRefused, match=r"together in experts: .* one tensor holds them all"):
        pruner_of(model, expert_ranking="together").step()
    assert model.experts.up.shape == (EXPERTS * INNER, HIDDEN)
