"""The table of couplings, and one channel of each role removed from every zoo model."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from everyday import not_only_by_night
from torch import nn
from typer.testing import CliRunner

import moeverify as mv
from moeverify.cli import app
from moeverify.coupling.classify import classify
from moeverify.models.roles import find_roles
from moeverify.models.sources import LoadedModel, load_source
from moeverify.models.zoo import exceptions, zoo_types
from moeverify.suites.zoo_table.equivalence import channel_equivalence
from moeverify.suites.zoo_table.table import row

NO_ROUTED_CLASS = {"doge": 0, "jetmoe": 12}


# One of each kind of layer, router and attention; all types by night.
SOME = {"dbrx", "deepseek_v3", "doge", "gpt_oss", "granitemoeshared"}
SOME |= {"jetmoe", "lfm2_moe", "llama4_text", "mixtral", "olmoe"}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", not_only_by_night(zoo_types(), SOME))
def test_one_channel_of_each_role_equals_the_masked_model(model_type):
    found = row(model_type)
    assert not found.error
    assert found.unknown == ()
    assert found.hidden.startswith("complete")
    assert found.experts == NO_ROUTED_CLASS.get(model_type, found.experts_expected)
    assert {e.role: e for e in found.equivalence if not e.passed} == {}
    roles = {e.role for e in found.equivalence}
    assert "hidden" in roles
    assert ("routed_experts" in roles) == (model_type != "doge")
    shared = find_roles(load_source(f"zoo:{model_type}").model).shared_experts
    assert ("shared_experts" in roles) == bool(shared)


@pytest.fixture(scope="module")
def mixtral():
    loaded = load_source("zoo:mixtral")
    couplings = mv.trace_couplings(loaded.model, loaded.example_inputs)
    return loaded, {c.role: c for c in classify(loaded.model, couplings.classes, find_roles(loaded.model))}


def test_a_wrong_class_is_no_equivalence(mixtral):
    """The gate half takes another channel than the up half and the down projection."""
    loaded, classes = mixtral
    right = classes["routed_experts"]
    assert channel_equivalence(loaded, right).passed
    members = tuple(
        dataclasses.replace(m, positions=np.roll(m.positions, 1, axis=0)) if "down_proj" in m.parameter else m
        for m in right.coupling.members
    )
    wrong = dataclasses.replace(right, coupling=dataclasses.replace(right.coupling, members=members))
    outcome = channel_equivalence(loaded, wrong)
    assert not outcome.passed
    assert outcome.error > 1e-3


def test_an_incomplete_hidden_class_is_no_equivalence(mixtral):
    loaded, classes = mixtral
    members = tuple(m for m in classes["hidden"].coupling.members if "layers.1.mlp.gate" not in m.parameter)
    coupling = dataclasses.replace(classes["hidden"].coupling, members=members)
    outcome = channel_equivalence(loaded, dataclasses.replace(classes["hidden"], coupling=coupling))
    assert not outcome.passed
    assert outcome.problem


class TwoHeads(nn.Module):
    """Logits, and scores from the same hidden channels."""

    def __init__(self):
        super().__init__()
        self.embed, self.logits, self.scores = nn.Embedding(40, 10), nn.Linear(10, 40), nn.Linear(10, 3)

    def forward(self, input_ids):
        x = self.embed(input_ids).tanh()
        return self.logits(x), self.scores(x)


def test_a_wrong_second_output_is_no_equivalence():
    torch.manual_seed(0)
    loaded = LoadedModel("here", TwoHeads().eval(), {"input_ids": torch.randint(0, 40, (2, 12))})
    couplings = mv.trace_couplings(loaded.model, loaded.example_inputs)
    (hidden,) = (
        c for c in classify(loaded.model, couplings.classes, find_roles(loaded.model)) if c.coupling.size == 10
    )
    assert channel_equivalence(loaded, hidden).passed
    members = tuple(
        dataclasses.replace(m, positions=np.roll(m.positions, 1, axis=0)) if m.parameter == "scores.weight" else m
        for m in hidden.coupling.members
    )
    wrong = dataclasses.replace(hidden, coupling=dataclasses.replace(hidden.coupling, members=members))
    outcome = channel_equivalence(loaded, wrong)
    assert not outcome.passed
    assert outcome.error > 1e-3


def test_command_writes_table_and_data(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "moeverify.models.zoo.shrink.EXCEPTIONS", {**exceptions.EXCEPTIONS, "olmoe": {"hidden_act": "none such"}}
    )
    target = tmp_path / "new" / "table.md"
    result = CliRunner().invoke(app, ["zoo", "mixtral", "olmoe", "--table", str(target)])
    assert result.exit_code == 0, result.output
    text = target.read_text()
    assert "| mixtral |" in text
    assert "complete" in text
    assert "cannot shrink olmoe" in text
    assert "46.7B, 32 MoE layers of 8 experts" in text
    assert "1 inspected at their real size, 1 of them with the same kinds of classes" in text
    types = json.loads(target.with_suffix(".json").read_text())["types"]
    assert [t["model_type"] for t in types] == ["mixtral", "olmoe"]
    assert types[0]["real"]["same"]
    assert types[0]["experts"] == types[0]["experts_expected"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("model_type", zoo_types())
def test_classes_are_the_same_with_every_experts_implementation(model_type):
    loaded = load_source(f"zoo:{model_type}")
    found = {}
    for implementation in ("eager", "grouped_mm", "batched_mm"):
        try:
            loaded.model.set_experts_implementation(implementation)
        except (ValueError, NotImplementedError):  # the model keeps its own loop over the experts
            continue
        couplings = mv.trace_couplings(loaded.model, loaded.example_inputs)
        assert not couplings.unknown_operations
        found[implementation] = {
            frozenset((m.parameter, m.dim, m.positions.tobytes()) for m in c.members) for c in couplings.classes
        }
    assert len({frozenset(classes) for classes in found.values()}) <= 1
