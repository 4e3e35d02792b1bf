"""Which tensors of a router hold one entry or row for each expert."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from moeverify.models.roles import MoELayer


def router_tensors(model: nn.Module, layer: MoELayer) -> dict[str, torch.Tensor]:
    """Tensors that hold one entry or row for each expert: router weights, biases, correction biases.

    A correction bias may sit on the MoE block instead of the router. A router with layers inside decides by its last
    one: an earlier one may have as many outputs, or inputs, as there are experts and mean something else. A router may
    also choose from classes that have no weights (an expert that does nothing): their entries follow the experts'.
    """
    count = len(layer.experts)
    block = model.get_submodule(layer.name)
    own = dict(_own(block, layer.name))
    found = {name: t for name, t in own.items() if t.dim() and t.shape[0] == count and name not in layer.stacks}
    found |= {name: own[name] for name in layer.router_parameters if name in own}
    for router in layer.routers:
        module = model.get_submodule(router)
        if isinstance(module, nn.Linear) and module.out_features < count:
            continue  # it scores no experts: the gate of a shared one, which may read as many channels
        parts = list(module.named_modules(prefix=router))
        root, *inner = [dict(_own(part, path)) for path, part in parts]
        found |= {name: t for name, t in root.items() if is_companion(t, count)}
        for part in (root, *reversed(inner)):
            matrices = [t for t in part.values() if is_matrix(t) and count in t.shape]
            if matrices:
                rows = any(t.shape[0] == count for t in matrices)
                found |= {n: t for n, t in part.items() if t.dim() and count in (t.shape[:1] if rows else t.shape)}
                break
        else:
            found |= _with_spare_classes(count, root, inner)
        for part in inner:
            found |= _companions(part, count)
    for path in _beside(block, layer):
        found |= _companions(dict(_own(model.get_submodule(path), path)), count)
    return found


def is_companion(tensor: torch.Tensor, count: int) -> bool:
    """Whether a tensor holds one number for each of ``count`` experts, as ``[E]``, ``[1, E]`` or ``[E, 1]``."""
    return tensor.dim() > 0 and tensor.numel() == count > 1 and count in tensor.shape


def is_matrix(tensor: torch.Tensor) -> bool:
    """Whether a tensor maps hidden channels to experts: two dimensions, neither of size one."""
    return tensor.dim() == 2 and min(tensor.shape) > 1


def _companions(part: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """The tensors of a module that holds nothing but companions: a correction bias in a module of its own."""
    return part if part and all(is_companion(tensor, count) for tensor in part.values()) else {}


def _beside(block: nn.Module, layer: MoELayer) -> Iterator[str]:
    """Leaf modules of the block that are neither experts nor routers.

    Norms of as many channels are none of them, nor are linear layers, such as the gate of a shared expert.
    """
    taken = (layer.container, *layer.holders, *layer.routers, *layer.shared_experts)
    for path, module in block.named_modules(prefix=layer.name):
        inside = any(path == name or path.startswith(name + ".") for name in taken if name != layer.name)
        is_leaf = path != layer.name and not any(True for _ in module.children())
        other = isinstance(module, nn.Linear) or "norm" in type(module).__name__.lower()
        if is_leaf and not inside and not other:
            yield path


def _with_spare_classes(
    count: int, root: dict[str, torch.Tensor], inner: list[dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """The same for a router that tells more classes than there are experts, up to twice as many."""
    for part in (root, *reversed(inner)):
        for matrix in part.values():
            if matrix.dim() == 2 and 1 < count < matrix.shape[0] <= 2 * count:
                rows = matrix.shape[0]
                return {n: t for n, t in (root | part).items() if t.dim() and t.shape[0] == rows}
        if any(t.dim() == 2 for t in part.values()):
            break
    return {}


def _own(module: nn.Module, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    prefix = f"{path}." if path else ""
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield prefix + name, tensor


def expert_dim(tensor: torch.Tensor, experts: int) -> int:
    """The dimension of a router tensor that counts experts: the first of that size, or rows with more classes."""
    return list(tensor.shape).index(experts) if experts in tensor.shape else 0


def spare_classes(tensor: torch.Tensor, experts: int) -> int:
    """How many entries of a router tensor stand for no expert: classes without weights, after the experts'."""
    return tensor.shape[expert_dim(tensor, experts)] - experts


def experts_listed(model: nn.Module, layer: MoELayer) -> list[str]:
    """Paths of the listed experts that a layer has in ``model``, in order; none where the container is gone."""
    try:
        children = model.get_submodule(layer.container).named_children()
    except AttributeError:
        return []
    return [path for name, _ in children if (path := f"{layer.container}.{name}") in layer.experts]


def experts_now(model: nn.Module, layer: MoELayer) -> int:
    """How many routed experts a layer has in ``model``, be they listed or fused."""
    if layer.layout == "listed":
        return len(experts_listed(model, layer))
    if layer.layout == "rows":
        return _router_rows(model, layer)  # the experts' own rows tell no number
    stacks = (_attribute(model, name) for name in layer.stacks)
    # A stack may hold rows for classes that have no other weights, too.
    return min((stack.shape[0] for stack in stacks if isinstance(stack, torch.Tensor)), default=len(layer.experts))


def _router_rows(model: nn.Module, layer: MoELayer) -> int:
    """Outputs of the last linear layer of a router, if they can be experts."""
    for router in layer.routers:
        linears = [m for m in model.get_submodule(router).modules() if isinstance(m, nn.Linear)]
        if linears and 0 < len(linears[-1].weight) < len(layer.experts):
            return len(linears[-1].weight)
    return len(layer.experts)


def _attribute(model: nn.Module, name: str) -> object:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf, None)
