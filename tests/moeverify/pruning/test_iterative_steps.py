"""Several steps reach the ratio that one step reaches, by a schedule that the user may give."""

import copy
import warnings

import pytest
import torch
from conv_nets import IMAGE, Dense, Plain, Residual
from small_nets import build
from tiny_moe import MAGNITUDE
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError


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


def test_a_schedule_of_the_user_sets_the_ratio_of_each_step():
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


def test_a_step_without_a_cut_warns_and_changes_nothing():
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
