"""Request to a pruner: ratios by class, from the arguments of ``tp.pruner.BasePruner`` and ratios by role."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from moeverify.coupling.classify import ROLES, PruningClass
from moeverify.errors import UsageError

if TYPE_CHECKING:
    from moeverify.pruning.graph.graph import MoEDependencyGraph

# Other words that users write for a role.
SPELLINGS = {
    "hidden_size": "hidden",
    "residual": "hidden",
    "embedding": "hidden",
    "expert": "experts",
    "whole_experts": "experts",
    "routed_expert": "routed_experts",
    "moe_experts": "routed_experts",
    "shared_expert": "shared_experts",
    "shared": "shared_experts",
    "dense": "dense_mlp",
    "mlp": "dense_mlp",
    "ffn": "dense_mlp",
    "head": "heads",
    "num_heads": "heads",
    "attention": "heads",
    "attention_heads": "heads",
}
EACH, TOGETHER = "each", "together"
# Whole experts, beside the roles of channels.
EXPERTS = "experts"
ALL_ROLES = (EXPERTS, *ROLES)


class DefaultRatio(float):
    """The pruning ratio of a caller who gives none: 0.5, or 0 beside a ratio for whole experts."""


DEFAULT_RATIO = DefaultRatio(0.5)


def channel_ratio(pruning_ratio: float, ratios: Mapping[str, Any]) -> float:
    """The ratio of channels: a caller who asks for whole experts alone leaves channels alone."""
    asked = any(role_named(role) == EXPERTS and ratio for role, ratio in ratios.items())
    return 0.0 if asked and isinstance(pruning_ratio, DefaultRatio) else pruning_ratio


def role_named(name: str) -> str:
    """The role behind a word. Raises ``UsageError`` for one that is not known."""
    plain = str(name).strip().lower().replace("-", "_").replace(" ", "_")
    role = SPELLINGS.get(plain, plain)
    if role not in ALL_ROLES:
        raise UsageError(f"unknown role {name!r} in ratios; the roles are {', '.join(ALL_ROLES)}")
    return role


def check_ratio(ratio: Any, name: str = "the pruning ratio", *, zero: bool = False) -> float:
    """A ratio strictly between 0 and 1 (or 0, with ``zero``). Raises ``UsageError`` otherwise."""
    number = isinstance(ratio, int | float) and not isinstance(ratio, bool) and math.isfinite(ratio)
    if not number or not (0.0 < ratio < 1.0 or (zero and ratio == 0)):
        allowed = "lie in [0, 1)" if zero else "lie strictly between 0 and 1"
        raise UsageError(f"{name} must {allowed}, not {ratio!r}")
    return float(ratio)


def check_schedule(scheduler: Callable, ratio: float, steps: int) -> list[float]:
    """The ratio after each step, from before the first one. Raises ``UsageError`` for a schedule that is too short."""
    schedule = [float(r) for r in scheduler(ratio, steps)]
    if len(schedule) < steps + 1 or any(not 0 <= r < 1 for r in schedule):
        raise UsageError(
            f"the ratio scheduler must give {steps + 1} ratios in [0, 1) for {steps} steps, not {schedule!r}"
        )
    return schedule


def check_heads(num_heads: Mapping[nn.Module, int], model: nn.Module) -> dict[nn.Module, int]:
    """Head counts by layer of ``model``. Raises ``UsageError`` for one that does not divide the layer's outputs."""
    names = {module: name for name, module in model.named_modules()}
    for layer, count in num_heads.items():
        outputs = getattr(layer, "out_features", None)
        if count < 1 or (outputs is not None and outputs % count):
            raise UsageError(f"{count} heads do not divide the {outputs} outputs of {names.get(layer, 'a layer')}")
    return dict(num_heads)


def modules_of(model: nn.Module, wanted: Iterable[Any]) -> list[nn.Module]:
    """Layers, paths and types of layers as layers. Raises ``UsageError`` for anything else."""
    result: list[nn.Module] = []
    for item in wanted:
        if isinstance(item, nn.Module):
            result.append(item)
        elif isinstance(item, type) and issubclass(item, nn.Module):
            result += [module for module in model.modules() if isinstance(module, item)]
        elif isinstance(item, str):
            try:
                result.append(model.get_submodule(item))
            except AttributeError:
                raise UsageError(f"the model has no module {item!r}") from None
        else:
            raise UsageError(f"{item!r} is neither a module, nor a path, nor a type of modules")
    return result


@dataclass(frozen=True, eq=False)
class UserScope:
    """An entry of ``pruning_ratio_dict``: layers that share a ratio, and are ranked together if ``joint``."""

    name: str
    layers: tuple[nn.Module, ...]
    schedule: Sequence[float]
    joint: bool


@dataclass(frozen=True, eq=False)
class Request:
    """Ratio of each class to remove, and the classes that are ranked together.

    ``schedule`` and ``head_schedule`` hold the ratio after each step. ``heads_named``: whether heads follow
    ``head_schedule`` (Torch-Pruning's arguments) instead of ``schedule``. ``experts`` is the share of whole experts, or
    one by MoE layer.
    """

    schedule: Sequence[float]
    by_role: Mapping[str, Sequence[float]] = field(default_factory=dict)
    scopes: Sequence[UserScope] = ()
    head_schedule: Sequence[float] = ()
    head_schedules: Mapping[nn.Module, Sequence[float]] = field(default_factory=dict)
    heads_named: bool = False
    experts: float | Mapping[str, float] = 0.0
    max_ratio: float = 1.0
    global_pruning: bool = False
    isomorphic: bool = False
    expert_ranking: str | None = None

    def ratio(self, pruning_class: PruningClass, outputs: Iterable[nn.Module], step: int) -> float:
        """The ratio of a class after ``step``: by layer, else by role, else the common one."""
        layers = list(outputs)
        if pruning_class.role == "heads" and "heads" not in self.by_role and self.heads_named:
            named = next((self.head_schedules[m] for m in layers if m in self.head_schedules), self.head_schedule)
            return named[step]
        scope = self.scope(layers)
        if scope is not None:
            return min(scope.schedule[step], self.max_ratio)
        return min(self.by_role.get(pruning_class.role, self.schedule)[step], self.max_ratio)

    def scope(self, outputs: Iterable[nn.Module]) -> UserScope | None:
        """The user's scope that a class with these output layers belongs to."""
        layers = set(outputs)
        return next((scope for scope in self.scopes if not layers.isdisjoint(scope.layers)), None)

    def ranked_with(self, pruning_class: PruningClass, outputs: Iterable[nn.Module], shape: Any, layer: Any) -> Any:
        """A key that classes ranked together share; ``None`` for one that is ranked by itself.

        ``shape`` is the class's structure (for isomorphic ranking), ``layer`` the MoE layer of a routed expert.
        """
        if pruning_class.role == "heads":
            return ("heads",) if self.global_pruning else None
        scope = self.scope(outputs)
        if scope is not None:
            return scope.name if scope.joint else None
        if pruning_class.role == "routed_experts" and self.expert_ranking is not None:
            return ("experts", layer) if self.expert_ranking == TOGETHER else None
        if self.isomorphic:
            return ("isomorphic", shape)
        if not self.global_pruning:
            return None
        # A role with a ratio of its own is ranked apart: one threshold cannot meet two ratios.
        return ("global", pruning_class.role if pruning_class.role in self.by_role else "")


def make_request(
    graph: MoEDependencyGraph,
    *,
    steps: int,
    scheduler: Callable[[float, int], Sequence[float]],
    pruning_ratio: float,
    by_role: Mapping[str, Any],
    by_layer: Mapping[Any, float],
    prune_shared_experts: bool,
    num_heads: Mapping[nn.Module, int],
    prune_num_heads: bool,
    head_ratio: float,
    head_ratios: Mapping[nn.Module, float],
    **ranking: Any,
) -> Request:
    """A request from a pruner's arguments; ``ranking`` goes to ``Request`` as it is.

    A key of ``by_layer`` is a layer (or its path) or a tuple of them. Raises ``UsageError`` for what cannot be meant.
    """

    def schedule(ratio: Any, name: str, zero: bool = True) -> list[float]:
        return check_schedule(scheduler, check_ratio(ratio, name, zero=zero), steps)

    named_roles = {role_named(role): ratio for role, ratio in by_role.items()}
    experts = _expert_ratio(named_roles.pop(EXPERTS, 0.0))
    roles = {role: schedule(ratio, f"the ratio of {role}") for role, ratio in named_roles.items()}
    if not prune_shared_experts:
        if any(roles.get("shared_experts", ())):
            raise UsageError("prune_shared_experts=False, but `ratios` asks for shared experts; drop one of them")
        roles["shared_experts"] = schedule(0.0, "shared experts")
    scopes = []
    for number, (key, ratio) in enumerate(by_layer.items()):
        given = modules_of(graph.model, key if isinstance(key, tuple) else (key,))
        layers = tuple(layer for module in given for layer in module.modules())
        name = ", ".join(graph.name_of(module) for module in given)
        joint = bool(ranking.get("global_pruning"))
        scopes.append(UserScope(f"{number}: {name}", layers, schedule(ratio, f"the ratio of {name}"), joint))
    heads = {
        layer: schedule(ratio if prune_num_heads else 0.0, "head_pruning_ratio_dict")
        for module, ratio in head_ratios.items()
        for layer in module.modules()
    }
    named = bool(num_heads or prune_num_heads or head_ratio or head_ratios)
    return Request(
        schedule=schedule(pruning_ratio, "the pruning ratio", zero=bool(roles or scopes or head_ratio or experts)),
        by_role=roles,
        scopes=scopes,
        head_schedule=schedule(head_ratio if prune_num_heads else 0.0, "head_pruning_ratio"),
        head_schedules=heads,
        heads_named=named,
        experts=experts,
        **ranking,
    )


def _expert_ratio(ratio: Any) -> float | dict[str, float]:
    """The ratio of whole experts, by MoE layer if it is given so."""
    if isinstance(ratio, Mapping):
        return {name: check_ratio(one, f"the ratio of experts of {name}", zero=True) for name, one in ratio.items()}
    return check_ratio(ratio, "the ratio of experts", zero=True)
