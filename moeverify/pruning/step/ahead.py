"""Scores made before a plan, so that a reader of weights in files can choose the order of reading.

A plan asks for the scores of one class after the other. Classes that share weights would each read them. So
``score_ahead`` collects the classes first, scores them in any order, and stores the scores for the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch_pruning.dependency import Group

from moeverify.coupling.classify import PruningClass
from moeverify.models.forward import Example
from moeverify.pruning.choice.candidates import Selection
from moeverify.pruning.choice.scores import score_classes
from moeverify.pruning.experts.removal import expert_layout
from moeverify.pruning.experts.request import ExpertRequest
from moeverify.pruning.experts.scorer import ExpertScorer


@dataclass(frozen=True, eq=False)
class Scoring:
    """One piece of work: ``parameters`` are the names of what it reads, in no order."""

    parameters: tuple[str, ...]
    work: Callable[[], None]


class Reading(Protocol):
    """Interface of what reads weights from files, and decides in which order they are used."""

    def score(self, pieces: Sequence[Scoring]) -> None:
        """Run all pieces of work."""

    def forward(self, calls: Sequence[Callable[[], Any]]) -> None:
        """Run forwards of the model; the statistics of a layer are gathered in their order."""


class _Asked:
    """An importance that returns no scores and records the classes that a plan would score."""

    def __init__(self) -> None:
        self.classes: list[PruningClass] = []

    def score_class(self, pruning_class: PruningClass) -> torch.Tensor:
        self.classes.append(pruning_class)
        size = pruning_class.coupling.size
        return torch.zeros(pruning_class.experts, size) if pruning_class.experts else torch.zeros(size)

    def __call__(self, group: Group) -> None:
        """Return no scores."""


class _Known:
    """An importance that returns scores of classes that were made before."""

    def __init__(self, scores: dict[PruningClass, torch.Tensor]) -> None:
        self._scores = scores

    def score_class(self, pruning_class: PruningClass) -> torch.Tensor:
        return self._scores[pruning_class]

    def __call__(self, group: Group) -> None:
        """Return no scores: a group alone is not enough."""


def score_ahead(
    selection: Selection, step: int, experts: ExpertRequest | None, example: Example, reading: Reading
) -> ExpertRequest | None:
    """Score all classes that ``step`` may cut, and store the scores in ``selection``."""
    importance, asked = selection.importance, _Asked()
    selection.importance = asked
    try:
        selection.candidates(step)
    finally:
        selection.importance = importance
    scores: dict[PruningClass, torch.Tensor] = {}

    def scored(classes: Sequence[PruningClass]) -> Callable[[], None]:
        def work() -> None:
            scores.update(zip(classes, score_classes(selection.graph, classes, importance), strict=True))

        return work

    pieces = [
        Scoring(tuple(dict.fromkeys(m.parameter for c in classes for m in c.coupling.members)), scored(classes))
        for classes in _by_layer(selection, asked.classes)
    ]
    if experts is not None:
        experts = _experts_ahead(selection, experts, example, reading, pieces)
    reading.score(pieces)
    selection.importance = _Known(scores)
    return experts


def _by_layer(selection: Selection, classes: Sequence[PruningClass]) -> list[list[PruningClass]]:
    """Sets of classes to score together: the listed experts of one MoE layer; any other class by itself."""
    result: dict[Any, list[PruningClass]] = {}
    for number, c in enumerate(classes):
        layer = selection.graph.found_roles.layer_of(c.where) if c.role == "routed_experts" else None
        result.setdefault(number if layer is None else layer, []).append(c)
    return list(result.values())


def _experts_ahead(
    selection: Selection, experts: ExpertRequest, example: Example, reading: Reading, pieces: list[Scoring]
) -> ExpertRequest:
    """The request for whole experts, with scores that one of ``pieces`` makes; statistics of calibration data come
    first.
    """
    model, roles = selection.graph.model, selection.graph.found_roles
    layout = expert_layout(model, roles, example)
    if not experts.removes_some(model, layout):
        return replace(experts, layout=layout)
    criterion = experts.score
    if isinstance(criterion, ExpertScorer):
        criterion.gather(model, layout, reading.forward)
    known: dict[str, torch.Tensor] = {}
    first = layout.layers[0]
    read = tuple(a.parameter for a in first.axes) or tuple(n for n, _ in model.named_parameters())
    pieces.insert(0, Scoring(read, lambda: known.update(criterion(model, layout))))
    return replace(experts, layout=layout, score=lambda model, layout: known)
