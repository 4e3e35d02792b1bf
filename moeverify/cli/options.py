"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.models.sources import FORMS

SourceNames = Annotated[list[str] | None, typer.Argument(help=f"Models: {FORMS}. Default: a small set.")]
SourceName = Annotated[str, typer.Argument(help=f"The model: {FORMS}.")]
Ratio = Annotated[float, typer.Option(help="Share of the channels to remove, between 0 and 1.")]
Seed = Annotated[int, typer.Option(help="Seed of random weights, inputs and pruning.", min=0, max=2**32 - 1)]
Dtype = Annotated[str, typer.Option(help="Precision that models are stored in: float32, bfloat16, float16, float64.")]
Device = Annotated[str, typer.Option(help="Where models lie: cpu, cuda, cuda:N, or auto for several devices.")]
Tasks = Annotated[str, typer.Option(help="lm-eval tasks of the check quality, separated by commas.")]
Fewshot = Annotated[int | None, typer.Option(help="Examples before each question; each task's own number.", min=0)]
Limit = Annotated[float | None, typer.Option(help="Documents of each task, or a share of them below 1; all.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let a checkpoint run Python code of its own.")
]
RolesFile = Annotated[
    Path | None,
    typer.Option("--roles", metavar="FILE.toml", help="Who is an expert, router, shared expert: a [roles] table."),
]
ExpertsPattern = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Container of the routed experts: last part of its path.")
]
RoutersPattern = Annotated[str | None, typer.Option(metavar="REGEX", help="Routers: last part of their path.")]
SharedExpertsPattern = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Shared experts: last part of their path.")
]
