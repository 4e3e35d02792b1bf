"""A model of its full size, without weights, has the classes of its shrunken twin, with weights."""

import pytest
from class_structure import signatures

from moeverify.inspection import inspect_source

# The default configuration has every kind of layer that the shrunken one has.
ALIKE = ("deepseek_v3", "glm4_moe", "gpt_oss", "mimo_v2_flash", "mixtral", "zaya")
# The zoo adds a dense layer that the default configuration lacks.
WITHOUT_DENSE = ("qwen3_moe", "qwen3_next")


def both(model_type):
    return (signatures(inspect_source(f"zoo:{model_type}", full_size=size)) for size in (True, False))


def test_twins():
    full, small = both("olmoe")
    assert full == small


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ALIKE)
def test_more_twins(model_type):
    full, small = both(model_type)
    assert full == small
    assert {"hidden", "routed_experts"} <= {role for role, _ in full}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", WITHOUT_DENSE)
def test_twin_with_a_dense_layer_more(model_type):
    full, small = both(model_type)
    local = {found for found in full if found[0] != "hidden"}
    assert {role for role, _ in small - local} == {"hidden", "dense_mlp"}
    hidden, more = (next(members for role, members in found if role == "hidden") for found in (full, small))
    assert hidden < more
    assert all(".mlp." in parameter for parameter, *_ in more - hidden)
