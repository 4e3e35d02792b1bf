"""Folders of our own pruner pass certification; the committed table has no problem."""

import json
from pathlib import Path

import pytest

from benchmarks.certify_zoo import CUTS, certify_cut, table
from moeverify.models.zoo import zoo_types

BASELINE = Path(__file__).parents[2] / "reports/baselines/certify-zoo.json"
QUICK = {("mixtral", "all"), ("deepseek_v3", "experts")}
MORE = [("gpt_oss", "all"), ("dbrx", "all"), ("deepseek_v4", "hidden"), ("nemotron_h", "all"), ("qwen3_next", "heads")]


@pytest.mark.parametrize(
    ("model_type", "cut"), [*sorted(QUICK), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in MORE)]
)
def test_what_our_pruner_writes_passes(model_type, cut, tmp_path):
    row = certify_cut(model_type, cut, tmp_path)
    assert (row["problems"], row["unseen"]) == ({}, {})
    assert row["class"] in ("pure selection", "selection with rescaled weights")
    assert row["passed"] == 11


def test_a_refusal_and_a_problem_stand_in_the_table():
    rows = {
        "one": {"experts": {"class": "", "passed": 11, "problems": {}, "unseen": {}}},
        "two": {
            "experts": {"refused": "no entry counts them"},
            "heads": {
                "class": "",
                "passed": 9,
                "problems": {"layout": "x is missing"},
                "unseen": {"causal": "not run"},
            },
        },
    }
    page = table(rows, {"moeverify": "1"})
    assert (
        "2 folders of 2 types: 1 with a problem, 1 with something that could not be seen. 1 prunings were refused"
        in page
    )
    assert "- two, heads, layout: x is missing" in page
    assert "- two, experts, refused: no entry counts them" in page


def test_the_committed_table_is_complete_and_clean():
    results = json.loads(BASELINE.read_text("utf-8"))["results"]
    assert set(results) == set(zoo_types())
    assert [
        (n, cut, r["problems"]) for n, cuts in results.items() for cut, r in cuts.items() if r.get("problems")
    ] == []
    assert all(set(cuts) <= set(CUTS) and "all" in cuts for cuts in results.values())
