"""What judging as data costs: ``moeverify verify`` of two checkouts in turn, in seconds of processors.

``python -m benchmarks.judge --before FOLDER`` runs the default checks with the package of ``FOLDER`` (another checkout)
and with this one, one after the other, and writes ``reports/baselines/judge.md``. Seconds of processors are those of
the command with all its processes, so that a busy machine matters little.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from moeverify.base.files import write_text
from moeverify.base.versions import versions

HERE = Path(__file__).parents[1]
SOURCES = ("synthetic:listed", "synthetic:fused", "zoo:qwen2_moe", "zoo:qwen3_moe", "zoo:mixtral")


@dataclass(frozen=True)
class Pair:
    """Seconds of processors of one source, before and now."""

    source: str
    before: float
    now: float


def seconds(checkout: Path, source: str) -> float:
    """Run the default checks on ``source`` with the package of a checkout; return the seconds of its processors."""
    with tempfile.TemporaryDirectory() as place:
        words = [sys.executable, "-m", "moeverify", "verify", source, "--workers", "1", "--report", f"{place}/report"]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, cwd=place, env=environment, check=True, capture_output=True)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime


def table(pairs: list[Pair]) -> str:
    """The medians of all pairs as Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# What judging as data costs",
        "",
        f"Made by `python -m benchmarks.judge --before FOLDER` with {packages}.",
        "Seconds of processors of `moeverify verify` with its default checks, all processes counted. Medians of runs",
        "in turn.",
        "",
        "| source | before | now | ratio |",
        "|---|--:|--:|--:|",
    ]
    totals = [0.0, 0.0]
    for source in dict.fromkeys(pair.source for pair in pairs):
        before, now = (
            statistics.median(getattr(p, name) for p in pairs if p.source == source) for name in ("before", "now")
        )
        totals = [totals[0] + before, totals[1] + now]
        lines.append(f"| {source} | {before:.1f} | {now:.1f} | {now / before:.2f} |")
    lines.append(f"| all | {totals[0]:.1f} | {totals[1]:.1f} | {totals[1] / totals[0]:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="another checkout of this repository")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("sources", nargs="*", default=SOURCES)
    arguments = parser.parse_args()
    pairs = []
    for number in range(arguments.pairs):
        for source in arguments.sources:
            pairs.append(Pair(source, seconds(arguments.before.resolve(), source), seconds(HERE, source)))
            print(number, pairs[-1], flush=True)
    write_text(HERE / "reports/baselines/judge.md", table(pairs))


if __name__ == "__main__":
    main()
