"""Facts for a picture of one MoE layer: its parameters, and the class or freeze behind every dimension."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from moeverify.coupling.classify import ROLES, PruningClass
from moeverify.inspection.inspection import Inspection
from moeverify.models.roles import MoELayer


@dataclass(frozen=True)
class Chip:
    """One dimension: ``parts`` are ``(class, number of positions)``, with no class where positions are frozen.

    ``reason`` is the number of the reason why they are, from 1; 0 if none is.
    """

    size: int
    parts: tuple[tuple[PruningClass | None, int], ...]
    reason: int


@dataclass(frozen=True)
class Row:
    """One parameter or buffer: its name within its module, and a chip for each dimension."""

    parameter: str
    name: str
    chips: tuple[Chip, ...]


@dataclass(frozen=True)
class LayerFacts:
    """One MoE layer and the rest of its block, classes in the order of their roles.

    ``modules`` are ``(title, rows)``; of listed experts only the first is among them. ``routed``: ids of the classes of
    single experts. ``crossing``: the experts that a class joins with another one. ``like``: the number of MoE layers
    that the model has.
    """

    layer: MoELayer
    like: int
    modules: list[tuple[str, list[Row]]]
    experts_title: str
    classes: list[PruningClass]
    routed: frozenset[int]
    crossing: frozenset[str]
    reasons: list[str]
    parameters: frozenset[str]


def _block(name: str) -> str:
    """The innermost numbered module around an MoE layer: the decoder block."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if parts[end - 1].isdigit():
            return ".".join(parts[:end])
    return name


def _inside(name: str, module: str) -> bool:
    return not module or name.startswith(module + ".")


def layer_facts(inspection: Inspection, layer: MoELayer) -> LayerFacts:
    """Gather what the picture of one layer shows."""
    couplings = inspection.couplings
    sizes, tensors = couplings.trace.relations.sizes, couplings.trace.tensors
    block = _block(layer.name)
    detailed = layer.experts[0] if layer.layout == "listed" else layer.container
    names = [n for n in tensors if _inside(n, block) and not layer.owner(n)]  # of experts apart the first

    parts: dict[tuple[str, int], list[tuple[PruningClass | None, int]]] = defaultdict(list)
    for item in inspection.classes:
        for member in item.coupling.members:
            parts[member.parameter, member.dim].append((item, member.positions.size))
    reasons: dict[str, int] = {}
    why: dict[tuple[str, int], int] = {}
    shown = set(names)
    for frozen in couplings.frozen:
        if frozen.parameter in shown:
            number = reasons.setdefault(f"{frozen.reason} ({frozen.operation.partition(' in ')[0]})", len(reasons) + 1)
            key = frozen.parameter, frozen.dim
            why.setdefault(key, number)
            parts[key].append((None, len(frozen.positions)))

    rows: dict[str, list[Row]] = defaultdict(list)
    for name in names:
        dims = tensors[name]
        if not dims or all((name, k) not in parts for k in range(len(dims))):
            continue  # scalars and unused buffers
        owner = name.rpartition(".")[0]
        chips = (
            Chip(sizes[d], tuple(parts.get((name, k), [(None, sizes[d])])), why.get((name, k), 0))
            for k, d in enumerate(dims)
        )
        section = _section(owner, block, layer, detailed)
        rows[section].append(Row(name, name.removeprefix(section + "."), tuple(chips)))
    titles = {section: _title(inspection, section, block, layer, detailed) for section in rows}
    used = {
        id(item): item
        for row in (r for section_rows in rows.values() for r in section_rows)
        for chip in row.chips
        for item, _ in chip.parts
        if item is not None
    }
    classes = sorted(used.values(), key=lambda item: ROLES.index(item.role) if item.role in ROLES else len(ROLES))
    return LayerFacts(
        layer=layer,
        like=len(inspection.roles.layers),
        modules=[(titles[section], section_rows) for section, section_rows in rows.items()],
        experts_title=titles.get(detailed, ""),
        classes=classes,
        routed=frozenset(id(item) for item in classes if item.role == "routed_experts"),
        crossing=_crossing(inspection, layer),
        reasons=list(reasons),
        parameters=frozenset(names),
    )


def _section(owner: str, block: str, layer: MoELayer, detailed: str) -> str:
    """The frame that a parameter is drawn in: expert, router, shared expert, or the block's direct child."""
    for module in (detailed, *layer.routers, *layer.shared_experts):
        if owner == module or _inside(owner, module):
            return module
    rest = owner[len(block) + 1 :] if block else owner
    child = rest.partition(".")[0]
    return f"{block}.{child}" if block and child else (child or block or owner)


def _title(inspection: Inspection, section: str, block: str, layer: MoELayer, detailed: str) -> str:
    role = ""
    if section == detailed:
        count = len(layer.experts)
        role = f"routed expert 1 of {count}" if layer.parts else f"all {count} routed experts in one"
    elif section in layer.routers:
        role = "router"
    elif section in layer.shared_experts:
        role = "shared expert"
    name = section[len(block) + 1 :] if block and section != block else section
    kind = inspection.kind(section)
    return f"{name} · {kind}" + (f" · {role}" if role else "")


def _crossing(inspection: Inspection, layer: MoELayer) -> frozenset[str]:
    """Listed experts that share a class with another expert and with nothing outside the experts."""
    own = set(layer.experts)
    joined: set[str] = set()
    for item in inspection.classes:
        touched = {inspection.roles.boundary(name) for name in item.coupling.parameters}
        if None not in touched and len(touched) > 1:
            joined |= {expert for expert in touched if expert in own}
    return frozenset(joined)
