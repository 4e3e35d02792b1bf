"""Layers and parameters that a user names by path, to be left alone."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from moeverify.errors import UsageError


def named_parts(model: nn.Module, paths: Iterable[str]) -> list[nn.Module | nn.Parameter]:
    """The layers and parameters of these paths. Raises ``UsageError`` for a path that the model has not."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    parts: list[nn.Module | nn.Parameter] = []
    for path in paths:
        if not path or (path not in modules and path not in parameters):
            raise UsageError(f"the model has no layer or parameter {path!r} to ignore; {_remedy(path, modules)}")
        parts.append(modules[path] if path in modules else parameters[path])
    return parts


def _remedy(path: str, modules: Iterable[str]) -> str:
    """The layers where the path leaves the model."""
    known, inside = list(modules), path
    while inside not in known:
        inside = inside.rpartition(".")[0]
    beside = [name for name in known if name and name.rpartition(".")[0] == inside][:3]
    return f"give a path such as {', '.join(beside)}, or leave it out" if beside else f"{inside} holds no layers"
