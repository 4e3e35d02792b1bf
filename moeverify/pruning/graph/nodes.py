"""Torch-Pruning's nodes of a model: which layer or parameter, by which function, cuts which tensor's axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from torch_pruning.dependency import Node

from moeverify.coupling.relations import Trace
from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.coupling.tracing.opaque import INPUTS, OUTPUTS
from moeverify.errors import UsageError
from moeverify.pruning.graph.layer_functions import LayerFunctions
from moeverify.pruning.graph.live import Place
from moeverify.pruning.plan.apply import OwnFunction
from moeverify.pruning.plan.sites import Site, layer_side, site_of


@dataclass(frozen=True, eq=False)
class End:
    """One end of a dependency: Torch-Pruning's node and function, and the ``place`` (tensor, axis) they cut.

    ``span``: inputs per group of a grouped convolution, else 0. ``repeats``: its number of groups, else 1.
    """

    node: Node
    function: Callable
    place: Place
    output: bool
    repeats: int = 1
    span: int = 0

    @property
    def key(self) -> tuple[int, Any, int]:
        """Equal for ends that the same call cuts."""
        return id(self.node), getattr(self.function, "__func__", self.function), self.node.pruning_dim


class Dependencies(list):
    """The dependencies of a node; ``changes``, shared by all nodes, counts how often one was added or taken away."""

    def __init__(self, changes: list[int]) -> None:
        super().__init__()
        self._changes = changes

    def append(self, item: Any) -> None:
        """Add one dependency."""
        self._changes[0] += 1
        super().append(item)

    def extend(self, items: Iterable[Any]) -> None:
        """Add several."""
        self._changes[0] += 1
        super().extend(items)

    def __iadd__(self, items: Iterable[Any]) -> Dependencies:  # type: ignore[misc]
        self.extend(items)
        return self

    def clear(self) -> None:
        """Remove all dependencies."""
        self._changes[0] += 1
        super().clear()

    def remove(self, item: Any) -> None:
        """Take one away."""
        self._changes[0] += 1
        super().remove(item)


class Nodes:
    """All nodes of a model, made when they are first asked for.

    ``changes`` counts the dependencies that were added to nodes or taken away.
    """

    def __init__(self, model: nn.Module, functions: LayerFunctions, trace: Trace, axes: Mapping[int, int]) -> None:
        """``axes`` gives for a parameter's identity the one dimension along which it may be cut."""
        self._model, self._functions, self._trace = model, functions, trace
        self._given_axes = axes
        # Found while all modules are there: a removed expert takes its buffers along.
        self._loose_buffers = {name for name in trace.buffers if not site_of(model, name, 0).is_layer}
        self.names: dict[Any, str] = {module: name for name, module in model.named_modules()}
        self.names.update({parameter: name for name, parameter in model.named_parameters()})
        self._modules = dict(model.named_modules(remove_duplicate=False))  # a layer may have several names
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._changes = [0]
        self._axes: dict[Place, Node] = {}
        self._ends: dict[Place, End] = {}
        self.module2node: dict[Any, Node] = {}
        inside_opaque: set[nn.Module] = set()
        for name, module in model.named_modules():
            opaque = functions.is_opaque(module)
            has_weights = next(module.parameters(recurse=False), None) is not None
            if name and module not in inside_opaque and (opaque or has_weights):
                self.module2node[module] = self._node(module, name)
            if opaque:
                inside_opaque.update(module.modules())
        self._add_loose_parameters(inside_opaque)

    def _add_loose_parameters(self, inside_opaque: set[nn.Module]) -> None:
        """Make the node of every used parameter outside of torch's layers, as Torch-Pruning lists them."""
        unused = set(self._trace.untouched)
        for name, parameter in self._parameters.items():
            if self.canonical(name) != name or name in unused or self.owner(name) in inside_opaque:
                continue
            in_layer = any(site_of(self._model, name, axis).is_layer for axis in range(parameter.dim()))
            if parameter.dim() and not in_layer:
                self._end_of_parameter(name, self._default_axis(parameter))

    def name_of(self, target: Any) -> str:
        """The path of a layer or parameter. Raises ``ValueError`` for one of another model."""
        name = self.names.get(target) if isinstance(target, nn.Module | nn.Parameter) else None
        if name is None:
            kind = type(target).__name__
            raise ValueError(f"this {kind} is not part of the model that the dependency graph was built for")
        return name

    def owner(self, name: str) -> nn.Module:
        """The module that holds a parameter or buffer (or has the pseudo-tensor of an opaque layer)."""
        path = name.removesuffix(INPUTS).removesuffix(OUTPUTS)
        return self._modules[path] if path != name else self._modules[name.rpartition(".")[0]]

    def canonical(self, name: str) -> str:
        """The first name of a tied parameter."""
        return self._trace.aliases.get(name, name)

    def end(self, target: Any, function: Callable | None = None) -> End:
        """The end that a Torch-Pruning function (outputs if ``None``) cuts at a layer or parameter.

        ``target`` may also be a path, or a pair of a parameter's path and an axis.
        """
        if isinstance(target, tuple):
            name, axis = target
            return self.end_of_place((self.canonical(name), axis))
        if isinstance(target, str):
            item: Any = self._modules.get(target, self._parameters.get(target))
            if item is None:
                raise UsageError(f"the model has neither a module nor a parameter {target!r}")
            target = item
        name = self.name_of(target)
        output = function is None or self._functions.is_output(function)
        if isinstance(target, nn.Parameter):
            return self._end_of_parameter(name, self._default_axis(target))
        return self.end_of_name(name, output)

    def end_of_name(self, name: str, output: bool) -> End:
        """The end on one side of a layer by its path (or of a parameter, written ``path@axis``)."""
        parameter, _, axis = name.partition("@")
        if axis:
            return self._end_of_parameter(parameter, int(axis))
        if name in self._parameters:
            return self._end_of_parameter(name, self._default_axis(self._parameters[name]))
        layer = self._modules[name]
        if self._functions.is_opaque(layer):
            return self.end_of_place((name + (OUTPUTS if output else INPUTS), 0))
        tensors = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        for leaf, tensor in tensors:
            for axis_number in range(tensor.dim()):
                if layer_side(layer, leaf, axis_number) == output:
                    place = (f"{name}.{leaf}", axis_number)
                    return self._end_of_site(site_of(self._model, *place), place)
        side = "outputs" if output else "inputs"
        raise UsageError(f"{name} ({type(layer).__name__}) has no {side} that can be cut; give its parameter")

    def end_of_place(self, place: Place) -> End:
        """Node, pruning function and direction in Torch-Pruning's graph that cut one axis of a parameter or buffer."""
        end = self._ends.get(place)
        if end is None:
            name, axis = place
            layer = name.removesuffix(INPUTS).removesuffix(OUTPUTS)
            if layer != name:
                output = name.endswith(OUTPUTS)
                function = self._functions.side(self._modules[layer], output=output)
                end = End(self.module2node[self._modules[layer]], function, place, output)
            else:
                end = self._end_of_site(site_of(self._model, name, axis), place)
            if not end.span:  # of a grouped convolution's inputs, each cut changes the span
                self._ends[place] = end
        return end

    def end_of_node(self, node: Node, function: Callable) -> End:
        """The end that a function cuts at one of Torch-Pruning's nodes, which holds a parameter's axis."""
        if isinstance(node.module, nn.Parameter) and node.pruning_dim is not None and node.pruning_dim >= 0:
            return self.end((self.name_of(node.module), node.pruning_dim))
        return self.end(node.module, function)

    def places(self, end: End) -> list[Place]:
        """Every tensor's axis that the same call cuts: a layer's weight, bias and statistics."""
        layer = end.node.module
        if isinstance(layer, nn.Parameter) or self._functions.is_opaque(layer):
            return [end.place]
        tensors = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        name = self.name_of(layer)
        return [
            (self.canonical(f"{name}.{leaf}"), axis)
            for leaf, tensor in tensors
            for axis in range(tensor.dim())
            if layer_side(layer, leaf, axis) == end.output
        ]

    def ends(self, coupling: CouplingClass) -> Iterator[tuple[Member, End]]:
        """The members of a class with the layer or parameter that each is cut at; loose buffers are left out."""
        for member in coupling.members:
            if not self.is_loose_buffer(member.parameter):
                yield member, self.end_of_place((member.parameter, member.dim))

    def output_layers(self, coupling: CouplingClass) -> list[nn.Module]:
        """Layers whose outputs a class cuts."""
        ends = (end for _, end in self.ends(coupling))
        return [end.node.module for end in ends if end.output and isinstance(end.node.module, nn.Module)]

    def aliases(self, place: Place) -> list[End]:
        """Ends of other layers that hold the same tensor."""
        name, axis = place
        others = self._aliases.get(name, ())
        return [self._end_of_site(site_of(self._model, other, axis), (other, axis)) for other in others]

    @cached_property
    def _aliases(self) -> dict[str, list[str]]:
        result: dict[str, list[str]] = {}
        for other, first in self._trace.aliases.items():
            result.setdefault(first, []).append(other)
        return result

    def _end_of_site(self, site: Site, place: Place) -> End:
        canonical = (self.canonical(place[0]), place[1])
        if not site.is_layer:
            if place[0] not in self._parameters:
                raise UsageError(f"{place[0]} is a buffer; it is cut along with the parameters it belongs to")
            return self._end_of_parameter(*canonical)
        layer = self._modules[site.target]
        function = self._functions.side(layer, output=site.output)
        node = self.module2node.get(layer)
        if node is None:
            node = self.module2node[layer] = self._node(layer, site.target)
        return End(node, function, canonical, site.output, site.repeats, site.span)

    def _end_of_parameter(self, name: str, axis: int) -> End:
        place = (self.canonical(name), axis)
        parameter = self._parameters[place[0]]
        node = self._axes.get(place)
        if node is None:
            node = self._axes[place] = self._node(parameter, place[0])
            node.pruning_dim = axis
            self.module2node.setdefault(parameter, node)
        return End(node, self._functions.of(parameter).prune_out_channels, place, True)

    def _default_axis(self, parameter: nn.Parameter) -> int:
        """The dimension that the user named, else Torch-Pruning's choice: the last of more than one position."""
        if id(parameter) in self._given_axes:
            return self._given_axes[id(parameter)] % parameter.dim()
        return max((axis for axis, size in enumerate(parameter.shape) if size > 1), default=0)

    def entry(self, node: Node, function: Callable) -> tuple[str, bool]:
        """Name of a root in the history: a layer's path and side, or a parameter's as ``path@axis``."""
        name = self.name_of(node.module)
        if isinstance(node.module, nn.Parameter):
            return f"{name}@{node.pruning_dim}", True
        return name, self._functions.is_output(function)

    def is_loose_buffer(self, name: str) -> bool:
        """A buffer that no layer's pruning function covers."""
        return name in self._loose_buffers

    def _node(self, target: Any, name: str) -> Node:
        node = Node(target, None, name)
        node.dependencies = Dependencies(self._changes)
        return node

    @property
    def changes(self) -> int:
        """Number of changes to the dependencies of nodes."""
        return self._changes[0]

    def injected(self) -> list[Any]:
        """The dependencies that were added to the nodes, each once."""
        nodes = {id(node): node for node in (*self.module2node.values(), *self._axes.values())}
        return [dependency for node in nodes.values() for dependency in node.dependencies]

    def own_functions(self, size: Callable[[Place], int]) -> dict[str, OwnFunction]:
        """Opaque layers' pruning functions by the name of the channels that they cut; ``size`` counts those left."""
        result: dict[str, OwnFunction] = {}
        for layer, node in self.module2node.items():
            if isinstance(layer, nn.Module) and self._functions.is_opaque(layer):
                for side in (OUTPUTS, INPUTS):
                    name = self.names[layer] + side
                    function = self._functions.side(layer, output=side == OUTPUTS)
                    result[name] = OwnFunction(node.module, function, size((name, 0)))
        return result
