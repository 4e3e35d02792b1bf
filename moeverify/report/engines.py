"""Results of each engine for a model, from the evidence of the check ``served``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from moeverify.verdict import Status


def engine_rows(verdict: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """One row per engine: its release, its status, and how far base and pruned model are from transformers."""
    return [
        {
            "engine": str(one["engine"]),
            "version": str(one.get("version", "")),
            "status": str(one["status"]),
            "message": str(one.get("message", "")),
            "base": distance(one.get("base", ())),
            "pruned": distance(one.get("pruned", ())),
            "limits": [str(line) for line in one.get("limits", ())],
        }
        for one in (verdict or {}).get("evidence", {}).get("engines", ())
    ]


def distance(values: Sequence[float | str]) -> str:
    """Median over prompts with two digits, as text; empty if there are no values.

    Documents hold infinity as text.

    >>> distance([3e-06, 4.1e-06, 5e-06]), distance(["inf", "inf"]), distance([])
    ('4.1e-06', 'no numbers', '')
    """
    if not values:
        return ""
    middle = median(map(float, values))
    return f"{middle:.2g}" if middle < float("inf") else "no numbers"


def served_by(verdicts: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Number of pairs of model and engine that agree with transformers, and the same by engine; ``None`` if none was
    asked.
    """
    asked = [
        row
        for verdict in verdicts
        if verdict["check"] == "served"
        for row in engine_rows(verdict)
        if row["status"] != Status.SKIP
    ]
    if not asked:
        return None
    by_engine: dict[str, list[bool]] = {}
    for row in asked:
        label = f"{row['engine']} {row['version']}".strip()
        by_engine.setdefault(label, []).append(row["status"] == Status.PASS)
    agree = sum(sum(answers) for answers in by_engine.values())
    listed = (f"{label} {_agreement(answers)}" for label, answers in by_engine.items())
    return f"{agree} of {len(asked)}", ", ".join(listed)


def _agreement(answers: Sequence[bool]) -> str:
    if len(answers) == 1:
        return "agrees" if answers[0] else "does not agree"
    return f"agrees on {sum(answers)} of {len(answers)}"
