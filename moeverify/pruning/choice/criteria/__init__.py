"""Criteria for whole experts, one file each: from statistics of an MoE layer, or from weights, to a score by expert."""

from moeverify.pruning.choice.criteria import (
    aimer,
    ean,
    easy_ep,
    frequency,
    magnitude,
    man,
    msan,
    random,
    reap,
    weighted_frequency,
)
from moeverify.pruning.choice.criteria.registry import (
    EXPERT_CRITERIA,
    ExpertCriterion,
    ExpertWeights,
    LayerStatistics,
    by_statistics,
    by_weights,
    criterion_named,
)

__all__ = [
    "EXPERT_CRITERIA",
    "ExpertCriterion",
    "ExpertWeights",
    "LayerStatistics",
    "aimer",
    "by_statistics",
    "by_weights",
    "criterion_named",
    "ean",
    "easy_ep",
    "frequency",
    "magnitude",
    "man",
    "msan",
    "random",
    "reap",
    "weighted_frequency",
]
