"""``moeverify prune``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import app
from moeverify.cli.options import (
    Device,
    ExpertsPattern,
    RolesFile,
    RoutersPattern,
    Seed,
    SharedExpertsPattern,
    SourceName,
    TrustRemoteCode,
)
from moeverify.cli.stages import stages, tell_saved
from moeverify.coupling.classify import ROLES
from moeverify.errors import UsageError
from moeverify.models.roles_file import roles_from
from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint
from moeverify.pruning.choice.importances import FORMS


@app.command("prune")
def prune_command(
    source: SourceName,
    save_model: Annotated[Path | None, typer.Option(help="Folder for the pruned checkpoint.")] = None,
    pruning_ratio: Annotated[float, typer.Option(help="Share of the channels to remove, between 0 and 1.")] = 0.5,
    ratio: Annotated[
        list[str] | None,
        typer.Option(help=f"ROLE=RATIO, 0 leaves the role alone; again for more. Roles: {', '.join(ROLES)}."),
    ] = None,
    round_to: Annotated[int | None, typer.Option(help="Keep multiples of this many channels.", min=1)] = None,
    importance: Annotated[str, typer.Option(help=f"What is worth keeping: {FORMS}.")] = "magnitude",
    shared_experts: Annotated[
        bool, typer.Option("--shared-experts/--no-shared-experts", help="Prune shared experts' channels as well.")
    ] = True,
    ignore: Annotated[list[str] | None, typer.Option(help="A layer whose outputs stay; again for more.")] = None,
    roles: RolesFile = None,
    experts_pattern: ExpertsPattern = None,
    routers_pattern: RoutersPattern = None,
    shared_experts_pattern: SharedExpertsPattern = None,
    plan: Annotated[Path | None, typer.Option(help="Only write the plan to this file; nothing is pruned.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Precision to load in; the checkpoint's own.")] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> int:
    """Prune a model and save it as a checkpoint that plain transformers loads, with its plan beside it."""
    if (save_model is None) == (plan is None):
        both = "; not both: the folder holds its plan" if plan else ""
        raise UsageError(f"say where to put the result: --save-model DIR, or --plan FILE for the plan alone{both}")
    target = plan or save_model
    assert target is not None
    rules = roles_from(roles, experts=experts_pattern, routers=routers_pattern, shared_experts=shared_experts_pattern)
    ratios = _ratios(ratio or [])
    if not shared_experts:
        ratios["shared_experts"] = 0.0
    with stages() as progress:
        done = prune_checkpoint(
            source,
            target,
            pruning_ratio=pruning_ratio,
            ratios=ratios,
            importance=importance,
            round_to=round_to,
            ignored_layers=ignore or ("lm_head",),
            roles=rules,
            seed=seed,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
            plan_only=plan is not None,
            progress=progress,
        )
    tell_saved(done, planned=plan is not None)
    return 0


def _ratios(words: list[str]) -> dict[str, float]:
    ratios = {}
    for word in words:
        role, equals, value = word.partition("=")
        try:
            ratios[role.replace("-", "_")] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(f"--ratio {word}: write ROLE=RATIO, such as routed_experts=0.25")
    return ratios
