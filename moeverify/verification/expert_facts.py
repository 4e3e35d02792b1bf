"""Removed experts of each layer, by the weights, beside the scores and token counts that the subject names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from moeverify.checks.context import Context


def removed_experts(context: Context) -> list[dict[str, Any]]:
    """One entry for each MoE layer that lost experts: those that stayed, with scores and criterion if the subject has
    any.
    """
    scores_of_subject = context.outcome.expert_scores
    result = []
    for layer in context.roles.layers:
        kept, count = context.stayed[layer.name], len(layer.experts)
        if len(kept) == count:
            continue
        mine = scores_of_subject.get(layer.name, {})
        entry: dict[str, Any] = {"layer": layer.name, "before": count, "kept": list(kept)}
        if (scores := _numbers(mine, "scores", count)) is not None:
            entry["scores"] = scores
            entry["criterion"] = str(mine.get("criterion", ""))[:80]
        if (tokens := _numbers(mine, "tokens", count)) is not None:
            entry["tokens"] = [int(number) for number in tokens]
        result.append(entry)
    return result


def _numbers(entry: Any, name: str, count: int) -> list[float] | None:
    """A list of finite numbers, one for each expert; ``None`` if the subject named none."""
    values = entry.get(name) if isinstance(entry, Mapping) else None
    if not isinstance(values, list | tuple) or len(values) != count:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        return None
    return [float(value) for value in values]
