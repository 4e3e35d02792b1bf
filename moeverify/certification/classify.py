"""Classification of a pruned folder, and of its differences into faults and intended changes.

Some tensors of a kind that differ while their siblings are the base's are faults. A kind that differs in every layer
was re-trained, merged or averaged on purpose: that is reported and not judged.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from moeverify.certification.matching.compare import PURE, Compared, Relation
from moeverify.certification.matching.inner import reordered_inside
from moeverify.certification.matching.maps import KeepMap
from moeverify.certification.matching.mixtures import Mixture


class Headline(StrEnum):
    """The class of a pruned folder."""

    SELECTION = "pure selection"
    PERMUTED = "selection with permutation"
    CAST = "selection with cast"
    PARTIAL = "a selection in part"
    ZEROED = "selection with zeroed parts"
    RESCALED = "selection with rescaled weights"
    MERGED = "merged experts"
    COPIES = "copies of experts"
    RETRAINED = "re-trained"
    PARTLY = "re-trained in part"
    UNDERIVED = "not derived from this base, or re-trained beyond recognition"
    BROKEN = "a selection with faults"


@dataclass(frozen=True)
class Classes:
    """``faults`` are differences that are wrong; ``reported`` those that are on purpose or cannot be judged.

    ``reordered``: reported ones whose channels have another order inside of heads.
    """

    headline: Headline
    faults: tuple[Compared, ...]
    reported: tuple[Compared, ...]
    altered_kinds: tuple[str, ...] = ()
    mixtures: tuple[Mixture, ...] = field(default=())
    reordered: tuple[Compared, ...] = ()


# A kind is altered as a whole if this share of its tensors is.
_WHOLE = 0.9
_MOST = 0.5
_NEAR = (Relation.CHANGED,)
_MATCHED = (*PURE, Relation.MIXED, Relation.ROUNDED, Relation.ZEROED, Relation.SCALED)


def classify(
    compared: Sequence[Compared],
    keep: KeepMap,
    mixtures: Sequence[Mixture] = (),
    *,
    proved: bool | None = None,
) -> Classes:
    """Separate faults from intended changes.

    ``proved``: whether outputs show two changes to be harmless; ``None`` if nothing was run. The two are weights that
    take over constants of the architecture, and channels inside heads permuted alike in all tensors.
    """
    kinds: dict[str, list[Compared]] = defaultdict(list)
    whole = {(m.layer_name, m.expert): m.whole for m in mixtures if m.whole is not None}
    compared = [_of_another(item, whole) for item in compared]
    inside = [compared[number] for number in sorted(reordered_inside(compared, keep))]
    for item in compared:
        kinds[kind_of(item.name)].append(item)
    altered = {kind: items for kind, items in kinds.items() if _share(items, _MATCHED) <= 1 - _WHOLE}
    matrices = [kind for kind, items in kinds.items() if items[0].nbytes and not items[0].name.endswith("bias")]
    faults: list[Compared] = []
    reported: list[Compared] = []
    merged = {(m.layer_name, m.expert) for m in mixtures if m.explained}
    copied = _copied_layers(keep)
    wholly = len(altered) >= 0.6 * max(len(matrices), 1)
    for kind, items in kinds.items():
        for item in items:
            if item.relation is Relation.SCALED and proved is not None:
                (reported if proved else faults).append(item)
            elif item in inside:
                (faults if proved is False else reported).append(item)
            elif _routes_to_copies(item, keep, copied):
                reported.append(item)
            else:
                _sort(item, items, kind in altered, wholly, merged, faults, reported)
    headline = _headline(compared, keep, faults, altered, wholly, mixtures)
    return Classes(
        Headline.PERMUTED if inside and headline is Headline.SELECTION else headline,
        tuple(sorted(faults, key=_gravity)),
        tuple(reported),
        tuple(altered),
        tuple(mixtures),
        () if proved is False else tuple(inside),
    )


def _of_another(item: Compared, whole: dict[tuple[str, int], int]) -> Compared:
    """Mark a slice as out of step if it holds values of another base expert than the rest of its expert."""
    if item.expert is None or (other := whole.get((item.base_name, item.expert))) in (None, item.base_expert):
        return item
    if item.relation not in (Relation.CHANGED, Relation.UNRELATED):
        return item
    detail = f"holds the values of base expert {other}, while other tensors of it are base expert {item.base_expert}'s"
    return replace(item, relation=Relation.MOVED, detail=detail)


def _copied_layers(keep: KeepMap) -> set[int]:
    """MoE layers that kept their number of experts, some of which are copies of one: a cluster shares its weights."""
    return {n for n in repeated_experts(keep) if len(keep.experts[n]) == len(keep.structure.roles.layers[n].experts)}


def _routes_to_copies(item: Compared, keep: KeepMap, copied: set[int]) -> bool:
    """Whether a router's tensor may keep the rows of the experts that its copies stand for."""
    axes = keep.structure.axes
    layers = {axis.layer for (name, _), axis in axes.items() if name == item.base_name}
    return item.role == "router" and item.relation is Relation.MOVED and bool(layers & copied)


def kind_of(name: str) -> str:
    """A tensor's name without the numbers of layers and experts.

    >>> kind_of("model.layers.3.mlp.experts.17.up_proj.weight")
    'model.layers.*.mlp.experts.*.up_proj.weight'
    """
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _sort(
    item: Compared,
    siblings: list[Compared],
    altered: bool,
    wholly: bool,
    merged: set[tuple[str, int]],
    faults: list[Compared],
    reported: list[Compared],
) -> None:
    if item.relation in PURE:
        return
    if item.evidence.get("broken"):  # no training means that
        faults.append(item)
        return
    on_purpose = _of_all_siblings(item, siblings)
    if on_purpose is None:
        merged_expert = item.expert is not None and (item.base_name, item.expert) in merged
        retrained = altered and item.relation in _NEAR and len(siblings) > 1
        unplaced = item.relation is Relation.UNMAPPED and not _foreign(item, siblings)
        on_purpose = wholly or merged_expert or retrained or unplaced
    (reported if on_purpose else faults).append(item)


def _foreign(item: Compared, siblings: list[Compared]) -> bool:
    """Whether an expert is none of the base's although most of its kind are: of another layer, or drawn at random."""
    return item.expert is not None and (item.base_expert or 0) < 0 and _share(siblings, _MATCHED) >= _MOST


def _of_all_siblings(item: Compared, siblings: list[Compared]) -> bool | None:
    """Whether a moved, rounded, scaled or zeroed tensor is intended; ``None`` for other relations.

    A rounded or scaled one is intended if its siblings are so, too.
    """
    if item.relation is Relation.MOVED:
        return False
    if item.relation is Relation.MIXED:
        return True
    if item.relation is Relation.ROUNDED:
        return _share(siblings, PURE) == 0 or _share(siblings, (Relation.ROUNDED,)) >= 0.5
    if item.relation is Relation.SCALED:
        return _share(siblings, (Relation.SCALED,)) >= _WHOLE
    if item.relation is Relation.ZEROED:
        return item.role != "router" and "norm" not in item.name and "embed" not in item.name
    return None


def _share(items: Sequence[Compared], relations: Sequence[Relation]) -> float:
    return sum(item.relation in relations for item in items) / len(items)


_ORDER = list(Relation)


def _gravity(item: Compared) -> tuple[int, bool]:
    """Faults that explain others first: moved, then unrelated, then changed."""
    first = {Relation.MOVED: 0, Relation.UNRELATED: 1, Relation.CHANGED: 2}
    return first.get(item.relation, 3), item.role == "other"


def _headline(
    compared: Sequence[Compared],
    keep: KeepMap,
    faults: Sequence[Compared],
    altered: dict[str, list[Compared]],
    wholly: bool,
    mixtures: Sequence[Mixture],
) -> Headline:
    if wholly:
        near = [item.change for items in altered.values() for item in items if item.relation in _NEAR]
        count = sum(map(len, altered.values()))
        return Headline.RETRAINED if len(near) > 0.5 * count else Headline.UNDERIVED
    if faults:
        return Headline.BROKEN
    if any(mixture.explained and len(mixture.of) > 1 for mixture in mixtures):
        return Headline.MERGED
    if any(mixture.same_as for mixture in mixtures) or repeated_experts(keep):
        return Headline.COPIES
    if altered and any(item.relation in _NEAR for items in altered.values() for item in items):
        return Headline.PARTLY
    relations = {item.relation for item in compared}
    for relation, headline in (
        (Relation.UNMAPPED, Headline.PARTIAL),
        (Relation.ZEROED, Headline.ZEROED),
        (Relation.SCALED, Headline.RESCALED),
        (Relation.ROUNDED, Headline.CAST),
        (Relation.CAST, Headline.CAST),
        (Relation.MIXED, Headline.CAST),
    ):
        if relation in relations:
            return headline
    return Headline.PERMUTED if is_permuted(keep) else Headline.SELECTION


def is_permuted(keep: KeepMap) -> bool:
    """Whether anything that stayed stands in another order than in the base."""
    rows = [*keep.lists.values(), *keep.experts.values()]
    for units in keep.units.values():
        rows += [units] if units.ndim == 1 else list(units)
    return any(bool((np.diff(row[row >= 0]) < 0).any()) for row in rows)


def repeated_experts(keep: KeepMap) -> dict[int, list[int]]:
    """For each MoE layer the base experts that stand in more than one place."""
    result = {}
    for layer, experts in keep.experts.items():
        known = experts[experts >= 0]
        values, counts = np.unique(known, return_counts=True)
        if (counts > 1).any():
            result[layer] = values[counts > 1].tolist()
    return result
