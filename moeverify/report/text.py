"""Problems, and runs in which nothing was checked, in plain text for terminals and test reports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from moeverify.verdict import PROBLEMS, Status, Verdict

_MOST_LINES = 40
_MOST_ITEMS = 12


def shortened(value: Any) -> Any:
    """Long lists cut, so that evidence of a big model can be read."""
    if isinstance(value, dict):
        return {k: shortened(v) for k, v in value.items()}
    if isinstance(value, list) and len(value) > _MOST_ITEMS:
        return [*map(shortened, value[:_MOST_ITEMS]), f"... {len(value) - _MOST_ITEMS} more"]
    return [shortened(v) for v in value] if isinstance(value, list) else value


def describe_problem(verdict: Verdict) -> str:
    """The problem in one line, the evidence, and the line that reproduces it."""
    lines = [f"{verdict.source} {verdict.check}: {verdict.status.value}: {verdict.message}"]
    evidence = shortened(verdict.to_dict()["evidence"])
    for key, value in evidence.items():
        if key in ("traceback", "output", "stderr"):
            lines += [f"  {key}:", *(f"    {line}" for line in str(value).splitlines()[-_MOST_LINES:])]
        elif isinstance(value, list) and value and isinstance(value[0], dict | list | str):
            lines += [f"  {key}:", *(f"    {v if isinstance(v, str) else json.dumps(v)}" for v in value)]
        else:
            lines.append(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}")
    if verdict.reproduce:
        lines.append(f"  reproduce: {verdict.reproduce}")
    return "\n".join(lines)


def nothing_checked(verdicts: Iterable[Verdict]) -> list[str]:
    """Reasons why no check passed or failed on a source, as lines: each reason once, with the checks that gave it.

    Empty if on every source a check passed or there is a problem, which is reported by itself.
    """
    verdicts = list(verdicts)
    sources = {v.source for v in verdicts if v.status in (Status.PASS, *PROBLEMS)}
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.source not in sources:
            reasons.setdefault(f"{verdict.source}: {verdict.message}", []).append(verdict.check)
    if not reasons and verdicts:
        return []
    lines = [f"{reason} ({', '.join(dict.fromkeys(checks))})" for reason, checks in reasons.items()]
    return ["no check could be carried out:", *(f"  {line}" for line in lines)]
