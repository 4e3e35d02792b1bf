"""How rules are found, and what happens without one."""

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.coupling.rules import RULES, rule, rule_for
from moeverify.coupling.rules.creation import random
from moeverify.coupling.rules.pointwise import pointwise
from moeverify.coupling.tracing.recorder import RULES_RAISE


class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def test_one_operation_one_rule():
    with pytest.raises(ValueError, match=r"aten\.view already has a rule"):
        rule("aten.view")(lambda call, relations: None)


def test_tags_decide_where_nothing_is_registered():
    assert rule_for("aten.tanh", torch.ops.aten.tanh.default.tags) is pointwise
    seeded = [torch.Tag.pointwise, torch.Tag.nondeterministic_seeded]
    assert rule_for("aten.unheard_of", seeded) is random
    assert rule_for("aten.unheard_of", []) is None


def test_a_rule_that_fails_freezes_and_is_named(monkeypatch):
    assert any("a.weight" in c.parameters for c in mv.trace_couplings(Square(), torch.randn(3, 4)).classes)

    def strict(call, relations):
        raise ValueError("zip() argument 2 is longer than argument 1")

    monkeypatch.setitem(RULES, "aten.tanh", strict)
    monkeypatch.setenv(RULES_RAISE, "0")
    found = mv.trace_couplings(nn.Sequential(Square()), torch.randn(3, 4))
    assert found.unknown_operations == {"aten.tanh": 1}
    assert not found.classes
    problem = "the rule for aten.tanh failed in 0: ValueError: zip() argument 2 is longer than argument 1"
    assert found.trace.failed == {"aten.tanh": problem}
    assert {f.reason for f in found.frozen if f.parameter == "0.a.weight" and f.dim == 0} == {problem}


def test_a_rule_that_fails_ends_the_trace_under_tests(monkeypatch):
    def fails(call, relations):
        raise KeyError("no such dimension")

    monkeypatch.setitem(RULES, "aten.tanh", fails)
    with pytest.raises(mv.errors.TraceError, match=r"the rule for aten\.tanh failed in \(model\): KeyError") as found:
        mv.trace_couplings(Square(), torch.randn(3, 4))
    assert isinstance(found.value.__cause__, KeyError)
