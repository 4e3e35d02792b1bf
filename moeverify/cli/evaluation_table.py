"""Scores and differences on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from moeverify.cli.terminal import make_console
from moeverify.evaluation import Difference, Evaluation


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def print_scores(source: str, evaluation: Evaluation) -> None:
    """One row for each metric."""
    table = Table("task", "metric", "score", "± error", "chance", "documents", title=source)
    for s in evaluation.scores:
        table.add_row(s.task, s.metric, _number(s.value), _number(s.stderr), _number(s.chance), str(s.documents))
    make_console().print(table)


def print_differences(source: str, changes: Sequence[Difference]) -> None:
    """One row for each metric, before and after."""
    table = Table("task", "metric", "before", "after", "drop", "± error", title=source)
    for d in changes:
        table.add_row(d.task, d.metric, _number(d.before), _number(d.after), _number(d.drop), _number(d.stderr))
    make_console().print(table)
