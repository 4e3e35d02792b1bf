"""Rules that name experts travel as arguments: to the trace, the subject, the groups of its pruner, and the checks."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.models.role_search import RoleSearch
from moeverify.models.sources import LoadedModel
from moeverify.subjects import adapt, load_subject
from moeverify.subjects.groups import classes_of
from moeverify.verification.case import Case
from moeverify.verification.in_process import run_case

RULES = mv.Roles(experts="^blocks$", routers="^chooser$")


class Layer(nn.Module):
    """Two experts under a name that says nothing, scored by three logits: the structure does not show them."""

    def __init__(self):
        super().__init__()
        self.chooser = nn.Linear(6, 3)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6)) for _ in range(2)])

    def forward(self, x):
        weights = self.chooser(x).softmax(-1)
        return sum(weights[:, n : n + 1] * block(x) for n, block in enumerate(self.blocks))


@pytest.fixture
def searches(monkeypatch):
    found, run = [], RoleSearch.run
    monkeypatch.setattr(RoleSearch, "run", lambda search: found.append(search) or run(search))
    return found


def test_a_graph_searches_for_roles_once(searches):
    graph = mv.MoEDependencyGraph(roles=RULES).build_dependency(Layer(), torch.randn(4, 6))
    assert len(searches) == 1
    assert len(graph.found_roles.experts) == 2


def test_roles_that_were_found_are_not_searched_for_again(searches):
    model = Layer()
    found = mv.find_roles(model, RULES)
    assert mv.find_roles(model, found) is found
    mv.trace_couplings(model, torch.randn(4, 6), roles=found)
    assert len(searches) == 1


def test_rules_reach_a_subject_that_has_a_parameter_for_them():
    told = []

    def with_roles(model, example_inputs, *, pruning_ratio, seed, roles=None):
        told.append(roles)

    def without(model, example_inputs, *, pruning_ratio, seed):
        told.append("nothing")

    for function in (with_roles, without):
        adapt(function, RULES)(None, None, pruning_ratio=0.5, seed=0)
    assert told == [RULES, "nothing"]


@pytest.mark.parametrize("name", ["moe", "moe-experts"])
def test_the_subjects_of_ours_prune_experts_by_given_rules(name):
    model = Layer()
    outcome = load_subject(name, RULES)(model, torch.randn(4, 6), pruning_ratio=0.5, seed=0)
    assert {c.role for c in outcome.classes} >= {"routed_experts"}
    assert [block[0].out_features for block in model.blocks] == [4, 4]


def test_groups_of_another_pruner_are_named_by_the_rules():
    model = Layer()
    layer = model.blocks[0][0]
    target = SimpleNamespace(module=layer, pruning_dim=None)
    group = [(SimpleNamespace(target=target, handler="out"), list(range(8)))]
    graph = SimpleNamespace(get_all_groups=lambda: [group], is_out_channel_pruning_fn=lambda handler: True)
    pruner = SimpleNamespace(DG=graph)
    assert [c.role for c in classes_of(pruner, model)] != ["routed_experts"]
    assert [c.role for c in classes_of(pruner, model, RULES)] == ["routed_experts"]


def test_the_judge_finds_experts_by_the_rules_of_the_call():
    facts = []

    def on_event(event):
        facts.extend([event.facts.facts["roles"]["experts"]] if hasattr(event, "facts") else [])

    for rules in (None, mv.Roles(experts=lambda path, module: path == "blocks")):
        loaded = LoadedModel("layer", Layer(), torch.randn(4, 6))
        run_case(
            Case("layer", "here", checks=("terminates",)),
            on_event,
            loaded=loaded,
            subject=lambda *_, **__: None,
            roles=rules,
        )
    assert facts == [[], ["blocks.0", "blocks.1"]]
