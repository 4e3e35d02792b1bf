"""Scores of all experts of a model, by a criterion and, where it needs them, statistics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.errors import PruningRefused, UsageError
from moeverify.models.forward import Example
from moeverify.pruning.checkpoint.digest import digest_of
from moeverify.pruning.choice.calibration import Calibration
from moeverify.pruning.choice.criteria import (
    EXPERT_CRITERIA,
    ExpertCriterion,
    ExpertWeights,
    LayerStatistics,
    criterion_named,
    magnitude,
)
from moeverify.pruning.experts.axes import CountedLayer
from moeverify.pruning.experts.observe import Run, observe, one_by_one
from moeverify.pruning.experts.removal import ExpertLayout, Scores
from moeverify.pruning.experts.statistics import ExpertStatistics


@dataclass(frozen=True, eq=False)
class LayerEvidence:
    """Evidence on one MoE layer for a user's criterion; ``statistics`` is ``None`` without calibration data."""

    name: str
    weights: ExpertWeights
    statistics: LayerStatistics | None


class ExpertScorer:
    """Ranks experts: ``criterion`` is a name or a function from ``LayerEvidence`` to ``[experts]`` scores.

    The default is ``reap`` with calibration data and ``magnitude`` without. ``statistics`` holds what was gathered.
    What a criterion draws follows ``torch.manual_seed``.

    Raises ``UsageError`` for an unknown name, or for a criterion that needs data and gets none.
    """

    def __init__(self, criterion: str | Callable | None, calibration: Any, example: Example) -> None:
        self.calibration = calibration
        self.example = example
        self.scores: dict[str, torch.Tensor] = {}
        self.seed = torch.initial_seed()  # what torch.manual_seed was given
        self.statistics: ExpertStatistics | None = calibration if isinstance(calibration, ExpertStatistics) else None
        chosen = criterion or ("magnitude" if calibration is None else "reap")
        self.criterion = criterion_named(chosen) if isinstance(chosen, str) else chosen
        if isinstance(self.criterion, ExpertCriterion) and self.criterion.needs_data and calibration is None:
            without = ", ".join(name for name, one in EXPERT_CRITERIA.items() if not one.needs_data)
            raise UsageError(
                f"the criterion {self.criterion.name} needs calibration data; pass `calibration`, or use one of "
                f"weights alone: {without}"
            )

    def __call__(self, model: nn.Module, layout: ExpertLayout) -> Scores:
        """Scores by layer name. Raises ``PruningRefused`` for scores of another number than experts."""
        statistics = self._gathered(model, layout)
        generator = torch.Generator().manual_seed(self.seed)
        scores = {}
        for counted in layout.layers:
            name = counted.layer.name
            weights = weights_of(model, counted)
            values = self._score(
                LayerEvidence(name, weights, statistics.layers[name] if statistics else None), generator
            )
            values = torch.as_tensor(values).detach().double().cpu().flatten()
            if len(values) != counted.count:
                raise PruningRefused(
                    f"the criterion gives {len(values)} scores for the {counted.count} experts of {name}"
                )
            if statistics is not None and self._needs_data:
                values = _unseen_last(values, statistics.layers[name].tokens, magnitude.magnitude(weights, generator))
            scores[name] = values
        self.scores = scores
        if statistics is not None and self._needs_data and (unseen := statistics.unseen()):
            warnings.warn(
                f"{len(unseen)} experts got no token of the calibration data and rank below all others, by the norm of "
                f"their weights: {', '.join(unseen[:8])}{', ...' if len(unseen) > 8 else ''}; more data may reach them",
                stacklevel=2,
            )
        return scores

    def ranked(self) -> dict[str, dict[str, Any]]:
        """Criterion, scores and calibration tokens of the last ranking, by layer, as plain data."""
        name = self.criterion.name if isinstance(self.criterion, ExpertCriterion) else _name_of(self.criterion)
        tokens = self.statistics.layers if self.statistics is not None and self._needs_data else {}
        return {
            layer: {"criterion": name, "scores": scores.tolist()}
            | ({"tokens": tokens[layer].tokens.tolist()} if layer in tokens else {})
            for layer, scores in self.scores.items()
        }

    @property
    def _needs_data(self) -> bool:
        return not isinstance(self.criterion, ExpertCriterion) or self.criterion.needs_data

    def _score(self, evidence: LayerEvidence, generator: torch.Generator) -> Any:
        if not isinstance(self.criterion, ExpertCriterion):
            return self.criterion(evidence)
        if self.criterion.from_statistics is not None:
            assert evidence.statistics is not None
            return self.criterion.from_statistics(evidence.statistics)
        assert self.criterion.from_weights is not None
        return self.criterion.from_weights(evidence.weights, generator)

    def gather(self, model: nn.Module, layout: ExpertLayout, run: Run = one_by_one) -> None:
        """Gather the statistics, if the criterion needs them and has none of these weights.

        ``run`` runs the forwards.
        """
        if self.calibration is None or not self._needs_data or isinstance(self.calibration, ExpertStatistics):
            return
        digest = digest_of(model)
        if self.statistics is not None and self.statistics.model_digest == digest:
            return
        calibration = Calibration.of(self.calibration)
        layers = observe(model, layout.layers, calibration.batches(model), self.example, run)
        self.statistics = ExpertStatistics(layers, digest, calibration.digest(model), calibration.settings())

    def _gathered(self, model: nn.Module, layout: ExpertLayout) -> ExpertStatistics | None:
        """The statistics, gathered now if they are not there yet; ``None`` for a criterion that needs none."""
        if self.calibration is None or not self._needs_data:
            return None
        self.gather(model, layout)
        assert self.statistics is not None
        self.statistics.check_model(digest_of(model))
        if missing := [c.layer.name for c in layout.layers if c.layer.name not in self.statistics.layers]:
            raise UsageError(f"the statistics know no layer {missing[0]}; gather them anew with calibration data")
        return self.statistics


def _name_of(function: Callable) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def evidence_from(
    calibration: str | None, statistics: str | None, *, samples: int, length: int, seed: int, tokenizer: str | None
) -> Calibration | ExpertStatistics | None:
    """Calibration data or statistics that experts and channels are ranked by, from a file; ``None`` without either.

    Raises ``UsageError`` for statistics that cannot be read.
    """
    if statistics is not None:
        return ExpertStatistics.read(Path(statistics).expanduser())
    return None if calibration is None else Calibration(calibration, samples, length, seed, tokenizer)


def criterion_from(name: str | None) -> str | Callable | None:
    """A criterion by name, or the function that ``module:attribute`` names. Raises ``UsageError`` for neither."""
    if name is None or ":" not in name:
        return None if name is None else criterion_named(name).name
    from moeverify.base.imports import find_attribute

    function = find_attribute(name)
    if not callable(function):
        raise UsageError(f"{name} is no function from the evidence of a layer to scores of its experts")
    return function


def _unseen_last(scores: torch.Tensor, tokens: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Experts without tokens below all others, among themselves by the norm of their weights: never by chance."""
    unseen = tokens == 0
    if not bool(unseen.any()) or bool(unseen.all()):
        return size.double() if bool(unseen.all()) else scores
    lowest = scores[~unseen].min()
    below = lowest - 1 - (size.max() - size).double()
    return torch.where(unseen, below, scores)


def weights_of(model: nn.Module, counted: CountedLayer) -> ExpertWeights:
    """All weights that belong to single experts, one vector each."""
    return ExpertWeights(_Vectors(model, counted))


class _Vectors(Sequence[torch.Tensor]):
    """The weights of each expert as one float32 vector, made when it is asked for: no copy of a whole layer."""

    def __init__(self, model: nn.Module, counted: CountedLayer) -> None:
        self._model, self._counted = model, counted
        tensors = dict(model.named_parameters(remove_duplicate=False))
        self._stacks = [(tensors[a.parameter], a) for a in counted.axes if a.parameter in counted.layer.stacks]

    def __len__(self) -> int:
        return self._counted.count

    def __getitem__(self, expert: Any) -> Any:
        if isinstance(expert, slice):
            return [self[n] for n in range(*expert.indices(len(self)))]
        if not -len(self) <= expert < len(self):
            raise IndexError(f"expert {expert} of {len(self)}")
        expert %= len(self)
        if self._counted.layer.layout == "listed":
            module = self._model.get_submodule(self._counted.layer.experts[expert])
            if not (weights := [p.detach().float().flatten() for p in module.parameters()]):
                raise PruningRefused(
                    f"{self._counted.layer.experts[expert]} has no weights to score it by; leave whole experts out "
                    "(ratios without `experts`)"
                )
            return torch.cat(weights)
        rows = [
            tensor.detach().movedim(axis.dim, 0)[expert * axis.repeats : (expert + 1) * axis.repeats]
            for tensor, axis in self._stacks
        ]
        return torch.cat([row.float().reshape(-1) for row in rows])
