"""Whole layers in a plan: carried out and written, or refused where they do not fit the model or say too much."""

import copy
import json

import numpy as np
import pytest
import torch
from jsonschema import ValidationError, validate

from moeverify.errors import PlanError, PruningRefused
from moeverify.models.module_lists import ListCut
from moeverify.models.zoo import build_zoo
from moeverify.pruning.checkpoint.plan_check import check_plan
from moeverify.pruning.checkpoint.plan_file import PlanDocument, document_plan, schema
from moeverify.pruning.plan.layer_cut import LayerCut
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.step.carry_out import carry_out

IDS = torch.arange(32).view(2, 16)
INPUTS = {"input_ids": IDS}
ENTRIES = {("num_hidden_layers",): 2, ("layer_types",): ["full_attention", "sliding_attention"]}


def layers(kept=(1, 2), before=3, container="model.layers", **entries):
    named = {(name,): value for name, value in entries.items()} or ENTRIES
    return Plan((), {}, layers=LayerCut((ListCut.of_numbers(container, before, np.array(kept)),), named))


@pytest.fixture(scope="module")
def base():
    return build_zoo("gpt_oss")


def test_carried_out_with_other_cuts(base):
    model = copy.deepcopy(base)
    values = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    name = "model.layers.2.self_attn.sinks"
    plan = Plan((), {(name, 0): np.array([0, 1])}, sizes={(name, 0): 4}, layers=layers().layers)
    assert plan.renamed("model.layers.0.mlp.router.weight") is None
    shape = plan.shapes({name: (4,), "model.layers.0.mlp.router.weight": (4, 8)})
    assert shape == {"model.layers.1.self_attn.sinks": (2,)}
    carry_out(model, layers())
    assert model.config.num_hidden_layers == 2
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]
    for new, tensor in model.state_dict().items():
        old = new.replace("layers.1.", "layers.2.").replace("layers.0.", "layers.1.")
        assert torch.equal(tensor, values[old])
    assert model(**INPUTS).logits.isfinite().all()


def test_written_and_read(base):
    document = document_plan(base, layers())
    again = PlanDocument.from_json(document.to_json())
    assert again.to_json() == document.to_json()
    assert again.plan.layers.entries == ENTRIES
    assert again.plan.layers.lists[0].kept.tolist() == [1, 2]
    assert json.loads(document.to_json())["cuts"] == [
        {"role": "layers", "where": "model.layers", "before": 3, "after": 2}
    ]
    assert check_plan(base, again.plan, INPUTS).after.config.num_hidden_layers == 2


def test_a_plan_of_the_first_format_is_read(base):
    data = json.loads(document_plan(base, layers()).to_json())
    del data["layers"]
    with pytest.raises(ValidationError):  # nothing would be cut
        validate(data, schema())
    keep = {"parameter": "model.norm.weight", "dim": 0, "size": 64, "set": 0}
    data |= {"schema_version": "1.0", "keep": [keep], "sets": ["0-31"]}
    assert PlanDocument.from_json(json.dumps(data)).plan.layers is None


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (layers(container="model.blocks"), "model.blocks is no list of 3 modules"),
        (layers(before=4), "model.layers is no list of 4 modules"),
        (layers(num_hidden_layers=2, layer_types=["full_attention"] * 2), "of the layers kept it is"),
        (layers(num_hidden_layers=2, layer_types=ENTRIES["layer_types",], bogus=1), "has no entry bogus"),
        (layers(num_hidden_layers="2"), "has no entry num_hidden_layers that could become '2'"),
        (layers(num_hidden_layers=1, layer_types=["full_attention"]), "it has no model.layers.1"),
        (layers(num_hidden_layers=10**9), "the limit is"),
        (layers(**{p[0]: v for p, v in ENTRIES.items()}, eos_token_id=7), "do not need that"),
        (layers(layer_types=ENTRIES["layer_types",]), "GptOssConfig has no model of the layers that are kept"),
    ],
)
def test_refused_in_one_line(base, plan, words):
    before = [name for name, _ in base.named_parameters()]
    with pytest.raises(PlanError, match="the plan's layers cannot be dropped") as caught:
        check_plan(base, plan, INPUTS)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(PruningRefused):
        carry_out(base, plan)
    assert [name for name, _ in base.named_parameters()] == before


def test_a_cut_in_a_layer_that_goes_is_refused(base):
    name = "model.layers.0.mlp.router.weight"
    plan = Plan((), {(name, 0): np.array([0])}, sizes={(name, 0): 4}, layers=layers().layers)
    with pytest.raises(PlanError, match=f"the plan cuts {name}, whose layer it drops"):
        check_plan(base, plan, INPUTS)


def test_layers_of_a_model_without_configuration_are_refused():
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    with pytest.raises(PruningRefused, match="models with a configuration"):
        carry_out(model, layers(container="layers"))
