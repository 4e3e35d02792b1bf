"""Whole experts removed from every MoE type of transformers: which checks pass, and what is refused.

``python -m benchmarks.experts`` is ``moeverify verify zoo:all --ratio experts=R`` for R = 0.5 and 0.25. It writes
``reports/baselines/experts.json`` after each model and the table ``experts.md`` beside it. Named types only are run
again with ``--only``; what is there already is kept with ``--resume``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.models.zoo import zoo_types
from moeverify.verdict import PROBLEMS, CaseFacts, Status, Verdict
from moeverify.verification.events import CaseFinished, Event, VerdictReached
from moeverify.verification.verify import verify

RATIOS = (0.5, 0.25)
Results = dict[str, dict[str, dict[str, Any]]]


class Collector:
    """Rows by type, written down whenever a model is done."""

    def __init__(self, rows: dict[str, dict[str, Any]], write: Callable[[], None]) -> None:
        self.rows, self.write = rows, write
        self._verdicts: dict[str, list[Verdict]] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, VerdictReached):
            self._verdicts.setdefault(event.case.source, []).append(event.verdict)
        elif isinstance(event, CaseFinished):
            name = event.case.source.removeprefix("zoo:")
            self.rows[name] = row_of(self._verdicts.pop(event.case.source, []), event.facts)
            self.write()
            print(name, event.case.ratios, _cell(self.rows[name]), flush=True)


def row_of(verdicts: Sequence[Verdict], facts: CaseFacts | None) -> dict[str, Any]:
    """Checks passed, problems, what could not be seen or was skipped, the refusal if there was one, and the share of
    the parameters left."""
    row: dict[str, Any] = {"passed": 0, "problems": {}, "unseen": {}, "skipped": {}, "refused": ""}
    for verdict in verdicts:
        if verdict.check == "terminates" and "the subject refused: " in verdict.message:
            row["refused"] = verdict.message.partition("the subject refused: ")[2]
        elif verdict.status is Status.PASS:
            row["passed"] += 1
        elif verdict.status in PROBLEMS:
            row["problems"][verdict.check] = f"{verdict.status}: {verdict.message}"
        elif verdict.status is Status.INCONCLUSIVE:
            row["unseen"][verdict.check] = verdict.message
        else:
            row["skipped"][verdict.check] = verdict.message
    if facts is not None and "parameters_after" in facts.facts:
        row["left"] = round(facts.facts["parameters_after"] / facts.facts["parameters_before"], 3)
    return row


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]], packages: Mapping[str, str]) -> str:
    """The results by ratio and type as Markdown."""
    names = sorted({name for types in results.values() for name in types})
    lines = [
        "# Whole experts removed from every MoE type of transformers, and checked",
        "",
        "Made by `python -m benchmarks.experts` with " + ", ".join(f"{k} {v}" for k, v in packages.items()) + ".",
        "",
    ]
    for ratio, types in results.items():
        clean = sum(not (row["problems"] or row["unseen"] or row["refused"]) for row in types.values())
        lines.append(f"Ratio {ratio}: {clean} of {len(types)} types without a problem.{_stale(results, ratio)}")
    lines += ["", "| type | " + " | ".join(f"experts={r}" for r in results) + " |", "|---|" + "---|" * len(results)]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(_cell(types.get(name)) for types in results.values()) + " |")
    exceptions = [
        f"- {name}, ratio {ratio}, {kind}: {' '.join(message.split())}"
        for name in names
        for ratio, types in results.items()
        for kind, message in _exceptions(types.get(name, {})).items()
    ]
    return "\n".join([*lines, "", "## Exceptions", "", *(exceptions or ["None."])]) + "\n"


def _stale(results: Mapping[str, Mapping[str, Mapping[str, Any]]], ratio: str) -> str:
    """How many rows are older than some checks, which ``--only`` brings up to date."""

    def checks(row: Mapping[str, Any]) -> int:
        return int(row["passed"]) + sum(len(row[kind]) for kind in ("problems", "unseen", "skipped"))

    most = max((checks(row) for types in results.values() for row in types.values()), default=0)
    old = sum(checks(row) < most and not row["refused"] for row in results[ratio].values())
    return f" {old} rows were recorded before the newest checks." if old else ""


def _exceptions(row: Mapping[str, Any]) -> dict[str, str]:
    refused = {"refused": row["refused"]} if row.get("refused") else {}
    return {**refused, **row.get("problems", {}), **{k: f"inconclusive: {v}" for k, v in row.get("unseen", {}).items()}}


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not run"
    if row["refused"]:
        return "refused"
    text = f"{row['passed']} pass"
    text += f", **{len(row['problems'])} problems**" if row["problems"] else ""
    text += f", {len(row['unseen'])} inconclusive" if row["unseen"] else ""
    return f"{text}; {row['left']:.0%} of the parameters left" if "left" in row else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write; 0 if no check found a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/baselines"))
    parser.add_argument("--only", nargs="*", default=None, metavar="TYPE")
    parser.add_argument("--resume", action="store_true", help="keep what is there already")
    options = parser.parse_args(arguments)
    path = options.out / "experts.json"
    kept = options.resume or options.only is not None
    data = json.loads(path.read_text("utf-8")) if kept and path.exists() else {}
    results: Results = data.get("results", {})

    def write() -> None:
        write_text(path, json.dumps({"versions": versions(), "results": results}, indent=1) + "\n")

    for ratio in map(str, RATIOS):
        rows = results.setdefault(ratio, {})
        wanted = options.only or [name for name in zoo_types() if name not in rows]
        if wanted:
            sources = [f"zoo:{name}" for name in wanted]
            verify(sources, ratios={"experts": float(ratio)}, timeout=600.0, workers=1, listen=Collector(rows, write))
    write_text(path.with_suffix(".md"), table(results, versions()))
    return int(any(row["problems"] for rows in results.values() for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
