"""``moeverify bug-report``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import command
from moeverify.cli.options import ReportFolder


@command("bug-report", needs="moeverify.report.bug_report")
def bug_report_command(
    report: ReportFolder,
    source: Annotated[str | None, typer.Option(help="Only this model; those with problems otherwise.")] = None,
    output: Annotated[Path, typer.Option(help="The Markdown file to write.")] = Path("moeverify-bug-report.md"),
) -> None:
    """Collect what a bug report needs in one file: configuration, parameters, errors, verdicts, versions. Nothing
    private: paths, names and secrets are taken out.
    """
    from moeverify.base.files import write_text
    from moeverify.report.bug_report import bug_report
    from moeverify.report.comparison import read_result

    write_text(output, bug_report(read_result(report), source))
    typer.echo(f"bug report: {output.resolve()}")
