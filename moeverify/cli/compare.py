"""``moeverify compare``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeverify.cli.app import command


@command("compare", needs="moeverify.report.comparison")
def compare_command(
    before: Annotated[Path, typer.Argument(metavar="A", help="Folder of a report, or its report.json.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The same of a later run.")],
    html: Annotated[Path | None, typer.Option(help="Also write both runs side by side into this HTML file.")] = None,
) -> int:
    """Two runs side by side. Exit code 1 if a verdict became worse."""
    from rich.table import Table

    from moeverify.base.files import write_text
    from moeverify.cli.terminal import escape, make_console
    from moeverify.report.comparison import compare, read_result, render_comparison

    old, new = read_result(before), read_result(after)
    comparison = compare(old, new)
    console = make_console(highlight=False)
    table = Table(title="what changed", title_justify="left")
    for title in ("model", "check", "change", "A", "B"):
        table.add_column(title)
    changed = [c for c in comparison.changes if c.kind != "same"]
    for change in changed:
        sides = [v.status.value if v else "–" for v in (change.before, change.after)]
        table.add_row(escape(change.source), change.check, change.kind, *sides)
    if changed:
        console.print(table)
    for difference in comparison.differences:
        console.print(f"{escape(difference.where)}: {escape(difference.before)} → {escape(difference.after)}")
    if html is not None:
        write_text(html, render_comparison(comparison, old, new))
        console.print(f"comparison: {html.resolve()}")
    worse = len(comparison.of_kind("worse"))
    console.print(f"✗ {worse} verdicts became worse" if worse else "✓ nothing became worse")
    return 0 if comparison.ok else 1
