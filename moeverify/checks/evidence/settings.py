"""Settings of modules: plain values in attributes and in the containers and settings objects that attributes hold."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn

from moeverify.models.forward import call_model

_DEEPEST = 8
_PLAIN = (bool, int, float, str, type(None))
_OWN = ("training",)  # modes of a module, which a case sets itself


class Setting(NamedTuple):
    """Place of a plain value: path of the module, its attribute, and the steps inside of what the attribute holds."""

    module: str
    attribute: str
    steps: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        inner = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)
        return f"{self.module}.{self.attribute}{inner}".lstrip(".")


def settings_of(model: nn.Module) -> dict[Setting, Any]:
    """Plain values that modules keep, by place. The configuration of transformers is not among them.

    A container that lost or won entries has other keys, so only entries with the same steps can be compared.
    """
    return {
        Setting(path, name, steps): value
        for path, module in model.named_modules()
        for name, held in vars(module).items()
        if not name.startswith("_") and name not in _OWN
        for steps, value in _values(held)
    }


def origins(pruned: nn.Module, sources: Mapping[str, str]) -> dict[str, str]:
    """Path in the original of each module of the pruned model, by where its parameters come from (``sources``)."""
    known = {"": ""}
    for name, source in sources.items():
        here, there = name.split("."), source.split(".")
        if len(here) == len(there):
            known.update({".".join(here[:n]): ".".join(there[:n]) for n in range(1, len(here))})
    result: dict[str, str] = {}
    for path, _ in pruned.named_modules():  # a module comes after those around it
        above, _, last = path.rpartition(".")
        result[path] = known[path] if path in known else f"{result[above]}.{last}".lstrip(".")
    return result


def _values(held: Any, steps: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if type(held) in _PLAIN:
        yield steps, held
    elif len(steps) < _DEEPEST:
        for step, inner in _entries(held):
            yield from _values(inner, (*steps, step))


def _entries(held: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(held, type) or hasattr(held, "to_dict"):
        return  # a class, or a configuration that is compared as such
    if isinstance(held, Mapping):
        yield from ((key, inner) for key, inner in held.items() if isinstance(key, str | int))
    elif isinstance(held, list | tuple):
        yield from enumerate(held)
    elif dataclasses.is_dataclass(held):
        yield from ((f.name, getattr(held, f.name)) for f in dataclasses.fields(held) if hasattr(held, f.name))
    elif isinstance(held, SimpleNamespace | argparse.Namespace):
        yield from vars(held).items()


def written_by_forward(model: nn.Module, inputs: Any) -> set[tuple[str, str]]:
    """Module and attribute of the values that a forward leaves behind, such as the loss or the load of a router.

    The forward runs on a copy, in evaluation and in training mode. What it wrote into a container counts if the value
    differs from the one before.
    """
    written: set[tuple[str, str]] = set()
    for training in (False, True):
        ran = copy.deepcopy(model).train(training)
        paths = {id(module): path for path, module in ran.named_modules()}
        before = settings_of(ran)
        with _assignments() as assigned, contextlib.suppress(Exception), torch.no_grad(), torch.random.fork_rng():
            call_model(ran, copy.deepcopy(inputs))
        written |= {(paths[owner], name) for owner, name in assigned if owner in paths}
        now = settings_of(ran)
        written |= {(p.module, p.attribute) for p in before.keys() | now.keys() if before.get(p) != now.get(p)}
    return written


@contextlib.contextmanager
def _assignments() -> Iterator[list[tuple[int, str]]]:
    """Module (by its id) and name of every attribute that is set meanwhile."""
    assigned: list[tuple[int, str]] = []
    usual = nn.Module.__setattr__

    def record(self: nn.Module, name: str, value: Any) -> None:
        assigned.append((id(self), name))
        usual(self, name, value)

    nn.Module.__setattr__ = record  # type: ignore[method-assign]
    try:
        yield assigned
    finally:
        nn.Module.__setattr__ = usual  # type: ignore[method-assign]
