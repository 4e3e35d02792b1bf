"""Faults under stable names: ``FAMILY/NAME``, the module's path with dashes."""

from __future__ import annotations

import contextlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moeverify.base.extensions import load_extensions
from moeverify.errors import UsageError
from moeverify.subjects.protocol import Subject


@dataclass(frozen=True)
class Fault:
    """A broken pruner, and how it is found out.

    ``caught_by`` gives for each check that names the cause a regular expression that its message matches; each of
    them must. Other checks may fail as well. ``seconds`` limits the case, for faults that do not come to an end;
    ``needs`` names optional packages without which its check cannot run. With ``inconclusive`` no input can show the
    fault, and a check that names it without approving it has caught it. ``engines`` are those that ``served`` asks,
    and ``load`` the modules that register them. ``ignore``: layers and parameters that the run asks to leave whole.
    """

    name: str
    cause: str
    prune: Subject
    caught_by: Mapping[str, str]
    source: str
    pruning_ratio: float = 0.5
    dtype: str = "float32"
    seconds: float = 240.0
    gibibytes: float = 12.0
    needs: tuple[str, ...] = ()
    inconclusive: bool = False
    engines: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @property
    def possible(self) -> bool:
        """Whether the packages that its check needs are installed."""
        return all(importlib.util.find_spec(name) is not None for name in self.needs)

    @property
    def family(self) -> str:
        """The folder it lives in."""
        return self.name.partition("/")[0]


FAULTS: dict[str, Fault] = {}


def fault(
    source: str,
    caught_by: Mapping[str, str],
    *,
    pruning_ratio: float = 0.5,
    dtype: str = "float32",
    seconds: float = 240.0,
    gibibytes: float = 12.0,
    needs: tuple[str, ...] = (),
    inconclusive: bool = False,
    engines: tuple[str, ...] = (),
    load: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
) -> Callable[[Subject], Subject]:
    """Register the decorated subject as the fault of its module; the first line of its docstring is the cause."""

    def register(prune: Subject) -> Subject:
        name = "/".join(prune.__module__.split(".")[-2:]).replace("_", "-")
        cause = (prune.__doc__ or "").strip().splitlines()[0]
        FAULTS[name] = Fault(
            name,
            cause,
            prune,
            dict(caught_by),
            source,
            pruning_ratio,
            dtype,
            seconds,
            gibibytes,
            needs,
            inconclusive,
            engines,
            load,
            ignore,
        )
        return prune

    return register


def all_faults() -> tuple[Fault, ...]:
    """Every fault, by family and name; imports the modules that register them."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.walk_packages([str(Path(__file__).parent)], package + "."):
        importlib.import_module(module.name)
    load_extensions("faults")
    return tuple(FAULTS[name] for name in sorted(FAULTS))


def find_fault(name: str) -> Fault:
    """A fault by name. Raises ``UsageError`` for a name that none has."""
    module = f"{__name__.rpartition('.')[0]}.{name.replace('/', '.').replace('-', '_')}"
    if name not in FAULTS and re.fullmatch(r"[a-z-]+/[a-z0-9-]+", name):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    if name not in FAULTS:
        load_extensions("faults")
    if name not in FAULTS:
        raise UsageError(f"no fault {name!r}; `moeverify self-test --list` names them")
    return FAULTS[name]
