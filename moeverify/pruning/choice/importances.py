"""Importances by name, for the command line; those that rank by data get it when the model is known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import nn

from moeverify.base import forms
from moeverify.base.extensions import load_extensions
from moeverify.errors import UsageError
from moeverify.models.roles import Roles
from moeverify.pruning.choice.calibration import Calibration
from moeverify.pruning.choice.camera import CameraImportance
from moeverify.pruning.choice.routing_importance import RoutingImportance
from moeverify.pruning.experts.statistics import ExpertStatistics


@dataclass(frozen=True)
class NeedsData:
    """An importance that is made of a model and calibration data: ``calibrated`` makes it."""

    name: str
    make: Callable[..., Any]

    def calibrated(self, model: nn.Module, calibration: Any, roles: Roles | None) -> Any:
        """The importance of a model. Raises ``UsageError`` unless there are data to rank by."""
        if calibration is None or isinstance(calibration, ExpertStatistics):
            raise UsageError(
                f"the importance {self.name} ranks channels by data, which statistics of experts are not; pass "
                "`calibration`, or --calibration FILE"
            )
        return self.make(model, Calibration.of(calibration).batches(model), roles=roles)

    def __call__(self, group: Any) -> Any:
        """Refuse a pruner that passes no data on."""
        raise UsageError(f"the importance {self.name} needs calibration data; only the subject moe passes it on")


# Importances that need calibration data.
WITH_DATA: dict[str, Callable[..., Any]] = {"routing": RoutingImportance, "camera": CameraImportance}
IMPORTANCES: dict[str, Callable[[], Any]] = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
    "magnitude-l1": lambda: tp.importance.GroupMagnitudeImportance(p=1, group_reduction="mean"),
    "lamp": lambda: tp.importance.LAMPImportance(p=2),
    "random": lambda: tp.importance.RandomImportance(),
    **{name: functools.partial(NeedsData, name, make) for name, make in WITH_DATA.items()},
}
FORMS = forms.IMPORTANCES


def importance(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a class or a function without arguments that makes a Torch-Pruning importance, under a name.

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

    function = find_attribute(name)
    made = function() if isinstance(function, type) else function
    if not callable(made):
        raise UsageError(f"{name} is not an importance: it cannot be called with a group")
    return made


def calibrated(importance: Any, model: nn.Module, calibration: Any, roles: Roles | None) -> Any:
    """``importance`` itself; if it ranks by data, the importance calibrated for this model."""
    return importance.calibrated(model, calibration, roles) if isinstance(importance, NeedsData) else importance
