"""Choice of classes where not all can be cut: as many as possible, and a reason for each that is left out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction

from moeverify.coupling.classify import PruningClass
from moeverify.pruning.plan.plan import Reason

Counts = Mapping[PruningClass, int]
Fails = Callable[[Counts], Reason | None]
_MOST_SINGLES = 32
FOLLOWS = "it follows the share that other channels keep; otherwise"


def largest_that_works(
    wanted: Counts, fails: Fails, kind_of: Callable[[PruningClass], Hashable], named: frozenset[PruningClass]
) -> tuple[dict[PruningClass, int], dict[PruningClass, Reason]]:
    """The counts that can be carried out together, and the reason for each class that is left out.

    ``fails`` gives the reason why counts cannot be carried out, ``None`` if they can. Classes of one kind are tried
    together. All kinds but one are tried first, then one kind after the other, alone or in pairs. Kinds with a class in
    ``named`` come first, then the largest. Single classes are tried of a kind that cannot go as a whole.
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
    works = counts(kept)
    reasons: dict[PruningClass, Reason] = {}
    for group in order:
        if left := [c for c in group if c not in works]:
            reason = fails({**works, **counts([left])}) or Reason("it goes only together with others that cannot go")
            reasons.update(dict.fromkeys(left, reason))
    return works, reasons


def common_share(
    wanted: Counts,
    fails: Fails,
    kind_of: Callable[[PruningClass], Hashable],
    named: frozenset[PruningClass],
    round_to: int | None,
) -> dict[PruningClass, int] | None:
    """Other counts for one kind of classes with which all go: the share that another kind keeps.

    A forward that works out the size of a head from the width and the number of heads needs the same ratio for both.
    ``None`` if no such counts help.
    """
    kinds: dict[Hashable, list[PruningClass]] = {}
    for c in wanted:
        kinds.setdefault(kind_of(c), []).append(c)
    for coarse in sorted(kinds.values(), key=lambda group: group[0].coupling.size):
        shares = {Fraction(wanted[c], c.coupling.size) for c in coarse}
        for other in kinds.values():
            if len(shares) > 1 or other is coarse or not named.isdisjoint(other):
                continue
            counts = {c: share * c.coupling.size for share in shares for c in other}
            fits = all(
                n.denominator == 1 and (c.role == "heads" or not int(n) % (round_to or 1)) for c, n in counts.items()
            )
            changed = {c: int(n) for c, n in counts.items() if n != wanted[c]}
            if fits and changed and not fails({**wanted, **changed}):
                return changed
    return None


def elements(pruning_class: PruningClass) -> int:
    """Size of a class: positions of its units, summed over all parameters."""
    return sum(member.positions.size for member in pruning_class.coupling.members)


def _all_but_one(order: Sequence[Sequence[PruningClass]]) -> list[list[Sequence[PruningClass]]]:
    """Sets of kinds that leave out one kind, the smallest kind first."""
    return [[g for g in order if g is not group] for group in reversed(order)] if len(order) > 1 else []


def _grown(
    order: Sequence[Sequence[PruningClass]], works: Callable[[list[Sequence[PruningClass]]], bool]
) -> list[Sequence[PruningClass]]:
    """Kinds that can be cut together, extended one by one from a kind or a pair that works."""
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
