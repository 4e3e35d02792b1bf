"""Whole experts in iterative steps, and by one threshold over all layers where layers may differ."""

import copy
import warnings

import pytest
import torch
from small_nets import TinyMoE

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError
from moeverify.models.zoo import build_zoo
from synthetic_models import Spec, build, example_inputs

IDS = {"input_ids": torch.arange(24).reshape(2, 12)}
TOKENS = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))


def tiny(**sizes):
    torch.manual_seed(0)
    return TinyMoE(**{"blocks": 2, "experts": 8, **sizes}).eval()


def by_number(evidence):
    """The first experts are worth most."""
    return [-float(n) for n in range(len(evidence.weights.flat))]


def counts(model):
    return [len(layer.experts) for layer in model.layers]


def test_numbers_follow_the_schedule_of_the_first_number():
    model = tiny()
    pruner = mv.MoEPruner(model, TOKENS, ratios={"experts": 0.75}, iterative_steps=3, expert_criterion=by_number)
    found = []
    for _ in range(3):
        pruner.step()
        found.append(counts(model))
        assert model(TOKENS).isfinite().all()
    assert found == [[6, 6], [4, 4], [2, 2]]
    with pytest.warns(UserWarning, match="all 3 iterative steps are done"):
        pruner.step()


@pytest.mark.parametrize("storage", ["listed", "fused"])
def test_steps_end_where_one_step_does(storage):
    spec = Spec(
        hidden=12, widths=(6,) * 5, storage=storage, activation="swiglu", layers=("moe", "moe"), attention="multi_head"
    )
    base, inputs = build(spec), example_inputs(spec)
    given = {"ratios": {"experts": 0.6, "routed_experts": 0.5}, "pruning_ratio": 0.0, "round_to": None}
    once, steps = copy.deepcopy(base), copy.deepcopy(base)
    mv.MoEPruner(once, inputs, expert_criterion=by_number, **given).step()
    pruner = mv.MoEPruner(steps, inputs, expert_criterion=by_number, iterative_steps=3, **given)
    for _ in range(3):
        pruner.step()
    assert {n: tuple(p.shape) for n, p in once.named_parameters()} == {
        n: tuple(p.shape) for n, p in steps.named_parameters()
    }
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), steps.parameters(), strict=True))
    assert once.config.layer_0_experts == steps.config.layer_0_experts == 2


def test_on_the_way_the_next_legal_number_will_do():
    model = build_zoo("deepseek_v3")  # 8 experts in 2 groups
    pruner = mv.MoEPruner(model, IDS, ratios={"experts": 0.5}, iterative_steps=3)
    found = []
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a step that removes nothing
            pruner.step()
        found.append(model.config.n_routed_experts)
    assert found == [6, 6, 4]  # 5 of 8 in two groups are none
    assert model(**IDS).logits.isfinite().all()


def test_each_step_ranks_anew_on_the_data():
    model = build_zoo("mixtral")
    data = mv.Calibration(torch.randint(0, 128, (4, 16)), length=16)
    pruner = mv.MoEPruner(model, IDS, ratios={"experts": 0.5}, iterative_steps=2, calibration=data)
    pruner.step()
    first = pruner.expert_statistics
    pruner.step()
    assert pruner.expert_statistics.model_digest != first.model_digest
    assert len(next(iter(pruner.expert_statistics.layers.values())).tokens) == 3
    assert model.config.num_local_experts == 2
    with pytest.raises(UsageError, match="each iterative step ranks the experts that are left anew"):
        mv.MoEPruner(model, IDS, ratios={"experts": 0.5}, iterative_steps=2, calibration=first)


def test_a_history_cannot_say_it():
    model = tiny()
    pruner = mv.MoEPruner(model, TOKENS, ratios={"experts": 0.5})
    assert pruner.pruning_history() == []
    pruner.step()
    with pytest.raises(UsageError, match="no entry for whole experts; keep the plan instead"):
        pruner.pruning_history()


def unequal(evidence):
    """All of the second layer's experts but one are worth less than those of the first."""
    offset = 10.0 if "layers.0" in evidence.name else 0.0
    return [offset - n for n in range(len(evidence.weights.flat))]


def test_one_threshold_over_all_layers_leaves_unequal_numbers():
    model = tiny()
    mv.MoEPruner(model, TOKENS, ratios={"experts": 0.5}, global_pruning=True, expert_criterion=unequal).step()
    assert counts(model) == [8, 2]  # 8 in total, and two for the router's top two
    assert [layer.gate.out_features for layer in model.layers] == [8, 2]
    assert model(TOKENS).isfinite().all()


def test_it_works_where_the_configuration_counts_each_layer_and_is_refused_elsewhere():
    spec = Spec(hidden=12, widths=(6,) * 6, storage="fused", layers=("moe", "moe"))
    model = build(spec)
    given = {"ratios": {"experts": 0.5}, "expert_criterion": unequal, "global_pruning": True}
    mv.MoEPruner(model, example_inputs(spec), **given).step()
    assert model.config.layer_0_experts + model.config.layer_1_experts >= 6
    assert model.config.layer_0_experts > model.config.layer_1_experts
    rebuilt = type(model)(model.config)
    rebuilt.load_state_dict(model.state_dict())
    with pytest.raises(PruningRefused, match="use global_pruning=False"):
        mv.MoEPruner(build_zoo("mixtral"), IDS, **given).step()


def test_ignored_layers_keep_theirs():
    model = tiny()
    mv.MoEPruner(
        model, TOKENS, ratios={"experts": 0.5}, global_pruning=True, expert_criterion=by_number,
        ignored_layers=[model.layers[0].gate],
    ).step()  # fmt: skip
    assert counts(model) == [8, 4]
