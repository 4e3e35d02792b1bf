"""Geometry of the picture of whole experts: one bar an expert, its score and the tokens that it got, in SVG units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEIGHT, TOKENS, GAP = 56, 20, 4
_BAR, _LARGE, _LEAST = 26, 560, 2.5
_DRAWN = 64  # bars with a title each
_FLAT = 0.12  # of the height, for the lowest score


def expert_pictures(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Data for the template from a case's ``experts`` facts: one picture a layer that lost experts."""
    return [_picture(layer) for layer in facts.get("experts", [])]


def _picture(layer: Mapping[str, Any]) -> dict[str, Any]:
    count, kept = layer["before"], set(layer["kept"])
    scores, tokens = layer.get("scores"), layer.get("tokens")
    width = max(_LEAST, min(_BAR, _LARGE / count))
    shares = _shares(scores) if scores else [0.5] * count
    most = max(tokens) or 1 if tokens else 1
    bars = []
    for expert, share in enumerate(shares):
        state = "stays" if expert in kept else "goes"
        title = f"expert {expert} {state}"
        title += f": score {scores[expert]:.4g}" if scores else ""
        title += f", {tokens[expert]} tokens" if tokens else ""
        height = round(HEIGHT * share, 2)
        bars.append(
            {"x": round(expert * width, 2), "y": round(HEIGHT - height, 2), "height": height, "state": state,
             "title": title, "tokens": round(TOKENS * tokens[expert] / most, 2) if tokens else 0}
        )  # fmt: skip
    gone = [expert for expert in range(count) if expert not in kept]
    outlines: dict[str, str] = {}
    if count > _DRAWN:  # one line over the bars of each kind
        outlines = {
            state: "".join(f"M{b['x']:g} {HEIGHT}v-{b['height']:g}h{width - 1:.3g}v{b['height']:g}" for b in bars
                           if b["state"] == state)
            for state in ("stays", "goes")
        }  # fmt: skip
        outlines["tokens"] = "".join(
            f"M{b['x']:g} {HEIGHT + GAP}v{b['tokens']:g}h{width - 1:.3g}v-{b['tokens']:g}Z" for b in bars
        )
        bars = []
    return {
        "outlines": outlines,
        "layer": layer["layer"],
        "bars": bars,
        "bar": round(max(width - 1, 1), 2),
        "base": HEIGHT,
        "below": HEIGHT + GAP,
        "width": round(width * count, 2),
        "height": HEIGHT + (GAP + TOKENS if tokens else 1),
        "count": count,
        "kept": len(kept),
        "criterion": layer.get("criterion", ""),
        "has_tokens": bool(tokens),
        "unseen": sum(number == 0 for number in tokens) if tokens else 0,
        "gone": gone[:64],
        "more": max(len(gone) - 64, 0),
    }


def _shares(scores: list[float]) -> list[float]:
    """Scores scaled to heights of bars, from flat to full."""
    low, high = min(scores), max(scores)
    if high <= low:
        return [0.5] * len(scores)
    return [_FLAT + (1 - _FLAT) * (score - low) / (high - low) for score in scores]
