"""``moeverify evaluate``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import command
from moeverify.cli.options import BatchSize, Device, Dtype, Fewshot, Limit, Seed, SourceName, Tasks, TrustRemoteCode


@command("evaluate", needs="moeverify.evaluation.source")
def evaluate_command(
    source: SourceName,
    tasks: Tasks = "",
    num_fewshot: Fewshot = None,
    limit: Limit = None,
    batch_size: BatchSize = 64,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this file.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with the scores in this file, of the same tasks and settings.")
    ] = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
) -> int:
    """Score a model by lm-eval, and compare with an earlier evaluation that was of the same tasks and settings."""
    from moeverify.base.words import words
    from moeverify.cli.evaluation_table import print_differences, print_scores
    from moeverify.evaluation import Evaluation, EvaluationSettings, compare
    from moeverify.evaluation.source import evaluate_source

    before = Evaluation.read(against) if against else None
    if before is not None and not tasks:
        settings = before.settings
    else:
        settings = EvaluationSettings(tuple(words(tasks)), num_fewshot, limit, seed, batch_size)
    evaluation = evaluate_source(source, settings, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if out is not None:
        evaluation.write(out)
    if before is None:
        print_scores(source, evaluation)
    else:
        print_differences(source, compare(before, evaluation))
    return 0
