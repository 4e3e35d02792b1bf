"""The picture of what stayed, at the sizes of published models."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from types import SimpleNamespace as Plain

import numpy as np
import pytest

from moeverify.certification.picture import keep_picture

SVG = "{http://www.w3.org/2000/svg}"


def keep_map(layers, experts, kept, width, hidden, dropped):
    """A keep map of a model with a layer of experts in every layer; ``dropped`` layers are gone."""
    chance = np.random.default_rng(0)
    stayed = [n for n in range(layers) if n not in dropped]
    found = [
        Plain(name=f"model.layers.{n}.mlp", container=f"model.layers.{n}.mlp.experts", experts=[""] * experts)
        for n in range(layers)
    ]
    inner = [Plain(role="routed_experts", where=f"model.layers.{n}.mlp", coupling=Plain(size=width)) for n in stayed]
    stream = Plain(role="hidden", where="", coupling=Plain(size=hidden))
    units = {
        number: np.stack([np.sort(chance.permutation(width)[: width // 2]) for _ in range(kept)])
        for number in range(len(inner))
    }
    units[len(inner)] = np.sort(chance.permutation(hidden)[: hidden // 2])
    return Plain(
        structure=Plain(roles=Plain(layers=found), classes=[*inner, stream]),
        experts={n: np.sort(chance.permutation(experts)[:kept]) for n in stayed},
        units=units,
        lists={"model.layers": np.array(stayed)} if dropped else {},
        base={f"model.layers.{n}.norm": (1,) for n in range(layers)},
    )


@pytest.mark.parametrize(("layers", "experts", "dropped"), [(48, 128, ()), (61, 256, (20, 41)), (2, 8, ())])
def test_counts_of_each_layer_are_drawn_without_overlap(layers, experts, dropped):
    kept = keep_map(layers, experts, experts // 4 * 3, 64, 512, dropped)
    drawn = ET.fromstring(keep_picture(kept))
    texts = list(drawn.iter(f"{SVG}text"))
    words = [text.text for text in texts]
    rows = layers - len(dropped)
    assert words.count(f"{experts // 4 * 3} of {experts}") == rows
    assert words.count("32 of 64") == rows
    assert "256 of 512" in words
    assert (f"{rows} of {layers}" in words) == bool(dropped)
    for x in {text.get("x") for text in texts if text.get("text-anchor") is None}:  # lines of one column stand apart
        column = sorted((float(t.get("y")), int(t.get("font-size"))) for t in texts if t.get("x") == x)
        assert all(lower - upper >= size for (upper, _), (lower, size) in pairwise(column))
    width, height = (float(drawn.get(key)) for key in ("width", "height"))
    assert all(float(text.get("y")) < height for text in texts)
    boxes = list(drawn.iter(f"{SVG}rect"))
    assert all(float(box.get("x", 0)) + float(box.get("width")) <= width for box in boxes)
    assert height < 1600


def test_columns_are_the_experts_of_the_base():
    kept = keep_map(2, 8, 6, 64, 512, ())
    kept.experts = {0: np.array([0, 1, 2, 3]), 1: np.array([0, 1, 2, -1])}
    drawn = ET.fromstring(keep_picture(kept))
    words = [text.text for text in drawn.iter(f"{SVG}text")]
    assert "4 of 8, 1 unknown" in words
    numbers = [t.text for t in drawn.iter(f"{SVG}text") if t.get("text-anchor") == "middle"]
    assert numbers == [str(n) for n in range(8)]
