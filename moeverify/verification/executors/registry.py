"""Executors under their names. Each is one module with one function that carries out the cases of a run."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from moeverify.base.extensions import load_extensions
from moeverify.errors import MoEVerifyError, UsageError
from moeverify.verdict import LOAD, Status
from moeverify.verification.case import Case, verdict_of
from moeverify.verification.events import CaseFinished, Listener, VerdictReached
from moeverify.verification.limits import Limits


@dataclass(frozen=True)
class Work:
    """The cases of a run, to be started in order.

    ``limits`` returns the limits of a case. ``listen`` is called with every event, maybe from several threads.
    ``workers``: cases at a time, ``None`` for as many as there is room for. ``address``: the cluster of an executor.
    """

    cases: Sequence[Case]
    limits: Callable[[Case], Limits]
    listen: Listener
    workers: int | None = None
    address: str = "auto"


# Raises the ``MoEVerifyError`` of a subject that cannot be loaded; a source that cannot be is a verdict.
Executor = Callable[[Work], None]
EXECUTORS: dict[str, Executor] = {}


def executor(name: str) -> Callable[[Executor], Executor]:
    """Register an executor. Raises ``ValueError`` if the name is taken."""

    def register(function: Executor) -> Executor:
        if name in EXECUTORS:
            raise ValueError(f"two executors are named {name}")
        EXECUTORS[name] = function
        return function

    return register


def executor_named(name: str) -> Executor:
    """The executor of a name. Raises ``UsageError`` for an unknown one."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")
    load_extensions("executors")
    if name not in EXECUTORS:
        raise UsageError(f"unknown executor {name!r}; there is {', '.join(sorted(EXECUTORS))}")
    return EXECUTORS[name]


def not_loaded(case: Case, error: MoEVerifyError, listen: Listener) -> None:
    """Give a source that cannot be loaded its verdict."""
    listen(VerdictReached(case, verdict_of(case, LOAD, Status.ERROR, str(error), {})))
    listen(CaseFinished(case, None))
