"""The same spec is the same model, plain or as transformers knows it, before and after saving."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case
from synthetic_models import Cycle, Spec, build, default_specs, example_inputs


@pytest.mark.parametrize("name", default_specs())
def test_the_same_spec_builds_the_same_model(name):
    spec = default_specs()[name]
    first, second, plain = build(spec), build(spec), build(spec, plain=True)
    state = first.state_dict()
    for other in (second.state_dict(), plain.state_dict()):
        assert state.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in state.items())
    with torch.no_grad():
        assert torch.equal(first(**example_inputs(spec)).logits, plain(**example_inputs(spec)))
    changed = build(replace(spec, seed=1)).state_dict()
    assert not torch.equal(state["lm_head.weight"], changed["lm_head.weight"])


def test_modules_have_the_types_of_the_spec():
    assert {p.dtype for p in build(Spec(dtype="bfloat16")).parameters()} == {torch.bfloat16}


def test_saved_and_loaded_by_plain_transformers(tmp_path):
    spec = default_specs()["gated-shared"]
    model = build(spec)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(model(**example_inputs(spec)).logits, again(**example_inputs(spec)).logits)
    assert again.lm_head.weight is again.model.embed_tokens.weight


@pytest.mark.parametrize(
    "cycle", [Cycle("shared_layers"), Cycle("shared_experts_between_layers"), Cycle("tied_experts")], ids=str
)
def test_shared_modules_are_shared_again_after_loading(cycle, tmp_path):
    spec = replace(default_specs()["listed"], layers=("moe", "moe"), cycles=(cycle,))
    model = build(spec)
    model.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert len(list(again.parameters())) == len(list(model.parameters()))
    with torch.no_grad():
        assert torch.equal(model(**example_inputs(spec)).logits, again.eval()(**example_inputs(spec)).logits)


@pytest.mark.parametrize(
    "name", [n if n in ("unequal", "latent") else pytest.param(n, marks=pytest.mark.slow) for n in default_specs()]
)
def test_our_pruner_passes_every_check_on_the_default_family(name):
    reported = []
    run_case(Case(f"synthetic:{name}"), reported.append)
    verdicts = [item.verdict for item in reported if isinstance(item, VerdictReached)]
    assert sum(v.status is Status.PASS for v in verdicts) >= 10
    assert [(v.check, v.message) for v in verdicts if v.status not in (Status.PASS, Status.SKIP)] == []
