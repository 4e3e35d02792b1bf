"""The search for MoE layers: containers named as experts first, then what has the structure of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import nn

from moeverify.models.expert_shapes import (
    Stacks,
    alike,
    counting_attribute,
    counts_experts,
    held_text,
    inner_lists,
    input_sizes,
    named_as_experts,
    one_after_the_other,
    parallel_lists,
    same_matrices,
    stacks_of,
)
from moeverify.models.model_tree import LISTS, ModelTree, join
from moeverify.models.moe_layer import FoundRoles, Layout, MoELayer, ancestors, last, parent
from moeverify.models.role_rules import Roles, Rule, fits
from moeverify.models.scorers import Scored, Scorers, chooses, find_scorers, outputs_of

NO_EXPERTS = "no routed experts found; name them with --experts-pattern or Roles(experts=...)"
_NAME = "its name"


class RoleSearch:
    """One search for roles through one model; ``run`` returns the result."""

    def __init__(self, model: nn.Module, roles: Roles) -> None:
        self.tree = ModelTree.of(model)
        self.modules = self.tree.modules
        self.roles = roles

    def run(self) -> FoundRoles:
        """All MoE layers in the order of the modules, with notes on what is missing."""
        layers: list[MoELayer] = []
        notes, unrecognised = [], []
        for name in self.modules:
            if name and self._is(self.roles.experts, name) and name not in {layer.container for layer in layers}:
                in_container = self._container(name)
                layers += in_container
                if not in_container and not any(parent(name) in ancestors(other.container) for other in layers):
                    unrecognised.append(name)
        taken = {p for layer in layers for p in (layer.container, layer.name, *layer.shared_experts)} - {""}
        for name in self.modules:
            if not any(p in taken for p in ancestors(name)) and (layer := self._by_structure(name)) is not None:
                layers.append(layer)
                # A list's siblings may be lists of experts, too: the layer as a whole is not taken.
                taken |= {layer.container, *layer.shared_experts, *layer.routers} - {""}
                notes.append(f"{layer.container}: experts recognised by structure, not by name")
        layers = [self._with_borrowers(layer) for layer in layers]
        order = {name: position for position, name in enumerate(self.modules)}
        layers.sort(key=lambda layer: order[layer.container])
        found_paths = {p for layer in layers for p in ancestors(layer.container)}
        unrecognised = [name for name in unrecognised if name not in found_paths]
        form = "{} is named as experts but holds {}, neither several modules nor stacked parameters"
        notes += [form.format(name, held_text(self.tree, name)) for name in unrecognised]
        notes += [
            f"{layer.name or layer.container}: no router found beside its experts"
            for layer in layers
            if not layer.routers and not layer.router_parameters
        ]
        if not layers:
            notes.append(NO_EXPERTS)
        outside = frozenset(self._outside(layers))
        return FoundRoles(tuple(layers), tuple(notes), tuple(unrecognised), outside, self.roles)

    def _outside(self, layers: Iterable[MoELayer]) -> Iterator[str]:
        """Modules inside containers of stacked experts that hold no stack."""
        for layer in layers:
            if layer.stacks:
                inside = {p for holder in layer.holders for p in ancestors(holder)}
                for holder in layer.holders:
                    yield from (child for child in self.tree.children.get(holder, ()) if child not in inside)

    def _is(self, rule: Rule, name: str) -> bool:
        return fits(rule, name, self.modules[name])

    def _named(self, around: str, rule: Rule) -> tuple[str, ...]:
        return tuple(child for child in self.tree.children.get(around, ()) if self._is(rule, child))

    # Containers by name.

    def _container(self, name: str) -> list[MoELayer]:
        """The MoE layers whose experts a module named as their container holds: several if it is a list of lists."""
        if isinstance(self.modules[name], LISTS):
            if lists := inner_lists(self.tree, name):
                return [self._of_list(inner, _NAME) for inner in lists]
            experts = self._listed_experts(name)
            return [self._layer(parent(name), name, experts, "listed", _NAME)] if len(experts) > 1 else []
        if (inner := self._only_list(name)) is not None:
            return [self._layer(parent(name), inner, self._listed_experts(inner), "listed", f"{last(name)} around it")]
        inside = any(self._is(self.roles.routers, child) for child in self.tree.children.get(name, ()))
        layer = name if inside else parent(name)
        moe_layer = self._stacked(layer, name) or self._parallel(layer, name)
        return [moe_layer] if moe_layer is not None else []

    def _listed_experts(self, name: str) -> tuple[str, ...]:
        """The children of a list but for helpers, such as a dropout that all experts use.

        A child without weights is a helper if the router chooses among the others alone; else it may be an expert that
        does nothing.
        """
        children = self.tree.children.get(name, ())
        weighty = tuple(c for c in children if any(True for _ in self.modules[c].parameters()))
        routers = [self.modules[r] for r in self._named(parent(name), self.roles.routers)]
        choices = {n for r in routers for p in r.parameters() if p.dim() == 2 for n in p.shape}
        return weighty if len(weighty) in choices and len(children) not in choices else children

    def _only_list(self, name: str) -> str | None:
        """The one list of modules that a module named as experts holds, if it holds no weights besides."""
        lists = [n for n in self.tree.children.get(name, ()) if isinstance(self.modules[n], LISTS)]
        if len(lists) != 1 or len(self.modules[lists[0]]._modules) < 2:
            return None
        inside = sum(1 for _ in self.modules[lists[0]].parameters())
        forms = {tuple(tuple(p.shape) for p in m.parameters()) for m in self.modules[lists[0]].children()}
        return lists[0] if len(forms) == 1 and inside == sum(1 for _ in self.modules[name].parameters()) else None

    def _stacked(self, layer: str, container: str) -> MoELayer | None:
        """MoE layer of fused or expert-major experts in parameters of the container or of modules in it."""
        own = {join(container, n): p for n, p in self.modules[container].named_parameters()}
        # Experts shared with another layer are that one's.
        own = {n: p for n, p in own.items() if n in self.tree.first_names}
        routers = self._named(layer, self.roles.routers)
        own = {n: p for n, p in own.items() if not any(r in ancestors(n) for r in routers)}
        blocks = {n: p for n, p in own.items() if p.dim() == 3}
        count = min((p.shape[0] for p in blocks.values()), default=0)
        # One stack is enough where an attribute counts experts: they are of one layer each.
        if count > 1 and (len(blocks) > 1 or counting_attribute(self.tree, container, count)):
            stacks = tuple(n for n, p in own.items() if n in blocks or (p.dim() == 2 and p.shape[0] == count))
            return self._layer(layer, container, _numbered(container, count), "fused", _NAME, stacks)
        counts = {p.shape[0] for r in routers for p in self.modules[r].parameters() if p.dim() == 2}
        for count in sorted(counts - {0, 1}):
            rows = tuple(
                n
                for n, p in own.items()
                if p.dim() == 2
                and p.shape[0] % count == 0
                and not isinstance(self.modules[parent(n)], nn.ParameterList)  # one entry for each expert instead
            )
            if len(rows) >= 2 and same_matrices(self.tree, rows):
                return self._layer(layer, container, _numbered(container, count), "rows", _NAME, rows)
        return None

    # Layers by structure.

    def _by_structure(self, name: str) -> MoELayer | None:
        if isinstance(self.modules[name], LISTS):
            members = self.tree.children.get(name, ())
            named = named_as_experts(self.tree, name)
            shared = any(self._is(self.roles.shared_experts, path) for path in ancestors(name))
            if shared or chooses(last(name)) or not alike(self.tree, members, nested=named):
                return None
            layer = self._of_list(name, "a name with 'expert' in it" if named else "members that are all alike")
            if not named:  # a router beside it may be another list's: its number of outputs tells
                others = {r for r in layer.routers if not self._counts(r, len(members), spare=False)}
                others &= {r for r in layer.routers if layer.evidence[r] == _NAME}
                layer = replace(layer, routers=tuple(r for r in layer.routers if r not in others))
            scored = layer.routers or layer.router_parameters
            return layer if named or (scored and not one_after_the_other(name)) else None
        if not name:
            return None
        if self._named(name, self.roles.routers):
            in_common = (self._tables(name), self._stacked(name, name))
            return next(filter(self._shown, in_common), None) or self._parallel(name, name)
        if (tables := self._tables(name)) is not None and counting_attribute(self.tree, name, len(tables.experts)):
            return tables
        if (parallel := self._parallel(name, name)) is not None:
            return parallel
        stacks = stacks_of(self.tree, name)
        return None if stacks is None else self._of_stacks(name, stacks)

    def _shown(self, layer: MoELayer | None) -> bool:
        """Whether more than the name of a module such as ``gate`` makes what lies beside it experts.

        That is a score for each of them, an attribute that counts them, a table of their ids, or a rule of the user's.
        """
        if layer is None:
            return False
        count = len(layer.experts)
        scored = any(count in outputs_of(self.modules[router]) for router in layer.routers) or layer.router_parameters
        given = self.roles.routers != Roles.routers
        return bool(scored or given or counts_experts(self.tree, layer.container, count))

    def _of_list(self, name: str, evidence: str) -> MoELayer:
        """The layer of the experts in a list; one of several lists is a layer of its own."""
        experts = self.tree.children[name]
        outermost = self._outermost_list(name)
        if outermost == name:
            return self._layer(parent(name), name, experts, "listed", evidence)
        layer = self._layer(name, name, experts, "listed", evidence)
        return replace(layer, shared_experts=self._named(parent(outermost), self.roles.shared_experts))

    def _outermost_list(self, name: str) -> str:
        """The list around all lists of one form that a list lies in: itself, if it lies in none.

        A layer may be a dictionary of lists, too: those have other parameters each.
        """
        while (around := parent(name)) and isinstance(self.modules[around], LISTS):
            beside = self.tree.children[around]
            if len(beside) > 1 and len({tuple(n for n, _ in self.tree.shapes(child)) for child in beside}) > 1:
                break
            name = around
        return name

    def _tables(self, name: str) -> MoELayer | None:
        """Experts in the rows of several embeddings of one size."""
        tables = tuple(n for n in self.tree.children.get(name, ()) if isinstance(self.modules[n], nn.Embedding))
        sizes = {tuple(self.modules[n].get_parameter("weight").shape) for n in tables}
        if len(tables) < 2 or len(sizes) != 1:
            return None
        numbered = _numbered(name, sizes.pop()[0])
        return self._layer(name, name, numbered, "rows", "embeddings of one size", tuple(f"{n}.weight" for n in tables))

    def _of_stacks(self, name: str, stacks: Stacks) -> MoELayer | None:
        evidence = f"parameters [{stacks.count}, ..., ...]" + (f"; {stacks.evidence}" if stacks.evidence else "")
        layer = self._layer(name, name, _numbered(name, stacks.count), "fused", evidence, tuple(stacks.parameters))
        if not layer.routers and not layer.router_parameters:
            around = parent(name)
            if isinstance(self.modules[around], LISTS):
                return layer if stacks.evidence else None
            beside = self._layer(around, name, layer.experts, "fused", evidence, layer.stacks)
            if not beside.routers and not beside.router_parameters:
                return layer if stacks.evidence else None
            layer = beside
        return layer

    def _parallel(self, name: str, container: str) -> MoELayer | None:
        """Experts spread over several lists in the container, with a router in the layer or around it."""
        members = parallel_lists(self.tree, container)
        if not members:
            return None
        lists = ", ".join(last(parent(path)) for path in members[0])
        evidence = f"{lists} hold {len(members)} entries each, one for each expert"
        for around in dict.fromkeys((name, parent(name))):
            layer = self.scored(around, container, len(members), "parallel", evidence, members=members)
            if layer is not None:
                return layer
        return None

    def counted(self, path: str, count: int) -> str:
        """An attribute that counts experts and holds ``count``, of a module or of the one around it."""
        return counting_attribute(self.tree, path, count)

    def scored(
        self,
        name: str,
        container: str,
        count: int,
        layout: Layout,
        evidence: str,
        stacks: tuple[str, ...] = (),
        members: tuple[tuple[str, ...], ...] = (),
    ) -> MoELayer | None:
        """The layer ``name`` of experts that are not modules each, if it has a router with an output for each."""
        if isinstance(self.modules[name], LISTS):
            return None
        layer = self._layer(name, container, _numbered(container, count), layout, evidence, stacks, members)
        counted = any(self._counts(router, count) for router in layer.routers)
        return layer if counted or layer.router_parameters else None

    # The rest of a layer.

    def _layer(
        self,
        name: str,
        container: str,
        experts: tuple[str, ...],
        layout: Layout,
        evidence: str,
        stacks: tuple[str, ...] = (),
        members: tuple[tuple[str, ...], ...] = (),
    ) -> MoELayer:
        beside = [child for child in self.tree.children.get(name, ()) if child != container]
        shared = [child for child in beside if self._is(self.roles.shared_experts, child)]
        if not shared and name != container:
            # A dense MLP in the very module that holds router and experts runs beside them.
            shared = [child for child in beside if re.search(r"^(mlp|ffn|feed_forward)$", last(child))]
        # Some families put the shared expert one level up, beside the whole MoE block.
        shared = shared or list(self._named(parent(name), self.roles.shared_experts))
        routers = tuple(child for child in beside if self._is(self.roles.routers, child))
        layer = MoELayer(name, container, experts, layout, routers, tuple(shared), stacks, members=members)
        scorers = Scorers() if any(self._counts(r, len(experts)) for r in routers) else self._scorers(layer)
        why = {container: evidence, **dict.fromkeys((*routers, *shared), _NAME), **dict(scorers.evidence)}
        return replace(
            layer,
            routers=tuple(dict.fromkeys((*routers, *scorers.modules))),
            router_parameters=scorers.parameters,
            evidence=why,
        )

    def _counts(self, router: str, count: int, *, spare: bool = True) -> bool:
        """Whether a router has an entry for each of so many experts; ``spare``: it may have some for what is none."""
        most = 2 * count if spare else count
        shapes = (shape for _, shape in self.tree.shapes(router) if len(shape) > 1)
        return any(count <= size <= most for shape in shapes for size in shape)

    def _scorers(self, layer: MoELayer) -> Scorers:
        """Scorers of a layer's experts, inside the layer or in the modules around it."""
        count = len(layer.experts)
        if layer.layout == "listed":
            inputs = input_sizes(self.tree, layer.experts[0])
        elif layer.layout == "parallel":
            inside = {n: p for holder in layer.holders for n, p in self.modules[holder].named_parameters(prefix=holder)}
            inputs = frozenset(n for p in inside.values() if p.dim() > 1 for n in p.shape)
        else:
            tensors = [self.modules[parent(s)].get_parameter(last(s)) for s in layer.stacks]
            inputs = frozenset(size for t in tensors for size in t.shape[1:])
        nested = layer.name == layer.container and isinstance(self.modules[layer.container], LISTS)
        outermost = self._outermost_list(layer.container) if nested else ""
        region = parent(outermost) if nested else layer.name
        beside = [len(self.tree.children.get(n, ())) for n in self.tree.children.get(region, ()) if nested]
        # A router of one list may score shared experts, which lie elsewhere, as well.
        counts = frozenset({count, *(count + more for more in beside), *(range(count, 2 * count) if nested else ())})
        own = {"listed": (layer.container,), "parallel": layer.holders}.get(layer.layout, layer.stacks)
        skip = {*own, *layer.shared_experts}
        scored = Scored(counts, inputs, frozenset(skip), layer.container[len(outermost) + 1 :] if nested else "")
        if scorers := find_scorers(self.tree, region, scored):
            return scorers
        outer = parent(region)
        if not region or isinstance(self.modules[outer], LISTS):
            return Scorers()
        return find_scorers(self.tree, outer, scored, named=True)

    def _with_borrowers(self, layer: MoELayer) -> MoELayer:
        """The layer with what stands beside its experts wherever else they are used: routers, shared experts."""
        holders = self.tree.parents.get(id(self.modules[layer.container]), ())
        others = [name for name in holders if name not in (layer.name, parent(layer.container))]
        routers = [router for name in others for router in self._named(name, self.roles.routers)]
        shared = [expert for name in others for expert in self._named(name, self.roles.shared_experts)]
        return replace(
            layer,
            routers=tuple(dict.fromkeys((*layer.routers, *routers))),
            shared_experts=tuple(dict.fromkeys((*layer.shared_experts, *shared))),
            evidence={**dict.fromkeys((*routers, *shared), _NAME), **layer.evidence},
        )


def _numbered(container: str, count: int) -> tuple[str, ...]:
    return tuple(f"{container}[{number}]" for number in range(count))
