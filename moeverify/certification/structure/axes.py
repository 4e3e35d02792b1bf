"""Dimensions that count experts, found by doubling the count in the configuration and looking at what doubles.

Nothing is known of an architecture's names: correction biases, per-expert scales and id tables show themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moeverify.errors import SourceError
from moeverify.models.folder.skeleton import Skeleton, skeleton_of
from moeverify.models.roles import FoundRoles, MoELayer

Axis = tuple[str, int]  # (parameter, dim)


@dataclass(frozen=True)
class ExpertAxis:
    """A dimension that holds ``count`` experts with ``stride`` positions each; further positions belong to none.

    ``layer`` is the number of the MoE layer. ``stride`` is 1 except in expert-major matrices.
    """

    layer: int
    count: int
    stride: int


def expert_axes(skeleton: Skeleton, roles: FoundRoles) -> dict[Axis, ExpertAxis]:
    """The expert axes of every MoE layer, by ``(parameter, dim)``."""
    result: dict[Axis, ExpertAxis] = {}
    for count in sorted({len(layer.experts) for layer in roles.layers}):
        for path in _entries(skeleton.config.to_dict(), count):
            doubled = with_entry(skeleton, path, 2 * count)
            if doubled is None:
                continue
            changed = _changes(skeleton, doubled, roles, count)
            if _touches_experts(changed, roles):
                result |= changed
    for number, layer in enumerate(roles.layers):
        if not any(axis.layer == number for axis in result.values()):
            result |= _by_size(skeleton, layer, number)
    return result


def _entries(config: Mapping[str, Any], count: int, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _entries(value, count, (*path, key))
        elif isinstance(value, int) and not isinstance(value, bool) and value == count:
            yield (*path, key)


def with_entry(skeleton: Skeleton, path: tuple[str, ...], value: Any) -> Skeleton | None:
    """The skeleton with one entry of its configuration changed; ``None`` if that describes no model."""
    return skeleton_with(skeleton, {path: value})


def skeleton_with(skeleton: Skeleton, entries: Mapping[tuple[str, ...], Any]) -> Skeleton | None:
    """The skeleton with entries of its configuration changed; ``None`` if they describe no model together."""
    config = copy.deepcopy(skeleton.config)
    try:
        for path, value in entries.items():
            owner = config
            for key in path[:-1]:
                owner = getattr(owner, key, None) if not isinstance(owner, dict) else owner.get(key)
            if isinstance(owner, dict):
                owner[path[-1]] = value
            else:
                setattr(owner, path[-1], value)
        return skeleton_of(config)
    except (SourceError, AttributeError, TypeError, ValueError):
        return None


def _changes(before: Skeleton, after: Skeleton, roles: FoundRoles, count: int) -> dict[Axis, ExpertAxis]:
    changed = {}
    for name, shape in before.shapes.items():
        other = after.shapes.get(name, shape)
        if other == shape or len(other) != len(shape):
            continue
        layer = _layer_of(name, roles, count)
        for dim, (old, new) in enumerate(zip(shape, other, strict=True)):
            stride, rest = divmod(new - old, count)
            if layer is not None and not rest and 0 < stride * count <= old:
                changed[name, dim] = ExpertAxis(layer, count, stride)
    return changed


def _layer_of(name: str, roles: FoundRoles, count: int) -> int | None:
    """The MoE layer that a parameter belongs to: the one whose path it shares the most of."""

    def shared(layer: MoELayer) -> int:
        parts = zip(name.split("."), layer.container.split("."), strict=False)
        return next((n for n, (a, b) in enumerate(parts) if a != b), 99)

    fitting = [number for number, layer in enumerate(roles.layers) if len(layer.experts) == count]
    best = max(fitting, key=lambda number: shared(roles.layers[number]), default=None)
    if best is None or not _same_numbers(name, roles.layers[best].container):
        return None
    return best


def _same_numbers(name: str, container: str) -> bool:
    """Whether two paths lie in the same numbered layer."""
    first = next((part for part in name.split(".") if part.isdigit()), None)
    return first is None or first == next((part for part in container.split(".") if part.isdigit()), None)


def _touches_experts(changed: Mapping[Axis, ExpertAxis], roles: FoundRoles) -> bool:
    owners = {name for layer in roles.layers for name in (*layer.stacks, *layer.routers)}
    return any(name in owners or name.rpartition(".")[0] in owners for name, _ in changed)


def _by_size(skeleton: Skeleton, layer: MoELayer, number: int) -> dict[Axis, ExpertAxis]:
    """Expert axes of a layer that no entry of the configuration counts: stacks and routers of its size."""
    count = len(layer.experts)
    result = {}
    for name, shape in skeleton.shapes.items():
        owner = name.rpartition(".")[0]
        if name in layer.stacks and shape and shape[0] % count == 0:
            result[name, 0] = ExpertAxis(number, count, shape[0] // count)
        elif owner in layer.routers and shape and shape[0] == count:
            result[name, 0] = ExpertAxis(number, count, 1)
    return result
