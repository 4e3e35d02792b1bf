"""Who is a routed expert, a router, a shared expert: by name and structure, or as the user says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

from torch import nn

from moeverify.base.patterns import check_pattern, matches
from moeverify.errors import UsageError
from moeverify.models.scorers import own_stacks, scorers_of_nested_list, scorers_of_stacks

Rule = str | Callable[[str, nn.Module], bool]
Layout = Literal["fused", "listed", "rows"]


@dataclass(frozen=True)
class Roles:
    """Naming rules: each a regular expression searched in the last part of a module's path, or a function of the
    whole path and the module.

    ``experts`` names the container of the routed experts (a ``ModuleList`` or a module that holds the parameters of
    all of them), ``routers`` and ``shared_experts`` the modules themselves. Example: ``Roles(experts="^bank$",
    routers=lambda path, module: path.endswith(".moe.choose"))``.

    Raises ``UsageError`` for a pattern that is not a regular expression.
    """

    experts: Rule = r"^(experts?|expert_list|expert_modules|moe_experts)$"
    routers: Rule = r"^(gate|router|gating|gate_network|router_gate|moe_gate|wg|shared_expert_gate)$"
    shared_experts: Rule = r"^(shared_(experts?|mlp|expert_mlp)|residual_mlp)$"

    def __post_init__(self) -> None:
        for role in ("experts", "routers", "shared_experts"):
            rule = getattr(self, role)
            if isinstance(rule, str):
                try:
                    check_pattern(rule)
                except ValueError as error:
                    raise UsageError(f"{role}={rule[:200]!r} cannot be used: {error}") from error
            elif not callable(rule):
                raise UsageError(f"{role} must be a regular expression or a function of (path, module)")

    def patterns(self) -> dict[str, str]:
        """The rules that are not the usual ones, as they can be written down.

        Raises ``UsageError`` for a rule that is a function.
        """
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if functions := [name for name, rule in given.items() if not isinstance(rule, str)]:
            raise UsageError(f"{functions[0]} is a function, which another process cannot be told; give a pattern")
        return given


@dataclass(frozen=True)
class MoELayer:
    """One MoE layer: paths of its modules.

    Where several layers use the same experts they are one, with the routers and shared experts of all of them.
    ``layout`` says how the routed experts are kept: ``listed`` as modules of their own (``experts`` are their
    paths), ``fused`` in parameters ``[experts, ..., ...]`` that leave each expert its own channels, ``rows`` in
    matrices whose rows belong to one expert after the other (``experts`` are ``container[number]`` in both cases).
    ``stacks`` names the parameters that hold all experts; it is empty for listed ones.
    """

    name: str
    container: str
    experts: tuple[str, ...]
    layout: Layout
    routers: tuple[str, ...]
    shared_experts: tuple[str, ...]
    stacks: tuple[str, ...] = ()

    @property
    def fused(self) -> bool:
        """Whether each expert's channels can be chosen apart although one parameter holds all of them."""
        return self.layout == "fused"

    @property
    def holders(self) -> tuple[str, ...]:
        """The modules that own the experts' parameters: the experts themselves if listed."""
        if self.layout == "listed":
            return self.experts
        return tuple(dict.fromkeys(stack.rpartition(".")[0] for stack in self.stacks))


@dataclass(frozen=True)
class FoundRoles:
    """All MoE layers of a model, in the order of its modules.

    ``notes`` say what could not be found; ``unrecognised`` are the paths of modules named as experts whose layout is
    not known. ``outside`` are modules that stand inside a container of stacked experts and hold no stack themselves,
    such as its router or a projection that all experts share.
    """

    layers: tuple[MoELayer, ...]
    notes: tuple[str, ...] = ()
    unrecognised: tuple[str, ...] = ()
    outside: frozenset[str] = frozenset()

    @property
    def experts(self) -> tuple[str, ...]:
        """Every routed expert."""
        return tuple(e for layer in self.layers for e in layer.experts)

    @property
    def routers(self) -> tuple[str, ...]:
        """Every router."""
        return tuple(r for layer in self.layers for r in layer.routers)

    @property
    def shared_experts(self) -> tuple[str, ...]:
        """Every shared expert."""
        return tuple(s for layer in self.layers for s in layer.shared_experts)

    @cached_property
    def _boundaries(self) -> dict[str, str]:
        found = {}
        for layer in self.layers:
            for holder in layer.holders:
                found[holder] = holder if layer.layout == "listed" else layer.container
        return found

    @cached_property
    def _shared(self) -> frozenset[str]:
        return frozenset(self.shared_experts)

    def boundary(self, name: str) -> str | None:
        """The routed expert that a module or parameter path lies in: ``None`` outside, the container where one
        parameter holds all experts.
        """
        beside = False
        for path in _ancestors(name):
            beside = beside or path in self.outside
            if path in self._boundaries and not (beside and path not in self._listed):
                return self._boundaries[path]
        return None

    @cached_property
    def _listed(self) -> frozenset[str]:
        return frozenset(e for layer in self.layers if layer.layout == "listed" for e in layer.experts)

    @cached_property
    def _layers(self) -> dict[str, MoELayer]:
        return {
            boundary: layer
            for layer in self.layers
            for boundary in (layer.experts if layer.layout == "listed" else (layer.container,))
        }

    def layer_of(self, boundary: str) -> MoELayer | None:
        """The MoE layer that a boundary belongs to: a listed expert, or the container of those in common parameters."""
        return self._layers.get(boundary)

    def shared(self, name: str) -> str | None:
        """The shared expert that a path lies in, if any."""
        return next((p for p in _ancestors(name) if p in self._shared), None)


def _ancestors(name: str) -> Iterator[str]:
    """The path itself and every path above it, innermost first."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def fused_expert_count(module: nn.Module) -> int:
    """Number of experts of a module whose own parameters are stacked ``[experts, ..., ...]``; 0 if it is none."""
    stacked = [p for p in module._parameters.values() if p is not None and p.dim() == 3]
    return min(p.shape[0] for p in stacked) if len(stacked) >= 2 else 0


_IN_FORCE: ContextVar[Roles | None] = ContextVar("roles", default=None)


@contextlib.contextmanager
def roles_in_force(roles: Roles | None) -> Iterator[None]:
    """Let ``find_roles`` use these rules wherever it is given none, so that a pruner and its checks see the same."""
    token = _IN_FORCE.set(roles)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def find_roles(model: nn.Module, roles: Roles | None = None) -> FoundRoles:
    """Find the MoE layers of ``model``: containers named as experts first, then what has the structure of one.

    Without ``roles`` those in force count, or the usual names.

    Structure: a module with a router that also holds stacked parameters of one size, or a ``ModuleList`` of modules
    that are all alike beside a linear layer with one output for each of them.
    """
    return _Search(model, roles or _IN_FORCE.get() or Roles()).run()


class _Search:
    def __init__(self, model: nn.Module, roles: Roles) -> None:
        self.modules = dict(model.named_modules())
        self.parameters = _first_names(self.modules)
        self.roles = roles
        self.children: dict[str, list[str]] = {}
        for name in self.modules:
            if name:
                self.children.setdefault(_parent(name), []).append(name)
        self.parents: dict[int, list[str]] = {}
        for name, module in self.modules.items():
            for child in module._modules.values():
                self.parents.setdefault(id(child), []).append(name)

    def run(self) -> FoundRoles:
        layers: list[MoELayer] = []
        notes, unrecognised = [], []
        for name in self.modules:
            if name and self._is(self.roles.experts, name):
                layer = self._container(name)
                if layer is not None:
                    layers.append(layer)
                elif not any(_parent(name) in _ancestors(other.container) for other in layers):
                    unrecognised.append(name)
        taken = {p for layer in layers for p in (layer.container, layer.name, *layer.shared_experts)}
        for name in self.modules:
            if not any(p in taken for p in _ancestors(name)) and (layer := self._by_structure(name)) is not None:
                layers.append(layer)
                taken |= {layer.container, layer.name}
                notes.append(f"{layer.container}: experts recognised by structure, not by name")
        layers = [self._with_borrowers(layer) for layer in layers]
        order = {name: position for position, name in enumerate(self.modules)}
        layers.sort(key=lambda layer: order[layer.container])
        found = {p for layer in layers for p in _ancestors(layer.container)}
        unrecognised = [name for name in unrecognised if name not in found]
        notes += [
            f"{name} is named as experts but holds {self._held(name)}, neither several modules nor stacked parameters"
            for name in unrecognised
        ]
        notes += [f"{layer.name}: no router found beside its experts" for layer in layers if not layer.routers]
        if not layers:
            notes.append("no routed experts found; name them with Roles(experts=...)")
        return FoundRoles(tuple(layers), tuple(notes), tuple(unrecognised), frozenset(self._outside(layers)))

    def _held(self, name: str) -> str:
        lists = [n for n in self.children.get(name, ()) if isinstance(self.modules[n], nn.ParameterList)]
        return f"lists of parameters ({_last(lists[0])}, ...)" if lists else "something else"

    def _outside(self, layers: Iterable[MoELayer]) -> Iterator[str]:
        """Modules inside containers of stacked experts that hold no stack."""
        for layer in layers:
            if layer.layout != "listed":
                inside = {p for holder in layer.holders for p in _ancestors(holder)}
                for holder in layer.holders:
                    yield from (child for child in self.children.get(holder, ()) if child not in inside)

    def _is(self, rule: Rule, name: str) -> bool:
        if not isinstance(rule, str):
            return bool(rule(name, self.modules[name]))
        try:
            return matches(rule, _last(name))
        except TimeoutError as error:
            raise UsageError(
                f"the pattern {rule!r} takes too long on {_last(name)[:80]!r}; leave out repeats within repeats"
            ) from error

    def _container(self, name: str) -> MoELayer | None:
        """The MoE layer whose experts a module named as their container holds."""
        module = self.modules[name]
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            experts = self._listed_experts(name)
            return self._layer(_parent(name), name, experts, "listed") if len(experts) > 1 else None
        if (inner := self._only_list(name)) is not None:
            return self._layer(_parent(name), inner, self._listed_experts(inner), "listed")
        inside = any(self._is(self.roles.routers, child) for child in self.children.get(name, ()))
        return self._stacked(name if inside else _parent(name), name)

    def _listed_experts(self, name: str) -> tuple[str, ...]:
        """The children of a list but for helpers, such as a dropout that all experts use.

        A child without weights is a helper if the router chooses among the others alone; else it may be an expert that
        does nothing.
        """
        children = tuple(self.children.get(name, ()))
        weighty = tuple(c for c in children if any(True for _ in self.modules[c].parameters()))
        routers = [self.modules[r] for r in self._named(_parent(name), self.roles.routers)]
        choices = {n for r in routers for p in r.parameters() if p.dim() == 2 for n in p.shape}
        return weighty if len(weighty) in choices and len(children) not in choices else children

    def _only_list(self, name: str) -> str | None:
        """The one list of modules that a module named as experts holds, if it holds no weights besides."""
        lists = [n for n in self.children.get(name, ()) if isinstance(self.modules[n], nn.ModuleList | nn.ModuleDict)]
        if len(lists) != 1 or len(self.modules[lists[0]]._modules) < 2:
            return None
        inside = sum(1 for _ in self.modules[lists[0]].parameters())
        forms = {tuple(tuple(p.shape) for p in m.parameters()) for m in self.modules[lists[0]].children()}
        return lists[0] if len(forms) == 1 and inside == sum(1 for _ in self.modules[name].parameters()) else None

    def _stacked(self, layer: str, container: str) -> MoELayer | None:
        """Experts kept in common parameters of the container or of modules in it."""
        own = {f"{container}.{n}" if container else n: p for n, p in self.modules[container].named_parameters()}
        own = {n: p for n, p in own.items() if n in self.parameters}  # experts shared with another layer are that one's
        routers = self._named(layer, self.roles.routers)
        own = {n: p for n, p in own.items() if not any(r in _ancestors(n) for r in routers)}
        blocks = {n: p for n, p in own.items() if p.dim() == 3}
        if len(blocks) >= 2 and (count := min(p.shape[0] for p in blocks.values())) > 1:
            stacks = tuple(n for n, p in own.items() if n in blocks or (p.dim() == 2 and p.shape[0] == count))
            return self._layer(layer, container, _numbered(container, count), "fused", stacks)
        counts = {p.shape[0] for r in routers for p in self.modules[r].parameters() if p.dim() == 2}
        for count in sorted(counts - {0, 1}):
            rows = tuple(
                n
                for n, p in own.items()
                if p.dim() == 2
                and p.shape[0] % count == 0
                and not isinstance(self.modules[_parent(n)], nn.ParameterList)  # one entry for each expert instead
            )
            if len(rows) >= 2 and self._alike(rows):
                return self._layer(layer, container, _numbered(container, count), "rows", rows)
        return None

    def _alike(self, parameters: tuple[str, ...]) -> bool:
        """Whether parameters have one shape, and the linear layers of an ordinary MLP are not among them."""
        owners = [self.modules[_parent(n)] for n in parameters]
        shapes = {tuple(o.get_parameter(_last(n)).shape) for o, n in zip(owners, parameters, strict=True)}
        return len(shapes) == 1 and not any(isinstance(owner, nn.Linear) for owner in owners)

    def _by_structure(self, name: str) -> MoELayer | None:
        module = self.modules[name]
        if isinstance(module, nn.ModuleList) and len(module) > 1:
            experts = tuple(self.children.get(name, ()))
            if self._interchangeable(experts) and (routers := self._scorers(name, experts)):
                if isinstance(self.modules[_parent(name)], nn.ModuleList):  # one of several lists: a layer of its own
                    layer = self._layer(name, name, experts, "listed", routers=routers)
                    around = _parent(_parent(name))
                    return replace(layer, shared_experts=self._named(around, self.roles.shared_experts))
                return self._layer(_parent(name), name, experts, "listed", routers=routers)
        elif name and self._named(name, self.roles.routers):
            tables = tuple(n for n in self.children[name] if isinstance(self.modules[n], nn.Embedding))
            sizes = {self.modules[n].weight.shape for n in tables}
            if len(tables) >= 2 and len(sizes) == 1:
                stacks = tuple(f"{n}.weight" for n in tables)
                return self._layer(name, name, _numbered(name, sizes.pop()[0]), "rows", stacks)
            return self._stacked(name, name)
        elif name and (stacks := own_stacks(self.modules, self.children, name)):
            stacks = {n: p for n, p in stacks.items() if n in self.parameters}
            routers = scorers_of_stacks(self.modules, self.children, name, stacks) if len(stacks) > 1 else ()
            if routers:
                inside = all(r.startswith(f"{name}.") for r in routers)
                numbered = _numbered(name, next(iter(stacks.values())).shape[0])
                return self._layer(name if inside else _parent(name), name, numbered, "fused", tuple(stacks), routers)
        return None

    def _interchangeable(self, experts: tuple[str, ...]) -> bool:
        """Whether modules have the same parameters, among them two matrices, and no layers of their own."""
        forms = {tuple((n, tuple(p.shape)) for n, p in self.modules[e].named_parameters()) for e in experts}
        if len(forms) != 1 or sum(len(shape) == 2 for _, shape in next(iter(forms))) < 2:
            return False
        return not any(isinstance(m, nn.ModuleList) for m in self.modules[experts[0]].modules())

    def _scorers(self, name: str, experts: tuple[str, ...]) -> tuple[str, ...]:
        """Linear layers beside a list with one output for each expert and the experts' input size."""
        parent = _parent(name)
        inputs = {p.shape[1] for p in self.modules[experts[0]].parameters() if p.dim() == 2}
        linears = {n: m for n in self.children.get(parent, ()) if isinstance(m := self.modules[n], nn.Linear)}
        found = tuple(n for n, m in linears.items() if m.out_features == len(experts) and m.in_features in inputs)
        return found or scorers_of_nested_list(self.modules, self.children, name, inputs)

    def _named(self, parent: str, rule: Rule) -> tuple[str, ...]:
        return tuple(child for child in self.children.get(parent, ()) if self._is(rule, child))

    def _with_borrowers(self, layer: MoELayer) -> MoELayer:
        """The layer with what stands beside its experts wherever else they are used: routers, shared experts."""
        holders = self.parents.get(id(self.modules[layer.container]), ())
        others = [name for name in holders if name not in (layer.name, _parent(layer.container))]
        routers = (router for name in others for router in self._named(name, self.roles.routers))
        shared = (expert for name in others for expert in self._named(name, self.roles.shared_experts))
        return replace(
            layer,
            routers=tuple(dict.fromkeys((*layer.routers, *routers))),
            shared_experts=tuple(dict.fromkeys((*layer.shared_experts, *shared))),
        )

    def _layer(
        self,
        name: str,
        container: str,
        experts: tuple[str, ...],
        layout: Layout,
        stacks: tuple[str, ...] = (),
        routers: tuple[str, ...] = (),
    ) -> MoELayer:
        beside = [child for child in self.children.get(name, ()) if child != container]
        shared = [child for child in beside if self._is(self.roles.shared_experts, child)]
        if not shared and name != container:
            # A dense MLP in the very module that holds router and experts runs beside them.
            shared = [child for child in beside if re.search(r"^(mlp|ffn|feed_forward)$", _last(child))]
        # Some families put the shared expert one level up, beside the whole MoE block.
        shared = shared or list(self._named(_parent(name), self.roles.shared_experts))
        routers = routers or tuple(child for child in beside if self._is(self.roles.routers, child))
        return MoELayer(name, container, experts, layout, routers, tuple(shared), stacks)


def _first_names(modules: Mapping[str, nn.Module]) -> set[str]:
    """Each parameter's first name."""
    names: dict[int, str] = {}
    for path, module in modules.items():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), f"{path}.{name}" if path else name)
    return set(names.values())


def _numbered(container: str, count: int) -> tuple[str, ...]:
    return tuple(f"{container}[{number}]" for number in range(count))
