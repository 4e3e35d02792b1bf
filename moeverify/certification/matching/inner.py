"""Channels that stand in another order inside of the heads that they belong to.

A value channel may change places with others of its head if the output projection follows: nothing that a head computes
depends on that order. Classes are units of whole heads, so their keep map does not show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from moeverify.certification.matching.compare import Compared, Relation
from moeverify.certification.matching.maps import KeepMap

_ROLES = ("heads", "other")


def reordered_inside(compared: Sequence[Compared], keep: KeepMap) -> set[int]:
    """Numbers of the items that are in step but for an order inside of heads, which others of their class share.

    Exception: one module alone in another order is out of step, whatever the order.
    """
    orders: dict[int, list[int]] = defaultdict(list)
    for number, item in enumerate(compared):
        if (of := _class_of(item, keep)) is not None:
            orders[of].append(number)
    several = [
        numbers for numbers in orders.values() if len({compared[n].base_name.rpartition(".")[0] for n in numbers}) > 1
    ]
    return {number for numbers in several for number in numbers}


def _class_of(item: Compared, keep: KeepMap) -> int | None:
    """The class inside whose units a tensor's positions moved; ``None`` if they left them."""
    if item.relation is not Relation.MOVED or item.evidence.get("dim") is None:
        return None
    key, positions = (item.base_name, int(item.evidence["dim"])), item.evidence["found"]
    expected = keep.positions(*key)
    expected = np.arange(len(positions)) if expected is None else expected
    moved = positions != expected
    for slot in keep.structure.slots.get(key, ()):
        role = keep.structure.classes[slot.number].role
        unit = np.full(keep.base[key[0]][key[1]], -1)
        unit[slot.positions] = np.arange(len(slot.positions))[:, None]
        here, there = unit[positions[moved]], unit[expected[moved]]
        if role in _ROLES and slot.positions.shape[1] > 1 and (here >= 0).all() and np.array_equal(here, there):
            return slot.number
    return None
