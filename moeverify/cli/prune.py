"""``moeverify prune``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moeverify.base.forms import EXPERT_CRITERIA
from moeverify.cli.app import command
from moeverify.cli.options import Device, Overwrite, Seed, SourceName, TrustRemoteCode, with_options
from moeverify.errors import UsageError
from moeverify.verification.settings import SELECTION, Settings, selected


@command("prune", needs="moeverify.pruning.checkpoint.checkpoint")
@with_options(selected(SELECTION))
def prune_command(
    source: SourceName,
    options: dict[str, Any],
    save_model: Annotated[Path | None, typer.Option(help="Folder for the pruned checkpoint.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A layer whose outputs stay; again for more.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Only write the plan to this file; nothing is pruned.")] = None,
    expert_criterion: Annotated[
        str | None, typer.Option(help=f"What ranks whole experts: {EXPERT_CRITERIA}; reap with data, else magnitude.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Text, .jsonl or a saved data set that criteria rank experts by.")
    ] = None,
    calibration_samples: Annotated[int, typer.Option(help="Samples drawn from it.", min=1)] = 128,
    calibration_length: Annotated[int, typer.Option(help="Tokens of a sample.", min=1)] = 512,
    statistics: Annotated[
        Path | None, typer.Option(help="What calibration told of the experts before, instead of --calibration.")
    ] = None,
    save_statistics: Annotated[Path | None, typer.Option(help="File for what calibration tells of experts.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Precision to load in; the checkpoint's own.")] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> int:
    """Prune a model and save it as a checkpoint that plain transformers loads, with its plan beside it."""
    from moeverify.base.extensions import load_modules
    from moeverify.cli.stages import stages, tell_saved
    from moeverify.models.roles import Roles
    from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint
    from moeverify.pruning.choice.calibration import Calibration
    from moeverify.pruning.experts.scorer import criterion_from
    from moeverify.pruning.experts.statistics import ExpertStatistics

    if (save_model is None) == (plan is None):
        both = "; not both: the folder holds its plan" if plan else ""
        raise UsageError(f"say where to put the result: --save-model DIR, or --plan FILE for the plan alone{both}")
    target = plan or save_model
    assert target is not None
    if calibration is not None and statistics is not None:
        raise UsageError("--statistics hold what --calibration would tell; give one of them")
    if save_statistics is not None and calibration is None:
        raise UsageError("--save-statistics needs --calibration FILE to gather them from")
    data: Any = None
    if calibration is not None:
        data = Calibration(calibration, calibration_samples, calibration_length, seed, tokenizer=source)
    elif statistics is not None:
        data = ExpertStatistics.read(statistics)
    selection = Settings.read(options)
    load_modules(selection.load)
    with stages() as progress:
        done = prune_checkpoint(
            source,
            target,
            pruning_ratio=selection.pruning_ratio,
            ratios=selection.ratios,
            importance=selection.importance or "magnitude",
            round_to=selection.round_to,
            ignored_layers=ignore or ("lm_head",),
            roles=Roles(**selection.roles) if selection.roles else None,
            seed=seed,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
            plan_only=plan is not None,
            save_statistics=save_statistics,
            expert_criterion=criterion_from(expert_criterion),
            calibration=data,
            progress=progress,
        )
    tell_saved(done, planned=plan is not None)
    return 0
