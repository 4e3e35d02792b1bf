"""Parameters and bytes of a model by role; weights are not needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from moeverify.coupling.classify import embedding_weights, is_attention
from moeverify.models.roles import FoundRoles

PARTS = ("routed_experts", "shared_experts", "routers", "attention", "dense_mlp", "embeddings", "other")
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """A number of parameters, and the bytes that they take."""

    parameters: int = 0
    bytes: int = 0

    @property
    def gib(self) -> float:
        """Bytes in GiB."""
        return self.bytes / GIB

    def __add__(self, other: Size) -> Size:
        return Size(self.parameters + other.parameters, self.bytes + other.bytes)


def sizes_by_role(model: nn.Module, roles: FoundRoles) -> dict[str, Size]:
    """The sizes of all that a checkpoint holds, tied tensors once; parts that a model has not are left out."""
    embeddings = embedding_weights(model)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if isinstance(head, nn.Module):
        embeddings |= {f"{name}.weight" for name, module in model.named_modules() if module is head}
    result = dict.fromkeys(PARTS, Size())
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor) or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        result[_part(name, roles, embeddings)] += Size(tensor.numel(), tensor.numel() * tensor.element_size())
    return {part: size for part, size in result.items() if size.parameters}


def _part(name: str, roles: FoundRoles, embeddings: set[str]) -> str:
    if roles.boundary(name) is not None:
        return "routed_experts"
    if roles.shared(name) is not None:
        return "shared_experts"
    if any(name.startswith(f"{router}.") for router in roles.routers):
        return "routers"
    if name in embeddings:
        return "embeddings"
    if is_attention(name):
        return "attention"
    return "dense_mlp" if any(word in name for word in ("mlp", "ffn", "feed_forward")) else "other"


def largest_layer(model: nn.Module) -> Size:
    """The largest element of the model's outermost lists of layers; the whole model if it has no such list."""
    result = [
        sum((Size(p.numel(), p.numel() * p.element_size()) for p in layer.parameters()), Size())
        for layers in _outermost_lists(model)
        for layer in layers
    ]
    whole = sum((Size(p.numel(), p.numel() * p.element_size()) for p in model.parameters()), Size())
    return max(result, key=lambda size: size.parameters, default=whole)


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    lists = []
    for child in module.children():
        lists += [child] if isinstance(child, nn.ModuleList) else _outermost_lists(child)
    return lists
