"""Releases of transformers that models are pruned with, and the answer under older ones."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
import transformers
from conv_nets import IMAGE, Plain

import moeverify as mv
from moeverify.base import versions
from moeverify.errors import PruningRefused
from moeverify.models.zoo import build_zoo

IDS = {"input_ids": torch.arange(24).view(2, 12)}
OLD = transformers.__version__.startswith("4.")


@pytest.fixture
def older(monkeypatch):
    """An older release, where none is installed."""
    if not OLD:
        monkeypatch.setattr(versions, "_installed", lambda package: "4.57.6")


def test_models_of_an_older_release_are_refused_in_one_line(older):
    model = build_zoo("mixtral")
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(PruningRefused, match=r"transformers 4\.57\.6 .*pip install 'transformers>=5\.17'") as refused:
        mv.MoEPruner(model, IDS, pruning_ratio=0.5)
    assert "\n" not in str(refused.value)
    with pytest.raises(PruningRefused, match="not pruned"):
        mv.MoEPruner(torch.nn.ModuleDict({"inner": model}), IDS)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert mv.MoEDependencyGraph().build_dependency(model, IDS).classes


def test_networks_without_transformers_are_pruned_under_any_release(older):
    model = Plain()
    mv.MoEPruner(model, IMAGE[0], ignored_layers=[model.fc]).step()
    assert model.c1.out_channels == 4


@pytest.mark.skipif(OLD, reason="refused under an older release; `tox run -e tests` runs it")
def test_the_installed_release_is_accepted():
    pruner = mv.MoEPruner(build_zoo("mixtral"), IDS)
    assert {"hidden", "routed_experts"} <= {c.role for c in pruner.DG.classes}


@pytest.mark.parametrize(("version", "older"), [("4.57.6", True), ("5.9.0", True), ("5.17.0", False), ("6.0", False)])
def test_releases_are_compared_by_their_numbers(monkeypatch, version, older):
    monkeypatch.setattr(versions, "_installed", lambda package: version)
    assert versions.older_than("transformers", versions.OLDEST_TRANSFORMERS) == (version if older else None)


def test_the_declared_range_begins_with_the_oldest_release():
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["dependencies"]
    (range_,) = (entry for entry in declared if entry.startswith("transformers"))
    assert re.search(r">=([\d.]+)", range_)[1] == versions.OLDEST_TRANSFORMERS
