"""Removal commutes with a call, under whatever its neighbours in a model may add to what its own rule states."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from moeverify.coupling.relations import Freeze, Relations
from moeverify.coupling.rules import RULES
from tests.moeverify.coupling.rules.redefined import commutes
from tests.moeverify.coupling.rules.removal import OneCall, Stated, removals, state

# Rules of operations that this release of PyTorch has.
PRESENT = sorted(
    name for name in RULES if not name.startswith("aten.") or hasattr(torch.ops.aten, name.removeprefix("aten."))
)


def neighbourhoods(stated: Stated) -> Iterator[Stated]:
    """The call alone; with the parts of an equal split coupled (gate times up); with one factor of a view held.

    Holding a factor makes the solver offer another: columns instead of rows.
    """
    yield stated
    relations = stated.relations
    if relations.balances:
        tied = _copy(relations)
        for parts in relations.balances:
            if len({relations.sizes[part] for part in parts}) == 1:
                for part in parts[1:]:
                    tied.equal(parts[0], part)
        yield Stated(stated.call, tied, stated.tensors, stated.result)
    named = {dim for dims in stated.tensors.values() for dim in dims}
    factors = {factor for product in relations.products for factor in product.factors}
    for factor in sorted(factors & named):
        held = _copy(relations)
        held.freezes.append(Freeze(factor, "held by a neighbour", relations.current))
        yield Stated(stated.call, held, stated.tensors, stated.result)


def _copy(relations: Relations) -> Relations:
    return Relations(
        list(relations.sizes),
        list(relations.equals),
        list(relations.segments),
        list(relations.products),
        list(relations.freezes),
        list(relations.balances),
        list(relations.operations),
    )


def violations(stated: Stated) -> Iterator[str]:
    """Every removal that the relations allow and that does not commute with the call."""
    for around in neighbourhoods(stated):
        for removed in removals(around):
            wrong = commutes(around.call, around.result, removed)
            if wrong:
                yield f"{around.call}\n  without {dict(removed)}: {wrong}"


def rule_violations(call: OneCall) -> Iterator[str]:
    """``violations`` of what the call's rule states."""
    return violations(state(call))


def removable(stated: Stated) -> bool:
    """Whether the relations let anything be removed."""
    return any(True for around in neighbourhoods(stated) for _ in removals(around))
