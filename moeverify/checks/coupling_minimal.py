"""``coupling-minimal``"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.coupling_complete import chosen_units
from moeverify.checks.liveness import INPUTS, Held, Laboratory, joint, places
from moeverify.checks.reference import differences, reference, show
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.pruning.classes import PruningClass
from moeverify.roles import FoundRoles, MoELayer

# Parts of one group that are tried alone; a residual stream has one for each expert.
MAX_PARTS = 12


@check("coupling-minimal")
def coupling_minimal(context: Context) -> Finding:
    """Proves that nobody stands in a group without need: with one unit of every group held at zero, none of its
    places matters to the output any more, and no part of it that lies in one expert, one shared expert or one block
    could have gone alone.

    The evidence is that of ``coupling-complete``: gradients in float64, the ground truth of a synthetic model, our
    trace for other subjects than ours. Parts that are spread over several blocks are not tried alone; up to 12 parts
    of a group are.
    """
    classes = context.outcome.classes
    if not classes:
        return skipped("the subject shows no groups; masked-equivalence judges its result")
    known = reference(context)
    if known is not None:
        units, origin = known
        if wrong := [d for d in differences(context, units) if d.extra]:
            first = min(wrong[0].extra)
            return failed(
                f"the group {wrong[0].group} holds {show(first)}, which could stay, says {origin}",
                group=wrong[0].group,
                extra=[show(p) for p in sorted(wrong[0].extra)][:50],
                units=len(wrong),
            )
    laboratory = context.laboratory
    chosen = chosen_units(context, laboratory, classes)
    if _in_use(laboratory, joint(part for _, part in chosen)):
        for pruning_class, held in chosen:
            if used := _in_use(laboratory, held):
                return failed(
                    f"the group {pruning_class.name} holds {used[0]}, which is still in use when the rest is gone",
                    group=pruning_class.name,
                    extra=used[:50],
                )
    parts = 0
    tied = _tied_names(context.original)
    for pruning_class, held in chosen:
        for part in _parts(pruning_class, held, context.roles, laboratory, tied):
            parts += 1
            if _could_go_alone(laboratory, part, held):
                return failed(
                    f"the group {pruning_class.name} is several: its part in {part.block} could go alone",
                    group=pruning_class.name,
                    part=[p for (n, d), mask in part.held.items() for p in places(n, d, mask)][:50],
                )
    return passed(f"nothing in {len(classes)} groups could have stayed; {parts} parts could not have gone alone")


def _in_use(laboratory: Laboratory, held: Held) -> list[str]:
    """Places of ``held`` that have a gradient although all of it is at zero, and without which the rest lives on.

    What reads a query head's output still has a gradient when the queries are zero, since attention is uniform then;
    but it is what takes the effect from the queries, so it does belong there.
    """
    under = laboratory.gradients(held)
    found = []
    for (name, dim), gone in sorted(held.items()):
        live = laboratory.live(name, dim, under)
        if live is not None and (live & gone).any() and not _takes_along(laboratory, held, (name, dim)):
            found += places(name, dim, live & gone)
    return found


def _takes_along(laboratory: Laboratory, held: Held, key: tuple[str, int]) -> bool:
    """Whether anything else of ``held`` loses its effect when only what is held of one tensor is at zero."""
    under = laboratory.gradients({key: held[key]})
    lost = ((k, laboratory.lost(*k, under)) for k in held if k != key)
    return any(mask is not None and (mask & held[k]).any() for k, mask in lost)


@dataclass(frozen=True, eq=False)
class _Part:
    block: str
    held: Held


def _tied_names(model: nn.Module) -> dict[str, list[str]]:
    """Further names of tied parameters by their first one."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return {first: others for first, *others in names.values() if others}


def _parts(
    pruning_class: PruningClass, held: Held, roles: FoundRoles, laboratory: Laboratory, tied: dict[str, list[str]]
) -> list[_Part]:
    """The places of a unit by the block they lie in; none if that is one block, or if blocks share a parameter.

    Of a group that holds one channel of each expert in common parameters, independent of one another, the experts are
    no parts.
    """
    if any(roles.boundary(other) != roles.boundary(name) for name, _ in held for other in tied.get(name, ())):
        return []  # the tied parameter cannot be cut for one of them alone
    alike = pruning_class.experts or pruning_class.role == "hidden"
    blocks: dict[str, Held] = defaultdict(dict)
    for (name, dim), gone in held.items():
        container = roles.boundary(name)
        layer = next((x for x in roles.layers if x.layout != "listed" and x.container == container), None)
        masks = [] if layer is None or alike else _by_expert(layer, name, dim, gone, laboratory.sizes[name])
        for number, mask in enumerate(masks):
            if layer is not None and mask.any():
                blocks[layer.experts[number]][name, dim] = mask
        if not masks:
            blocks[container or roles.shared(name) or name.rsplit(".", 2)[0]][name, dim] = gone
    parts = [_Part(block, part) for block, part in blocks.items()] if len(blocks) > 1 else []
    step = max(1, -(-len(parts) // MAX_PARTS))
    return parts[::step]


def _by_expert(layer: MoELayer, name: str, dim: int, gone: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """What is held of each expert in a common parameter; nothing if the dimension is not divided among experts."""
    count = len(layer.experts)
    if layer.fused and dim > 0 and shape[0] == count:
        tables = np.zeros((count, count, gone.shape[-1]), dtype=bool)
        tables[np.arange(count), np.arange(count)] = gone
        return list(tables)
    if layer.layout == "rows" and name in layer.stacks and dim == 0:
        owner = np.arange(shape[0]) // (shape[0] // count)
        return [gone & (owner == number) for number in range(count)]
    return []


def _could_go_alone(laboratory: Laboratory, part: _Part, whole: Held) -> bool:
    """Whether a part, held alone, has lost all effect and takes nothing else of the group along."""
    under = laboratory.gradients(part.held, inputs=1)
    if all(laboratory.live(*key, under) is None for key in part.held):
        return False  # a norm alone: its place is cut out, and nothing is left to measure
    for (name, dim), gone in part.held.items():
        live = laboratory.live(name, dim, laboratory.free)
        if live is None or not (live & gone).any():
            return False  # it had no effect to begin with: an expert that no token reached
    return all(_without_effect(laboratory, part, whole, inputs) for inputs in (1, INPUTS))


def _without_effect(laboratory: Laboratory, part: _Part, whole: Held, inputs: int) -> bool:
    under = laboratory.gradients(part.held, inputs=inputs)
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
