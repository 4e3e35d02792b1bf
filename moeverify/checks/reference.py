"""Reference for a subject's groups: the ground truth of a synthetic model, or our own trace.

Our own pruner's groups come from that trace, so for them only the ground truth will do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, failed
from moeverify.coupling.solving.solve import CouplingClass
from moeverify.errors import MoEVerifyError

Place = tuple[str, int, int]
Unit = frozenset[Place]


@dataclass(frozen=True)
class Difference:
    """Difference between one unit of a group and the units that go together: missing places, and places too many."""

    group: str
    unit: Unit
    missing: Unit
    extra: Unit


def units_of(coupling: CouplingClass) -> list[Unit]:
    """Units as sets of ``(parameter, dimension, position)``."""
    members = [m for m in coupling.members if not m.buffer]
    return [
        frozenset((m.parameter, m.dim, int(p)) for m in members for p in m.positions[n]) for n in range(coupling.size)
    ]


def reference(context: Context) -> tuple[list[Unit], str] | None:
    """The units that go together, and the source of that knowledge; ``None`` without an independent source."""
    if (units := _ground_truth(context)) is not None:
        return units, "the model's specification"
    if context.outcome.of_trace:
        return None
    try:
        couplings = context.couplings_by_roles
    except MoEVerifyError:
        return None
    return [unit for c in couplings.classes for unit in units_of(c)], "moeverify's trace"


def _ground_truth(context: Context) -> list[Unit] | None:
    config: Any = getattr(context.original, "config", None)
    if getattr(config, "model_type", "") != "synthetic_moe":
        return None
    import synthetic_models

    known = synthetic_models.truth(synthetic_models.Spec.from_dict(config.spec))
    units_of_subject = {unit for c in context.outcome.classes for unit in units_of(c.coupling)}
    units = [unit for units in known.classes.values() for unit in units]
    for answers in known.choices.values():
        # Several answers are right: whole heads, or single channels of every head. The nearest is the judge.
        units += max(answers, key=lambda answer: sum(unit in units_of_subject for unit in answer))
    return units


def differences(context: Context, units: Iterable[Unit]) -> list[Difference]:
    """Differences between the subject's units and ``units``; groups that the subject does not have are no fault.

    A group of biases alone, which Torch-Pruning leaves to the layer, is no member missing.
    """
    owner: dict[Place, Unit] = {place: unit for unit in units for place in unit}
    result = []
    for pruning_class in context.outcome.classes:
        first = next(m for m in pruning_class.coupling.members if not m.buffer)
        for number, unit in enumerate(units_of(pruning_class.coupling)):
            root = (first.parameter, first.dim, int(first.positions[number][0]))
            shares: dict[Unit, int] = defaultdict(int)
            for place in unit:
                if place in owner:
                    shares[owner[place]] += 1
            right = max(shares, key=lambda u: (shares[u], root in u, sorted(u)), default=frozenset())
            named = {(name.rpartition(".")[0], p) for name, _, p in unit if name.endswith(".weight")}
            missing = frozenset(
                (n, d, p)
                for n, d, p in right - unit
                if not (n.endswith(".bias") and (n.rpartition(".")[0], p) in named)
            )
            if missing or unit - right:
                result.append(Difference(pruning_class.name, unit, missing, unit - right))
    return result


def compared(context: Context, wrong: Literal["missing", "extra"]) -> tuple[Finding | None, str]:
    """Compare the subject's groups with what belongs together. Returns a failure for the first group with places
    ``missing`` or ``extra`` (``None`` without one), and the source of the reference; ``""`` without a reference.
    """
    known = reference(context)
    if known is None:
        return None, ""
    units, origin = known
    result = [d for d in differences(context, units) if getattr(d, wrong)]
    if not result:
        return None, origin
    group, places = result[0].group, sorted(getattr(result[0], wrong))
    text = f"lacks {show(places[0])}" if wrong == "missing" else f"holds {show(places[0])}, which could stay"
    evidence = {wrong: [show(place) for place in places][:50]}
    return failed(f"the group {group} {text}, says {origin}", group=group, units=len(result), **evidence), origin


def show(place: Place) -> str:
    """A place as it is read: parameter, dimension, position."""
    name, dim, position = place
    return f"{name} dim {dim} position {position}"
