"""The couplings of the whole zoo as a table: what was found, what is frozen and why, and what was shown."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.coupling.classify import PruningClass, classify
from moeverify.coupling.couplings import CouplingMap, trace_couplings
from moeverify.errors import SourceError
from moeverify.models.roles import FoundRoles, MoELayer, find_roles
from moeverify.models.sources import load_source
from moeverify.models.zoo.registry import zoo_types
from moeverify.suites.zoo_table.configured import TIED_BY_CONFIGURATION, dims_that_follow, hidden_entries
from moeverify.suites.zoo_table.equivalence import Equivalence, channel_equivalence
from moeverify.suites.zoo_table.twins import Twin, twin

# Routed experts without inner channels of their own.
NO_INNER_CHANNELS = {
    "doge": "an expert is one row of a table",
    "jetmoe": "the experts of attention share their channels with the keys",
}


@dataclass(frozen=True)
class Row:
    """One model type.

    ``unknown`` are operations without a rule. ``hidden``: whether every parameter dimension that follows the
    hidden size is in the hidden class, or why not. ``experts`` are the routed experts whose inner channels form a class
    of their own, ``experts_expected`` all there are. ``frozen`` counts frozen parameter dimensions by reason. ``real``
    is the type at its real size, if that was asked for.
    """

    model_type: str
    operations: int = 0
    unknown: tuple[str, ...] = ()
    hidden: str = ""
    experts: int = 0
    experts_expected: int = 0
    experts_note: str = ""
    frozen: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    equivalence: tuple[Equivalence, ...] = ()
    real: Twin | None = None
    error: str = ""


def row(model_type: str) -> Row:
    """Trace the small model of a type, compare its hidden class with the configuration's truth, and remove one channel
    of each role. A type that cannot be built is a row with its error.
    """
    try:
        loaded = load_source(f"zoo:{model_type}")
    except SourceError as error:
        return Row(model_type, error=str(error))
    model, roles = loaded.model, find_roles(loaded.model)
    begin = time.perf_counter()
    couplings = trace_couplings(model, loaded.example_inputs)
    seconds = time.perf_counter() - begin
    classes = classify(model, couplings.classes, roles, couplings)
    experts = sum(_own_classes(layer, classes, roles) for layer in roles.layers)
    expected = len(roles.experts)
    chosen = [_of_role(model, classes, role) for role in ("routed_experts", "shared_experts", "hidden")]
    return Row(
        model_type,
        operations=len(couplings.trace.relations.operations),
        unknown=tuple(couplings.unknown_operations),
        hidden=_hidden(model, couplings),
        experts=experts,
        experts_expected=expected,
        experts_note="" if experts == expected else NO_INNER_CHANNELS.get(model_type, "unexplained"),
        frozen=dict(Counter(f.reason for f in couplings.frozen).most_common()),
        seconds=round(seconds, 3),
        equivalence=tuple(channel_equivalence(loaded, c) for c in chosen if c is not None),
    )


def _input_embedding(model: nn.Module) -> tuple[str, int]:
    pretrained: Any = model
    table = pretrained.get_input_embeddings().weight
    return next(name for name, parameter in model.named_parameters() if parameter is table), 1


def _of_role(model: nn.Module, classes: Iterable[PruningClass], role: str) -> PruningClass | None:
    """The first class of a role with more than one unit; for hidden channels that of the input embedding."""
    for pruning_class in classes:
        dims = {(m.parameter, m.dim) for m in pruning_class.coupling.members}
        if role == "hidden" and _input_embedding(model) in dims:
            return dataclasses.replace(pruning_class, role="hidden")
        if role != "hidden" and pruning_class.role == role and pruning_class.coupling.size > 1:
            return pruning_class
    return None


def _own_classes(layer: MoELayer, classes: Iterable[PruningClass], roles: FoundRoles) -> int:
    """Routed experts of a layer whose inner channels are coupled with nothing outside the expert."""
    confined: list[str | None] = []
    for pruning_class in classes:
        boundaries = {roles.boundary(name) for name in pruning_class.coupling.parameters}
        if len(boundaries) == 1 and None not in boundaries:
            confined += boundaries
    if layer.layout == "listed":
        return sum(expert in confined for expert in layer.experts)
    return len(layer.experts) if layer.container in confined else 0


def _hidden(model: nn.Module, couplings: CouplingMap) -> str:
    config: Any = model.config
    root = _input_embedding(model)
    truth = dims_that_follow(model, hidden_entries(model)) or frozenset()
    for pruning_class in couplings.classes:
        dims = {(m.parameter, m.dim) for m in pruning_class.members if not m.buffer}
        if root not in dims:
            continue
        pattern, reason = TIED_BY_CONFIGURATION.get(config.model_type, ("$^", ""))
        missing = [d for d in truth - dims if not re.search(pattern, d[0])]
        if missing or dims - truth:
            wrong = sorted((*missing, *(dims - truth)))[0]
            return f"differs: {wrong[0]} dimension {wrong[1]} and {len(missing) + len(dims - truth) - 1} more"
        return f"complete, {len(dims)}" + (f"; {len(truth - dims)} tied in name only: {reason}" if truth - dims else "")
    frozen = next((f for f in couplings.frozen if (f.parameter, f.dim) == root), None)
    if frozen is None:
        return "not found"
    return f"frozen: {frozen.reason} ({frozen.operation})"


def table(model_types: Iterable[str] = (), progress: Callable[[str], None] = lambda _: None) -> list[Row]:
    """A row for each type, all by default, in order, each beside the type at its real size. ``progress`` is called with
    each type before it is looked at.
    """
    rows = []
    for model_type in tuple(model_types) or zoo_types():
        progress(model_type)
        line = row(model_type)
        rows.append(line if line.error else dataclasses.replace(line, real=twin(model_type)))
    return rows


def markdown(rows: Iterable[Row]) -> str:
    """The table as a Markdown document."""
    rows = list(rows)
    shown = [r for r in rows if not r.error]
    lines = [
        "# Couplings of the zoo",
        "",
        "Made by `moeverify zoo --table FILE`, which also writes the data beside it as JSON "
        f"({', '.join(f'{name} {version}' for name, version in versions().items())}).",
        "",
        f"{len(shown)} types, {len(rows) - len(shown)} that cannot be built; "
        f"{sum(bool(r.unknown) for r in shown)} with an operation without a rule; "
        f"{sum(r.hidden.startswith('complete') for r in shown)} with a complete hidden class; "
        f"{sum(r.experts == r.experts_expected for r in shown)} with a class for every routed expert; "
        f"{sum(e.passed for r in shown for e in r.equivalence)} of "
        f"{sum(len(r.equivalence) for r in shown)} removed channels equal the masked model; "
        f"{sum(r.real is not None and r.real.classes > 0 for r in shown)} inspected at their real size, "
        f"{sum(r.real is not None and r.real.same for r in shown)} of them with the same kinds of classes.",
        "",
        "*Hidden*: parameter dimensions in the class of the input embedding, against those that follow the hidden size "
        "when the model is built with another one. *Experts*: routed experts whose inner channels are a class of "
        "their own, of all there are. *One channel removed*: relative difference from the masked model in float64; `*` "
        "marks a model whose code takes sizes from its configuration, which were corrected. *Frozen*: dimensions by "
        "reason, the three most frequent. *Real size*: without weights, with the seconds that building, tracing and "
        "solving take, and whether the kinds of its classes (role, parameters, dimensions) are those of the small "
        "model on the parameters that both have.",
        "",
        "| type | operations | without a rule | hidden | experts | routed channel | shared channel | hidden channel "
        "| frozen | seconds | real size |",
        "|---|---:|---|---|---|---|---|---|---|---:|---|",
    ]
    for r in rows:
        if r.error:
            lines.append(f"| {r.model_type} | | | {r.error} | | | | | | | |")
            continue
        by_role = {e.role: e for e in r.equivalence}
        frozen = "; ".join(f"{count} {reason}" for reason, count in list(r.frozen.items())[:3])
        experts = f"{r.experts} of {r.experts_expected}" + (f": {r.experts_note}" if r.experts_note else "")
        cells = [
            r.model_type,
            str(r.operations),
            ", ".join(r.unknown) or "none",
            r.hidden,
            experts,
            *(_cell(by_role.get(role)) for role in ("routed_experts", "shared_experts", "hidden")),
            frozen,
            f"{r.seconds:.2f}",
            _real(r.real),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(outcome: Equivalence | None) -> str:
    if outcome is None:
        return "-"
    if outcome.problem:
        return outcome.problem
    mark = "*" if outcome.rewritten else ""
    return f"{outcome.error:.0e}{mark}" if outcome.passed else f"differs by {outcome.error:.0e}{mark}"


def _real(twin: Twin | None) -> str:
    if twin is None or not twin.classes:
        return twin.note if twin else "-"
    size = f"{twin.parameters / 1e9:.1f}B, {twin.moe_layers} MoE layers of {twin.experts} experts"
    alike = "same kinds of classes" if twin.same else "classes differ"
    return f"{size}, {twin.seconds:.1f} s; {alike}" + (f" ({twin.note})" if twin.note else "")


def write_table(rows: Iterable[Row], path: Path) -> tuple[Path, Path]:
    """Write the table to ``path`` and the data beside it, with the ending ``.json``."""
    rows = list(rows)
    data: dict[str, Any] = {"versions": dict(versions()), "types": [dataclasses.asdict(r) for r in rows]}
    return (
        write_text(path, markdown(rows)),
        write_text(path.with_suffix(".json"), json.dumps(data, indent=1) + "\n"),
    )
