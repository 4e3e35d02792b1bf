"""Calibration layer by layer: the same statistics as with the model in memory, and each weight is read once."""

import filecmp
import json

import pytest
import torch
from everyday import everyday

import moeverify as mv
from moeverify.models.folder.stored_model import open_stored_model
from moeverify.models.zoo import build_zoo
from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint
from moeverify.pruning.choice.importances import importance_named
from moeverify.pruning.experts.statistics import ExpertStatistics
from moeverify.pruning.streaming import activations
from moeverify.pruning.streaming.scoring import LayerByLayer

IDS = torch.randint(0, 100, (6, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=everyday(["qwen3_moe", "mixtral"], {"qwen3_moe"}))
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    build_zoo(request.param).save_pretrained(folder)
    return folder


def test_reap_gives_the_same_folder(base, tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "_WORTH", 1)  # small models have small hidden states
    spilled = []
    write = activations.Spill.write
    monkeypatch.setattr(activations.Spill, "write", lambda self, storage: spilled.append(1) or write(self, storage))
    asked = {"ratios": {"experts": 0.5}, "calibration": mv.Calibration(IDS), "expert_criterion": "reap"}
    for name, in_memory in (("streamed", False), ("held", True)):
        statistics = tmp_path / f"{name}.json"
        done = prune_checkpoint(str(base), tmp_path / name, in_memory=in_memory, save_statistics=statistics, **asked)
        assert done.notes == ()
    # every sample waits before every layer
    layers = json.loads((base / "config.json").read_text())["num_hidden_layers"]
    assert len(spilled) == len(IDS) * layers
    names = sorted(path.name for path in (tmp_path / "held").iterdir())
    assert filecmp.cmpfiles(tmp_path / "streamed", tmp_path / "held", names, shallow=False)[0] == names
    mine, theirs = (ExpertStatistics.read(tmp_path / f"{name}.json") for name in ("streamed", "held"))
    assert mine.model_digest == theirs.model_digest
    for layer, one in theirs.layers.items():
        assert torch.equal(mine.layers[layer].tokens, one.tokens)
        torch.testing.assert_close(mine.layers[layer].weighted_norm, one.weighted_norm, rtol=1e-5, atol=0)


def test_scores_of_all_classes_read_each_weight_once(base):
    """Hidden channels run through all layers, and each layer has classes of its own."""
    stored = open_stored_model(str(base), base, torch.float32)
    importance = importance_named("magnitude")
    pruner = mv.MoEPruner(stored.model, stored.loaded.example_inputs, importance, pruning_ratio=0.5)
    read = []
    stored.blocks.on_read = read.append
    plan = pruner.plan(reading=LayerByLayer(stored.model, stored.blocks, importance))
    assert {cut.pruning_class.role for cut in plan.cuts} >= {"hidden", "routed_experts"}
    assert 0.9 * stored.inventory.nbytes < sum(read) <= stored.inventory.nbytes


def test_whole_experts_and_channels_share_the_reading(base):
    stored = open_stored_model(str(base), base, torch.float32)
    importance = importance_named("magnitude")
    pruner = mv.MoEPruner(
        stored.model, stored.loaded.example_inputs, importance, pruning_ratio=0.5, ratios={"experts": 0.5}
    )
    read = []
    stored.blocks.on_read = read.append
    plan = pruner.plan(reading=LayerByLayer(stored.model, stored.blocks, importance))
    assert plan.experts
    assert sum(read) <= stored.inventory.nbytes


def test_statistics_of_before_need_no_data(base, tmp_path):
    asked = {"ratios": {"experts": 0.5}}
    saved = tmp_path / "statistics.json"
    first = prune_checkpoint(
        str(base), tmp_path / "one", calibration=mv.Calibration(IDS), save_statistics=saved, **asked
    )
    second = prune_checkpoint(str(base), tmp_path / "two", calibration=ExpertStatistics.read(saved), **asked)
    weights = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert len({path.read_bytes() for path in weights}) == 1
    assert second.notes == first.notes == ()


@pytest.mark.parametrize("name", ["magnitude", "aimer"])
def test_criteria_by_weights_give_the_same_folder(base, tmp_path, name):
    for folder, in_memory in (("streamed", False), ("held", True)):
        prune_checkpoint(
            str(base), tmp_path / folder, ratios={"experts": 0.5}, expert_criterion=name, in_memory=in_memory
        )
    names = sorted(path.name for path in (tmp_path / "held").iterdir())
    assert filecmp.cmpfiles(tmp_path / "streamed", tmp_path / "held", names, shallow=False)[0] == names
