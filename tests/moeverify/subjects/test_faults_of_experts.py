"""Every fault of whole experts is caught by the checks that name its cause."""

import re

import pytest

from moeverify.subjects.faults import all_faults
from moeverify.suites.self_test import case_of
from moeverify.verdict import PROBLEMS
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case

FAULTS = [fault for fault in all_faults() if fault.family == "experts"]
QUICK = {"experts/rows-of-others", "experts/bias-not-following", "experts/uneven-groups", "experts/top-k-lowered"}


@pytest.mark.parametrize(
    "fault", [f if f.name in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS], ids=lambda f: f.name
)
def test_the_cause_is_named(fault):
    reached = []
    run_case(case_of(fault, tuple(fault.caught_by)), reached.append)
    verdicts = {e.verdict.check: e.verdict for e in reached if isinstance(e, VerdictReached)}
    for check, message in fault.caught_by.items():
        assert verdicts[check].status in PROBLEMS
        assert re.search(message, verdicts[check].message), verdicts[check].message


def test_there_are_faults_of_every_kind():
    assert len(FAULTS) >= 15
    assert {check for fault in FAULTS for check in fault.caught_by} >= {"router-intact", "topology", "causal"}
