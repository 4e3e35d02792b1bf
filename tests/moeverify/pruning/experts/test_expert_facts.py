"""What is said of whole experts before any is removed."""

import json

import pytest
import torch

from moeverify.cli import main
from moeverify.models.forward import Example
from moeverify.models.roles import find_roles
from moeverify.models.zoo import build_zoo
from moeverify.pruning.experts.facts import expert_facts

IDS = {"input_ids": torch.arange(24).reshape(2, 12)}


def facts(model):
    return expert_facts(model, find_roles(model), Example(IDS))


def test_counts_groups_companions_and_legal_numbers():
    found, refused = facts(build_zoo("deepseek_v3"))
    assert refused == ""
    assert found[0].to_dict() == {
        "layer": "model.layers.1.mlp",
        "experts": 8,
        "top_k": 2,
        "groups": 2,
        "companions": ["gate.weight", "gate.e_score_correction_bias"],
        "legal": [4, 6, 8],
    }


def test_what_is_not_understood_is_named():
    found, refused = facts(build_zoo("doge"))
    assert found == ()
    assert "router_gate.weight holds product keys" in refused


def test_inspect_shows_the_legal_numbers_of_experts(capsys):
    for words in (["inspect", "zoo:mixtral", "--json"], ["inspect", "zoo:mixtral"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert not stopped.value.code
    shown = capsys.readouterr().out
    data, _ = json.JSONDecoder().raw_decode(shown)
    assert [one["legal"] for one in data["whole_experts"]["layers"]] == [[2, 3, 4]] * 3
    assert "Whole experts" in shown
    assert "legal numbers" in shown
