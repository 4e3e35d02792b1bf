"""Weights that only a training forward uses, such as the noise of a router: the modules around them in training mode.

The random numbers of two forwards that start alike are equal where they have one shape, as the scores of experts have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn


@contextlib.contextmanager
def in_training(model: nn.Module, parameters: Iterable[str]) -> Iterator[None]:
    """Context in which the modules that hold these parameters, and those around them, are in training mode.

    Modules beside them, such as a dropout, stay as they are.
    """
    modules = dict(model.named_modules())
    around = {path for name in parameters for path in _around(name) if path in modules}
    asleep = [modules[path] for path in sorted(around) if not modules[path].training]
    for module in asleep:
        module.training = True
    try:
        yield
    finally:
        for module in asleep:
            module.training = False


def _around(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name
