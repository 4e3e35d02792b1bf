"""``moeverify replay``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import command


@command("replay", needs="moeverify.suites.replay")
def replay_command(
    file: Annotated[Path, typer.Argument(help="A saved failure of a property, or a report.json with failures.")],
) -> int:
    """Run failing cases again: FIXED or still failing. Exit code 0 if all are fixed."""
    from moeverify.suites.replay import replay

    still = 0
    for replayed in replay(file):
        if replayed.now is None:
            typer.echo(f"FIXED  {replayed.title}")
            continue
        still += 1
        typer.echo(f"still failing  {replayed.title}\n  {replayed.now}\n\n{replayed.script}\n")
    return 1 if still else 0
