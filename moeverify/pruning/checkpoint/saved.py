"""Result of pruning from folder to folder, in memory or streamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moeverify.pruning.checkpoint.plan_file import PlanDocument

PLAN_FILE = "pruning_plan.json"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class PrunedCheckpoint:
    """Folder that was written, and the plan that made it; ``notes``: what was dequantised, kept or left out."""

    folder: Path
    document: PlanDocument
    parameters_before: int
    parameters_after: int
    notes: tuple[str, ...] = ()
