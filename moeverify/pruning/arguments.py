"""A pruner's arguments as it uses them: old names, layers to leave alone, head counts, whole experts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from moeverify.errors import UsageError
from moeverify.models.forward import Example
from moeverify.pruning.choice.request import EACH, TOGETHER, Request, check_heads, check_schedule, modules_of
from moeverify.pruning.experts.request import ExpertRequest
from moeverify.pruning.experts.scorer import ExpertScorer
from moeverify.pruning.experts.statistics import ExpertStatistics

# Torch-Pruning's old names of arguments.
_RENAMED = {
    "ch_sparsity": "pruning_ratio",
    "ch_sparsity_dict": "pruning_ratio_dict",
    "channel_groups": "out_channel_groups",
}


def warn_of_old_names(**given: Any) -> None:
    """Warn of arguments that were given by an old name of Torch-Pruning's."""
    for old, value in given.items():
        if value is not None and value != {}:
            warnings.warn(f"{old} is Torch-Pruning's old name of {_RENAMED[old]}", DeprecationWarning, stacklevel=3)


def check_choices(iterative_steps: int, expert_ranking: str | None) -> None:
    """Raise ``UsageError`` for a number of steps below one, or an unknown ranking of experts' channels."""
    if iterative_steps < 1:
        raise UsageError(f"iterative_steps must be a positive number, not {iterative_steps!r}")
    if expert_ranking not in (None, EACH, TOGETHER):
        raise UsageError(f"expert_ranking is {EACH!r} or {TOGETHER!r}, not {expert_ranking!r}")


def ignored_in(model: nn.Module, given: Sequence[Any]) -> tuple[list[nn.Module], list[nn.Parameter]]:
    """The layers, with all inside them, and the parameters that ``ignored_layers`` leaves alone."""
    parameters = [x for x in given if isinstance(x, nn.Parameter)]
    modules = modules_of(model, [x for x in given if not isinstance(x, nn.Parameter)])
    return [layer for module in modules for layer in module.modules()], parameters


def heads_given(num_heads: Mapping[nn.Module, int] | None, model: nn.Module) -> dict[nn.Module, int]:
    """Head counts by layer. Exception: torch's own attention, which states its heads and loses whole ones."""
    given = {m: n for m, n in (num_heads or {}).items() if not isinstance(m, nn.MultiheadAttention)}
    return check_heads(given, model)


def expert_request(
    request: Request,
    criterion: str | Callable | None,
    calibration: Any,
    example: Example,
    *,
    scheduler: Callable[[float, int], Sequence[float]],
    steps: int,
    ignored: Sequence[nn.Module | nn.Parameter],
) -> ExpertRequest | None:
    """The request for whole experts; ``None`` without one."""
    ratio = request.experts
    if not (any(ratio.values()) if isinstance(ratio, Mapping) else ratio):
        return None
    if steps > 1 and isinstance(calibration, ExpertStatistics):
        raise UsageError(
            "each iterative step ranks the experts that are left anew, and saved statistics are those of the whole "
            "model; pass calibration data, or use iterative_steps=1"
        )
    return ExpertRequest(
        ratio,
        ExpertScorer(criterion, calibration, example),
        frozenset(ignored),
        schedule=lambda ratio: check_schedule(scheduler, ratio, steps),
        steps=steps,
        together=request.global_pruning and not isinstance(ratio, Mapping),
    )
