"""The keep map as a plan document: ``moeverify apply-plan`` makes the pruned folder from the base with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moeverify.base.entries import EntryPath
from moeverify.base.files import write_text
from moeverify.base.positions import to_text
from moeverify.base.versions import versions
from moeverify.certification.classify import Headline, is_permuted
from moeverify.certification.evidence import Evidence
from moeverify.certification.layer_entries import Entries, split_entries
from moeverify.certification.matching.compare import is_table
from moeverify.certification.matching.keys import as_bits
from moeverify.certification.matching.lists import lengths
from moeverify.certification.matching.maps import KeepMap, Unknown
from moeverify.certification.relations.entries import differing
from moeverify.certification.relations.values import classes_of
from moeverify.errors import PlanError
from moeverify.models.folder.checkpoint import Checkpoint
from moeverify.models.module_lists import ListCut

SCHEMA_VERSION = "1.1"
# Of a selection in part, the plan's own steps say what no plan gives.
_SELECTIONS = (Headline.SELECTION, Headline.PERMUTED, Headline.CAST, Headline.PARTIAL)
_CHUNK = 1 << 26


def write_plan(evidence: Evidence, path: Path) -> Path:
    """Write the keep map as a plan. Raises ``PlanError`` where no plan gives the folder."""
    return write_text(path, json.dumps(plan_document(evidence), indent=1) + "\n")


def plan_document(evidence: Evidence) -> dict[str, Any]:
    """The plan as data. Raises ``PlanError`` for a folder that is no selection, or lost nothing."""
    headline, keep = classes_of(evidence).headline, evidence.keep
    if headline not in _SELECTIONS:
        raise PlanError(f"{headline.value}: no plan makes this folder from the base; --json - has what was found")
    if keep.tokens is not None or keep.loose:
        what = "the vocabulary changed" if keep.tokens is not None else f"no class explains {keep.loose[0]}"
        raise PlanError(f"{what}: no plan makes this folder from the base; --json - has what was found")
    lists = _lists(keep)
    kept = dict(_kept(keep))
    if not kept and not lists:
        raise PlanError("nothing was removed, so that there is nothing to plan")
    config = _config(evidence, lists)
    sets: dict[str, int] = {}

    def number(positions: np.ndarray) -> int:
        return sets.setdefault(to_text(positions), len(sets))

    entries = [
        {
            "parameter": name,
            "dim": dim,
            "size": keep.base[name][dim],
            "set": number(rows) if rows.ndim == 1 else [number(row) for row in rows],
        }
        for (name, dim), rows in kept.items()
    ]
    document = {
        "schema_version": SCHEMA_VERSION,
        "versions": dict(versions()),
        "base": _base(evidence.base, evidence.base_inventory.config),
        "cuts": list(_cuts(keep)),
        "sets": list(sets),
        "keep": entries,
        "config": _entries(config.sizes),
        "folds": [],
        "experts": list(_experts(evidence)),
        "adjustments": list(_remarks(evidence)),
    }
    if lists:
        cuts = [{"container": cut.container, "before": cut.before, "kept": to_text(cut.kept)} for cut in lists]
        document["layers"] = {"lists": cuts, "config": _entries(config.layers)}
    return document


def _lists(keep: KeepMap) -> list[ListCut]:
    """Lists of layers that lost some. Raises ``PlanError`` where they stand in another order, or are not the base's."""
    containers = {layer.container for layer in keep.structure.roles.layers}
    before, found = lengths(keep.base), []
    for path, numbers in keep.lists.items():
        if path in containers:
            continue
        if (numbers < 0).any():
            raise PlanError(
                f"{path}.{int(np.argmin(numbers))}, as its configuration builds it, is none of the base's: see layout; "
                "a type whose configuration cannot say these layers cannot lose the others"
            )
        if (np.diff(numbers) <= 0).any():
            raise PlanError(
                f"the entries of {path} are {numbers.tolist()} of the base, no plan repeats or moves layers; "
                "--json - has the keep map"
            )
        found.append(ListCut.of_numbers(path, before[path], numbers))
    return found


def _kept(keep: KeepMap) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
    """Kept positions, ascending, of every dimension that lost some; those inside of stacks before whole experts."""
    axes = [key for key in keep.structure.axes if key[0] in keep.base]
    inner = [key for key in keep.structure.slots if key not in axes and key[0] in keep.base]
    for name, dim in (*inner, *axes):
        if keep.to_pruned(name) is None:
            continue  # it went with its layer or expert
        try:
            if keep.shape(name)[dim] == keep.base[name][dim]:
                continue
            rows = _rows(keep, name, dim)
        except Unknown as error:
            raise PlanError(f"positions of {name}, dimension {dim}, are not known: {error}") from error
        if (rows < 0).any():
            raise PlanError(f"positions of {name}, dimension {dim}, are not all of the base")
        yield (name, dim), rows


def _rows(keep: KeepMap, name: str, dim: int) -> np.ndarray:
    axis = keep.structure.axes.get((name, 0))
    slots = keep.structure.slots.get((name, dim), ())
    each = any(keep.units[s.number].ndim == 2 for s in slots if s.number in keep.units)
    if axis is None or dim == 0 or not each:
        positions = keep.positions(name, dim)
        return np.sort(np.arange(keep.base[name][dim]) if positions is None else positions)
    experts = [*keep.experts[axis.layer], *range(axis.count, keep.base[name][0])]
    rows = np.tile(_first_units(keep, name, dim), (keep.base[name][0], 1))
    for after, before in enumerate(experts):
        positions = keep.positions(name, dim, after)
        rows[int(before)] = np.sort(np.arange(keep.base[name][dim]) if positions is None else positions)
    return rows


def _first_units(keep: KeepMap, name: str, dim: int) -> np.ndarray:
    """Positions of the first units of each class, as many as were kept, for whole units.

    Removed experts keep them in the plan, since every expert must have the same size.
    """
    held = np.ones(keep.base[name][dim], dtype=bool)
    for slot in keep.structure.slots.get((name, dim), ()):
        held[slot.positions[keep.count(slot.number) :].ravel()] = False
    return np.flatnonzero(held)


def _cuts(keep: KeepMap) -> Iterator[dict[str, Any]]:
    for cut in _lists(keep):
        yield {"role": "layers", "where": cut.container, "before": cut.before, "after": len(cut.kept)}
    for number, experts in keep.experts.items():
        layer = keep.structure.roles.layers[number]
        if len(experts) < len(layer.experts):
            yield {"role": "experts", "where": layer.name, "before": len(layer.experts), "after": len(experts)}
    for number, units in keep.units.items():
        item = keep.structure.classes[number]
        if units.shape[-1] < item.coupling.size:
            yield {
                "role": item.role,
                "where": item.where,
                "before": item.coupling.size,
                "after": int(units.shape[-1]),
            }


def _experts(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Experts that stay of each layer that lost some, with their modules and the tables that name them by number."""
    keep = evidence.keep
    for number, experts in keep.experts.items():
        layer = keep.structure.roles.layers[number]
        if len(experts) == len(layer.experts):
            continue
        listed = layer.experts if layer.layout == "listed" else ()
        tables = [name for name in evidence.base.naming.tensors if is_table(name, layer, evidence.base)]
        replaced = _replaced(evidence, tables, experts)
        yield {
            "layer": layer.name,
            "container": layer.container,
            "before": len(layer.experts),
            "kept": to_text(np.sort(experts)),
            "children": [name.removeprefix(layer.container + ".") for name in listed],
            "tables": tables,
            "attributes": [],
            **({"replaced": replaced} if replaced else {}),
        }


def _replaced(evidence: Evidence, tables: Sequence[str], experts: np.ndarray) -> list[list[int]]:
    """For each removed expert the kept one that the tables name in its place; empty unless its number alone decides."""
    found: dict[int, int] = {}
    for name in tables:
        before, after = evidence.base.read(name).long(), evidence.pruned.read(str(evidence.keep.to_pruned(name))).long()
        if before.shape != after.shape:
            return []
        now = torch.as_tensor(experts)[after]
        for removed in sorted(set(before.unique().tolist()) - set(experts.tolist())):
            chosen = now[before == removed].unique().tolist()
            if len(chosen) != 1 or found.setdefault(removed, chosen[0]) != chosen[0]:
                return []
    return [[removed, expert] for removed, expert in sorted(found.items())]


def _config(evidence: Evidence, lists: Sequence[ListCut]) -> Entries:
    before, after = evidence.base.skeleton.config.to_dict(), evidence.pruned.skeleton.config.to_dict()
    return split_entries(evidence.base.skeleton, list(differing(before, after)), lists)


def _entries(entries: Mapping[EntryPath, Any]) -> list[dict[str, Any]]:
    return [{"path": list(path), "value": value} for path, value in entries.items()]


def _remarks(evidence: Evidence) -> Iterator[str]:
    if is_permuted(evidence.keep):
        yield "the folder stands in another order than the base; this plan keeps the base's order"
    elif classes_of(evidence).reordered:
        yield "channels stand in another order inside of heads; this plan keeps the base's order"
    if evidence.base.skeleton.tied.keys() != evidence.pruned.skeleton.tied.keys():
        yield "other weights are tied than in the base; this plan ties those of the base"


def _base(base: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of the base's weights: a digest over names, types, shapes and values."""
    dtype = next((t for t in (config.get("dtype"), config.get("torch_dtype")) if t), "float32")
    tensors = {id(p): p for p in base.skeleton.model.parameters()}
    return {
        "digest": _digest(base),
        "model_type": str(config.get("model_type", "")),
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in tensors.values()),
    }


def _digest(base: Checkpoint) -> str:
    total = hashlib.sha256()
    for name in sorted(base.skeleton.shapes):
        stored = name if name in base.naming.tensors else _twin(base, name)
        assembly = base.naming.tensors[stored]
        total.update(f"{name} {assembly.dtype} {assembly.shape}\n".encode())
        parts = range(assembly.shape[0]) if assembly.sliced else [None]
        for part in parts:
            flat = as_bits(base.read(stored, part).contiguous()).reshape(-1).view(torch.uint8)
            for start in range(0, len(flat), _CHUNK):
                total.update(flat[start : start + _CHUNK].numpy().data)
        base.reader.note_read(assembly.nbytes)
    return f"sha256:{total.hexdigest()}"


def _twin(base: Checkpoint, name: str) -> str:
    """The stored name of a tied tensor."""
    tied = base.skeleton.tied
    family = [n for n in (tied.get(name), *(a for a, b in tied.items() if b in (name, tied.get(name)))) if n]
    for other in family:
        if other in base.naming.tensors:
            return other
    raise PlanError(f"the base has no tensor {name}")
