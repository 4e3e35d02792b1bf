"""Torch-Pruning's dependency graph, with groups from traced couplings instead of autograd node names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning import _helpers, ops
from torch_pruning.dependency import Dependency, Group, Node

from moeverify.coupling.couplings import trace_couplings
from moeverify.errors import PruningRefused, UsageError
from moeverify.pruning.classes import PruningClass, classify
from moeverify.roles import Roles, find_roles

MAX_EXPANSIONS = 200_000

# (module type, parameter, dimension) -> whether Torch-Pruning calls it an output.
_SIDES = {
    (nn.Linear, "weight", 0): True,
    (nn.Linear, "weight", 1): False,
    (nn.Embedding, "weight", 1): True,
    (nn.LayerNorm, "weight", 0): True,
}


class MoEDependencyGraph(tp.DependencyGraph):
    """A ``tp.DependencyGraph`` that ends on every model and never crosses an expert boundary.

    ``max_expansions`` bounds the members visited while one group is built; past it a warning is given, the
    expansion is recorded in ``overflowed`` and no group comes out. ``classes`` holds the coupling classes with
    their roles, ``couplings`` the whole result of the trace.
    """

    def __init__(self, max_expansions: int = MAX_EXPANSIONS, roles: Roles | None = None) -> None:
        super().__init__()
        self.max_expansions = max_expansions
        self.roles = roles
        self.expansions = 0
        self.overflowed = False

    def build_dependency(  # type: ignore[override]
        self,
        model: nn.Module,
        example_inputs: Any,
        forward_fn: Callable | None = None,
        output_transform: Callable | None = None,
        ignored_params: Sequence[nn.Parameter] | None = None,
        verbose: bool = True,
    ) -> MoEDependencyGraph:
        """Trace ``model`` once and find its coupling classes. Works under ``torch.no_grad``."""
        self.verbose = verbose
        self.model = model
        self.ignored_params = list(ignored_params or [])
        self._module2name = {module: name for name, module in model.named_modules()}
        self._param_to_name = {p: n for n, p in model.named_parameters()}
        self.found_roles = find_roles(model, self.roles)
        self.couplings = trace_couplings(
            model, example_inputs, roles=self.roles, forward_fn=forward_fn, output_transform=output_transform
        )
        self.classes = classify(model, self.couplings.classes, self.found_roles)
        self.module2node = {module: Node(module, None, name) for name, module in model.named_modules() if name}
        self._parameters = dict(model.named_parameters())
        return self

    def boundary(self, module: nn.Module | str) -> str | None:
        """The routed expert that a module (or path) belongs to, ``None`` outside the experts (G4)."""
        name = module if isinstance(module, str) else self._module2name[module]
        return self.found_roles.boundary(name)

    def _site(self, parameter: str, dim: int) -> tuple[Any, Callable] | None:
        """The object and Torch-Pruning function that prune ``dim`` of ``parameter``; ``None`` if another does."""
        owner_name, _, leaf = parameter.rpartition(".")
        owner = self.model.get_submodule(owner_name)
        for (kind, attribute, axis), is_output in _SIDES.items():
            if isinstance(owner, kind) and leaf == attribute and dim == axis:
                functions = self.get_pruner_of_module(owner)
                return owner, functions.prune_out_channels if is_output else functions.prune_in_channels
        if leaf == "bias" and isinstance(owner, nn.Linear | nn.LayerNorm):
            return None  # goes with the weight
        return self._parameters[parameter], tp.prune_parameter_out_channels

    def group_of(self, pruning_class: PruningClass, units: Sequence[int]) -> Group:
        """A Torch-Pruning group that removes ``units`` of a class; the root index of a position is its unit."""
        group = Group()
        group._DG = self
        expansions = 0
        for member in pruning_class.coupling.members:
            expansions += 1
            if expansions > self.max_expansions:
                self.overflowed = True
                warnings.warn(
                    f"Dependency expansion overflow: more than {self.max_expansions} members in the group of "
                    f"{pruning_class.name}; the group was dropped",
                    stacklevel=2,
                )
                raise PruningRefused(
                    f"the group of {pruning_class.name} exceeds max_expansions={self.max_expansions}; raise it"
                )
            site = None if member.buffer else self._site(member.parameter, member.dim)
            if site is None:
                continue
            target, handler = site
            node = Node(target, None, member.parameter)
            node.pruning_dim = member.dim
            source = group[0].dep.target if len(group) else node
            dep = Dependency(trigger=handler, handler=handler, source=source, target=node)
            rows = member.positions[list(units)]
            item = _helpers.GroupItem(dep, [int(p) for p in rows.ravel()])
            item.root_idxs = [int(u) for u in units for _ in range(rows.shape[1])]
            group._group.append(item)
        self.expansions += expansions
        return group

    def class_of(self, module: nn.Module, pruning_fn: Callable) -> PruningClass:
        """The class that a Torch-Pruning function on a module cuts. Raises ``UsageError`` if that is frozen."""
        name = self._module2name[module]
        is_output = self.is_out_channel_pruning_fn(pruning_fn)
        for pruning_class in self.classes:
            for member in pruning_class.coupling.members:
                owner, _, leaf = member.parameter.rpartition(".")
                if owner != name:
                    continue
                side = _SIDES.get((type(module), leaf, member.dim))
                if side is None:
                    side = True
                if side == is_output:
                    return pruning_class
        side_name = "output" if is_output else "input"
        raise UsageError(f"the {side_name} channels of {name} are frozen; `moeverify inspect` says by what")

    def get_pruning_group(self, module: nn.Module, pruning_fn: Callable, idxs: Sequence[int]) -> Group:
        """The group that removes ``idxs`` of a module's channels, and everything that is coupled with them."""
        pruning_class = self.class_of(module, pruning_fn)
        name = self._module2name[module]
        is_output = self.is_out_channel_pruning_fn(pruning_fn)
        for member in pruning_class.coupling.members:
            owner, _, leaf = member.parameter.rpartition(".")
            if owner == name and _SIDES.get((type(module), leaf, member.dim), True) == is_output:
                wanted = torch.as_tensor(list(idxs))
                hit = torch.isin(torch.as_tensor(member.positions), wanted).any(dim=1)
                return self.group_of(pruning_class, hit.nonzero().flatten().tolist())
        raise UsageError(f"no channels of {name} to prune")

    def get_all_groups(  # type: ignore[override]
        self,
        ignored_layers: Sequence[nn.Module] = (),
        root_module_types: Sequence[ops.OPTYPE | type] = (),
        root_instances: Sequence[nn.Module] | None = None,
    ) -> Iterator[Group]:
        """One full group for each class that no ignored layer has among its outputs."""
        for pruning_class in self.classes:
            if not self.is_ignored(pruning_class, ignored_layers):
                yield self.group_of(pruning_class, range(pruning_class.coupling.size))

    def is_ignored(self, pruning_class: PruningClass, ignored_layers: Sequence[nn.Module]) -> bool:
        """Whether a class cuts the outputs of an ignored layer or an ignored parameter."""
        names = {self._module2name[m] for layer in ignored_layers for m in layer.modules()}
        ignored = {self._param_to_name[p] for p in self.ignored_params}
        for member in pruning_class.coupling.members:
            owner, _, leaf = member.parameter.rpartition(".")
            module = self.model.get_submodule(owner)
            is_input = isinstance(module, nn.Linear) and leaf == "weight" and member.dim == 1
            if member.parameter in ignored or (owner in names and not is_input):
                return True
        return False
