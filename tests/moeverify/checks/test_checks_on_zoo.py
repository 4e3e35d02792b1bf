"""Every check passes on our pruner; a crash is a verdict. What each check catches: tests/moeverify/faults."""

import pytest

from moeverify.checks import default_names
from moeverify.subjects import BUILT_IN
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import CaseFinished, VerdictReached
from moeverify.verification.in_process import run_case


def collect(case):
    events = []
    run_case(case, events.append)
    verdicts = {e.verdict.check: e.verdict for e in events if isinstance(e, VerdictReached)}
    facts = [e.facts for e in events if isinstance(e, CaseFinished)]
    return verdicts, facts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "dtype"),
    [
        ("qwen2_moe", "float32"),
        ("mixtral", "bfloat16"),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in [
                ("mixtral", "float32"),
                ("qwen2_moe", "bfloat16"),
                ("qwen3_moe", "float32"),
                ("qwen3_moe", "bfloat16"),
            ]
        ),
    ],
)
def test_our_pruner_passes_every_check(model_type, dtype):
    verdicts, facts = collect(Case(f"zoo:{model_type}", dtype=dtype, pruning_ratio=0.25, seed=1))
    assert list(verdicts) == list(default_names())
    # Here the subject prunes in this process: there is no other model that its weights could be compared with.
    assert verdicts.pop("computes-as-its-weights").status is Status.SKIP
    assert {n: (v.status, v.message) for n, v in verdicts.items() if v.status is not Status.PASS} == {}
    assert facts[0].facts["parameters_after"] < facts[0].facts["parameters_before"]


def crashes(model, example_inputs, *, pruning_ratio, seed):
    """Raises."""
    raise ZeroDivisionError("by design")


def test_a_crash_is_a_verdict(monkeypatch):
    monkeypatch.setitem(BUILT_IN, "broken", crashes)
    verdicts, _ = collect(Case("zoo:mixtral", subject="broken"))
    assert verdicts["terminates"].status is Status.ERROR
    assert "ZeroDivisionError" in verdicts["terminates"].message
    assert {v.status for n, v in verdicts.items() if n != "terminates"} == {Status.SKIP}
