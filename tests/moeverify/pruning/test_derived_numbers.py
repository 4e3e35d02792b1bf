"""Numbers that a forward derives from a size, where no attribute shows them: kept as they were trained, or refused."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.models.roles import find_roles
from moeverify.pruning.constants.absorb import absorb
from moeverify.pruning.constants.derived import for_all_experts
from moeverify.pruning.constants.numbers import changed_numbers
from moeverify.pruning.constants.recorder import record_forward
from moeverify.pruning.plan.folds import Fold
from tests.support.own_scales import FOLDED, LEFT_ALONE, OwnScales, own_scales
from tests.support.small_nets import TinyMoE, build

IDS = torch.arange(6).view(2, 3)
ALL = torch.arange(32).view(1, 32)


def prune(model, **arguments):
    return mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=[model.lm_head], **arguments)


def silenced(model, plan):
    """The unpruned model with the removed channels held at zero."""
    parameters = dict(model.named_parameters())
    for (name, dim), kept in plan.keep.items():
        gone = np.setdiff1d(np.arange(parameters[name].shape[dim]), kept)
        parameters[name].data.index_fill_(dim, torch.as_tensor(gone), -1.0 if name == "norm.weight" else 0.0)
    return model


@torch.no_grad()
def logits(model, ids=ALL):
    return model(ids).logits


@pytest.mark.parametrize("kind", FOLDED)
def test_a_weight_takes_over_what_the_forward_derives(kind):
    model = own_scales(kind)
    original = copy.deepcopy(model)
    plan = prune(model, ratios={"hidden": 0.5, "routed_experts": 0.0}).step()
    assert model.config.hidden_size == 8
    assert plan.folds
    expected = logits(silenced(original, plan))
    assert (logits(model) - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("kind", FOLDED)
def test_it_is_the_same_after_a_reload(kind, tmp_path):
    model = own_scales(kind)
    prune(model, ratios={"routed_experts": 0.0}).step()
    model.save_pretrained(tmp_path)
    again = OwnScales.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_what_no_weight_can_take_over_is_left_alone_by_name(kind):
    model = own_scales(kind)
    with pytest.warns(UserWarning, match="the number .* that the forward of the model gives to aten"):
        plan = prune(model).step()
    assert model.config.hidden_size == 16
    assert model.config.inner == 12
    assert not plan.folds


def test_it_is_refused_where_it_was_asked_for_by_role():
    model = own_scales("added")
    with pytest.raises(PruningRefused, match="no weight can take over"):
        prune(model, ratios={"hidden": 0.5}).step()
    assert model.config.hidden_size == model.embed.weight.shape[1] == 16


def test_the_forward_is_not_touched_by_recording_it():
    model = own_scales("tensor").train()
    before = copy.deepcopy(model.state_dict())
    forward = record_forward(model, Example({"input_ids": IDS}))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(step.operation == "aten.lift_fresh" and step.numbers for step in forward.steps)


class ByHand(nn.Module):
    """A mean by hand: the count follows the size, and means the same with fewer channels."""

    def __init__(self, size, scale):
        super().__init__()
        self.linear, self.size, self.scale = nn.Linear(4, size), size, scale

    def forward(self, x):
        y = self.linear(x)
        return y.sum(-1) / self.size * self.scale


@pytest.mark.parametrize(("scale", "changed"), [(1.0, []), (0.5, [(1.0, 0.5)])])
def test_a_count_of_what_was_added_up_is_no_constant(scale, changed):
    before, after = (record_forward(ByHand(n, s), Example(torch.randn(3, 4))) for n, s in ((8, 1.0), (4, scale)))
    assert [(number.old, number.new) for number in changed_numbers(before, after)] == changed


class Written(nn.Module):
    """``y`` and ``z`` are one memory: what is made of ``y`` must not be taken for all that is seen of it."""

    def __init__(self, factor):
        super().__init__()
        self.linear, self.out, self.factor = nn.Linear(4, 4), nn.Linear(4, 4), factor

    def forward(self, x):
        y = self.linear(x)
        z = y.view(-1)
        y.mul_(self.factor)
        return self.out(y) + z.sum()


class ReadTwice(nn.Module):
    """The weight is read as it is as well, by something that cannot be relieved."""

    def __init__(self, factor):
        super().__init__()
        self.linear, self.factor = nn.Linear(4, 4, bias=False), factor

    def forward(self, x):
        return self.linear(x) * self.factor + self.linear.weight.sum()


@pytest.mark.parametrize("kind", [Written, ReadTwice])
def test_no_fold_where_something_else_would_see_it(kind):
    before, after = (record_forward(kind(factor), Example(torch.randn(3, 4))) for factor in (2.0, 4.0))
    (number,) = changed_numbers(before, after)
    assert (number.old, number.new) == (2.0, 4.0)
    assert absorb(before, number) is None


class OneHead(nn.Module):
    """Attention with one head, whose scale follows from the size of the queries; no configuration."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.kind == "implicit":
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v))
        if self.kind == "given":  # with a dimension for heads, as the fused kernel takes them
            q, k, v = (part.unsqueeze(1) for part in (q, k, v))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
            return self.out(mixed.squeeze(1))
        if self.kind == "temperature":  # of the values, through what is not linear
            return self.out(torch.exp(v / v.shape[-1] ** 0.5))
        scores = q @ k.mT / (q.shape[-1] ** 0.5) if self.kind == "divided" else q @ k.mT * q.size(-1) ** -0.5
        return self.out(scores.softmax(-1) @ v)


@pytest.mark.parametrize("kind", ["divided", "multiplied", "implicit", "given", "temperature"])
def test_without_a_configuration_too(kind):
    torch.manual_seed(0)
    model, x = OneHead(kind).double().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, x, pruning_ratio=0.5).step()
    expected = silenced(original, plan)(x)
    assert (model(x) - expected).abs().max() < 1e-12
    assert plan.folds
    assert model.v.out_features == 4
    assert kind == "temperature" or model.q.out_features == 4


def test_what_a_number_hangs_on_is_left_alone_without_a_configuration():
    class Shifted(OneHead):
        def forward(self, x):
            q = self.q(x)
            return self.out(torch.tanh(self.v(x) + 1)) + self.k(q + q.shape[-1])

    model = Shifted("")
    with pytest.warns(UserWarning, match="the number 8 that the forward of the model gives to aten.add is derived"):
        mv.MoEPruner(model, torch.randn(3, 8), pruning_ratio=0.5).step()
    assert (model.q.out_features, model.v.out_features) == (8, 4)
    model = Shifted("")
    pruner = mv.MoEPruner(model, torch.randn(3, 8), pruning_ratio=0.0, pruning_ratio_dict={model.q: 0.5})
    with pytest.raises(PruningRefused, match="no weight can take over"):
        pruner.step()


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_afmoe_scales_its_embedding_inside_of_its_forward(ratio):
    checks = ["masked-equivalence", "config-in-step", "reload", "something-pruned", "ratio-honoured"]
    result = mv.verify("tests.support.own_scales:afmoe_scaled", pruning_ratio=ratio, checks=checks)
    assert {v.check: v.message for v in result.verdicts if v.status != "pass"} == {}


def test_a_fold_of_one_listed_expert_holds_for_those_that_no_token_reached():
    model = build(TinyMoE, shared=0)
    name = "layers.0.experts.{}.down_proj.weight"
    forward = SimpleNamespace(parameters={7: name.format(1), 8: name.format(2)}, readers={7: ["linear"], 8: ["linear"]})
    folds = for_all_experts([Fold(name.format(1), 2.0, 0.0)], forward, model, find_roles(model))
    assert [fold.parameter for fold in folds] == [name.format(1), name.format(0), name.format(3)]
