"""Expert axes in a model without configuration: the stacks themselves, the router, and sizes beside them.

Nothing can be rebuilt here, so the place of a dimension shows that it counts experts. Such places are the stacks, the
last layer of a router, and vectors of that length on the router or the MoE block. If another dimension of the block has
the same size, an ambiguous one is refused.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.models.roles import FoundRoles, MoELayer
from moeverify.pruning.experts.axes import TOP_K, CountedLayer, ExpertAxis, id_tables, listed_children

_COUNT_ATTRIBUTE = re.compile(r"expert", re.IGNORECASE)
# Layers whose outputs are the first dimension of their weight: a router of images may be a convolution.
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_OTHER_ATTRIBUTE = re.compile(r"per_tok|top_?k|shared|dim|hidden|size|group|capacity", re.IGNORECASE)


def by_roles(model: nn.Module, roles: FoundRoles) -> tuple[CountedLayer, ...]:
    """Every MoE layer of ``model`` with the axes, tables and sizes that count its experts.

    Raises ``PruningRefused`` for a layer without a router that has one output for each expert.
    """
    return tuple(_counted(model, layer) for layer in roles.layers)


def _counted(model: nn.Module, layer: MoELayer) -> CountedLayer:
    count = len(layer.experts)
    if layer.layout == "parallel":
        raise PruningRefused(
            f"the experts of {layer.container} lie in several lists, which are not shortened together; hold each "
            "expert in one module of a list, or leave whole experts out (ratios without `experts`)"
        )
    router = [axis for path in layer.routers for axis in _router_axes(model, path, count)]
    router += [_parameter_axis(model, name, count) for name in layer.router_parameters]
    if not router:
        raise PruningRefused(
            f"no router of {layer.name or layer.container} has one output for each of its {count} experts; name it "
            "with Roles(routers=...), or leave whole experts out (ratios without `experts`)"
        )
    axes = {(a.parameter, a.dim): a for a in (*_stacks(model, layer), *router, *_beside(model, layer))}
    tables = id_tables(model, layer, axes.values())
    return CountedLayer(
        layer, tuple(axes.values()), listed_children(layer), tables, attributes=_sizes(model, layer, axes)
    )


def _stacks(model: nn.Module, layer: MoELayer) -> list[ExpertAxis]:
    count = len(layer.experts)
    result = []
    for name in layer.stacks:
        size = model.get_parameter(name).shape[layer.axis(name)]
        result.append(ExpertAxis(name, layer.axis(name), size, size // count if layer.layout == "rows" else 1))
    return result


def _tensors(module: nn.Module, path: str) -> dict[str, torch.Tensor]:
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return {f"{path}.{name}" if path else name: tensor for name, tensor in own}


def _router_axes(model: nn.Module, path: str, count: int) -> list[ExpertAxis]:
    """Outputs of the last layer of a router, and vectors of the router itself that are as long.

    A router may know more classes than there are experts (up to twice as many): classes without weights.
    """
    modules = dict(model.get_submodule(path).named_modules(prefix=path))
    root, *inner = [_tensors(module, name) for name, module in modules.items()]
    for part in (root, *reversed(inner)):
        linear = {n for n, t in part.items() if t.dim() > 1 and isinstance(modules[n.rpartition(".")[0]], _LINEAR)}
        matrices = {n: t for n, t in part.items() if t.dim() == 2 or n in linear}
        if not matrices:
            continue
        for size in (count, *range(count + 1, 2 * count)):
            fitting = {n: t for n, t in matrices.items() if size in (t.shape[:1] if n in linear else t.shape)}
            if not fitting:
                continue
            if square := [n for n, t in fitting.items() if n not in linear and t.shape[0] == t.shape[1]]:
                raise PruningRefused(
                    f"{square[0]} is square, so which side counts the experts is not known; leave whole experts out "
                    "(ratios without `experts`)"
                )
            dims = {n: 0 if t.shape[0] == size else 1 for n, t in fitting.items()}
            twins = _twins(fitting, inner)
            dims |= {n: dims[next(iter(fitting))] for n, t in twins.items() if n not in dims and t.dim() > 1}
            vectors = {n: t for n, t in {**root, **part, **twins}.items() if t.dim() == 1 and t.shape[0] == size}
            return [*(ExpertAxis(n, d, size) for n, d in dims.items()), *(ExpertAxis(n, 0, size) for n in vectors)]
        return []
    return []


def _twins(fitting: dict[str, torch.Tensor], parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Tensors of the layers of a router that stand beside its last one, such as that of the noise: of one shape, and
    not square, so that none feeds another.
    """
    shapes = {tuple(t.shape) for t in fitting.values() if t.shape[0] != t.shape[1]}
    beside = [
        p for p in parts if (maps := [t for t in p.values() if t.dim() > 1]) and all(t.shape in shapes for t in maps)
    ]
    return {name: tensor for part in beside for name, tensor in part.items()}


def _parameter_axis(model: nn.Module, name: str, count: int) -> ExpertAxis:
    """The dimension of a layer's own parameter that scores experts."""
    shape = list(model.get_parameter(name).shape)
    if shape.count(count) > 1:
        raise PruningRefused(
            f"{name} {shape} has two dimensions that may count experts; leave whole experts out "
            "(ratios without `experts`)"
        )
    return ExpertAxis(name, shape.index(count), count)


def _beside(model: nn.Module, layer: MoELayer) -> list[ExpertAxis]:
    """Own tensors of the MoE block and of its container that begin with one entry for each expert."""
    count = len(layer.experts)
    result = []
    for path in dict.fromkeys((layer.name, layer.container)):
        for name, tensor in _tensors(model.get_submodule(path), path).items():
            if name in layer.stacks or count not in tensor.shape:
                continue
            if tensor.dim() > 1 and list(tensor.shape).count(count) > 1:
                raise PruningRefused(f"{name} {list(tensor.shape)} has two dimensions that may count experts")
            result.append(ExpertAxis(name, list(tensor.shape).index(count), count))
    return result


def _sizes(model: nn.Module, layer: MoELayer, axes: dict[tuple[str, int], ExpertAxis]) -> tuple[tuple[str, str], ...]:
    """Attributes of block, container, routers and of the modules that hold the experts' weights with the count.

    By name, or by value where no other dimension in the block has that size. Exception: inside of one expert by name
    alone.
    """
    count = len(layer.experts)
    block = model.get_submodule(layer.name)
    other = {
        size
        for name, tensor in block.named_parameters(prefix=layer.name)
        for dim, size in enumerate(tensor.shape)
        if (name, dim) not in axes
    }
    result = []
    inner = [name for r in layer.routers for name, _ in model.get_submodule(r).named_modules(prefix=r)]
    for path in dict.fromkeys((layer.name, layer.container, *inner, *layer.holders)):
        module = model.get_submodule(path)
        apart = layer.owner(path) is not None
        if isinstance(module, nn.Linear | nn.Embedding):
            continue  # brought in step with their weights
        for name, value in vars(module).items():
            if type(value) is not int or value != count or name in TOP_K or _OTHER_ATTRIBUTE.search(name):
                continue
            if _COUNT_ATTRIBUTE.search(name) or (count not in other and not apart):
                result.append((path, name))
    return tuple(result)
