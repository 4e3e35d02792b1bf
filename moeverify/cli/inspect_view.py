"""Output of ``moeverify inspect``: the overview of a model, and explanations as trees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from moeverify.base.ranges import collapse, spans
from moeverify.cli.terminal import escape
from moeverify.coupling.explain import Explanation
from moeverify.coupling.relations import Operation
from moeverify.inspection.inspection import Inspection
from moeverify.models.roles import MoELayer
from moeverify.models.roles_file import written_roles
from moeverify.pruning.experts.facts import ExpertFacts

_FEW = 6  # so many lines of one kind are shown without --verbose


def print_inspection(inspection: Inspection, console: Console, *, verbose: bool = False) -> None:
    """Roles, boundaries, classes, frozen dimensions, unknown operations and notes."""
    operations = len(inspection.couplings.trace.relations.operations)
    console.print(
        f"[bold]{escape(inspection.loaded.name)}[/]: {inspection.model_type}, {_count(inspection.parameters)} "
        f"parameters, {operations} operations traced and solved in {inspection.seconds:.1f} s"
    )
    _print_roles(inspection, console)
    _print_boundaries(inspection, console, verbose)
    _print_classes(inspection, console)
    _print_frozen(inspection, console, verbose)
    unknown = inspection.couplings.unknown_operations
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        console.print(f"\n[yellow]operations without a rule[/], which freeze what they touch: {listed}")
    for note in inspection.notes():
        console.print(f"[yellow]note[/] {escape(note)}")
    if verbose:
        for line in inspection.warnings:
            console.print(f"[yellow]warning[/] {escape(line)}")
    elif inspection.warnings:
        console.print(f"{len(inspection.warnings)} warnings; --verbose shows them")


def print_experts(facts: Sequence[ExpertFacts], refused: str, console: Console) -> None:
    """Whole experts by layer: how many, chosen, in groups, what follows their number, and which numbers are legal."""
    if refused:
        console.print(f"\n[yellow]whole experts[/] cannot be removed: {escape(refused)}")
    if not facts:
        return
    table = _table("\nWhole experts", "layer", "experts#", "top-k#", "groups#", "legal numbers", "companions")
    rows = [(one.layer, (one.experts, one.top_k, one.groups, one.legal, one.companions)) for one in facts]
    for pattern, (experts, top_k, groups, legal, companions), _ in collapse(rows):
        names = ", ".join(companions)
        table.add_row(escape(pattern), str(experts), str(top_k), str(groups), spans(legal), escape(names))
    console.print(table)


def _count(number: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        right = column.endswith("#")
        table.add_column(column.rstrip("#"), justify="right" if right else "left", overflow="fold")
    return table


def _print_roles(inspection: Inspection, console: Console) -> None:
    if not inspection.roles.layers:
        return

    def described(layer: MoELayer) -> tuple[str, str, str, str]:
        listed = layer.layout == "listed"
        kind = inspection.kind(layer.experts[0] if listed else layer.container)
        held = "in parallel lists of one" if layer.layout == "parallel" else f"{layer.layout} in one"
        layout = f"{len(layer.experts)} {'listed' if listed else held} {kind}"
        return _inner(layer, layer.container), layout, _kinds(layer, layer.routers), _kinds(layer, layer.shared_experts)

    def _kinds(layer: MoELayer, names: Iterable[str]) -> str:
        return "\n".join(f"{_inner(layer, name)} {inspection.kind(name)}" for name in names) or "none"

    table = _table("MoE layers", "layer", "#", "experts", "routers", "shared experts")
    for pattern, (container, layout, routers, shared), paths in collapse(
        (x.name, described(x)) for x in inspection.roles.layers
    ):
        table.add_row(escape(pattern), str(len(paths)), f"{container}: {layout}", routers, shared)
    console.print()
    console.print(table)
    _print_evidence(inspection, console)


def _print_evidence(inspection: Inspection, console: Console) -> None:
    """Print the evidence for the role of each module or parameter, and a roles file that gives the same."""
    table = _table("\nRoles and their evidence", "what", "#", "role", "by")
    roles = inspection.roles
    roles_and_evidence: dict[str, tuple[str, str]] = {}
    for layer in roles.layers:
        for path, why in layer.evidence.items():
            shared = path in layer.shared_experts
            roles_and_evidence[path] = (
                "experts" if path == layer.container else "shared expert" if shared else "router",
                why,
            )
    for pattern, (role, why), paths in collapse(roles_and_evidence.items()):
        table.add_row(escape(pattern or "the model"), str(len(paths)), role, escape(why))
    console.print(table)
    console.print("\n[bold]roles.toml[/], to edit and give with --roles:")
    rules = written_roles(inspection.model, roles).splitlines()
    console.print("\n".join(line for line in rules if not line.startswith("# ") or " = " in line), markup=False)


def _inner(layer: MoELayer, name: str) -> str:
    return name.removeprefix(layer.name + ".")


def _print_boundaries(inspection: Inspection, console: Console, verbose: bool) -> None:
    """Every module with its boundary if ``verbose``, else the modules that have one."""
    boundaries = inspection.boundaries()
    common = {layer.container: len(layer.experts) for layer in inspection.roles.layers if layer.stacks}

    def description(name: str) -> str:
        boundary = boundaries[name]
        if boundary is None:
            return "shared expert: none" if inspection.roles.shared(name) else "none"
        if boundary in common:
            return f"each of {common[boundary]} experts" if name == boundary else "inside the experts"
        return "itself" if boundary == name else "inside expert"

    rows = collapse((name, description(name)) for name in boundaries if verbose or boundaries[name] is not None)
    if not rows:
        return
    table = _table("expert boundary", "module", "#", "boundary")
    for pattern, boundary, paths in rows:
        table.add_row(escape(pattern), str(len(paths)), boundary)
    console.print()
    console.print(table)


def _print_classes(inspection: Inspection, console: Console) -> None:
    table = _table("coupling classes", "role", "in", "classes#", "units each#", "positions a unit#", "parameters#")
    for role, items in inspection.by_role().items():
        facts = (
            (
                item.where or "the residual stream",
                (
                    item.coupling.size,
                    sum(m.positions.shape[1] for m in item.coupling.members),
                    len(item.coupling.parameters),
                    item.experts,
                ),
            )
            for item in items
        )
        for pattern, (size, positions, parameters, experts), paths in collapse(facts):
            units = f"{size} in each of {experts} experts" if experts else str(size)
            table.add_row(role, escape(pattern), str(len(paths)), units, str(positions), str(parameters))
    console.print()
    if table.row_count:
        console.print(table)
    else:
        console.print("[yellow]no channel can be removed[/]")


def _print_frozen(inspection: Inspection, console: Console, verbose: bool) -> None:
    table = _table("frozen", "why", "by", "dims#", "such as")
    for (reason, operation), modules in inspection.frozen_by_reason().items():
        patterns = [pattern for pattern, _, _ in collapse((module, "") for module in modules)]
        by = f"{operation} in {_some(patterns, verbose)}" if operation != "(model)" else "the model"
        dims = [f"{name} dim {dim}" for places in modules.values() for name, dim in places]
        table.add_row(escape(reason), escape(by), str(len(dims)), escape(dims[0]))
    if table.row_count:
        console.print()
        console.print(table)


def _some(items: Sequence[str], every: bool) -> str:
    shown = items if every or len(items) <= 3 else items[:2]
    more = len(items) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def print_explanation(answer: Explanation, console: Console, *, verbose: bool = False) -> None:
    """One explanation as a tree: what goes along or what froze it, each with the operations on the way."""
    root = Tree(f"[bold]{escape(answer.parameter)}[/] dim {answer.dim} position {answer.position}")
    if answer.frozen is not None:
        node = root.add(f"[red]frozen[/]: {escape(answer.frozen.reason)}")
        where = f", at {answer.frozen.line}" if answer.frozen.line else ""
        node.add(f"by {escape(answer.frozen.operation + where)}")
        _add_chain(node, answer.chain, verbose)
    elif not answer.together:
        root.add("belongs to no coupling class: nothing but unused buffers would go along")
    chains = {(p.parameter, p.dim): p.chain for p in answer.together}
    places = ((p.parameter, (p.dim, spans(p.positions))) for p in answer.together)
    for pattern, (dim, positions), paths in collapse(places):
        many = "positions" if "-" in positions or "," in positions else "position"
        more = f" [dim]({len(paths)} parameters, the nearest one's way shown)[/]" if len(paths) > 1 else ""
        node = root.add(f"[green]{escape(pattern)}[/] dim {dim} {many} {positions}{more}")
        _add_chain(node, min((chains[path, dim] for path in paths), key=len), verbose)
    console.print(root)


def _add_chain(node: Tree, chain: Sequence[Operation], verbose: bool) -> None:
    runs = [(module, [step.name for step in steps]) for module, steps in groupby(chain, lambda step: step.module)]
    hidden = 0 if verbose or len(runs) <= _FEW + 1 else len(runs) - _FEW
    for number, (module, names) in enumerate(runs):
        if hidden and number == _FEW // 2:
            node.add(f"[dim]... {hidden} more; --verbose shows them[/]")
        if not hidden or not _FEW // 2 <= number < _FEW // 2 + hidden:
            node.add(
                f"{' → '.join(name.removeprefix('aten.') for name in names)} [dim]in {escape(module or '(model)')}[/]"
            )
