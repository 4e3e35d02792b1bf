"""A model's modules by path, with what lies in and around each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

LISTS = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, eq=False)
class ModelTree:
    """``modules`` by their first path, ``children`` by the path around them, ``parents`` by the id of a module.

    ``first_names`` are the parameters' names, each parameter once.
    """

    modules: Mapping[str, nn.Module]
    children: Mapping[str, tuple[str, ...]]
    parents: Mapping[int, tuple[str, ...]]
    first_names: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module) -> ModelTree:
        """The tree of a model."""
        modules = dict(model.named_modules())
        children: dict[str, list[str]] = {}
        parents: dict[int, list[str]] = {}
        names: dict[int, str] = {}
        for path, module in modules.items():
            if path:
                children.setdefault(path.rpartition(".")[0], []).append(path)
            for child in module._modules.values():
                parents.setdefault(id(child), []).append(path)
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    names.setdefault(id(parameter), join(path, name))
        return cls(
            modules,
            {path: tuple(inner) for path, inner in children.items()},
            {key: tuple(paths) for key, paths in parents.items()},
            frozenset(names.values()),
        )

    def inside(self, path: str) -> Iterator[str]:
        """A path and all below it, in the order of the modules."""
        yield path
        for child in self.children.get(path, ()):
            yield from self.inside(child)

    def own(self, path: str) -> dict[str, torch.Tensor]:
        """The parameters of a module itself."""
        return {join(path, name): p for name, p in self.modules[path]._parameters.items() if p is not None}

    def shapes(self, path: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes of all parameters in a module."""
        return tuple((name, tuple(p.shape)) for name, p in self.modules[path].named_parameters())

    def of_torch(self, path: str) -> bool:
        """Whether a module is one of PyTorch's layers, other than a container of parameters."""
        module = self.modules[path]
        holder = isinstance(module, nn.ParameterDict | nn.ParameterList)
        return type(module).__module__.startswith("torch.") and type(module) is not nn.Module and not holder


def join(path: str, name: str) -> str:
    """A name in the module of a path."""
    return f"{path}.{name}" if path else name
