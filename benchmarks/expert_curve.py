"""Scores of the criteria for whole experts against parameters left, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 340, 48, 160, 14, 40
COLOURS = ("#0b6e4f", "#c1121f", "#1d4ed8", "#b45309", "#7c3aed", "#0e7490", "#be185d", "#4d7c0f", "#334155", "#94a3b8")


def curve(lines: Sequence[Mapping[str, Any]]) -> str:
    """One line a criterion, from the whole model on the left; bars are two standard errors."""
    least = min(line["left"] for line in lines)
    whole = [line for line in lines if line["ratio"] == 0]

    def x(left: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (1 - left) / (1 - least or 1), 1)

    def y(score: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - score), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for level in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{LEFT} {y(level)}H{WIDTH - RIGHT}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(level) + 4}" text-anchor="end">{level:g}</text>')
    for left in sorted({line["left"] for line in lines}, reverse=True):
        parts.append(f'<text x="{x(left)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{left:.0%}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">parameters left</text>')
    names = list(dict.fromkeys(line["criterion"] for line in lines if line["ratio"]))
    last = {name: [p for p in lines if p["criterion"] == name][-1]["mean"] for name in names}
    for place, name in enumerate(sorted(names, key=lambda n: -last[n])):
        points = [*whole, *(p for p in lines if p["criterion"] == name)]
        colour = COLOURS[names.index(name) % len(COLOURS)]
        dash = ' stroke-dasharray="4 3"' if name == "random" else ""
        path = " ".join(f"{x(p['left'])},{y(p['mean'])}" for p in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>')
        for p in points:
            bar = f"M{x(p['left'])} {y(p['mean'] - 2 * p['error'])}V{y(p['mean'] + 2 * p['error'])}"
            parts.append(f'<path d="{bar}" stroke="{colour}"/>')
            title = f"{name}, {p['left']:.0%} of the parameters: {p['mean']:.3f} ± {p['error']:.3f}"
            parts.append(
                f'<circle cx="{x(p["left"])}" cy="{y(p["mean"])}" r="3" fill="{colour}">'
                f"<title>{escape(title)}</title></circle>"
            )
        row = TOP + 14 + 18 * place
        parts.append(f'<path d="M{WIDTH - RIGHT + 14} {row - 4}h18" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 38}" y="{row}">{escape(name)} {last[name]:.3f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
