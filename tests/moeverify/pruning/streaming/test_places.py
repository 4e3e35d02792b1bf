"""Experts of a stack are written one by one, where the layout on disk allows it."""

import pytest
import torch

from moeverify.models.folder.stored_model import open_stored_model
from moeverify.models.zoo import build_zoo
from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint
from moeverify.pruning.streaming.cutting import Cutter
from moeverify.pruning.streaming.layout import Layout
from moeverify.pruning.streaming.places import places_of
from moeverify.pruning.streaming.writing import _without_parameters


def places(kind, stack, tmp_path):
    build_zoo(kind).save_pretrained(tmp_path)
    stored = open_stored_model(str(tmp_path), tmp_path, torch.float32)
    layout = Layout(_without_parameters(stored.model), stored.naming.conversions)
    group = next(g for g in layout.groups if g.names[0].endswith(stack))
    return places_of(layout, group, 3)


def test_a_joint_matrix_is_divided_into_its_projections(tmp_path):
    found = places("qwen3_moe", "0.mlp.experts.gate_up_proj", tmp_path)
    assert [[(place.name.split("experts.")[1], place.row) for place in expert] for expert in found] == [
        [(f"{n}.gate_proj.weight", None), (f"{n}.up_proj.weight", None)] for n in range(3)
    ]
    values = torch.arange(12).view(6, 2)
    assert [place.of(values).tolist() for place in found[1]] == [values[:3].tolist(), values[3:].tolist()]


def test_a_stack_that_is_stored_as_it_is(tmp_path):
    found = places("gpt_oss", "0.mlp.experts.gate_up_proj", tmp_path)
    assert [[(place.name[-12:], place.row) for place in expert] for expert in found] == [
        [("gate_up_proj", n)] for n in range(3)
    ]


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_no_stack_of_experts_is_held(kind, tmp_path, monkeypatch):
    held = []
    of = Cutter.of
    monkeypatch.setattr(Cutter, "of", lambda self, name, *rest: held.append(name) or of(self, name, *rest))
    build_zoo(kind).save_pretrained(tmp_path / "base")
    prune_checkpoint(str(tmp_path / "base"), tmp_path / "out", pruning_ratio=0.5, ratios={"experts": 0.5})
    assert held
    assert not [name for name in held if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]
