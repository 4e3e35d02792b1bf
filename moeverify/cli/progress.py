"""A progress bar that only listens."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from moeverify.cli.terminal import escape, make_console
from moeverify.verdict import PROBLEMS, Status
from moeverify.verification.case import Case
from moeverify.verification.events import (
    CaseFinished,
    CaseStarted,
    Event,
    Listener,
    StageReached,
    VerdictReached,
)


@contextlib.contextmanager
def watch(*, quiet: bool = False) -> Iterator[Listener | None]:
    """A listener that draws one line a model at work on standard error; ``None`` if ``quiet``."""
    if quiet:
        yield None
        return
    console = make_console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[Case, TaskID] = {}
        problems: Counter[Case] = Counter()
        unseen: Counter[Case] = Counter()
        passed: Counter[Case] = Counter()

        def listen(event: Event) -> None:
            case = event.case
            name = case.source if case.subject == "moe" else f"{case.source} by {case.subject}"
            if isinstance(event, CaseStarted):
                tasks[case] = progress.add_task(name, total=len(case.check_names()))
            elif isinstance(event, StageReached):
                progress.update(tasks[case], description=f"{name} · {event.stage}")
            elif isinstance(event, VerdictReached):
                problems[case] += event.verdict.status in PROBLEMS
                passed[case] += event.verdict.status is Status.PASS
                unseen[case] += event.verdict.status is Status.INCONCLUSIVE
                progress.advance(tasks[case])
            elif isinstance(event, CaseFinished):
                progress.remove_task(tasks.pop(case))
                count = problems[case]
                mark = f"[red]✗ {count} problem{'s' if count > 1 else ''}[/]" if count else "[green]✓[/]"
                if not count and not passed[case] and not unseen[case]:
                    mark = "[bright_black]– skipped[/]"
                if not count and unseen[case]:
                    mark = f"[yellow]? {unseen[case]} inconclusive[/]"
                progress.console.print(f"{mark} {escape(name)}", highlight=False)

        yield listen
