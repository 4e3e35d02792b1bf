"""The table of the zoo, from verdicts."""

from benchmarks.zoo import summary, table
from moeverify.report.result import VerificationResult
from moeverify.verdict import CaseFacts, Status, Verdict


def verdict(source, check, status, message="fine", **evidence):
    return Verdict(source, "moe", check, status, message, evidence)


def test_table_names_exceptions_and_adjustments():
    result = VerificationResult(
        verdicts=(
            verdict("zoo:a", "shapes", Status.PASS),
            verdict("zoo:a", "ratio-honoured", Status.PASS, adjusted=["hidden is left alone: a rule"]),
            verdict("zoo:b", "shapes", Status.FAIL, "does not run"),
            verdict("zoo:b", "reload", Status.SKIP, "no head"),
        ),
        cases=(CaseFacts("zoo:a", "moe", {"parameters_before": 100, "parameters_after": 30}),),
        settings={},
        versions={},
        created="",
        seconds=0.0,
    )
    rows = summary(result)
    text = table({"0.5": rows}, {"torch": "2"})
    assert "Ratio 0.5: 1 of 2 types without a problem." in text
    assert "| a | 2 pass, 30% left |" in text
    assert "- b, ratio 0.5, shapes: fail: does not run" in text
    assert "- a, ratio 0.5: hidden is left alone: a rule" in text
