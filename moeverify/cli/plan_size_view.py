"""Output of ``moeverify plan-size``."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table

from moeverify.base.ranges import spans
from moeverify.cli.terminal import escape
from moeverify.pruning.sizes.by_role import GIB, Size
from moeverify.pruning.sizes.plan_size import PlannedSize, total


def print_planned_size(planned: PlannedSize, console: Console) -> None:
    """Sizes by role, new entries, legal numbers of experts, what streaming needs, and limits of engines."""
    _print_sizes(planned, console)
    entries = ", ".join(f"{name} = {value}" for name, value in planned.entries.items())
    console.print(f"config.json: {escape(entries or 'unchanged')}")
    for line in planned.left_alone:
        console.print(f"[yellow]note[/] {escape(line)}")
    for key, layers in groupby(planned.facts, key=lambda one: (one.experts, one.top_k, one.groups, one.legal)):
        experts, top_k, groups, legal = key
        names = [one.layer for one in layers]
        where = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        console.print(
            f"{escape(where)}: {experts} experts, {top_k} a token, {groups} groups; legal numbers {spans(legal)}"
        )
    needs = planned.streaming
    console.print(
        f"streaming: at most {needs.memory / GIB:.2f} GiB of memory; {needs.read / GIB:.2f} GiB read, "
        f"{needs.written / GIB:.2f} GiB written, {_duration(needs.seconds)} at {needs.speed:g} GiB/s"
    )
    if planned.parallel:
        console.print(f"expert-parallel sizes: {', '.join(map(str, planned.parallel))}")
    for limit in planned.limits:
        console.print(f"[yellow]engine[/] {escape(str(limit))}")


def _print_sizes(planned: PlannedSize, console: Console) -> None:
    table = Table(title=escape(f"{planned.source} ({planned.model_type})"), title_justify="left")
    table.add_column("role")
    for name in ("parameters", "GiB", "parameters after", "GiB after", "left"):
        table.add_column(name, justify="right")
    for part, size in planned.before.items():
        table.add_row(part, *_cells(size, planned.after.get(part, Size())))
    table.add_section()
    table.add_row("total", *_cells(total(planned.before), total(planned.after)))
    console.print(table)


def _cells(before: Size, after: Size) -> tuple[str, ...]:
    left = after.bytes / before.bytes if before.bytes else 1.0
    return (
        f"{before.parameters:,}",
        f"{before.gib:.2f}",
        f"{after.parameters:,}",
        f"{after.gib:.2f}",
        f"{left:.1%}",
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
