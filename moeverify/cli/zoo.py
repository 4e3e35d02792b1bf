"""``moeverify zoo``"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import command


@command("zoo", needs="moeverify.models.zoo")
def zoo_command(
    types: Annotated[list[str] | None, typer.Argument(help="Only these model types.", show_default=False)] = None,
    table: Annotated[
        Path | None, typer.Option(help="Trace them all and write what was found, as Markdown, and as JSON beside it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the tiny random models of transformers' MoE types: each is a source, zoo:TYPE."""
    from rich.table import Table as Grid

    from moeverify.cli.terminal import make_console
    from moeverify.models.sources import quiet_transformers
    from moeverify.models.zoo import zoo_listing

    if table is not None:
        from moeverify.suites.zoo_table.table import table as make_table
        from moeverify.suites.zoo_table.table import write_table

        rows = make_table(types or (), progress=lambda name: typer.echo(name, err=True))
        for path in write_table(rows, table):
            typer.echo(path)
        return
    with quiet_transformers():
        entries = list(zoo_listing(types or ()))
    if json:
        typer.echo(json_module.dumps([entry.to_dict() for entry in entries], indent=2))
        return
    grid = Grid("type", "layers", "MoE", "experts", "router", "shared experts", "mixers", box=None, pad_edge=False)
    for entry in entries:
        experts = f"{entry.experts} {entry.layout}"
        lists = [", ".join(values) for values in (entry.routers, entry.shared_experts, entry.mixers)]
        if not entry.error:
            grid.add_row(entry.model_type, str(entry.layers), str(entry.moe_layers), experts, *lists)
    console = make_console(soft_wrap=True)
    console.print(grid)
    failed = [entry for entry in entries if entry.error]
    for entry in failed:
        console.print(f"{entry.model_type}: {entry.error}", markup=False)
    console.print(f"{len(entries) - len(failed)} types, {len(failed)} that cannot be built", markup=False)
