"""Whole experts at random as a yardstick: as many of each layer and group, in every layout, and quality's curve over
them."""

import pytest
import torch
from small_nets import TinyMoE

import moeverify as mv
from moeverify.evaluation import QualitySettings
from moeverify.evaluation.at_random import prune_at_random
from moeverify.models.zoo import build_zoo

IDS = {"input_ids": torch.arange(24).reshape(2, 12)}


def pruned_twin(name, **ratios):
    original, model = build_zoo(name), build_zoo(name)
    mv.MoEPruner(model, IDS, ratios=ratios, pruning_ratio=0.0, ignored_layers=[model.lm_head]).step()
    return original, model


@pytest.mark.parametrize(
    ("name", "ratios"),
    [("mixtral", {"experts": 0.5}), ("deepseek_v3", {"experts": 0.5}), ("deepseek_v4", {"experts": 0.5}),
     ("mixtral", {"experts": 0.5, "routed_experts": 0.5, "hidden": 0.5})],
)  # fmt: skip
def test_other_experts_of_the_same_number(name, ratios):
    original, model = pruned_twin(name, **ratios)
    drawn = [prune_at_random(original, model, IDS, seed) for seed in (0, 0, 1)]
    shapes = [{n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (model, *drawn)]
    assert all(shape == shapes[0] for shape in shapes)
    routers = [next(t for n, t in m.state_dict().items() if n.endswith("gate.weight")) for m in drawn]
    assert torch.equal(routers[0], routers[1])
    assert not torch.equal(routers[0], routers[2])
    with torch.no_grad():
        assert all(m(**IDS).logits.isfinite().all() for m in drawn)


def test_as_many_of_each_group():
    original, model = pruned_twin("deepseek_v3", experts=0.5)
    before = original.model.layers[1].mlp.gate.weight
    for seed in range(5):
        rows = prune_at_random(original, model, IDS, seed).model.layers[1].mlp.gate.weight
        kept = [int((before == row).all(-1).nonzero()[0]) for row in rows]
        assert [expert // 4 for expert in kept] == [0, 0, 1, 1]


def test_listed_experts_move_up_with_their_rows():
    torch.manual_seed(0)
    original, tokens = TinyMoE(experts=6), torch.randn(12, 5)
    model = TinyMoE(experts=6)
    model.load_state_dict(original.state_dict())
    mv.MoEPruner(model, tokens, ratios={"experts": 0.5}).step()
    drawn = prune_at_random(original, model, tokens, 3)
    gate, experts = original.layers[0].gate.weight, original.layers[0].experts
    for number, row in enumerate(drawn.layers[0].gate.weight):
        source = int((gate == row).all(-1).nonzero()[0])
        assert torch.equal(drawn.layers[0].experts[number].up_proj.weight, experts[source].up_proj.weight)


@pytest.mark.slow
def test_quality_draws_its_curve_over_experts():
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; `tox run -e tests` installs it")
    result = mv.verify(
        "small",
        ratios={"experts": 0.25},
        checks=["quality"],
        quality=QualitySettings(tasks=("small_say",), limit=20, curve=(0.5,)),
    )
    quality = result.cases[0].facts["quality"]
    assert quality["removed"] == "experts"
    assert [point["ratio"] for point in quality["points"]] == [0, 0.25, 0.5]
    left = [point["left"] for point in quality["points"]]
    assert left[0] == 1 > left[1] > left[2]
    assert quality["at_random"]["left"] == left[1]
    assert "experts removed at random" in result.verdicts[0].message
