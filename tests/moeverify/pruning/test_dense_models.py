"""Architectures that the zoo does not hold: dense language models, encoders, encoder-decoders, vision."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

import moeverify as mv
from moeverify.errors import PruningRefused
from tests.support.dense_models import IDS, MODELS

CHECKS = ("something-pruned", "coupling-complete", "shapes", "masked-equivalence", "config-in-step", "reload")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_pruned_computes_what_the_masked_one_does_and_loads_again(name):
    model, inputs = MODELS[name]()
    result = mv.verify(model, example_inputs=inputs, pruning_ratio=0.5, checks=CHECKS)
    assert {v.check: v.message for v in result.verdicts if v.status != "pass"} == {}


def test_biases_by_distance_are_of_heads():
    model, inputs = MODELS["t5"]()
    graph = mv.MoEDependencyGraph().build_dependency(model, inputs)
    roles = {m.parameter: c.role for c in graph.classes for m in c.coupling.members if "relative" in m.parameter}
    assert set(roles.values()) == {"heads"}


def test_heads_that_a_configuration_says_another_number_of_are_left_alone_by_name():
    """Bloom's attention falls off by slopes that follow from how many heads there are: only their size may change."""
    config = AutoConfig.for_model("bloom", hidden_size=64, n_layer=2, n_head=4, vocab_size=128)
    model = AutoModelForCausalLM.from_config(config).eval()
    pruner = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=[model.lm_head])
    with pytest.raises(PruningRefused, match=r"would no longer divide it into \(4, 3, \.\.\.\)"):
        pruner.step()
    assert model.config.n_head == 4
