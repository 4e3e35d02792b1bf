"""Models in wrappers: pruned through them, or refused with the remedy."""

import copy
import sys
import types

import pytest
import torch
from masked_original import difference
from small_nets import MoEBlock, build
from torch import nn
from transformers import Qwen3MoeConfig, Qwen3MoeModel

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.models.numerics import float64_throughout

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.moe, self.head = nn.Linear(8, 8), MoEBlock(shared=0), nn.Linear(8, 3)

    def forward(self, x):
        x = self.enter(x).flatten(0, 1)
        return self.head(x + self.moe(x))


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_inside(model):
    model.moe.compile(backend="eager")
    model.head = torch.compile(model.head, backend="eager")
    return model


@pytest.mark.parametrize("wrap", [compiled, compiled_inside, nn.DataParallel, lambda m: compiled(nn.DataParallel(m))])
def test_a_wrapped_model_is_pruned_through_its_wrapper(wrap):
    model = build(Net)
    original, wrapped = copy.deepcopy(model), wrap(model)
    pruner = mv.MoEPruner(wrapped, X, pruning_ratio=0.5)
    plan = pruner.step()
    assert pruner.model is model
    assert [expert.gate_proj.out_features for expert in model.moe.experts] == [3] * 4
    with torch.no_grad():
        assert torch.equal(wrapped(X), model(X))
    torch._dynamo.reset()
    if wrap is not compiled_inside:  # names of the original differ there
        assert difference(original, model, plan, X) < 1e-12


def test_adapters_are_refused_in_one_line(monkeypatch):
    module = types.ModuleType("peft.tuners.layer")
    monkeypatch.setitem(sys.modules, "peft.tuners.layer", module)
    adapted = type("LoraLinear", (nn.Linear,), {"__module__": "peft.tuners.layer"})
    model = build(Net)
    model.head = adapted(8, 3)
    with pytest.raises(PruningRefused, match=r"head is wrapped by adapters of PEFT; .* model\.merge_and_unload\(\)$"):
        mv.MoEPruner(model, X)


def test_a_model_in_training_mode_is_pruned_as_in_evaluation():
    model = nn.Sequential(build(Net), nn.Dropout(0.5)).train()
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, X, pruning_ratio=0.5).step()
    assert model[0].head.in_features == 4
    assert difference(original.eval(), model.eval(), plan, X) < 1e-12


class Classifier(nn.Module):
    """A transformers model in a module of the user's, with a head of its own."""

    def __init__(self):
        super().__init__()
        sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "head_dim": 8}
        config = Qwen3MoeConfig(
            **sizes,
            vocab_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_experts=4,
            num_experts_per_tok=2,
        )
        self.body, self.score = Qwen3MoeModel(config), nn.Linear(32, 3)
        self.body.set_experts_implementation("eager")

    def forward(self, input_ids):
        return self.score(self.body(input_ids=input_ids, use_cache=False).last_hidden_state)


def test_the_configuration_of_a_wrapped_model_follows(tmp_path):
    torch.manual_seed(0)
    model, inputs = Classifier().eval(), {"input_ids": torch.arange(24).view(2, 12)}
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, inputs, pruning_ratio=0.5).step()
    config = model.body.config
    assert (config.hidden_size, config.num_attention_heads, config.moe_intermediate_size) == (16, 2, 12)
    assert model.score.in_features == 16
    with float64_throughout():
        assert difference(original, model, plan, inputs) < 1e-9
    model.body.save_pretrained(tmp_path)
    loaded = Qwen3MoeModel.from_pretrained(tmp_path, experts_implementation="eager").eval()
    with torch.no_grad():
        got, wanted = (body(**inputs, use_cache=False).last_hidden_state for body in (loaded, model.body))
    assert torch.equal(got, wanted)
