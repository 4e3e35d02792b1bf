"""``coupling-minimal``"""

from __future__ import annotations

from collections import Counter

from moeverify.checks.context import Context
from moeverify.checks.evidence.liveness import (
    INPUTS,
    ChosenUnit,
    Gradients,
    Held,
    Laboratory,
    chosen_units,
    joint,
    places,
)
from moeverify.checks.evidence.parts import Part, parts_of, tied_names
from moeverify.checks.reference import compared
from moeverify.checks.registry import Finding, check, failed, passed, skipped


@check("coupling-minimal")
def coupling_minimal(context: Context) -> Finding:
    """Proves that no group is larger than it needs to be. With one unit of every group held at zero, none of its places
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
    laboratory = context.laboratory
    chosen = chosen_units(context.seed, laboratory, classes)
    if suspects := _suspects(laboratory, chosen):
        for unit in suspects:
            if used := _in_use(laboratory, unit.held):
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
            if _could_go_alone(laboratory, part, unit.held) and not _tied(context, part, unit):
                return failed(
                    f"the group {unit.group.name} is several: its part in {part.block} could go alone",
                    group=unit.group.name,
                    part=[p for (n, d), mask in part.held.items() for p in places(n, d, mask)][:50],
                )
    return passed(f"nothing in {len(classes)} groups could have stayed; {parts} parts could not have gone alone")


def _tied(context: Context, part: Part, unit: ChosenUnit) -> bool:
    """Whether a part shares a shape with the rest of its unit.

    Parts of an expert never do. Exception: a layer that maps each input channel to itself, such as a depthwise
    convolution.
    """
    own = part.block in context.roles.experts and not any(_by_channel(context, name) for name, _ in part.held)
    return not own and context.laboratory.tied_by_shape(part.held, unit)


def _by_channel(context: Context, name: str) -> bool:
    """Whether a parameter belongs to a convolution that treats each channel by itself."""
    module = context.original.get_submodule(name.rpartition(".")[0])
    return getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1


def _suspects(laboratory: Laboratory, chosen: list[ChosenUnit]) -> list[ChosenUnit]:
    """Units that must be examined one by one.

    All units are held at zero together first. If any of their places is still in use, these are all units. Otherwise
    they are the units that share a dimension with others and still have a gradient there.
    """
    held = joint(unit.held for unit in chosen)
    if _in_use(laboratory, held):
        return chosen
    under = laboratory.gradients(held)
    times = Counter(key for unit in chosen for key in unit.held)
    live = {key: laboratory.live(*key, under) for key, count in times.items() if count > 1}
    live = {key: mask for key, mask in live.items() if mask is not None}
    return [unit for unit in chosen if any((live[key] & gone).any() for key, gone in unit.held.items() if key in live)]


def _in_use(laboratory: Laboratory, held: Held) -> list[str]:
    """Places of ``held`` that have a gradient although all of it is at zero, and without which the rest lives on.

    What reads a query head's output still has a gradient when the queries are zero, since attention is uniform then.
    But it takes the effect from the queries, so it does belong there.
    """
    under = laboratory.gradients(held)
    used: Held = {}
    for key, gone in sorted(held.items()):
        live = laboratory.live(*key, under)
        if live is not None and (live & gone).any() and not _takes_along(laboratory, held, {key: gone}):
            used[key] = live & gone
    if len(used) > 1:  # several readers of one channel take the effect from it together
        together = {key: held[key] for key in used}
        used = {key: mask for key, mask in used.items() if not _needed(laboratory, held, together, key)}
    return [place for (name, dim), mask in used.items() for place in places(name, dim, mask)]


def _takes_along(laboratory: Laboratory, held: Held, part: Held) -> bool:
    """Whether anything else of ``held`` loses its effect when only ``part`` of it is at zero."""
    under = laboratory.gradients(part)
    lost = ((k, laboratory.lost(*k, under)) for k in held if k not in part)
    return any(mask is not None and (mask & held[k]).any() for k, mask in lost)


def _needed(laboratory: Laboratory, held: Held, together: Held, key: tuple[str, int]) -> bool:
    """Whether tensors take something along together, and do not without one of them."""
    rest = {other: gone for other, gone in together.items() if other != key}
    return _takes_along(laboratory, held, together) and not _takes_along(laboratory, held, rest)


def _could_go_alone(laboratory: Laboratory, part: Part, whole: Held) -> bool:
    """Whether a part, held alone, has lost all effect and takes nothing else of the group along."""
    for (name, dim), gone in part.held.items():
        live = laboratory.live(name, dim, laboratory.free)
        if live is None or not (live & gone).any():
            return False  # it had no effect to begin with: an expert that no token reached
    under = laboratory.gradients(part.held, inputs=1)
    if all(laboratory.live(*key, under) is None for key in part.held):
        return False  # a norm alone: its place is cut out, and nothing is left to measure
    read = {key: gone for key, gone in part.held.items() if key[0] not in laboratory.scales}
    if len(read) < len(part.held) and laboratory.any_live(read, laboratory.gradients(read, inputs=1)):
        return False  # only its own norm keeps the channel away, which others still write
    # One input tells most of those apart that cannot; what it leaves is asked of more.
    return _without_effect(laboratory, part, whole, under) and _without_effect(
        laboratory, part, whole, laboratory.gradients(part.held, inputs=INPUTS)
    )


def _without_effect(laboratory: Laboratory, part: Part, whole: Held, under: Gradients) -> bool:
    for (name, dim), gone in whole.items():
        mine = part.held.get((name, dim))
        live, lost = laboratory.live(name, dim, under), laboratory.lost(name, dim, under)
        if live is None or lost is None:
            continue
        if mine is not None and (live & mine).any():
            return False
        others = gone if mine is None else gone & ~mine
        if (lost & others).any():
            return False
    return True
