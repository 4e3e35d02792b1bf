"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from moeverify.sources import FORMS

SourceNames = Annotated[list[str] | None, typer.Argument(help=f"Models: {FORMS}. Default: a small set.")]
SourceName = Annotated[str, typer.Argument(help=f"The model: {FORMS}.")]
Ratio = Annotated[float, typer.Option(help="Share of the channels to remove, between 0 and 1.")]
Seed = Annotated[int, typer.Option(help="Seed of random weights, inputs and pruning.", min=0)]
Dtype = Annotated[str, typer.Option(help="Precision that models are stored in: float32, bfloat16, float16, float64.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let a checkpoint run Python code of its own.")
]
