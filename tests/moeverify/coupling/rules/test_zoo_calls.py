"""Rules on the calls that the modelling code of transformers really makes, in float64."""

import contextlib
from collections import Counter, defaultdict

import pytest
import torch

from moeverify.coupling.rules import rule_for
from moeverify.models.forward import call_model
from moeverify.models.sources import load_source
from moeverify.models.zoo.registry import zoo_types
from tests.moeverify.coupling.rules.cases.products import grouped_product
from tests.moeverify.coupling.rules.opinfo import signature
from tests.moeverify.coupling.rules.proof import rule_violations
from tests.moeverify.coupling.rules.removal import OneCall, Recording

CALLS = 60  # of each operation
LARGEST = 200_000  # elements of an input


class _Sparing(Recording):
    """Keeps calls that differ in more than values, and counts operations without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, OneCall]] = defaultdict(dict)
        self.without_rule: Counter[str] = Counter()

    def keep(self, call: OneCall) -> None:
        if rule_for(call.name, call.tags) is None:
            self.without_rule[call.name] += 1
        elif len(self.found[call.name]) < CALLS and all(t.numel() <= LARGEST for t in call.inputs):
            key = signature(call)
            if key not in self.found[call.name]:
                if call.name == "aten._grouped_mm":  # its kernels take no float64
                    call = OneCall(call.name, grouped_product, call.args, call.kwargs)
                self.found[call.name][key] = call.with_inputs(lambda _, t: t.double() if t.is_floating_point() else t)


@pytest.fixture(scope="module")
def recorded():
    recording = _Sparing()
    for model_type in zoo_types():
        try:
            loaded = load_source(f"zoo:{model_type}", dtype=torch.float64)
        except Exception:  # the zoo's own tests tell which cannot be had
            continue
        for experts in ("eager", "batched_mm", "grouped_mm"):
            with contextlib.suppress(AttributeError, ValueError):  # has but one
                loaded.model.set_experts_implementation(experts)
            try:
                with torch.no_grad(), recording:
                    call_model(loaded.model, loaded.example_inputs, use_cache=False)
            except (NotImplementedError, RuntimeError):  # casts that do not go with float64 parameters
                continue
    return recording


@pytest.mark.slow
def test_no_operation_of_the_zoo_is_without_a_rule(recorded):
    assert len(recorded.found) > 90
    assert not recorded.without_rule


@pytest.mark.slow
def test_rules_on_the_calls_of_the_zoo(recorded):
    found: list[str] = []
    for calls in recorded.found.values():
        for call in calls.values():
            found += rule_violations(call)
    assert not found, "\n".join(found[:5])
