"""Progress and outcome of a pruning command."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from moeverify.cli.terminal import make_console

if TYPE_CHECKING:
    from moeverify.pruning.checkpoint.checkpoint import PrunedCheckpoint


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """A function that is called with each stage: a spinner on a terminal, a line for each stage elsewhere."""
    console = make_console(stderr=True)
    begin = time.perf_counter()
    with warnings.catch_warnings(), console.status("start") as status:
        warnings.simplefilter("ignore")  # adjustments are told at the end

        def print_stage(stage: str) -> None:
            if console.is_terminal:
                status.update(stage)
            else:
                console.print(f"{time.perf_counter() - begin:7.1f} s  {stage}", highlight=False)

        yield print_stage


def print_saved(done: PrunedCheckpoint, *, planned: bool = False) -> None:
    """Print sizes by role, what was adjusted and why, and where the result is."""
    console = make_console(soft_wrap=True, highlight=False)
    sizes: dict[tuple[str, int, int], int] = {}
    for cut in done.document.cuts:
        key = (cut["role"], cut["before"], cut["after"])
        sizes[key] = sizes.get(key, 0) + 1
    for (role, before, after), count in sizes.items():
        times = f" in {count} places" if count > 1 else ""
        console.print(f"{role}: {before} to {after}{times}", markup=False)
    for line in (*done.document.adjustments, *done.notes):
        console.print(f"note: {line}", markup=False)
    if planned:
        console.print(f"plan: {done.folder}", markup=False)
    else:
        share = done.parameters_after / done.parameters_before
        console.print(
            f"{done.parameters_before:,} parameters to {done.parameters_after:,} ({share:.0%}): {done.folder}",
            markup=False,
        )
