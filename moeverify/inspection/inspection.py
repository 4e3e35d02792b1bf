"""Inspection of a model before it is pruned: roles, boundaries, coupling classes, frozen dimensions with reasons."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from torch import nn

from moeverify.base.ranges import positions_to_dict, spans
from moeverify.coupling.classify import ROLES, PruningClass, classify
from moeverify.coupling.couplings import CouplingMap
from moeverify.coupling.layouts import traced_roles
from moeverify.errors import UsageError
from moeverify.models.checkpoints import quiet_transformers
from moeverify.models.full_size import is_configuration, load_full_size, with_more_tokens
from moeverify.models.roles import FoundRoles, Roles
from moeverify.models.roles_file import written_roles
from moeverify.models.sources import LoadedModel, load_source, parse_dtype, source_kind

FORMAT = "moeverify-inspect/1"


@dataclass(frozen=True, eq=False)
class Inspection:
    """A model's roles and couplings.

    ``seconds`` is what tracing and solving took; ``warnings`` are those that Python gave on the way.
    """

    loaded: LoadedModel
    roles: FoundRoles
    couplings: CouplingMap
    classes: tuple[PruningClass, ...]
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def model(self) -> nn.Module:
        """The model, as it was before."""
        return self.loaded.model

    @property
    def model_type(self) -> str:
        """The configuration's name of the architecture, or the class where there is none."""
        return getattr(getattr(self.model, "config", None), "model_type", None) or type(self.model).__name__

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.model.parameters())

    def kind(self, module: str) -> str:
        """The class of a module by path."""
        return type(self.model.get_submodule(module)).__name__

    def boundaries(self) -> dict[str, str | None]:
        """The routed expert that each module belongs to; fused experts are one module, its own boundary."""
        return {name: self.roles.boundary(name) for name, _ in self.model.named_modules() if name}

    def by_role(self) -> dict[str, list[PruningClass]]:
        """The classes of each role that has any."""
        result: dict[str, list[PruningClass]] = {role: [] for role in ROLES}
        for item in self.classes:
            result.setdefault(item.role, []).append(item)
        return {role: items for role, items in result.items() if items}

    def frozen_by_reason(self) -> dict[tuple[str, str], dict[str, list[tuple[str, int]]]]:
        """``(reason, operation name)`` to the modules that ran it, each with the ``(parameter, dim)`` it froze."""
        result: dict[tuple[str, str], dict[str, list[tuple[str, int]]]] = defaultdict(lambda: defaultdict(list))
        for item in self.couplings.frozen:
            operation, _, module = item.operation.partition(" in ")
            result[item.reason, operation][module].append((item.parameter, item.dim))
        return {key: dict(value) for key, value in result.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data for JSON, under the format ``moeverify-inspect/1``."""
        trace = self.couplings.trace
        return {
            "format": FORMAT,
            "source": self.loaded.name,
            "model_type": self.model_type,
            "model_class": type(self.model).__name__,
            "parameters": self.parameters,
            "operations": len(trace.relations.operations),
            "seconds": round(self.seconds, 3),
            "moe_layers": [
                {
                    "name": layer.name,
                    "container": layer.container,
                    "container_class": self.kind(layer.container),
                    "layout": layer.layout,
                    "experts": list(layer.experts),
                    "expert_class": self.kind(layer.experts[0]) if layer.layout == "listed" else None,
                    "routers": {name: self.kind(name) for name in layer.routers},
                    "shared_experts": {name: self.kind(name) for name in layer.shared_experts},
                    "router_parameters": list(layer.router_parameters),
                    "evidence": dict(layer.evidence),
                }
                for layer in self.roles.layers
            ],
            "roles_file": written_roles(self.model, self.roles) if self.roles.layers else "",
            "boundaries": self.boundaries(),
            "classes": [_class_to_dict(item) for item in self.classes],
            "frozen": [
                {
                    "parameter": item.parameter,
                    "dim": item.dim,
                    "positions": spans(item.positions),
                    "reason": item.reason,
                    "operation": item.operation,
                    "line": item.line,
                }
                for item in self.couplings.frozen
            ],
            "unknown_operations": dict(self.couplings.unknown_operations),
            "imagined_answers": dict(trace.imagined),
            "untouched_parameters": list(trace.untouched),
            "tied": dict(trace.aliases),
            "notes": list(self.notes()),
            "warnings": list(self.warnings),
        }

    def notes(self) -> tuple[str, ...]:
        """Notes for the reader on how this was found."""
        notes = [*self.loaded.notes, *getattr(self.roles, "notes", ())]
        trace = self.couplings.trace
        notes += trace.failed.values()
        notes += [f"the experts of {c.where} cannot be pruned apart: {c.joint}" for c in self.classes if c.joint]
        if not self.roles.layers and not getattr(self.roles, "notes", ()):
            notes.append("no routed experts found; name them with --experts-pattern or --roles FILE.toml")
        if trace.imagined:
            answers = ", ".join(f"{name} {count} times" for name, count in sorted(trace.imagined.items()))
            notes.append(f"without weights the forward asked for data, and answers were made up: {answers}")
        if trace.untouched:
            notes.append(
                f"{len(trace.untouched)} parameters were not used by the example input, such as {trace.untouched[0]}"
            )
        return tuple(notes)


def _class_to_dict(item: PruningClass) -> dict[str, Any]:
    return {
        "role": item.role,
        "where": item.where,
        "size": item.coupling.size,
        "experts": item.experts,
        "joint": item.joint,
        "members": [
            {"parameter": m.parameter, "dim": m.dim, "buffer": m.buffer, **positions_to_dict(m.positions)}
            for m in item.coupling.members
        ],
    }


def inspect_model(loaded: LoadedModel, roles: Roles | FoundRoles | None = None) -> Inspection:
    """Trace a model and collect roles, classes and frozen dimensions. Raises ``TraceError`` if its forward fails."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        found, couplings = traced_roles(loaded.model, loaded.example_inputs, roles=roles)
        seconds = time.perf_counter() - start
        classes = classify(loaded.model, couplings.classes, found, couplings)
    messages = dict.fromkeys(" ".join(str(w.message).split()) for w in caught)
    return Inspection(loaded, found, couplings, classes, seconds, tuple(messages))


def inspect_source(
    name: str,
    *,
    roles: Roles | None = None,
    full_size: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    quiet: bool = True,
) -> Inspection:
    """Load the model that a source names and inspect it.

    ``full_size`` builds the model without weights, in the sizes of its configuration; so does a source without weights
    (a ``config.json``). ``dtype`` is the precision of a model with weights. ``quiet`` keeps transformers from printing
    which kernels it lacks. Raises ``SourceError`` if there is no such model, ``TraceError`` if its forward fails.

    Example::

        inspect_source("zoo:deepseek_v3", full_size=True).by_role()
    """
    with quiet_transformers() if quiet else contextlib.nullcontext():
        if full_size or is_configuration(name):
            loaded = load_full_size(name, trust_remote_code=trust_remote_code)
            inspection = inspect_model(loaded, roles)
            if inspection.couplings.trace.untouched and source_kind(name)[0] != "factory":
                inspection = inspect_model(with_more_tokens(loaded), roles)
            return inspection
        loaded = load_source(name, seed=seed, dtype=parse_dtype(dtype), trust_remote_code=trust_remote_code)
        return inspect_model(loaded, roles)


def explain_words(question: str) -> tuple[str, int, int]:
    """``PARAM:DIM:POS`` as its parts. Raises ``UsageError`` for anything else."""
    parts = question.rsplit(":", 2)
    try:
        return parts[0], int(parts[1]), int(parts[2])
    except (IndexError, ValueError):
        raise UsageError(
            f"--explain takes PARAM:DIM:POS, such as model.embed_tokens.weight:1:0, not {question!r}"
        ) from None
