"""The plan document: small, validated, the same when read back."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import moeverify as mv
from moeverify.base.positions import from_text, to_text
from moeverify.errors import PlanError, PruningRefused
from moeverify.models.zoo import build_zoo
from moeverify.pruning.checkpoint.digest import digest_of
from moeverify.pruning.checkpoint.plan_file import PlanDocument, document_plan
from moeverify.pruning.plan.expert_cut import ExpertCut
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.step.carry_out import carry_out

IDS = torch.arange(32).view(2, 16)


@given(st.sets(st.integers(0, 200)))
def test_positions_come_back_from_text(positions):
    ascending = sorted(positions)
    assert from_text(to_text(ascending)).tolist() == ascending


@pytest.mark.parametrize("text", ["3-1", "1,1", "5,2", "a", "1-2-3"])
def test_positions_that_do_not_ascend_are_refused(text):
    with pytest.raises(ValueError, match=r"ascend|invalid literal"):
        from_text(text)


@pytest.fixture(scope="module")
def made():
    model = build_zoo("mixtral")
    plan = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5, ignored_layers=[model.lm_head]).plan()
    return model, plan, document_plan(model, plan)


def test_a_plan_reads_back_as_it_was_written(made):
    _, plan, document = made
    again = PlanDocument.from_json(document.to_json())
    assert again.to_json() == document.to_json()
    assert again.plan.keep.keys() == plan.keep.keys()
    assert all(np.array_equal(again.plan.keep[key], kept) for key, kept in plan.keep.items())
    assert again.plan.entries == plan.entries


def test_carried_out_from_the_document(made):
    _, plan, document = made
    first, second = build_zoo("mixtral"), build_zoo("mixtral")
    carry_out(first, plan)
    carry_out(second, PlanDocument.from_json(document.to_json()).plan)
    assert digest_of(first) == digest_of(second) != document.base.digest
    assert first.config.to_dict() == second.config.to_dict()
    with pytest.raises(PruningRefused):
        carry_out(first, plan)


def test_a_digest_sees_every_value_and_name():
    model = build_zoo("mixtral")
    before = digest_of(model)
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-6
    assert digest_of(model) != before == digest_of(build_zoo("mixtral"))


def edited(document, **changes):
    return json.dumps({**json.loads(document.to_json()), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": "0.1"}, "at schema_version"),
        ({"keep": []}, "at keep"),
        ({"sets": ["4-2"]}, "not a pruning plan"),
        ({"sets": []}, "not a pruning plan"),
        ({"extra": 1}, "Additional properties"),
        ({"config": [{"path": [], "value": 1}]}, "at config/0/path"),
    ],
)
def test_what_is_no_plan(made, changes, message):
    with pytest.raises(PlanError, match=message):
        PlanDocument.from_json(edited(made[2], **changes))


def test_what_is_no_file(tmp_path):
    with pytest.raises(PlanError, match="cannot read"):
        PlanDocument.read(tmp_path / "absent.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot read"):
        PlanDocument.read(tmp_path / "binary")


@pytest.mark.parametrize("replaced", [{}, {1: 0, 3: 2}])
def test_who_takes_the_place_of_removed_experts_is_read_back(made, replaced):
    model, _, _ = made
    cut = ExpertCut("mlp", "mlp.experts", 4, np.array([0, 2]), tables=("mlp.ids",), replaced=replaced)
    plan = Plan((), {("norm", 0): np.array([0])}, sizes={("norm", 0): 2}, experts=(cut,))
    text = document_plan(model, plan).to_json()
    again = PlanDocument.from_json(text)
    assert again.plan.experts[0].replaced == replaced
    assert again.to_json() == text


@pytest.mark.parametrize("pairs", [[[1, 3]], [[0, 2]], [[1, 0], [1, 2]], [[9, 0]]])
def test_only_kept_experts_take_the_place_of_removed_ones(made, pairs):
    model, _, _ = made
    cut = ExpertCut("mlp", "mlp.experts", 4, np.array([0, 2]), tables=("mlp.ids",))
    plan = Plan((), {("norm", 0): np.array([0])}, sizes={("norm", 0): 2}, experts=(cut,))
    data = json.loads(document_plan(model, plan).to_json())
    data["experts"][0]["replaced"] = pairs
    with pytest.raises(PlanError, match="mlp replaces removed experts, each once, by others than those it keeps"):
        PlanDocument.from_json(json.dumps(data))
