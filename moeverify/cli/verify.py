"""``moeverify verify``"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from moeverify.cli.app import command
from moeverify.cli.options import SourceNames, with_options
from moeverify.verification.settings import Settings


@command("verify", needs="moeverify.verification.verify")
@with_options()
def verify_command(
    options: dict[str, Any],
    sources: SourceNames = None,
    workers: Annotated[int | None, typer.Option(help="Models verified at a time; one a core.", min=1)] = None,
    executor: Annotated[str, typer.Option(help="Where models are verified: local, ray.")] = "local",
    address: Annotated[str, typer.Option(help="The cluster of --executor ray; auto: the one that runs here.")] = "auto",
    shard: Annotated[
        str | None, typer.Option(help="Only this part of the sources, for merge-reports.", metavar="K/N")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder of the report; a new one under reports/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the killed run in --report.")] = False,
    json: Annotated[str | None, typer.Option(help="Also write report.json there; - is standard output.")] = None,
) -> int:
    """Prune models and check the outcome: verdicts on the terminal, in report.json, report.html and junit.xml."""
    from moeverify.cli.progress import watch
    from moeverify.cli.summary import print_summary
    from moeverify.report.annotations import github_annotations
    from moeverify.verification.verify import run_settings

    settings = Settings.read(options)
    folder = report or Path("reports", datetime.datetime.now().strftime("%Y%m%d-%H%M%S"))
    with watch(quiet=json == "-") as listen:
        result = run_settings(
            sources or (),
            settings,
            workers=workers,
            executor=executor,
            address=address,
            shard=shard,
            report=folder,
            resume=resume,
            listen=listen,
        )
    if json == "-":
        typer.echo(result.to_json(), nl=False)
    else:
        if json:
            result.write_json(json)
        print_summary(result, folder / "report.html")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in github_annotations(result):
            print(line, file=sys.stderr)
    return result.exit_code
