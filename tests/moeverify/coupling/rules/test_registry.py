"""How rules are found, and what happens without one."""

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.coupling.rules import RULES, rule, rule_for
from moeverify.coupling.rules.creation import random
from moeverify.coupling.rules.pointwise import pointwise


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


def test_a_rule_that_cannot_cope_counts_as_missing(monkeypatch):
    assert any("a.weight" in c.parameters for c in mv.trace_couplings(Square(), torch.randn(3, 4)).classes)

    def strict(call, relations):
        raise ValueError("zip() argument 2 is longer than argument 1")

    monkeypatch.setitem(RULES, "aten.tanh", strict)
    found = mv.trace_couplings(Square(), torch.randn(3, 4))
    assert found.unknown_operations == {"aten.tanh": 1}
    assert not found.classes
