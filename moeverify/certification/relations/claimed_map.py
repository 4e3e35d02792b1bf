"""``claimed-map``"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moeverify.base.positions import from_text
from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.maps import KeepMap, Unknown
from moeverify.certification.relations.registry import inconclusive, more, relation
from moeverify.checks.registry import Finding, failed, passed, skipped

# What tools write beside the weights. Pickles are never opened.
KEPT, REMOVED, PLAN = ("experts_to_keep.json",), ("pruned_experts.json",), ("pruning_plan.json",)
PICKLES = ("pruning_info.pt", "pruning_info.pkl")


@relation("claimed-map")
def claimed_map(evidence: Evidence) -> Finding:
    """A keep map that the folder brings along is the one that its values show."""
    folder = evidence.pruned_folder
    lines: list[str] = []
    unread = [f"{name} is a pickle, which is not opened" for name in PICKLES if (folder / name).is_file()]
    read: list[str] = []
    for name in (*KEPT, *REMOVED, *PLAN):
        if not (folder / name).is_file():
            continue
        try:
            data = json.loads((folder / name).read_text("utf-8"))
            differences = _plan(evidence.keep, data) if name in PLAN else _experts(evidence.keep, data, name in REMOVED)
            lines += [f"{name}: {line}" for line in differences]
            read.append(name)
        except (OSError, ValueError, RecursionError, TypeError, KeyError, IndexError) as error:
            unread.append(f"{name} cannot be read as a keep map: {' '.join(str(error).split())[:80]}")
    if lines:
        return failed(more(lines), problems=lines[:100])
    if read:
        return passed(f"{', '.join(read)}: as the values show", unread=unread)
    if unread:
        return inconclusive(more(unread), unread=unread)
    return skipped("the folder brings no keep map along")


def _experts(keep: KeepMap, data: Any, removed: bool) -> Iterator[str]:
    claims = _by_layer(data)
    layers = keep.structure.roles.layers
    numbers = {n: _layer_number(layer.container, n) for n, layer in enumerate(layers)}
    by_number = set(claims) <= set(numbers.values())
    for index, experts in keep.experts.items():
        claimed = claims.get(numbers[index] if by_number else index)
        if claimed is None:
            continue
        everything = set(range(len(layers[index].experts)))
        expected = everything - set(claimed) if removed else set(claimed)
        if (experts < 0).any() or expected == set(experts.tolist()):
            continue
        wrong = sorted(expected ^ set(experts.tolist()))
        claim, kept = sorted(expected), sorted(experts.tolist())
        yield f"{layers[index].name}: claims to keep {claim}, its values are of {kept}; expert {wrong[0]} differs"


def _by_layer(data: Any) -> dict[int, list[int]]:
    """Experts by layer: ``{"0": [1, 2]}``, ``[[1, 2], ...]``, or one of these under a single key."""
    if isinstance(data, Mapping) and not all(re.search(r"\d+$", str(key)) for key in data):
        inner = [value for value in data.values() if isinstance(value, Mapping | list)]
        if len(inner) != 1:
            raise ValueError("no experts by layer")
        data = inner[0]
    items = data.items() if isinstance(data, Mapping) else enumerate(data)
    result = {}
    for key, experts in items:
        if not isinstance(experts, list) or not all(isinstance(e, int) for e in experts):
            raise ValueError("no lists of experts")
        number = re.search(r"\d+$", str(key))
        if number is None:
            raise ValueError(f"no layer number in {str(key)[:40]!r}")
        result[int(number.group())] = experts
    return result


def _layer_number(container: str, default: int) -> int:
    return int(next((part for part in container.split(".") if part.isdigit()), default))


def _plan(keep: KeepMap, data: Mapping[str, Any]) -> Iterator[str]:
    longest = max((size for shape in keep.base.values() for size in shape), default=0)
    sets = [from_text(runs, longest) for runs in data["sets"]]
    for item in data["keep"]:
        name, dim, chosen = item["parameter"], item["dim"], item["set"]
        if name not in keep.base:
            yield f"names {name}, which the base does not have"
            continue
        try:
            for part, number in enumerate(chosen if isinstance(chosen, list) else [chosen]):
                positions = keep.positions(name, dim, part if isinstance(chosen, list) else None)
                positions = np.arange(keep.base[name][dim]) if positions is None else np.sort(positions)
                if not np.array_equal(positions, sets[number]):
                    yield f"{name}, dimension {dim}: its values are of other positions"
                    break
        except Unknown:
            continue


def claims(folder: Path) -> list[str]:
    """Names of the files of a folder that claim a keep map."""
    return [name for name in (*KEPT, *REMOVED, *PLAN) if (folder / name).is_file()]
