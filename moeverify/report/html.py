"""One self-contained HTML file: a table of models and checks, and for each model what happened to it."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from moeverify.report.quality import quality_view
from moeverify.verdict import PROBLEMS, Status, VerificationResult

SYMBOLS = {
    Status.PASS: "✓",
    Status.FAIL: "✗",
    Status.ERROR: "!",
    Status.TIMEOUT: "⧖",
    Status.SKIP: "–",
}
_MAX_LABELLED = 16


def _matrix(layer: dict[str, Any]) -> dict[str, Any]:
    """Geometry of an isolation matrix, in SVG units: one square a pair of experts."""
    matrix = layer["matrix"]
    count = len(matrix)
    side = 28 if count <= _MAX_LABELLED else max(3, 448 // count)
    cells = [
        {
            "x": j * side,
            "y": i * side,
            "value": value,
            "kind": "own" if i == j else ("leak" if value else "none"),
            "title": f"pruning expert {i} removes {value} channels of expert {j}",
        }
        for i, row in enumerate(matrix)
        for j, value in enumerate(row)
    ]
    leaks = sum(bool(v) for i, row in enumerate(matrix) for j, v in enumerate(row) if i != j)
    return {
        "layer": layer["layer"],
        "cells": cells,
        "side": side,
        "size": side * count,
        "labels": count <= _MAX_LABELLED,
        "count": count,
        "leaks": leaks,
    }


def render_html(result: VerificationResult) -> str:
    """The report as one string; everything that comes from a model or an error is escaped."""
    environment = Environment(
        loader=PackageLoader("moeverify.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    document = json.loads(result.to_json())
    checks = list(dict.fromkeys(v.check for v in result.verdicts))
    keys = list(dict.fromkeys((v.source, v.subject) for v in result.verdicts))
    facts = {(c["source"], c["subject"]): c["facts"] for c in document["cases"]}
    rows = []
    for number, key in enumerate(keys):
        verdicts = [v for v in document["verdicts"] if (v["source"], v["subject"]) == key]
        known = facts.get(key, {})
        rows.append(
            {
                "id": f"case-{number}",
                "source": key[0],
                "subject": key[1],
                "by_check": {v["check"]: v for v in verdicts},
                "verdicts": verdicts,
                "problem": any(v["status"] in PROBLEMS for v in verdicts),
                "facts": known,
                "quality": quality_view(known),
                "matrices": [_matrix(layer) for layer in known.get("isolation", [])],
            }
        )
    return environment.get_template("report.html.j2").render(
        result=document,
        ok=result.ok,
        rows=rows,
        checks=checks,
        symbols={s.value: symbol for s, symbol in SYMBOLS.items()},
        problems=[s.value for s in PROBLEMS],
    )
