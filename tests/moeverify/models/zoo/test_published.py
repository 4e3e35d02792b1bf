"""Types whose configuration class by default gives no model are built as published."""

import pytest

from moeverify.errors import SourceError, TraceError
from moeverify.models.full_size import load_full_size
from moeverify.models.roles import find_roles
from moeverify.models.zoo import registry
from moeverify.models.zoo.published import PUBLISHED, full_size_config

# Billions of parameters, as announced with the checkpoints (text part, all experts).
BILLIONS = {
    "dbrx": 132,
    "deepseek_v2": 236,
    "dots1": 143,
    "gemma4": 25,
    "gemma4_text": 25,
    "granitemoehybrid": 32,
    "hunyuan_v1_moe": 81,
    "lfm2_moe": 8.3,
    "qwen4_exp_text": 177,
}


def test_every_entry_is_needed_and_known():
    assert set(PUBLISHED) == {*BILLIONS, "doge"}
    for model_type in PUBLISHED:
        assert PUBLISHED[model_type].why in full_size_config(model_type)[1]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", PUBLISHED)
def test_types_have_their_published_number_of_parameters(model_type):
    loaded = load_full_size(f"zoo:{model_type}")
    assert find_roles(loaded.model).layers
    billions = sum(p.numel() for p in loaded.model.parameters()) / 1e9
    assert billions == pytest.approx(BILLIONS.get(model_type, 1.5), rel=0.01)
    assert any("since by default" in note for note in loaded.notes)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", PUBLISHED)
def test_the_defaults_give_no_model_with_experts(model_type, monkeypatch):
    """An entry that a later transformers makes superfluous is to go."""
    from moeverify.inspection.inspection import inspect_source

    monkeypatch.delitem(PUBLISHED, model_type)
    try:
        found = inspect_source(f"zoo:{model_type}", full_size=True)
    except (SourceError, TraceError):
        return
    assert not found.roles.layers


def test_composite_types_are_their_text_part():
    assert registry.causal_config_class("qwen4_exp") is registry.causal_config_class("qwen4_exp_text")
    assert full_size_config("qwen4_exp")[0].model_type == "qwen4_exp_text"
    assert full_size_config("mixtral")[1] == ""


def test_a_type_without_experts_is_refused():
    with pytest.raises(SourceError, match="the zoo has no 'gemma4_assistant'"):
        load_full_size("zoo:gemma4_assistant")
