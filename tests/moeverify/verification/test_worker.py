"""A hang, a crash and a memory hog are verdicts; the worker goes on with the next case."""

import pytest
from stand_ins import crashes, dies, eats_memory, hangs, slow

from moeverify.errors import SourceError
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import CaseFinished, VerdictReached
from moeverify.verification.limits import Limits
from moeverify.verification.worker import Worker

CHECKS = ("terminates", "something-pruned", "shapes")


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


def run(worker, subject, limits=None, source="stand_ins:two_layers"):
    events = []
    name = subject if isinstance(subject, str) else f"stand_ins:{subject.__name__}"
    worker.run(Case(source, subject=name, checks=CHECKS), limits or Limits(60, 8), events.append)
    assert isinstance(events[-1], CaseFinished)
    return {e.verdict.check: e.verdict for e in events if isinstance(e, VerdictReached)}


@pytest.mark.slow
def test_a_hang_names_its_frame(worker):
    verdicts = run(worker, hangs, Limits(seconds=3))
    assert verdicts["terminates"].status is Status.TIMEOUT
    assert "hangs (support/stand_ins.py:" in verdicts["terminates"].message
    assert verdicts["terminates"].evidence["frames"][0].startswith("hangs ")
    assert {verdicts[name].status for name in CHECKS[1:]} == {Status.SKIP}


def test_a_crash_is_an_error(worker):
    verdicts = run(worker, crashes)
    assert verdicts["terminates"].status is Status.ERROR
    assert "ZeroDivisionError): by design" in verdicts["terminates"].message


def test_a_dead_process_is_an_error(worker):
    verdicts = run(worker, dies)
    assert verdicts["terminates"].status is Status.ERROR
    assert "SIGSEGV in stage prune" in verdicts["terminates"].message


def test_too_much_memory_is_an_error(worker):
    verdicts = run(worker, eats_memory, Limits(seconds=60, gibibytes=1.5))
    assert verdicts["terminates"].status is Status.ERROR
    assert "GiB of memory in stage prune (allowed 1.5)" in verdicts["terminates"].message


def test_a_source_that_cannot_be_loaded_is_raised(worker):
    with pytest.raises(SourceError, match=r"stand_ins:raises failed: ZeroDivisionError: by design"):
        run(worker, "moe", source="stand_ins:raises")


def test_the_worker_goes_on_afterwards(worker):
    assert worker.alive
    verdicts = run(worker, slow)
    assert {v.status for v in verdicts.values()} == {Status.PASS}
