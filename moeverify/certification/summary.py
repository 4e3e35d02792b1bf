"""Facts about a pair of folders for the report: what stayed, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeverify.certification.evidence import Evidence
from moeverify.certification.matching.maps import KeepMap
from moeverify.models.folder.inventory import Inventory


def case_facts(evidence: Evidence, headline: str) -> dict[str, Any]:
    """Plain JSON data: class, sizes, what stayed of layers, experts and channels."""
    base, pruned = evidence.base_inventory, evidence.inventory
    facts: dict[str, Any] = {
        "class": headline,
        "model_type": base.model_type,
        "bytes_before": base.nbytes,
        "bytes_after": pruned.nbytes,
        "parameters_before": parameters(base),
        "parameters_after": parameters(pruned),
    }
    try:
        facts["kept"] = kept(evidence.keep)
    except Exception as error:  # the relations have said why
        facts["notes"] = [" ".join(str(error).split())[:300]]
    return facts


def parameters(inventory: Inventory) -> int:
    """Number of values in the files."""
    return sum(int(np.prod(tensor.shape, dtype=object)) for tensor in inventory.tensors.values())


def kept(keep: KeepMap) -> dict[str, Any]:
    """Kept parts of the base: entries of lists, experts of each MoE layer, units of each class."""
    layers = keep.structure.roles.layers
    experts = [
        {"layer": layers[n].name, "before": len(layers[n].experts), "kept": rows.tolist()}
        for n, rows in sorted(keep.experts.items())
    ]
    units = []
    for number, rows in sorted(keep.units.items()):
        item = keep.structure.classes[number]
        changed = rows.shape[-1] != item.coupling.size or bool((np.diff(np.atleast_2d(rows), axis=1) < 0).any())
        units.append(
            {
                "role": item.role,
                "where": item.where,
                "before": item.coupling.size,
                "after": int(rows.shape[-1]),
                **({"kept": rows.tolist()} if changed and rows.size <= 1 << 16 else {}),
            }
        )
    containers = {layer.container for layer in layers}
    lists = {path: rows.tolist() for path, rows in keep.lists.items() if path not in containers}
    return {"lists": lists, "experts": experts, "units": units}
