"""The numbers that a report opens with: how much is left of the models, and what was seen beside the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moeverify.report.engines import served_by
from moeverify.verdict import Status

_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Number:
    """One number of the headline: what it counts, its value, and a line that explains it."""

    name: str
    value: str
    note: str = ""


def headline_numbers(document: Mapping[str, Any]) -> list[Number]:
    """Parameters, size, experts, quality and engines of a result, as far as its facts hold them."""
    cases = [case["facts"] for case in document["cases"]]
    pruned = [f for f in cases if f.get("parameters_before") and "parameters_after" in f]
    result = [_models(document)]
    if pruned:
        result.append(_shrunk("parameters", [(f["parameters_before"], f["parameters_after"]) for f in pruned], short))
    sizes = [size for f in pruned if (size := _bytes(f)) is not None]
    if sizes:
        result.append(_shrunk("size", sizes, binary))
    experts = [(sum(layer["before"] for layer in kept), sum(len(layer["kept"]) for layer in kept))
               for f in cases if (kept := _experts(f))]  # fmt: skip
    if any(before != after for before, after in experts):
        result.append(_shrunk("experts", experts, str))
    result += [number for f in cases[:1] if len(cases) == 1 and (number := _quality(f)) is not None]
    served = served_by(document["verdicts"])
    result += [] if served is None else [Number("served", *served)]
    return result


def _models(document: Mapping[str, Any]) -> Number:
    keys = {(v["source"], v["subject"]) for v in document["verdicts"]}
    wrong = {(v["source"], v["subject"]) for v in document["verdicts"] if v["status"] not in (Status.PASS, Status.SKIP)}
    name = "models" if len(keys) != 1 else "model"
    return Number(name, str(len(keys)), f"{len(keys) - len(wrong)} without a problem")


def _shrunk(name: str, pairs: Sequence[tuple[int, int]], write: Any) -> Number:
    """One pair as it is; of several the range of what is left."""
    shares = sorted(after / before for before, after in pairs)
    left = f"{100 * shares[0]:.0f} % left"
    if len(pairs) == 1:
        (before, after), *_ = pairs
        return Number(name, f"{write(before)} → {write(after)}", left)
    if round(100 * shares[0]) != round(100 * shares[-1]):
        left = f"{100 * shares[0]:.0f} to {100 * shares[-1]:.0f} % left"
    return Number(name, left.removesuffix(" left"), f"left of the {name} of {len(pairs)} models")


def _bytes(facts: Mapping[str, Any]) -> tuple[int, int] | None:
    if facts.get("bytes_before"):
        return facts["bytes_before"], facts["bytes_after"]
    width = _BYTES.get(facts.get("dtype", ""))
    return None if width is None else (width * facts["parameters_before"], width * facts["parameters_after"])


def _experts(facts: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    layers: Sequence[Mapping[str, Any]] = facts.get("experts") or facts.get("kept", {}).get("experts", [])
    return layers


def _quality(facts: Mapping[str, Any]) -> Number | None:
    """Mean score of the tasks before and after the most that was pruned."""
    points = (facts.get("quality") or {}).get("points", [])
    if len(points) < 2:
        return None
    means = [sum(s["value"] for s in p["scores"].values()) / len(p["scores"]) for p in points if p["scores"]]
    return Number("quality", f"{means[0]:.3f} → {means[-1]:.3f}", f"mean score at ratio {points[-1]['ratio']:g}")


def short(count: int) -> str:
    """A count in at most four digits.

    >>> [short(n) for n in (950, 50_272, 1_234_567, 30_532_122_624)]
    ['950', '50.3 K', '1.23 M', '30.5 B']
    """
    value, unit = float(count), ""
    for following in ("K", "M", "B", "T"):
        if value < 999.5:
            break
        value, unit = value / 1000, following
    return f"{value:.3g} {unit}".rstrip()


def binary(count: int) -> str:
    """A number of bytes in KiB, MiB or GiB.

    >>> [binary(n) for n in (2048, 3 << 20, 61_129_457_664)]
    ['2 KiB', '3 MiB', '56.9 GiB']
    """
    value, unit = count / 1024, "KiB"
    for following in ("MiB", "GiB", "TiB"):
        if value < 1023.5:
            break
        value, unit = value / 1024, following
    return f"{value:.3g} {unit}"
