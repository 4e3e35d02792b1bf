"""Torch-Pruning's dependency graph, with groups from traced couplings instead of autograd node names."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch_pruning as tp
from torch import nn
from torch_pruning import ops
from torch_pruning.dependency import Dependency

from moeverify.coupling.classify import PruningClass, classify
from moeverify.coupling.couplings import with_fixed_heads
from moeverify.coupling.layouts import traced_roles
from moeverify.coupling.solving.solve import solve
from moeverify.errors import BoundaryRefused, UsageError
from moeverify.models.roles import Roles
from moeverify.models.wrappers import unwrapped
from moeverify.pruning.graph.account import Account, Accounted
from moeverify.pruning.graph.group_search import GroupSearch
from moeverify.pruning.graph.groups import PruningGroup
from moeverify.pruning.graph.history import end_of, experts_cut, follow_plan
from moeverify.pruning.graph.injection import index_mapping
from moeverify.pruning.graph.layer_functions import LayerFunctions
from moeverify.pruning.graph.live import Place, renumber
from moeverify.pruning.graph.nodes import Nodes
from moeverify.pruning.graph.roots import is_ignored, layer_roots, root_of
from moeverify.pruning.graph.traced import ShowsTraced, TracedModel
from moeverify.pruning.graph.walk import GUARDS, MAX_EXPANSIONS
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.plan.sites import is_depthwise


class MoEDependencyGraph(Accounted, ShowsTraced, tp.DependencyGraph):
    """A ``tp.DependencyGraph`` that ends on every model and never crosses an expert boundary.

    After ``build_dependency``, ``classes`` holds the coupling classes with their roles and ``couplings`` the whole
    result of the trace. ``expansions`` counts the steps of all groups so far. ``last_cycle`` is the last path that
    closed while one was built. ``crossings`` are the steps that the expert boundary stopped.

    Args:
        max_expansions: bound on the steps while one group is built. Past it a warning is given, ``overflowed`` is
            set and no group comes out.
        roles: names of experts, routers and shared experts where the usual ones do not find them.
        guards: those of ``moeverify.pruning.graph.walk``; left out only to show what each is for.
        heads_whole: look into torch's own attention and cut its heads whole. Without, it is one layer with
            Torch-Pruning's function, which makes heads smaller.
        held_heads: projections that keep their number of heads. Channels inside of them can be cut, alike in each.

    Raises:
        UsageError: a bound below one, or an unknown guard.

    Example::

        graph = MoEDependencyGraph().build_dependency(model, {"input_ids": ids})
        group = graph.get_pruning_group(model.model.layers[0].mlp.up_proj, tp.prune_linear_out_channels, [0, 1])
        if graph.check_pruning_group(group):
            group.prune()

    """

    def __init__(
        self,
        max_expansions: int = MAX_EXPANSIONS,
        roles: Roles | None = None,
        *,
        guards: Iterable[str] = GUARDS,
        heads_whole: bool = False,
        held_heads: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__()
        if max_expansions < 1:
            raise UsageError(f"max_expansions must be a positive number, not {max_expansions!r}")
        self.functions = LayerFunctions(
            self.CUSTOMIZED_PRUNERS,
            super().get_pruner_of_module,
            self.is_out_channel_pruning_fn,
            heads_whole=heads_whole,
        )
        self._held_layers = tuple(held_heads)
        self.guards = frozenset(guards)
        if unknown := self.guards - GUARDS:
            raise UsageError(f"unknown guard {sorted(unknown)[0]!r}; the guards are {', '.join(sorted(GUARDS))}")
        self.roles = roles
        self.account = Account(max_expansions)
        self.held_heads: list[Place] = []

    def build_dependency(
        self,
        model: nn.Module,
        example_inputs: Any,
        forward_fn: Callable | None = None,
        output_transform: Callable | None = None,
        unwrapped_parameters: Mapping[nn.Parameter, int] | Sequence[tuple[nn.Parameter, int]] | None = None,
        customized_pruners: Mapping[Any, tp.pruner.function.BasePruningFunc] | None = None,
        ignored_layers: Sequence[nn.Module] | None = None,
        ignored_params: Sequence[nn.Parameter] | None = None,
        verbose: bool = True,
    ) -> MoEDependencyGraph:
        """Trace ``model`` once and find its coupling classes. Works under ``torch.no_grad``.

        The model is in evaluation mode afterwards, as with Torch-Pruning.

        Args:
            model: the model to trace.
            example_inputs: a mapping (keywords), a sequence (positions) or one tensor.
            forward_fn: ``forward_fn(model, example_inputs)`` in place of the usual call.
            output_transform: picks the part of the output that counts as the model's output.
            unwrapped_parameters: the one dimension along which a parameter may be cut, by parameter.
            customized_pruners: pruning functions of the user's, by layer or type of layers.
            ignored_layers: layers that stay as they are, with all that is coupled to their outputs.
            ignored_params: parameters that stay as they are.
            verbose: warn of operations without a rule.

        Returns:
            The graph itself.

        Raises:
            TraceError: the forward fails.

        """
        self.verbose = verbose
        self.model = model = unwrapped(model)
        for kind, function in (customized_pruners or {}).items():
            self.register_customized_layer(kind, function)
        self.IGNORED_LAYERS_IN_TRACING.extend(ignored_layers or [])
        self.ignored_params = list(ignored_params or [])
        pairs = unwrapped_parameters.items() if isinstance(unwrapped_parameters, Mapping) else unwrapped_parameters
        self.unwrapped_parameters = list(pairs or [])
        self.found_roles, couplings = traced_roles(
            model,
            example_inputs,
            roles=self.roles,
            forward_fn=forward_fn,
            output_transform=output_transform,
            opaque=self.functions.opaque_layers(model),
            held=self._held_dimensions(),
            unused=self._may_stay(),
        )
        axes = {id(parameter): dim for parameter, dim in self.unwrapped_parameters}
        nodes = Nodes(model, self.functions, couplings.trace, axes)
        self.held_heads = [nodes.end(layer).place for layer in self._held_layers]
        couplings = with_fixed_heads(couplings, self.held_heads)
        self.traced = TracedModel(model, self.found_roles, couplings, nodes, self._pruning_history)
        self._search = GroupSearch(self.traced, self, self.account, self.guards)
        self._classes: tuple[tuple[int, int], tuple[PruningClass, ...]] | None = None
        if verbose and (unknown := couplings.unknown_operations):
            names = ", ".join(sorted(unknown))
            warnings.warn(f"operations without a rule freeze the dimensions that they touch: {names}", stacklevel=2)
        model.eval()  # scripts rely on it: a BatchNorm takes a single row only in this mode
        return self

    @property
    def _param_to_name(self) -> dict[nn.Parameter, str]:
        return {p: n for n, p in self.model.named_parameters()}

    @property
    def classes(self) -> tuple[PruningClass, ...]:
        """The coupling classes with their roles, as the model is now; injected dependencies join units."""
        state = (self.nodes.changes, self.live.version)
        if self._classes is None or self._classes[0] != state:
            classes = self.couplings.classes
            if state[0]:
                classes, _ = solve(self.couplings.trace, self.couplings.links, self._search.injected_pairs())
            classified = classify(self.model, classes, self.found_roles, self.couplings)
            self._classes = state, renumber(classified, self.live)
        return self._classes[1]

    @property
    def layers_apart(self) -> list[str]:
        """Paths of the layers that are cut by functions of the user's."""
        result = {self.name_of(function.layer) for function in self.own_functions().values()}
        return sorted(name for name in result if not isinstance(self.model.get_submodule(name), nn.MultiheadAttention))

    def _may_stay(self) -> set[str]:
        """Parameters that the user leaves unpruned; the forward may not use them."""
        ignored = {id(p) for m in self.ignored_modules(()) for p in m.parameters(recurse=False)}
        ignored.update(id(p) for p in self.ignored_params)
        return {name for name, parameter in self.model.named_parameters() if id(parameter) in ignored}

    def _held_dimensions(self) -> list[tuple[str, int, str]]:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [
            (names[id(parameter)], axis, f"only dimension {dim} of it was given as prunable")
            for parameter, dim in self.unwrapped_parameters
            for axis in range(parameter.dim())
            if axis != dim % parameter.dim()
        ]

    def get_pruner_of_module(self, module: Any) -> Any:
        """The functions that prune a layer: its own registered ones first, then those of its nearest type."""
        return self.functions.of(module)

    def boundary(self, module: nn.Module | str) -> str | None:
        """The routed expert that a module (or path) belongs to, ``None`` outside the experts.

        Shared experts and routers are outside; all fused experts of a layer share their module's name.
        """
        return self.found_roles.boundary(module if isinstance(module, str) else self.name_of(module))

    def inject(
        self,
        source: Any,
        target: Any,
        mapping: Callable[[int], int | Iterable[int] | None] | None = None,
        *,
        trigger: Callable | None = None,
        handler: Callable | None = None,
        both_ways: bool = False,
    ) -> Dependency:
        """Add a dependency: pruning ``source`` prunes ``target`` as well.

        Args:
            source: a layer or parameter, or its path.
            target: the same.
            mapping: returns for a position of the source that of the target, several, or ``None``. Without it they
                are the same.
            trigger: Torch-Pruning's function on the source; outputs if not given.
            handler: Torch-Pruning's function on the target; outputs if not given.
            both_ways: add the same dependency backwards, position by position.

        Returns:
            The dependency that was added.

        """
        first, second = self.nodes.end(source, trigger), self.nodes.end(target, handler)
        dependency = Dependency(first.function, second.function, first.node, second.node)
        if mapping is not None:
            dependency.index_mapping[0] = index_mapping(mapping)
        first.node.dependencies.append(dependency)
        if both_ways:
            back = Dependency(second.function, first.function, second.node, first.node)
            if mapping is not None:
                back.index_mapping[0] = index_mapping(self._search.inverse(mapping, first.place))
            second.node.dependencies.append(back)
        return dependency

    def place_of(self, module: Any, pruning_fn: Callable) -> Place:
        """The tensor and axis that a pruning function cuts at a layer or parameter."""
        return self.nodes.end(module, pruning_fn).place

    def get_pruning_group(
        self, module: Any, pruning_fn: Callable, idxs: Sequence[int] | int, *, place: Place | None = None
    ) -> PruningGroup:
        """The group that removes channels of a layer or parameter, and everything coupled with them.

        The model's own inputs and outputs can be pruned this way, and only this way.

        Args:
            module: the layer or parameter.
            pruning_fn: Torch-Pruning's function that cuts it.
            idxs: the channels. They are completed: heads go whole.
            place: the axis of a parameter that has several.

        Raises:
            ValueError: a module outside the graph.
            PruningRefused: channels that are frozen or would take two routed experts along, or an expansion that
                overflows.

        """
        if isinstance(module, nn.Module) and is_depthwise(module):
            pruning_fn = tp.prune_depthwise_conv_out_channels
        end = self.nodes.end(module, pruning_fn) if place is None else self.nodes.end_of_place(place)
        positions = _positions(idxs)
        positions = positions % end.span if end.span else positions
        original = self.live.original(end.place, positions)
        return self._search.group(end, original, original, interface=True)

    def group_of(self, pruning_class: PruningClass, units: Sequence[int] | None = None) -> PruningGroup:
        """A group that removes ``units`` of a class (all if not given); the root index of a position is its unit.

        Raises ``PruningRefused`` if the expansion overflows or would take another routed expert along.
        """
        return self._search.group(*root_of(self.nodes, self.live, pruning_class, units), units=True)

    def must_expand(self, pruning_class: PruningClass) -> None:
        """Raise as ``group_of`` does for a class that has no group, and make none."""
        self._search.expand(*root_of(self.nodes, self.live, pruning_class))

    def group_at(self, place: Place, original: np.ndarray) -> PruningGroup:
        """The group of positions as they were numbered when the model was traced."""
        return self._search.group(self.nodes.end_of_place(place), original, original)

    def get_all_groups(
        self,
        ignored_layers: Sequence[nn.Module] = (),
        root_module_types: Sequence[Any] = (ops.TORCH_CONV, ops.TORCH_LINEAR),
    ) -> Iterator[PruningGroup]:
        """One full group for each layer of these types whose outputs can be cut and were in no group before.

        A matrix outside of torch's layers, such as fused experts, counts as a linear layer. No group cuts an ignored
        layer's outputs, nor the model's own: cutting those changes what the model answers.
        """
        roots = layer_roots(
            self.nodes,
            self.classes,
            types=root_module_types,
            ignored=lambda found: self.is_ignored(found, ignored_layers),
        )
        for place, positions in roots.items():
            with contextlib.suppress(BoundaryRefused):  # it would take two routed experts along
                yield self.group_at(place, self.live.original(place, positions))

    def ignored_modules(self, layers: Sequence[nn.Module]) -> set[nn.Module]:
        """``layers`` and those given to ``build_dependency``, with everything inside them."""
        return {m for layer in (*layers, *self.IGNORED_LAYERS_IN_TRACING) for m in layer.modules()}

    def is_ignored(self, pruning_class: PruningClass, ignored_layers: Sequence[nn.Module]) -> bool:
        """Whether a class cuts the outputs of an ignored layer (or of a layer inside it) or an ignored parameter."""
        return is_ignored(self.nodes, pruning_class, self.ignored_modules(ignored_layers), self.ignored_params)

    def check_pruning_group(self, group: PruningGroup) -> bool:
        """Whether something is left of every layer and parameter after the group is pruned."""
        return all(len(gone) < self.live.size(place) for place, gone in group.removed().items())

    def carried_out(self, plan: Plan) -> None:
        """Note that ``plan`` was applied to the model: positions and history follow, cut by cut."""
        follow_plan(self.traced, plan)

    def load_pruning_history(self, pruning_history: Sequence[Sequence[Any]]) -> None:
        """Prune again what a history (of ``pruning_history()``) lists, in its order.

        Raises ``UsageError``, before anything is changed, for a layer or parameter that the model does not have.
        """
        ends = [end_of(self.nodes, name, is_output) for name, is_output, _ in pruning_history]
        for end, (_, _, indices) in zip(ends, pruning_history, strict=True):
            if indices and isinstance(indices[0], list):
                self.traced.cut_experts(experts_cut(self.classes, end.place, indices))
            else:
                group = self.get_pruning_group(end.node.module, end.function, indices, place=end.place)
                group.prune(record_history=False)
        self._pruning_history[:] = [list(entry) for entry in pruning_history]


def _positions(idxs: Iterable[Any] | int) -> np.ndarray:
    """One number or several, of any library, as an array."""
    try:
        return np.array([int(i) for i in idxs], dtype=np.int64)  # type: ignore[union-attr]
    except TypeError:  # a number, or a tensor that holds one
        return np.array([int(idxs)], dtype=np.int64)  # type: ignore[arg-type]
