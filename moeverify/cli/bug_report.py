"""``moeverify bug-report``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.base.files import write_text
from moeverify.cli.app import app
from moeverify.report.bug_report import bug_report
from moeverify.report.comparison import read_result


@app.command("bug-report")
def bug_report_command(
    report: Annotated[Path, typer.Argument(help="Folder of a report, or its report.json.")],
    source: Annotated[str | None, typer.Option(help="Only this model; those with problems otherwise.")] = None,
    output: Annotated[Path, typer.Option(help="The Markdown file to write.")] = Path("moeverify-bug-report.md"),
) -> None:
    """Collect what a bug report needs in one file: configuration, parameters, errors, verdicts, versions. Nothing
    private: paths, names and secrets are taken out."""
    write_text(output, bug_report(read_result(report), source))
    typer.echo(f"bug report: {output.resolve()}")
