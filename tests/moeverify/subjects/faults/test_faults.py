"""Every fault is caught by the checks that are to name its cause, in the words they are to use."""

import re

import pytest
from everyday import everyday, not_only_by_night
from releases import needs

from moeverify.base.extensions import load_modules
from moeverify.checks import CHECKS, default_names
from moeverify.errors import UsageError
from moeverify.models.sources import load_source
from moeverify.subjects.faults import all_faults, find_fault
from moeverify.subjects.faults.unsteady import order_of_addresses
from moeverify.suites.self_test import Examined, SelfTest, case_of, self_test
from moeverify.verdict import PROBLEMS, Status, Verdict
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case

FAULTS = all_faults()
ENDLESS = [f for f in FAULTS if f.family == "endless"]
# They reach for what judges them, and must not reach the tests.
CHEATING = [f for f in FAULTS if f.family == "cheating"]
# Loading anew in a fresh process, and tasks of lm-eval, take seconds of processor time.
COSTLY = ("reload", "quality")
# Of those, one that each way of saving gets wrong; the others run by night.
AT_ANY_TIME = {"folders/router-left-out", "kinds/plain-tensor", "ratio/the-best-removed", "saving/key-dropped"}


def messages(fault, checks):
    verdicts = []
    load_modules(fault.load)
    run_case(case_of(fault, tuple(checks)), lambda e: isinstance(e, VerdictReached) and verdicts.append(e.verdict))
    open_too = (Status.INCONCLUSIVE,) if fault.inconclusive else ()
    return {v.check: v.message for v in verdicts if v.status in (*PROBLEMS, *open_too)}


def assert_caught(fault, checks):
    assert checks, f"nothing of {fault.name} is tried here"
    said = messages(fault, checks)
    for check in checks:
        assert re.search(fault.caught_by[check], said.get(check, "")), (check, said)


BY_NAME = [f for f in FAULTS if f not in (*ENDLESS, *CHEATING) and {*f.caught_by} - {*COSTLY}]
# The first of each family, but for engines, which take seconds to serve both models.
EVERYDAY = {f.family: f.name for f in reversed(BY_NAME) if f.family != "serving"}.values()


@pytest.mark.parametrize("fault", everyday(BY_NAME, EVERYDAY, lambda f: f.name), ids=lambda f: f.name)
def test_fault_is_caught_by_name(fault):
    needs(fault.source.removeprefix("zoo:"))
    assert_caught(fault, [name for name in CHECKS if name in fault.caught_by and name not in COSTLY])


def test_addresses_that_fall_in_the_same_order_again_are_not_left_to_luck(monkeypatch):
    loaded = load_source("synthetic:listed")
    names = [
        n for e in (0, 1) for n, _ in loaded.model.named_parameters() if n.endswith(f"experts.{e}.gate_proj.weight")
    ]
    addresses = iter([*range(len(names)), *reversed(range(len(names)))])
    monkeypatch.setattr(order_of_addresses, "_address", lambda model, name: next(addresses))
    monkeypatch.setattr(order_of_addresses, "LAST", list(names))
    monkeypatch.setattr(order_of_addresses, "ALIVE", [])
    order_of_addresses.prune(loaded.model, loaded.example_inputs, pruning_ratio=0.5, seed=0)
    assert names[::-1] == order_of_addresses.LAST
    assert len(order_of_addresses.ALIVE) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    not_only_by_night(
        [f for f in FAULTS if {*COSTLY} & {*f.caught_by} and f not in CHEATING], AT_ANY_TIME, lambda f: f.name
    ),
    ids=lambda f: f.name,
)
def test_fault_is_caught_at_some_cost(fault):
    if not fault.possible:
        pytest.skip(f"needs {', '.join(fault.needs)}; `tox run -e tests` installs it")
    assert_caught(fault, [name for name in COSTLY if name in fault.caught_by])


@pytest.mark.slow
def test_faults_that_do_not_come_back_are_verdicts():
    result = self_test([f.name for f in ENDLESS], workers=2)
    assert {t.fault.name: [v.message for v in t.problems] for t in result.missed} == {}
    statuses = {t.fault.name: t.verdicts[0].status for t in result.faults}
    assert statuses == {
        "endless/exception": Status.ERROR,
        "endless/expansion": Status.TIMEOUT,
        "endless/loop": Status.TIMEOUT,
        "endless/memory": Status.ERROR,
    }


def test_there_are_enough_faults_and_each_has_a_description():
    assert len(FAULTS) >= 40
    assert len({f.family for f in FAULTS}) >= 15
    for fault in FAULTS:
        assert fault.cause.endswith("."), fault.name
        assert fault.caught_by, fault.name
        assert set(fault.caught_by) <= set(CHECKS), fault.name
    # Every check that runs by default is to catch something.
    assert {name for f in FAULTS for name in f.caught_by} >= set(default_names())


def test_an_unknown_fault_is_refused():
    with pytest.raises(UsageError, match="no fault 'leaks/none'"):
        find_fault("leaks/none")


def outcome_of(name, **statuses):
    fault = find_fault(name) if name else None
    source = fault.source if fault else "zoo:mixtral"
    messages = {"something-pruned": "nothing was pruned", "shapes": "does not run"}
    verdicts = tuple(
        Verdict(source, "", check.replace("_", "-"), status, messages.get(check.replace("_", "-"), "passes"))
        for check, status in statuses.items()
    )
    return Examined(case_of(find_fault("ratio/nothing")), fault, verdicts)


def test_the_matrix_lists_what_was_missed_and_never_ran():
    caught = outcome_of("ratio/nothing", something_pruned=Status.FAIL, shapes=Status.PASS, reload=Status.SKIP)
    elsewhere = outcome_of("ratio/only-set-to-zero", something_pruned=Status.PASS, shapes=Status.FAIL)
    right = outcome_of("", something_pruned=Status.PASS, shapes=Status.PASS)
    checks = ("something-pruned", "shapes", "reload")
    result = SelfTest((caught, elsewhere), (right,), checks, 1.0)
    assert not result.ok
    assert result.missed == (elsewhere,)
    assert result.exit_code == 1
    assert result.never_ran == ("reload",)
    assert result.idle == ()
    table = result.to_markdown()
    assert "1 of 2 faults caught" in table
    assert "| **N** | · |   |" in table
    assert "missed by something-pruned" in table
    assert '"caught": false' in result.to_json()
    alarm = outcome_of("", something_pruned=Status.PASS, shapes=Status.ERROR)
    assert [v.check for v in SelfTest((caught,), (alarm,), checks, 1.0).false_alarms] == ["shapes"]
    assert SelfTest((caught,), (right,), checks, 1.0).ok


@pytest.mark.slow
def test_who_reaches_for_the_court_is_caught_in_a_process_of_his_own():
    assert len(CHEATING) >= 20
    result = self_test([f.name for f in CHEATING], workers=2)
    assert {t.fault.name: [v.message for v in t.problems] for t in result.missed} == {}
