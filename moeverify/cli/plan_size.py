"""``moeverify plan-size``"""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from moeverify.cli.app import command
from moeverify.cli.options import TrustRemoteCode, with_options
from moeverify.verification.settings import SELECTION, Settings, selected

_PAGE = 140  # columns where the output is no terminal
_ASKED = tuple(name for name in SELECTION if name not in ("importance", "load"))


@command("plan-size", needs="moeverify.pruning.sizes.plan_size")
@with_options(selected(_ASKED))
def plan_size_command(
    source: Annotated[
        str, typer.Argument(help="A config.json, a folder or hub name (no weights are read), or zoo:TYPE.")
    ],
    options: dict[str, Any],
    expert_parallel: Annotated[
        int, typer.Option(help="Devices that share the experts of a layer when the model is served.", min=1)
    ] = 1,
    gib_per_second: Annotated[float, typer.Option(help="Speed of the disk, for the time.", min=0.001)] = 0.5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show what pruning would give, from a configuration alone: sizes, legal numbers, limits of engines."""
    from moeverify.cli.plan_size_view import print_planned_size
    from moeverify.cli.terminal import make_console
    from moeverify.pruning.sizes.plan_size import plan_size

    given = options.get("pruning_ratio")
    selection = Settings.read(options)
    planned = plan_size(
        source,
        pruning_ratio=given,
        ratios=selection.ratios,
        round_to=selection.round_to,
        ignore=selection.ignore,
        roles=selection.rules(),
        expert_parallel=expert_parallel,
        speed=gib_per_second,
        trust_remote_code=trust_remote_code,
    )
    if json:
        typer.echo(json_module.dumps(planned.to_dict(), indent=1))
        return
    console = make_console(highlight=False)
    print_planned_size(planned, console if console.is_terminal else make_console(highlight=False, width=_PAGE))
