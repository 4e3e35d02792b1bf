"""The zoo has every MoE type of transformers, each small, whole and reproducible."""

import importlib
import json
import re

import pytest
import torch
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from moeverify.cli import app
from moeverify.errors import SourceError
from moeverify.models.exercise import count_reached, vary_inputs
from moeverify.models.numerics import float64_throughout, in_float64
from moeverify.models.roles import find_roles
from moeverify.models.sources import load_source
from moeverify.models.zoo import (
    build_zoo,
    describe,
    exceptions,
    registry,
    shrunken_config,
    zoo_listing,
    zoo_types,
)

# Modelling code with classes named after experts whose causal language model has none.
WITHOUT_EXPERTS: set[str] = set()
NAIVELY_DENSE = ("deepseek_v32", "longcat_flash", "beam", "flint", "doge", "bailing_hybrid")


def test_at_least_55_types():
    assert len(zoo_types()) >= 55
    assert {"gemma4_text", "zaya", "dbrx", "jamba", "lfm2_moe", "longcat_flash", *NAIVELY_DENSE} <= set(zoo_types())


def test_types_agree_with_the_modelling_code():
    """The registry asks configurations; this asks the classes of the modelling code."""
    by_code = set()
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        name = model_type_to_module_name(model_type)
        try:
            module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        except ModuleNotFoundError:
            continue
        if any(re.search(r"Experts|M[Oo][Ee](?=$|[A-Z])|SparseM", c) for c in vars(module) if c[:4] != "load"):
            by_code.add(model_type)
    assert by_code - set(zoo_types()) - WITHOUT_EXPERTS == set()


@pytest.mark.parametrize("model_type", zoo_types())
def test_small_model_has_moe_layers_and_runs(model_type):
    loaded = load_source(f"zoo:{model_type}")
    model = in_float64(loaded.model)
    roles = find_roles(model)
    assert len(roles.layers) >= 2
    assert all(layer.routers and len(layer.experts) in (4, 8) for layer in roles.layers)  # 8 in groups
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    with float64_throughout(), count_reached(model, roles) as reached:
        for seed in range(64):
            drawn = vary_inputs(model, loaded.example_inputs, seed, torch.float64)
            logits = model(**drawn, use_cache=False).logits
            if all(reached.values()):
                break
    assert all(reached.values()), reached
    assert logits.isfinite().all()
    assert logits.std() > 1e-3


def test_types_have_their_dense_layers_shared_experts_and_mixers():
    """A dense layer, a shared expert and each mixer where the architecture has them."""
    entries = {entry.model_type: entry for entry in zoo_listing()}
    assert not [e for e in entries.values() if e.error]
    for name in ("deepseek_v2", "deepseek_v3", "glm4_moe", "qwen3_moe", "lfm2_moe", "beam", "flint", "jamba"):
        assert entries[name].moe_layers < entries[name].layers, name
    for name in ("deepseek_v2", "qwen2_moe", "hunyuan_v1_moe", "granitemoehybrid", "gemma4_text", "llama4_text"):
        assert entries[name].shared_experts, name
    assert set(entries["qwen3_next"].mixers) == {"linear_attention", "full_attention"}
    assert set(entries["granitemoehybrid"].mixers) == {"linear_attention", "full_attention"}
    assert len(entries["deepseek_v4"].mixers) == 3
    assert entries["dbrx"].layout == "rows"
    assert entries["mixtral"].layout == "fused"


def test_sizes_of_a_shrunken_configuration_are_distinct():
    config = shrunken_config("qwen2_moe")
    sizes = (config.hidden_size, config.intermediate_size, config.moe_intermediate_size)
    assert len({*sizes, config.shared_expert_intermediate_size, config.vocab_size}) == 5


def test_same_seed_same_model():
    first, again, other = (build_zoo("mixtral", seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_a_type_that_cannot_be_shrunk_is_listed_with_its_error(monkeypatch, capsys):
    monkeypatch.setattr(
        "moeverify.models.zoo.shrink.EXCEPTIONS", {**exceptions.EXCEPTIONS, "mixtral": {"hidden_act": "none such"}}
    )
    entry = describe("mixtral")
    assert "cannot shrink mixtral" in entry.error
    assert "\n" not in entry.error
    app(["zoo", "mixtral", "olmoe"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "cannot shrink mixtral" in out
    assert "2 types" not in out
    assert "1 types, 1 that cannot be built" in out


def test_too_few_moe_layers_are_refused(monkeypatch):
    monkeypatch.setattr(
        "moeverify.models.zoo.shrink.EXCEPTIONS", {**exceptions.EXCEPTIONS, "qwen2_moe": {"mlp_only_layers": [0, 1]}}
    )
    with pytest.raises(SourceError, match="1 MoE layers where two are needed"):
        build_zoo("qwen2_moe")


def test_the_types_are_asked_of_transformers(monkeypatch):
    monkeypatch.delitem(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "mixtral")
    assert set(zoo_types()) - set(registry.zoo_types.__wrapped__()) == {"mixtral"}


def test_command_lists_as_json(capsys):
    app(["zoo", "qwen2_moe", "--json"], standalone_mode=False)
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["routers"] == ["gate (Qwen2MoeTopKRouter)", "shared_expert_gate (Linear)"]
    assert entry["shared_experts"] == ["shared_expert (Qwen2MoeMLP)"]
    with pytest.raises(SourceError, match="the zoo has no 'bert'"):
        app(["zoo", "bert"], standalone_mode=False)
