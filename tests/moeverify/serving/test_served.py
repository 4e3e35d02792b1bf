"""Base and pruned folders in engines: what transformers takes and engines do not is told apart."""

import html
import re
from pathlib import Path

import pytest
import torch
from everyday import not_only_by_night

import moeverify as mv
from moeverify.errors import UsageError
from moeverify.models.sources import quiet_transformers
from moeverify.models.zoo import build_zoo
from moeverify.report.engines import engine_rows
from moeverify.serving import stand_in
from moeverify.serving.engines import engines_named
from moeverify.serving.served import Asked, serve_pair
from moeverify.subjects.faults import find_fault
from moeverify.subjects.faults.spoil_folders import keep_experts
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case

WORKER = Path(stand_in.__file__).parent / "serve_stand_in.py"


@pytest.fixture
def pair(tmp_path):
    """A base folder of a zoo type, and a folder that ``prune(base, out)`` made of it."""

    def made(model_type, prune):
        base, pruned = tmp_path / "base", tmp_path / "pruned"
        with quiet_transformers():
            build_zoo(model_type).save_pretrained(base)
        prune(base, pruned)
        return base, pruned

    return made


def right(base, out):
    keep_experts(base, out, [1, 3])


def not_renumbered(base, out):
    keep_experts(base, out, [1, 3], renumber=False)


def outcome(pair, seconds=120.0):
    (found,) = serve_pair(*pair, engines_named("fake"), Asked(seconds=seconds))
    return found


@pytest.mark.parametrize("rules", ["strict", pytest.param("lenient", marks=pytest.mark.slow)])
def test_a_right_pruning_is_served_alike(engine, pair, rules):
    engine(WORKER, environment={"STAND_IN": rules})
    found = outcome(pair("mixtral", right))
    assert found.status is Status.PASS, found.message
    assert max(found.base + found.pruned) < 1e-4


@pytest.mark.slow
def test_experts_that_were_not_renumbered_run_in_transformers_and_not_in_an_engine(engine, pair):
    engine(WORKER)
    found = outcome(pair("mixtral", not_renumbered))
    assert found.status is Status.FAIL
    assert "serves the base and refuses the pruned model: KeyError: experts.3" in found.message


# Fault -> what the strict and the lenient stand-in make of it.
TOLD_APART = {
    "serving/experts-not-renumbered": (r"KeyError: experts\.3", r"gives numbers for the base, and none for the pruned"),
    "serving/groups-that-do-not-divide": (r"5 experts do not divide into 2 groups", r"computes something else"),
    "serving/table-not-mapped": (r"expert id 3 of .* is out of range", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", not_only_by_night(TOLD_APART, {"serving/experts-not-renumbered"}))
def test_a_report_lists_a_wrong_pruning_by_engine(name, tmp_path):
    fault = find_fault(name)
    engines = ["stand-in", "stand-in-lenient"]
    result = mv.verify(fault.source, subject=f"fault:{name}", checks=["served"], engines=engines, load=fault.load)
    (verdict,) = result.verdicts
    assert verdict.status is Status.FAIL
    rows = {row["engine"]: row for row in engine_rows(verdict.to_dict())}
    strict, lenient = TOLD_APART[name]
    assert rows["stand-in"]["status"] == "fail"
    assert re.search(strict, rows["stand-in"]["message"])
    assert re.search(lenient, rows["stand-in-lenient"]["message"])
    assert rows["stand-in-lenient"]["status"] == ("fail" if lenient else "pass")
    page = result.to_html(tmp_path / "report.html").read_text("utf-8")
    table = page.partition('<table class="engines">')[2].partition("</table>")[0]
    assert rows["stand-in"]["message"] in html.unescape(table)


def test_the_check_serves_what_the_subject_pruned(engine):
    engine(WORKER)
    events = []
    run_case(Case("zoo:mixtral", "moe", checks=("served",), engines=("fake",)), events.append)
    (verdict,) = [e.verdict for e in events if isinstance(e, VerdictReached)]
    assert verdict.status is Status.PASS, verdict.message
    (facts,) = verdict.evidence["engines"]
    assert facts["engine"] == "fake"
    assert facts["version"] == "1"
    assert len(facts["pruned"]) == 8


@pytest.mark.slow
def test_certify_serves_both_folders_only_if_engines_are_named(engine, pair):
    engine(WORKER)
    folders = pair("mixtral", not_renumbered)
    found = {v.check: v for v in mv.certify(*folders, oracle="sample", engines=["fake"]).verdicts}
    assert found["served"].status is Status.FAIL
    assert "--engines fake" in found["served"].reproduce
    assert "served" not in {v.check for v in mv.certify(*folders, oracle="none").verdicts}


def test_without_an_engine_that_is_there_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEVERIFY_CACHE", str(tmp_path / "cache"))
    found = serve_pair(tmp_path / "no", tmp_path / "folders", engines_named("vllm,llama.cpp"))
    assert [o.status for o in found] == [Status.SKIP, Status.SKIP]
    assert "moeverify engines install vllm" in found[0].message


def test_an_unknown_engine_is_refused_before_any_work():
    with pytest.raises(UsageError, match="unknown engine 'sglang'; the engines are"):
        mv.verify("zoo:mixtral", engines=["sglang"])
    with pytest.raises(UsageError, match="unknown engine 'sglang'"):
        mv.certify("a", "b", engines=["sglang"])


def test_models_that_no_engine_can_serve_are_skipped(engine):
    engine(WORKER)
    events = []
    run_case(Case("dense_models:linear", "moe", checks=("served",), engines=("fake",)), events.append,
             loaded=_plain_model())  # fmt: skip
    (verdict,) = [e.verdict for e in events if isinstance(e, VerdictReached)]
    assert verdict.status is Status.SKIP


def _plain_model():
    from moeverify.models.sources import LoadedModel

    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    return LoadedModel("plain", model, (torch.randn(2, 8),))
