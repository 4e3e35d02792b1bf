"""Explanations: the operations named must be those that the model really runs."""

import json

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.errors import UsageError


class TwoParts(nn.Module):
    """``up`` makes both halves of a gate; only its second half meets ``other``, and ``frozen`` is softmaxed."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(4, 12, bias=False)
        self.other = nn.Linear(4, 6, bias=False)
        self.down = nn.Linear(6, 4, bias=False)
        self.frozen = nn.Linear(4, 5, bias=False)

    def forward(self, x):
        gate, value = self.up(x)[..., :6], self.up(x)[..., 6:]
        y = self.down(torch.tanh(gate) * value + self.other(x))
        return y, torch.softmax(torch.relu(self.frozen(y)), -1)


@pytest.fixture(scope="module")
def couplings():
    torch.manual_seed(0)
    return mv.trace_couplings(TwoParts(), torch.randn(3, 4))


def test_partners_and_the_way_to_them(couplings):
    answer = couplings.explain("down.weight", 1, 2)
    found = {partner.parameter: partner for partner in answer.together}
    assert {name: partner.positions for name, partner in found.items()} == {
        "up.weight": (2, 8),
        "other.weight": (2,),
        "down.weight": (2,),
    }
    assert found["down.weight"].chain == ()
    steps = [step.name for step in found["other.weight"].chain]
    assert steps == ["aten.t", "aten.mm", "aten.add", "aten.mm", "aten.t"]
    assert found["other.weight"].chain[-1].module == "other"
    assert "aten.slice" in {step.name for step in found["up.weight"].chain}
    assert answer.frozen is None


def test_frozen_names_operation_and_chain(couplings):
    answer = couplings.explain("frozen.weight", 0, 4)
    assert "softmax" in answer.frozen.reason
    assert answer.frozen.operation == "aten._softmax in (model)"
    assert [step.name for step in answer.chain] == ["aten.relu", "aten.mm", "aten.t"]
    assert not answer.together


def test_an_explanation_is_plain_data(couplings):
    data = json.loads(json.dumps(couplings.explain("down.weight", 1, 2).to_dict()))
    assert data["position"] == 2
    assert {"operation": "aten.mm", "module": "other"} in data["together"][1]["chain"]
    assert "softmax" in couplings.explain("frozen.weight", 0, 0).to_dict()["frozen"]["reason"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("dwn.weight", 0, 0), "did you mean down.weight"),
        (("down.weight", 2, 0), "has no dimension 2"),
        (("down.weight", 1, 6), "has no position 6"),
        (("down.weight", -1, 0), "has no dimension -1"),
    ],
)
def test_wrong_questions_are_answered_with_what_there_is(couplings, place, message):
    with pytest.raises(UsageError, match=message):
        couplings.explain(*place)


def test_tied_parameters_answer_under_both_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(torch.tanh(self.embed(ids)))

    couplings = mv.trace_couplings(Tied(), torch.arange(5))
    assert couplings.explain("head.weight", 1, 3).together == couplings.explain("embed.weight", 1, 3).together


class Headed(nn.Module):
    """Heads can go; channels inside of them, which a scale of its own multiplies, then stay."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 12), nn.Linear(12, 2), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.b((self.a(x).view(2, 3, 4) * self.scale).tanh().flatten(1))


def test_a_factor_that_stays_names_the_line_that_divides_and_the_factor_that_goes():
    (frozen,) = [f for f in mv.trace_couplings(Headed(), torch.randn(2, 4)).frozen if f.parameter == "scale"]
    assert "divides a dimension into 3 x 4, and only the factor 3 is pruned" in frozen.reason
    assert frozen.line.endswith(f"test_explain.py:{Headed.forward.__code__.co_firstlineno + 1}")


def test_what_the_model_as_a_whole_freezes_names_no_operation():
    (frozen,) = [f for f in mv.trace_couplings(Headed(), torch.randn(2, 4)).frozen if f.parameter == "b.weight"][:1]
    assert str(frozen) == f"dimension 0 of b.weight is frozen: {frozen.reason}"
