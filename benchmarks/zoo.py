"""Our pruner on every MoE type of transformers: which checks pass, and what the exceptions are.

``python -m benchmarks.zoo`` is ``moeverify verify zoo:all`` at ratios 0.5 and 0.25. It writes
``reports/baselines/zoo.json`` and the table ``zoo.md`` beside it: a row a type, a column a ratio, every problem and
every class that keeps another number of channels than asked with the reason. A run that was killed goes on with
``--resume``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.anywhere import anywhere
from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.report.result import VerificationResult
from moeverify.verdict import PROBLEMS, Status
from moeverify.verification.verify import verify

RATIOS = (0.5, 0.25)


def summary(result: VerificationResult) -> dict[str, dict[str, Any]]:
    """By type: checks passed, problems, reasons of skips, share of the parameters left, adjusted classes."""
    types: dict[str, dict[str, Any]] = {}
    for verdict in result.verdicts:
        row = types.setdefault(
            verdict.source.removeprefix("zoo:"), {"passed": 0, "problems": {}, "skipped": {}, "adjusted": []}
        )
        if verdict.status is Status.PASS:
            row["passed"] += 1
        elif verdict.status in PROBLEMS:
            row["problems"][verdict.check] = f"{verdict.status}: {verdict.message}"
        elif verdict.status is Status.INCONCLUSIVE:
            row["skipped"][verdict.check] = f"inconclusive: {verdict.message}"
        else:
            row["skipped"][verdict.check] = verdict.message
        if verdict.check == "ratio-honoured":
            row["adjusted"] = [anywhere(reason) for reason in verdict.evidence.get("adjusted", ())]
    for case in result.cases:
        facts = case.facts
        if "parameters_after" in facts:
            share = facts["parameters_after"] / facts["parameters_before"]
            types[case.source.removeprefix("zoo:")]["left"] = round(share, 3)
    return types


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]], packages: Mapping[str, str]) -> str:
    """The results by ratio and type as Markdown."""
    ratios = list(results)
    names = sorted({name for types in results.values() for name in types})
    clean = {r: sum(not row["problems"] for row in types.values()) for r, types in results.items()}
    lines = [
        "# Every MoE type of transformers, pruned and checked",
        "",
        "Made by `python -m benchmarks.zoo` with " + ", ".join(f"{k} {v}" for k, v in packages.items()) + ".",
        "",
        *(f"Ratio {r}: {clean[r]} of {len(results[r])} types without a problem." for r in ratios),
        "",
        "| type | " + " | ".join(f"ratio {r}" for r in ratios) + " |",
        "|---|" + "---|" * len(ratios),
    ]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(_cell(results[r].get(name)) for r in ratios) + " |")
    lines += ["", "## Exceptions", ""]
    problems = [
        f"- {name}, ratio {r}, {check}: {' '.join(message.split())}"
        for name in names
        for r in ratios
        for check, message in results[r].get(name, {}).get("problems", {}).items()
    ]
    lines += problems or ["None."]
    lines += ["", "## Classes that keep another number of channels than asked", ""]
    adjusted = dict.fromkeys(
        f"- {name}, ratio {r}: {reason}" for name in names for r in ratios for reason in results[r][name]["adjusted"]
    )
    lines += list(adjusted) or ["None."]
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not run"
    left = f", {row['left']:.0%} left" if "left" in row else ""
    if row["problems"]:
        return f"{len(row['problems'])} of {row['passed'] + len(row['problems'])} checks fail{left}"
    return f"{row['passed']} pass{left}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, write and print; 1 if a check failed somewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("types", nargs="*", help="only these types, printed and not written")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--output", type=Path, default=Path("reports/baselines"), help="folder of the results")
    parser.add_argument("--runs", type=Path, default=Path("reports/zoo"), help="folder of the runs' own reports")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that one type may take")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--resume", action="store_true", help="go on with runs that were killed")
    options = parser.parse_args(arguments)
    results = {}
    for ratio in options.ratios:
        result = verify(
            [f"zoo:{name}" for name in options.types] or "zoo:all",
            pruning_ratio=ratio,
            timeout=options.timeout,
            workers=options.workers,
            report=options.runs / str(ratio),
            resume=options.resume and (options.runs / str(ratio)).exists(),
        )
        results[str(ratio)] = summary(result)
    document = {"versions": versions(), "ratios": results}
    text = table(results, document["versions"])
    print(text)
    if not options.types:
        write_text(options.output / "zoo.json", json.dumps(document, indent=1) + "\n")
        write_text(options.output / "zoo.md", text)
    return int(any(row["problems"] for types in results.values() for row in types.values()))


if __name__ == "__main__":
    sys.exit(main())
