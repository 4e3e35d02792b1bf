"""A source on which nothing happened says why, also beside others that passed."""

from moeverify.report.text import nothing_checked
from moeverify.verdict import Status, Verdict


def verdict(source, status, message="", check="served"):
    return Verdict(source, "moe", check, status, message)


def test_the_reason_of_a_skip_is_given_for_each_source_without_any_other_verdict():
    skipped = [verdict("b", Status.SKIP, "vllm is not installed"), verdict("b", Status.SKIP, "no tokenizer", "quality")]
    lines = nothing_checked([verdict("a", Status.PASS), verdict("a", Status.SKIP, "no tasks", "quality"), *skipped])
    assert lines == [
        "no check could be carried out:",
        "  b: vllm is not installed (served)",
        "  b: no tokenizer (quality)",
    ]


def test_passes_and_problems_say_enough():
    assert nothing_checked([verdict("a", Status.PASS), verdict("b", Status.FAIL, "differs")]) == []
