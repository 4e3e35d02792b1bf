"""Every argument of ``tp.pruner.BasePruner`` means the same, and what the pruner adds to them."""

import copy
import inspect
import warnings

import pytest
import torch
import torch_pruning as tp
from conv_nets import IMAGE, Dense, Flatten, Grouped, GroupedConv, Plain, Residual
from small_nets import Chain, Expert, TinyMoE, build
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError

TOKENS = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
MAGNITUDE = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")


def widths(model):
    return [expert.up_proj.out_features for expert in model.layers[0].experts]


def prune_moe(model=None, **options):
    model = model or build(TinyMoE, inner=16, shared=12)
    pruner = mv.MoEPruner(model, TOKENS, **{"pruning_ratio": 0.5, **options})
    pruner.step()
    assert model(TOKENS).shape == (12, 3)
    return model


def test_same_arguments_in_the_same_order():
    stock = list(inspect.signature(tp.pruner.BasePruner.__init__).parameters)
    ours = list(inspect.signature(mv.MoEPruner.__init__).parameters)
    assert ours[: len(stock)] == stock
    defaults = inspect.signature(tp.pruner.BasePruner.__init__).parameters
    for name, parameter in list(inspect.signature(mv.MoEPruner.__init__).parameters.items())[4 : len(stock)]:
        expected = defaults[name].default
        empty = expected in ({}, []) and parameter.default is None
        assert empty or parameter.default == expected or list(parameter.default) == list(expected), name
    build_dependency = [*inspect.signature(tp.DependencyGraph.build_dependency).parameters]
    assert [*inspect.signature(mv.MoEDependencyGraph.build_dependency).parameters] == build_dependency


def test_global_ranking_takes_from_where_it_matters_least():
    model = build(Chain, depth=4, width=16)
    with torch.no_grad():
        model.layers[0].weight *= 0.01
        model.layers[1].weight[:, :] *= 10
    plain = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    options = {"global_pruning": True, "pruning_ratio": 0.5, "max_pruning_ratio": 0.75}
    mv.MoEPruner(model, torch.randn(2, 16), plain, **options).step()
    sizes = [layer.out_features for layer in model.layers[:-1]]
    assert min(sizes) == 4  # it would lose more without a maximum
    assert max(sizes) > 12


def test_global_ranking_rounds_what_the_maximum_leaves():
    model = build(Chain, depth=4, width=64)
    with torch.no_grad():
        model.layers[0].weight *= 0.01
    options = {"global_pruning": True, "pruning_ratio": 0.5, "max_pruning_ratio": 0.6, "round_to": 4}
    plain = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    mv.MoEPruner(model, torch.randn(2, 64), plain, **options).step()
    sizes = [layer.out_features for layer in model.layers[:-1]]
    assert sizes[0] == 28  # 26 are four tenths
    assert all(size % 4 == 0 for size in sizes)


def test_global_ranking_is_stocks():
    model = build(Residual)
    expected = copy.deepcopy(model)
    options = {"importance": MAGNITUDE, "global_pruning": True, "pruning_ratio": 0.5}
    tp.pruner.BasePruner(expected, IMAGE[0], ignored_layers=[expected.fc], **options).step()
    mv.MoEPruner(model, IMAGE[0], ignored_layers=[model.fc], **options).step()
    assert torch.equal(model(*IMAGE), expected(*IMAGE))


@pytest.mark.parametrize("isomorphic", [False, True])
def test_isomorphic_ranking_compares_layers_that_are_alike(isomorphic):
    model = build(TinyMoE, blocks=2, inner=16, shared=0)
    with torch.no_grad():
        for expert in model.layers[0].experts:
            expert.up_proj.weight *= 100
    options = {"ratios": {"hidden": 0}, "isomorphic": isomorphic}
    importance = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    mv.MoEPruner(model, TOKENS, importance, pruning_ratio=0.25, **options).step()
    inner = [[e.up_proj.out_features for e in layer.experts] for layer in model.layers]
    assert sum(map(sum, inner)) == 96
    assert inner[0] == [16 if isomorphic else 12] * 4


def test_iterative_steps_reach_the_ratio():
    model, once = build(Residual), build(Residual)
    pruner = mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5, iterative_steps=4, ignored_layers=[model.fc])
    sizes = []
    for _ in range(4):
        pruner.step()
        sizes.append(model.stem.out_channels)
        model(*IMAGE)
    assert sizes == [7, 6, 5, 4]
    mv.MoEPruner(once, IMAGE[0], pruning_ratio=0.5, ignored_layers=[once.fc]).step()
    assert model.c2.weight.shape == once.c2.weight.shape
    with pytest.warns(UserWarning, match="all 4 iterative steps are done"):
        pruner.step()
    assert pruner.current_step == 4
    pruner.reset()
    assert pruner.current_step == 0


def test_schedule_is_the_users():
    model = build(Plain)
    pruner = mv.MoEPruner(
        model,
        IMAGE[0],
        pruning_ratio=0.5,
        iterative_steps=2,
        iterative_pruning_ratio_scheduler=lambda ratio, steps: [0.0, 0.125, ratio],
    )
    pruner.step()
    assert model.c1.out_channels == 7
    with pytest.raises(UsageError, match="must give 3 ratios"):
        mv.MoEPruner(model, IMAGE[0], iterative_steps=2, iterative_pruning_ratio_scheduler=lambda ratio, steps: [0.5])


def test_ratio_by_layer_path_and_tuple():
    model = build(Plain)
    mv.MoEPruner(model, IMAGE[0], pruning_ratio=0, pruning_ratio_dict={model.c1: 0.25, ("c2",): 0.75}).step()
    assert (model.c1.out_channels, model.c2.out_channels) == (6, 3)
    joint = build(Chain, depth=3, width=16)
    with torch.no_grad():
        joint.layers[0].weight *= 100
    mv.MoEPruner(
        joint,
        torch.randn(2, 16),
        tp.importance.GroupMagnitudeImportance(p=2, normalizer=None),
        global_pruning=True,
        pruning_ratio=0,
        pruning_ratio_dict={(joint.layers[0], joint.layers[1]): 0.25},
    ).step()
    assert (joint.layers[0].out_features, joint.layers[1].out_features) == (16, 8)


def test_layer_of_frozen_channels_is_refused_by_name():
    model = build(Plain)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningRefused, match="channels of fc cannot be pruned: they are the model's own outputs"):
        mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5, pruning_ratio_dict={model.fc: 0.5}).step()
    router = build(TinyMoE)
    with pytest.raises(PruningRefused, match=r"channels of layers\.0\.gate cannot be pruned: .* is frozen"):
        mv.MoEPruner(router, TOKENS, pruning_ratio=0.5, pruning_ratio_dict={"layers.0.gate": 0.5}).step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_ignored_layers_may_be_types_and_paths():
    model = build(TinyMoE, inner=16)
    pruner = mv.MoEPruner(model, TOKENS, pruning_ratio=0.5, ignored_layers=[Expert])
    with pytest.raises(PruningRefused, match="nothing can be pruned"):
        pruner.step()
    prune_moe(model, ignored_layers=["embed", "layers.0.shared_expert"])
    assert widths(model) == [8] * 4
    assert model.embed.out_features == 8
    with pytest.raises(UsageError, match="no module 'nowhere'"):
        mv.MoEPruner(model, TOKENS, ignored_layers=["nowhere"])
    with pytest.raises(UsageError, match="neither a module, nor a path"):
        mv.MoEPruner(model, TOKENS, ignored_layers=[3])


def test_round_to():
    assert widths(prune_moe(build(TinyMoE, inner=20), round_to=4, pruning_ratio=0.45)) == [8] * 4
    model = build(TinyMoE, inner=6)
    with pytest.raises(PruningRefused, match=r"nothing can be pruned: routed_experts of .* multiple of round_to=8"):
        mv.MoEPruner(model, TOKENS, pruning_ratio=0.5, round_to=8, ratios={"hidden": 0, "shared_experts": 0}).step()
    with pytest.raises(PruningRefused, match=r"round_to=8 would remove all 6 units of routed_experts of layers\.0"):
        mv.MoEPruner(model, TOKENS, pruning_ratio=0, round_to=8, ratios={"routed_experts": 0.5}).step()
    assert widths(model) == [6] * 4
    with pytest.raises(UsageError, match="round_to"):
        mv.MoEPruner(model, TOKENS, round_to=0)


def test_channel_groups():
    for kind, layer, name in ((GroupedConv, "grouped", "out_channels"), (Grouped, "a", "out_channels")):
        model = build(kind)
        size = model.a.out_channels
        mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5).step()
        assert getattr(getattr(model, layer), name) == model.a.out_channels == size // 2
        model(*IMAGE)
    model = build(Flatten)
    groups = {"out_channel_groups": {model.fc1: 5}, "ignored_layers": [model.c]}
    kept = mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5, **groups).step().keep["fc1.weight", 0].tolist()
    assert kept in ([*range(0, 10, 2)], [*range(1, 10, 2)])
    model = build(Flatten)
    with pytest.raises(PruningRefused, match="3 channel groups do not divide the 10 units"):
        mv.MoEPruner(model, IMAGE[0], out_channel_groups={model.fc1: 3}).step()
    assert model.fc1.out_features == 10


@pytest.mark.parametrize("spelling", ["routed_experts", "Routed-Experts", "routed_expert", "moe_experts"])
def test_roles_in_several_spellings(spelling):
    model = prune_moe(pruning_ratio=0, ratios={spelling: 0.25})
    assert widths(model) == [12] * 4
    assert model.embed.out_features == 8
    with pytest.raises(UsageError, match="unknown role 'expertz'"):
        mv.MoEPruner(model, TOKENS, ratios={"expertz": 0.5})


def test_shared_experts_in_or_out():
    assert prune_moe().layers[0].shared_expert.up_proj.out_features == 6
    assert prune_moe(prune_shared_experts=False).layers[0].shared_expert.up_proj.out_features == 12
    assert prune_moe(ratios={"shared_experts": 0.25}).layers[0].shared_expert.up_proj.out_features == 9
    with pytest.raises(UsageError, match="drop one of them"):
        prune_moe(prune_shared_experts=False, ratios={"shared": 0.25})


def test_experts_ranked_each_by_itself_or_together():
    def model():
        found = build(TinyMoE, inner=16, shared=0)
        with torch.no_grad():
            for number, expert in enumerate(found.layers[0].experts):
                expert.up_proj.weight *= 4.0**number
        return found

    plain = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    options = {"importance": plain, "ratios": {"hidden": 0}}
    assert widths(prune_moe(model(), **options)) == [8] * 4
    together = widths(prune_moe(model(), expert_ranking="together", **options))
    assert together == [1, 1, 16, 16]
    assert widths(prune_moe(model(), expert_ranking="each", global_pruning=True, **options)) == [8] * 4
    with pytest.raises(UsageError, match="'each' or 'together'"):
        prune_moe(expert_ranking="both")


def test_old_names_are_understood():
    model = build(Plain)
    with pytest.warns(DeprecationWarning, match="ch_sparsity is Torch-Pruning's old name of pruning_ratio"):
        mv.MoEPruner(model, IMAGE[0], ch_sparsity=0.25).step()
    assert model.c1.out_channels == 6


def test_failing_importance_leaves_the_model_alone():
    model = build(Plain)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    pruner = mv.MoEPruner(model, IMAGE[0], importance=tp.importance.GroupTaylorImportance())
    with pytest.raises(PruningRefused, match="may need gradients"):
        pruner.step()
    assert pruner.current_step == 0
    assert {n: p.shape for n, p in model.named_parameters()} == shapes


def test_only_layers_of_the_root_types_are_pruned():
    model = build(Flatten)
    mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5, root_module_types=[nn.Conv2d]).step()
    assert (model.c.out_channels, model.fc1.out_features) == (3, 10)


class Table(nn.Module):
    """Channels that nothing but an embedding gives, as a table of n-grams does."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(20, 8), nn.Linear(8, 4)

    def forward(self, tokens):
        return self.out(self.table(tokens))


def test_an_embedding_counts_as_a_linear_layer():
    model, ids = Table(), torch.arange(6)[None]
    mv.MoEPruner(model, ids, pruning_ratio=0.5).step()
    assert (model.table.embedding_dim, model.out.in_features) == (4, 4)
    model = Table()
    with pytest.raises(PruningRefused, match="cuts no output of the root_module_types"):
        mv.MoEPruner(model, ids, pruning_ratio=0.5, root_module_types=[nn.Conv2d]).step()


class Softmaxed(TinyMoE):
    """The hidden channels pass a softmax and are frozen by it."""

    def forward(self, tokens):
        x = self.embed(tokens).softmax(-1)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


def test_frozen_role_is_refused_by_name():
    model = build(Softmaxed, inner=16)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningRefused, match=r"ratio for hidden was asked for, .* frozen: aten\._softmax"):
        mv.MoEPruner(model, TOKENS, pruning_ratio=0.5, ratios={"hidden": 0.25}).step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    mv.MoEPruner(model, TOKENS, pruning_ratio=0.5).step()  # asked for by no name: what is frozen is left alone
    assert widths(model) == [8] * 4
    assert model.embed.out_features == 8
    mv.MoEPruner(build(TinyMoE, shared=0), TOKENS, ratios={"shared_experts": 0.5}).step()  # there are none


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"ignored_layers": [nn.Conv2d, nn.Linear]}, "cuts an ignored layer or parameter"),
        ({"root_module_types": [nn.LSTM]}, "cuts no output of the root_module_types"),
        ({"pruning_ratio": 0.0, "ratios": {"shared_experts": 0.5}}, "no class was asked for; what can be cut here is"),
    ],
)
def test_where_nothing_can_be_pruned_the_cause_is_named(options, cause):
    model = build(Plain)
    with pytest.raises(PruningRefused, match=f"nothing can be pruned: .*{cause}"):
        mv.MoEPruner(model, IMAGE[0], **options).step()


def test_a_step_without_a_cut_is_told_and_changes_nothing():
    options = {"pruning_ratio": 0.5, "iterative_steps": 2, "iterative_pruning_ratio_scheduler": lambda r, n: [0, r, r]}
    pruner = mv.MoEPruner(build(Plain), IMAGE[0], **options)
    pruner.step()
    before = copy.deepcopy(pruner.model.state_dict())
    with pytest.warns(UserWarning, match=r"nothing is pruned in step 2 of 2: .* keeps all its units at this ratio"):
        assert pruner.step().cuts == ()
    assert all(torch.equal(value, before[name]) for name, value in pruner.model.state_dict().items())


def test_a_step_before_the_first_cut_waits():
    options = {"pruning_ratio": 0.5, "iterative_steps": 2, "iterative_pruning_ratio_scheduler": lambda r, n: [0, 0, r]}
    model = build(Plain)
    pruner = mv.MoEPruner(model, IMAGE[0], ignored_layers=[model.fc], **options)
    with pytest.warns(UserWarning, match="nothing is pruned in step 1 of 2"):
        assert list(pruner.step(interactive=True)) == []
    assert (model.c1.out_channels, model.c2.out_channels) == (8, 12)
    pruner.step()
    assert (model.c1.out_channels, model.c2.out_channels) == (4, 6)


def test_more_steps_than_channels_end_where_a_single_step_does():
    models = [build(Dense), build(Dense)]
    for model, steps in zip(models, (1, 5), strict=True):
        pruner = mv.MoEPruner(model, IMAGE[0], MAGNITUDE, iterative_steps=steps, ignored_layers=[model.head])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(steps):
                pruner.step()
    assert {name: p.shape for name, p in models[0].named_parameters()} == {
        name: p.shape for name, p in models[1].named_parameters()
    }
    assert models[0].layers[0].out_channels == 2


def test_steps_that_never_cut_are_refused_at_once():
    model = build(Plain)
    pruner = mv.MoEPruner(model, IMAGE[0], root_module_types=[nn.Conv1d], iterative_steps=3)
    with pytest.raises(PruningRefused, match="cuts no output of the root_module_types"):
        pruner.step()


def test_a_frozen_dimension_is_the_cause_where_nothing_is_free():
    class Ranked(nn.Linear):
        def forward(self, x):
            return super().forward(x).softmax(-1)

    with pytest.raises(PruningRefused, match=r"nothing can be pruned: dimension 0 of 0\.weight is frozen: "):
        mv.MoEPruner(nn.Sequential(Ranked(4, 8), nn.Linear(8, 2)), torch.randn(3, 4)).step()
