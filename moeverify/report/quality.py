"""Geometry of the quality curve: scores over pruning ratios, in SVG units."""

from __future__ import annotations

from collections.abc import Mapping
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
                {"x": x(p["ratio"]), "y": y(p["scores"][name]["value"]), "title": _title(name, p)}
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
        "bottom": HEIGHT - BOTTOM,
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


def _title(name: str, point: Mapping[str, Any]) -> str:
    score = point["scores"][name]
    error = "" if score["stderr"] is None else f" ± {score['stderr']:.3f}"
    return f"{name} at ratio {point['ratio']:g}: {score['value']:.3f}{error}"
