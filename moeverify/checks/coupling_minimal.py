"""``coupling-minimal``"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from moeverify.checks.context import Context
from moeverify.checks.evidence.liveness import (
    INPUTS,
    ChosenUnit,
    Gradients,
    Laboratory,
    Zeroed,
    chosen_units,
    joint,
    places,
)
from moeverify.checks.evidence.parts import Part, parts_of, tied_names
from moeverify.checks.reference import compared
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped


@check("coupling-minimal")
def coupling_minimal(context: Context) -> Finding:
    """Proves that no group is larger than it needs to be. With one unit of every group set to zero, none of its places
    matters to the output any more. No part of it that lies in one expert, one shared expert or one block could have
    gone alone.

    The evidence is that of ``coupling-complete``: gradients in float64, the ground truth of a synthetic model, our
    trace for other subjects than ours. Parts that are spread over several blocks are not tried alone; up to 12 parts of
    a group are. Not tried are parts that share a buffer of the group (a rotary table that all layers read has one
    width). Nor are parts whose counterparts have no gradient even in the whole model. Example: the indexer of sparse
    attention only chooses positions. A part also belongs to its group if the model fails without the part alone, but
    runs without the whole unit.
    """
    classes = context.outcome.classes
    if not classes:
        return skipped("the subject shows no groups; masked-equivalence judges its result")
    wrong, _ = compared(context, "extra")
    if wrong is not None:
        return wrong
    if reason := context.without_laboratory:
        return inconclusive(reason)
    laboratory = context.laboratory
    chosen = chosen_units(context.seed, laboratory, classes)
    for unit in _suspects(laboratory, chosen):
        used = _in_use(laboratory, unit.zeroed)
        if used and (buffers := unit.buffers()):
            used = _in_use(laboratory, unit.zeroed, buffers)
        if used:
            return failed(
                f"the group {unit.group.name} holds {used[0]}, which is still in use when the rest is gone",
                group=unit.group.name,
                extra=used[:50],
            )
    parts = 0
    tied = tied_names(context.original)
    for unit in chosen:
        for part in parts_of(unit, context.roles, laboratory, tied):
            parts += 1
            if _could_go_alone(laboratory, part, unit.zeroed) and not _tied(context, part, unit):
                return failed(
                    f"the group {unit.group.name} could be split: its part in {part.block} can be removed alone",
                    group=unit.group.name,
                    part=[p for (n, d), mask in part.zeroed.items() for p in places(n, d, mask)][:50],
                )
    return passed(f"nothing in {len(classes)} groups could stay; {parts} parts could not be removed alone")


def _tied(context: Context, part: Part, unit: ChosenUnit) -> bool:
    """Whether a part shares a shape with the rest of its unit.

    Parts of an expert never do. Exception: a layer that maps each input channel to itself, such as a depthwise
    convolution.
    """
    own = part.block in context.roles.experts and not any(_by_channel(context, name) for name, _ in part.zeroed)
    return not own and context.laboratory.tied_by_shape(part.zeroed, unit)


def _by_channel(context: Context, name: str) -> bool:
    """Whether a parameter belongs to a convolution that treats each channel by itself."""
    module = context.original.get_submodule(name.rpartition(".")[0])
    return getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1


def _suspects(laboratory: Laboratory, chosen: list[ChosenUnit]) -> list[ChosenUnit]:
    """Units that must be examined one by one.

    First, all units are set to zero together. If any of their places is still in use, these are all units. Otherwise
    they are the units that share a dimension with others and still have a gradient there.
    """
    zeroed = joint(unit.zeroed for unit in chosen)
    if _in_use(laboratory, zeroed):
        return chosen
    under = laboratory.gradients(zeroed)
    times = Counter(key for unit in chosen for key in unit.zeroed)
    live = {key: laboratory.live(*key, under) for key, count in times.items() if count > 1}
    live = {key: mask for key, mask in live.items() if mask is not None}
    return [
        unit for unit in chosen if any((live[key] & gone).any() for key, gone in unit.zeroed.items() if key in live)
    ]


def _in_use(
    laboratory: Laboratory, zeroed: Zeroed, buffers: Mapping[tuple[str, int], np.ndarray] | None = None
) -> list[str]:
    """Positions in ``zeroed`` that still have a gradient with all of it at zero, and without which the rest keeps one.

    What reads a query head's output still has a gradient when the queries are zero, since attention is uniform then.
    But it takes the effect from the queries, so it does belong there. ``buffers`` of the unit are zero as well: weights
    in buffers, such as those of eight bits, write a channel as parameters do.
    """
    under = laboratory.gradients(zeroed, buffers=buffers)
    if buffers and not under.finite:
        under = laboratory.gradients(zeroed)  # a buffer that must not be zero
    used: Zeroed = {}
    for key, gone in sorted(zeroed.items()):
        live = laboratory.live(*key, under)
        if live is not None and (live & gone).any() and not _takes_along(laboratory, zeroed, {key: gone}):
            used[key] = live & gone
    if len(used) > 1:  # several readers of one channel take the effect from it together
        together = {key: zeroed[key] for key in used}
        used = {key: mask for key, mask in used.items() if not _needed(laboratory, zeroed, together, key)}
    return [place for (name, dim), mask in used.items() for place in places(name, dim, mask)]


def _takes_along(laboratory: Laboratory, zeroed: Zeroed, part: Zeroed) -> bool:
    """Whether anything else of ``zeroed`` loses its effect when only ``part`` of it is at zero."""
    under = laboratory.gradients(part)
    lost = ((k, laboratory.lost(*k, under)) for k in zeroed if k not in part)
    return any(mask is not None and (mask & zeroed[k]).any() for k, mask in lost)


def _needed(laboratory: Laboratory, zeroed: Zeroed, together: Zeroed, key: tuple[str, int]) -> bool:
    """Whether tensors take something along together, and do not without one of them."""
    rest = {other: gone for other, gone in together.items() if other != key}
    return _takes_along(laboratory, zeroed, together) and not _takes_along(laboratory, zeroed, rest)


def _could_go_alone(laboratory: Laboratory, part: Part, whole: Zeroed) -> bool:
    """Whether a part, zeroed by itself, has no effect left while the rest of the group keeps its effect."""
    for (name, dim), gone in part.zeroed.items():
        live = laboratory.live(name, dim, laboratory.free)
        if live is None or not (live & gone).any():
            return False  # it had no effect to begin with: an expert that no token reached
    under = laboratory.gradients(part.zeroed, inputs=1)
    if all(laboratory.live(*key, under) is None for key in part.zeroed):
        return False  # a norm alone: its place is cut out, and nothing is left to measure
    read = {key: gone for key, gone in part.zeroed.items() if key[0] not in laboratory.scales}
    if len(read) < len(part.zeroed) and laboratory.any_live(read, laboratory.gradients(read, inputs=1)):
        return False  # only its own norm keeps the channel away, which others still write
    # One input tells most of those apart that cannot; what it leaves is asked of more.
    return _without_effect(laboratory, part, whole, under) and _without_effect(
        laboratory, part, whole, laboratory.gradients(part.zeroed, inputs=INPUTS)
    )


def _without_effect(laboratory: Laboratory, part: Part, whole: Zeroed, under: Gradients) -> bool:
    for (name, dim), gone in whole.items():
        mine = part.zeroed.get((name, dim))
        live, lost = laboratory.live(name, dim, under), laboratory.lost(name, dim, under)
        if live is None or lost is None:
            continue
        if mine is not None and (live & mine).any():
            return False
        others = gone if mine is None else gone & ~mine
        if (lost & others).any():
            return False
    return True
