"""``moeverify verify``"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from moeverify.base.words import words
from moeverify.cli.app import app
from moeverify.cli.options import (
    Device,
    Dtype,
    ExpertsPattern,
    Fewshot,
    Limit,
    Ratio,
    RolesFile,
    RoutersPattern,
    Seed,
    SharedExpertsPattern,
    SourceNames,
    Tasks,
    TrustRemoteCode,
)
from moeverify.cli.progress import watch
from moeverify.cli.summary import print_summary
from moeverify.evaluation.settings import QualitySettings, parse_ratios
from moeverify.models.roles_file import roles_from
from moeverify.report.annotations import github_annotations
from moeverify.subjects import FORMS
from moeverify.verification.verify import verify


@app.command("verify")
def verify_command(
    sources: SourceNames = None,
    subject: Annotated[str, typer.Option(help=f"The pruner: {FORMS}.")] = "moe",
    pruning_ratio: Ratio = 0.5,
    checks: Annotated[str, typer.Option(help="Only these checks, separated by commas.")] = "",
    skip_checks: Annotated[str, typer.Option(help="All but these checks, separated by commas.")] = "",
    expect_fail: Annotated[str, typer.Option(help="Checks that must fail, separated by commas.")] = "",
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    roles: RolesFile = None,
    experts_pattern: ExpertsPattern = None,
    routers_pattern: RoutersPattern = None,
    shared_experts_pattern: SharedExpertsPattern = None,
    tasks: Tasks = "",
    num_fewshot: Fewshot = None,
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(help="Documents that lm-eval runs at a time.", min=1)] = 64,
    max_drop: Annotated[
        float | None, typer.Option(help="Loss of score that quality allows, 0.05: five points.")
    ] = None,
    curve: Annotated[str, typer.Option(help="More ratios to evaluate quality at, separated by commas.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds that one model may take.", min=0.1)] = 120.0,
    memory: Annotated[float, typer.Option(help="GiB of memory that one model may take.", min=0.1)] = 12.0,
    workers: Annotated[int | None, typer.Option(help="Models verified at a time; one a core.", min=1)] = None,
    report: Annotated[Path | None, typer.Option(help="Folder of the report; a new one under reports/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the killed run in --report.")] = False,
    json: Annotated[str | None, typer.Option(help="Also write report.json there; - is standard output.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if a verdict is inconclusive, too.")] = False,
) -> int:
    """Prune models and check the outcome: verdicts on the terminal, in report.json, report.html and junit.xml."""
    folder = report or Path("reports", datetime.datetime.now().strftime("%Y%m%d-%H%M%S"))
    rules = roles_from(roles, experts=experts_pattern, routers=routers_pattern, shared_experts=shared_experts_pattern)
    with watch(quiet=json == "-") as listen:
        result = verify(
            sources or (),
            subject=subject,
            pruning_ratio=pruning_ratio,
            seed=seed,
            dtype=dtype,
            device=device,
            roles=rules,
            quality=QualitySettings(
                tuple(words(tasks)), num_fewshot, limit, batch_size, max_drop, parse_ratios(curve) if curve else None
            ),
            checks=words(checks) or None,
            skip_checks=words(skip_checks),
            expect_fail=words(expect_fail),
            timeout=timeout,
            memory=memory,
            workers=workers,
            trust_remote_code=trust_remote_code,
            report=folder,
            resume=resume,
            strict=strict,
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
