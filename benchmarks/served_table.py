"""The Markdown table of ``benchmarks.served``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moeverify.serving.compare import TOLERANCE

BASE, CUTS = "base", ("experts 0.5", "channels 0.5", "hidden 0.5")


def table(data: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    engines = list(data["engines"])
    results, columns = data["results"], (BASE, *CUTS)
    known = [
        t
        for t in sorted(results)
        if any(cell(results[t].get(e, {}).get(BASE)) not in ("refused", "–") for e in engines)
    ]
    packages = ", ".join(f"{name} {version}" for name, version in {**data["engines"], **data["versions"]}.items())
    lines = [
        "# MoE types in other engines, unpruned and pruned",
        "",
        f"Made by `python -m benchmarks.served` in {data['cpu_seconds'] / 60:.0f} minutes of processor time "
        f"({data['seconds'] / 60:.0f} minutes on the clock) with {packages}.",
        "",
        "Small random models in sizes that engines take (`--engine-ready`), float32, 8 prompts of 16 tokens. A number",
        "is the median over prompts of the largest difference from transformers among the 20 likeliest tokens.",
        f"*agrees*: at most {TOLERANCE}, or in the pruned model at most that more than in the base. *differs as its",
        "base does*: the engine computes another function than transformers before anything is pruned.",
        "*told by --for*: `moeverify prune --for ENGINE` refuses that plan, or notes it, before anything is pruned.",
        "",
        f"{len(known)} of {len(results)} types are served by an engine before pruning.",
        "",
    ]
    if len(results) < data.get("types", 0):
        lines += [f"So far {len(results)} of the zoo's {data['types']} types were asked;",
                  "`python -m benchmarks.served --resume` asks the others.", ""]  # fmt: skip
    for engine in engines:
        lines += [
            f"## {engine} {data['engines'][engine]}",
            "",
            "| type | " + " | ".join(columns) + " |",
            "|---|" + "---|" * len(columns),
        ]
        mine = [t for t in known if _served(results[t].get(engine))]
        for model_type in mine:
            row = results[model_type][engine]
            lines.append(f"| {model_type} | " + " | ".join(cell(row.get(name)) for name in columns) + " |")
        lines += [
            "",
            f"Refused before pruning: {', '.join(t for t in sorted(results) if t not in mine) or 'none'}.",
            "",
        ]
    lines += ["## Wrong prunings that transformers runs", "", "| type | what is wrong | " + " | ".join(engines) + " |",
              "|---|---|" + "---|" * len(engines)]  # fmt: skip
    for model_type, by_engine in data["wrong"].items():
        names = dict.fromkeys(name for row in by_engine.values() for name in row)
        for name in names:
            cells = (cell(by_engine.get(engine, {}).get(name)) for engine in engines)
            lines.append(f"| {model_type} | {'nothing: base' if name == BASE else name} | {' | '.join(cells)} |")
    messages = [
        f"- {engine}, {model_type}, {name}: {' '.join(entry['message'].split())}"
        for part in (results, data["wrong"])
        for model_type in part
        for engine in engines
        for name, entry in part[model_type].get(engine, {}).items()
        if entry.get("message") and not (part is results and name == BASE)
    ]
    return "\n".join([*lines, "", "## In the engines' words", "", *(messages or ["Nothing."])]) + "\n"


def _served(row: Mapping[str, Any] | None) -> bool:
    return bool(row) and row.get(BASE, {}).get("word") in ("agrees", "differs", "gives no numbers", "undecided")


def cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    number = f" {entry['gap']:.1g}" if entry.get("gap", 0.0) > 1e-4 else ""
    return f"{entry['word']}{number}{' (told by --for)' if entry.get('told') else ''}"
