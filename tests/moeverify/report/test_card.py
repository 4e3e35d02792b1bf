"""The section of a model card."""

import pytest
from sample_results import HOSTILE, facts, mixed, result, verdict

from moeverify.errors import UsageError
from moeverify.report.card import model_card
from moeverify.verdict import Status


def test_what_was_pruned_how_it_was_verified_and_how_to_do_it_again():
    section = model_card(
        result(
            verdict("zoo:good", "shapes", Status.PASS),
            verdict("zoo:good", "kernel-ready", Status.SKIP, "one implementation"),
            cases=(facts("zoo:good"),),
        )
    )
    lines = section.splitlines()
    assert lines[0] == "## Pruning"
    assert "`zoo:good`, pruned by `moe`." in lines
    assert "| parameters | 1 K → 600 | 60 % left |" in lines
    assert "| routed experts | layers.\\*.experts | 8 | 4 |" in lines
    assert "**✓ Pruned correctly, as far as the checks can tell**: 1 pass, 1 skip." in lines
    assert "- – **kernel-ready**: one implementation" in lines
    assert lines[lines.index("```sh") + 1] == "moeverify verify zoo:good"


def test_problems_are_listed_and_names_write_no_markup():
    section = model_card(mixed())
    assert section.count("**✗ Problems were found**") == 2
    assert "- ✗ **expert-isolation**: experts leak" in section
    outside = "".join(part for n, part in enumerate(section.split("`")) if n % 2 == 0)
    assert "<script>" not in outside
    assert "<img" not in outside


def test_one_model_of_a_run():
    section = model_card(mixed(), "zoo:good")
    assert "zoo:leaky" not in section
    with pytest.raises(UsageError, match="the run has no source 'zoo:none'; it has zoo:good, zoo:leaky"):
        model_card(mixed(), "zoo:none")
    assert "pruned by `moe`" in model_card(mixed(), HOSTILE)


def test_nothing_checked_is_no_pass():
    section = model_card(result(verdict("m", "shapes", Status.SKIP, "no")))
    assert "**– Nothing was checked**: 1 skip." in section
