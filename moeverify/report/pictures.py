"""Small pictures of a report as plain data: their geometry is computed here, templates only draw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_LABELLED = 16
_DRAWN = 64
_SIDE = 28
_LARGE = 448


def isolation_picture(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The isolation matrix of a layer: one square per pair of experts, in SVG units.

    The diagonal of a layer with many experts is one line. Row ``i``, column ``j``: channels of expert ``j`` that are
    removed with a channel of expert ``i``.
    """
    count = len(layer["own"])
    side = _SIDE if count <= _LABELLED else max(1.0, _LARGE / count)
    own = [(i, i, value) for i, value in enumerate(layer["own"])] if count <= _DRAWN else []
    cells = [
        {
            "x": round(j * side, 2),
            "y": round(i * side, 2),
            "value": value,
            "kind": "own" if i == j else "leak",
            "title": f"pruning expert {i} removes {value} channels of expert {j}",
        }
        for i, j, value in [*own, *layer["leaks"]]
    ]
    return {
        "layer": layer["layer"],
        "cells": cells,
        "side": side,
        "size": round(side * count, 2),
        "labels": count <= _LABELLED,
        "diagonal": count > _DRAWN,
        "count": count,
        "leaks": layer["leak_count"],
    }


def router_load(tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    """Tokens that reached each expert, one picture a MoE layer: bars in SVG units, in the experts' order."""
    layers: dict[str, list[tuple[str, int]]] = {}
    for name, count in tokens.items():
        # experts.3 or experts[3]: the container is what stands before the number.
        layers.setdefault(name.rstrip("]0123456789").rstrip(".["), []).append((name, count))
    pictures = []
    for layer, experts in layers.items():
        most = max(max(count for _, count in experts), 1)
        width = max(3.0, min(_SIDE, _LARGE / len(experts)))
        bars = [
            {
                "x": round(k * width, 2),
                "height": round(60 * count / most, 2),
                "title": f"{name}: {count} tokens",
            }
            for k, (name, count) in enumerate(experts)
        ]
        outline = ""
        if len(experts) > _DRAWN:  # one line over all bars
            width = _LARGE / len(experts)
            heights = (round(60 - 60 * count / most, 2) for _, count in experts)
            outline = "M0 60" + "".join(f"V{height:g}h{width:.3g}" for height in heights) + "V60Z"
            bars = []
        counts = [count for _, count in experts]
        pictures.append(
            {
                "layer": layer,
                "bars": bars,
                "outline": outline,
                "bar": round(width - 1, 2),
                "width": round(width * len(experts), 2),
                "least": min(counts),
                "most": max(counts),
                "count": len(experts),
            }
        )
    return pictures


def shares(sizes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Removed share of each role: its rows with the share that stayed, in percent."""
    return [{**size, "left": round(100 * size["after"] / size["before"], 1)} for size in sizes if size["before"]]


def timings(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """The stages of a case with their share of the longest, in percent; the longest first."""
    most = max(seconds.values(), default=0.0) or 1.0
    ranked = sorted(seconds.items(), key=lambda item: -item[1])
    return [{"stage": stage, "seconds": s, "share": round(100 * s / most, 1)} for stage, s in ranked]
