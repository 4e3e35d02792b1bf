"""Dimensions that were to stay because the user named their layer or parameter, found without the pruner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

# Of these layers the dimension that counts outputs, for each tensor; of any other every dimension is to stay.
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def ignored_tensors(model: nn.Module, paths: Iterable[str]) -> set[str]:
    """Names of the parameters and buffers that lie in the layers ``paths`` or are named there, under every name."""
    wanted = tuple(paths)
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    owners = {id(module) for path in wanted if path in modules for module in modules[path].modules()}
    tensors = {id(tensor) for name, tensor in named if name in wanted}
    return {name for name, tensor in named if id(modules[name.rpartition(".")[0]]) in owners or id(tensor) in tensors}


def dimensions_that_stay(model: nn.Module, paths: Iterable[str]) -> frozenset[tuple[str, int]]:
    """Output dimensions of the layers ``paths`` and of layers inside them; all dimensions of parameters in ``paths``.

    Of modules that are no layers of torch every parameter stays whole. A tied parameter has its first name.
    """
    wanted = frozenset(paths)
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, parameter in parameters.items():
        first.setdefault(id(parameter), name)
    whole = {id(parameters[path]) for path in wanted if path in parameters}
    result = set()
    for name in ignored_tensors(model, wanted) & parameters.keys():
        path, _, leaf = name.rpartition(".")
        parameter = parameters[name]
        dims = range(parameter.dim()) if id(parameter) in whole else _outputs(modules[path], leaf, parameter.dim())
        result |= {(first[id(parameter)], dim) for dim in dims}
    return frozenset(result)


def _outputs(layer: nn.Module, leaf: str, dims: int) -> Iterator[int]:
    """Dimensions of a layer's parameter that count outputs; all of them where the layer is none of torch's."""
    if leaf == "weight" and isinstance(layer, nn.Linear):
        yield 0
    elif leaf == "weight" and isinstance(layer, nn.modules.conv._ConvNd):
        yield 1 if layer.transposed else 0
    elif leaf == "weight" and isinstance(layer, _EMBEDDINGS):
        yield 1
    else:
        yield from range(dims)
