"""Summary of a run on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from moeverify.cli.terminal import escape, make_console
from moeverify.report.caveats import caveats
from moeverify.report.result import VerificationResult
from moeverify.report.symbols import SYMBOLS
from moeverify.report.text import nothing_checked
from moeverify.verdict import PROBLEMS, Status

COLOURS = {
    Status.PASS: "green",
    Status.FAIL: "red",
    Status.ERROR: "red",
    Status.TIMEOUT: "yellow",
    Status.SKIP: "bright_black",
    Status.INCONCLUSIVE: "yellow",
}
_MOST_PROBLEMS = 20


def print_summary(result: VerificationResult, report: Path | None = None) -> None:
    """One row a model, problems and inconclusive verdicts with a line to reproduce them, caveats, counts, the path."""
    console = make_console(highlight=False)
    table = Table(title=f"subject {escape(str(result.settings['subject']))}", title_justify="left")
    table.add_column("model", overflow="fold")
    for status in Status:
        if result.summary[status.value]:
            table.add_column(status.value, justify="right", style=COLOURS[status])
    for source in dict.fromkeys(v.source for v in result.verdicts):
        statuses = [v.status for v in result.verdicts if v.source == source]
        table.add_row(escape(source), *(str(statuses.count(s) or "") for s in Status if result.summary[s.value]))
    console.print(table)
    problems = [v for v in result.verdicts if v.status in PROBLEMS] + list(result.inconclusive)
    for verdict in problems[:_MOST_PROBLEMS]:
        colour = COLOURS[verdict.status]
        console.print(
            f"[{colour}]{SYMBOLS[verdict.status]} {escape(verdict.source)} {verdict.check}: {verdict.status.value}[/] "
            f"{escape(verdict.message)}" + (f"\n  {escape(verdict.reproduce)}" if verdict.reproduce else ""),
            soft_wrap=True,
        )
    if len(problems) > _MOST_PROBLEMS:
        console.print(f"... and {len(problems) - _MOST_PROBLEMS} more problems; the report has them all")
    for line in nothing_checked(result.verdicts):
        console.print(escape(line), soft_wrap=True)
    for line in caveats(result.to_dict()):
        console.print(f"[yellow]note[/] {escape(line)}", soft_wrap=True)
    counts = ", ".join(f"{count} {status}" for status, count in result.summary.items() if count)
    mark = "✗" if not result.ok else "?" if result.inconclusive else "✓"
    console.print(f"{mark} {counts} in {result.seconds:.0f} s")
    if result.ok and result.inconclusive:
        console.print("  nothing failed; inconclusive is not approved (--strict makes the exit code 1)", soft_wrap=True)
    if report is not None:
        print(f"report: {report.resolve()}")
