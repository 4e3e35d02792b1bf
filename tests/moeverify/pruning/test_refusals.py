"""What cannot be pruned is refused with its cause, and the model stays as it was."""

import copy

import pytest
import torch
import torch_pruning as tp
from conv_nets import IMAGE, Plain
from small_nets import TinyMoE, build
from tiny_moe import TOKENS
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused


def test_layer_of_frozen_channels_is_refused_by_name():
    model = build(Plain)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningRefused, match="channels of fc cannot be pruned: they are the model's own outputs"):
        mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5, pruning_ratio_dict={model.fc: 0.5}).step()
    router = build(TinyMoE)
    with pytest.raises(PruningRefused, match=r"channels of layers\.0\.gate cannot be pruned: .* is frozen"):
        mv.MoEPruner(router, TOKENS, pruning_ratio=0.5, pruning_ratio_dict={"layers.0.gate": 0.5}).step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_failing_importance_leaves_the_model_alone():
    model = build(Plain)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    pruner = mv.MoEPruner(model, IMAGE[0], importance=tp.importance.GroupTaylorImportance())
    with pytest.raises(PruningRefused, match="may need gradients"):
        pruner.step()
    assert pruner.current_step == 0
    assert {n: p.shape for n, p in model.named_parameters()} == shapes


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


def test_a_frozen_dimension_is_the_cause_where_nothing_is_free():
    class Ranked(nn.Linear):
        def forward(self, x):
            return super().forward(x).softmax(-1)

    with pytest.raises(PruningRefused, match=r"nothing can be pruned: dimension 0 of 0\.weight is frozen: "):
        mv.MoEPruner(nn.Sequential(Ranked(4, 8), nn.Linear(8, 2)), torch.randn(3, 4)).step()
