"""``moeverify engines``"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from moeverify.cli.app import app, command

group = typer.Typer(
    name="engines", help="Engines that the check served asks: list them, install them.", no_args_is_help=True
)
app.add_typer(group)


@command("list", needs="moeverify.serving.engines", group=group)
def list_command(
    load: Annotated[list[str] | None, typer.Option(help="Python module that adds engines; again for more.")] = None,
    limits: Annotated[
        bool, typer.Option("--limits", help="Also the sizes that each engine takes, with sources.")
    ] = False,
) -> None:
    """Say which engines are there, in which release and where, and why the others are not."""
    from rich.table import Table

    from moeverify.base.extensions import load_modules
    from moeverify.cli.terminal import escape, make_console
    from moeverify.serving.engines import ENGINES
    from moeverify.serving.environment import installation, pinned_version

    load_modules(load or ())
    table = Table("engine", "release", "state", box=None, pad_edge=False)
    for engine in ENGINES.values():
        installed = installation(engine)
        table.add_row(engine.name, pinned_version(engine), escape(installed.problem or f"ready: {installed.where}"))
    console = make_console(soft_wrap=True)
    console.print(table)
    if limits:
        for engine in ENGINES.values():
            for limit in engine.limits:
                only = f" ({', '.join(limit.types)} only)" if limit.types else ""
                typer.echo(f"{engine.name}, {limit.size}: {limit.rule}{only}; else {limit.effect} ({limit.reference})")


@command("install", needs="moeverify.serving.engines", group=group)
def install_command(
    names: Annotated[list[str], typer.Argument(help="Engines, such as vllm and llama.cpp.")],
    load: Annotated[list[str] | None, typer.Option(help="Python module that adds engines; again for more.")] = None,
) -> None:
    """Make an environment for each engine under the user's cache (MOEVERIFY_CACHE), from a pinned list."""
    from moeverify.base.extensions import load_modules
    from moeverify.serving.engines import engines_named
    from moeverify.serving.environment import install

    load_modules(load or ())
    for engine in engines_named(tuple(names)):
        python = install(engine, partial(_print_step, engine.name))
        typer.echo(f"{engine.name}: {python}")


def _print_step(name: str, step: str) -> None:
    typer.echo(f"{name}: {step}", err=True)
