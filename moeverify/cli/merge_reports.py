"""``moeverify merge-reports``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import command


@command("merge-reports", needs="moeverify.report.merge")
def merge_reports_command(
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD...", help="Folders of reports, or their report.json.")],
    report: Annotated[Path, typer.Option(help="Folder of the report of all.")],
) -> int:
    """Join the reports of `verify --shard K/N` into one. The exit code is the one that the whole run has."""
    from moeverify.cli.summary import print_summary
    from moeverify.report.comparison import read_result
    from moeverify.report.merge import merge_results

    result = merge_results([read_result(path) for path in shards])
    result.write(report)
    print_summary(result, report / "report.html")
    return result.exit_code
