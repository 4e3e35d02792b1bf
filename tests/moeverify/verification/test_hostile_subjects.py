"""Whatever a subject does to its process, the run ends with a verdict on it, and goes on with the next case."""

import hostile_subjects
import pytest

from moeverify.errors import SubjectError
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import CaseFinished, VerdictReached
from moeverify.verification.limits import Limits
from moeverify.verification.worker import Worker

CHECKS = ("terminates", "something-pruned", "shapes")


@pytest.fixture(scope="module")
def workers():
    """A function that returns a worker, a new one where the last was killed."""
    held = []

    def get():
        if not held or not held[-1].alive:
            held.append(Worker())
        return held[-1]

    yield get
    for worker in held:
        worker.close()


def run(workers, subject, seconds=60.0, gibibytes=8.0, checks=CHECKS, source="stand_ins:two_layers"):
    events = []
    case = Case(source, subject=subject if ":" in subject else f"hostile_subjects:{subject}", checks=checks)
    workers().run(case, Limits(seconds, gibibytes), events.append)
    assert isinstance(events[-1], CaseFinished)
    return {e.verdict.check: e.verdict for e in events if isinstance(e, VerdictReached)}


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("exits", "the subject left by SystemExit(0)"),
        ("interrupts", "the subject left by KeyboardInterrupt()"),
        ("ends_a_generator", "the subject left by GeneratorExit()"),
        ("leaves_at_once", "the subject left by os._exit(0)"),
        ("leaves_from_c", "the process ended with exit status 0 in stage prune"),
        ("says_nothing", "the subject crashed (ValueError): no message"),
        ("cannot_say_it", "the subject crashed (Wordless): no message"),
        ("writes_a_line", "the subject wrote what is no message of the case"),
        ("forges_passes", "there is no message 'verdict'"),
    ],
)
def test_no_way_out_is_a_pass(workers, subject, message):
    verdicts = run(workers, subject)
    assert verdicts["terminates"].status is Status.ERROR
    assert message in verdicts["terminates"].message
    assert {verdicts[name].status for name in CHECKS[1:]} == {Status.SKIP}


@pytest.mark.parametrize(
    "subject", ["changes_group_and_hangs", pytest.param("stops_the_fork_server", marks=pytest.mark.slow)]
)
def test_limits_hold_wherever_a_subject_moves(workers, subject):
    verdicts = run(workers, subject, seconds=3)
    assert verdicts["terminates"].status is Status.TIMEOUT


def test_a_killed_fork_server_is_an_error_and_leaves_nothing_behind(workers):
    verdicts = run(workers, "kills_the_fork_server")
    assert verdicts["terminates"].status is Status.ERROR
    assert "the fork server was ended or stopped in stage prune" in verdicts["terminates"].message


def test_a_deleted_folder_takes_no_verdict_away(workers):
    verdicts = run(workers, "deletes_the_folder", checks=("terminates", "reload"))
    assert "and now I crash" in verdicts["terminates"].message


def test_the_end_of_a_flood_of_output_is_kept(workers):
    verdicts = run(workers, "floods_the_output")
    assert "SIGSEGV in stage prune" in verdicts["terminates"].message
    assert verdicts["terminates"].evidence["output"].rstrip().endswith("the last words")
    assert len(verdicts["terminates"].evidence["output"]) <= 4000


def test_memory_of_a_grandchild_with_its_own_session_counts(workers):
    verdicts = run(workers, "lets_a_grandchild_eat", gibibytes=1.5)
    assert "GiB of memory in stage prune (allowed 1.5)" in verdicts["terminates"].message


def test_a_daemon_does_not_outlive_its_case(workers):
    verdicts = run(workers, "leaves_a_daemon")
    assert verdicts["terminates"].status is Status.PASS
    assert hostile_subjects.daemons() == []


def test_a_module_that_exits_when_it_is_imported_is_one_line(workers):
    with pytest.raises(SubjectError, match=r"cannot import exits_on_import:prune: left by SystemExit\(0\); put what"):
        run(workers, "exits_on_import:prune")


def test_a_module_that_hangs_when_it_is_imported_times_out(workers):
    verdicts = run(workers, "hangs_on_import:prune", seconds=3)
    assert verdicts["terminates"].status is Status.TIMEOUT
    assert "importing the subject did not finish within 3 s" in verdicts["terminates"].message


def test_a_module_that_takes_all_memory_when_it_is_imported_is_stopped(workers):
    verdicts = run(workers, "eats_on_import:prune", gibibytes=1.5)
    assert "GiB of memory in stage import (allowed 1.5)" in verdicts["terminates"].message


def test_the_worker_goes_on_afterwards(workers):
    verdicts = run(workers, "stand_ins:slow")
    assert {v.status for v in verdicts.values()} == {Status.PASS}
