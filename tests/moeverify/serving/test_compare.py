"""What distances between an engine and transformers say of a pruning."""

from pathlib import Path

import numpy as np
import pytest

from moeverify.serving.answers import Answer
from moeverify.serving.compare import Outcome, combined, distances, judge
from moeverify.verdict import Status

HERE = Path()
SERVED = Answer(HERE, ({0: -1.0},), version="3")


def refused(text="KeyError: experts.5", **more):
    return Answer(HERE, refused=text, version="3", **more)


@pytest.mark.parametrize(
    ("base", "pruned", "status"),
    [
        ([1e-6] * 8, [2e-6] * 8, Status.PASS),
        ([1e-6] * 8, [0.5] * 8, Status.FAIL),
        ([1e-6] * 8, [0.5] * 5 + [1e-6] * 3, Status.FAIL),
        # A near-tie of a router sends a token elsewhere in one of eight prompts.
        ([1e-6] * 8, [0.5] + [1e-6] * 7, Status.INCONCLUSIVE),
        ([0.5] + [1e-6] * 7, [0.3] + [1e-6] * 7, Status.PASS),
        # The engine computes another function: nothing follows from a difference, and agreement is agreement.
        ([0.5] * 8, [0.4] * 8, Status.INCONCLUSIVE),
        ([0.5] * 8, [2.0] * 8, Status.INCONCLUSIVE),
        ([0.5] * 8, [1e-6] * 8, Status.PASS),
        ([1e-6] * 8, [float("inf")] * 8, Status.FAIL),
    ],
)
def test_the_pruned_model_may_differ_by_what_its_base_does(base, pruned, status):
    assert judge("fake", (SERVED, SERVED), base, pruned).status is status


def test_an_engine_that_gives_no_numbers_for_the_pruned_model_fails_it():
    outcome = judge("fake", (SERVED, SERVED), [1e-6] * 4, [float("inf")] * 4)
    assert outcome.message == "fake 3 gives numbers for the base, and none for the pruned model on 4 prompts"


def test_an_engine_that_refuses_the_base_is_skipped_with_its_reason():
    outcome = judge("fake", (refused("unknown type"), refused("unknown type")), (), ())
    assert outcome.status is Status.SKIP
    assert "does not serve the base: unknown type" in outcome.message


def test_an_engine_that_takes_the_base_and_refuses_the_pruned_model_fails_it():
    outcome = judge("fake", (SERVED, refused()), [1e-6], ())
    assert outcome.status is Status.FAIL
    assert outcome.message == "fake 3 serves the base and refuses the pruned model: KeyError: experts.5"


@pytest.mark.parametrize("answers", [(SERVED, refused(undecided=True)), (refused(undecided=True), SERVED)])
def test_an_engine_that_was_stopped_decides_nothing(answers):
    assert judge("fake", answers, [1e-6], [1e-6]).status is Status.INCONCLUSIVE


def test_distances_are_the_largest_among_the_engines_tokens():
    reference = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    same = {token: float(value) for token, value in enumerate(reference[0][:2])}
    other = {2: float(np.log(0.4)), 0: float(np.log(0.1))}
    assert distances(Answer(HERE, (same, other)), reference) == pytest.approx((0.0, np.log(2)))


@pytest.mark.parametrize("row", [{7: -1.0}, {0: float("nan")}, {0: float("-inf")}])
def test_tokens_that_are_none_and_values_that_are_no_numbers_are_infinitely_far(row):
    assert distances(Answer(HERE, (row,)), np.log(np.array([[0.5, 0.5]]))) == (float("inf"),)


def test_the_worst_engine_decides_and_every_engine_is_listed():
    passed, skipped = Outcome("a", "1", Status.PASS, "a agrees"), Outcome("b", "1", Status.SKIP, "b is not there")
    failed = Outcome("c", "1", Status.FAIL, "c differs")
    assert combined([passed, skipped]) == (Status.PASS, "a agrees; b is not there")
    assert combined([skipped, passed, failed]) == (Status.FAIL, "c differs; a agrees; b is not there")
