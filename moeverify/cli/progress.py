"""A progress bar that only listens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
        tasks: dict[str, int] = {}
        problems: dict[str, int] = {}

        def listen(event: Event) -> None:
            name = event.case.source
            if isinstance(event, CaseStarted):
                tasks[name] = progress.add_task(name, total=len(event.case.check_names()))
            elif isinstance(event, StageReached):
                progress.update(tasks[name], description=f"{name} · {event.stage}")  # type: ignore[arg-type]
            elif isinstance(event, VerdictReached):
                problems[name] = problems.get(name, 0) + (event.verdict.status in PROBLEMS)
                progress.advance(tasks[name])  # type: ignore[arg-type]
            elif isinstance(event, CaseFinished):
                if name in tasks:
                    progress.remove_task(tasks.pop(name))  # type: ignore[arg-type]
                count = problems.get(name, 0)
                mark = f"[red]✗ {count} problem{'s' if count > 1 else ''}" if count else "[green]✓"
                progress.console.print(f"{mark}[/] {name}", highlight=False)

        yield listen
