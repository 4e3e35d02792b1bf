"""Tensors of a router with one entry or row for each expert."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from moeverify.coupling.couplings import CouplingMap
from moeverify.models.moe_layer import parent
from moeverify.models.roles import FoundRoles, MoELayer

Tensors = Mapping[str, torch.Tensor]
# Dimensions by tensor and number, such as those that a trace couples as channels.
Axes = Collection[tuple[str, int]]
# Layers whose outputs are the first dimension of their weight.
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def router_tensors(model: nn.Module, layer: MoELayer) -> dict[str, torch.Tensor]:
    """Tensors that hold one entry or row for each expert: router weights, biases, correction biases.

    A router that several layers share is one of each.
    """
    named = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    tensors = {name: tensor for several in named for name, tensor in several}
    return {name: tensors[name] for name in router_axes(model, layer) if name in tensors}


def router_axes(model: nn.Module, layer: MoELayer) -> Mapping[str, int]:
    """The dimension that counts experts in each router tensor, by the layer's roles, or else by sizes alone."""
    return search_axes(model, layer) if layer.router_axes is None else layer.router_axes


def with_router_axes(model: nn.Module, roles: FoundRoles, couplings: CouplingMap | None) -> FoundRoles:
    """Roles whose layers hold the axes of their router tensors, found by a trace where sizes are ambiguous."""
    classes = () if couplings is None else couplings.classes
    channels = {(m.parameter, m.dim) for c in classes for m in c.members if not m.buffer}
    layers = (replace(x, router_axes=search_axes(model, x, channels)) for x in roles.layers)
    return replace(roles, layers=tuple(layers))


def search_axes(model: nn.Module, layer: MoELayer, channels: Axes = ()) -> dict[str, int]:
    """Expert dimensions of the tensors around a router, found by their size.

    ``channels``: dimensions that count something else. A correction bias may sit on the MoE block instead of the
    router. A router with several layers decides by its last one. An earlier layer may by chance have as many inputs or
    outputs as there are experts. A router may also choose from classes that have no weights (an expert that does
    nothing): their entries follow the experts'.
    """
    fits = _Fits(model, len(layer.experts), frozenset(channels))
    block = model.get_submodule(layer.name)
    own = dict(_own(block, layer.name))
    result = {n: 0 for n, t in own.items() if n not in layer.stacks and t.dim() and fits.axis(n, t) == 0}
    for name in layer.router_parameters:
        if name in own:
            result[name] = fits.axis(name, own[name]) or 0
    for router in layer.routers:
        module = model.get_submodule(router)
        if isinstance(module, nn.Linear) and module.out_features < fits.count:
            continue  # it scores no experts: the gate of a shared one, which may read as many channels
        parts = [dict(_own(part, path)) for path, part in module.named_modules(prefix=router)]
        result |= _of_router(fits, parts)
    for path in _beside(block, layer):
        result |= fits.companions(dict(_own(model.get_submodule(path), path)))
    return result


class _Fits:
    """Dimensions of a tensor whose size fits the number of experts of a layer."""

    def __init__(self, model: nn.Module, count: int, channels: frozenset[tuple[str, int]]) -> None:
        self.count = count
        self._channels = channels
        self._linear = {f"{path}.weight" for path, m in model.named_modules() if isinstance(m, LINEAR)}

    def axis(self, name: str, tensor: torch.Tensor, size: int | None = None) -> int | None:
        """First dimension whose size is ``size`` (the number of experts) and that holds no channels; of linear layers
        and convolutions the outputs.
        """
        table = tensor.dim() > 1 and not tensor.is_floating_point()  # of ids: whatever its sizes
        dims = range(1 if name in self._linear else 0 if table else tensor.dim())
        wanted = self.count if size is None else size
        return next((d for d in dims if tensor.shape[d] == wanted and (name, d) not in self._channels), None)

    def maps(self, name: str) -> bool:
        """Whether a tensor is the weight of a linear layer or convolution."""
        return name in self._linear

    def axes(self, tensors: Tensors, size: int | None = None) -> dict[str, int]:
        """``axis`` of every tensor that has one."""
        result = {name: self.axis(name, tensor, size) for name, tensor in tensors.items()}
        return {name: dim for name, dim in result.items() if dim is not None}

    def companions(self, part: Tensors) -> dict[str, int]:
        """The tensors of a module that holds nothing but companions: a correction bias in a module of its own."""
        alone = bool(part) and all(is_companion(tensor, self.count) for tensor in part.values())
        return self.axes(part) if alone else {}


def _of_router(fits: _Fits, parts: list[dict[str, torch.Tensor]]) -> dict[str, int]:
    """The axes of one router; ``parts`` are the tensors of its modules, its own first."""
    root, *inner = parts
    axes = fits.axes({name: tensor for name, tensor in root.items() if is_companion(tensor, fits.count)})
    for part in (root, *reversed(inner)):
        matrices = fits.axes({name: tensor for name, tensor in part.items() if is_matrix(tensor) or fits.maps(name)})
        if matrices:
            rows = 0 in matrices.values()
            axes |= {name: dim for name, dim in fits.axes(part).items() if dim == 0 or not rows}
            shapes = {tuple(part[name].shape) for name in matrices if part[name].shape[0] != part[name].shape[1]}
            for other in inner:  # beside the last one, as a layer for the noise is: none feeds another of its shape
                maps = [tuple(tensor.shape) for tensor in other.values() if is_map(tensor)]
                if maps and shapes.issuperset(maps):
                    axes |= {name: dim for name, dim in fits.axes(other).items() if dim == 0 or not rows}
            break
    else:
        axes |= _with_spare_classes(fits, root, inner)
    for part in inner:
        axes |= fits.companions(part)
    return axes


def _with_spare_classes(
    fits: _Fits, root: dict[str, torch.Tensor], inner: list[dict[str, torch.Tensor]]
) -> dict[str, int]:
    """The same for a router with more classes than there are experts, up to twice as many."""
    for part in (root, *reversed(inner)):
        for name, matrix in part.items():
            rows = matrix.shape[0] if matrix.dim() == 2 else 0
            if 1 < fits.count < rows <= 2 * fits.count and fits.axis(name, matrix, rows) == 0:
                return {n: d for n, d in fits.axes(root | part, rows).items() if d == 0}
        if any(t.dim() == 2 for t in part.values()):
            break
    return {}


def is_companion(tensor: torch.Tensor, count: int) -> bool:
    """Whether a tensor holds one number for each of ``count`` experts, as ``[E]``, ``[1, E]`` or ``[E, 1]``."""
    return tensor.dim() > 0 and tensor.numel() == count > 1 and count in tensor.shape


def is_matrix(tensor: torch.Tensor) -> bool:
    """Whether a tensor maps hidden channels to experts: two dimensions, neither of size one."""
    return tensor.dim() == 2 and min(tensor.shape) > 1


def is_map(tensor: torch.Tensor) -> bool:
    """Whether a tensor has two dimensions or more that are no single position, as slots ``[E, slots, in]`` do."""
    return sum(size > 1 for size in tensor.shape) > 1


def _beside(block: nn.Module, layer: MoELayer) -> Iterator[str]:
    """Leaf modules of the block that are neither experts nor routers.

    Exceptions: norms of as many channels, and linear layers such as the gate of a shared expert.
    """
    taken = (layer.container, *layer.holders, *layer.routers, *layer.shared_experts)
    for path, module in block.named_modules(prefix=layer.name):
        inside = any(path == name or path.startswith(name + ".") for name in taken if name != layer.name)
        is_leaf = path != layer.name and not any(True for _ in module.children())
        other = isinstance(module, nn.Linear) or "norm" in type(module).__name__.lower()
        if is_leaf and not inside and not other:
            yield path


def _own(module: nn.Module, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    prefix = f"{path}." if path else ""
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield prefix + name, tensor


def spare_classes(model: nn.Module, layer: MoELayer) -> dict[str, int]:
    """Number of entries of a router tensor that stand for no expert: classes without weights, after the experts'."""
    axes = router_axes(model, layer)
    tensors = router_tensors(model, layer).items()
    return {n: t.shape[axes[n]] - len(layer.experts) for n, t in tensors if axes[n] < t.dim()}


def experts_apart(model: nn.Module, layer: MoELayer) -> list[tuple[str, ...]]:
    """Paths of each expert of lists that a layer has in ``model``, in order; none where a list is gone."""
    try:
        lists = {path: model.get_submodule(path) for paths in layer.parts[:1] for path in map(parent, paths)}
    except AttributeError:
        return []
    entries = ((path, (*held._modules.items(), *held._parameters.items())) for path, held in lists.items())
    there = {f"{path}.{name}" for path, held in entries for name, entry in held if entry is not None}
    return [paths for paths in layer.parts if set(paths) <= there]


def experts_now(model: nn.Module, layer: MoELayer) -> int:
    """Number of routed experts of a layer in ``model``, in lists or fused."""
    if layer.parts:
        return len(experts_apart(model, layer))
    if layer.layout == "rows":
        return _router_rows(model, layer)  # the experts' own rows tell no number
    stacks = (tensor_of(model, name) for name in layer.stacks)
    # A stack may hold rows for classes that have no other weights, too.
    return min((stack.shape[0] for stack in stacks if stack is not None), default=len(layer.experts))


def _router_rows(model: nn.Module, layer: MoELayer) -> int:
    """Outputs of the last linear layer of a router, if they can be experts."""
    for router in layer.routers:
        linears = [m for m in model.get_submodule(router).modules() if isinstance(m, nn.Linear)]
        if linears and 0 < len(linears[-1].weight) < len(layer.experts):
            return len(linears[-1].weight)
    return len(layer.experts)


def tensor_of(model: nn.Module, name: str) -> torch.Tensor | None:
    """The parameter or buffer of this name; ``None`` where it, or the module that held it, is gone."""
    owner, _, leaf = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(owner), leaf, None)
    except AttributeError:
        return None
    return found if isinstance(found, torch.Tensor) else None
