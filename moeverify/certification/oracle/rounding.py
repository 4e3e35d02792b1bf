"""The base rounded as the pruned folder was: a cast folder is proved against values of its own precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import torch
from torch import nn

from moeverify.certification.evidence import Evidence, NotVisible
from moeverify.certification.matching.compare import Relation
from moeverify.certification.oracle.stream import Stream

_LOST = (Relation.CAST, Relation.MIXED, Relation.ROUNDED)


def roundings(evidence: Evidence) -> dict[str, torch.dtype]:
    """Types that tensors of the base were rounded to, by name. Raises ``NotVisible`` for a tensor of which only a part
    is rounded.
    """
    types: dict[str, set[torch.dtype | None]] = defaultdict(set)
    before = {name: stored.dtype for name, stored in evidence.base.naming.tensors.items()}
    for item in evidence.compared:
        dtype = item.evidence.get("dtype") if item.relation in _LOST else None
        loses = dtype is not None and torch.promote_types(dtype, before.get(item.base_name, dtype)) != dtype
        types[item.base_name].add(dtype if loses or item.relation is Relation.ROUNDED else None)
    partly = [item.base_name for item in evidence.compared if item.evidence.get("partly")]
    if partly := [*partly, *(name for name, dtypes in types.items() if len(dtypes) > 1)]:
        raise NotVisible(f"{partly[0]} was rounded in part, so that there is no reference; store it in one type")
    return {name: dtype for name, dtypes in types.items() for dtype in dtypes if dtype is not None}


@torch.no_grad()
def round_alike(
    model: nn.Module, types: Mapping[str, torch.dtype], apart: Collection[str] = (), stream: Stream | None = None
) -> None:
    """Round tensors of a float64 model in place; those ``apart`` are rounded as ``stream`` reads them."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, dtype in types.items():
        tensor = tensors.get(name)
        if tensor is None:
            continue
        if name in apart and stream is not None:
            stream.round(tensor, dtype)
        else:
            tensor.copy_(tensor.to(dtype))
