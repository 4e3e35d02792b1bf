"""``moeverify baseline record`` and ``moeverify baseline compare``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import app, command
from moeverify.cli.options import Seed, SourceNames, Subject, Timeout

commands = typer.Typer(help="Keep the groups of every source in a file; see what a change of a pruner did to them.")
app.add_typer(commands, name="baseline")

File = Annotated[Path, typer.Option("--file", help="The baseline file.")]
DEFAULT = Path("moeverify-baseline.json")


@command("record", needs="moeverify.suites.baseline", group=commands)
def record_command(
    sources: SourceNames = None,
    file: File = DEFAULT,
    subject: Subject = "moe",
    seed: Seed = 0,
    timeout: Timeout = 120.0,
) -> None:
    """Write the groups of every source into a baseline file."""
    from moeverify.cli.progress import watch
    from moeverify.suites import baseline

    with watch() as listen:
        groups = baseline.record(sources or (), subject=subject, seed=seed, timeout=timeout, listen=listen)
    baseline.save(groups, file)
    typer.echo(f"baseline of {len(groups.groups)} models: {file.resolve()}")


@command("compare", needs="moeverify.suites.baseline", group=commands)
def compare_command(
    file: File = DEFAULT,
    subject: Annotated[str | None, typer.Option(help="Another pruner than the one recorded.")] = None,
    seed: Seed = 0,
    timeout: Timeout = 120.0,
) -> int:
    """Build the groups of the recorded sources again and print what differs. Exit code 1 if anything does."""
    from moeverify.cli.progress import watch
    from moeverify.suites import baseline

    old = baseline.read_baseline(file)
    with watch() as listen:
        new = baseline.record(
            list(old.groups), subject=subject or old.subject, seed=seed, timeout=timeout, listen=listen
        )
    lines = baseline.differences(old, new)
    for line in lines:
        typer.echo(line)
    moved = [f"{k} {old.versions.get(k)} → {v}" for k, v in new.versions.items() if old.versions.get(k) != v]
    if moved:
        typer.echo(f"versions: {', '.join(moved)}")
    typer.echo(f"✗ {len(lines)} differences" if lines else f"✓ the groups of {len(new.groups)} models are as recorded")
    return 1 if lines else 0
