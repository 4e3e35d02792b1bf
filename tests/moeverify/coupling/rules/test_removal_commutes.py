"""Every rule, and the fallback for pointwise operations, against PyTorch's own operator samples."""

from collections.abc import Iterator

import pytest

from moeverify.coupling.rules import RULES, rule_for
from tests.moeverify.coupling.rules.opinfo import opinfo_calls
from tests.moeverify.coupling.rules.redefined import commutes
from tests.moeverify.coupling.rules.removal import OneCall, removals, state, tie_equal_parts


def violations(call: OneCall) -> Iterator[str]:
    """Every removal that the rule allows for this call and that does not commute with it."""
    for tied in (False, True):
        stated = state(call)
        if tied:
            if not stated.relations.balances:
                return
            tie_equal_parts(stated.relations)
        for removed in removals(stated):
            wrong = commutes(call, stated.result, removed)
            if wrong:
                yield f"{call}\n  without {dict(removed)}: {wrong}"


@pytest.mark.parametrize("name", sorted(RULES))
def test_rule_on_operator_samples(name):
    calls = opinfo_calls().get(name)
    if not calls:
        pytest.skip("no operator sample runs it; Hypothesis makes its cases")
    found = [violation for call in calls for violation in violations(call)]
    assert not found, "\n".join(found[:5])


def test_pointwise_fallback_on_operator_samples():
    tagged = {
        name: [call for call in calls if rule_for(call.name, call.tags)]
        for name, calls in opinfo_calls().items()
        if name not in RULES
    }
    covered = [name for name, calls in tagged.items() if calls]
    assert len(covered) > 150
    found = [violation for name in covered for call in tagged[name] for violation in violations(call)]
    assert not found, "\n".join(found[:5])
