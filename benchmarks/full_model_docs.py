"""Draw the results under ``reports/gpu/`` into ``docs/gpu.md``: ``python -m benchmarks.full_model_docs``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moeverify.base.files import write_text

RESULTS, PAGE = Path("reports/gpu"), Path("docs/gpu.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
GIB = 2**30


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """All results as Markdown, the newest first."""
    if not results:
        return "No GPU result has been recorded yet."
    newest_first = sorted(results, key=lambda r: r["created"], reverse=True)
    return "\n\n".join(_one(result) for result in newest_first)


def _one(r: Mapping[str, Any]) -> str:
    before, after, seconds, peak = r["before"], r["after"], r["seconds"], r["peak_bytes"]
    apply_ratio = seconds["apply"] / max(seconds["copy_once"], 1e-9)
    what = "share of whole experts removed by reap" if "expert_ratio" in r["model"] else "ratio"
    lines = [
        f"### {r['device']}, {r['model']['type']}, {what} {r['model']['ratio']:g}, {r['model']['dtype']}",
        "",
        f"`{r['command']}`, {r['created']}, commit `{r['commit'][:12]}`, torch {r['versions']['torch']}, "
        f"transformers {r['versions']['transformers']}.",
        "",
        "| | before | after |",
        "|---|---:|---:|",
        f"| parameters | {before['parameters']:,} | {after['parameters']:,} |",
        f"| weights, GiB | {before['bytes'] / GIB:.2f} | {after['bytes'] / GIB:.2f} |",
        f"| tokens per second | {before['tokens_per_second']:,.0f} | {after['tokens_per_second']:,.0f} |",
        "",
        "| stage | seconds | peak memory, GiB | against the weights before |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {seconds[name]:.2f} | {peak[name] / GIB:.2f} | {peak[name] / before['bytes']:.2f} |"
            for name in peak
        ),
        f"| copying the kept weights once | {seconds['copy_once']:.3f} | | apply takes {apply_ratio:.1f} times that |",
        "",
        *(f"- `{name}`: {outcome}" for name, outcome in r["checks"].items()),
    ]
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the markers of the page."""
    results = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    head, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    write_text(PAGE, f"{head}{BEGIN}\n{render(results)}\n{END}{tail}")


if __name__ == "__main__":
    main()
