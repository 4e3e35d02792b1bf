"""The proof of a rule can fail: every statement of every rule, changed, makes a removal not commute."""

import pytest
import transformers.integrations.moe  # noqa: F401  registers its operation
from everyday import everyday

from tests.moeverify.coupling.rules.cases import examples
from tests.moeverify.coupling.rules.mutation import KINDS, mutants, outcome, statements, watched
from tests.moeverify.coupling.rules.proof import PRESENT, violations

EXAMPLES = 40
# An empty tensor has nothing to differ in: that its view is frozen is caution, not proven.
CAUTION = "view of an empty tensor"


# Rules are alike within their kind: every sixth by name is in the everyday suite.
EVERYDAY = sorted(PRESENT)[::6]


@pytest.mark.parametrize("name", everyday(PRESENT, EVERYDAY))
def test_every_mutant_of_a_rule_is_noticed(name):
    """For each statement that the rule reached: dropped, shifted or swapped, some case must notice.

    A statement whose loss changes no solution in any case says nothing and fails as well.
    """
    noticed: dict[tuple, bool] = {}
    unnoticed: dict[tuple, str] = {}
    for call in examples(name, EXAMPLES):
        stated = watched(call)
        for mutant in mutants(stated):
            key = mutant.kind, mutant.site
            if noticed.get(key) or any(freeze.reason == CAUTION for freeze in mutant.dropped):
                continue
            noticed[key] = any(True for _ in violations(mutant.stated))
            if not noticed[key] and outcome(mutant.stated) != outcome(stated):
                unnoticed.setdefault(key, f"not noticed, such as for {call}")
    missed = [
        f"{kind} at {site}: {unnoticed.get((kind, site), 'without effect')}"
        for (kind, site), found in noticed.items()
        if not found
    ]
    assert not missed, "\n".join(missed)


@pytest.mark.slow
def test_every_statement_of_the_rules_is_reached():
    reached = set()
    for name in PRESENT:
        for call in examples(name, EXAMPLES):
            relations = watched(call).relations
            reached.update(site for kind in KINDS for site in getattr(relations, kind).sites)
    missed = sorted(statements() - reached)
    assert not missed, "no case reaches " + ", ".join(map(str, missed))
