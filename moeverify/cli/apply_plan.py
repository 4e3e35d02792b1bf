"""``moeverify apply-plan``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import command
from moeverify.cli.options import Device, InMemory, Overwrite, Seed, TrustRemoteCode


@command("apply-plan", needs="moeverify.pruning.checkpoint.checkpoint")
def apply_plan_command(
    plan: Annotated[Path, typer.Argument(help="A plan that `moeverify prune` wrote.")],
    base: Annotated[str, typer.Argument(help="The model that the plan was made for.")],
    out: Annotated[Path, typer.Argument(help="Folder for the pruned checkpoint.")],
    device: Device = "cpu",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    in_memory: InMemory = False,
    trust_remote_code: TrustRemoteCode = False,
) -> int:
    """Make a pruned checkpoint again from its plan and its base, byte for byte."""
    from moeverify.cli.stages import print_saved, stages
    from moeverify.pruning.checkpoint.checkpoint import apply_plan_file

    with stages() as progress:
        done = apply_plan_file(
            plan,
            base,
            out,
            device=device,
            seed=seed,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
            in_memory=in_memory,
            progress=progress,
        )
    print_saved(done)
    return 0
