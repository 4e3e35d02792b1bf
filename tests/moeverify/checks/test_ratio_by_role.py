"""``ratio-honoured`` holds every role to the ratio that was asked for it."""

import pytest

from moeverify.subjects import prune_moe
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case

RATIOS = {"hidden": 0.0, "heads": 0.0, "routed_experts": 0.25, "shared_experts": 0.0}


def verdict(subject, ratios=RATIOS, source="synthetic:listed", **settings):
    events = []
    case = Case(source, "here", checks=("ratio-honoured",), ratios=ratios, **settings)
    run_case(case, events.append, subject=subject)
    return next(e.verdict for e in events if isinstance(e, VerdictReached))


def ours(model, inputs, *, ratios, **options):
    return prune_moe(model, inputs, ratios=ratios, round_to=None, **options)


def without_groups(model, inputs, *, ratios, **options):
    ours(model, inputs, ratios=ratios, **options)


def deaf(model, inputs, *, ratios, **options):
    """Takes ratios by role and does not use them."""
    return prune_moe(model, inputs, round_to=None, **options)


def touches_what_was_to_stay(model, inputs, *, ratios, **options):
    return ours(model, inputs, ratios={**ratios, "hidden": 0.25}, **options)


@pytest.mark.parametrize("subject", [ours, without_groups])
def test_ratios_by_role_are_honoured(subject):
    found = verdict(subject)
    assert found.status is Status.PASS, found.message


@pytest.mark.parametrize("subject", [deaf, touches_what_was_to_stay])
def test_a_role_with_another_ratio_is_seen(subject):
    assert verdict(subject).status is Status.FAIL


def test_rounding_that_was_asked_for_is_allowed():
    def rounds(model, inputs, *, round_to, **options):
        return prune_moe(model, inputs, round_to=round_to, **options)

    found = verdict(rounds, {}, round_to=8, pruning_ratio=0.3)
    assert found.status is Status.PASS, found.message


def test_rounding_to_what_was_asked_for_and_what_the_kernel_takes_is_allowed():
    """A kernel of float32 takes multiples of 4: with ``round_to`` 3 a hidden size of 64 keeps 36 for 40."""

    def rounds(model, inputs, *, round_to, **options):
        with pytest.warns(UserWarning, match="multiples of 12 instead of 3"):
            return prune_moe(model, inputs, round_to=round_to, **options)

    found = verdict(rounds, {}, source="zoo:mixtral", round_to=3, pruning_ratio=0.37)
    assert found.status is Status.PASS, found.message
