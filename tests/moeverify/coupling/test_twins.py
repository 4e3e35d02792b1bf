"""A model of its full size, without weights, has the kinds of modules and classes of its shrunken twin with weights."""

import dataclasses

import pytest

from moeverify.inspection.inspection import inspect_source
from moeverify.models.full_size import load_full_size
from moeverify.models.zoo import build_zoo, zoo_types
from moeverify.suites.zoo_table.twins import correspond, kinds, signatures, twin

# The default configuration has every kind of layer that the shrunken one has.
ALIKE = ("deepseek_v3", "glm4_moe", "gpt_oss", "mimo_v2_flash", "mixtral", "zaya")


def both(model_type):
    return (inspect_source(f"zoo:{model_type}", full_size=size) for size in (True, False))


@pytest.mark.parametrize("model_type", zoo_types())
def test_every_kind_of_module_is_in_the_small_model(model_type):
    """Dense layers, shared experts and mixers among them: each place for a module, and each class in that place."""
    assert kinds(load_full_size(f"zoo:{model_type}").model) - kinds(build_zoo(model_type)) == set()


def test_a_full_size_model_has_the_classes_of_its_shrunken_twin():
    full, small = both("olmoe")
    assert signatures(full) == signatures(small)
    assert correspond(full, small)
    without_heads = tuple(item for item in small.classes if item.role != "heads")
    assert not correspond(full, dataclasses.replace(small, classes=without_heads))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ALIKE)
def test_more_full_size_types_have_the_classes_of_their_twins(model_type):
    full, small = both(model_type)
    assert signatures(full) == signatures(small)
    assert {"hidden", "routed_experts"} <= {role for role, _ in signatures(full)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_type",
    [
        *("dbrx", "jetmoe", "lfm2_moe", "qwen3_moe"),
        *(pytest.param(t, marks=pytest.mark.nightly) for t in ("gemma4", "inkling2_text", "qwen3_next", "qwen4_exp")),
    ],
)
def test_twins_whose_layers_differ(model_type):
    found = twin(model_type)
    assert found.classes
    assert found.same, found.note


def test_a_twin_that_cannot_be_built_is_named(monkeypatch):
    monkeypatch.setattr("moeverify.models.zoo.published.PUBLISHED", {})
    found = twin("lfm2_moe")
    assert not found.same
    assert "cannot build zoo:lfm2_moe" in found.note
