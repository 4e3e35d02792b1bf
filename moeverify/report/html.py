"""One self-contained HTML file: a table of models and checks, and for each model what happened to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from moeverify.report.caveats import caveats
from moeverify.report.engines import engine_rows
from moeverify.report.experts import expert_pictures
from moeverify.report.headline import headline_numbers
from moeverify.report.pictures import isolation_picture, router_load, shares, timings
from moeverify.report.quality import quality_view
from moeverify.report.symbols import SYMBOLS
from moeverify.verdict import PROBLEMS, Status

# What a model's row is marked with: the gravest of its verdicts.
_WORST = (Status.ERROR, Status.TIMEOUT, Status.FAIL, Status.INCONCLUSIVE, Status.PASS, Status.SKIP)
_MOST_EVIDENCE = 20_000


def _pretty(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if len(text) <= _MOST_EVIDENCE else text[:_MOST_EVIDENCE] + "\n... (cut; report.json has it all)"


def _as_image(svg: str) -> str:
    """An address for an image that holds ``svg``: nothing in it can run or style the page."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def render(template: str, **content: Any) -> str:
    """A template with everything that comes from a model or an error escaped."""
    environment = Environment(
        loader=PackageLoader("moeverify.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty"] = _pretty
    environment.filters["as_image"] = _as_image
    return environment.get_template(template).render(
        symbols={s.value: symbol for s, symbol in SYMBOLS.items()},
        problems=[s.value for s in PROBLEMS],
        open=Status.INCONCLUSIVE.value,
        **content,
    )


def _row(number: int, key: tuple[str, str], verdicts: list[dict[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    by_check = {v["check"]: v for v in verdicts}
    tokens = by_check.get("forward-every-expert", {}).get("evidence", {}).get("tokens", {})
    return {
        "id": f"case-{number}",
        "source": key[0],
        "subject": key[1],
        "by_check": by_check,
        "verdicts": verdicts,
        "problem": any(v["status"] in (*PROBLEMS, Status.INCONCLUSIVE) for v in verdicts),
        "facts": facts,
        "worst": next((s.value for s in _WORST if any(v["status"] == s for v in verdicts)), Status.PASS.value),
        "left": 100 * facts["parameters_after"] / facts["parameters_before"]
        if facts.get("parameters_before") and "parameters_after" in facts
        else None,
        "shares": shares(facts.get("sizes", [])),
        "timings": timings(facts.get("seconds", {})),
        "experts": expert_pictures(facts),
        "engines": engine_rows(by_check.get("served")),
        "quality": quality_view(facts),
        "matrices": [isolation_picture(layer) for layer in facts.get("isolation", [])],
        "loads": router_load(tokens),
    }


def render_html(document: Mapping[str, Any], *, ok: bool) -> str:
    """The report as one string, from the JSON document of a result; ``ok`` marks its headline."""
    keys = list(dict.fromkeys((v["source"], v["subject"]) for v in document["verdicts"]))
    facts = {(c["source"], c["subject"]): c["facts"] for c in document["cases"]}
    rows = [
        _row(n, key, [v for v in document["verdicts"] if (v["source"], v["subject"]) == key], facts.get(key, {}))
        for n, key in enumerate(keys)
    ]
    return render(
        "report.html.j2",
        result=document,
        ok=ok,
        caveats=caveats(document),
        numbers=headline_numbers(document),
        rows=rows,
        checks=list(dict.fromkeys(v["check"] for v in document["verdicts"])),
    )
