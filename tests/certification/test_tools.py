"""Folders in the manner of public tools, over architectures that the catalogue does not have."""

from operator import attrgetter

import pytest
from everyday import everyday
from tool_folders import RIGHT, WRONG

from moeverify.certification.certify import examine
from moeverify.verdict import Status

# In the everyday suite; the others take as long each.
EVERYDAY_RIGHT = {"reap-of-each-layer", "one-tensor-an-expert-from-fused-ones-with-a-nested-count"}
EVERYDAY_WRONG = {
    "experts-in-the-order-of-their-names",
    "prediction-layer-copied-as-it-was",
    "bias-beside-the-router-in-another-order",
}
NAME = attrgetter("name")


@pytest.mark.parametrize("case", everyday(RIGHT, EVERYDAY_RIGHT, NAME), ids=NAME)
def test_right_folders_do_not_fail(case, tmp_path):
    case.make(tmp_path)
    found = examine(tmp_path / "base", tmp_path / "pruned")
    assert [(v.check, v.message) for v in found.verdicts if v.status is Status.FAIL] == []
    assert sum(v.status is Status.PASS for v in found.verdicts) >= 7


@pytest.mark.parametrize("case", everyday(WRONG, EVERYDAY_WRONG, NAME), ids=NAME)
def test_wrong_folders_fail_with_their_cause(case, tmp_path):
    case.make(tmp_path)
    found = examine(tmp_path / "base", tmp_path / "pruned")
    failed = {v.check: v.message for v in found.verdicts if v.status is Status.FAIL}
    assert case.relation in failed, {v.check: (v.status.value, v.message) for v in found.verdicts}
    assert next(iter(failed)) == case.relation, failed  # the cause comes first
    assert case.words in failed[case.relation]
