"""The type that ``config.json`` states: transformers loads weights in it, whatever they are stored in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from moeverify.certification.evidence import Evidence
from moeverify.certification.mixed_types import type_name
from moeverify.models.folder.inventory import Inventory

_KEYS = ("dtype", "torch_dtype")


def other_type(evidence: Evidence) -> Iterator[str]:
    """The stated type, unless most weights are stored in it or the base states and stores the same."""
    before, after = _types(evidence.base_inventory), _types(evidence.inventory)
    stated, stored = after
    if stated and stored and stated != stored and before != after:
        yield f"config.json states {stated}, in which transformers loads it; most of it is stored as {stored}"


def _types(inventory: Inventory) -> tuple[str, str]:
    """The stated type and the one that most bytes are stored in; empty if there is none."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in inventory.tensors.values():
        if tensor.torch_dtype.is_floating_point:
            sizes[tensor.torch_dtype] += tensor.nbytes
    most = sizes.most_common(1)
    return _stated(inventory.config), type_name(most[0][0]) if most else ""


def _stated(config: Mapping[str, Any]) -> str:
    inner = config.get("text_config")
    parts = [config, inner] if isinstance(inner, Mapping) else [config]
    return next((value for part in parts for key in _KEYS if isinstance(value := part.get(key), str)), "")
