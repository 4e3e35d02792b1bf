"""The picture holds what it claims to show: every chip's colour is its class's."""

from dataclasses import replace
from xml.etree import ElementTree as xml

import pytest
import torch
from torch import nn

from moeverify.errors import UsageError
from moeverify.inspection.inspection import inspect_model, inspect_source
from moeverify.inspection.layer_facts import layer_facts
from moeverify.inspection.picture import layer_picture
from moeverify.inspection.svg import readable_on
from moeverify.models.sources import LoadedModel

SVG = "{http://www.w3.org/2000/svg}"


class Listed(nn.Module):
    """``joined`` makes the first two experts share a bias: a coupling across the boundary."""

    def __init__(self, count, joined=False):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.gate = nn.Linear(6, count)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 6)) for _ in range(count)])
        if joined:
            self.experts[1][0].bias = self.experts[0][0].bias
        self.head = nn.Linear(6, 3)

    def forward(self, ids):
        x = self.embed(ids)
        weights = self.gate(x).softmax(-1)
        return self.head(x + sum(weights[..., i, None] * e(x) for i, e in enumerate(self.experts)))


def listed(count, joined=False):
    return inspect_model(LoadedModel("listed", Listed(count, joined), (torch.arange(5),)))


def texts(svg):
    return [element.text for element in xml.fromstring(svg).iter(f"{SVG}text")]


def test_a_fused_layer_shows_its_roles_and_classes():
    inspection = inspect_source("zoo:qwen2_moe")
    svg = layer_picture(inspection)
    said = texts(svg)
    assert any("all 4 routed experts in one" in text for text in said)
    assert {"hidden", "routed experts", "shared experts", "heads"} <= set(said)
    facts = layer_facts(inspection, inspection.roles.layers[0])
    rows = {row.parameter: row for _, rows in facts.modules for row in rows}
    down = rows[f"{facts.layer.container}.down_proj"]
    assert [chip.parts[0][0].role if chip.parts[0][0] else None for chip in down.chips] == [
        None,
        "hidden",
        "routed_experts",
    ]
    assert facts.reasons[down.chips[0].reason - 1].startswith("experts are chosen by offset")
    for row in rows.values():
        for chip in row.chips:
            assert sum(count for _, count in chip.parts) == chip.size


@pytest.mark.parametrize("count", [8, 256])
def test_every_listed_expert_has_a_cell_with_its_number(count):
    svg = layer_picture(listed(count))
    assert set(map(str, range(count))) <= set(texts(svg))
    tips = {element.text for element in xml.fromstring(svg).iter(f"{SVG}title")}
    assert {f"experts.{number}" for number in range(count)} <= tips
    assert not any("red" in text for text in texts(svg))
    assert len(svg) < 200_000


def test_experts_that_are_coupled_are_marked_in_red():
    inspection = listed(4, joined=True)
    assert layer_facts(inspection, inspection.roles.layers[0]).crossing == {"experts.0", "experts.1"}
    assert any("red: joined with another expert" in text for text in texts(layer_picture(inspection)))


def test_wrong_layer_and_no_layer():
    inspection = listed(4)
    with pytest.raises(UsageError, match="no MoE layer 'nowhere'"):
        layer_picture(inspection, "nowhere")
    with pytest.raises(UsageError, match="no routed experts were found"):
        layer_picture(replace(inspection, roles=replace(inspection.roles, layers=())))


def test_text_contrasts_with_its_chip():
    assert readable_on("#000000") == readable_on("#0072B2") == "#FFFFFF"
    assert readable_on("#FFFFFF") == readable_on("#E69F00") == "#000000"
