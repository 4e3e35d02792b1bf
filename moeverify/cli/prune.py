"""``moeverify prune``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moeverify.cli.app import command
from moeverify.cli.options import Device, InMemory, Overwrite, Seed, SourceName, TrustRemoteCode, with_options
from moeverify.errors import UsageError
from moeverify.verification.settings import SELECTION, Settings, check_evidence, selected


@command("prune", needs="moeverify.pruning.checkpoint.checkpoint")
@with_options(selected(SELECTION))
def prune_command(
    source: SourceName,
    options: dict[str, Any],
    save_model: Annotated[Path | None, typer.Option(help="Folder for the pruned checkpoint.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Only write the plan to this file; nothing is pruned.")] = None,
    save_statistics: Annotated[
        Path | None, typer.Option(help="File for the experts' statistics on --calibration.")
    ] = None,
    for_: Annotated[
        str, typer.Option("--for", help="Engines that are to serve the result, such as vllm: sizes they refuse stop.")
    ] = "",
    dtype: Annotated[str | None, typer.Option(help="Precision to load in; the checkpoint's own.")] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    in_memory: InMemory = False,
    trust_remote_code: TrustRemoteCode = False,
) -> int:
    """Prune a model and save it as a checkpoint that plain transformers loads, with its plan beside it."""
    from moeverify.base.extensions import load_modules
    from moeverify.cli.stages import print_saved, stages
    from moeverify.models.sources import tokenizer_of
    from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint
    from moeverify.pruning.experts.scorer import criterion_from, evidence_from
    from moeverify.serving.at_plan_time import plan_judge
    from moeverify.serving.engines import engines_named

    if (save_model is None) == (plan is None):
        both = "; not both: the folder holds its plan" if plan else ""
        raise UsageError(f"say where to put the result: --save-model DIR, or --plan FILE for the plan alone{both}")
    target = plan or save_model
    assert target is not None
    selection = Settings.read(options)
    if save_statistics is not None and selection.calibration is None:
        raise UsageError("--save-statistics needs --calibration FILE to gather them from")
    load_modules(selection.load)
    engines = engines_named(for_)
    check_evidence(selection)
    data = evidence_from(
        selection.calibration,
        selection.statistics,
        samples=selection.calibration_samples,
        length=selection.calibration_length,
        seed=seed,
        tokenizer=tokenizer_of(source),
    )
    with stages() as progress:
        done = prune_checkpoint(
            source,
            target,
            pruning_ratio=selection.pruning_ratio,
            ratios=selection.ratios,
            importance=selection.importance or "magnitude",
            round_to=selection.round_to,
            ignored_layers=("lm_head", *selection.ignore),
            roles=selection.rules(),
            seed=seed,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
            in_memory=in_memory,
            plan_only=plan is not None,
            save_statistics=save_statistics,
            expert_criterion=criterion_from(selection.expert_criterion),
            calibration=data,
            progress=progress,
            check_plan_for=plan_judge(engines) if engines else None,
        )
    print_saved(done, planned=plan is not None)
    return 0
