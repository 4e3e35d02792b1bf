"""Scores of units by any Torch-Pruning importance, on experts of every layout.

All experts of a layer are scored at once where the operations of the importance are known (``formulas.py``). Any other
importance is called with one group for each expert.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch_pruning as tp
from torch_pruning.dependency import Group
from torch_pruning.pruner.importance import OBDCImportance

from moeverify.base.foreign import left_by
from moeverify.coupling.classify import PruningClass
from moeverify.errors import PruningRefused
from moeverify.pruning.choice.batches import FEW_POSITIONS, Batch, NoBatch, batch_scores, batches_of
from moeverify.pruning.choice.camera import CameraImportance
from moeverify.pruning.choice.formulas import formula_of, is_random
from moeverify.pruning.choice.parts import Part, Source, as_linear, sources_of
from moeverify.pruning.choice.routing_importance import RoutingImportance

if TYPE_CHECKING:
    from moeverify.pruning.graph.graph import MoEDependencyGraph


def score_units(
    graph: MoEDependencyGraph, pruning_class: PruningClass, importance: Callable[[Group], torch.Tensor | None]
) -> torch.Tensor:
    """Scores ``[units]``, or ``[experts, units]`` where each expert keeps its own; higher is kept.

    An importance that needs more than a group may define a method ``score_class``. It returns the scores of a class, or
    ``None`` to be called with the group. Raises ``PruningRefused`` if the importance gives no scores for the class, or
    lacks gradients or statistics.
    """
    return score_classes(graph, [pruning_class], importance)[0]


def score_classes(
    graph: MoEDependencyGraph, classes: Sequence[PruningClass], importance: Callable[[Group], torch.Tensor | None]
) -> list[torch.Tensor]:
    """The scores of several classes, as ``score_units`` gives them; those of alike layers are computed at once.

    Raises ``PruningRefused`` as ``score_units`` does, of the first class that has no score.
    """
    given: Callable | None = getattr(importance, "score_class", None)
    scores: dict[int, torch.Tensor] = {}
    if given is not None:
        known = ((number, given(pruning_class)) for number, pruning_class in enumerate(classes))
        scores = {number: tensor for number, tensor in known if tensor is not None}
    asked = _asked_for_groups(importance)
    if isinstance(asked, tp.importance.GroupHessianImportance):
        asked(Group())  # moves what was accumulated into the gradients, which the parts below share
    left = {n: (c, sources_of(graph, c)) for n, c in enumerate(classes) if n not in scores}
    if (formula := formula_of(asked)) is not None:
        for batch in batches_of(left):
            with suppress(NoBatch):
                scores.update(_by_class(batch, batch_scores(batch, formula), left))
    for number, (pruning_class, sources) in left.items():
        if number not in scores:
            scores[number] = _one_by_one(pruning_class, sources, importance)
    return [scores[number] for number in range(len(classes))]


def _asked_for_groups(importance: Any) -> Any:
    """The importance that scores groups.

    One that scores experts only delegates other groups to its ``base``.
    """
    leaves = type(importance).__call__ in (RoutingImportance.__call__, CameraImportance.__call__)
    return importance.base if leaves else importance


def _by_class(
    batch: Batch, scores: torch.Tensor, classes: Mapping[int, tuple[PruningClass, Sequence[Source]]]
) -> dict[int, torch.Tensor]:
    """The rows of a batch by the number of the class that they belong to."""
    if len(batch.numbers) > 1:
        return dict(zip(batch.numbers, scores, strict=True))
    (number,) = batch.numbers
    return {number: scores if classes[number][0].experts else scores[0]}


def _one_by_one(pruning_class: PruningClass, sources: Sequence[Source], importance: Callable) -> torch.Tensor:
    """Scores of a class by as many calls of the importance as it has experts."""
    size = pruning_class.coupling.size
    rows = range(max(pruning_class.experts, 1))
    if is_random(importance) and _draws_once(sources):
        scores = [torch.rand(size) for _ in rows]
    else:
        scores = [_score(pruning_class, _parts(sources, importance, expert), importance) for expert in rows]
    return torch.stack(scores) if pruning_class.experts else scores[0]


def _draws_once(sources: Sequence[Source]) -> bool:
    """Whether a random importance draws a number for each unit of a class, and no more."""
    single = [source for source in sources if source.positions.shape[2] == 1]
    return bool(single) and not single[0].span and len({source.device for source in sources} - {None}) < 2


def _score(pruning_class: PruningClass, parts: list[Part], importance: Callable) -> torch.Tensor:
    """Scores of a class, or of one expert of it. Parts on different devices are scored apart and averaged by number."""
    try:
        shares = _by_device(parts)
        found = [(_matrices(share), _score_parts(share, pruning_class.coupling.size, importance)) for share in shares]
    except (AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise PruningRefused(
            f"{type(importance).__name__} cannot score {pruning_class.name} ({left_by(error)}); it may "
            "need gradients (a backward pass) or statistics first"
        ) from error
    known = [(count, scores) for count, scores in found if scores is not None]
    if not known:
        raise PruningRefused(f"the importance gives no score for {pruning_class.name}; leave it out or use another one")
    if len(known) == 1:
        return known[0][1]
    return torch.stack([count * scores for count, scores in known]).sum(0) / sum(count for count, _ in known)


def _device_of(part: Part) -> torch.device | None:
    weight = getattr(part.layer, "weight", None)
    return weight.device if isinstance(weight, torch.Tensor) else None


def _matrices(parts: list[Part]) -> int:
    """Number of parts that an importance counts: norm weights are left out by most."""
    weights = [getattr(part.layer, "weight", None) for part in parts]
    return max(1, sum(isinstance(w, torch.Tensor) and w.dim() > 1 for w in weights))


def _by_device(parts: list[Part]) -> list[list[Part]]:
    """Parts that lie together; one without a weight goes with the first ones."""
    shares: dict[torch.device | None, list[Part]] = {}
    home = next((device for part in parts if (device := _device_of(part)) is not None), None)
    for part in parts:
        shares.setdefault(_device_of(part) or home, []).append(part)
    return list(shares.values())


def _score_parts(parts: list[Part], size: int, importance: Callable) -> torch.Tensor | None:
    group = Group()
    wide: list[torch.Tensor] = []
    single = any(part.positions.shape[1] == 1 for part in parts)
    added_up = getattr(importance, "group_reduction", "mean") in ("sum", "mean")
    for part in sorted(parts, key=lambda part: part.positions.shape[1] > 1):
        if single and added_up:
            group._group.append(part.item(part.positions))
        elif single or part.positions.shape[1] <= FEW_POSITIONS:
            group._group += [part.item(column[:, None]) for column in part.positions.T]
        else:  # a head: position by position, then averaged
            wide += _position_scores(part, size, importance)
    narrow = importance(group) if len(group) else None
    result = [*wide, *([narrow.float()[:size]] if narrow is not None and len(narrow) else [])]
    return torch.stack([scores.cpu() for scores in result]).mean(0) if result else None


def _position_scores(part: Part, size: int, importance: Callable) -> list[torch.Tensor]:
    """Each unit's mean over its positions, if the importance can score the layer."""
    item = part.item(part.positions)
    item.root_idxs = list(range(len(item.idxs)))
    alone = Group()
    alone._group.append(item)
    scores = importance(alone)
    if scores is None or not len(scores):
        return []
    order = np.argsort(part.positions.ravel(), kind="stable")
    by_place = torch.empty(len(order), dtype=torch.float32)
    by_place[torch.as_tensor(order)] = scores.float().cpu()[: len(order)]
    return [by_place.view(size, -1).mean(1)]


def _parts(sources: Sequence[Source], importance: Callable, expert: int) -> list[Part]:
    """The layers of a class, or of one expert of it, as the importance takes them."""
    parts = [part for source in sources for part in source.parts(expert)]
    if isinstance(importance, OBDCImportance):
        return [_with_fisher(part, importance) for part in parts if _is_output(part)]
    return parts


def _is_output(part: Part) -> bool:
    return part.handler in (tp.prune_linear_out_channels, tp.prune_conv_out_channels)


def _with_fisher(part: Part, importance: OBDCImportance) -> Part:
    """The part's rows as a layer of their own, with their statistics: Torch-Pruning expects those of whole layers
    without bias. Where none were gathered (fused experts run outside of any layer) the squared gradient stands for
    them.
    """
    layer: Any = part.layer
    rows = torch.as_tensor(part.positions.ravel().copy())
    gradient = None if layer.weight.grad is None else layer.weight.grad[rows]
    view = as_linear(layer.weight.detach()[rows], gradient, 0)
    importance.steps = max(importance.steps, 1)
    fisher = importance.Fisher.get(layer)
    if fisher is not None:
        importance.Fisher[view] = fisher[rows, : view.in_features]
    elif view.weight.grad is not None:
        importance.Fisher[view] = view.weight.grad.pow(2) * importance.steps
    view.out_features = math.nan  # type: ignore[assignment]  # not the classifier, known to Torch-Pruning by its size
    places = np.arange(len(rows)).reshape(part.positions.shape)
    return Part(view, tp.prune_linear_out_channels, places)
