"""``moeverify self-test``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import command


@command("self-test", needs="moeverify.suites.self_test")
def self_test_command(
    faults: Annotated[list[str] | None, typer.Argument(help="Faults, as FAMILY/NAME. Default: all.")] = None,
    list_faults: Annotated[bool, typer.Option("--list", help="Name the faults and their causes, run nothing.")] = False,
    workers: Annotated[int | None, typer.Option(help="Cases at a time; one a core.", min=1)] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for self-test.html, .md and .json.")] = None,
    json: Annotated[str | None, typer.Option(help="Also write the JSON there; - is standard output.")] = None,
) -> int:
    """Run every check on deliberately broken pruners: the matrix shows which check catches which fault."""
    from moeverify.base.files import write_text
    from moeverify.cli.progress import watch
    from moeverify.subjects.faults import all_faults
    from moeverify.suites.self_test import render_self_test, self_test

    if list_faults:
        for fault in all_faults():
            typer.echo(f"{fault.name:<40} {fault.cause}")
        return 0
    with watch(quiet=json == "-") as listen:
        result = self_test(faults or (), workers=workers, listen=listen)
    if report is not None:
        write_text(report / "self-test.md", result.to_markdown())
        write_text(report / "self-test.json", result.to_json())
        write_text(report / "self-test.html", render_self_test(result))
    if json == "-":
        typer.echo(result.to_json())
    else:
        if json:
            write_text(Path(json), result.to_json())
        typer.echo(result.to_markdown())
    for tested in result.missed:
        text = "; ".join(f"{v.check}: {v.message}" for v in tested.problems) or "every check passes"
        typer.echo(f"missed: {tested.case.subject} by {', '.join(tested.missed)} ({text})", err=True)
    return result.exit_code
