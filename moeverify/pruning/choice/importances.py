"""Importances by name, for the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch_pruning as tp

from moeverify.base import forms
from moeverify.base.extensions import load_extensions
from moeverify.errors import UsageError

IMPORTANCES: dict[str, Callable[[], Any]] = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
    "magnitude-l1": lambda: tp.importance.GroupMagnitudeImportance(p=1, group_reduction="mean"),
    "lamp": lambda: tp.importance.LAMPImportance(p=2),
    "random": lambda: tp.importance.RandomImportance(),
}
FORMS = forms.IMPORTANCES


def importance(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register what makes a Torch-Pruning importance, a class or a function without arguments, under a name.

    Raises ``ValueError`` if the name is taken.
    """

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        if name in IMPORTANCES:
            raise ValueError(f"two importances are named {name}")
        IMPORTANCES[name] = make
        return make

    return register


def importance_named(name: str) -> Any:
    """A Torch-Pruning importance by name, or ``module:attribute`` (an importance or a class of one).

    Raises ``UsageError`` for an unknown name.
    """
    if name not in IMPORTANCES:
        load_extensions("importances")
    if name in IMPORTANCES:
        return IMPORTANCES[name]()
    if ":" not in name:
        raise UsageError(f"unknown importance {name!r}; use {FORMS}")
    from moeverify.base.imports import find_attribute

    found = find_attribute(name)
    made = found() if isinstance(found, type) else found
    if not callable(made):
        raise UsageError(f"{name} is not an importance: it cannot be called with a group")
    return made
