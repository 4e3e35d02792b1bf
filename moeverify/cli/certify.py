"""``moeverify certify``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moeverify.base.words import words
from moeverify.cli.app import command
from moeverify.cli.options import Device, Engines, EngineTimeout, Seed
from moeverify.serving.settings import SECONDS

if TYPE_CHECKING:
    from moeverify.verification.certify import Certification


@command("certify", needs="moeverify.verification.certify")
def certify_command(
    base: Annotated[str, typer.Argument(help="Folder or hub name of the unpruned checkpoint.")],
    pruned: Annotated[str, typer.Argument(help="Folder or hub name of the pruned checkpoint, made by any tool.")],
    keep_map: Annotated[
        Path | None, typer.Option(help="Write what stayed into this file, as a plan for `moeverify apply-plan`.")
    ] = None,
    oracle: Annotated[
        str, typer.Option(help="Run both models: full, sample (of large ones some layers), none.")
    ] = "sample",
    report: Annotated[Path | None, typer.Option(help="Folder of the report; none is written without it.")] = None,
    json: Annotated[str | None, typer.Option(help="Also write the JSON document there; - is standard output.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a verdict is inconclusive, too.")] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    engines: Engines = "",
    engine_timeout: EngineTimeout = SECONDS,
) -> int:
    """Judge whether a checkpoint folder was pruned correctly from another one: verdicts, class and keep map."""
    from moeverify.cli.stages import stages
    from moeverify.verification.certify import certify

    with stages() as progress:
        result = certify(base, pruned, oracle=oracle, device=device, seed=seed, engines=words(engines),
                         engine_timeout=engine_timeout, strict=strict, on_event=progress)  # fmt: skip
    if report is not None:
        result.write(report)
    if json == "-":
        typer.echo(result.to_json(), nl=False)
    else:
        if json:
            result.write_json(json)
        _print(result, report)
    if keep_map is not None:
        written = result.write_keep_map(keep_map)
        if json != "-":
            print(f"keep map: {written.resolve()}")
    return result.exit_code


def _print(result: Certification, report: Path | None) -> None:
    """The cause first: what failed, what could not be seen, then the rest."""
    from moeverify.cli.summary import COLOURS
    from moeverify.cli.terminal import escape, make_console
    from moeverify.report.symbols import SYMBOLS
    from moeverify.verdict import PROBLEMS, Status

    console = make_console(highlight=False)
    rank = dict.fromkeys(PROBLEMS, 0) | {Status.INCONCLUSIVE: 1, Status.PASS: 2, Status.SKIP: 3}
    for verdict in sorted(result.verdicts, key=lambda v: rank.get(v.status, 1)):
        colour = COLOURS[verdict.status]
        console.print(
            f"[{colour}]{SYMBOLS[verdict.status]} {verdict.check}: {verdict.status.value}[/] {escape(verdict.message)}",
            soft_wrap=True,
        )
    counts = ", ".join(f"{count} {status}" for status, count in result.summary.items() if count)
    console.print(f"{'✓' if result.ok else '✗'} {escape(result.headline)}: {counts} in {result.seconds:.0f} s")
    if report is not None:
        print(f"report: {(report / 'report.html').resolve()}")
