"""Parts of a run on machines that know nothing of each other, and their reports joined."""

from dataclasses import replace

import pytest

import moeverify as mv
from moeverify.cli import main
from moeverify.errors import ReportError, UsageError
from moeverify.report.merge import merge_results
from moeverify.report.result import VerificationResult
from moeverify.verification.case import Case
from moeverify.verification.executors.registry import EXECUTORS, executor, executor_named
from moeverify.verification.shards import parse_shard

NAMES = ["a", "b", "c", "d", "e"]
CHECKS = ["terminates", "something-pruned"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_are_disjoint_and_complete(count):
    cases = [Case(name) for name in NAMES]
    parts = [parse_shard(f"{k}/{count}").of(cases) for k in range(1, count + 1)]
    assert sorted(case.source for part in parts for case in part) == NAMES


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "a/b", "²/3"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="a shard is written K/N"):
        parse_shard(text)


def test_a_shard_without_a_source_is_refused():
    with pytest.raises(UsageError, match="shard 3/3 has no source: there are 2"):
        parse_shard("3/3").of([Case("a"), Case("b")])


@pytest.fixture(scope="module")
def shards():
    sources = ["synthetic:listed", "synthetic:fused", "synthetic:soft"]
    return [mv.verify(sources, checks=CHECKS, workers=1, shard=f"{number}/2") for number in (1, 2)]


def test_their_reports_are_joined_in_the_order_of_the_whole_run(shards):
    assert [v.source for v in shards[1].verdicts] == ["synthetic:fused"] * 2
    for order in (shards, shards[::-1]):
        whole = merge_results(order)
        assert [v.source for v in whole.verdicts[::2]] == ["synthetic:listed", "synthetic:fused", "synthetic:soft"]
        assert [case.source for case in whole.cases] == ["synthetic:listed", "synthetic:fused", "synthetic:soft"]
        assert whole.ok
        assert "shard" not in whole.settings
        assert VerificationResult.from_json(whole.to_json()).summary["pass"] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: [a], "shard 2/2 is missing"),
        (lambda a, b: [a, a, b], "shard 1/2 comes twice"),
        (lambda a, b: [a, replace(b, settings={**b.settings, "seed": 9})], "under other settings .* seed is 9, not 0"),
        (lambda a, b: [a, replace(b, versions={**b.versions, "torch": "1"})], "under other versions .* torch is '1'"),
        (lambda a, b: [a, replace(b, verdicts=())], "do not hold the sources that they name: synthetic:fused"),
        (lambda a, b: [replace(a, settings={"seed": 0})], "a report without --shard is whole"),
        (lambda a, b: [], "no report to merge"),
    ],
)
def test_what_makes_no_whole_is_refused(shards, change, message):
    with pytest.raises(ReportError, match=message):
        merge_results(change(*shards))


def call(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


def test_the_command_writes_one_report(shards, tmp_path, capsys):
    for number, result in enumerate(shards):
        result.write(tmp_path / str(number))
    assert call("merge-reports", tmp_path / "0", tmp_path / "1", "--report", tmp_path / "all") == 0
    assert "6 pass" in capsys.readouterr().out
    assert (tmp_path / "all" / "report.html").exists()
    assert call("merge-reports", tmp_path / "0", "--report", tmp_path / "part") == 2
    assert not (tmp_path / "part").exists()


def test_an_executor_of_another_package_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr("moeverify.verification.executors.registry.EXECUTORS", dict(EXECUTORS))

    @executor("nowhere")
    def nowhere(work):
        asked.append(([case.source for case in work.cases], work.address, work.workers))
        executor_named("local")(work)

    found = mv.verify("synthetic:listed", checks=["terminates"], executor="nowhere", address="here", workers=1)
    assert asked == [(["synthetic:listed"], "here", 1)]
    assert found.ok
    with pytest.raises(ValueError, match="two executors are named nowhere"):
        executor("nowhere")(nowhere)
    with pytest.raises(UsageError, match="unknown executor 'moon'; there is local, nowhere, ray"):
        mv.verify("synthetic:listed", executor="moon")
