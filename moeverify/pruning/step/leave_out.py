"""Which classes go where not all of them can: as much as possible of what was asked for, the rest with a reason."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from moeverify.coupling.classify import PruningClass

Counts = Mapping[PruningClass, int]
Fails = Callable[[Counts], str]
_MOST_SINGLES = 32


def largest_that_works(
    wanted: Counts, fails: Fails, kind_of: Callable[[PruningClass], Hashable], named: frozenset[PruningClass]
) -> tuple[dict[PruningClass, int], dict[PruningClass, str]]:
    """The counts that can be carried out together, and the reason for each class that is left out.

    ``fails`` gives the reason why counts cannot be carried out, an empty one if they can. Classes that are alike go
    together: all but one kind, else one after the other, the largest first, alone or in pairs; those among ``named``
    before others. Of a kind that does not go, single classes are tried.
    """
    kinds: dict[Hashable, list[PruningClass]] = {}
    for c in wanted:
        kinds.setdefault(kind_of(c), []).append(c)
    order = sorted(kinds.values(), key=lambda group: (named.isdisjoint(group), -sum(map(elements, group))))

    def counts(groups: Sequence[Sequence[PruningClass]]) -> dict[PruningClass, int]:
        chosen = {c for group in groups for c in group}
        return {c: kept for c, kept in wanted.items() if c in chosen}

    kept = next((rest for rest in _all_but_one(order) if not fails(counts(rest))), None)
    if kept is None:
        kept = _grown(order, lambda groups: not fails(counts(groups)))
    if len(wanted) <= _MOST_SINGLES:
        for c in [c for group in order if group not in kept and len(group) > 1 for c in group]:
            kept = [*kept, [c]] if not fails(counts([*kept, [c]])) else kept
    found = counts(kept)
    reasons = {}
    for group in order:
        left = [c for c in group if c not in found]
        if left:
            alone = fails(counts([left]))
            why = fails({**found, **counts([left])}) if found else alone
            reasons.update(dict.fromkeys(left, why or alone))
    return found, reasons


def elements(pruning_class: PruningClass) -> int:
    """A measure of how much a class is worth: positions of its units in all parameters."""
    return sum(member.positions.size for member in pruning_class.coupling.members)


def _all_but_one(order: Sequence[Sequence[PruningClass]]) -> list[list[Sequence[PruningClass]]]:
    """What is left without one kind, the smallest loss first."""
    return [[g for g in order if g is not group] for group in reversed(order)] if len(order) > 1 else []


def _grown(
    order: Sequence[Sequence[PruningClass]], works: Callable[[list[Sequence[PruningClass]]], bool]
) -> list[Sequence[PruningClass]]:
    """Kinds that go together, from one that goes by itself or a pair that does."""
    kept: list[Sequence[PruningClass]] = []
    grown = True
    while grown:
        grown = False
        rest = [group for group in order if group not in kept]
        more = [[group] for group in rest] + [[a, b] for n, a in enumerate(rest) for b in rest[n + 1 :]]
        for added in more:
            if not any(group in kept for group in added) and works([*kept, *added]):
                kept = [*kept, *added]
                grown = True
                if len(added) == 2:
                    break
    return kept
