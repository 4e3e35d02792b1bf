"""Geometry of the quality curve: scores over pruning ratios, in SVG units.

The curve is our own SVG, with its interaction in ``curve.js``. A whole report may have one megabyte, and
plotly's packaged bundle has 4.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 44, 24, 12, 36
SERIES = 8  # as many line styles as report.css has


def quality_view(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Data for the template from a case's ``quality`` facts, ``None`` if it has none."""
    quality = facts.get("quality")
    if not quality:
        return None
    points = quality["points"]
    names = list(dict.fromkeys(name for point in points for name in point["scores"]))
    last = max(point["ratio"] for point in points) or 1.0
    values = [score["value"] for point in points for score in point["scores"].values()]
    top: float = max(1.0, *values)

    def x(ratio: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * ratio / last, 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top), 1)

    series = [
        {
            "name": name,
            "style": number % SERIES,
            "dots": [
                {
                    "x": x(p["ratio"]),
                    "y": y(p["scores"][name]["value"]),
                    "value": p["scores"][name]["value"],
                    "title": _title(name, p),
                }
                for p in points
                if name in p["scores"]
            ],
            "chance": points[0]["scores"].get(name, {}).get("chance"),
        }
        for number, name in enumerate(names)
    ]
    baseline = quality.get("at_random")
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "data": {
            "top": top,
            "above": TOP,
            "below": HEIGHT - BOTTOM,
            "points": [_at_ratio(p, x(p["ratio"]), names) for p in points],
        },
        "series": series,
        "ratios": [{"x": x(p["ratio"]), "label": f"{p['ratio']:g}"} for p in points],
        "levels": [{"y": y(top * n / 4), "label": f"{top * n / 4:.3g}"} for n in range(5)],
        "random": None
        if baseline is None or baseline["mean"] is None
        else {"x": x(baseline["ratio"]), "y": y(baseline["mean"]), "value": baseline["mean"]},
        "points": points,
        "removed": quality.get("removed", "channels"),
        "names": names,
        "tasks": quality["tasks"],
        "settings": quality["settings"],
        "versions": quality["versions"],
    }


def _at_ratio(point: Mapping[str, Any], x: float, names: Sequence[str]) -> dict[str, Any]:
    """Values at one ratio: its place, a heading, and the value of each task."""
    left = point.get("left")
    title = "unpruned" if point["ratio"] == 0 else f"ratio {point['ratio']:g}"
    return {
        "x": x,
        "title": title + (f", {100 * left:.0f} % of the parameters" if left is not None and point["ratio"] else ""),
        "values": [
            {"series": number, "text": f"{name} {_value(point['scores'][name])}"}
            for number, name in enumerate(names)
            if name in point["scores"]
        ],
    }


def _title(name: str, point: Mapping[str, Any]) -> str:
    return f"{name} at ratio {point['ratio']:g}: {_value(point['scores'][name])}"


def _value(score: Mapping[str, Any]) -> str:
    error = "" if score["stderr"] is None else f" ± {score['stderr']:.3f}"
    return f"{score['value']:.3f}{error}"
