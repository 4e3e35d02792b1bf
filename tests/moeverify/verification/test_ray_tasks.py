"""What a task of the Ray executor does, without a cluster: one fork server for all cases of a process."""

import os

import pytest

from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.executors import ray as executor
from moeverify.verification.limits import Limits

pytestmark = pytest.mark.slow  # three fork servers


@pytest.fixture(autouse=True)
def closed():
    yield
    executor._close_workers()


def statuses(source, folder):
    case = Case(source, checks=("something-pruned",))
    events, refused = executor._run_case(case.to_dict(), Limits(seconds=120), str(folder))
    assert refused is None
    return [event.verdict.status for event in events if isinstance(event, VerdictReached)]


def test_cases_share_a_fork_server_unless_it_ended_or_the_folder_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert statuses("synthetic:listed", tmp_path) == [Status.PASS]
    (first,) = executor._WORKERS.values()
    assert statuses("zoo:none", tmp_path) == [Status.ERROR]
    assert list(executor._WORKERS.values()) == [first]
    first.give_up()
    assert statuses("synthetic:listed", tmp_path) == [Status.PASS]
    (second,) = executor._WORKERS.values()
    assert second is not first
    (tmp_path / "other").mkdir()
    assert statuses("synthetic:listed", tmp_path / "other") == [Status.PASS]
    assert not second.alive
    assert list(executor._WORKERS) == [os.getcwd()]
