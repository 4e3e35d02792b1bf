"""``expert-permutation``"""

from __future__ import annotations

from dataclasses import replace

from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.removal import permuted, put
from moeverify.suites.properties.trial import NotApplicable, Trial, differing, require
from synthetic_models import Spec


@prop("expert-permutation")
def expert_permutation(trial: Trial) -> None:
    """Experts in another order, with the router's rows in that order, give the same result in that order."""
    # In float64, since the order of a sum over experts is another one.
    spec = replace(trial.spec, dtype="float64")
    order = permutation(spec)
    if order == list(range(spec.experts)):
        raise NotApplicable("the spec gives each expert a place of its own")
    first, second = trial.model(spec), trial.model(replace(spec, widths=tuple(spec.widths[e] for e in order)))
    second.load_state_dict(permuted(first, spec, order))
    trial.prune(first)
    trial.prune(second)
    expected = put(trial.model(spec), permuted(first, spec, order))
    lines = differing(expected, second)
    require(not lines, f"with experts in the order {order}, {len(lines)} tensors differ: {lines[:1]}")


def permutation(spec: Spec) -> list[int]:
    """An order that the spec allows: ``order[n]`` is the old number of the new expert ``n``.

    Chained and tied experts stay at their places, and groups of a group-limited router stay together.
    """
    fixed = max(spec.strength("chain"), spec.strength("tied_experts"))
    start = fixed + 1 if fixed else 0
    numbers = list(range(spec.experts))
    if spec.router == "group_limited":
        each = spec.experts // spec.groups
        return numbers if fixed else [*numbers[each:], *numbers[:each]]
    return [*numbers[:start], *reversed(numbers[start:])]
