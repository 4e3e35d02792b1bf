"""The plan document of a model without a configuration: attributes that it sets, and what it leaves alone."""

import copy
import json

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.errors import PlanError, PruningRefused
from moeverify.pruning.checkpoint.plan_check import check_plan
from moeverify.pruning.checkpoint.plan_file import PlanDocument, document_plan
from moeverify.pruning.step.carry_out import carry_out

X = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(0))


class Mixer(nn.Module):
    """Views by attributes, and one class whose size is written into the forward."""

    def __init__(self):
        super().__init__()
        self.settings = {"heads": 4, "width": 24}
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.fixed, self.back, self.head = nn.Linear(16, 20), nn.Linear(20, 16), nn.Linear(16, 3)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.settings["heads"], -1).permute(2, 0, 3, 1, 4)
        x = x + self.out((torch.softmax(q @ k.mT, -1) @ v).transpose(1, 2).reshape(b, t, -1))
        x = x + self.down(self.up(x).relu().view(b, t, self.settings["width"]))
        return self.head(x + self.back(self.fixed(x).relu().view(b, t, 20)))


@pytest.fixture
def made():
    torch.manual_seed(0)
    model = Mixer().eval()
    plan = mv.MoEPruner(model, X, pruning_ratio=0.5).plan()
    return model, plan, document_plan(model, plan)


def test_a_plan_that_is_read_back_sets_the_attributes(made):
    model, plan, document = made
    pruned, again = copy.deepcopy(model), PlanDocument.from_json(document.to_json())
    assert again.to_json() == document.to_json()
    assert {str(change) for change in again.plan.attributes} == {"settings.heads 4 -> 2", "settings.width 24 -> 12"}
    carry_out(pruned, again.plan)
    carry_out(model, plan)
    assert pruned.settings == {"heads": 2, "width": 12} == model.settings
    assert torch.equal(pruned(X), model(X))


def test_what_is_left_alone_stands_in_the_document(made):
    _, _, document = made
    (left,) = PlanDocument.from_json(document.to_json()).left_alone
    assert (left["units"], left["asked"], left["kept"]) == (20, 10, 20)
    assert "test_plan_of_a_custom_model.py" in left["line"]
    assert left["reason"]


def edited(document, **changes):
    data = json.loads(document.to_json())
    data["attributes"] = [{**item, **changes} for item in data["attributes"]]
    return json.dumps(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old": 5}, "does not hold there"),
        ({"module": "nowhere"}, "does not hold there"),
        ({"steps": ["settings", "none"]}, "lists a .* twice"),
        ({"new": 40}, "no smaller than"),
        ({"new": 1}, "does not run with the plan's attributes"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(made, changes, message):
    model, _, document = made
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PlanError, match=message):
        check_plan(model, PlanDocument.from_json(edited(document, **changes)).plan, X)
    assert model.settings == {"heads": 4, "width": 24}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_all_is_undone_if_an_attribute_is_another_one(made):
    model, plan, _ = made
    model.settings["width"] = 23
    with pytest.raises(PruningRefused, match="does not hold 24"):
        carry_out(model, plan)
    assert model.settings == {"heads": 4, "width": 23}
    assert model.up.out_features == 24


def test_the_right_plan_is_accepted(made):
    model, _, document = made
    assert check_plan(model, PlanDocument.from_json(document.to_json()).plan, X) is None
