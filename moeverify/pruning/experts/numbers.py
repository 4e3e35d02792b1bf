"""Number of experts that each layer keeps: legal, and equal where one configuration entry counts for several."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from moeverify.errors import PruningRefused, UsageError
from moeverify.pruning.choice.rounding import kept_units
from moeverify.pruning.experts.removal import ExpertLayout


@dataclass(frozen=True)
class Wanted:
    """The number of experts that each layer is to keep, by layer name; ``ignored`` layers keep theirs.

    On the way to the ``final`` step the next legal number above will do.
    """

    kept: Mapping[str, int]
    ignored: frozenset[str] = frozenset()
    final: bool = True


def wanted_numbers(
    layout: ExpertLayout,
    ratio: float | Mapping[str, float],
    initial: Mapping[str, int] | None = None,
    ignored: Collection[str] = (),
) -> Wanted:
    """Numbers that a ratio of the ``initial`` numbers, common or by layer, asks for.

    Raises ``UsageError`` for a layer that is not there.
    """
    names = [counted.layer.name for counted in layout.layers]
    ratios = dict(ratio) if isinstance(ratio, Mapping) else dict.fromkeys(names, ratio)
    if unknown := sorted(set(ratios) - set(names)):
        raise UsageError(f"the model has no MoE layer {unknown[0]!r}; its MoE layers are {', '.join(names[:4])}, ...")
    ratios |= dict.fromkeys(ignored, 0.0)
    kept = {}
    for c in layout.layers:
        whole = (initial or {}).get(c.layer.name, c.count)
        kept[c.layer.name] = min(c.count, kept_units(whole, ratios.get(c.layer.name, 0.0)))
    return Wanted(kept, frozenset(ignored))


def numbers_kept(layout: ExpertLayout, wanted: Wanted) -> dict[str, int]:
    """Number of experts that each layer keeps.

    Raises ``PruningRefused`` for an illegal number, and names the nearest legal ones. It is also raised for different
    numbers in layers that share one entry of the configuration.
    """
    kept = dict(wanted.kept)
    for counted in layout.layers:
        name = counted.layer.name
        if not wanted.final:
            legal = layout.topologies[name].legal()
            kept[name] = min((n for n in (*legal, counted.count) if n >= kept[name]), default=counted.count)
        if kept[name] != counted.count:
            layout.topologies[name].check(kept[name], name)
    _refuse_unequal(layout, kept)
    return kept


def numbers_together(layout: ExpertLayout, wanted: Wanted, scores: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Number of experts that each layer keeps if the best of all layers stay, as many in total as ``wanted``.

    Every layer keeps a legal number, the next one above its share. Raises ``PruningRefused`` if one entry of the
    configuration counts for several layers, so that they cannot differ.
    """
    for group in layout.linked():
        if len(group) > 1:
            entry = ".".join(map(str, group[0].entries[0]))
            raise PruningRefused(
                f"global_pruning leaves layers with unequal numbers of experts, and the entry {entry} of the "
                f"configuration counts for {len(group)} of them; use global_pruning=False"
            )
    free = [c for c in layout.layers if c.layer.name not in wanted.ignored]
    kept = {c.layer.name: c.count for c in layout.layers}
    total = sum(wanted.kept[c.layer.name] for c in free)
    if not free or total >= sum(c.count for c in free):
        return kept
    ranked = torch.cat([scores[c.layer.name].double() for c in free])
    if not bool(ranked.isfinite().all()):
        raise PruningRefused("the scores of the experts are not all finite; more calibration data may help")
    threshold = torch.sort(ranked, descending=True).values[max(total, 1) - 1]
    for c in free:
        share = int((scores[c.layer.name].double() >= threshold).sum())
        legal = layout.topologies[c.layer.name].legal()
        kept[c.layer.name] = min((n for n in (*legal, c.count) if n >= share), default=c.count)
    return kept


def _refuse_unequal(layout: ExpertLayout, kept: Mapping[str, int]) -> None:
    for group in layout.linked():
        numbers = {kept[c.layer.name] for c in group}
        if len(numbers) > 1:
            first = ".".join(map(str, group[0].entries[0]))
            raise PruningRefused(
                f"{group[0].layer.name} would keep {kept[group[0].layer.name]} experts and another layer "
                f"{min(numbers - {kept[group[0].layer.name]})}, but the entry {first} of the configuration counts for "
                "both; give all layers one ratio, and ignore all of them or none"
            )
