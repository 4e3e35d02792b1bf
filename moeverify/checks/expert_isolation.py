"""``expert-isolation``"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.checks.unrecognised import without_layers
from moeverify.coupling.classify import PruningClass, classify
from moeverify.models.roles import FoundRoles, MoELayer

_MOST_LEAKS = 2000
Shapes = Mapping[str, tuple[int, ...]]
Place = tuple[str, int]


@dataclass(frozen=True)
class Isolation:
    """The isolation matrix of one MoE layer, without its zeros.

    ``own[i]``: channels of expert ``i`` that its own groups can remove. ``leaks[i, j]``: channels of expert ``j`` that
    go when a channel of expert ``i`` is pruned.
    """

    layer: MoELayer
    own: tuple[int, ...]
    leaks: dict[tuple[int, int], int]

    def to_dict(self) -> dict[str, Any]:
        """Dictionary for the report; lists only the first leaks if there are very many."""
        leaks = [[i, j, count] for (i, j), count in sorted(self.leaks.items())]
        return {
            "layer": self.layer.name,
            "experts": list(self.layer.experts),
            "own": list(self.own),
            "leaks": leaks[:_MOST_LEAKS],
            "leak_count": len(leaks),
        }


def _by_name(layer: MoELayer, pruning_class: PruningClass) -> dict[int, int]:
    """Positions that a class holds in each expert that lies apart."""
    inside: dict[int, int] = {}
    for member in pruning_class.coupling.members:
        if (k := layer.owner(member.parameter)) is not None:
            inside[k] = max(inside.get(k, 0), member.positions.size)
    return inside


def _by_row(layer: MoELayer, pruning_class: PruningClass, shapes: Shapes) -> Iterator[dict[int, int]]:
    """Positions of each unit of a class in each expert, for matrices whose rows belong to experts in turn."""
    for member in pruning_class.coupling.members:
        size = shapes[member.parameter][member.dim] if member.parameter in layer.stacks else 0
        if size and size % len(layer.experts) == 0:
            owners = member.positions // (size // len(layer.experts))
            yield from (Counter(unit) for unit in owners.tolist())
            return


def isolate(
    layer: MoELayer,
    classes: Iterable[PruningClass],
    roles: FoundRoles,
    shapes: Shapes,
    together: Mapping[Place, str] | None = None,
) -> Isolation:
    """The isolation matrix of a layer; channels that experts share with what lies outside of them do not count.

    ``shapes`` are those of the original model's parameters by name. Dimensions ``together`` hold channels that all
    experts have in common in the model itself: they are no leak.
    """
    own, leaks = [0] * len(layer.experts), Counter[tuple[int, int]]()
    for pruning_class in classes:
        touched = pruning_class.coupling.parameters
        if pruning_class.role == "hidden" or not any(p.startswith(layer.container + ".") for p in touched):
            continue
        size = pruning_class.coupling.size
        if layer.parts:
            parts = [_by_name(layer, pruning_class)]
        elif pruning_class.experts == len(own):  # each expert keeps channels of its own
            parts = [{k: size} for k in range(len(own))]
        elif layer.layout == "rows":
            parts = list(_by_row(layer, pruning_class, shapes))
        else:
            parts = [dict.fromkeys(range(len(own)), size)]
        for inside in parts:
            if len(inside) > 1 and _reaches_outside(pruning_class, roles):
                continue
            own = [size + inside.get(k, 0) for k, size in enumerate(own)]
            if together and all((m.parameter, m.dim) in together for m in pruning_class.coupling.members):
                continue
            for i in inside:
                leaks.update({(i, j): count for j, count in inside.items() if j != i} if len(inside) > 1 else {})
    return Isolation(layer, tuple(own), dict(leaks))


def isolation(context: Context) -> list[Isolation]:
    """The isolation matrices of all MoE layers; none if the subject shows no groups."""
    classes = context.outcome.classes
    shapes, together = _shapes(context), _together(context)
    return [isolate(layer, classes, context.roles, shapes, together) for layer in context.roles.layers if classes]


def _together(context: Context) -> dict[Place, str]:
    """Dimensions of fused experts whose channels meet in the original, by our own trace, with what makes them meet."""
    if context.couplings is None:
        return {}
    classes = classify(context.original, context.couplings.classes, context.roles, context.couplings)
    return {(m.parameter, m.dim): c.joint for c in classes if c.joint for m in c.coupling.members}


def _shapes(context: Context) -> Shapes:
    return {name: tuple(p.shape) for name, p in context.original.named_parameters()}


def _reaches_outside(pruning_class: PruningClass, roles: FoundRoles) -> bool:
    """Whether a group holds channels that no expert owns alone.

    These are channels of the residual stream, or heads that attention experts share with the keys and values.
    """
    names = pruning_class.coupling.parameters
    return pruning_class.role == "hidden" or any(roles.boundary(n) is None and roles.shared(n) is None for n in names)


def _without_own(context: Context, layer: MoELayer, shapes: Shapes) -> set[str]:
    """Experts without channels of their own.

    All their channels are shared with parameters outside, frozen in our trace of the original, or single rows.
    """
    frozen = () if context.couplings is None else context.couplings.frozen
    shared = {(f.parameter, f.dim) for f in frozen} | {
        (m.parameter, m.dim)
        for c in context.outcome.classes
        if _reaches_outside(c, context.roles)
        for m in c.coupling.members
    }
    return {
        expert
        for number, expert in enumerate(layer.experts)
        if all(size == 1 or place in shared for place, size in _sizes_inside(layer, number, shapes))
    }


def _sizes_inside(layer: MoELayer, expert: int, shapes: Shapes) -> Iterator[tuple[tuple[str, int], int]]:
    """Dimensions of an expert's parameters, with how many positions are the expert's."""
    for name in layer.stacks or [n for n in shapes if layer.owner(n) == expert]:
        for dim, size in enumerate(shapes.get(name, ())):
            alone = 1 if layer.layout == "fused" else size // len(layer.experts)
            yield (name, dim), alone if layer.stacks and dim == layer.axis(name) else size


def _across_layers(context: Context) -> list[tuple[str, str]]:
    """Pairs of experts (or containers of fused ones) of different layers whose inner channels share a class."""
    roles = context.roles
    pairs = []
    for pruning_class in context.outcome.classes:
        if _reaches_outside(pruning_class, roles):
            continue
        boundaries = sorted({b for n in pruning_class.coupling.parameters if (b := roles.boundary(n)) is not None})
        touched = {b: layer.name for b in boundaries if (layer := roles.layer_of(b)) is not None}
        pairs += [(a, b) for a in touched for b in touched if a < b and touched[a] != touched[b]]
    return pairs


def _tied(context: Context) -> set[frozenset[str]]:
    """Pairs of experts that share a tensor: they are one, and can only be pruned as one."""
    owners: dict[int, set[str]] = defaultdict(set)
    for name, parameter in context.original.named_parameters(remove_duplicate=False):
        if (boundary := context.roles.boundary(name)) is not None:
            owners[id(parameter)].add(boundary)
    return {frozenset((a, b)) for group in owners.values() for a in group for b in group if a != b}


@check("expert-isolation")
def expert_isolation(context: Context) -> Finding:
    """Proves that no group of the subject removes inner channels of two routed experts, of one layer or of two.

    Reads the subject's own groups, so it does not judge a subject that shows none. ``masked-equivalence`` judges the
    weights of such a subject. Channels that experts share with a parameter outside of them do not count. Examples: the
    residual stream, and heads that attention experts share with keys and values. Experts that share a tensor are one,
    and so are fused experts whose channels an operation of the model adds up.
    Shared experts may be connected with every expert. ``coupling-minimal`` judges whether experts are connected with
    anything without need.
    """
    if not context.roles.layers:
        return without_layers(context.roles)
    if not context.outcome.classes:
        return skipped("the subject shows no groups; masked-equivalence judges its result")
    matrix = isolation(context)
    leaks: list[dict[str, Any]] = [
        {"layer": one.layer.name, "from": one.layer.experts[i], "to": one.layer.experts[j], "channels": count}
        for one in matrix
        for (i, j), count in one.leaks.items()
    ]
    leaks += [{"layer": "", "from": a, "to": b, "channels": 0} for a, b in _across_layers(context)]
    tied = _tied(context)
    leaks = [leak for leak in leaks if frozenset((leak["from"], leak["to"])) not in tied]
    shapes = _shapes(context)  # shared tensors go by their first name
    without = {e for one in matrix if not all(one.own) for e in _without_own(context, one.layer, shapes)}
    empty = [
        expert
        for one in matrix
        for number, (expert, size) in enumerate(zip(one.layer.experts, one.own, strict=True))
        if not size and expert not in without
        if any(n in one.layer.stacks or one.layer.owner(n) == number for n in shapes)
    ]
    if leaks:
        first = leaks[0]
        return failed(
            f"pruning a channel of {first['from']} also removes channels of {first['to']}",
            leaks=leaks[:50],
            leak_count=len(leaks),
        )
    if empty:
        return failed(f"{empty[0]} has no group of its own", experts=empty[:50])
    text = f"{len(context.roles.experts)} experts in {len(context.roles.layers)} layers stand alone"
    if without:
        text += f"; {len(without)} of them have no channels of their own, such as {min(without)}"
    if together := _together(context):
        text += f"; some of their channels go together in the model itself: {next(iter(together.values()))}"
    return passed(text)
