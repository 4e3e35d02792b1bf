"""A progress bar that only listens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from moeverify.case import Case
from moeverify.events import CaseFinished, CaseStarted, Event, Listener, StageReached, VerdictReached
from moeverify.verdict import PROBLEMS


@contextlib.contextmanager
def watch(*, quiet: bool = False) -> Iterator[Listener | None]:
    """A listener that draws one line a model at work on standard error; ``None`` if ``quiet``."""
    if quiet:
        yield None
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[Case, int] = {}
        problems: dict[Case, int] = {}

        def listen(event: Event) -> None:
            case = event.case
            name = case.source if case.subject == "moe" else f"{case.source} by {case.subject}"
            if isinstance(event, CaseStarted):
                tasks[case] = progress.add_task(name, total=len(event.case.check_names()))
            elif isinstance(event, StageReached):
                progress.update(tasks[case], description=f"{name} · {event.stage}")  # type: ignore[arg-type]
            elif isinstance(event, VerdictReached):
                problems[case] = problems.get(case, 0) + (event.verdict.status in PROBLEMS)
                progress.advance(tasks[case])  # type: ignore[arg-type]
            elif isinstance(event, CaseFinished):
                if case in tasks:
                    progress.remove_task(tasks.pop(case))  # type: ignore[arg-type]
                count = problems.get(case, 0)
                mark = f"[red]✗ {count} problem{'s' if count > 1 else ''}" if count else "[green]✓"
                progress.console.print(f"{mark}[/] {name}", highlight=False)

        yield listen
