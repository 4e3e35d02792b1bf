"""Which numbers of experts a router allows: seen while it runs, refused before anything is changed."""

import pytest
import torch
from small_nets import TinyMoE
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError
from moeverify.models.forward import Example
from moeverify.models.roles import find_roles
from moeverify.models.zoo import build_zoo
from moeverify.pruning.experts.removal import expert_layout
from moeverify.pruning.experts.topology import Topology

IDS = {"input_ids": torch.arange(24).reshape(2, 12)}


def topology(model, inputs=None):
    layout = expert_layout(model, find_roles(model), Example(IDS if inputs is None else inputs))
    return layout.topologies[layout.layers[0].layer.name]


def test_groups_of_experts_restrict_how_many_may_go():
    rules = Topology(count=16, top_k=4, groups=4, chosen_groups=2, group_scores=2)
    assert rules.legal() == [8, 12, 16]
    assert "4 groups of equal size cannot hold 10" in rules.problem(10)
    assert "scored by its best 2" in rules.problem(4)
    assert Topology(count=8, top_k=3).legal() == [3, 4, 5, 6, 7, 8]
    assert "6 experts are chosen out of 1 groups" in Topology(16, 6, 4, 1, 2).problem(8)


def test_grouped_choices_are_seen():
    assert topology(build_zoo("deepseek_v3")) == Topology(8, top_k=2, groups=2, chosen_groups=1, group_scores=2)


def test_one_group_is_still_scored_by_its_best_two():
    assert topology(build_zoo("glm4_moe")) == Topology(4, top_k=2, groups=1, chosen_groups=1, group_scores=2)


def test_groups_that_nothing_chooses_among_are_no_rule():
    model = build_zoo("deepseek_v2")
    for layer in model.model.layers[1:]:
        layer.mlp.gate.num_group = 3
    assert model.config.topk_method == "greedy"
    assert topology(model).groups == 1


class Grouped(nn.Module):
    """A router whose groups stand in no attribute."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 12, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(12))

    def forward(self, x):
        scores = self.gate(x).sigmoid().reshape(len(x), 3, -1)
        best = scores.topk(2, dim=-1).values.sum(-1).topk(2, dim=-1).indices
        mask = torch.zeros(len(x), 3).scatter(1, best, 1.0)
        scores = (scores * mask[..., None]).flatten(1)
        weights, chosen = scores.topk(3, dim=-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            out = out.index_add(0, rows, expert(x[rows]) * weights[rows, slot, None])
        return x + out


def test_groups_without_attributes_are_seen():
    torch.manual_seed(0)
    assert topology(nn.Sequential(Grouped()), torch.randn(9, 6)) == Topology(12, 3, 3, 2, 2)


def test_the_table_of_a_hash_router_says_how_many_experts_a_token_has():
    model = build_zoo("deepseek_v4")
    assert topology(model).top_k == 2


@pytest.mark.parametrize(
    ("model_type", "ratio", "message"),
    [
        ("deepseek_v3", 0.3, r"2 groups of equal size cannot hold 5; the nearest legal numbers are 4 .* or 6"),
        ("deepseek_v3", 0.75, r"scored by its best 2 experts; the nearest legal numbers are 4 \(a ratio of 0.5\)"),
        ("mixtral", 0.75, r"each token goes to 2 experts; the nearest legal numbers are 2 \(a ratio of 0.5\)"),
    ],
)
def test_illegal_numbers_are_refused_with_the_nearest_legal_ones(model_type, ratio, message):
    model = build_zoo(model_type)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(PruningRefused, match=message):
        mv.MoEPruner(model, IDS, ratios={"experts": ratio}).step()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_layers_that_share_an_entry_keep_equal_numbers():
    model = build_zoo("mixtral")
    unequal = {"model.layers.0.mlp": 0.5, "model.layers.1.mlp": 0.25, "model.layers.2.mlp": 0.5}
    with pytest.raises(PruningRefused, match="the entry num_local_experts of the configuration counts for both"):
        mv.MoEPruner(model, IDS, ratios={"experts": unequal}).step()
    with pytest.raises(PruningRefused, match=r"global_pruning leaves layers .* num_local_experts .* counts for 3"):
        mv.MoEPruner(model, IDS, ratios={"experts": 0.5}, global_pruning=True).step()
    with pytest.raises(UsageError, match=r"no MoE layer 'model\.layers\.9\.mlp'"):
        mv.MoEPruner(model, IDS, ratios={"experts": {"model.layers.9.mlp": 0.5}}).step()


def test_without_configuration_layers_may_differ():
    torch.manual_seed(0)
    model = TinyMoE(blocks=2, experts=6)
    tokens = torch.randn(12, 5)
    mv.MoEPruner(model, tokens, ratios={"experts": {"layers.0": 0.5, "layers.1": 0.25}}).step()
    assert [len(layer.experts) for layer in model.layers] == [3, 4]
    assert [layer.gate.out_features for layer in model.layers] == [3, 4]


def test_whole_experts_are_no_group():
    model, tokens = TinyMoE(experts=4), torch.randn(12, 5)
    with pytest.raises(UsageError, match=r"use step\(\) without interactive"):
        mv.MoEPruner(model, tokens, ratios={"experts": 0.5}).step(interactive=True)
