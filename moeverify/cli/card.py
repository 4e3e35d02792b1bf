"""``moeverify card``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import command
from moeverify.cli.options import ReportFolder


@command("card", needs="moeverify.report.card")
def card_command(
    report: ReportFolder,
    source: Annotated[str | None, typer.Option(help="Only this model; all of the run otherwise.")] = None,
    output: Annotated[Path | None, typer.Option(help="The Markdown file to write; standard output otherwise.")] = None,
) -> None:
    """Write the section of a model card: what was pruned, how it was verified, and the line that does it again."""
    from moeverify.base.files import write_text
    from moeverify.report.card import model_card
    from moeverify.report.comparison import read_result

    section = model_card(read_result(report), source)
    if output is None:
        typer.echo(section, nl=False)
        return
    write_text(output, section)
    typer.echo(f"model card: {output.resolve()}")
