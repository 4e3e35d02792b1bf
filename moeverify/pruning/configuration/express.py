"""Counts of units that some configuration can express.

Classes whose sizes come from one entry must keep the same share. A class whose count no configuration gives is left
alone, with the rule as the reason, or refused if the user asked for it by name.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from moeverify.base.entries import name_of
from moeverify.coupling.classify import ROLES, PruningClass
from moeverify.errors import PruningRefused
from moeverify.models.skeleton import Shapes
from moeverify.pruning.configuration.entries import Solution, find_entries, without_needless
from moeverify.pruning.configuration.probe import Dim, Entries, Probe
from moeverify.pruning.plan.plan import Adjustment, Reason

Counts = Mapping[PruningClass, int]
_CANDIDATES = 12


@dataclass(frozen=True, eq=False)
class Expression:
    """Counts of units that a configuration gives, and its entries."""

    counts: Counts
    entries: Entries
    adjustments: tuple[Adjustment, ...] = ()


def wanted_shapes(base: Shapes, counts: Counts) -> Shapes:
    """Shapes of all tensors when each class keeps the number of units in ``counts``."""
    sizes = {name: list(shape) for name, shape in base.items()}
    for pruning_class, kept in counts.items():
        for member in pruning_class.coupling.members:
            if member.parameter not in sizes:  # a layer that is pruned by functions of its own
                continue
            gone = (pruning_class.coupling.size - kept) * member.positions.shape[1]
            sizes[member.parameter][member.dim] -= gone
    return {name: tuple(shape) for name, shape in sizes.items()}


def express(
    probe: Probe, wanted: Counts, *, round_to: int | None = None, named: Iterable[PruningClass] = ()
) -> Expression:
    """Counts nearest to ``wanted`` that a configuration can express.

    ``wanted`` holds the classes to be pruned. Counts that are changed stay multiples of ``round_to`` where possible.
    Raises ``PruningRefused`` if a class among ``named`` (asked for by name) cannot keep its wanted count.
    """
    insisted = set(named)
    if probe.short:
        with contextlib.suppress(PruningRefused):
            expression = _express(probe, wanted, round_to, insisted)
            if not expression.adjustments and probe.confirms(expression.entries, wanted_shapes(probe.base, wanted)):
                return expression
        # A short build alone refuses nothing and changes no count.
        probe.build_in_full()
    return _express(probe, wanted, round_to, insisted)


def _express(probe: Probe, wanted: Counts, round_to: int | None, insisted: Collection[PruningClass]) -> Expression:
    solution = _solve(probe, wanted)
    counts = dict(wanted)
    reasons: dict[PruningClass, str] = {}
    if solution.wrong:
        for component in _components(probe, wanted):
            counts.update(_express_component(probe, {c: wanted[c] for c in component}, round_to, reasons))
        solution = _solve(probe, counts)
        if solution.wrong:  # the components do not go together: nothing of them is safe
            raise PruningRefused(
                f"no configuration gives all the pruned sizes together: {_rule(probe, solution)}; leave one of the "
                "roles out (a ratio of 0)"
            )
    adjustments = tuple(
        Adjustment(c, wanted[c], kept, Reason(reasons.get(c, ""))) for c, kept in counts.items() if kept != wanted[c]
    )
    for adjustment in adjustments:
        if adjustment.pruning_class in insisted:
            raise PruningRefused(str(adjustment))
    shapes = wanted_shapes(probe.base, counts)
    return Expression(counts, without_needless(probe, solution.entries, shapes), adjustments)


def _solve(probe: Probe, counts: Counts) -> Solution:
    return find_entries(probe, wanted_shapes(probe.base, counts))


def dims_of(pruning_class: PruningClass) -> set[Dim]:
    """The parameter dimensions that a class cuts."""
    return {(m.parameter, m.dim) for m in pruning_class.coupling.members}


def _components(probe: Probe, classes: Iterable[PruningClass]) -> list[list[PruningClass]]:
    """Sets of classes whose sizes depend on common entries, directly or through other classes."""
    groups: list[tuple[set[int], list[PruningClass]]] = []
    for pruning_class in classes:
        dims = dims_of(pruning_class)
        moves = {number for number, move in enumerate(probe.moves) if not dims.isdisjoint(move.slopes)}
        members = [pruning_class]
        for group in [g for g in groups if g[0] & moves]:
            groups.remove(group)
            moves |= group[0]
            members = [*group[1], *members]
        groups.append((moves, members))
    return [members for _, members in groups]


def _candidates(counts: Counts, round_to: int | None) -> list[dict[PruningClass, int]]:
    """Counts with one share for all classes: multiples of ``round_to`` first, then by distance to ``counts``."""
    sizes = {c: c.coupling.size for c in counts}
    steps = math.gcd(*sizes.values())
    share = sum(k / sizes[c] for c, k in counts.items()) / len(counts)

    def rank(step: int) -> tuple[bool, float, int]:
        uneven = round_to is not None and any(
            (size * step // steps) % round_to and c.role != "heads" for c, size in sizes.items()
        )
        return uneven, abs(step / steps - share), -step

    best = sorted(range(1, steps), key=rank)[:_CANDIDATES]
    return [{c: size * step // steps for c, size in sizes.items()} for step in best]


def _express_component(
    probe: Probe, wanted: Counts, round_to: int | None, reasons: dict[PruningClass, str]
) -> dict[PruningClass, int]:
    """Nearest counts that a configuration gives, for classes that share entries.

    Counts for all classes are tried first, then counts that leave some roles unpruned. The reason for each changed
    class is added to ``reasons``.
    """
    solution = _solve(probe, wanted)
    if not solution.wrong:
        return dict(wanted)
    rule = _rule(probe, solution)
    untouched = {c: c.coupling.size for c in wanted}
    for left_alone in _subsets(wanted):
        kept = {c: k for c, k in wanted.items() if c not in left_alone}
        if not kept:
            continue
        for candidate in ([kept] if left_alone else []) + _candidates(kept, round_to):
            if all(candidate[c] == c.coupling.size for c in candidate):
                continue
            if abs(sum(candidate[c] / c.coupling.size - kept[c] / c.coupling.size for c in kept)) > 0.13 * len(kept):
                continue  # nearer to nothing than to what was asked
            if not _solve(probe, candidate).wrong:
                result = {**untouched, **candidate}
                reasons.update({c: rule for c in wanted if result[c] != wanted[c]})
                return result
    reasons.update(dict.fromkeys(wanted, rule))
    return untouched


def _subsets(wanted: Counts) -> list[Sequence[PruningClass]]:
    """Sets to leave alone: nothing, one role, all but one role."""
    roles = [role for role in reversed(ROLES) if any(c.role == role for c in wanted)]
    subsets: list[Sequence[PruningClass]] = [[]]
    if len(roles) > 1:
        subsets += [[c for c in wanted if c.role == role] for role in roles]
    if len(roles) > 2:
        subsets += [[c for c in wanted if c.role != role] for role in roles]
    singles = list(wanted)
    if 1 < len(singles) <= 8:
        subsets += [[c] for c in singles] + [[c for c in singles if c is not one] for one in singles]
    return subsets


def _rule(probe: Probe, solution: Solution) -> str:
    """Text with the entries that give no such sizes, and the architecture's own error message if there is one."""
    name, dim = solution.wrong[0]
    entries = [move.name for move in probe.moves if (name, dim) in move.slopes]
    config = type(probe.config).__name__
    if not entries:
        return f"no entry of {config} sets the size of dimension {dim} of {name}"
    text = f"no values of {', '.join(entries[:3])} in {config} give dimension {dim} of {name} this size"
    rules = probe.rules_on(word for entry in entries for word in re.split(r"\W+", entry))
    return text + (f" ({rules[-1][:200]})" if rules else "")


def describe(entries: Entries) -> dict[str, int]:
    """Entries by the dotted names that users write."""
    return {name_of(path): value for path, value in entries.items()}
