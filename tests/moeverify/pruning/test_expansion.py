"""Group building: what a walk finds is what the solver finds; cycles, overflow and the expert boundary."""

import numpy as np
import pytest
import torch
import torch_pruning as tp
from small_nets import Chain, Expert, Rotary, TinyMoE, build

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError
from moeverify.models.zoo import build_zoo, zoo_types
from moeverify.pruning.graph.walk import GUARDS, MAX_EXPANSIONS

OUT = tp.prune_linear_out_channels
TOKENS = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))


def graph_of(model, inputs, **options):
    return mv.MoEDependencyGraph(**options).build_dependency(model, inputs)


def cut_by(pruning_class, unit):
    return {(m.parameter, m.dim): sorted(m.positions[unit].tolist()) for m in pruning_class.coupling.members}


def assert_walks_agree_with_solver(graph):
    assert graph.classes
    for pruning_class in graph.classes:
        for unit in {0, pruning_class.coupling.size - 1}:
            removed = graph.group_of(pruning_class, [unit]).removed()
            assert {place: gone.tolist() for place, gone in removed.items()} == cut_by(pruning_class, unit)
        everything = graph.group_of(pruning_class).removed()
        assert {place: len(gone) for place, gone in everything.items()} == {
            (m.parameter, m.dim): m.positions.size for m in pruning_class.coupling.members
        }


@pytest.mark.parametrize("transparent", [True, False])
@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_walk_equals_solved_class(kind, transparent):
    ids = torch.arange(32).view(2, 16)
    guards = GUARDS if transparent else GUARDS - {"transparent"}
    assert_walks_agree_with_solver(graph_of(build_zoo(kind), {"input_ids": ids}, guards=guards))


@pytest.mark.slow
@pytest.mark.parametrize("kind", zoo_types())
def test_walk_equals_solved_class_everywhere(kind):
    assert_walks_agree_with_solver(graph_of(build_zoo(kind), {"input_ids": torch.arange(32).view(2, 16)}))


def test_walk_equals_solved_class_on_listed_experts_and_rotations():
    assert_walks_agree_with_solver(graph_of(build(TinyMoE, blocks=2), TOKENS))
    assert_walks_agree_with_solver(graph_of(build(Rotary), torch.randn(3, 4)))


def test_rotation_closes_a_path_and_still_finds_everything():
    graph = graph_of(build(Rotary, width=8), torch.randn(3, 4))
    group = graph.get_pruning_group(graph.model.first, OUT, [1])
    assert group.removed()["first.weight", 0].tolist() == [1, 5]
    assert graph.cycles > 0
    assert graph.last_cycle[0].split(" (")[0] == graph.last_cycle[-1].split(" (")[0]
    assert any("aten.slice" in step or "aten.cat" in step for step in graph.last_cycle)


def injected_cycle(**options):
    graph = graph_of(build(Chain, depth=4), torch.randn(2, 6), **options)
    layers = graph.model.layers
    for first, second in ((0, 1), (1, 2), (2, 0)):
        graph.inject(layers[first], layers[second], lambda i: (i + 1) % 6)
    return graph, layers


def test_injected_cycle_is_recognised_and_left():
    graph, layers = injected_cycle()
    group = graph.get_pruning_group(layers[0], OUT, [0])
    assert sorted(group.removed()["layers.0.weight", 0].tolist()) == [0, 3]
    assert len(graph.last_cycle) == 4
    assert "an injected dependency" in graph.last_cycle[-1]
    assert not graph.overflowed
    assert graph.expansions < 20


def test_injected_cycle_of_one_position_names_its_path():
    graph = graph_of(build(Chain, depth=3), torch.randn(2, 6))
    first, second, _ = graph.model.layers
    graph.inject(first, second)
    graph.inject("layers.1", "layers.0")
    group = graph.get_pruning_group(first, OUT, [2])
    assert {place for place, _ in group.removed()} == {
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
        "layers.2.weight",
    }
    assert [step.split(" dim")[0] for step in graph.last_cycle] == [
        "layers.0.weight",
        "layers.1.weight",
        "layers.0.weight",
    ]


def test_dependency_appended_by_hand_is_followed():
    graph = graph_of(build(Chain, depth=3), torch.randn(2, 6))
    first, _, last = graph.model.layers
    node, other = graph.module2node[first], graph.module2node[last]
    node.dependencies.append(tp.dependency.Dependency(OUT, OUT, node, other))
    group = graph.get_pruning_group(first, OUT, [4])
    assert group.removed()["layers.2.weight", 0].tolist() == [4]


@pytest.mark.parametrize("left_out", [{"onpath", "visited"}])
def test_injected_cycle_without_guards_overflows(left_out):
    plain = graph_of(build(Chain, depth=4), torch.randn(2, 6), guards=GUARDS - left_out)
    plain.get_pruning_group(plain.model.layers[0], OUT, [0])
    assert not plain.overflowed  # the network itself has no cycle
    graph, layers = injected_cycle(guards=GUARDS - left_out, max_expansions=500)
    with (
        pytest.warns(UserWarning, match="^Dependency expansion overflow"),
        pytest.raises(PruningRefused, match="max_expansions=500"),
    ):
        graph.get_pruning_group(layers[0], OUT, [0])
    assert graph.overflowed
    assert graph.pruning_history() == []


@pytest.mark.parametrize("guard", ["onpath", "visited"])
def test_either_guard_alone_ends_an_injected_cycle(guard):
    graph, layers = injected_cycle(guards={guard, "transparent", "boundary"})
    assert graph.get_pruning_group(layers[0], OUT, [0]).removed()["layers.0.weight", 0].tolist() == [0, 3]
    assert bool(graph.last_cycle) == (guard == "onpath")


def test_transparent_operations_save_expansions():
    ids = {"input_ids": torch.arange(32).view(2, 16)}
    steps = {}
    for name, guards in {"merged": GUARDS, "one by one": GUARDS - {"transparent"}}.items():
        graph = graph_of(build_zoo("qwen3_moe"), ids, guards=guards)
        for pruning_class in graph.classes:
            graph.group_of(pruning_class)
        steps[name] = graph.expansions
    assert steps["merged"] * 10 < steps["one by one"]


def test_deep_models_need_no_recursion():
    model = build(Rotary, width=4, turns=1200)
    group = graph_of(model, torch.randn(2, 4)).get_pruning_group(model.first, OUT, [0])
    assert group.removed()["last.weight", 1].tolist() == [0, 2]


def test_no_dependency_between_two_routed_experts():
    graph = graph_of(build(TinyMoE), TOKENS)
    experts = graph.model.layers[0].experts
    graph.inject(experts[0].up_proj, experts[1].up_proj)
    group = graph.get_pruning_group(experts[0].up_proj, OUT, [0])
    assert {graph.boundary(name) for name, _ in group.removed()} == {"layers.0.experts.0"}
    assert [str(c) for c in graph.crossings] == ["layers.0.experts.0 -> layers.0.experts.1 by an injected dependency"]
    roles = {c.where for c in graph.classes if c.role == "routed_experts"}
    assert roles == {f"layers.0.experts.{i}" for i in range(4)}


class Bank(torch.nn.Module):
    """An MoE layer under names of its own; experts in a dictionary."""

    def __init__(self):
        super().__init__()
        self.chooser = torch.nn.Linear(8, 3)
        self.specialists = torch.nn.ModuleDict({name: Expert(8, 6) for name in ("law", "code", "verse")})
        self.common = Expert(8, 4)

    def forward(self, x):
        weights = self.chooser(x).softmax(-1)
        parts = [weights[:, i, None] * expert(x) for i, expert in enumerate(self.specialists.values())]
        return self.common(x) + sum(parts)


def test_other_names_for_experts_routers_and_shared_experts():
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), Bank(), torch.nn.Linear(8, 3)).eval()
    roles = mv.Roles(
        experts="^specialists$", routers=lambda path, module: path.endswith("chooser"), shared_experts="^common$"
    )
    graph = graph_of(model, TOKENS, roles=roles)
    assert graph.boundary("1.specialists.code.up_proj") == "1.specialists.code"
    assert graph.boundary(model[1].common) is graph.boundary(model[1].chooser) is None
    graph.inject(model[1].specialists["law"].up_proj, model[1].specialists["verse"].up_proj)
    group = graph.get_pruning_group(model[1].specialists["law"].up_proj, OUT, [1])
    assert {graph.boundary(name) for name, _ in group.removed()} == {"1.specialists.law"}
    assert len(graph.crossings) == 1
    pruner = mv.MoEPruner(model, TOKENS, pruning_ratio=0.5, roles=roles, prune_shared_experts=False)
    pruner.step()
    roles_cut = {c.pruning_class.role for c in pruner.last_plan.cuts}
    assert roles_cut == {"hidden", "routed_experts", "other"}  # other: what the layer gives, which no router reads
    assert model[1].common.up_proj.out_features == 4


def test_operations_without_a_rule_are_named():
    class Sorted(Chain):
        def forward(self, x):
            return super().forward(x) + torch.linalg.matrix_exp(x @ x.T).sum()

    with pytest.warns(UserWarning, match=r"operations without a rule freeze .*: aten\.linalg_matrix_exp"):
        graph_of(build(Sorted), torch.randn(6, 6))


def test_a_model_without_weights_keeps_its_expert_boundary():
    with torch.device("meta"):
        model = TinyMoE()
    graph = graph_of(model.eval(), torch.empty(12, 5, device="meta"))
    group = graph.get_pruning_group(model.layers[0].experts[1].up_proj, OUT, [2])
    assert {graph.boundary(name) for name, _ in group.removed()} == {"layers.0.experts.1"}


def test_boundary_can_be_left_out():
    graph = graph_of(build(TinyMoE), TOKENS, guards=GUARDS - {"boundary"})
    experts = graph.model.layers[0].experts
    graph.inject(experts[0].up_proj, experts[1].up_proj)
    removed = graph.get_pruning_group(experts[0].up_proj, OUT, [0]).removed()
    assert removed["layers.0.experts.1.down_proj.weight", 1].tolist() == [0]


def test_shared_experts_and_routers_may_be_connected_with_every_expert():
    graph = graph_of(build(TinyMoE, shared=6), TOKENS)
    block = graph.model.layers[0]
    graph.inject(block.experts[0].up_proj, block.shared_expert.up_proj)
    graph.inject(block.experts[1].up_proj, block.gate, lambda i: i if i < 4 else None)
    removed = graph.get_pruning_group(block.experts[0].up_proj, OUT, [2]).removed()
    assert removed["layers.0.shared_expert.down_proj.weight", 1].tolist() == [2]
    assert not graph.crossings
    assert graph.boundary(block.shared_expert) is graph.boundary(block.gate) is None
    assert graph.boundary(block.experts[2].gate_proj) == "layers.0.experts.2"
    joined = next(c for c in graph.classes if "layers.0.shared_expert.up_proj.weight" in c.coupling.parameters)
    assert "layers.0.experts.0.up_proj.weight" in joined.coupling.parameters


class CoupledExperts(TinyMoE):
    """The inner channels of two experts meet in one product: a coupling that crosses the boundary."""

    def forward(self, tokens):
        x = self.embed(tokens)
        first, second = self.layers[0].experts[:2]
        inner = first.up_proj(x) * second.up_proj(x)
        return self.head(first.down_proj(inner) + second.down_proj(inner)) + super().forward(tokens)


def test_coupling_across_experts_is_refused_not_halved():
    graph = graph_of(build(CoupledExperts), TOKENS)
    with pytest.raises(PruningRefused, match=r"another routed expert along \(layers.0.experts.0 -> layers.0.experts.1"):
        graph.get_pruning_group(graph.model.layers[0].experts[0].up_proj, OUT, [0])


def test_expert_that_no_token_reaches_has_its_group():
    torch.manual_seed(0)
    model = TinyMoE(experts=6, top_k=1).eval()
    with torch.no_grad():
        model.layers[0].gate.weight.zero_()
    graph = graph_of(model, TOKENS[:2])
    for expert in model.layers[0].experts:
        assert len(graph.get_pruning_group(expert.down_proj, tp.prune_linear_in_channels, [1])) == 3


def test_overflow_leaves_nothing_to_prune():
    graph = graph_of(build(TinyMoE), TOKENS, max_expansions=1)
    rotating = graph_of(build(Rotary), torch.randn(2, 4), max_expansions=2)
    assert len(graph.get_pruning_group(graph.model.embed, OUT, [0])) > 5  # one node: transparent operations are merged
    with pytest.warns(UserWarning, match="overflow"), pytest.raises(PruningRefused):
        rotating.get_pruning_group(rotating.model.first, OUT, [0])
    with pytest.warns(UserWarning, match="overflow"), pytest.raises(PruningRefused):
        list(rotating.get_all_groups())
    assert rotating.model.first.weight.shape == (8, 4)


def test_wrong_arguments_are_usage_errors():
    with pytest.raises(UsageError, match="max_expansions"):
        mv.MoEDependencyGraph(max_expansions=0)
    with pytest.raises(UsageError, match="unknown guard 'onpaht'"):
        mv.MoEDependencyGraph(guards={"onpaht"})
    assert mv.MoEDependencyGraph().max_expansions == MAX_EXPANSIONS == 200_000
    graph = graph_of(build(Chain), torch.randn(2, 6))
    with pytest.raises(ValueError, match="not part of the model"):
        graph.get_pruning_group(torch.nn.Linear(2, 2), OUT, [0])
    with pytest.raises(UsageError, match="positions 0 to 5 along dimension 0, not 6"):
        graph.get_pruning_group(graph.model.layers[0], OUT, [0, 6])
    with pytest.raises(UsageError, match=r"neither a module nor a parameter 'layers\.9'"):
        graph.inject("layers.9", "layers.0")
    assert np.array_equal(graph.get_pruning_group(graph.model.layers[0], OUT, 3).removed()["layers.0.bias", 0], [3])


@pytest.mark.slow
def test_steps_are_linear_in_experts():
    steps = {}
    for count in (64, 512):
        graph = graph_of(build(TinyMoE, experts=count, shared=0), TOKENS)
        groups = list(graph.get_all_groups())
        assert len(groups) == count + 1
        inner = [group for group in groups if graph.boundary(graph.name_of(group[0].dep.target.module))]
        assert len(inner) == count
        assert all(len(group) == 3 for group in inner)
        steps[count] = graph.expansions
    assert steps == {64: 65, 512: 513}
